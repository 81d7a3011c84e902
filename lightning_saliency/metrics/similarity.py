"""How similar two heatmaps are: in what they rank high, and in where they lie."""

from __future__ import annotations

import math
from functools import partial

import torch
from scipy.stats import rankdata
from torch import Tensor

from lightning_saliency._checks import check_shape
from lightning_saliency.data import averaged
from lightning_saliency.metrics._maps import check_maps, checked_maps
from lightning_saliency.metrics.metric import Metric

_COARSE_PIXELS = 32 * 32
"""Pixels of the maps that are compared: few, so that sorting costs little; the ranks of more say no more."""


def rank_correlation(heatmaps: Tensor, others: Tensor) -> Tensor:
    """Return Spearman's rank correlation of each two heatmaps, over their pixels.

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
    check_shape("others", others, tuple(heatmaps.shape), "as `heatmaps`")
    return correlation(ranks(heatmaps), ranks(others))


def ranks(heatmaps: Tensor) -> Tensor:
    """Return the rank of each pixel among those of its heatmap, from 1; equal values share the mean of theirs.

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
    """Return Pearson's correlation of rows of numbers; of ranks, it is Spearman's rank correlation.

    Args:
        values: `(N, P)`.
        others: `(N, P)`, or `(N, M, P)` for M rows to compare each row with.

    Returns:
        `(N,)` or `(N, M)` in [-1, 1]; NaN where all numbers of a row are equal.

    Example:
        >>> correlation(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 4.0, 6.0]]))
        tensor([1.])
    """
    one, other = (rows.double() - rows.double().mean(-1, keepdim=True) for rows in (values, others))
    if other.dim() > one.dim():
        one = one[:, None]
    scale = (one.square().sum(-1) * other.square().sum(-1)).sqrt()
    return ((one * other).sum(-1) / scale).float().clamp(-1, 1)


def center_of_mass(heatmaps: Tensor) -> Tensor:
    """Return the center of mass of each heatmap: the mean of the pixels' coordinates, weighted by their values.

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.

    Returns:
        `(N, 2)`, x and y as fractions of width and height, in [0, 1]; of volumes `(N, 3)`, x, y and z; of signals
        `(N, 1)`. NaN for a blank map.

    Raises:
        ValueError: The heatmaps are not `(N, 1, H, W)`, or negative.

    Example:
        >>> center_of_mass(torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]]))
        tensor([[0.7500, 0.7500]])
    """
    return _centers(checked_maps(heatmaps))


def center_shift(heatmaps: Tensor, others: Tensor) -> Tensor:
    """Return the Euclidean distance of the centers of mass of each two heatmaps.

    Between the maps of two epochs, or of an image and its disturbed copy, lower is more stable.

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.
        others: `(N, 1, h, w)`, not negative; the size may be another, as coordinates are fractions of width and height.

    Returns:
        `(N,)` in [0, √2], of volumes in [0, √3]: 1 is the whole width, or height; NaN where one of the two is blank.

    Raises:
        ValueError: One is not `(N, 1, H, W)`, or negative, or they are not as many.

    Example:
        >>> center_shift(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 0.0, 0.0, 0.5]]]]))
        tensor([0.6250])
    """
    one, other = checked_maps(heatmaps), checked_maps(others, "others")
    check_maps("others", others, len(heatmaps), "as many as `heatmaps`", like=heatmaps)
    return (_centers(one) - _centers(other)).square().sum(1).sqrt()


def coarse(heatmaps: Tensor) -> Tensor:
    """Average heatmaps down to at most 32 pixels a side, on the CPU: what maps are compared at.

    Of volumes it is 10 a side, of signals 1024 points in time: about as many pixels in all.

    Args:
        heatmaps: `(N, 1, H, W)`.

    Returns:
        `(N, 1, h, w)`, of the same aspect; as it is where it is as small already.

    Example:
        >>> coarse(torch.rand(2, 1, 96, 192)).shape
        torch.Size([2, 1, 16, 32])
    """
    size = heatmaps.shape[2:]
    side = round(_COARSE_PIXELS ** (1 / len(size)))
    shrink = min(1.0, side / max(size))
    return averaged(heatmaps, [max(1, round(length * shrink)) for length in size]).cpu()


def _centers(values: Tensor) -> Tensor:
    """`(N, H, W)` -> `(N, 2)`: the last axis first."""
    total = values.flatten(1).sum(1)
    axes = range(values.dim() - 1, 0, -1)
    along = [values.movedim(axis, 1)[..., None].flatten(2).sum(2) for axis in axes]
    return torch.stack([(sums * _coordinates(sums.shape[1], sums)).sum(1) / total for sums in along], dim=1)


def _coordinates(count: int, like: Tensor) -> Tensor:
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / count


_ADEBAYO = "[Adebayo 2018](https://arxiv.org/abs/1810.03292)"

RANK_CORRELATION = Metric(
    "rank_correlation", rank_correlation, "Spearman's rank correlation with other maps", inputs=(), range=(-1, 1),
    higher_is_better=None, worst=0, paper=_ADEBAYO,
)  # fmt: skip

CENTER_SHIFT = Metric(
    "center_shift", center_shift, "distance from the center of mass of other maps, in fractions of the image",
    inputs=(), range=(0, math.sqrt(2)), higher_is_better=False, worst=0,
)  # fmt: skip

_of_ranks = partial(Metric, function=correlation, range=(-1, 1), higher_is_better=None, worst=0)
_of_centers = partial(Metric, function=center_shift, range=(0, math.sqrt(2)), higher_is_better=None, worst=0)

ROWS = (
    _of_ranks(
        name="agreement", description="Spearman's rank correlation with the other methods' maps",
        inputs=("ranks", "other_methods_ranks"),
    ),
    _of_ranks(
        name="rank_correlation_previous", inputs=("ranks", "previous_ranks"),
        description="Spearman's rank correlation with the last look's map: 1 has not moved",
    ),
    _of_ranks(
        name="rank_correlation_initial", description="Spearman's rank correlation with the map before training",
        inputs=("ranks", "initial_ranks"),
    ),
    _of_centers(
        name="center_shift_previous", inputs=("coarse_heatmaps", "previous_heatmaps"),
        description="how far the center of mass has moved since the last look, in fractions of the image",
    ),
    _of_centers(
        name="center_shift_initial", inputs=("coarse_heatmaps", "initial_heatmaps"),
        description="how far the center of mass has moved since before training, in fractions of the image",
    ),
)  # fmt: skip
