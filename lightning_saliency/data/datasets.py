"""What a data set says of itself: the normalisation of its images, the names of its classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn


def find_dataset(loaders: Any, index: int = 0) -> Any:
    """The data set behind a trainer's loaders (one, a list, a dict, a CombinedLoader); None if there is none."""
    loaders = getattr(loaders, "flattened", loaders)
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        loaders = loaders[index] if index < len(loaders) else None
    return getattr(loaders, "dataset", None)


def find_normalization(dataset: Any) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of the `Normalize` in a data set's transforms.

    Found in torchvision's transforms v1 and v2, in its presets and in whatever else has a `mean` and a `std`; through
    `Subset`, `ConcatDataset` and nested `Compose`. None if there is none.

    Example:
        >>> from types import SimpleNamespace
        >>> from torchvision.transforms import v2
        >>> transform = v2.Compose([v2.ToImage(), v2.Normalize(mean=[0.5], std=[0.25])])
        >>> find_normalization(SimpleNamespace(transform=transform))
        ([0.5], [0.25])
    """
    found = None
    for part in _parts(dataset):
        mean, std = _numbers(getattr(part, "mean", None)), _numbers(getattr(part, "std", None))
        if mean and std and len(mean) == len(std):
            found = mean, std
    return found


def find_class_names(dataset: Any) -> list[str] | None:
    """A data set's `.classes`, also of one inside a `Subset` or `ConcatDataset`; None if there is none."""
    for part in _parts(dataset):
        names = getattr(part, "classes", None)
        if isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(name, str) for name in names):
            return list(names)
    return None


def _parts(part: Any, depth: int = 8) -> Iterator[Any]:
    """A data set, what it wraps, and its transforms, in the order in which they are applied."""
    if part is None or depth == 0:
        return
    yield part
    inner = getattr(part, "datasets", None)
    yield from _parts(inner[0] if isinstance(inner, list) and inner else getattr(part, "dataset", None), depth - 1)
    for name in ("transforms", "transform"):
        transforms = getattr(part, name, None)
        for transform in transforms if isinstance(transforms, list | tuple | nn.Sequential) else [transforms]:
            yield from _parts(transform, depth - 1)


def _numbers(value: Any) -> list[float] | None:
    """A sequence, tensor or array of numbers as floats; None for anything else."""
    if isinstance(value, Tensor) or (hasattr(value, "tolist") and not callable(value)):
        value = value.tolist()
    value = [value] if isinstance(value, int | float) else value
    if not isinstance(value, list | tuple) or not all(isinstance(number, int | float) for number in value):
        return None
    return [float(number) for number in value]
