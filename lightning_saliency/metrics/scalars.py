"""The scalars of a look: each metric of the table, over the images, for each method's maps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lightning_saliency._checks import check_choice
from lightning_saliency.attribution import ExplainedSamples
from lightning_saliency.data import boxes_to_masks, masks_to_boxes
from lightning_saliency.metrics.similarity import coarse, ranks
from lightning_saliency.metrics.table import METRICS


@dataclass(frozen=True, eq=False)
class CoarseHeatmaps:
    """What is remembered of the heatmaps of samples of one size, to measure later how far they have moved.

    Attributes:
        positions: The samples' places among all samples that are looked at.
        maps: By method the heatmaps, averaged down to at most 32 pixels a side: `(n, 1, h, w)` float32 on the CPU.
        ranks: By method the rank of each pixel in its map, `(n, P)`: sorted once, compared several times.
    """

    positions: tuple[int, ...]
    maps: Mapping[str, Tensor]
    ranks: Mapping[str, Tensor]

    @classmethod
    def from_maps(cls, positions: Sequence[int], maps: Mapping[str, Tensor]) -> CoarseHeatmaps:
        """Rank the pixels of coarse maps."""
        return cls(tuple(positions), maps, {method: ranks(values) for method, values in maps.items()})

    @classmethod
    def from_samples(cls, samples: ExplainedSamples) -> CoarseHeatmaps:
        """Average the heatmaps of explained samples down."""
        heatmaps = samples.heatmaps("max").items()
        return cls.from_maps(samples.samples.positions, {method: coarse(made.maps) for method, made in heatmaps})

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> CoarseHeatmaps:
        """Return what `state_dict` was called of."""
        return cls.from_maps(state["positions"].tolist(), {key: maps.float() for key, maps in state["maps"].items()})

    def state_dict(self, limit: int | None = None) -> dict[str, Any]:
        """Return tensors for a checkpoint, the maps in half precision.

        Args:
            limit: Leave out the samples at this place and those after it.
        """
        rows = [row for row, position in enumerate(self.positions) if limit is None or position < limit]
        maps = {method: maps[rows].half() for method, maps in self.maps.items()}
        return {"positions": torch.tensor([self.positions[row] for row in rows]), "maps": maps}


def measure(
    samples: Sequence[ExplainedSamples],
    look: Sequence[CoarseHeatmaps],
    *,
    previous: Sequence[CoarseHeatmaps] = (),
    initial: Sequence[CoarseHeatmaps] = (),
    measured: Iterable[Mapping[str, Mapping[str, Tensor]]] = (),
    wants: Callable[[str, str], bool] = lambda method, name: True,
) -> dict[str, float]:
    """Return the scalars of a look: of each method's maps each metric of `METRICS` whose inputs there are.

    A scalar is the mean over the images that have a value: a blank map has no entropy, an image without an object no
    box. Where none has, it is the metric's `worst`, and never NaN, which would end a training that monitors it.

    Args:
        samples: The explained samples, those of each size apart.
        look: Of each of these `CoarseHeatmaps.from_samples`, to be kept for the next look.
        previous: What is remembered of the last look.
        initial: What is remembered of the initial network's look.
        measured: Values per image of metrics that take running the model, `(N,)` by method and metric, as
            `measure_faithfulness` returns them; several, such as one for each size, are joined.
        wants: Whether a metric of a method's maps is measured, by their names; by default all are.

    Returns:
        By `<method>/<metric>`.

    Raises:
        ValueError: `measured` has a metric that is not in the table, or is one that is measured here.

    Example:
        >>> from lightning_saliency.attribution import ExplainedSamples, HeatmapStage, explain
        >>> from lightning_saliency.data import SampleBatch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> explanation = explain(model, torch.randn(2, 3, 32, 32))
        >>> samples = SampleBatch(explanation.call, truths=(None, None), positions=(0, 1))
        >>> samples = [ExplainedSamples(samples, explanation, HeatmapStage(explanation))]
        >>> list(measure(samples, [CoarseHeatmaps.from_samples(group) for group in samples]))[:2]
        ['grad_cam/entropy', 'grad_cam/area_above_half']
    """
    values: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
    for group, heatmaps in zip(samples, look, strict=True):
        objects = _objects(group)
        for method in heatmaps.maps:
            inputs = _inputs_of_maps(group, heatmaps, method) | objects
            inputs |= _earlier("previous", previous, heatmaps, method)
            inputs |= _earlier("initial", initial, heatmaps, method)
            for name, metric in METRICS.items():
                if wants(method, name) and (given := _read(inputs, metric.inputs)):
                    values[method, name].append(metric.function(*given))
    for method, name, of_images in _flat(measured):
        values[method, name].append(of_images.cpu())
    return {f"{method}/{name}": METRICS[name].over_images(torch.cat(parts)) for (method, name), parts in values.items()}


@dataclass(frozen=True, eq=False)
class _Input:
    """Something of each image, made when it is read, and which images it is known of, `(N,)` bool; None for all."""

    make: Callable[[], Tensor]
    known: Tensor | None = None


def _read(inputs: Mapping[str, _Input], names: Sequence[str]) -> list[Tensor]:
    """These inputs, of the images of which all of them are known; nothing where there is no such image."""
    if not all(name in inputs for name in names):
        return []
    chosen = [inputs[name] for name in names]
    masks = [one.known for one in chosen if one.known is not None]
    if not masks or torch.stack(masks).all():
        return [one.make() for one in chosen]
    known = torch.stack(masks).all(0)
    return [one.make()[known] for one in chosen] if known.any() else []


def _inputs_of_maps(samples: ExplainedSamples, look: CoarseHeatmaps, method: str) -> dict[str, _Input]:
    maps, ranked = look.maps[method], look.ranks[method]
    inputs = {
        "attributions": _Input(cache(samples.explanation.attributions[method].cpu)),
        "heatmaps": _Input(cache(samples.heatmaps("max")[method].maps.cpu)),
        "coarse_heatmaps": _Input(lambda: maps),
        "ranks": _Input(lambda: ranked),
    }
    for name, values in samples.explanation.notes.items():
        if name.startswith(f"{method}/"):
            inputs.setdefault(name.removeprefix(f"{method}/"), _Input(values.cpu))
    others = [values for key, values in look.ranks.items() if key != method]
    if others:
        inputs["other_methods_ranks"] = _Input(lambda: torch.stack(others, dim=1))
    return inputs


def _objects(samples: ExplainedSamples) -> dict[str, _Input]:
    masks = _boxed(samples) if samples.samples.masks is None else samples.samples.masks
    if masks is None or not masks.any():
        return {}
    present = masks.flatten(1).any(1)
    inputs = {"masks": _Input(lambda: masks, present)}
    if masks.dim() == 4:  # else they are of volumes or signals, which have no boxes
        boxes = masks_to_boxes(masks)
        inputs["boxes"] = _Input(lambda: boxes, present)
    return inputs


def _boxed(samples: ExplainedSamples) -> Tensor | None:
    """The pixels of the true boxes of the explained class, `(N, 1, H, W)` bool; None where no boxes are known."""
    objects, classes = samples.samples.objects, samples.explanation.classes
    if classes is None or not any(objects):
        return None
    pairs = zip(objects, classes.tolist(), strict=True)
    boxes = [torch.zeros(0, 4) if own is None else own.of_class(index) for own, index in pairs]
    return boxes_to_masks(boxes, samples.explanation.images.shape[2:])


def _earlier(name: str, earlier: Sequence[CoarseHeatmaps], look: CoarseHeatmaps, method: str) -> dict[str, _Input]:
    """The maps of an earlier look, of the images that it had in the same size."""
    maps, ranked = (torch.full_like(values[method], torch.nan) for values in (look.maps, look.ranks))
    known = torch.zeros(len(look.positions), dtype=torch.bool)
    for then in earlier:
        row_of = {position: row for row, position in enumerate(then.positions)}
        common = [row for row, position in enumerate(look.positions) if position in row_of]
        if method in then.maps and then.maps[method].shape[1:] == maps.shape[1:]:
            rows = [row_of[look.positions[row]] for row in common]
            known[common], maps[common], ranked[common] = True, then.maps[method][rows], then.ranks[method][rows]
    if not known.any():
        return {}
    return {f"{name}_heatmaps": _Input(lambda: maps, known), f"{name}_ranks": _Input(lambda: ranked, known)}


def _flat(measured: Iterable[Mapping[str, Mapping[str, Tensor]]]) -> Iterator[tuple[str, str, Tensor]]:
    allowed = [name for name, metric in METRICS.items() if not metric.inputs]
    for by_method in measured:
        for method, by_metric in by_method.items():
            for name, values in by_metric.items():
                yield method, check_choice("measured", name, allowed), values
