"""Whether a heatmap marks the object: by the object's pixels, and by the box around what the heatmap marks.

Boxes are torchvision's (x1, y1, x2, y2) in pixels, where x2 and y2 are the first column and row outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from lightning_saliency.metrics.checks import (
    at_least_float32,
    check_boxes,
    check_iou,
    check_masks,
    check_shape,
    check_threshold,
    check_thresholds,
    checked_maps,
)

THRESHOLDS = tuple(step / 20 for step in range(1, 20))
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


def pointing_game(heatmaps: Tensor, masks: Tensor) -> Tensor:
    """Whether each heatmap's maximum lies on the object (Zhang et al. 2016, "Top-down Neural Attention").

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
    check_masks(masks, heatmaps)
    maxima, places = values.max(1)
    return masks.flatten(1).gather(1, places[:, None])[:, 0] & (maxima > 0)


def energy_inside(heatmaps: Tensor, masks: Tensor) -> Tensor:
    """The share of each heatmap that lies on the object (energy-based pointing game, Wang et al. 2020, "Score-CAM").

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
    check_masks(masks, heatmaps)
    return (values * masks.flatten(1)).sum(1) / values.sum(1)


def boxes_to_masks(boxes: Tensor | Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """The pixels of boxes: of one an image, or of any number of them.

    Args:
        boxes: `(N, 4)`, one for each image; or N tensors `(k, 4)`, each an image's k ≥ 0 boxes.
        size: Height and width of the images.

    Returns:
        `(N, 1, H, W)` bool: whether the pixel lies in the image's box, or in one of its boxes.

    Raises:
        ValueError: The boxes are not `(N, 4)`, or one of the tensors is not `(k, 4)`.

    Example:
        >>> boxes_to_masks(torch.tensor([[1, 0, 3, 1]]), (2, 3)).int()
        tensor([[[[0, 1, 1],
                  [0, 0, 0]]]], dtype=torch.int32)
        >>> boxes_to_masks([torch.tensor([[1, 0, 3, 1], [0, 1, 1, 2]]), torch.empty(0, 4)], (2, 3)).sum((1, 2, 3))
        tensor([3, 0])
    """
    if isinstance(boxes, Tensor):
        check_boxes(boxes)
        return _filled(boxes, size)
    for row, several in enumerate(boxes):
        check_boxes(several, name=f"boxes[{row}]")
    masks = [_filled(several, size).any(0) for several in boxes]
    return torch.stack(masks) if masks else torch.zeros(0, 1, *size, dtype=torch.bool)


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Draw the smallest box around each object's pixels.

    Args:
        masks: `(N, 1, H, W)` bool.

    Returns:
        `(N, 4)` float32; zeros for an empty mask.

    Raises:
        ValueError: The masks are not bool of `(N, 1, H, W)`.

    Example:
        >>> masks_to_boxes(torch.tensor([[[[False, True, True], [False, False, True]]]]))
        tensor([[1., 0., 3., 2.]])
    """
    if masks.dim() != 4 or masks.shape[1] != 1 or masks.dtype != torch.bool:
        raise ValueError(
            f"Expected `masks` to be bool of shape (N, 1, H, W), got {masks.dtype} of shape {tuple(masks.shape)}."
        )
    boxes = torch.zeros(len(masks), 4, device=masks.device)
    found = masks.flatten(1).any(1)
    outside = torch.tensor([0, 0, 1, 1], device=masks.device)  # torchvision's are the last column and row inside
    boxes[found] = torchvision.ops.masks_to_boxes(masks[found, 0]) + outside
    return boxes


def heatmaps_to_boxes(heatmaps: Tensor, threshold: float = 0.2) -> tuple[Tensor, Tensor]:
    """Draw a box around what each heatmap marks.

    Zhou et al. 2016, section 3.2: "We first segment the regions of which the value is above 20% of the max value of the
    CAM. Then we take the bounding box that covers the largest connected component in the segmentation map."

    Args:
        heatmaps: `(N, 1, H, W)`, not negative; neighbours are connected over edges and corners.
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
    check_shape(heatmaps)
    boxes, found = _boxes_of(heatmaps, [check_threshold(threshold)])
    return boxes[0], found


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """How well two boxes agree, row by row: the area of their intersection over that of their union.

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
    check_boxes(boxes)
    check_boxes(others, len(boxes), "others", "boxes")
    return _iou(boxes, others)


