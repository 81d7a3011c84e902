"""The transform from a photograph to the network's input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torchvision.transforms import v2

from lightning_saliency.models.errors import WrongArgumentError
from lightning_saliency.models.loaded import LoadedModel, Preprocessing

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's

DEFAULT_SIZE = 224
"""The side of the square that the network sees, where nothing says another."""


def make_transform(
    loaded: LoadedModel, size: int | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Preprocessing:
    """Return the transform from a photograph to the model's input, with what the user sets in place of its own.

    Raises:
        WrongArgumentError: A number does not fit, or one of mean and standard deviation is missing.
    """
    if (mean is None) != (std is None):
        raise WrongArgumentError("Expected --mean and --std together or neither, got only one of them.")
    own_mean, own_std = (_three_numbers(name, values) for name, values in (("mean", mean), ("std", std)))
    if loaded.make_transform is not None:
        return loaded.make_transform(size, own_mean, own_std)
    side = size or loaded.size or DEFAULT_SIZE
    steps: list[Any] = [v2.Resize(side, antialias=True), v2.CenterCrop(side), v2.ToImage()]
    scale = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(own_mean or _MEAN, own_std or _STD)]
    transform: Preprocessing = v2.Compose([*steps, *scale])
    return transform


def _three_numbers(option: str, numbers: Sequence[float] | None) -> list[float] | None:
    """Return a number for each of three channels."""
    if numbers is None:
        return None
    if len(numbers) not in (1, 3) or not all(
        -math.inf < number < math.inf and (option == "mean" or number > 0) for number in numbers
    ):
        expected = "one positive number or three" if option == "std" else "one number or three"
        raise WrongArgumentError(f"Expected --{option} to be {expected}, got {' '.join(map(str, numbers))}.")
    return [*numbers] * (3 // len(numbers))
