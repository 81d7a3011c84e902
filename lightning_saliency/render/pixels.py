"""Model inputs as pictures, heatmaps as colours, and both as overlays: tensors in, tensors out."""

import difflib
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import matplotlib
import numpy as np
import torch
from torch import Tensor

Channels = Literal["first", "mean"]

_TOLERANCE = 1e-3  # half precision and interpolation may leave [0, 1] by that much


def to_rgb(
    images: Tensor,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    channels: Channels = "first",
) -> Tensor:
    """Turn model inputs back into pictures.

    With `mean` and `std` the normalisation is undone, ``images * std + mean``, and clamped to [0, 1]. Without them each
    image is stretched to its own range: its minimum becomes black, its maximum white, and a constant image mid grey.
    Pixels that are not finite are shown as the minimum.

    Args:
        images: `(N, C, H, W)`, of any real dtype, on any device. One channel is shown as grey, three as RGB.
        mean: What was subtracted in normalising: one number per channel, or one for all.
        std: What was divided by in normalising: one number per channel, or one for all.
        channels: What is shown of an image with neither one nor three channels: the `"first"` three as RGB (of two, the
            mean), or the `"mean"` of all as grey. `shown_channels` puts it in words.

    Returns:
        `(N, 3, H, W)`, uint8, on the CPU.

    Raises:
        ValueError: If `images` is not a non-empty `(N, C, H, W)` of real numbers, if only one of `mean` and `std` is
            given or has the wrong length, or if `channels` is unknown.

    Example:
        >>> normalised = (torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3) - 0.5) / 0.25
        >>> to_rgb(normalised, mean=0.5, std=0.25)[0, 0]
        tensor([[  0, 128, 255]], dtype=torch.uint8)
    """
    if images.ndim != 4 or images.numel() == 0 or images.is_complex():
        raise ValueError(
            f"Expected `images` to be a non-empty (N, C, H, W) of real numbers, "
            f"got shape {tuple(images.shape)}, {images.dtype}"
        )
    if (mean is None) != (std is None):
        raise ValueError(f"Expected `mean` and `std` together or neither, got mean={mean}, std={std}")
    _check_channels(channels)
    pixels = images.detach().to("cpu", torch.float32)
    if mean is not None and std is not None:
        count = images.shape[1]
        pixels = (pixels * _per_channel("std", std, count)).add_(_per_channel("mean", mean, count))
        pixels = _select(pixels, channels).nan_to_num_(0.0, 0.0, 0.0).clamp_(0, 1)
    else:
        pixels = _stretch(_select(pixels, channels))
    return pixels.mul_(255).round_().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()


def shown_channels(num_channels: int, channels: Channels = "first") -> str:
    """Say which channels `to_rgb` shows, in a few words for a picture's note.

    Args:
        num_channels: The channels C of the images.
        channels: As for `to_rgb`.

    Returns:
        The note, or an empty string for one or three channels, where all is shown.

    Raises:
        ValueError: If `channels` is unknown or `num_channels` is not positive.

    Example:
        >>> shown_channels(12)
        'channels 1–3 of 12'
        >>> shown_channels(12, "mean")
        'mean of 12 channels'
    """
    _check_channels(channels)
    if num_channels < 1:
        raise ValueError(f"Expected `num_channels` to be at least 1, got {num_channels}")
    if num_channels in (1, 3):
        return ""
    if channels == "mean" or num_channels < 3:
        return f"mean of {num_channels} channels"
    return f"channels 1–3 of {num_channels}"


def colorize(heatmaps: Tensor, colormap: str = "turbo") -> Tensor:
    """Colour heatmaps by a colour map of matplotlib, looked up in a table of 256 entries.

    Args:
        heatmaps: `(N, 1, H, W)` in [0, 1].
        colormap: The name of a matplotlib colour map.

    Returns:
        `(N, 3, H, W)`, uint8, on the heatmaps' device.

    Raises:
        ValueError: If `heatmaps` has another shape or leaves [0, 1], or if no colour map has that name.

    Example:
        >>> colorize(torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3), "gray")[0, 0]
        tensor([[  0, 128, 255]], dtype=torch.uint8)
    """
    check_heatmaps("heatmaps", heatmaps)
    table = color_table(colormap).to(heatmaps.device)
    index = (heatmaps.detach()[:, 0].float() * 256).long().clamp_(0, 255)
    colours = table.index_select(0, index.flatten()).view(*index.shape, 3)  # a third of the time of table[index]
    return colours.permute(0, 3, 1, 2).contiguous()


def overlay(images: Tensor, heatmaps: Tensor, colormap: str = "turbo", alpha: float = 0.5) -> Tensor:
    """Lay heatmaps over their images: ``(1 - alpha) * image + alpha * colour``, rounded.

    Args:
        images: `(N, 3, H, W)`, uint8, as `to_rgb` returns them.
        heatmaps: `(N, 1, H, W)` in [0, 1], on the same device.
        colormap: The name of a matplotlib colour map.
        alpha: The weight of the colour, in [0, 1].

    Returns:
        `(N, 3, H, W)`, uint8.

    Raises:
        ValueError: If a shape, a dtype or a range differs from the above, or if no colour map has that name.

    Example:
        >>> black, white = torch.zeros(1, 3, 1, 1, dtype=torch.uint8), torch.ones(1, 1, 1, 1)
        >>> overlay(black, white, "gray", alpha=0.4).flatten()
        tensor([102, 102, 102], dtype=torch.uint8)
    """
    check_images(images)
    check_heatmaps("heatmaps", heatmaps)
    if (images.shape[0], *images.shape[2:]) != (heatmaps.shape[0], *heatmaps.shape[2:]):
        raise ValueError(
            f"Expected `heatmaps` to match `images` {tuple(images.shape)} in N, H and W, got {tuple(heatmaps.shape)}"
        )
    check_alpha(alpha)
    colours = colorize(heatmaps, colormap).float().mul_(alpha)
    return colours.add_(images, alpha=1 - alpha).round_().to(torch.uint8)


