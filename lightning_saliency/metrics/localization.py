"""Whether heatmaps mark the object: by the object's pixels, and by the box around what the heatmap marks.

The former are of images, volumes and signals; boxes are of images only.
Boxes are torchvision's (x1, y1, x2, y2) in pixels, where x2 and y2 are the first column and row outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from lightning_saliency._checks import check_bool, check_each, check_number, check_shape
from lightning_saliency.metrics._maps import at_least_float32, checked_maps
from lightning_saliency.metrics.metric import Metric

THRESHOLDS = tuple(step / 20 for step in range(1, 20))
_EIGHT_NEIGHBORS = np.ones((3, 3), dtype=int)


def pointing_game(heatmaps: Tensor, masks: Tensor) -> Tensor:
    """Return whether each heatmap's maximum lies on the object (Zhang et al. 2016, "Top-down Neural Attention").

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.
        masks: `(N, 1, H, W)` bool, the object's pixels; see `boxes_to_masks`.

    Returns:
        `(N,)` bool, True is better; a blank map points nowhere.

    Raises:
        ValueError: The heatmaps are not `(N, 1, H, W)`, or negative, or the masks are not bool of their shape.

    Example:
        >>> heatmap = torch.tensor([[[[0.1, 0.9]]]])
        >>> pointing_game(heatmap, torch.tensor([[[[False, True]]]]))
        tensor([True])
    """
    values = checked_maps(heatmaps).flatten(1)
    _check_masks(masks, heatmaps)
    maxima, pixels = values.max(1)
    return masks.flatten(1).gather(1, pixels[:, None])[:, 0] & (maxima > 0)


def energy_inside(heatmaps: Tensor, masks: Tensor) -> Tensor:
    """Return the fraction of each heatmap's sum that lies on the object.

    The energy-based pointing game of Wang et al. 2020, "Score-CAM".

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.
        masks: `(N, 1, H, W)` bool, the object's pixels; see `boxes_to_masks`.

    Returns:
        `(N,)` in [0, 1], higher is better; NaN for a blank map.

    Raises:
        ValueError: The heatmaps are not `(N, 1, H, W)`, or negative, or the masks are not bool of their shape.

    Example:
        >>> energy_inside(torch.tensor([[[[0.5, 1.5]]]]), torch.tensor([[[[False, True]]]]))
        tensor([0.7500])
    """
    values = checked_maps(heatmaps).flatten(1)
    _check_masks(masks, heatmaps)
    return (values * masks.flatten(1)).sum(1) / values.sum(1)


def heatmaps_to_boxes(heatmaps: Tensor, threshold: float = 0.2) -> tuple[Tensor, Tensor]:
    """Return the box around what each heatmap marks: around the largest connected region above a threshold.

    Zhou et al. 2016, section 3.2: "We first segment the regions of which the value is above 20% of the max value of the
    CAM. Then we take the bounding box that covers the largest connected component in the segmentation map."

    Args:
        heatmaps: `(N, 1, H, W)`, not negative; neighbors are connected over edges and corners.
        threshold: The fraction of each map's maximum that a pixel must exceed, in [0, 1).

    Returns:
        Boxes `(N, 4)` float32 in torchvision's form (x1, y1, x2, y2), where x2 and y2 are the first column and row
        outside; and whether there is one, `(N,)` bool: a blank map, without any positive value, gives zeros.

    Raises:
        ValueError: The heatmaps are not `(N, 1, H, W)`, or the threshold is out of range.

    Example:
        >>> heatmap = torch.zeros(1, 1, 6, 8)
        >>> heatmap[..., 1:4, 2:7] = 1.0
        >>> heatmaps_to_boxes(heatmap)
        (tensor([[2., 1., 7., 4.]]), tensor([True]))
    """
    check_shape("heatmaps", heatmaps, ("N", 1, "H", "W"))
    boxes, exist = _boxes_of(heatmaps, [check_number("threshold", threshold, "[0, 1)")])
    return boxes[:, 0], exist


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union of two boxes, row by row.

    Higher is better. `torchvision.ops.box_iou` compares each row with each.

    Args:
        boxes: `(N, 4)`.
        others: `(N, 4)`.

    Returns:
        `(N,)` in [0, 1]; 0 where both are empty.

    Raises:
        ValueError: They are not `(N, 4)`, both.

    Example:
        >>> box_iou(torch.tensor([[0, 0, 4, 2]]), torch.tensor([[2, 0, 6, 2]]))
        tensor([0.3333])
    """
    check_shape("boxes", boxes, ("N", 4))
    check_shape("others", others, (len(boxes), 4), "as `boxes`")
    return _iou(boxes, others)


