"""From raw attributions to heatmaps in [0, 1], and the reasons why a heatmap is blank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lightning_saliency.data import interpolated, over_axes, spatial_axes

Normalize: TypeAlias = Literal["max", "minmax", "shared"]
"""How raw attributions are scaled to heatmaps; see `make_heatmaps`."""


@dataclass(frozen=True)
class Heatmaps:
    """The heatmaps of one method, with the peak of each raw map and the reason why a heatmap is blank.

    Attributes:
        maps: `(N, 1, H, W)` float32 in [0, 1], or of the size of volumes or signals; a blank one is 0 everywhere.
        peaks: The largest positive raw value of each map, `(N,)` float32; 0 where there is none, or where it is blank.
        reasons: Why each map is blank (see `blank_reasons`), or None where it is not.
    """

    maps: Tensor
    peaks: Tensor
    reasons: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.reasons)


def make_heatmaps(attributions: Tensor, size: Sequence[int], normalize: Normalize = "max") -> Heatmaps:
    """Turn raw attributions into heatmaps, with the peak of each and the reason why one is blank.

    Args:
        attributions: `(N, 1, h, w)`, signed or not; of volumes `(N, 1, d, h, w)`, of signals `(N, 1, t)`.
        size: (H, W) of the images; (D, H, W) of volumes, (T,) of signals.
        normalize: `"max"`: max(raw, 0) / max, each image on its own; `"minmax"`: (raw − min) / (max − min), each image
            on its own, so that a negative map shows too; `"shared"`: max(raw, 0) / the largest value of the whole
            batch, so that a weak map looks weak.

    Returns:
        The heatmaps, upsampled bilinearly to the image; of volumes trilinearly, of signals linearly.

    Raises:
        ValueError: `normalize` is none of these.

    Example:
        >>> heatmaps = make_heatmaps(torch.tensor([[[[-1.0, 2.0], [4.0, 0.0]]]]), size=(2, 2))
        >>> heatmaps.maps, heatmaps.peaks, heatmaps.reasons
        (tensor([[[[0.0000, 0.5000],
                  [1.0000, 0.0000]]]]), tensor([4.]), (None,))
    """
    if normalize not in get_args(Normalize):
        raise ValueError(f"Expected `normalize` to be one of {', '.join(get_args(Normalize))}, got {normalize!r}.")
    raw = attributions.float()
    reasons = blank_reasons(attributions, normalize)
    blank = torch.tensor([reason is not None for reason in reasons], dtype=torch.bool)
    if blank.any():
        raw = raw.masked_fill(over_axes(blank.to(raw.device), raw), 0.0)
    peaks = raw.flatten(1).amax(1).relu()
    # ReLU before upsampling: the other order would let negative neighbors eat into the map
    raw = raw - raw.amin(spatial_axes(raw), keepdim=True) if normalize == "minmax" else raw.relu()
    axes = tuple(range(raw.dim())) if normalize == "shared" else spatial_axes(raw)
    maps = _divided_by_max(raw, axes)
    if maps.shape[2:] != tuple(size):
        # divided before, so that tiny values don't underflow, and after: a small map's peak may fall between two pixels
        maps = _divided_by_max(interpolated(maps, size), axes)
    return Heatmaps(maps, peaks, tuple(reasons))


def to_heatmaps(attributions: Tensor, size: Sequence[int], normalize: Normalize = "max") -> Tensor:
    """Turn raw attributions into heatmaps: upsampled bilinearly to the image, in [0, 1].

    Args:
        attributions: `(N, 1, h, w)`, signed or not.
        size: (H, W) of the images.
        normalize: As in `make_heatmaps`.

    Returns:
        `(N, 1, H, W)` float32. A blank one (see `blank_reasons`) is 0 everywhere.

    Raises:
        ValueError: `normalize` is no such scale.

    Example:
        >>> to_heatmaps(torch.tensor([[[[-1.0, 2.0], [4.0, 0.0]]]]), size=(2, 2))
        tensor([[[[0.0000, 0.5000],
                  [1.0000, 0.0000]]]])
    """
    return make_heatmaps(attributions, size, normalize).maps


def fused(attributions: Sequence[Tensor], how: Literal["mean", "max"]) -> Tensor:
    """Return one map from the maps of several layers: the mean or maximum of their heatmaps, at the finest size.

    Args:
        attributions: Raw maps `(N, 1, h, w)`, each layer's of its own size.
        how: Mean or maximum.

    Returns:
        `(N, 1, h, w)` float32 in [0, 1].

    Example:
        >>> early, late = torch.tensor([[[[4.0, 0.0]]]]), torch.tensor([[[[1.0, 2.0]]]])
        >>> fused([early, late], "mean"), fused([early, late], "max")
        (tensor([[[[0.7500, 0.5000]]]]), tensor([[[[1., 1.]]]]))
    """
    size = max((tuple(maps.shape[2:]) for maps in attributions), key=math.prod)
    stacked = torch.stack([to_heatmaps(maps, size) for maps in attributions])
    return stacked.mean(0) if how == "mean" else stacked.amax(0)


def fused_signed(attributions: Sequence[Tensor], how: Literal["mean", "max"]) -> Tensor:
    """Return one signed map from those of several layers `(N, C, H, W)`: the mean, or the value largest in magnitude.

    Example:
        >>> early, late = torch.tensor([[[[4.0, 1.0]]]]), torch.tensor([[[[-2.0, -3.0]]]])
        >>> fused_signed([early, late], "mean"), fused_signed([early, late], "max")
        (tensor([[[[ 1., -1.]]]]), tensor([[[[ 4., -3.]]]]))
    """
    stacked = torch.stack(list(attributions))
    if how == "mean":
        return stacked.mean(0)
    return stacked.gather(0, stacked.abs().argmax(0, keepdim=True))[0]


def blank_reasons(attributions: Tensor, normalize: Normalize = "max") -> list[str | None]:
    """Return why each heatmap is blank: `"not finite"`, `"constant …"`, `"all negative"`, or None where it is not.

    For a method that ends in a ReLU, a map without a positive value is `"constant 0"`.

    Args:
        attributions: `(N, 1, h, w)`.
        normalize: As in `make_heatmaps`; under `"minmax"` a negative map is not blank.

    Example:
        >>> maps = torch.tensor([[[[0.0, 1.0]]], [[[-2.0, -1.0]]], [[[0.0, 0.0]]], [[[0.0, float("nan")]]]])
        >>> blank_reasons(maps)
        [None, 'all negative', 'constant 0', 'not finite']
    """
    values = attributions.flatten(1)
    low, high = values.amin(1), values.amax(1)  # ten times as fast as aminmax
    finite = low.isfinite() & high.isfinite()  # a NaN is both the least and the largest
    reasons: list[str | None] = []
    for is_finite, least, most in zip(finite.tolist(), low.tolist(), high.tolist(), strict=True):
        if not is_finite:
            reasons.append("not finite")
        elif least == most:
            reasons.append(f"constant {most:.3g}")
        elif most <= 0 and normalize != "minmax":
            reasons.append("all negative")
        else:
            reasons.append(None)
    return reasons


def _divided_by_max(maps: Tensor, axes: tuple[int, ...]) -> Tensor:
    peak = maps.amax(axes, keepdim=True)
    return maps / torch.where(peak > 0, peak, torch.inf)
