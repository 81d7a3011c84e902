"""Metadata of a data set: the normalization of its images and the names of its classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn


def find_dataset(loaders: Any, index: int = 0) -> Any:
    """Return the data set of one of a trainer's loaders (one, a list, a dict, a CombinedLoader), or None."""
    loaders = getattr(loaders, "flattened", loaders)
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        loaders = loaders[index] if index < len(loaders) else None
    return getattr(loaders, "dataset", None)


def find_normalization(dataset: Any) -> tuple[list[float], list[float]] | None:
    """Return mean and standard deviation of the `Normalize` in a data set's transforms, or None.

    Searched are torchvision's transforms v1 and v2, its presets and all other objects with a `mean` and a `std`,
    through `Subset`, `ConcatDataset` and nested `Compose`.

    Example:
        >>> from types import SimpleNamespace
        >>> from torchvision.transforms import v2
        >>> transform = v2.Compose([v2.ToImage(), v2.Normalize(mean=[0.5], std=[0.25])])
        >>> find_normalization(SimpleNamespace(transform=transform))
        ([0.5], [0.25])
    """
    normalization = None
    for component in _components(dataset):
        mean, std = _numbers(getattr(component, "mean", None)), _numbers(getattr(component, "std", None))
        if mean and std and len(mean) == len(std):
            normalization = mean, std
    return normalization


def find_class_names(dataset: Any) -> list[str] | None:
    """Return the class names of a data set, its `.classes`, also through `Subset` and `ConcatDataset`; or None."""
    for component in _components(dataset):
        names = getattr(component, "classes", None)
        if isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(name, str) for name in names):
            return list(names)
    return None


def _components(component: Any, depth: int = 8) -> Iterator[Any]:
    """Yield a data set, the data sets that it wraps, and its transforms in the order in which they are applied."""
    if component is None or depth == 0:
        return
    yield component
    datasets = getattr(component, "datasets", None)
    wrapped = datasets[0] if isinstance(datasets, list) and datasets else getattr(component, "dataset", None)
    yield from _components(wrapped, depth - 1)
    for name in ("transforms", "transform"):
        transforms = getattr(component, name, None)
        for transform in transforms if isinstance(transforms, list | tuple | nn.Sequential) else [transforms]:
            yield from _components(transform, depth - 1)


def _numbers(value: Any) -> list[float] | None:
    """Return the numbers of a sequence, tensor or array as floats; None for anything else."""
    if isinstance(value, Tensor) or (hasattr(value, "tolist") and not callable(value)):
        value = value.tolist()
    value = [value] if isinstance(value, int | float) else value
    if not isinstance(value, list | tuple) or not all(isinstance(number, int | float) for number in value):
        return None
    return [float(number) for number in value]
