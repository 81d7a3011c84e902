"""On which scale heatmaps are shown, and what stands at the ends of the color scale."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from lightning_saliency.attribution import Heatmaps, Normalize
from lightning_saliency.data import over_axes

FINE_NOTE = "fine maps up to their 99th percentile"
"""What a sheet says that shows fine maps beside others."""

SIGNED_NOTE = "signed values: 0 is mid gray, positive is brighter"
"""What a sheet says that shows signed maps."""

_PERCENTILE = 0.99


def scale_words(normalize: Normalize, fine: Collection[bool], shared: str = "all maps' {}") -> tuple[str, str]:
    """Return what stands at the ends of the color scale.

    Args:
        normalize: What is done to the maps; see `make_heatmaps`.
        fine: Of each column whether its maps are fine.
        shared: What stands at the upper end of a scale that maps share, with a place for what the largest value is.

    Example:
        >>> scale_words("max", [True])
        ('0', "each map's 99th percentile")
    """
    top = "99th percentile" if fine and all(fine) else "maximum"
    return "least" if normalize == "minmax" else "0", (shared if normalize == "shared" else "each map's {}").format(top)


def own_scale(normalize: Normalize) -> Normalize:
    """Return the scale of each map by itself, from which a shared one is made."""
    return "minmax" if normalize == "minmax" else "max"


def is_signed(raw: Iterable[Tensor]) -> bool:
    """Whether fine maps are shown around mid gray: those of images, of which some values are negative.

    Args:
        raw: The raw maps of the samples of each size, `(N, 1, H, W)`, or of volumes or signals.
    """
    return any(values.dim() == 4 and bool((values < 0).any()) for values in raw)


def shown_heatmaps(groups: Sequence[Heatmaps], normalize: Normalize, *, fine: bool) -> list[Tensor]:
    """Bring heatmaps to the scale on which they are shown.

    Args:
        groups: Those of the samples of each size, on scales of their own; see `own_scale`.
        normalize: What is shown; a scale that is shared is shared by samples of all sizes.
        fine: Whether each pixel has a value of its own, as in saliency.

    Returns:
        Of each group `(N, 1, H, W)` in [0, 1], on the CPU.
    """
    maps, peaks = [group.maps.cpu() for group in groups], [group.peaks.cpu() for group in groups]
    if fine:
        scaled = [to_percentile(*group) for group in zip(maps, peaks, strict=True)]
        maps, peaks = [group[0] for group in scaled], [group[1] for group in scaled]
    if normalize != "shared":
        return maps
    largest = torch.cat(peaks).amax()
    return [to_common_scale(*group, largest) for group in zip(maps, peaks, strict=True)]


def to_percentile(heatmaps: Tensor, peaks: Tensor) -> tuple[Tensor, Tensor]:
    """Scale fine heatmaps at the 99th percentile of their positive values, for few pixels come near the largest.

    Args:
        heatmaps: `(N, 1, H, W)` in [0, 1], or of volumes or signals.
        peaks: The raw value that 1 stands for in each, `(N,)`.

    Returns:
        The scaled heatmaps, in [0, 1], and the raw value that 1 now stands for in each.

    Example:
        >>> maps = torch.linspace(0, 1, 201).view(1, 1, 1, 201) ** 2
        >>> to_percentile(maps, torch.tensor([2.0]))[1]
        tensor([1.9602])
    """
    percentiles = torch.ones_like(peaks)
    for row, heatmap in enumerate(heatmaps):
        positive = heatmap[heatmap > 0]
        if len(positive):  # not quantile(), which takes 16 million at most
            percentiles[row] = positive.kthvalue(math.ceil(_PERCENTILE * len(positive))).values
    return (heatmaps / over_axes(percentiles.to(heatmaps.device), heatmaps)).clamp(max=1), peaks * percentiles


def to_common_scale(heatmaps: Tensor, peaks: Tensor, largest: Tensor) -> Tensor:
    """Bring heatmaps that were each divided by their own peak to one scale, so that a weak map looks weak.

    Args:
        heatmaps: `(N, 1, H, W)` in [0, 1].
        peaks: The largest raw value of each, `(N,)`, not negative.
        largest: The raw value that becomes 1 on the common scale, `(N,)` or `()`.

    Returns:
        ``heatmaps * peaks / largest``, and 0 where `largest` is 0. Heatmaps may have any number of axes.

    Example:
        >>> to_common_scale(torch.ones(2, 1, 1, 1), torch.tensor([1.0, 4.0]), torch.tensor(4.0)).flatten()
        tensor([0.2500, 1.0000])
    """
    return heatmaps * over_axes(torch.where(largest > 0, peaks / largest, 0.0).view(-1), heatmaps)
