"""`Layout`: how the output of a layer is read as a feature map, whatever its shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor

from lightning_saliency._checks import OptionError
from lightning_saliency.data import mapped
from lightning_saliency.data.trees import Path, at_path

Axes: TypeAlias = Literal["NCHW", "NHWC", "NLD", "LND", "NDL"]
"""The order of a map's axes: `(N, D, h, w)`, `(N, h, w, D)`, or tokens `(N, L, D)`, `(L, N, D)` and `(N, D, L)`."""

_ORDERS: dict[Axes, tuple[int, ...]] = {
    "NCHW": (0, 2, 3, 1),
    "NHWC": (0, 1, 2, 3),
    "NLD": (0, 1, 2),
    "LND": (1, 0, 2),
    "NDL": (0, 2, 1),
}
"""The axes of each kind of map in the order batch, positions, channels."""

_ASPECT_TOLERANCE = 0.16
"""The most by which the logarithms of a map's two strides may differ."""


@dataclass(frozen=True)
class TokenGrid:
    """Which tokens of a sequence are the image's patches.

    Attributes:
        prefix: The number of tokens before the patches: class, distillation and register tokens.
        suffix: The number of tokens after them.
        grid: (h, w): the patches, row by row.
    """

    prefix: int
    suffix: int
    grid: tuple[int, int]

    def __len__(self) -> int:
        return self.prefix + math.prod(self.grid) + self.suffix

    @property
    def patches(self) -> slice:
        """The positions of the patches in the sequence."""
        return slice(self.prefix, len(self) - self.suffix)


@dataclass(frozen=True)
class Layout:
    """How the output of a layer is read as a feature map `(N, D, h, w)`, for images of any size.

    Attributes:
        axes: The order of its axes.
        prefix: The number of tokens before the patches: class, distillation and register tokens.
        suffix: The number of tokens after the patches.
        element: The keys that lead to the tensor, where the layer returns a tuple, a dict or an output object.

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

    @property
    def batch_axis(self) -> int:
        """The axis of the images."""
        return _ORDERS[self.axes][0]

    @property
    def is_tokens(self) -> bool:
        """Whether the map is a sequence of tokens."""
        return len(self.axes) == 3

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape has as many axes as the layout."""
        return len(shape) == len(self.axes)

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
        ordered = tensor.permute(_ORDERS[self.axes])
        return ordered if self.is_tokens else ordered.flatten(1, 2)

    def token_grid(self, shape: Sequence[int], image_size: Sequence[int]) -> TokenGrid:
        """Return which positions of a tensor of this shape are the image's patches.

        Raises:
            ValueError: The tensor has other axes, or the patches are no grid of the image's aspect.
        """
        if not self.fits(shape):
            raise OptionError(f"Expected the target layer to return {self.axes}, got shape {tuple(shape)}.", "layer")
        positions = [shape[axis] for axis in _ORDERS[self.axes][1:-1]]
        if not self.is_tokens:
            return TokenGrid(0, 0, (positions[0], positions[1]))
        count = positions[0] - self.prefix - self.suffix
        grid = grid_of(count, image_size)
        if grid is None:
            raise OptionError(
                f"Expected the {positions[0]} tokens of the target layer to be {self.prefix} + a grid of the aspect of "
                f"the {image_size[0]}×{image_size[1]} images + {self.suffix}, but {count} are none.",
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
        if self.axes == "NCHW":
            return tensor
        patches: Tensor = self.sequence(tensor)[:, tokens.patches].unflatten(1, tokens.grid)
        return patches.permute(0, 3, 1, 2)

    def write(self, tensor: Tensor, maps: Tensor, image_size: Sequence[int]) -> Tensor:
        """Return a copy of the layer's tensor with another map `(N, D, h, w)`; other tokens stay as they are."""
        written = tensor.clone()
        self.read(written, image_size).copy_(maps)
        return written


def grid_of(count: int, image_size: Sequence[int]) -> tuple[int, int] | None:
    """Return the grid (h, w) of this many patches whose aspect is nearest to the image's; None if none is near.

    Example:
        >>> grid_of(196, (224, 224)), grid_of(24, (64, 96)), grid_of(12, (224, 224))
        ((14, 14), (4, 6), None)
    """
    if count < 1:
        return None
    grids = [(count // width, width) for width in range(1, count + 1) if count % width == 0]
    grid = min(grids, key=lambda grid: _aspect_error(grid, image_size))
    return grid if has_aspect(grid, image_size) else None


def has_aspect(grid: Sequence[int], image_size: Sequence[int]) -> bool:
    """Whether a grid has the image's aspect, but for the rounding of its size to whole strides."""
    if _aspect_error(grid, image_size) < _ASPECT_TOLERANCE:
        return True
    strides = range(1, max(image_size) + 1)
    down = (tuple(length // stride for length in image_size) for stride in strides)
    up = (tuple(-(-length // stride) for length in image_size) for stride in strides)
    return tuple(grid) in {*down, *up}


def _aspect_error(grid: Sequence[int], image_size: Sequence[int]) -> float:
    """Return by how much the logarithms of a grid's two strides differ."""
    return abs(math.log(image_size[0] / grid[0]) - math.log(image_size[1] / grid[1]))


def plain_layout(shape: Sequence[int], image_size: Sequence[int]) -> Layout | None:
    """Return the layout of a tensor whose shape alone tells it: `(N, D, h, w)` or `(N, h, w, D)`; else None.

    Example:
        >>> plain_layout((2, 64, 7, 7), (224, 224)).axes, plain_layout((2, 7, 7, 64), (224, 224)).axes
        ('NCHW', 'NHWC')
        >>> plain_layout((2, 7, 7, 7), (224, 224)) is None
        True
    """
    if len(shape) != 4:
        return None
    last, middle = has_aspect(shape[2:], image_size), has_aspect(shape[1:3], image_size)
    if last and middle:
        return None
    return Layout("NHWC") if middle else Layout("NCHW")
