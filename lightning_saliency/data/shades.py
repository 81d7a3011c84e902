"""`find_own_normalization`: what was subtracted from pixels, and divided by, as far as the numbers alone prove it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_saliency.data.normalization import PIXELS, Normalization

_PUBLISHED = (
    Normalization([0.5], [0.5]),  # to [-1, 1]
    Normalization([0.5], [1.0]),
    Normalization([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),  # ImageNet's
    Normalization([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),  # CLIP's
    Normalization([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),  # CIFAR-10's
    Normalization([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),  # the same, as many repositories have it
    Normalization([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]),  # CIFAR-100's
    Normalization([0.1307], [0.3081]),  # MNIST's
    Normalization([0.2860], [0.3530]),  # Fashion-MNIST's
    Normalization([0.0], [1 / 255]),  # bytes as floating-point numbers
)
"""Normalizations that are in use, each of which is only taken where every pixel bears it out."""

_STEPS = 255
"""From black to white, of bytes."""

_ROUNDINGS = 4
"""How many roundings may lie between a pixel and the whole number that it was."""

_LARGEST_ERROR = 0.05
"""The largest rounding, in steps, with which a number that is whole can be told from one that is not."""

_BRIGHT = 0.5
"""What the brightest of all pixels in [0, 1] reach at least, where nothing else tells that 1 is white."""

_SLACK = 0.1
"""How far below black and above white interpolation may lead."""

_MOST_CHANNELS = 4
"""The most channels of a picture: red, green, blue and alpha. What has more are measurements."""

_FIRST_TRIED = 2**10
"""The pixels of each channel that are tried before all, since most normalizations are refused by few."""


def find_own_normalization(images: Sequence[Tensor]) -> Normalization | None:
    """Return the normalization that images themselves tell, wherever it was written; `PIXELS` where there is none.

    It is proven by the numbers, not guessed. Bytes have 256 shades: with the right mean and deviation undone, each
    pixel is a whole number of 255ths, and with no other ones. This is tried for pixels as they are, for the published
    normalizations, and, where black, white and neighboring shades occur in each channel, for any. A published one is
    also taken where the least of each channel is black and the largest white. Pixels of pictures that lie in [0, 1],
    bright ones among them, are taken as they are.

    Args:
        images: Batches `(N, C, …)` of floating-point numbers, as the model takes them.

    Returns:
        The normalization; None where the numbers do not tell.

    Example:
        >>> import torch
        >>> pixels = torch.arange(3 * 16 * 16).view(1, 3, 16, 16) % 200 / 255
        >>> found = find_own_normalization([(pixels - 0.5) / 0.5])
        >>> found, find_own_normalization([pixels]) == PIXELS, find_own_normalization([pixels.sqrt() * 3])
        (Normalization(mean=[0.5], std=[0.5]), True, None)
    """
    if not images or len({batch.shape[1] for batch in images}) > 1:
        return None
    if not all(batch.is_floating_point() and batch.numel() for batch in images):
        return None
    channels = torch.cat([batch.detach().cpu().transpose(0, 1).flatten(1) for batch in images], 1)
    low, high = (limits.double() for limits in channels.aminmax(dim=1))
    if not bool(low.isfinite().all() and high.isfinite().all()):
        return None
    if bool(low.min() >= -_SLACK and high.max() <= 1 + _SLACK and high.max() >= _BRIGHT):
        return PIXELS if len(channels) <= _MOST_CHANNELS or _are_bytes(channels, PIXELS) else None
    for normalization in (PIXELS, *_PUBLISHED):
        if len(normalization.mean) in (1, len(channels)) and (
            _are_black_and_white(low, high, normalization, channels.dtype) or _are_bytes(channels, normalization)
        ):
            return normalization
    return _of_all_shades(channels, low, high)


def _are_bytes(channels: Tensor, normalization: Normalization) -> bool:
    """Whether each pixel, with the normalization undone, is a whole number of 255ths from black to white."""
    mean, std = (torch.tensor(numbers, dtype=torch.float64)[:, None] for numbers in normalization)
    for pixels in (channels[:, :: max(1, channels.shape[1] // _FIRST_TRIED)], channels):
        steps = (pixels.double() * std + mean) * _STEPS
        whole = steps.round()
        error = _error(float(pixels.abs().max()), mean, std, channels.dtype)
        if error > _LARGEST_ERROR or bool((steps - whole).abs().max() > error):
            return False
        if bool(whole.min() < 0 or whole.max() > _STEPS):
            return False
    # bytes as they are could be small whole numbers of any kind
    return bool(std.max() * _STEPS > 1.5 or whole.max() > _STEPS / 2)


def _are_black_and_white(low: Tensor, high: Tensor, normalization: Normalization, dtype: torch.dtype) -> bool:
    """Whether the least of each channel is black, and its largest white, up to rounding."""
    mean, std = (torch.tensor(numbers, dtype=torch.float64) for numbers in normalization)
    error = _error(float(torch.maximum(low.abs(), high.abs()).max()), mean, std, dtype)
    black, white = ((limits * std + mean) * _STEPS for limits in (low, high))
    return error <= _LARGEST_ERROR and bool(torch.maximum(black.abs(), (white - _STEPS).abs()).max() <= error)


def _of_all_shades(channels: Tensor, low: Tensor, high: Tensor) -> Normalization | None:
    """Return the normalization of bytes of which each channel has black, white and shades that are neighbors."""
    if not bool((high > low).all()):
        return None
    std = 1 / (high - low)
    normalization = Normalization((-low * std).tolist(), std.tolist())
    if not _are_bytes(channels, normalization):
        return None
    for shades in ((channels.double() - low[:, None]) * std[:, None] * _STEPS).round():
        occurs = shades.long().bincount(minlength=_STEPS + 1) > 0
        if not bool((occurs[1:] & occurs[:-1]).any()):
            return None
    return normalization


def _error(largest: float, mean: Tensor, std: Tensor, dtype: torch.dtype) -> float:
    """Return by how many 255ths rounding may have moved a pixel, of numbers up to the largest."""
    return _ROUNDINGS * torch.finfo(dtype).eps * _STEPS * (largest * float(std.max()) + float(mean.abs().max()) + 1)
