"""Heatmaps as the metrics read them: checked, without a graph, in a type that sums of them fit in."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_saliency._checks import check_not_negative, check_shape


def checked_maps(heatmaps: Tensor, name: str = "heatmaps") -> Tensor:
    """Refuse other shapes than `(N, 1, H, W)` and negative values; return `(N, H, W)`, at least float32."""
    check_shape(name, heatmaps, ("N", 1, "H", "W"))
    return at_least_float32(check_not_negative(name, heatmaps))[:, 0]


def at_least_float32(values: Tensor) -> Tensor:
    """Return the values without their graph, in float32 or a more precise type."""
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))
