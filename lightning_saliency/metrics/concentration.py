"""How concentrated heatmaps are, on few pixels or all over the image, and whether there is any signal in them."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from lightning_saliency._checks import check_number, check_shape
from lightning_saliency.metrics._maps import check_maps, checked_maps
from lightning_saliency.metrics.metric import Metric


def entropy(heatmaps: Tensor) -> Tensor:
    """Return the entropy of each heatmap's values, as a distribution over the pixels, divided by the largest possible.

    −Σ p log p / log(H·W), p = heatmap / Σ heatmap. 0: all of it in one pixel; 1: the same everywhere. Lower is more
    focused.

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.

    Returns:
        `(N,)` in [0, 1]; NaN for a blank map.

    Raises:
        ValueError: The heatmaps are not `(N, 1, H, W)`, or negative.

    Example:
        >>> one_pixel, even = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.3, 0.3]]]])
        >>> entropy(torch.cat([one_pixel, even]))
        tensor([0., 1.])
    """
    values = checked_maps(heatmaps).flatten(1)
    probabilities = values / values.sum(1, keepdim=True)
    entropies: Tensor = torch.special.entr(probabilities).sum(1) / math.log(max(values.shape[1], 2))
    return entropies.clamp(max=1)


def area_above(heatmaps: Tensor, threshold: float = 0.5) -> Tensor:
    """Return the fraction of pixels above a threshold, relative to each heatmap's maximum; smaller is more focused.

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.
        threshold: The fraction of the maximum that a pixel must exceed, in [0, 1).

    Returns:
        `(N,)` in (0, 1]; NaN for a blank map.

    Raises:
        ValueError: The heatmaps are not `(N, 1, H, W)`, or negative, or the threshold is out of range.

    Example:
        >>> area_above(torch.tensor([[[[1.0, 0.6, 0.2, 0.0]]]]))
        tensor([0.5000])
    """
    check_number("threshold", threshold, "[0, 1)")
    values = checked_maps(heatmaps).flatten(1)
    maxima = values.amax(1, keepdim=True)
    return torch.where(maxima[:, 0] > 0, (values > threshold * maxima).float().mean(1), torch.nan)


def is_blank(heatmaps: Tensor) -> Tensor:
    """Return whether each heatmap has nothing to show: no positive value.

    Args:
        heatmaps: `(N, 1, H, W)`, not negative.

    Returns:
        `(N,)` bool.

    Raises:
        ValueError: The heatmaps are not `(N, 1, H, W)`, or negative.

    Example:
        >>> is_blank(torch.tensor([[[[0.0, 0.0]]], [[[0.0, 0.5]]]]))
        tensor([ True, False])
    """
    return ~(checked_maps(heatmaps).flatten(1).amax(1) > 0)  # so that NaN is blank


def raw_maximum(attributions: Tensor) -> Tensor:
    """Return the largest value of each raw attribution map, which its heatmap, divided by it, does not show.

    Args:
        attributions: `(N, 1, h, w)`.

    Returns:
        `(N,)`, in the score's units over those of what is attributed to; NaN where it is not finite.

    Raises:
        ValueError: The attributions are not `(N, 1, h, w)`.

    Example:
        >>> raw_maximum(torch.tensor([[[[-3.0, 2.0]]]]))
        tensor([2.])
    """
    maxima = check_maps("attributions", attributions).detach().flatten(1).amax(1)
    return maxima.where(maxima.isfinite(), torch.nan)


def prefix_relevance(shares: Tensor) -> Tensor:
    """Return the share of each image's attention relevance that is on tokens that are no patches.

    A model that gathers what it knows of the image in its class or register tokens has a high share: its map of the
    patches then says less.

    Args:
        shares: `(N,)`, the note `attention_relevance/prefix_relevance` of an explanation.

    Returns:
        `(N,)` in [0, 1].

    Example:
        >>> prefix_relevance(torch.tensor([0.25]))
        tensor([0.2500])
    """
    return check_shape("shares", shares, ("N",))


ROWS = (
    Metric(
        "entropy", entropy, "entropy of the map over that of an even one: the lower, the more focused",
        inputs=("coarse_heatmaps",), range=(0, 1), higher_is_better=False, worst=1, class_name="HeatmapEntropy",
    ),
    Metric(
        "area_above_half", area_above, "fraction of the image above half of the map's maximum: the smaller, the more "
        "focused", inputs=("coarse_heatmaps",), range=(0, 1), higher_is_better=False, worst=1, class_name="AreaAbove",
        checks={"threshold": partial(check_number, interval="[0, 1)")},
    ),
    Metric(
        "blank_fraction", is_blank, "fraction of the maps with nothing to show",
        inputs=("coarse_heatmaps",), range=(0, 1), higher_is_better=False, worst=1,
    ),
    Metric(
        "prefix_relevance", prefix_relevance, "share of a transformer's attention relevance on tokens that are no "
        "patches: a high share leaves less to the map", inputs=("prefix_relevance",), range=(0, 1),
        higher_is_better=None, worst=0,
    ),
    Metric(
        "raw_maximum", raw_maximum, "largest raw value: a colorful map can hide a vanishing signal",
        inputs=("attributions",), range=(-math.inf, math.inf), higher_is_better=None, worst=0,
    ),
)  # fmt: skip
