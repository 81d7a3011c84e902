"""What a heatmap says in numbers: pure functions on heatmaps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from scipy.stats import rankdata
from torch import Tensor

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


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
    if heatmaps.dim() != 4 or heatmaps.shape[1] != 1:
        raise ValueError(f"Expected `heatmaps` to be (N, 1, H, W), got shape {tuple(heatmaps.shape)}.")
    if not 0 <= threshold < 1:
        raise ValueError(f"Expected `threshold` to be in [0, 1), got {threshold}.")
    maps = heatmaps.detach()[:, 0].cpu().float()
    found = (maps.amax((1, 2)) > 0) & maps.isfinite().all(2).all(1)
    boxes = torch.zeros(len(maps), 4)
    for row in found.nonzero()[:, 0].tolist():
        labels, _ = ndimage.label((maps[row] > threshold * maps[row].max()).numpy(), structure=_EIGHT_NEIGHBOURS)
        sizes = np.bincount(labels.ravel())
        largest = 1 + int(sizes[1:].argmax())
        rows, columns = ndimage.find_objects(labels)[largest - 1]
        boxes[row] = torch.tensor([columns.start, rows.start, columns.stop, rows.stop])
    return boxes.to(heatmaps.device), found.to(heatmaps.device)


def entropy(heatmaps: Tensor) -> Tensor:
    """How spread out each heatmap is: the entropy of its values as a distribution over the pixels.

    −Σ p log p / log(H·W), p = heatmap / Σ heatmap. 0: all of it in one pixel; 1: the same everywhere. Lower is more
    focused.

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.

    Returns:
        `(N,)` in [0, 1]; NaN for a blank map.

    Example:
        >>> one_pixel, even = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.3, 0.3]]]])
        >>> entropy(torch.cat([one_pixel, even]))
        tensor([0., 1.])
    """
    values = _checked(heatmaps)
    shares = values / values.sum(1, keepdim=True)
    found: Tensor = torch.special.entr(shares).sum(1) / math.log(max(values.shape[1], 2))
    return found.clamp(max=1)


def area_above(heatmaps: Tensor, threshold: float = 0.5) -> Tensor:
    """The share of the pixels above a fraction of each heatmap's maximum; smaller is more focused.

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.
        threshold: That fraction, in [0, 1).

    Returns:
        `(N,)` in (0, 1]; NaN for a blank map.

    Example:
        >>> area_above(torch.tensor([[[[1.0, 0.6, 0.2, 0.0]]]]))
        tensor([0.5000])
    """
    values = _checked(heatmaps)
    top = values.amax(1, keepdim=True)
    return torch.where(top[:, 0] > 0, (values > threshold * top).float().mean(1), torch.nan)


def center_of_mass(heatmaps: Tensor) -> Tensor:
    """Where each heatmap lies: the mean of the pixels' places, weighted by their values.

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.

    Returns:
        `(N, 2)`, x and y as shares of width and height, in [0, 1]; NaN for a blank map.

    Example:
        >>> center_of_mass(torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]]))
        tensor([[0.7500, 0.7500]])
    """
    values = _checked(heatmaps).view(heatmaps.shape[0], *heatmaps.shape[2:])
    height, width = values.shape[1:]
    total = values.sum((1, 2))
    x = (values.sum(1) * _centers(width, values)).sum(1) / total
    y = (values.sum(2) * _centers(height, values)).sum(1) / total
    return torch.stack([x, y], dim=1)


def rank_correlation(heatmaps: Tensor, others: Tensor) -> Tensor:
    """How alike two heatmaps are in what they rank high: Spearman's correlation of their pixels.

    Adebayo et al. 2018, "Sanity Checks for Saliency Maps", compare maps so. Equal values share the mean of their ranks.

    Args:
        heatmaps: `(N, 1, H, W)`.
        others: The same shape.

    Returns:
        `(N,)` in [-1, 1], 1 for the same order; NaN where a map is constant.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> one = torch.tensor([[[[0.1, 0.2, 0.9]]]])
        >>> rank_correlation(one, one**2), rank_correlation(one, -one)
        (tensor([1.]), tensor([-1.]))
    """
    if heatmaps.shape != others.shape:
        raise ValueError(f"Expected `others` to be {tuple(heatmaps.shape)} as `heatmaps`, got {tuple(others.shape)}.")
    ranks = [_ranks(maps.detach().flatten(1)) for maps in (heatmaps, others)]
    centred = [rank - rank.mean(1, keepdim=True) for rank in ranks]
    product = (centred[0] * centred[1]).sum(1)
    return (product / (centred[0].square().sum(1) * centred[1].square().sum(1)).sqrt()).float().clamp(-1, 1)


def pointing_game(heatmaps: Tensor, masks: Tensor) -> Tensor:
    """Whether each heatmap's maximum lies on the object (Zhang et al. 2016, "Top-down Neural Attention").

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.
        masks: `(N, 1, H, W)` bool, the object's pixels; see `boxes_to_masks`.

    Returns:
        `(N,)` bool, True is better; a blank map points nowhere.

    Example:
        >>> heatmap = torch.tensor([[[[0.1, 0.9]]]])
        >>> pointing_game(heatmap, torch.tensor([[[[False, True]]]]))
        tensor([True])
    """
    values, inside = _checked(heatmaps), _on_objects(heatmaps, masks)
    maxima, places = values.max(1)
    return inside.gather(1, places[:, None])[:, 0] & (maxima > 0)


def energy_inside(heatmaps: Tensor, masks: Tensor) -> Tensor:
    """The share of each heatmap that lies on the object (energy-based pointing game, Wang et al. 2020, "Score-CAM").

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.
        masks: `(N, 1, H, W)` bool, the object's pixels; see `boxes_to_masks`.

    Returns:
        `(N,)` in [0, 1], higher is better; NaN for a blank map.

    Example:
        >>> energy_inside(torch.tensor([[[[0.5, 1.5]]]]), torch.tensor([[[[False, True]]]]))
        tensor([0.7500])
    """
    values, inside = _checked(heatmaps), _on_objects(heatmaps, masks)
    return (values * inside).sum(1) / values.sum(1)


def boxes_to_masks(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """The pixels of boxes, `(N, 4)` in torchvision's (x1, y1, x2, y2) -> `(N, 1, H, W)` bool.

    Example:
        >>> boxes_to_masks(torch.tensor([[1, 0, 3, 1]]), (2, 3)).int()
        tensor([[[[0, 1, 1],
                  [0, 0, 0]]]], dtype=torch.int32)
    """
    x1, y1, x2, y2 = (corner[:, None] for corner in boxes.unbind(1))
    y, x = torch.arange(size[0], device=boxes.device), torch.arange(size[1], device=boxes.device)
    rows, columns = (y1 <= y) & (y < y2), (x1 <= x) & (x < x2)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _checked(heatmaps: Tensor) -> Tensor:
    """`(N, 1, H, W)` -> `(N, H·W)`, at least float32."""
    if heatmaps.dim() != 4 or heatmaps.shape[1] != 1:
        raise ValueError(f"Expected `heatmaps` to be (N, 1, H, W), got shape {tuple(heatmaps.shape)}.")
    if (heatmaps < 0).any():
        raise ValueError(f"Expected `heatmaps` not to be negative, got {float(heatmaps.min()):.3g}.")
    return heatmaps.detach().flatten(1).to(torch.promote_types(heatmaps.dtype, torch.float32))


def _on_objects(heatmaps: Tensor, masks: Tensor) -> Tensor:
    if masks.shape != heatmaps.shape or masks.dtype != torch.bool:
        raise ValueError(
            f"Expected `masks` to be bool of shape {tuple(heatmaps.shape)} as `heatmaps`, got {masks.dtype} of shape "
            f"{tuple(masks.shape)}. For boxes: `boxes_to_masks(boxes, (H, W))`."
        )
    return masks.flatten(1)


def _centers(count: int, like: Tensor) -> Tensor:
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / count


def _ranks(values: Tensor) -> Tensor:
    """From 0, equal values sharing the mean of theirs: `(N, P)` -> `(N, P)` float64."""
    ranks = [rankdata(row) for row in values.double().cpu().numpy()]
    return torch.from_numpy(np.stack(ranks)).to(values.device)
