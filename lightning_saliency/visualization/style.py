"""How the pictures look, and what a data set adds to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from lightning_saliency._checks import (
    check_choice,
    check_count,
    check_each,
    check_number,
    check_options,
    optional,
    refuse,
    shown,
)
from lightning_saliency._names import one_line
from lightning_saliency.attribution import Normalize
from lightning_saliency.data import find_class_names, find_normalization
from lightning_saliency.visualization.captions import Names
from lightning_saliency.visualization.colors import check_alpha, check_colormap
from lightning_saliency.visualization.images import Channels, to_curves, to_rgb
from lightning_saliency.visualization.views import Volumes


@dataclass(frozen=True)
class Style:
    """How the pictures look; checked when it is made.

    Args:
        mean: What was subtracted from the images, one number per channel or one for all; None to look for it in the
            data set, and else to stretch each image to its own range.
        std: What the images were divided by, likewise.
        class_names: Names of the classes; None to look for them in the data set, and else to show their numbers.
        colormap: Any matplotlib color map.
        alpha: Weight of the color in the overlay, in [0, 1].
        normalize: How raw maps become colors: `max` (negative values cut, each map divided by its maximum), `minmax`
            (each map from its minimum to its maximum), `shared` (one scale for all samples: a weak map looks weak).
        channels: What to show of images with more than three channels: the `first` three, or the `mean`. Of volumes the
            first one, of signals the first eight.
        volumes: How volumes `(N, C, D, H, W)` are shown: `slices`, three that cross where the map is largest; `frames`,
            a few one after another, as of a video; `auto`: frames where there are three channels, else slices.
        top_k: Of how many classes of each sample, the most probable ones, CAM is shown side by side; 1 for no such
            picture. Default: 1, and 3 for `CAMCallback`.

    Raises:
        TypeError: An option is of the wrong kind.
        ValueError: An option's value does not fit.

    Example:
        >>> Style(mean=[0.5], std=[0.25], colormap="viridis").mean
        (0.5,)
    """

    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    class_names: Sequence[str] | None = None
    colormap: str = "turbo"
    alpha: float = 0.5
    normalize: Normalize = "max"
    channels: Channels = "first"
    volumes: Volumes = "auto"
    top_k: int | None = None

    def __post_init__(self) -> None:
        check_options(
            self,
            "style.",
            {
                "mean": optional(_check_numbers),
                "std": optional(partial(_check_numbers, interval="(0, inf)")),
                "class_names": optional(partial(check_each, check=_check_class_name, of="names")),
                "colormap": check_colormap,
                "alpha": check_alpha,
                "normalize": partial(check_choice, allowed=get_args(Normalize)),
                "channels": partial(check_choice, allowed=get_args(Channels)),
                "volumes": partial(check_choice, allowed=get_args(Volumes)),
                "top_k": optional(check_count),
            },
        )
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"Expected `style.mean` and `style.std` both or neither, got {self.mean} and {self.std}.")
        lengths = {len(numbers) for numbers in (self.mean, self.std) if isinstance(numbers, tuple)} - {1}
        if len(lengths) > 1:
            raise ValueError(
                f"Expected `style.mean` and `style.std` to be of one length, got {self.mean} and {self.std}."
            )


def to_pictures(images: Tensor, style: Style, dataset: Any = None) -> Tensor:
    """Turn model inputs back into pictures as a style says; the normalization it leaves open is the data set's.

    Args:
        images: `(N, C, H, W)`, as the model takes them; or volumes `(N, C, D, H, W)`, or signals `(N, C, T)`.
        style: How they look.
        dataset: Where to look for the normalization.

    Returns:
        uint8 `(N, 3, H, W)`, on the CPU; see `to_rgb` for volumes, and `to_curves` for signals.
    """
    if images.dim() == 3:
        return to_curves(images, style.channels)
    if images.dtype == torch.uint8:  # pixels already, which the model converts itself
        return to_rgb(images / 255, 0.0, 1.0, style.channels)
    mean, std = style.mean, style.std
    normalization = None if mean is not None else find_normalization(dataset)
    if normalization is not None and len(normalization[0]) in (1, images.shape[1]):
        mean, std = normalization
    return to_rgb(images, mean, std, style.channels)


def find_names(style: Style, dataset: Any = None) -> Names:
    """Return the names of the classes: the style's, else the data set's; each as one line."""
    names = style.class_names or find_class_names(dataset)
    return Names(None if names is None else tuple(map(one_line, names)))


def _check_numbers(name: str, value: Any, interval: str = "(-inf, inf)") -> float | tuple[float, ...]:
    """Return one number, or one per channel as a tuple."""
    values = value.tolist() if hasattr(value, "tolist") else value
    check = partial(check_number, interval=interval)
    return (
        check_each(name, values, check, of="numbers, one per channel")
        if isinstance(values, list | tuple)
        else check(name, values)
    )


def _check_class_name(name: str, value: Any) -> str:
    """Return a class's name as one line; a number is a name too."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        refuse(name, "a name", shown(value), error=TypeError)
    return one_line(str(value))