def box_overlap(heatmaps: Tensor, boxes: Tensor, threshold: float | Sequence[float] = 0.2) -> Tensor:
    """Return the intersection over union of the box around what each heatmap marks and the object's box.

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.
        boxes: `(N, 4)`, each image's true box.
        threshold: The fraction of each map's maximum that the box is drawn around, in [0, 1), or T of them.

    Returns:
        `(N,)`, or `(N, T)` for T thresholds, in [0, 1], higher is better; 0 for a blank map.

    Raises:
        ValueError: The heatmaps are not `(N, 1, H, W)`, or the boxes not `(N, 4)`, or a threshold is out of range.

    Example:
        >>> box_overlap(torch.tensor([[[[0.1, 0.9, 0.6, 0.0]]]]), torch.tensor([[1, 0, 3, 1]]), [0.2, 0.8])
        tensor([[1.0000, 0.5000]])
    """
    check_shape("heatmaps", heatmaps, ("N", 1, "H", "W"))
    check_shape("boxes", boxes, (len(heatmaps), 4), "as many as `heatmaps`")
    if isinstance(threshold, Iterable):
        drawn, _ = _boxes_of(heatmaps, _parse_thresholds("thresholds", threshold))
        return _iou(drawn, boxes[:, None])
    return _iou(heatmaps_to_boxes(heatmaps, threshold)[0], boxes)


def box_accuracy(heatmaps: Tensor, boxes: Tensor, threshold: float = 0.2, iou: float = 0.5) -> Tensor:
    """Return whether the box around what each heatmap marks is the object's, by their intersection over union.

    The localization of Zhou et al. 2016, section 3.2, as in ILSVRC: the box of `heatmaps_to_boxes` overlaps the true
    one by an IoU of 0.5 or more.

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.
        boxes: `(N, 4)`, each image's true box.
        threshold: The fraction of each map's maximum that the box is drawn around, in [0, 1).
        iou: The overlap that counts, in (0, 1].

    Returns:
        `(N,)` bool, True is better; a blank map has no box, and an empty box is never found.

    Raises:
        ValueError: The heatmaps are not `(N, 1, H, W)`, or the boxes not `(N, 4)`, or an option is out of range.

    Example:
        >>> heatmap = torch.tensor([[[[0.1, 0.9, 0.6, 0.0]]]])
        >>> box_accuracy(heatmap, torch.tensor([[1, 0, 4, 1]]))
        tensor([True])
    """
    return box_overlap(heatmaps, boxes, threshold) >= check_number("iou", iou, "(0, 1]")


def box_hits(heatmaps: Tensor, boxes: Tensor, thresholds: Sequence[float] = THRESHOLDS, iou: float = 0.5) -> Tensor:
    """Return `box_accuracy` at each of several thresholds, of which `max_box_accuracy` takes the best.

    Choe et al. 2020, "Evaluating Weakly Supervised Object Localization Methods Right": IoU(box(s, τ), B) ≥ δ.

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.
        boxes: `(N, 4)`, each image's true box.
        thresholds: τ, T fractions of each map's maximum, in [0, 1).
        iou: δ, the overlap that counts, in (0, 1].

    Returns:
        `(N, T)` bool, True is better.

    Raises:
        ValueError: The heatmaps are not `(N, 1, H, W)`, or the boxes not `(N, 4)`, or an option is out of range.

    Example:
        >>> heatmap = torch.tensor([[[[0.1, 0.9, 0.6, 0.0]]]])
        >>> box_hits(heatmap, torch.tensor([[1, 0, 3, 1]]), thresholds=(0.2, 0.8), iou=0.7)
        tensor([[ True, False]])
    """
    fractions = _parse_thresholds("thresholds", thresholds)
    return box_overlap(heatmaps, boxes, fractions) >= check_number("iou", iou, "(0, 1]")


def max_box_accuracy(
    heatmaps: Tensor, boxes: Tensor, thresholds: Sequence[float] = THRESHOLDS, iou: float = 0.5
) -> Tensor:
    """Return the fraction of the objects that are localized at the best threshold, which is one for all images.

    MaxBoxAcc(δ) = max over τ of the mean over the images of [IoU(box(s, τ), B) ≥ δ], Choe et al. 2020, "Evaluating
    Weakly Supervised Object Localization Methods Right": which threshold suits a method says nothing about
    where it looks, so that each is given its best. Higher is better.

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.
        boxes: `(N, 4)`, each image's true box.
        thresholds: τ, fractions of each map's maximum, in [0, 1).
        iou: δ, the overlap that counts, in (0, 1].

    Returns:
        A scalar in [0, 1]; NaN for no images. Over several batches: `MaxBoxAccuracy`, as the best threshold is that of
        all of them.

    Raises:
        ValueError: The heatmaps are not `(N, 1, H, W)`, or the boxes not `(N, 4)`, or an option is out of range.

    Example:
        >>> heatmaps = torch.tensor([[[[0.1, 0.9, 0.6, 0.0]]], [[[1.0, 0.3, 0.0, 0.0]]]])
        >>> max_box_accuracy(heatmaps, torch.tensor([[1, 0, 2, 1], [0, 0, 1, 1]]), thresholds=(0.2, 0.5, 0.8), iou=0.7)
        tensor(1.)
    """
    return box_hits(heatmaps, boxes, thresholds, iou).float().mean(0).max()


