"""The filmstrip and the animation of what a run has shown, drawn from its record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property, lru_cache
from os import PathLike

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_saliency._checks import check_count, refuse
from lightning_saliency.attribution import METHODS, Heatmaps, Normalize, find_map, make_heatmaps
from lightning_saliency.data import NOTHING, Answer
from lightning_saliency.history import load_record
from lightning_saliency.visualization.boxes import BOX_LEGEND, Box, Boxes, make_boxes
from lightning_saliency.visualization.captions import (
    Caption,
    Names,
    answer_caption,
    join_notes,
    label_captions,
    method_title,
    reason_words,
)
from lightning_saliency.visualization.colors import signed_to_rgb
from lightning_saliency.visualization.encode import encode_gif
from lightning_saliency.visualization.images import Images
from lightning_saliency.visualization.recorded import RecordedLook, RecordedRun
from lightning_saliency.visualization.scaling import (
    SIGNED_NOTE,
    is_signed,
    own_scale,
    scale_words,
    to_common_scale,
    to_percentile,
)
from lightning_saliency.visualization.sheet import fit_image, grid, tiles
from lightning_saliency.visualization.style import Style
from lightning_saliency.visualization.views import Shown, View, Volumes, cut_images, make_views

_CELL_SIDE = 144
_MOST_VALUES = 2**27  # of the maps of looks that are kept in memory
_NOT_EXPLAINED = "not explained"
_NO_BOXES = np.zeros((0, 4), np.float32)
_NEGATIVE = "all negative"  # no reason to be blank where each map is shown from its minimum on


def filmstrip(
    record: RecordedRun | str | PathLike[str],
    method: str,
    *,
    positions: Sequence[int] | None = None,
    max_columns: int = 12,
    style: Style = Style(),
) -> Tensor:
    """Draw what a run has shown as one picture: a row a sample, a column a look, from before training on.

    Below each cell stands the class that the network then predicted, and whether that was right. Of a volume all cells
    of a row show the same slices, through the point where its maps of all looks, taken together, are largest.

    Args:
        record: What `load_record` returned, or a path that it takes: the record's, or the run's.
        method: A key of its attributions, however it is spelled: `"Grad-CAM"`, `"grad_cam@layer3"`.
        positions: Which samples, by their positions; all by default.
        max_columns: At most so many looks, evenly spaced, with the first and the last.
        style: The color map, its weight, how volumes are shown, and the names of the classes where they are not the
            record's. With `Style(normalize="shared")` the maps of a sample have one scale in all epochs, so that one
            that is weak beside the others of its row looks weak; what is stronger before training than in every epoch,
            as that of a random head often is, does not count and has its own.

    Returns:
        `(3, H, W)` uint8.

    Raises:
        ValueError: An argument does not fit, or the record holds no map of this method.
    """
    check_count("max_columns", max_columns)
    film = _open_film(record, method, positions, max_columns, style)
    frames = [film.frame(index) for index in range(len(film.looks))]
    return grid(
        film.shown_images,
        {frame.title: frame.heatmaps for frame in frames},
        title=f"{method_title(film.method)}, {film.titles[0]} to {film.titles[-1]}",
        blanks={frame.title: reason_words(frame.reasons) for frame in frames},
        labels={"": film.labels, **{frame.title: frame.labels for frame in frames}},
        boxes={"": film.objects, **{frame.title: frame.boxes for frame in frames}},
        note=film.note,
        fine=[frame.title for frame in frames] if film.shows_pixels else [],
        scale=film.scale,
        per_row=1,
        drawing=style.drawing(_CELL_SIDE),
    )


def animation(
    record: RecordedRun | str | PathLike[str],
    method: str,
    *,
    positions: Sequence[int] | None = None,
    max_frames: int = 50,
    max_bytes: int = 4_000_000,
    seconds: float = 0.5,
    style: Style = Style(),
) -> bytes:
    """Make an animated GIF of what a run has shown: a frame a look, the samples side by side.

    Args:
        record: What `load_record` returned, or a path that it takes: the record's, or the run's.
        method: A key of its attributions, however it is spelled: `"Grad-CAM"`, `"grad_cam@layer3"`.
        positions: Which samples, by their positions; all by default.
        max_frames: At most so many looks, evenly spaced, with the first and the last.
        max_bytes: The most that the file may take; the frames are made smaller until it does.
        seconds: How long each frame is shown.
        style: As for `filmstrip`.

    Returns:
        The bytes of the GIF.

    Raises:
        ValueError: An argument does not fit, or the record holds no map of this method.
    """
    check_count("max_frames", max_frames)
    film = _open_film(record, method, positions, max_frames, style)
    pages = []
    for index in range(len(film.looks)):
        frame = film.frame(index)
        page = tiles(
            film.shown_images,
            frame.heatmaps,
            title=frame.title,
            labels=frame.labels,
            blanks=reason_words(frame.reasons),
            boxes=frame.boxes,
            note=join_notes(method_title(film.method), film.note),
            progress=index / max(len(film.looks) - 1, 1),
            is_fine=film.shows_pixels,
            scale=film.scale,
            drawing=style.drawing(_CELL_SIDE),
        )
        pages.append(page)
    return encode_gif(pages, seconds=seconds, max_bytes=max_bytes)


@dataclass(frozen=True)
class _Frame:
    """What one look shows of all samples: heatmaps `(1, h, w)`, the predicted classes, boxes, and why it is blank."""

    title: str
    heatmaps: Shown
    labels: Sequence[Caption]
    reasons: Sequence[str | None]
    boxes: Boxes


@dataclass(frozen=True)
class _Film:
    """The looks and the samples that are shown; what a look shows is made when it is asked for."""

    method: str
    normalize: Normalize
    looks: _Looks
    positions: Sequence[int]
    images: Images
    truths: Sequence[Answer | None]
    names: Names
    volumes: Volumes
    sizes: Sequence[Sequence[int]]
    true_boxes: Sequence[tuple[NDArray[np.float32], Sequence[int]]]

    @cached_property
    def views(self) -> list[View | None]:
        """What is shown of each sample, the same in all looks."""
        if self.images[0].dim() != 4:
            return make_views(self.images)
        totals = [torch.zeros(1, *image.shape[1:]) for image in self.images]
        for look in self.looks:
            for total, heatmap in zip(totals, self._heatmaps(look), strict=True):
                total += heatmap
        return make_views(self.images, [totals], self.volumes)

    @cached_property
    def shown_images(self) -> Shown:
        """The images as they are shown."""
        return cut_images(self.images, self.views)

    @property
    def labels(self) -> list[Caption]:
        """What stands below the images."""
        return label_captions(self.truths, self.names)

    @cached_property
    def objects(self) -> list[list[Box]]:
        """The boxes of the true objects."""
        return [
            make_boxes(corners.tolist(), classes, size, self.names, is_true=True)
            for (corners, classes), size in zip(self.true_boxes, self.sizes, strict=True)
        ]

    @property
    def note(self) -> str:
        """What stands at the bottom."""
        last = self.looks[-1]
        return join_notes(
            f"explained: {last.explained}" if last.explained else "",
            f"read at layer {', '.join(last.layers)}" if last.layers and self.reads_layer else "",
            any(self.objects) and BOX_LEGEND,
            self.is_signed and SIGNED_NOTE,
        )

    @cached_property
    def is_signed(self) -> bool:
        """Whether the maps are shown around mid gray."""
        raw = (torch.tensor(own)[None, None] for look in self.looks for own in look.attributions[self.method])
        return self.is_fine and is_signed(raw)

    @property
    def shows_pixels(self) -> bool:
        """Whether there are heatmaps whose single pixels are to be seen."""
        return self.is_fine and not self.is_signed

    @cached_property
    def is_fine(self) -> bool:
        """Whether the maps have a value of their own for each pixel."""
        return all(self.method in look.fine for look in self.looks)

    @property
    def reads_layer(self) -> bool:
        """Whether the maps were read from the target layers."""
        method = METHODS.get(self.method.partition("@")[0])
        return method is not None and method.reads_layer

    @cached_property
    def titles(self) -> list[str]:
        """When each look was; with the step where an epoch is there more than once."""
        titles = ["initial" if look.epoch is None else f"epoch {look.epoch}" for look in self.looks]
        if len(set(titles)) == len(titles):
            return titles
        return [f"{title} · step {look.step}" for title, look in zip(titles, self.looks, strict=True)]

    @cached_property
    def largest(self) -> Tensor:
        """The raw value of each sample that is 1 on the scale that all looks share, `(N,)`."""
        largest = dict.fromkeys(self.positions, 0.0)
        sizes = {position: image.shape[1:] for position, image in zip(self.positions, self.images, strict=True)}
        trained = [look for look in self.looks if look.epoch is not None]
        for look in trained or self.looks:  # random weights may give values of any size
            for position, raw in zip(look.positions, look.attributions[self.method], strict=True):
                if position in largest and np.isfinite(raw).all():  # at the cell's size, which a percentile depends on
                    peak = float(self._scaled(raw, sizes[position], "max").peaks)
                    largest[position] = max(largest[position], peak)
        return torch.tensor(list(largest.values()))

    @property
    def scale(self) -> tuple[str, str]:
        """What stands at the ends of the color scale."""
        return scale_words(self.normalize, [self.is_fine], "the sample's {} of all epochs")

    def frame(self, index: int) -> _Frame:
        """Make what a look shows, in the order of the samples."""
        look = self.looks[index]
        rows = {position: row for row, position in enumerate(look.positions)}
        labels, blanks = [], []
        boxes = [[box.without_words() for box in own] for own in self.objects]
        for place, position in enumerate(self.positions):
            if position in rows:
                row = rows[position]
                reason = look.reasons[self.method][row]
                nothing = NOTHING.get(look.task, "none")
                labels.append(answer_caption(self.truths[place], look.predictions[row], self.names, nothing))
                boxes[place] = [*self._detected(look, row, place), *boxes[place]]
                shows_negative = self.is_signed or self.normalize == "minmax"
                blanks.append(None if reason == _NEGATIVE and shows_negative else reason)
            else:
                labels.append(Caption(""))
                blanks.append(_NOT_EXPLAINED)
        return _Frame(self.titles[index], cut_images(self._heatmaps(look), self.views), labels, blanks, boxes)

    def _detected(self, look: RecordedLook, row: int, place: int) -> list[Box]:
        """Return the box of the explained class in a sample, if there is one."""
        if not look.boxes or look.classes[row] not in look.box_classes[row]:
            return []
        own = look.box_classes[row].index(look.classes[row])
        corners = look.boxes[row][own : own + 1].tolist()
        boxes = make_boxes(corners, look.box_classes[row][own : own + 1], self.sizes[place], self.names, is_true=False)
        return [box.without_words() for box in boxes]

    def _heatmaps(self, look: RecordedLook) -> list[Tensor]:
        """Return what is shown of each sample's map, nothing for those that were not explained."""
        maps = dict(zip(look.positions, look.attributions[self.method], strict=True))
        return [
            self._heatmap(maps.get(position, np.zeros(self.images[place].shape[1:], np.float32)), place)
            for place, position in enumerate(self.positions)
        ]

    def _heatmap(self, raw: NDArray[np.float32], place: int) -> Tensor:
        if self.is_signed:
            return signed_to_rgb(torch.tensor(raw)[None, None])[0]
        heatmaps = self._scaled(raw, self.images[place].shape[1:], own_scale(self.normalize))
        if self.normalize != "shared":
            return heatmaps.maps[0]
        return to_common_scale(heatmaps.maps, heatmaps.peaks, self.largest[place].clamp(min=heatmaps.peaks))[0]

    def _scaled(self, raw: NDArray[np.float32], size: Sequence[int], normalize: Normalize) -> Heatmaps:
        """Return a map on a scale of its own."""
        heatmaps = make_heatmaps(torch.tensor(raw)[None, None], size, normalize)
        if not self.is_fine:
            return heatmaps
        return Heatmaps(*to_percentile(heatmaps.maps, heatmaps.peaks), heatmaps.reasons)


