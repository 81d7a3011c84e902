"""How focused a heatmap is, where it lies, and how much it is like another."""

from __future__ import annotations

import math

import torch
from scipy.stats import rankdata
from torch import Tensor

from lightning_saliency.metrics.checks import check_threshold, checked_maps


def entropy(heatmaps: Tensor) -> Tensor:
    """How spread out each heatmap is: the entropy of its values as a distribution over the pixels.

    −Σ p log p / log(H·W), p = heatmap / Σ heatmap. 0: all of it in one pixel; 1: the same everywhere. Lower is more
    focused.

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.

    Returns:
        `(N,)` in [0, 1]; NaN for a blank map.

    Raises:
        ValueError: The heatmaps are not `(N, 1, H, W)`, or negative.

    Example:
        >>> one_pixel, even = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.3, 0.3]]]])
        >>> entropy(torch.cat([one_pixel, even]))
        tensor([0., 1.])
    """
    values = checked_maps(heatmaps).flatten(1)
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

    Raises:
        ValueError: The heatmaps are not `(N, 1, H, W)`, or negative, or the threshold is out of range.

    Example:
        >>> area_above(torch.tensor([[[[1.0, 0.6, 0.2, 0.0]]]]))
        tensor([0.5000])
    """
    check_threshold(threshold)
    values = checked_maps(heatmaps).flatten(1)
    top = values.amax(1, keepdim=True)
    return torch.where(top[:, 0] > 0, (values > threshold * top).float().mean(1), torch.nan)


def center_of_mass(heatmaps: Tensor) -> Tensor:
    """Where each heatmap lies: the mean of the pixels' places, weighted by their values.

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.

    Returns:
        `(N, 2)`, x and y as shares of width and height, in [0, 1]; NaN for a blank map.

    Raises:
        ValueError: The heatmaps are not `(N, 1, H, W)`, or negative.

    Example:
        >>> center_of_mass(torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]]))
        tensor([[0.7500, 0.7500]])
    """
    return _centers(checked_maps(heatmaps))


def center_shift(heatmaps: Tensor, others: Tensor) -> Tensor:
    """How far apart two heatmaps lie: the Euclidean distance of their centres of mass.

    Between the maps of two epochs, or of an image and its disturbed copy, lower is more stable.

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.
        others: `(N, 1, h, w)`, not negative; the size may be another, as places are shares of width and height.

    Returns:
        `(N,)` in [0, √2]: 1 is the whole width, or height; NaN where one of the two is blank.

    Raises:
        ValueError: One is not `(N, 1, H, W)`, or negative, or they are not as many.

    Example:
        >>> center_shift(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 0.0, 0.0, 0.5]]]]))
        tensor([0.6250])
    """
    one, other = checked_maps(heatmaps), checked_maps(others, "others")
    if len(one) != len(other):
        raise ValueError(f"Expected `others` to be {len(one)} maps as `heatmaps`, got {len(other)}.")
    return (_centers(one) - _centers(other)).square().sum(1).sqrt()


def rank_correlation(heatmaps: Tensor, others: Tensor) -> Tensor:
    """How alike two heatmaps are in what they rank high: Spearman's correlation of their pixels.

    Adebayo et al. 2018, "Sanity Checks for Saliency Maps", compare maps so. Equal values share the mean of their ranks.
    Higher is more alike: good for the maps of one model under noise, bad for those of a model with random weights.

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
    return correlation(ranks(heatmaps), ranks(others))


def ranks(heatmaps: Tensor) -> Tensor:
    """The place of each pixel in its map's order, from 1; equal values share the mean of theirs.

    Args:
        heatmaps: `(N, 1, H, W)`.

    Returns:
        `(N, H·W)` float32, which holds them exactly up to 8 million pixels.

    Example:
        >>> ranks(torch.tensor([[[[0.1, 0.9, 0.1]]]]))
        tensor([[1.5000, 3.0000, 1.5000]])
    """
    values = heatmaps.detach().flatten(1).double().cpu().numpy()
    return torch.from_numpy(rankdata(values, axis=1)).float().to(heatmaps.device)


def correlation(values: Tensor, others: Tensor) -> Tensor:
    """Pearson's correlation of rows of ranks: twice `(N, P)` -> `(N,)` in [-1, 1]; NaN where all of a row are equal.

    Example:
        >>> correlation(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 4.0, 6.0]]))
        tensor([1.])
    """
    one, other = (rows.double() - rows.double().mean(1, keepdim=True) for rows in (values, others))
    return ((one * other).sum(1) / (one.square().sum(1) * other.square().sum(1)).sqrt()).float().clamp(-1, 1)


def _centers(values: Tensor) -> Tensor:
    """`(N, H, W)` -> `(N, 2)`."""
    height, width = values.shape[1:]
    total = values.sum((1, 2))
    x = (values.sum(1) * _places(width, values)).sum(1) / total
    y = (values.sum(2) * _places(height, values)).sum(1) / total
    return torch.stack([x, y], dim=1)


def _places(count: int, like: Tensor) -> Tensor:
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / count
