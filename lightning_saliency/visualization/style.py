"""How the pictures look, and what a data set adds to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from lightning_saliency._checks import check_choice, check_count
from lightning_saliency.attribution import Normalize
from lightning_saliency.data import find_class_names, find_normalization
from lightning_saliency.visualization.captions import Names
from lightning_saliency.visualization.colors import check_alpha, check_colormap
from lightning_saliency.visualization.images import Channels, to_rgb


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
        channels: What to show of images with more than three channels: the `first` three, or the `mean`.
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
    top_k: int | None = None

    def __post_init__(self) -> None:
        numbers = {"mean": _check_numbers("mean", self.mean), "std": _check_numbers("std", self.std)}
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"Expected `Style(mean=..., std=...)` both or neither, got {self.mean} and {self.std}.")
        if self.std is not None and min(torch.as_tensor(self.std).flatten().tolist()) <= 0:
            raise ValueError(f"Expected `Style(std=...)` to be above 0, got {self.std}.")
        names = self.class_names
        if names is not None and not isinstance(names, list | tuple):
            raise TypeError(f"Expected `Style(class_names=...)` to be a list of names, got {names!r}.")
        check_choice("Style(normalize=...)", self.normalize, get_args(Normalize))
        check_choice("Style(channels=...)", self.channels, get_args(Channels))
        if self.top_k is not None:
            check_count("Style(top_k=...)", self.top_k)
        check_colormap("Style(colormap=...)", self.colormap)
        check_alpha("Style(alpha=...)", self.alpha)
        # a list that is changed later must not change a style that is in use
        for option, value in {**numbers, "class_names": names and tuple(map(str, names))}.items():
            object.__setattr__(self, option, value)


def to_pictures(images: Tensor, style: Style, dataset: Any = None) -> Tensor:
    """Turn model inputs back into pictures as a style says; the normalization it leaves open is the data set's.

    Args:
        images: `(N, C, H, W)`, as the model takes them.
        style: How they look.
        dataset: Where to look for the normalization.

    Returns:
        uint8 `(N, 3, H, W)`, on the CPU.
    """
    if images.dtype == torch.uint8:  # pixels already, which the model converts itself
        return to_rgb(images / 255, 0.0, 1.0, style.channels)
    mean, std = style.mean, style.std
    normalization = None if mean is not None else find_normalization(dataset)
    if normalization is not None and len(normalization[0]) in (1, images.shape[1]):
        mean, std = normalization
    return to_rgb(images, mean, std, style.channels)


def find_names(style: Style, dataset: Any = None) -> Names:
    """Return the names of the classes: the style's, else the data set's."""
    return Names(style.class_names or find_class_names(dataset))


def _check_numbers(option: str, value: Any) -> float | tuple[float, ...] | None:
    """Return one number, or one per channel as a tuple."""
    values = value.tolist() if hasattr(value, "tolist") else value
    numbers = values if isinstance(values, list | tuple) else [values]
    if value is not None and not (numbers and all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)):
        raise TypeError(f"Expected `Style({option}=...)` to be a finite number, or one per channel, got {value!r}.")
    return tuple(values) if isinstance(values, list) else values
