"""Heatmaps as the metrics read them: checked, without a graph, in a type that sums of them fit in."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_saliency._checks import check_not_negative, check_shape

_AXES = {3: ("T",), 4: ("H", "W"), 5: ("D", "H", "W")}
"""The spatial axes of signals, images and volumes, by the number of all axes of their heatmaps."""


def checked_maps(heatmaps: Tensor, name: str = "heatmaps") -> Tensor:
    """Refuse negative values and what `check_maps` refuses.

    Returns:
        `(N, H, W)`, at least float32.
    """
    return at_least_float32(check_not_negative(name, check_maps(name, heatmaps)))[:, 0]


def check_maps(
    name: str, maps: Tensor, count: int | str = "N", note: str = "", *, like: Tensor | None = None
) -> Tensor:
    """Refuse another shape than `(N, 1, H, W)`, or `(N, 1, D, H, W)` of volumes, `(N, 1, T)` of signals.

    Args:
        name: The argument.
        maps: What came.
        count: N, or a name where any number will do.
        note: Where the number comes from; see `check_shape`.
        like: Other maps that have the same axes.
    """
    axes = _AXES.get((maps if like is None else like).dim(), _AXES[4])
    is_shape_of_maps = maps.dim() > 1 and maps.shape[1] == 1
    return check_shape(name, maps, (count, 1, *(axes if is_shape_of_maps else _AXES[4])), note)


def at_least_float32(values: Tensor) -> Tensor:
    """Return the values without their graph, in float32 or a more precise type."""
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))