def _open_film(
    record: RecordedRun | str | PathLike[str],
    method: str,
    positions: Sequence[int] | None,
    most: int,
    style: Style,
) -> _Film:
    """Read evenly spaced looks, and the samples that are asked for."""
    run = load_record(record) if isinstance(record, str | PathLike) else record
    looks = _Looks(run, _spaced(len(run), most))
    samples = run.samples
    known = {key: None for look in looks for key in look.attributions}
    if samples is None or not known:
        refuse("record", "one of a run that has shown something", "none yet")
    method = find_map(method, known, expected="one that the record holds,")
    shown = looks.of(method)
    selected = samples.positions if positions is None else tuple(positions)
    if not selected or not set(selected) <= set(samples.positions):
        raise ValueError(
            f"Expected `positions` out of the record's samples, {list(samples.positions)}, got {list(selected)}."
        )
    rows = [samples.positions.index(position) for position in selected]
    recorded = [torch.tensor(samples.images[row]) for row in rows]
    images = [
        fit_image(image, _CELL_SIDE) if view is None else image
        for image, view in zip(recorded, make_views(recorded), strict=True)
    ]
    labels = [samples.labels[row] for row in rows]
    names = Names(style.class_names or samples.class_names)
    boxes = [(samples.boxes[row], samples.box_classes[row]) if samples.boxes else (_NO_BOXES, ()) for row in rows]
    sizes = [image.shape[1:] for image in recorded]
    return _Film(method, style.normalize, shown, selected, images, labels, names, style.volumes, sizes, boxes)


class _Looks:
    """Some looks of a record, of which as many are kept in memory as it can be expected to hold."""

    def __init__(self, record: RecordedRun, indices: Sequence[int]) -> None:
        self._indices = indices
        last = record[indices[-1]].attributions.values() if indices else ()
        size = sum(raw.size for maps in last for raw in maps)
        self._read = lru_cache(maxsize=max(1, _MOST_VALUES // max(size, 1)))(record.__getitem__)

    def of(self, method: str) -> _Looks:
        """Return the looks that have maps of a method."""
        looks = copy(self)
        pairs = zip(self._indices, self, strict=True)
        looks._indices = [index for index, look in pairs if method in look.attributions]
        return looks

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> RecordedLook:
        return self._read(self._indices[index])

    def __iter__(self) -> Iterator[RecordedLook]:
        return map(self._read, self._indices)


def _spaced(count: int, most: int) -> list[int]:
    """Return all of so many indices, or evenly spaced ones with the first and the last."""
    if count <= most:
        return list(range(count))
    return [round(step * (count - 1) / max(most - 1, 1)) for step in range(most)] if most > 1 else [count - 1]
