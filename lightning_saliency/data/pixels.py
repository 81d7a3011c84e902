"""`find_step_normalization`: what a step has subtracted from the pixels of its batch, and divided them by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.data.calls import channels_first
from lightning_saliency.data.normalization import PIXELS, Normalization
from lightning_saliency.data.trees import leaves

_ROUNDINGS = 4
"""How many roundings of the largest number may lie between an image and its affine function."""

_FEWEST_PIXELS = 16
"""Of a channel: through fewer there may be a line by chance."""

_SAME = 1e-3
"""How far normalizations of several batches may be apart, on the scale of pixels in [0, 1]."""

_MOST_NUMBERS = 2**23
"""The most numbers that are compared, of two images at least."""


def find_step_normalization(batch: Any, images: Tensor, rows: Sequence[int] = ()) -> Normalization | None:
    """Return the normalization that lies between the pixels of a batch and the images that a model is called with.

    It is read off the numbers, wherever it is written: the batch's pixels are, channel by channel, an affine function
    of the images, up to rounding. Nothing else is taken for one, nor images that are pixels as they are.

    Args:
        batch: The batch of a step: a tensor, list, tuple, named tuple, mapping or dataclass, also nested. Its pixels
            may be bytes, or numbers in [0, 1] or [0, 255]; with the channels last, or one for all channels.
        images: `(N, C, H, W)` or `(N, C, D, H, W)`, as the model takes them.
        rows: The indices of images that are compared before others; of many, not all are.

    Example:
        >>> pixels = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8) % 251
        >>> found = find_step_normalization([pixels.to(torch.uint8), torch.tensor([0, 1])], (pixels / 255 - 0.5) / 0.25)
        >>> [round(number, 4) for number in (*found.mean, *found.std)]
        [0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    """
    if images.dim() < 4 or not images.is_floating_point():
        return None
    count = max(2, _MOST_NUMBERS // max(images[0].numel(), 1))
    compared = list(dict.fromkeys([*rows, *range(min(len(images), count))]))[:count]
    for pixels in _like(batch, images):
        white = _white(pixels[compared])
        normalization = None if white is None else _between(pixels[compared], images[compared], white)
        if normalization is not None:
            return None if _are_same(normalization, PIXELS) else normalization
    return None


def common_normalization(normalizations: Sequence[Normalization | None]) -> Normalization | None:
    """Return the normalization of samples of several batches; None where it is not one for all, or not known.

    Example:
        >>> first, second = Normalization([0.5], [0.25]), Normalization([0.1], [0.3])
        >>> common_normalization([first, None, first]), common_normalization([first, second])
        (Normalization(mean=[0.5], std=[0.25]), None)
    """
    known = [normalization for normalization in normalizations if normalization is not None]
    return known[0] if known and all(_are_same(known[0], other) for other in known) else None


def _like(batch: Any, images: Tensor) -> Iterator[Tensor]:
    """Yield the tensors of a batch that have the shape of images, channels first; gray ones once for each channel."""
    for _, value in leaves(batch):
        if not isinstance(value, Tensor) or value.is_complex() or value.layout != torch.strided:
            continue
        if value.dim() == images.dim() - 1:
            value = value[:, None]
        if value.dim() == images.dim():
            pixels = channels_first(value)
            if pixels.shape[1] in (1, images.shape[1]) and pixels[:, 0].shape == images[:, 0].shape:
                yield pixels.expand_as(images)


def _white(pixels: Tensor) -> float | None:
    """Return the value of a white pixel in images: 255 of bytes; None where they are no pixels."""
    if pixels.dtype == torch.uint8:
        return 255.0
    numbers = pixels.detach().float()
    if PIXELS.fits([numbers]):
        return 1.0
    is_bright = bool(numbers.max() > 255 / 2)  # else they are of any other range
    return 255.0 if is_bright and Normalization([0.0], [1 / 255]).fits([numbers]) else None


def _between(pixels: Tensor, images: Tensor, white: float) -> Normalization | None:
    """Return what makes images of pixels, up to rounding; None where there is nothing of the kind."""
    x, y = (_by_channel(values) for values in (images, pixels))
    y = y / white
    if x.shape[1] < _FEWEST_PIXELS:
        return None
    centered = x - x.mean(1, keepdim=True)
    variance = (centered**2).mean(1)
    std = (centered * (y - y.mean(1, keepdim=True))).mean(1) / variance
    std = std.where(x.amax(1) > x.amin(1), 1.0)  # of a constant channel any number, if it is one before too
    mean = y.mean(1) - std * x.mean(1)
    largest = y.abs().amax(1) + (std * x.abs().amax(1)).abs() + mean.abs()
    residual = (std[:, None] * x + mean[:, None] - y).abs().amax(1)
    dtypes = [values.dtype for values in (images, pixels) if values.is_floating_point()]
    precision = max(torch.finfo(dtype).eps for dtype in (*dtypes, torch.float32))  # whatever the last of the steps is
    if not bool(((residual <= _ROUNDINGS * precision * largest) & (std > 0)).all()):
        return None
    return Normalization(mean.tolist(), std.tolist())


def _by_channel(images: Tensor) -> Tensor:
    """Return the pixels of each channel of all images, `(C, P)`."""
    return images.detach().cpu().double().transpose(0, 1).flatten(1)


def _are_same(normalization: Normalization, other: Normalization) -> bool:
    if len({len(normalization.mean), len(other.mean), 1}) > 2:
        return False
    (mean, std), (other_mean, other_std) = (map(torch.tensor, numbers) for numbers in (normalization, other))
    return bool(((mean - other_mean).abs() <= _SAME).all() and ((std / other_std).log().abs() <= _SAME).all())
