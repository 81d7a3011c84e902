"""A run's record -> its filmstrip and its animation, one a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from lightning_saliency.attribution import Normalize, blank_reasons, to_heatmaps
from lightning_saliency.checks import check_choice, check_count
from lightning_saliency.pictures import Names, method_title
from lightning_saliency.record import Moment, Record, RecordedSamples
from lightning_saliency.render import Caption, gif, grid, tiles
from lightning_saliency.targets import predicted_classes

_CELL_SIDE = 144
_NOT_SEEN = "not seen"


def filmstrip(
    record: Record,
    method: str,
    *,
    rows: Sequence[int] | None = None,
    max_columns: int = 12,
    normalize: Normalize = "shared",
    colormap: str = "turbo",
    alpha: float = 0.5,
) -> Tensor:
    """Draw what a run has seen as one picture: a row a sample, a column a moment, the untrained network first.

    Below each cell stands the class that the network then predicted, and whether that was right.

    Args:
        record: What `load_record` returned.
        method: A key of its attributions.
        rows: Which samples, by their places; all by default.
        max_columns: At most so many moments, evenly spaced, with the first and the last.
        normalize: `"shared"`: one scale for each row, so that a map that is weak beside the others of its sample looks
            weak; `"max"` and `"minmax"`: each map on its own.
        colormap: Any matplotlib colour map.
        alpha: Weight of the colour, in [0, 1].

    Returns:
        `(3, H, W)` uint8.

    Raises:
        ValueError: An argument does not fit, or the record holds no map of this method.

    Example:
        >>> from lightning_saliency.record import RecordWriter
        >>> writer = RecordWriter(getfixture("tmp_path") / "saliency.record")
        >>> writer.write_samples(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), [4, 7], rows=[0, 1], class_names=None)
        >>> for epoch in range(3):
        ...     maps = {"grad_cam": torch.rand(2, 1, 8, 8)}
        ...     writer.write(Moment(epoch, 25 * epoch, [0, 1], maps, logits=torch.randn(2, 10)))
        >>> filmstrip(writer.record, "grad_cam").shape
        torch.Size([3, 438, 603])
    """
    check_count("max_columns", max_columns)
    samples, frames = _frames(record, method, rows, max_columns, normalize)
    heads = _heads([frame.moment for frame in frames])
    return grid(
        samples.images,
        {head: frame.heatmaps for head, frame in zip(heads, frames, strict=True)},
        title=f"{method_title(method)}, {heads[0]} to {heads[-1]}",
        blanks={head: frame.blanks for head, frame in zip(heads, frames, strict=True)},
        labels={"": _true(samples), **{head: frame.labels for head, frame in zip(heads, frames, strict=True)}},
        note=_note(frames[-1].moment, normalize),
        cell_side=_CELL_SIDE,
        colormap=colormap,
        alpha=alpha,
    )


def animation(
    record: Record,
    method: str,
    *,
    rows: Sequence[int] | None = None,
    max_frames: int = 50,
    max_bytes: int = 4_000_000,
    seconds: float = 0.5,
    normalize: Normalize = "shared",
    colormap: str = "turbo",
    alpha: float = 0.5,
) -> bytes:
    """Make an animated GIF of what a run has seen: a frame a moment, the samples side by side.

    Args:
        record: What `load_record` returned.
        method: A key of its attributions.
        rows: Which samples, by their places; all by default.
        max_frames: At most so many moments, evenly spaced, with the first and the last.
        max_bytes: The most that the file may take; the frames are made smaller until it does.
        seconds: How long each frame stands.
        normalize: As for `filmstrip`.
        colormap: Any matplotlib colour map.
        alpha: Weight of the colour, in [0, 1].

    Returns:
        The bytes of the GIF.

    Raises:
        ValueError: An argument does not fit, or the record holds no map of this method.
    """
    check_count("max_frames", max_frames)
    samples, frames = _frames(record, method, rows, max_frames, normalize)
    heads = _heads([frame.moment for frame in frames])
    pages = [
        tiles(
            samples.images,
            frame.heatmaps,
            title=head,
            labels=frame.labels,
            blanks=frame.blanks,
            note=f"{method_title(method)} · {_note(frames[-1].moment, normalize)}",
            progress=at / max(len(frames) - 1, 1),
            cell_side=_CELL_SIDE,
            colormap=colormap,
            alpha=alpha,
        )
        for at, (head, frame) in enumerate(zip(heads, frames, strict=True))
    ]
    return gif(pages, seconds=seconds, max_bytes=max_bytes)


@dataclass(frozen=True)
class _Frame:
    """What one moment shows of all samples.

    Attributes:
        moment: When it was.
        heatmaps: `(N, 1, H, W)`.
        peaks: How strong each raw map is, `(N,)`.
        labels: The predicted classes.
        blanks: For each the reason why there is nothing to show, or None.
    """

    moment: Moment
    heatmaps: Tensor
    peaks: Tensor
    labels: list[Caption]
    blanks: list[str | None]


def _frames(
    record: Record, method: str, rows: Sequence[int] | None, most: int, normalize: Normalize
) -> tuple[RecordedSamples, list[_Frame]]:
    """The samples, and what is shown of them at evenly spaced moments."""
    check_choice("normalize", normalize, get_args(Normalize))
    moments = [record[at] for at in _spaced(len(record), most)]
    seen = [moment for moment in moments if method in moment.attributions]
    samples = record.samples
    if samples is None or not seen:
        known = sorted({key for moment in moments for key in moment.attributions})
        raise ValueError(
            f"Expected `method` to be one that the record holds, {', '.join(known) or 'none yet'}, got {method!r}."
        )
    if rows is not None:
        samples = _chosen(samples, rows)
    own_scale: Normalize = "max" if normalize == "shared" else normalize
    frames = [_frame(moment, moment.attributions[method], samples, own_scale) for moment in seen]
    if normalize == "shared":
        highest = torch.stack([frame.peaks for frame in frames]).amax(0)
        for frame in frames:
            frame.heatmaps.mul_(torch.where(highest > 0, frame.peaks / highest, 0.0)[:, None, None, None])
    return samples, frames


def _frame(moment: Moment, attributions: Tensor, samples: RecordedSamples, normalize: Normalize) -> _Frame:
    """A moment in the order of the samples; those that it did not see are blank."""
    names, size, count = Names(samples.class_names), samples.images.shape[2:], len(samples)
    seen = [at for at, row in enumerate(moment.rows) if row in samples.rows]
    places = [samples.rows.index(moment.rows[at]) for at in seen]
    attributions = attributions[seen]
    heatmaps, peaks = torch.zeros(count, 1, *size), torch.zeros(count)
    heatmaps[places] = to_heatmaps(attributions, size, normalize)
    peaks[places] = attributions.flatten(1).amax(1).relu().nan_to_num(0.0)
    labels, blanks = [Caption("")] * count, list[str | None]([_NOT_SEEN] * count)
    predictions = predicted_classes(moment.logits)[seen].tolist()
    for place, predicted, reason in zip(places, predictions, blank_reasons(attributions, normalize), strict=True):
        true = samples.labels[place]
        labels[place] = Caption(names[predicted], None if true is None else predicted == true)
        blanks[place] = reason
    return _Frame(moment, heatmaps, peaks, labels, blanks)


def _chosen(samples: RecordedSamples, rows: Sequence[int]) -> RecordedSamples:
    missing = [row for row in rows if row not in samples.rows]
    if missing or not rows:
        raise ValueError(f"Expected `rows` out of the record's samples, {samples.rows}, got {list(rows)}.")
    places = [samples.rows.index(row) for row in rows]
    return RecordedSamples(
        list(rows), samples.images[places], [samples.labels[place] for place in places], samples.class_names
    )


def _true(samples: RecordedSamples) -> list[Caption]:
    """The true classes, where they are known."""
    names = Names(samples.class_names)
    return [Caption("" if label is None else f"true {names[label]}") for label in samples.labels]


def _note(last: Moment, normalize: Normalize) -> str:
    parts = (
        f"explained: {last.explained}" if last.explained else "",
        f"layer: {', '.join(last.layers)}" if last.layers else "",
        "one scale a sample" if normalize == "shared" else "",
    )
    return " · ".join(part for part in parts if part)


def _spaced(count: int, most: int) -> list[int]:
    """All of so many, or evenly spaced ones with the first and the last."""
    if count <= most:
        return list(range(count))
    return [round(at * (count - 1) / max(most - 1, 1)) for at in range(most)] if most > 1 else [count - 1]


def _heads(moments: Sequence[Moment]) -> list[str]:
    """When each was; with the step where an epoch is there more than once."""
    heads = ["untrained" if moment.epoch is None else f"epoch {moment.epoch}" for moment in moments]
    if len(set(heads)) == len(heads):
        return heads
    return [f"{head} · step {moment.step}" for head, moment in zip(heads, moments, strict=True)]