def box_accuracy(heatmaps: Tensor, boxes: Tensor, threshold: float = 0.2, iou: float = 0.5) -> Tensor:
    """Whether the box around what each heatmap marks is the object's.

    The localisation of Zhou et al. 2016, section 3.2, as in ILSVRC: the box of `heatmaps_to_boxes` overlaps the true
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
    return box_hits(heatmaps, boxes, [check_threshold(threshold)], iou)[0]


def box_hits(heatmaps: Tensor, boxes: Tensor, thresholds: Sequence[float] = THRESHOLDS, iou: float = 0.5) -> Tensor:
    """`box_accuracy` at several thresholds: what `max_box_accuracy` takes the best of.

    Choe et al. 2020, "Evaluating Weakly Supervised Object Localization Methods Right": IoU(box(s, τ), B) ≥ δ.

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.
        boxes: `(N, 4)`, each image's true box.
        thresholds: τ, T fractions of each map's maximum, in [0, 1).
        iou: δ, the overlap that counts, in (0, 1].

    Returns:
        `(T, N)` bool, True is better.

    Raises:
        ValueError: The heatmaps are not `(N, 1, H, W)`, or the boxes not `(N, 4)`, or an option is out of range.

    Example:
        >>> heatmap = torch.tensor([[[[0.1, 0.9, 0.6, 0.0]]]])
        >>> box_hits(heatmap, torch.tensor([[1, 0, 3, 1]]), thresholds=(0.2, 0.8), iou=0.7)
        tensor([[ True],
                [False]])
    """
    check_iou(iou)
    return box_overlaps(heatmaps, boxes, thresholds) >= iou


def box_overlaps(heatmaps: Tensor, boxes: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """The IoU of the box around what each heatmap marks with the object's, at several thresholds.

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.
        boxes: `(N, 4)`, each image's true box.
        thresholds: T fractions of each map's maximum, in [0, 1).

    Returns:
        `(T, N)` in [0, 1], higher is better; 0 for a blank map.

    Raises:
        ValueError: The heatmaps are not `(N, 1, H, W)`, or the boxes not `(N, 4)`, or a threshold is out of range.

    Example:
        >>> heatmap = torch.tensor([[[[0.1, 0.9, 0.6, 0.0]]]])
        >>> box_overlaps(heatmap, torch.tensor([[1, 0, 3, 1]]), thresholds=(0.2, 0.8))
        tensor([[1.0000],
                [0.5000]])
    """
    check_shape(heatmaps)
    check_boxes(boxes, len(heatmaps))
    drawn, _ = _boxes_of(heatmaps, check_thresholds(thresholds))
    return _iou(drawn, boxes)


def max_box_accuracy(
    heatmaps: Tensor, boxes: Tensor, thresholds: Sequence[float] = THRESHOLDS, iou: float = 0.5
) -> Tensor:
    """The share of the objects that are found at the best threshold, which is one for all images.

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
    return box_hits(heatmaps, boxes, thresholds, iou).float().mean(1).max()


def _filled(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """`(N, 4)` -> `(N, 1, H, W)` bool."""
    x1, y1, x2, y2 = (corner[:, None] for corner in boxes.unbind(1))
    y, x = torch.arange(size[0], device=boxes.device), torch.arange(size[1], device=boxes.device)
    rows, columns = (y1 <= y) & (y < y2), (x1 <= x) & (x < x2)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


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
    """The boxes of each heatmap at each threshold, `(T, N, 4)`, and whether it has any, `(N,)`."""
    maps = heatmaps.detach()[:, 0].cpu().float().numpy()
    tops = maps.max((1, 2), initial=-np.inf)
    found = (tops > 0) & np.isfinite(maps).all((1, 2))
    boxes = np.zeros((len(thresholds), len(maps), 4), dtype=np.float32)
    for row in np.flatnonzero(found):
        peak = maps[row] == tops[row]  # exceeds each threshold, also where their product is rounded up to it
        for level, threshold in enumerate(thresholds):
            boxes[level, row] = _largest_region((maps[row] > np.float32(threshold) * tops[row]) | peak)
    return torch.from_numpy(boxes).to(heatmaps.device), torch.from_numpy(found).to(heatmaps.device)


def _largest_region(hot: NDArray[Any]) -> list[int]:
    """The bounds of the largest connected component; of equals, of the one that starts first, line by line."""
    labels, _ = ndimage.label(hot, structure=_EIGHT_NEIGHBOURS)
    region = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
    # not ndimage.find_objects: it bounds all components, of which noise has thousands
    columns, rows = np.flatnonzero(region.any(0)), np.flatnonzero(region.any(1))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
