"""`find_placement`: where a network's input lies on the photograph, read off what the transform does to coordinates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

_LEVELS = 255
_TOLERANCE = 1.5 / _LEVELS
"""How far a coordinate may be from a line, of the side of the photograph: an image of it has 8 bits."""

_LEAST_POINTS = 16
_DIGITS = 5
"""To which a normalization is rounded, as a run of the transform in float32 shows it."""


@dataclass(frozen=True)
class Placement:
    """Where a network's input lies on the photograph that it was cut from.

    Attributes:
        size: (H, W) of the photograph.
        input_size: (h, w) of the network's input.
        scale: How many pixels of the photograph one of the input stands for, down and across; negative where flipped.
        offset: Where on the photograph the input's upper left corner lies, (y, x) in pixels.
        mean: What is subtracted from each channel of pixels in [0, 1].
        std: What it is divided by.
    """

    size: tuple[int, int]
    input_size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def on_photo(self, maps: Tensor) -> Tensor:
        """Return maps of the input `(N, C, h, w)` on the photograph, `(N, C, H, W)`, 0 where the network sees nothing.

        Example:
            >>> placement = Placement((4, 8), (2, 2), (2.0, 2.0), (0.0, 2.0), (0.0,), (1.0,))
            >>> placement.on_photo(torch.ones(1, 1, 2, 2))[0, 0, 0]
            tensor([0., 0., 1., 1., 1., 1., 0., 0.])
        """
        down, across = self._input_coordinates()
        grid = torch.stack(torch.broadcast_tensors(across[None, :], down[:, None]), dim=-1)[None] * 2 - 1
        sampled = F.grid_sample(
            maps.float(), grid.expand(len(maps), -1, -1, -1), padding_mode="border", align_corners=False
        )
        return sampled * self.seen

    @property
    def seen(self) -> Tensor:
        """Which pixels of the photograph the network sees, bool `(H, W)`."""
        down, across = (((axis >= 0) & (axis <= 1)) for axis in self._input_coordinates())
        return down[:, None] & across[None, :]

    def _input_coordinates(self) -> tuple[Tensor, Tensor]:
        """Return where each row and each column of the photograph lies in the input, in [0, 1] from end to end."""
        axes = zip(self.size, self.input_size, self.scale, self.offset, strict=True)
        down, across = (
            (torch.arange(length) + 0.5 - offset) / (scale * input_length)
            for length, input_length, scale, offset in axes
        )
        return down, across


def find_placement(transform: Callable[[Image.Image], Any], size: tuple[int, int]) -> Placement | None:
    """Find what of a photograph a transform shows to the network: by running it on images of the coordinates.

    Black and white images show the normalization and what is padding; images that are as bright as their x, and their
    y, show from where each pixel of the result comes. So it works for any transform, and tells of one that does
    something else than to resize, crop, pad and flip.

    Args:
        transform: From an RGB image of Pillow to a tensor `(C, h, w)`.
        size: (H, W) of the photograph.

    Returns:
        The placement; None for a transform that is random, rotates or distorts, or whose pixels are not linear in the
        photograph's.

    Example:
        >>> from torchvision.transforms import v2
        >>> steps = [v2.ToImage(), v2.Resize(32), v2.CenterCrop(32), v2.ToDtype(torch.float32, scale=True)]
        >>> placement = find_placement(v2.Compose(steps), (64, 96))
        >>> [round(value) for value in (*placement.scale, *placement.offset)]
        [2, 2, 0, 16]
    """
    height, width = size
    columns = np.broadcast_to((np.arange(width) + 0.5) / width, size)
    rows = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], size)
    black, white, across, again, down = (
        transform(_gray(values)) for values in (np.zeros(size), np.ones(size), columns, columns, rows)
    )
    if not all(_is_image(result) and result.shape == black.shape for result in (black, white, across, again, down)):
        return None
    span = white - black
    is_photo = (span.abs() > span.abs().amax() / 2).all(0)
    if not torch.equal(across, again) or int(is_photo.sum()) < _LEAST_POINTS:
        return None
    low, gain = black[:, is_photo].median(1).values, span[:, is_photo].median(1).values

    def fraction(result: Tensor) -> Tensor:
        values: Tensor = (result - low[:, None, None]) / gain[:, None, None]
        return values.mean(0)

    x = _fit(fraction(across), is_photo, width, axis=1)
    y = _fit(fraction(down), is_photo, height, axis=0)
    if x is None or y is None:
        return None
    return Placement(
        size,
        (int(black.shape[1]), int(black.shape[2])),
        (y[0], x[0]),
        (y[1], x[1]),
        tuple(round(float(value), _DIGITS) for value in -low / gain),
        tuple(round(float(value), _DIGITS) for value in 1 / gain),
    )


def _fit(fractions: Tensor, is_photo: Tensor, length: int, axis: int) -> tuple[float, float] | None:
    """Return the scale and the offset of an axis, in pixels of the photograph; None where there is no line.

    Args:
        fractions: Of each pixel of the input, where it comes from on the photograph, in [0, 1].
        is_photo: Which of these are no padding.
        length: Of the photograph along the axis.
        axis: Of the input, 0 down, 1 across.
    """
    # beside the borders, where a resize repeats the last pixels
    margin = 1 / length + 1 / _LEVELS
    inside = is_photo & (fractions > margin) & (fractions < 1 - margin)
    if int(inside.sum()) < _LEAST_POINTS:
        inside = is_photo
    positions = torch.arange(fractions.shape[axis], dtype=torch.float64) + 0.5
    along = positions[:, None].expand(fractions.shape) if axis == 0 else positions.expand(fractions.shape)
    x, y = along[inside], fractions[inside].double()
    spread = (x - x.mean()).square().mean()
    if spread == 0:
        return None
    slope = ((x - x.mean()) * (y - y.mean())).mean() / spread
    start = y.mean() - slope * x.mean()
    if slope == 0 or (y - start - slope * x).abs().max() > _TOLERANCE + 0.25 / length:
        return None
    return float(slope) * length, float(start) * length


def _gray(values: Any) -> Image.Image:
    return Image.fromarray((values * _LEVELS).round().astype(np.uint8)).convert("RGB")


def _is_image(result: Any) -> bool:
    return isinstance(result, Tensor) and result.dim() == 3 and result.is_floating_point() and result.numel() > 0
