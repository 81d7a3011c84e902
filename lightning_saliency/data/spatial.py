"""Spatial axes: what is behind batch and channels in images, volumes and signals, and in their maps.

A batch is `(N, C, H, W)`, `(N, C, D, H, W)` or `(N, C, T)`: two, three or one spatial axes. Where other modules write
`(H, W)` or `(h, w)`, they mean these axes, as many as there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

_INTERPOLATIONS = {1: "linear", 2: "bilinear", 3: "trilinear"}
_POOLINGS: dict[int, Callable[[Tensor, Any], Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


def spatial_axes(batch: Tensor) -> tuple[int, ...]:
    """Return the spatial axes of a batch: all behind samples and channels.

    Example:
        >>> import torch
        >>> spatial_axes(torch.zeros(2, 3, 8, 8)), spatial_axes(torch.zeros(2, 1, 100))
        ((2, 3), (2,))
    """
    return tuple(range(2, batch.dim()))


def over_axes(values: Tensor, batch: Tensor) -> Tensor:
    """Return values such that they broadcast over the axes of a batch that they lack: `(N,)` -> `(N, 1, 1, 1)`.

    Example:
        >>> import torch
        >>> over_axes(torch.zeros(2), torch.zeros(2, 1, 4, 8, 8)).shape
        torch.Size([2, 1, 1, 1, 1])
        >>> over_axes(torch.zeros(2, 7), torch.zeros(2, 7, 100)).shape
        torch.Size([2, 7, 1])
    """
    return values.reshape(*values.shape, *[1] * (batch.dim() - values.dim()))


def interpolated(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps at another size, interpolated along each spatial axis: linear, bilinear or trilinear.

    Args:
        maps: `(N, D, h, w)`.
        size: (H, W).

    Example:
        >>> import torch
        >>> interpolated(torch.tensor([[[0.0, 1.0]]]), (4,))
        tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
    """
    if maps.shape[2:] == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode=_INTERPOLATIONS[len(size)], align_corners=False)


def averaged(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps at a smaller size, each value the mean of an area.

    Args:
        maps: `(N, D, H, W)`.
        size: (h, w).

    Example:
        >>> import torch
        >>> averaged(torch.tensor([[[0.0, 1.0, 2.0, 3.0]]]), (2,))
        tensor([[[0.5000, 2.5000]]])
    """
    return _POOLINGS[len(size)](maps, tuple(size))


def shorter_lengths(size: Sequence[int]) -> tuple[int, ...]:
    """Return of each axis the length by which distances along it are measured.

    The last two axes have one unit, and the shorter one counts; the depth of a volume, or the time of a video, has a
    unit of its own.

    Example:
        >>> shorter_lengths((32, 48)), shorter_lengths((16, 32, 48)), shorter_lengths((1000,))
        ((32, 32), (16, 32, 32), (1000,))
    """
    leading, plane = size[:-2], size[-2:]
    return (*leading, *[min(plane)] * len(plane))


def times(size: Sequence[int]) -> str:
    """Return a size in words.

    Example:
        >>> times((16, 112, 112))
        '16×112×112'
    """
    return "×".join(map(str, size))