def _check_masks(masks: Tensor, heatmaps: Tensor) -> None:
    check_shape("masks", masks, tuple(heatmaps.shape), "as `heatmaps`")
    check_bool("masks", masks, hint="For boxes: `boxes_to_masks(boxes, (H, W))`.")


def _parse_thresholds(name: str, thresholds: Any) -> tuple[float, ...]:
    """Refuse no thresholds, of which none is the best, and those that no pixel or any exceeds."""
    return check_each(name, thresholds, _check_fraction, of="numbers in [0, 1)")


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    """`(..., 4)` -> `(...)`."""
    boxes, others = at_least_float32(boxes), at_least_float32(others)
    corners = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = _area(torch.cat(torch.broadcast_tensors(*corners), dim=-1))
    union = _area(boxes) + _area(others) - shared
    return torch.where(union == 0, 0.0, shared / union)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def _boxes_of(heatmaps: Tensor, thresholds: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The boxes of each heatmap at each threshold, `(N, T, 4)`, and whether it has any, `(N,)`."""
    maps = heatmaps.detach()[:, 0].cpu().float().numpy()
    exist = (maps.max((1, 2), initial=-np.inf) > 0) & np.isfinite(maps).all((1, 2))
    boxes = np.zeros((len(maps), len(thresholds), 4), dtype=np.float32)
    for row in np.flatnonzero(exist):
        boxes[row] = _boxes_around(maps[row], thresholds)
    return torch.from_numpy(boxes).to(heatmaps.device), torch.from_numpy(exist).to(heatmaps.device)


def _boxes_around(heatmap: NDArray[Any], thresholds: Sequence[float]) -> list[tuple[int, int, int, int]]:
    """The box of one heatmap at each threshold, from the lowest on, each in the window that the last one left."""
    maximum = heatmap.max()
    peak = heatmap == maximum  # exceeds each threshold, also where their product is rounded up to it
    boxes = [(0, 0, 0, 0)] * len(thresholds)
    left = top = 0
    for level in np.argsort(thresholds):
        hot = (heatmap > np.float32(thresholds[level]) * maximum) | peak
        x1, y1, x2, y2 = _bounds(hot)
        heatmap, peak = heatmap[y1:y2, x1:x2], peak[y1:y2, x1:x2]
        left, top = left + x1, top + y1
        labels, count = ndimage.label(hot[y1:y2, x1:x2], structure=_EIGHT_NEIGHBORS)
        x1, y1, x2, y2 = 0, 0, x2 - x1, y2 - y1
        if count > 1:  # of regions of the same size, the one that starts first, line by line
            x1, y1, x2, y2 = _bounds(labels == 1 + np.bincount(labels.ravel())[1:].argmax())
        boxes[level] = left + x1, top + y1, left + x2, top + y2
    return boxes


def _bounds(region: NDArray[Any]) -> tuple[int, int, int, int]:
    # not ndimage.find_objects: it bounds all components, of which noise has thousands
    columns, rows = np.flatnonzero(region.any(0)), np.flatnonzero(region.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


_check_fraction = partial(check_number, interval="[0, 1)")
_check_iou = partial(check_number, interval="(0, 1]")
_of_objects = partial(Metric, range=(0, 1), higher_is_better=True, worst=0, section="with `objects`")

ROWS = (
    _of_objects(
        "pointing_game", pointing_game, "the maximum is on the object", inputs=("heatmaps", "masks"),
        paper="[Zhang 2016](https://arxiv.org/abs/1608.00507)",
    ),
    _of_objects(
        "energy_in_box", energy_inside, "fraction of the map that lies on the object", inputs=("heatmaps", "masks"),
        paper="[Wang 2020](https://arxiv.org/abs/1910.01279)", class_name="EnergyInside",
    ),
    _of_objects(
        "box_iou", box_overlap, "IoU of the object's box with that around the map's largest region above 20 %",
        inputs=("heatmaps", "boxes"), class_name="BoxIoU", checks={"threshold": _check_fraction},
    ),
    _of_objects(
        "box_accuracy", box_accuracy, "fraction of the objects of which `box_iou` is 0.5 or more",
        inputs=("heatmaps", "boxes"), paper="[Zhou 2016](https://arxiv.org/abs/1512.04150)",
        checks={"threshold": _check_fraction, "iou": _check_iou},
    ),
    _of_objects(
        "max_box_accuracy", box_hits, "`box_accuracy` at the best threshold in place of 20 %, MaxBoxAcc",
        inputs=("heatmaps", "boxes"), paper="[Choe 2020](https://arxiv.org/abs/2001.07437)", best_of="thresholds",
        checks={"thresholds": _parse_thresholds, "iou": _check_iou},
    ),
)  # fmt: skip
