"""`Layout`: how the output of a layer is read as a feature map, whatever its shape."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor

from lightning_saliency._checks import OptionError
from lightning_saliency.data import mapped, times
from lightning_saliency.data.trees import Path, at_path

Axes: TypeAlias = Literal["NCHW", "NHWC", "NLD", "LND", "NDL"]
"""The order of a map's axes: `(N, D, h, w)`, `(N, h, w, D)`, or tokens `(N, L, D)`, `(L, N, D)` and `(N, D, L)`.

The first two stand for channels first and last, whatever the number of spatial axes.
"""

_TOKEN_ORDERS: dict[Axes, tuple[int, ...]] = {"NLD": (0, 1, 2), "LND": (1, 0, 2), "NDL": (0, 2, 1)}
"""The axes of each kind of sequence in the order batch, positions, channels."""

_ASPECT_TOLERANCE = 0.16
"""The most by which the logarithms of a map's last two strides may differ."""

_MOST_ENLARGED = 2
"""The most positions for one of the image along an axis whose stride is free: padding adds some."""


@dataclass(frozen=True)
class TokenGrid:
    """Which tokens of a sequence are the image's patches.

    Attributes:
        prefix: The number of tokens before the patches: class, distillation and register tokens.
        suffix: The number of tokens after them.
        grid: (h, w): the patches, row by row; (d, h, w) of a volume, (t,) of a signal.
    """

    prefix: int
    suffix: int
    grid: tuple[int, ...]

    def __len__(self) -> int:
        return self.prefix + math.prod(self.grid) + self.suffix

    @property
    def patches(self) -> slice:
        """The positions of the patches in the sequence."""
        return slice(self.prefix, len(self) - self.suffix)


@dataclass(frozen=True)
class Layout:
    """How the output of a layer is read as a feature map `(N, D, h, w)`, for images of any size.

    The map has as many spatial axes as the images: `(N, D, d, h, w)` for volumes, `(N, D, t)` for signals.

    Attributes:
        axes: The order of its axes.
        prefix: The number of tokens before the patches: class, distillation and register tokens.
        suffix: The number of tokens after the patches.
        element: The keys that lead to the tensor, where the layer returns a tuple, a dict or an output object.
        depth_stride: Of tokens of volumes, how many slices or frames there are for each one of the grid, which the
            number of tokens leaves open; None for the likeliest.
        frames: Of a layer that gets the slices or frames of volumes one by one, `(N·T, D, h, w)`, those of each volume
            after one another, their number T: the map is that of all of them, `(N, D, T, h, w)`. None for any other.

    Example:
        >>> import torch
        >>> tokens = torch.arange(10.0).reshape(1, 5, 2)  # a class token and 2×2 patches, of two channels
        >>> Layout("NLD", prefix=1).read(tokens, (32, 32))[0, 0]
        tensor([[2., 4.],
                [6., 8.]])
    """

    axes: Axes = "NCHW"
    prefix: int = 0
    suffix: int = 0
    element: Path = ()
    depth_stride: float | None = None
    frames: int | None = None

    @property
    def of_one_frame(self) -> Layout:
        """How the map of a single frame is read."""
        return replace(self, frames=None)

    @property
    def batch_axis(self) -> int:
        """The axis of the images."""
        return 1 if self.axes == "LND" else 0

    @property
    def is_tokens(self) -> bool:
        """Whether the map is a sequence of tokens."""
        return self.axes in _TOKEN_ORDERS

    def fits(self, shape: Sequence[int], image_size: Sequence[int]) -> bool:
        """Whether a tensor of this shape has as many axes as the layout."""
        if self.frames is not None:
            is_whole = image_size[0] == self.frames and shape[0] % self.frames == 0
            return is_whole and self.of_one_frame.fits(shape, image_size[1:])
        return len(shape) == (3 if self.is_tokens else 2 + len(image_size))

    def tensor(self, output: Any) -> Tensor:
        """Return the part of the layer's output that is read."""
        tensor: Tensor = at_path(output, self.element)
        return tensor

    def replaced(self, output: Any, tensor: Tensor) -> Any:
        """Return the layer's output with the part that is read replaced."""
        if not self.element:
            return tensor
        return mapped(output, lambda path, value: tensor if path == self.element else value)

    def sequence(self, tensor: Tensor) -> Tensor:
        """Return all positions of the layer's tensor, with the tokens that are no patches: `(N, T, D)`."""
        if self.frames is not None:
            positions = self.of_one_frame.sequence(tensor)
            return positions.reshape(-1, self.frames * positions.shape[1], positions.shape[2])
        if self.is_tokens:
            return tensor.permute(_TOKEN_ORDERS[self.axes])
        return tensor.flatten(2).mT if self.axes == "NCHW" else tensor.flatten(1, -2)

    def token_grid(self, shape: Sequence[int], image_size: Sequence[int]) -> TokenGrid:
        """Return which positions of a tensor of this shape are the image's patches.

        Raises:
            ValueError: The tensor has other axes, or the patches are no grid of the image's aspect.
        """
        if not self.fits(shape, image_size):
            raise OptionError(
                f"Expected the target layer to return {self.axes}, got shape {tuple(shape)} for images of "
                f"{times(image_size)}.",
                "layer",
            )
        if self.frames is not None:
            return TokenGrid(0, 0, (self.frames, *self.of_one_frame.token_grid(shape, image_size[1:]).grid))
        if not self.is_tokens:
            return TokenGrid(0, 0, tuple(shape[2:] if self.axes == "NCHW" else shape[1:-1]))
        length = shape[_TOKEN_ORDERS[self.axes][1]]
        count = length - self.prefix - self.suffix
        grid = grid_of(count, image_size, self.depth_stride)
        if grid is None:
            raise OptionError(
                f"Expected the {length} tokens of the target layer to be {self.prefix} + a grid of the aspect of "
                f"the {times(image_size)} images + {self.suffix}, but {count} are none.",
                "layer",
            )
        return TokenGrid(self.prefix, self.suffix, grid)

    def read(self, tensor: Tensor, image_size: Sequence[int]) -> Tensor:
        """Return the map `(N, D, h, w)`, a view where it can be.

        Args:
            tensor: What `tensor` has returned, or its gradient.
            image_size: (H, W) of the images.

        Raises:
            ValueError: See `token_grid`.
        """
        tokens = self.token_grid(tensor.shape, image_size)
        if self.frames is not None:
            maps: Tensor = self.of_one_frame.read(tensor, image_size[1:]).unflatten(0, (-1, self.frames))
            return maps.movedim(1, 2)
        if self.axes == "NCHW":
            return tensor
        if self.is_tokens:
            tensor = self.sequence(tensor)[:, tokens.patches].unflatten(1, tokens.grid)
        return tensor.movedim(-1, 1)

    def write(self, tensor: Tensor, maps: Tensor, image_size: Sequence[int]) -> Tensor:
        """Return a copy of the layer's tensor with another map `(N, D, h, w)`; other tokens stay as they are."""
        written = tensor.clone()
        self.read(written, image_size).copy_(maps)
        return written


