"""Model inputs as RGB pictures: tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lightning_saliency._checks import OptionError
from lightning_saliency.data import over_axes

Channels: TypeAlias = Literal["first", "mean"] | Sequence[int]
"""Which channels of an image are shown; see `to_rgb`."""

Images: TypeAlias = Tensor | Sequence[Tensor]
"""A batch `(N, C, H, W)`, or for images of several sizes a sequence of N tensors `(C, H, W)`."""

MOST_CURVES = 8
"""The most channels of a signal that are shown."""


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
        images: `(N, C, H, W)`, of any real dtype, on any device. One channel is shown as gray, three as RGB. Or volumes
            `(N, C, D, H, W)`.
        mean: What was subtracted in normalizing: one number per channel, or one for all.
        std: What was divided by in normalizing: one number per channel, or one for all.
        channels: What is shown of an image with neither one nor three channels: the `"first"` three as RGB (of two, the
            mean), of a volume the first one as gray; or the `"mean"` of all as gray. Of any image, three positions from
            0 for red, green and blue, or one for gray. `shown_channels` puts it in words.

    Returns:
        `(N, 3, H, W)`, uint8, on the CPU; of volumes `(N, 3, D, H, W)` in color or `(N, 1, D, H, W)` in gray.

    Raises:
        ValueError: `images` is not a non-empty `(N, C, H, W)` of real numbers, only one of `mean` and `std` is given or
            has the wrong length, or `channels` is unknown or not of these images.

    Example:
        >>> normalized = (torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3) - 0.5) / 0.25
        >>> to_rgb(normalized, mean=0.5, std=0.25)[0, 0]
        tensor([[  0, 128, 255]], dtype=torch.uint8)
    """
    if images.ndim not in (4, 5) or images.numel() == 0 or images.is_complex():
        raise ValueError(
            f"Expected `images` to be a non-empty (N, C, H, W) of real numbers, "
            f"got shape {tuple(images.shape)}, {images.dtype}."
        )
    if (mean is None) != (std is None):
        raise ValueError(f"Expected `mean` and `std` together or neither, got mean={mean}, std={std}.")
    _check_channels(channels)
    pixels = images.detach().to("cpu", torch.float32)
    if mean is not None and std is not None:
        pixels = (pixels * _per_channel("std", std, pixels)).add_(_per_channel("mean", mean, pixels))
        pixels = select_channels(pixels, channels).nan_to_num_(0.0, 0.0, 0.0).clamp_(0, 1)
    else:
        pixels = _stretch(select_channels(pixels, channels))
    return with_colors(pixels.mul_(255).round_().to(torch.uint8))


def to_curves(signals: Tensor, channels: Channels = "first") -> Tensor:
    """Turn signals into curves that fill the height at which they are drawn, each channel on its own scale.

    Args:
        signals: `(N, C, T)`, of any real dtype, on any device. What is not finite is shown as the minimum.
        channels: The `"first"` eight of more channels, the `"mean"` of all of them, or those of the given positions.

    Returns:
        `(N, c, T)`, uint8, on the CPU: each channel from 0 to 255; a constant one is 128.

    Example:
        >>> to_curves(torch.tensor([[[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]]]))
        tensor([[[  0, 128, 255],
                 [128, 128, 128]]], dtype=torch.uint8)
    """
    values = signals.detach().to("cpu", torch.float32)
    if channels == "mean":
        values = values.mean(1, keepdim=True)
    else:
        values = values[:, :MOST_CURVES] if channels == "first" else values[:, _positions(channels, values.shape[1])]
    rows = _stretch(values.flatten(0, 1)[:, None]).view(values.shape)
    return rows.mul_(255).round_().to(torch.uint8)


def with_colors(pixels: Tensor) -> Tensor:
    """Return gray images `(N, 1, H, W)` as RGB; gray volumes stay as they are."""
    return pixels.expand(-1, 3, -1, -1).contiguous() if pixels.dim() == 4 else pixels


def shown_channels(num_channels: int, channels: Channels = "first", num_axes: int = 2) -> str:
    """Say which channels `to_rgb` or `to_curves` shows, in a few words for a picture's note.

    Args:
        num_channels: The channels C of the images.
        channels: As for `to_rgb`.
        num_axes: The number of spatial axes: 2 of images, 3 of volumes, 1 of signals.

    Returns:
        The note, or an empty string where all is shown: of one or three channels, and of up to eight of a signal.

    Raises:
        ValueError: `channels` is unknown, or `num_channels` is not positive.

    Example:
        >>> shown_channels(12)
        'channels 1–3 of 12'
        >>> shown_channels(12, "mean"), shown_channels(12, [3, 2, 1])
        ('mean of 12 channels', 'channels 4, 3, 2 of 12')
        >>> shown_channels(4, num_axes=3), shown_channels(12, num_axes=1)
        ('channel 1 of 4', 'channels 1–8 of 12')
    """
    _check_channels(channels)
    if num_channels < 1:
        raise ValueError(f"Expected `num_channels` to be at least 1, got {num_channels}.")
    if not isinstance(channels, str):
        positions = [position + 1 for position in _positions(channels, num_channels)]
        return f"channel{'s' * (len(positions) > 1)} {', '.join(map(str, positions))} of {num_channels}"
    count = min(num_channels, MOST_CURVES) if num_axes == 1 else _count_shown(num_channels, num_axes)
    if count == num_channels and (channels == "first" or num_axes > 1 or num_channels == 1):
        return ""
    if channels == "mean" or count == 0:
        return f"mean of {num_channels} channels"
    return f"channels 1–{count} of {num_channels}" if count > 1 else f"channel 1 of {num_channels}"


