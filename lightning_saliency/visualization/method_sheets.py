"""The labeled sheets of a look: one a method, one of all methods, one of the most probable classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from lightning_saliency.attribution import (
    ExplainedSamples,
    HeatmapStage,
    Normalize,
    blank_reasons,
    describe_readings,
    make_heatmaps,
)
from lightning_saliency.visualization.boxes import BOX_LEGEND, Box, make_boxes
from lightning_saliency.visualization.captions import (
    Caption,
    Names,
    class_captions,
    join_notes,
    method_title,
    prediction_captions,
    reason_words,
)
from lightning_saliency.visualization.cells import CELL_SIDE
from lightning_saliency.visualization.colors import signed_to_rgb
from lightning_saliency.visualization.images import Images
from lightning_saliency.visualization.masks import with_classes
from lightning_saliency.visualization.scaling import (
    FINE_NOTE,
    SIGNED_NOTE,
    is_signed,
    own_scale,
    scale_words,
    shown_heatmaps,
    to_common_scale,
)
from lightning_saliency.visualization.sheet import NO_CELL, fit_images, grid
from lightning_saliency.visualization.style import PixelScale, Style, find_pixel_scale, find_sample_names
from lightning_saliency.visualization.views import cut_images, make_views

_CELLS_AREA = 900_000
"""Of all cells of a sheet together, in pixels: the cells of many samples, or of many methods, are smaller."""

_LEAST_CELL_SIDE = 130
"""In pixels, however many cells there are: the words keep so much room in any case, and 64 pixels are doubled."""

_LEAST_SIDE_ALONE = 224
"""The same in a sheet of one method."""

ALL_METHODS = "Overview"
"""The tag of the sheet of all methods, which is sorted before those of single ones."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Column:
    """One heatmap of each sample, in the order of the rows, what stands below it, and why it is blank."""

    heatmaps: Images
    reasons: list[str | None]
    labels: list[Caption] | None = None
    is_fine: bool = False
    is_signed: bool = False