def grid_of(count: int, image_size: Sequence[int], depth_stride: float | None = None) -> tuple[int, ...] | None:
    """Return the grid (h, w) of this many patches whose aspect is nearest to the image's; None if none is near.

    Args:
        count: The number of patches.
        image_size: (H, W) of the images, or the size of volumes or signals.
        depth_stride: See `Layout`.

    Example:
        >>> grid_of(196, (224, 224)), grid_of(24, (64, 96)), grid_of(12, (224, 224))
        ((14, 14), (4, 6), None)
        >>> grid_of(1568, (16, 224, 224), depth_stride=2), grid_of(40, (1000,))
        ((8, 14, 14), (40,))
    """
    grids = grids_of(count, tuple(image_size))
    if depth_stride is not None:
        grids = tuple(sorted(grids, key=lambda grid: abs(math.log(image_size[0] / grid[0] / depth_stride))))
    return next(iter(grids), None)


@lru_cache(maxsize=1024)  # the tokens of most layers are as many
def grids_of(count: int, image_size: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the grids of this many patches that images of this size may be cut into, the likeliest first.

    Of images and signals there is one at most that is likely; of volumes, whose depth has a stride of its own, several.

    Example:
        >>> grids_of(16, (8, 32, 32))
        ((1, 4, 4), (4, 2, 2), (16, 1, 1))
    """
    grids = [grid for grid in _factorizations(count, len(image_size)) if has_aspect(grid, image_size)]
    return tuple(sorted(grids, key=lambda grid: _unevenness(grid, image_size)))


def _factorizations(count: int, num_factors: int) -> Iterator[tuple[int, ...]]:
    """Yield the ways in which a number is a product of so many factors, in their order."""
    if num_factors == 1:
        yield from [(count,)] if count > 0 else []
        return
    for first in range(1, count + 1):
        if count % first == 0:
            yield from ((first, *others) for others in _factorizations(count // first, num_factors - 1))


def has_aspect(grid: Sequence[int], image_size: Sequence[int]) -> bool:
    """Whether a grid has the image's aspect, but for the rounding of its size to whole strides.

    The last two axes have one stride. The depth of a volume and the time of a video have one of their own, which is
    free; so is that of a signal.
    """
    num_free = len(image_size) - 2 if len(image_size) > 1 else 1
    if any(length > _MOST_ENLARGED * whole for length, whole in zip(grid[:num_free], image_size, strict=False)):
        return False
    plane, plane_size = tuple(grid[num_free:]), tuple(image_size[num_free:])
    if _unevenness(plane, plane_size) < _ASPECT_TOLERANCE:
        return True
    strides = range(1, max(plane_size) + 1)
    down = (tuple(length // stride for length in plane_size) for stride in strides)
    up = (tuple(-(-length // stride) for length in plane_size) for stride in strides)
    return plane in {*down, *up}


def _unevenness(grid: Sequence[int], image_size: Sequence[int]) -> float:
    """Return by how much the logarithms of a grid's strides differ, in all."""
    strides = [math.log(whole / length) for length, whole in zip(grid, image_size, strict=True)]
    return sum(abs(stride - other) for stride, other in pairwise(strides))


def plain_layout(shape: Sequence[int], image_size: Sequence[int]) -> Layout | None:
    """Return the layout of a tensor whose shape alone tells it: `(N, D, h, w)` or `(N, h, w, D)`; else None.

    Example:
        >>> plain_layout((2, 64, 7, 7), (224, 224)).axes, plain_layout((2, 7, 7, 64), (224, 224)).axes
        ('NCHW', 'NHWC')
        >>> plain_layout((2, 7, 7, 7), (224, 224)) is None
        True
    """
    if not Layout().fits(shape, image_size):
        return None
    last = has_aspect(shape[2:], image_size)
    middle = has_aspect(shape[1:-1], image_size) and shape[-1] > 1  # else it is a pooled map, (N, D, 1, 1)
    if last and middle:
        return None
    return Layout("NHWC") if middle else Layout("NCHW")


def different_axes(image_size: Sequence[int]) -> tuple[Axes, ...]:
    """Return the orders of axes that a tensor may have, each way to read it once.

    Of signals, a map `(N, t, D)` is a sequence of tokens, and tokens `(N, D, L)` are a map.
    """
    return ("NCHW", "NLD", "LND") if len(image_size) == 1 else get_args(Axes)