def select_channels(pixels: Tensor, channels: Channels) -> Tensor:
    """Return the one or three channels of `(N, C, H, W)` or `(N, C, D, H, W)` that are shown; see `to_rgb`."""
    if not isinstance(channels, str):
        positions = _positions(channels, pixels.shape[1])
        if len(positions) not in (1, 3):
            message = f"Expected `style.channels` to hold three positions, or one for gray, got {list(positions)}."
            raise OptionError(message, "style.channels")
        return pixels[:, positions]
    count = _count_shown(pixels.shape[1], pixels.dim() - 2)
    if count == pixels.shape[1]:
        return pixels
    return pixels[:, :count] if channels == "first" and count else pixels.mean(1, keepdim=True)


def _count_shown(num_channels: int, num_axes: int) -> int:
    """Return how many of the channels of images or volumes can be shown: three, or one; 0 for the mean of two."""
    if num_channels in (1, 3):
        return num_channels
    return 1 if num_axes == 3 else 3 if num_channels > 3 else 0


def check_picture(name: str, images: Tensor) -> None:
    """Refuse what is no batch of pictures: of images, volumes in gray or in color, or curves."""
    if images.ndim == 4 or images.ndim not in (3, 5):
        check_rgb(name, images)
    elif images.numel() == 0 or images.dtype != torch.uint8 or (images.ndim == 5 and images.shape[1] not in (1, 3)):
        raise ValueError(
            f"Expected `{name}` to be volumes (N, 1, D, H, W) or (N, 3, D, H, W), or signals (N, C, T), of "
            f"torch.uint8, got shape {tuple(images.shape)}, {images.dtype}."
        )


def check_rgb(name: str, images: Tensor, ndim: int = 4) -> None:
    """Refuse what is not a uint8 `(N, 3, H, W)`, or with `ndim=3` a `(3, H, W)`; `name` is what the caller calls it."""
    if images.ndim != ndim or images.shape[-3] != 3 or images.numel() == 0 or images.dtype != torch.uint8:
        shape = "(N, 3, H, W)" if ndim == 4 else "(3, H, W)"
        raise ValueError(
            f"Expected `{name}` to be a non-empty {shape} of torch.uint8, "
            f"got shape {tuple(images.shape)}, {images.dtype}."
        )


def _check_channels(channels: Channels) -> None:
    if isinstance(channels, str) and channels not in ("first", "mean"):
        raise ValueError(f'Expected `channels` to be "first", "mean" or positions, got {channels!r}.')


def _positions(channels: Sequence[int], num_channels: int) -> list[int]:
    """Return positions of channels as a list, and refuse those that the images do not have."""
    positions = list(channels)
    if not positions or not all(0 <= position < num_channels for position in positions):
        raise OptionError(
            f"Expected `style.channels` to be positions below the images' {num_channels} channels, got {positions}.",
            "style.channels",
        )
    return positions


def _per_channel(name: str, value: float | Sequence[float], pixels: Tensor) -> Tensor:
    count = pixels.shape[1]
    numbers = torch.as_tensor(value, dtype=torch.float32, device="cpu").flatten()
    if len(numbers) not in (1, count):
        raise OptionError(f"Expected `{name}` to hold 1 number or {count}, one per channel, got {len(numbers)}.", name)
    return over_axes(numbers, pixels[0])


def _stretch(pixels: Tensor) -> Tensor:
    finite = pixels.isfinite()
    low = over_axes(torch.where(finite, pixels, torch.inf).flatten(1).amin(1), pixels)
    high = over_axes(torch.where(finite, pixels, -torch.inf).flatten(1).amax(1), pixels)
    span = high - low
    # a mean over channels may scatter a constant image by its last bits: noise, not a picture
    constant = ~(span > 1e-6 * torch.maximum(low.abs(), high.abs()))
    stretched = torch.where(finite, (pixels - low) / span, 0).nan_to_num_(0.0)
    return torch.where(constant, 0.5, stretched)
