"""Heatmaps and signed values as colors, and heatmaps laid over images: tensors in, tensors out."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from functools import lru_cache, partial

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency._checks import check_flag, check_number, check_options, optional, refuse, shown
from lightning_saliency.visualization.images import check_rgb, select_channels, with_colors

_IGNORED = 255  # the label of pixels that have none, from which on no class is shown
_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue
_DARK = 0.4  # the brightness of the image under a fine map
_PERCENTILE = 0.99
_TOLERANCE = 1e-3  # half precision and interpolation may leave [0, 1] by that much


def check_colormap(name: str, colormap: str) -> str:
    """Refuse what is not the name of a matplotlib color map."""
    known = list(matplotlib.colormaps)
    if not isinstance(colormap, str) or colormap not in known:
        near = difflib.get_close_matches(shown(colormap).strip("'"), known, n=3)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else ""
        refuse(name, "a name in `matplotlib.colormaps`", shown(colormap), hint=hint)
    return str(colormap)


def check_alpha(name: str, alpha: float) -> float:
    """Refuse a weight that is not in [0, 1]."""
    return check_number(name, alpha, "[0, 1]")


@dataclass(frozen=True)
class Shading:
    """How heatmaps become colors over their images; checked when it is made.

    Args:
        colormap: The name of a matplotlib color map. The default, `plasma`, rises evenly in brightness, so that the
            maximum is the brightest place also in gray and to the color-blind.
        alpha: The weight of the color, in [0, 1]; where it fades, that of the largest value.
        fade: Whether the color fades out toward 0, so that what is not attended stays the photograph: its weight is
            ``alpha * heatmap``.
        contour: A number in (0, 1): a thin line is drawn around what is above it; None for none.

    Raises:
        ValueError: No color map has that name, or a number is out of range.

    Example:
        >>> Shading("viridis", alpha=0.5).fade
        True
    """

    colormap: str = "plasma"
    alpha: float = 0.85
    fade: bool = True
    contour: float | None = None

    def __post_init__(self) -> None:
        check_options(
            self,
            "",
            {
                "colormap": check_colormap,
                "alpha": check_alpha,
                "fade": check_flag,
                "contour": optional(partial(check_number, interval="(0, 1)")),
            },
        )

    def opacity(self, heatmaps: Tensor) -> Tensor:
        """Return the weight of the color of each value in [0, 1]."""
        values = heatmaps.clamp(0, 1)
        return self.alpha * (values if self.fade else torch.ones_like(values))


def colorize(heatmaps: Tensor, colormap: str = "plasma") -> Tensor:
    """Color heatmaps by a color map of matplotlib, looked up in a table of 256 entries.

    Args:
        heatmaps: `(N, 1, H, W)` in [0, 1], or of volumes or signals.
        colormap: The name of a matplotlib color map.

    Returns:
        `(N, 3, H, W)`, uint8, on the heatmaps' device.

    Raises:
        ValueError: `heatmaps` has another shape or leaves [0, 1], or no color map has that name.

    Example:
        >>> colorize(torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3), "gray")[0, 0]
        tensor([[  0, 128, 255]], dtype=torch.uint8)
    """
    check_heatmaps("heatmaps", heatmaps)
    table = color_table(check_colormap("colormap", colormap)).to(heatmaps.device)
    index = (heatmaps.detach()[:, 0].float() * 256).long().clamp_(0, 255)
    colors = table.index_select(0, index.flatten()).view(*index.shape, 3)  # a third of the time of table[index]
    return colors.movedim(-1, 1)


def overlay(images: Tensor, heatmaps: Tensor, shading: Shading = Shading()) -> Tensor:
    """Lay heatmaps over their images: ``(1 - weight) * image + weight * color``, rounded.

    Args:
        images: `(N, 3, H, W)`, uint8, as `to_rgb` returns them.
        heatmaps: `(N, 1, H, W)` in [0, 1], on the same device.
        shading: The color map, and the weight of the color.

    Returns:
        `(N, 3, H, W)`, uint8.

    Raises:
        ValueError: A shape, a dtype or a range differs from the above.

    Example:
        >>> black, white = torch.zeros(1, 3, 1, 1, dtype=torch.uint8), torch.ones(1, 1, 1, 1)
        >>> overlay(black, white, Shading("gray", alpha=0.4)).flatten()
        tensor([102, 102, 102], dtype=torch.uint8)
    """
    check_rgb("images", images)
    check_heatmaps("heatmaps", heatmaps)
    if (images.shape[0], *images.shape[2:]) != (heatmaps.shape[0], *heatmaps.shape[2:]):
        raise ValueError(
            f"Expected `heatmaps` to match `images` {tuple(images.shape)} in N, H and W, got {tuple(heatmaps.shape)}."
        )
    heatmaps = heatmaps.detach().float()
    colors = colorize(heatmaps, shading.colormap).float()
    laid = torch.lerp(images.float(), colors, shading.opacity(heatmaps)).round_().to(torch.uint8)
    if shading.contour is not None:
        laid = torch.where(_outline(heatmaps >= shading.contour), torch.full_like(laid, 255), laid)
    return laid


def darkened(images: Tensor) -> Tensor:
    """Return images `(N, 3, H, W)` in dark gray, on which single bright pixels of a fine map are seen.

    Example:
        >>> darkened(torch.full((1, 3, 1, 1), 200, dtype=torch.uint8)).flatten()
        tensor([80, 80, 80], dtype=torch.uint8)
    """
    gray = torch.einsum("nchw,c->nhw", images.float(), images.new_tensor(_LUMA, dtype=torch.float32))
    return (gray * _DARK).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)


def _outline(inside: Tensor) -> Tensor:
    """Return the pixels inside regions `(N, 1, H, W)` that have a neighbor outside, or beyond which is none."""
    padded = F.pad(inside.float(), (1, 1, 1, 1), mode="replicate")
    return inside & (-F.max_pool2d(-padded, 3, stride=1) < 1)


def class_overlay(images: Tensor, classes: Tensor, alpha: float = 0.5) -> Tensor:
    """Lay the class of each pixel over images, each class in a color of its own of matplotlib's `tab20`, in turns.

    Args:
        images: `(N, 3, H, W)`, uint8.
        classes: `(N, h, w)` integers, of any size; below 0 and from 255 on no color is laid.
        alpha: The weight of the color, in [0, 1].

    Returns:
        `(N, 3, H, W)`, uint8.

    Example:
        >>> black = torch.zeros(1, 3, 1, 2, dtype=torch.uint8)
        >>> class_overlay(black, torch.tensor([[[0, 255]]]), alpha=1.0)[0, :, 0].T
        tensor([[ 31, 119, 180],
                [  0,   0,   0]], dtype=torch.uint8)
    """
    check_rgb("images", images)
    check_alpha("alpha", alpha)
    sized = F.interpolate(classes[:, None].double(), size=images.shape[2:], mode="nearest-exact")[:, 0].long()
    table = torch.from_numpy(matplotlib.colormaps["tab20"](np.arange(20), bytes=True)[:, :3].copy())
    colors = table[sized.clamp(min=0) % len(table)].permute(0, 3, 1, 2).float()
    is_class = ((sized >= 0) & (sized < _IGNORED))[:, None]
    return torch.where(is_class, images + alpha * (colors - images), images).round().to(torch.uint8)


def signed_to_rgb(signed: Tensor) -> Tensor:
    """Show signed values in space, such as the gradient at the input, in color around mid gray.

    Each image is divided by the 99th percentile of its magnitudes that are not 0, so that a few extreme pixels don't
    gray out the rest; what lies beyond is clamped. 0 is mid gray, brighter is positive, darker is negative.

    Args:
        signed: `(N, C, H, W)`, on any device; or `(N, C, D, H, W)` of volumes. Three channels are shown as RGB, others
            as `to_rgb` shows them. Values that are not finite are shown as 0.

    Returns:
        `(N, 3, H, W)`, uint8, on the CPU; of volumes `(N, 1, D, H, W)` or `(N, 3, D, H, W)`.

    Raises:
        ValueError: `signed` is not a non-empty `(N, C, H, W)` of floating-point numbers.

    Example:
        >>> signed_to_rgb(torch.tensor([-2.0, -1.0, 0.0, 2.0]).view(1, 1, 1, 4))[0, 0]
        tensor([[  0,  64, 128, 255]], dtype=torch.uint8)
    """
    if signed.ndim not in (4, 5) or signed.numel() == 0 or not signed.is_floating_point():
        raise ValueError(
            f"Expected `signed` to be a non-empty (N, C, H, W) of floating-point numbers, "
            f"got shape {tuple(signed.shape)}, {signed.dtype}."
        )
    values = select_channels(signed.detach().to("cpu", torch.float32), "first")
    values = torch.where(values.isfinite(), values, 0)
    for image in values:
        magnitudes = image[image != 0].abs()
        if len(magnitudes):  # not quantile(), which takes 16 million at most
            image.div_(magnitudes.kthvalue(math.ceil(_PERCENTILE * len(magnitudes))).values)
    return with_colors((values.clamp_(-1, 1) * 127.5 + 127.5).round_().to(torch.uint8))


@lru_cache
def color_table(colormap: str) -> Tensor:
    """Return the 256 colors of a matplotlib color map, uint8 `(256, 3)`."""
    check_colormap("colormap", colormap)
    colors = matplotlib.colormaps[colormap](np.linspace(0, 1, 256), bytes=True)
    return torch.from_numpy(np.ascontiguousarray(colors[:, :3], dtype=np.uint8))


def check_heatmaps(name: str, heatmaps: Tensor) -> None:
    """Refuse what is not `(N, 1, H, W)`, or of volumes or signals, in [0, 1]; `name` is what the caller calls it."""
    if (
        heatmaps.ndim not in (3, 4, 5)
        or heatmaps.shape[1] != 1
        or heatmaps.numel() == 0
        or not heatmaps.is_floating_point()
    ):
        raise ValueError(
            f"Expected `{name}` to be a non-empty (N, 1, H, W) of floating-point numbers, "
            f"got shape {tuple(heatmaps.shape)}, {heatmaps.dtype}."
        )
    low, high = (bound.item() for bound in heatmaps.detach().aminmax())
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):  # so put, it refuses NaN too
        raise ValueError(f"Expected `{name}` to be in [0, 1], got values from {low:.4g} to {high:.4g}.")
