"""Model inputs as RGB pictures: tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lightning_saliency._checks import OptionError

Channels: TypeAlias = Literal["first", "mean"]
"""What is shown of an image with neither one nor three channels; see `to_rgb`."""

Images: TypeAlias = Tensor | Sequence[Tensor]
"""A batch `(N, C, H, W)`, or for images of several sizes a sequence of N tensors `(C, H, W)`."""


def to_rgb(
    images: Tensor,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    channels: Channels = "first",
) -> Tensor:
    """Turn model inputs back into pictures.

    With `mean` and `std` the normalization is undone, ``images * std + mean``, and clamped to [0, 1]. Without them each
    image is stretched to its own range: its minimum becomes black, its maximum white, and a constant image mid gray.
    Pixels that are not finite are shown as the minimum.

    Args:
        images: `(N, C, H, W)`, of any real dtype, on any device. One channel is shown as gray, three as RGB.
        mean: What was subtracted in normalizing: one number per channel, or one for all.
        std: What was divided by in normalizing: one number per channel, or one for all.
        channels: What is shown of an image with neither one nor three channels: the `"first"` three as RGB (of two, the
            mean), or the `"mean"` of all as gray. `shown_channels` puts it in words.

    Returns:
        `(N, 3, H, W)`, uint8, on the CPU.

    Raises:
        ValueError: `images` is not a non-empty `(N, C, H, W)` of real numbers, only one of `mean` and `std` is given or
            has the wrong length, or `channels` is unknown.

    Example:
        >>> normalized = (torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3) - 0.5) / 0.25
        >>> to_rgb(normalized, mean=0.5, std=0.25)[0, 0]
        tensor([[  0, 128, 255]], dtype=torch.uint8)
    """
    if images.ndim != 4 or images.numel() == 0 or images.is_complex():
        raise ValueError(
            f"Expected `images` to be a non-empty (N, C, H, W) of real numbers, "
            f"got shape {tuple(images.shape)}, {images.dtype}."
        )
    if (mean is None) != (std is None):
        raise ValueError(f"Expected `mean` and `std` together or neither, got mean={mean}, std={std}.")
    _check_channels(channels)
    pixels = images.detach().to("cpu", torch.float32)
    if mean is not None and std is not None:
        count = images.shape[1]
        pixels = (pixels * _per_channel("std", std, count)).add_(_per_channel("mean", mean, count))
        pixels = select_channels(pixels, channels).nan_to_num_(0.0, 0.0, 0.0).clamp_(0, 1)
    else:
        pixels = _stretch(select_channels(pixels, channels))
    return pixels.mul_(255).round_().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()


def shown_channels(num_channels: int, channels: Channels = "first") -> str:
    """Say which channels `to_rgb` shows, in a few words for a picture's note.

    Args:
        num_channels: The channels C of the images.
        channels: As for `to_rgb`.

    Returns:
        The note, or an empty string for one or three channels, where all is shown.

    Raises:
        ValueError: `channels` is unknown, or `num_channels` is not positive.

    Example:
        >>> shown_channels(12)
        'channels 1–3 of 12'
        >>> shown_channels(12, "mean")
        'mean of 12 channels'
    """
    _check_channels(channels)
    if num_channels < 1:
        raise ValueError(f"Expected `num_channels` to be at least 1, got {num_channels}.")
    if num_channels in (1, 3):
        return ""
    if channels == "mean" or num_channels < 3:
        return f"mean of {num_channels} channels"
    return f"channels 1–3 of {num_channels}"


def select_channels(pixels: Tensor, channels: Channels) -> Tensor:
    """Return the one or three channels of `(N, C, H, W)` that are shown; see `to_rgb`."""
    if pixels.shape[1] in (1, 3):
        return pixels
    if channels == "mean" or pixels.shape[1] < 3:
        return pixels.mean(1, keepdim=True)
    return pixels[:, :3]


def check_rgb(name: str, images: Tensor, ndim: int = 4) -> None:
    """Refuse what is not a uint8 `(N, 3, H, W)`, or with `ndim=3` a `(3, H, W)`; `name` is what the caller calls it."""
    if images.ndim != ndim or images.shape[-3] != 3 or images.numel() == 0 or images.dtype != torch.uint8:
        shape = "(N, 3, H, W)" if ndim == 4 else "(3, H, W)"
        raise ValueError(
            f"Expected `{name}` to be a non-empty {shape} of torch.uint8, "
            f"got shape {tuple(images.shape)}, {images.dtype}."
        )


def _check_channels(channels: str) -> None:
    if channels not in ("first", "mean"):
        raise ValueError(f'Expected `channels` to be "first" or "mean", got {channels!r}.')


def _per_channel(name: str, value: float | Sequence[float], count: int) -> Tensor:
    numbers = torch.as_tensor(value, dtype=torch.float32, device="cpu").flatten()
    if len(numbers) not in (1, count):
        raise OptionError(f"Expected `{name}` to hold 1 number or {count}, one per channel, got {len(numbers)}.", name)
    return numbers.view(-1, 1, 1)


def _stretch(pixels: Tensor) -> Tensor:
    finite = pixels.isfinite()
    low = torch.where(finite, pixels, torch.inf).amin((1, 2, 3), keepdim=True)
    high = torch.where(finite, pixels, -torch.inf).amax((1, 2, 3), keepdim=True)
    span = high - low
    # a mean over channels may scatter a constant image by its last bits: noise, not a picture
    constant = ~(span > 1e-6 * torch.maximum(low.abs(), high.abs()))
    stretched = torch.where(finite, (pixels - low) / span, 0).nan_to_num_(0.0)
    return torch.where(constant, 0.5, stretched)