def _check_channels(channels: str) -> None:
    if channels not in ("first", "mean"):
        raise ValueError(f'Expected `channels` to be "first" or "mean", got {channels!r}')


def check_alpha(alpha: float) -> None:
    """Refuse a weight that is not in [0, 1]."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"Expected `alpha` to be in [0, 1], got {alpha}")


def check_images(images: Tensor) -> None:
    """Refuse what is not uint8 `(N, 3, H, W)`."""
    if images.ndim != 4 or images.shape[1] != 3 or images.numel() == 0 or images.dtype != torch.uint8:
        raise ValueError(
            f"Expected `images` to be a non-empty (N, 3, H, W) of torch.uint8, as `to_rgb` returns it, "
            f"got shape {tuple(images.shape)}, {images.dtype}"
        )


def check_heatmaps(name: str, heatmaps: Tensor) -> None:
    """Refuse what is not `(N, 1, H, W)` in [0, 1]; `name` is what the caller calls it."""
    if heatmaps.ndim != 4 or heatmaps.shape[1] != 1 or heatmaps.numel() == 0 or not heatmaps.is_floating_point():
        raise ValueError(
            f"Expected `{name}` to be a non-empty (N, 1, H, W) of floating-point numbers, "
            f"got shape {tuple(heatmaps.shape)}, {heatmaps.dtype}"
        )
    low, high = (bound.item() for bound in heatmaps.detach().aminmax())
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):  # so put, it refuses NaN too
        raise ValueError(f"Expected `{name}` to be in [0, 1], got values from {low:.4g} to {high:.4g}")


def _per_channel(name: str, value: float | Sequence[float], count: int) -> Tensor:
    numbers = torch.as_tensor(value, dtype=torch.float32, device="cpu").flatten()
    if len(numbers) not in (1, count):
        raise ValueError(f"Expected `{name}` to hold 1 number or {count}, one per channel, got {len(numbers)}")
    return numbers.view(-1, 1, 1)


def _select(pixels: Tensor, channels: Channels) -> Tensor:
    if pixels.shape[1] in (1, 3):
        return pixels
    if channels == "mean" or pixels.shape[1] < 3:
        return pixels.mean(1, keepdim=True)
    return pixels[:, :3]


def _stretch(pixels: Tensor) -> Tensor:
    finite = pixels.isfinite()
    low = torch.where(finite, pixels, torch.inf).amin((1, 2, 3), keepdim=True)
    high = torch.where(finite, pixels, -torch.inf).amax((1, 2, 3), keepdim=True)
    span = high - low
    # a mean over channels may scatter a constant image by its last bits: noise, not a picture
    constant = ~(span > 1e-6 * torch.maximum(low.abs(), high.abs()))
    stretched = torch.where(finite, (pixels - low) / span, 0).nan_to_num_(0.0)
    return torch.where(constant, 0.5, stretched)


@lru_cache
def color_table(colormap: str) -> Tensor:
    """The 256 colours of a matplotlib colour map, uint8 `(256, 3)`."""
    known = list(matplotlib.colormaps)
    if colormap not in known:
        near = difflib.get_close_matches(str(colormap), known, n=3)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"Expected `colormap` to be a name in `matplotlib.colormaps`, got {colormap!r}{hint}")
    colours = matplotlib.colormaps[colormap](np.linspace(0, 1, 256), bytes=True)
    return torch.from_numpy(np.ascontiguousarray(colours[:, :3], dtype=np.uint8))


def signed_to_rgb(signed: Tensor) -> Tensor:
    """Show signed values in space, such as the gradient at the input, in colour around mid grey.

    Each image is divided by the 99th percentile of its magnitudes that are not 0, so that a few extreme pixels don't
    grey out the rest; what lies beyond is clamped. 0 is mid grey, brighter is positive, darker is negative.

    Args:
        signed: `(N, C, H, W)`, on any device. Three channels are shown as RGB, others as `to_rgb` shows them. Values
            that are not finite are shown as 0.

    Returns:
        `(N, 3, H, W)`, uint8, on the CPU.

    Raises:
        ValueError: If `signed` is not a non-empty `(N, C, H, W)` of floating-point numbers.

    Example:
        >>> signed_to_rgb(torch.tensor([-2.0, -1.0, 0.0, 2.0]).view(1, 1, 1, 4))[0, 0]
        tensor([[  0,  64, 128, 255]], dtype=torch.uint8)
    """
    if signed.ndim != 4 or signed.numel() == 0 or not signed.is_floating_point():
        raise ValueError(
            f"Expected `signed` to be a non-empty (N, C, H, W) of floating-point numbers, "
            f"got shape {tuple(signed.shape)}, {signed.dtype}"
        )
    values = _select(signed.detach().to("cpu", torch.float32), "first")
    values = torch.where(values.isfinite(), values, 0)
    for image in values:
        magnitudes = image[image != 0].abs()
        if len(magnitudes):  # not quantile(), which takes 16 million at most
            image.div_(magnitudes.kthvalue(math.ceil(0.99 * len(magnitudes))).values)
    return (values.clamp_(-1, 1) * 127.5 + 127.5).round_().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