def draw_sheets(
    looked: Sequence[ExplainedSamples],
    style: Style,
    *,
    title: str,
    explained: str,
    dataset: Any = None,
    modules: Sequence[Any] = (),
    pixel_scale: PixelScale | None = None,
) -> dict[str, Tensor]:
    """Draw a sheet of all methods, and where the style wants all cards one of each.

    Args:
        looked: The explained samples: one entry for each size of image. Rows stand in the order of their positions.
        style: How the sheets look.
        title: What stands on top, such as the epoch.
        explained: In words, which class is explained.
        dataset: Where to look for what the style leaves open.
        modules: The data module and the module of the training, where to look next.
        pixel_scale: How the images become colors; by default found as `pixel_scale_of` finds it.

    Returns:
        uint8 pictures `(3, H, W)`: that of all methods under `Overview`, where there are several; one of each
        method by its key, where the style wants all cards or there is one alone; and one of classes under
        `class_maps`, for `top_k` above 1.

    Raises:
        ValueError: There are no samples, or `top_k` is above 1 and `cam` is not among the methods.

    Example:
        >>> from lightning_saliency.attribution import HeatmapStage, explain
        >>> from lightning_saliency.data import SampleBatch
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten(), torch.nn.Linear(8, 5))
        >>> explanation = explain(model, torch.randn(2, 3, 32, 32), methods=["grad_cam", "saliency"])
        >>> samples = SampleBatch(explanation.call, truths=(None, None), positions=(0, 1))
        >>> looked = ExplainedSamples(samples, explanation, HeatmapStage(explanation))
        >>> list(draw_sheets([looked], Style(), title="epoch 1", explained="predicted class"))
        ['Overview']
    """
    if not looked:
        raise ValueError("Expected `looked` to hold at least one entry of explained samples, got none.")
    explanations = [group.explanation for group in looked]
    names = find_sample_names(looked, style, dataset, modules)
    pixel_scale = pixel_scale or pixel_scale_of(looked, style, dataset, modules)
    images = _in_rows(looked, [pixel_scale(group.images) for group in explanations])
    boxes = _in_order(looked, [_boxes(group, names) for group in looked])
    plain_boxes = [[box.without_words() for box in own] for own in boxes]
    captions = _in_order(
        looked, [prediction_captions(group.explanation, group.samples.truths, names) for group in looked]
    )
    channels = dict.fromkeys(pixel_scale.describe_channels(explanation.images) for explanation in explanations)
    fitted = cache(partial(fit_images, images))  # most sheets have cells of the same size

    masks = {**_mask_columns(looked, images), **_value_map_columns(looked)}

    def sheet(
        columns: Mapping[str, _Column], note: str, keys: Iterable[str], scale: tuple[str, str] | None = None
    ) -> Tensor:
        columns = {**masks, **columns}
        read = describe_readings(explanations[0], keys)
        fitting = math.isqrt(_CELLS_AREA // (len(images) * (1 + len(columns))))
        least = _LEAST_CELL_SIDE if len(list(keys)) > 1 else _LEAST_SIDE_ALONE
        drawing = style.drawing(min(CELL_SIDE, max(least, fitting)))
        own = [column for name, column in columns.items() if name not in masks and not column.is_signed]
        fine, heatmaps = [column.is_fine for column in own], [column.heatmaps for column in own]
        views = make_views(images, heatmaps, style.volumes)
        return grid(
            cut_images(images, views) if any(views) else fitted(drawing.cell_side),
            {name: cut_images(column.heatmaps, views) for name, column in columns.items()},
            title=title,
            captions=captions,
            blanks={name: reason_words(column.reasons) for name, column in columns.items()},
            labels={name: column.labels for name, column in columns.items() if column.labels},
            fine=[name for name, column in columns.items() if column.is_fine],
            boxes={"": boxes, **dict.fromkeys(columns, plain_boxes)},
            note=join_notes(
                f"explained: {note}",
                read,
                *channels,
                pixel_scale.note,
                any(boxes) and BOX_LEGEND,
                any(fine) and not all(fine) and FINE_NOTE,
                any(column.is_signed for column in columns.values()) and SIGNED_NOTE,
            ),
            scale=scale_words(style.normalize, fine) if scale is None else scale,
            drawing=drawing,
        )

    columns = {key: _method_column(looked, key, style.normalize) for key in explanations[0].attributions}
    sheets = {}
    by_title = {method_title(key): column for key, column in columns.items()}
    for key in columns:  # last, since they have gaps
        by_title |= _predicted_column(looked, key, style.normalize)
    if len(columns) > 1:
        sheets[ALL_METHODS] = sheet(by_title, explained, columns)
    if len(columns) == 1 or style.cards == "all":
        for key, column in columns.items():
            own = {method_title(key): column, **_predicted_column(looked, key, style.normalize)}
            sheets[key] = sheet(own, explained, [key])
    if style.top_k is not None and style.top_k > 1 and explanations[0].num_classes:
        by_rank = _class_columns(looked, names, style, style.top_k)
        scale = ("0", "the sample's maximum of these classes") if style.normalize == "max" else None
        sheets["class_maps"] = sheet(by_rank, f"the {len(by_rank)} most probable classes", ["cam"], scale)
    return sheets


def pixel_scale_of(
    looked: Sequence[ExplainedSamples], style: Style, dataset: Any = None, modules: Sequence[Any] = ()
) -> PixelScale:
    """Return how the images of explained samples become colors; see `find_pixel_scale`."""
    images = [group.explanation.images for group in looked]
    in_step = [normalization for group in looked for normalization in group.samples.normalizations]
    return find_pixel_scale(images, style, dataset, modules, in_step)


def _method_column(looked: Sequence[ExplainedSamples], key: str, normalize: Normalize) -> _Column:
    """Take a method's maps of all samples; a scale that is shared is shared by samples of all sizes."""
    raw = [group.explanation.attributions[key].cpu() for group in looked]
    is_fine = all(group.explanation.is_fine(key) for group in looked)
    if is_fine and is_signed(raw):
        pictures = _in_rows(looked, [signed_to_rgb(group) for group in raw])
        return _Column(pictures, _in_order(looked, [blank_reasons(group, "minmax") for group in raw]), is_signed=True)
    heatmaps = [group.heatmaps(own_scale(normalize))[key] for group in looked]
    maps = shown_heatmaps(heatmaps, normalize, fine=is_fine)
    reasons = _in_order(looked, [group.reasons for group in heatmaps])
    return _Column(_in_rows(looked, maps), reasons, is_fine=is_fine)


def _predicted_column(looked: Sequence[ExplainedSamples], key: str, normalize: Normalize) -> dict[str, _Column]:
    """Make a column of the maps of the predicted classes, of samples of which another one is explained."""
    explanations = [group.explanation for group in looked]
    if not all(key in one.predicted_attributions for one in explanations):
        return {}
    pairs = [(one.predictions if one.classes is None else one.classes, one.predictions) for one in explanations]
    is_other = _in_order(looked, [torch.ne(*pair).tolist() for pair in pairs])
    if not any(is_other):
        return {}
    of_predicted = [
        replace(group, explanation=one, heatmaps=HeatmapStage(one))
        for group in looked
        for one in [replace(group.explanation, attributions=group.explanation.predicted_attributions)]
    ]
    column = _method_column(of_predicted, key, normalize)
    shown = zip(column.reasons, is_other, strict=True)
    return {
        f"{method_title(key)}, predicted": replace(
            column, reasons=[reason if other else NO_CELL for reason, other in shown]
        )
    }


def _mask_columns(looked: Sequence[ExplainedSamples], images: Images) -> dict[str, _Column]:
    """Make a column of the classes of the pixels, true and predicted, of a segmentation; else none."""
    count = sum(map(len, looked))
    true = [group.samples.pixel_labels or (None,) * len(group) for group in looked]
    predicted = [
        [None] * len(group) if (masks := group.explanation.pixel_classes) is None else list(masks) for group in looked
    ]
    columns = {}
    for title, of_each in (("label", _in_order(looked, true)), ("prediction", _in_order(looked, predicted))):
        if any(classes is not None for classes in of_each):
            pictures = [
                _without_classes(image) if classes is None else with_classes(image, classes.cpu())
                for image, classes in zip(images, of_each, strict=True)
            ]
            columns[title] = _Column(pictures, [None] * count)
    return columns


def _without_classes(image: Tensor) -> Tensor:
    """Return a picture without classes, in the form that those with classes have."""
    return with_classes(image, torch.full(image.shape[1:], -1))


def _value_map_columns(looked: Sequence[ExplainedSamples]) -> dict[str, _Column]:
    """Make a column of the maps that the model itself returns beside its values, each from its least to its largest."""
    maps = [group.explanation.value_maps for group in looked]
    present = [own for own in maps if own is not None]
    if len(present) < len(maps):
        return {}
    heatmaps = [make_heatmaps(own.cpu(), own.shape[2:], "minmax") for own in present]
    reasons = _in_order(looked, [group.reasons for group in heatmaps])
    return {"model's map": _Column(_in_rows(looked, [group.maps for group in heatmaps]), reasons)}


def _class_columns(looked: Sequence[ExplainedSamples], names: Names, style: Style, top_k: int) -> dict[str, _Column]:
    """Make a column for each rank: the CAM of that class of each sample, and the class's name.

    The maps of a sample's classes can be compared: on the scale `max` they are shown on one scale.
    """
    count = min(top_k, looked[0].explanation.num_classes)
    heatmaps, labels = [], []
    for group in looked:
        scores = group.explanation.probabilities
        probabilities, classes = (group.explanation.logits if scores is None else scores).topk(count)
        raw = group.explanation.class_maps(classes).flatten(0, 1)[:, None]  # a sample's classes one after another
        heatmaps.append(make_heatmaps(raw, group.explanation.images.shape[2:], own_scale(style.normalize)))
        ranked = zip(classes.T.tolist(), probabilities.T.tolist(), strict=True)
        as_text = "{:.4g}" if scores is None else "{:.0%}"
        labels.append([class_captions(*rank, _true_classes(group), names, as_text) for rank in ranked])
    maps = [group.maps for group in heatmaps]
    if style.normalize != "minmax":
        peaks = [group.peaks for group in heatmaps]
        largest = [group.view(-1, count).amax(1).repeat_interleave(count) for group in peaks]
        if style.normalize == "shared":
            largest = [torch.cat(largest).amax()] * len(looked)
        maps = [to_common_scale(*group) for group in zip(maps, peaks, largest, strict=True)]
    return {
        f"top {rank + 1}": _Column(
            _in_rows(looked, [group[rank::count].cpu() for group in maps]),
            _in_order(looked, [group.reasons[rank::count] for group in heatmaps]),
            _in_order(looked, [group[rank] for group in labels]),
        )
        for rank in range(count)
    }


def _boxes(group: ExplainedSamples, names: Names) -> list[list[Box]]:
    """Return of each sample the best box of the explained class, and the boxes of the true objects."""
    explanation, size = group.explanation, group.explanation.images.shape[2:]
    boxes: list[list[Box]] = [[] for _ in range(len(group))]
    if explanation.boxes is not None and explanation.classes is not None:
        rows, classes = torch.arange(len(group)), explanation.classes.cpu()
        best, probabilities = explanation.boxes.cpu()[rows, classes], explanation.scores.sigmoid().tolist()
        for own, corners, index, probability in zip(boxes, best.tolist(), classes.tolist(), probabilities, strict=True):
            own += make_boxes([corners], [index], size, names, is_true=False, probabilities=[probability])
    for own, objects in zip(boxes, group.samples.objects, strict=False):
        if objects is not None:
            own += make_boxes(objects.corners.tolist(), objects.classes.tolist(), size, names, is_true=True)
    return boxes


def _true_classes(group: ExplainedSamples) -> list[int | None]:
    return list(group.samples.labels)


def _in_order(looked: Sequence[ExplainedSamples], values: Iterable[Iterable[_T]]) -> list[_T]:
    """Bring what each entry says of its samples into the order of all samples' positions."""
    positions = [position for group in looked for position in group.samples.positions]
    flat = list(chain.from_iterable(values))
    return [flat[index] for index in sorted(range(len(flat)), key=positions.__getitem__)]


def _in_rows(looked: Sequence[ExplainedSamples], batches: Sequence[Tensor]) -> Images:
    """The same for images: of one size, and in order already, they stay one batch."""
    if len(batches) == 1 and list(looked[0].samples.positions) == sorted(looked[0].samples.positions):
        return batches[0]
    return _in_order(looked, batches)
