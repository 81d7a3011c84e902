"""Metadata of a data set: the normalization of its images and the names of its classes.

A data set need not say anything of itself, and what it says under a usual name may be something else: a method, an
iterator without an end, a property that raises. Whatever cannot be used counts as not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from torch import nn

_MOST_NAMES = 2**20
"""The most classes that are named, where a sequence has no end."""

_MOST_COMPONENTS = 2**10
"""The most data sets and transforms that are searched, and the most channels of images."""

_Read = TypeVar("_Read")


def find_dataset(loaders: Any, index: int = 0) -> Any:
    """Return the data set of one of a trainer's loaders (one, a list, a dict, a CombinedLoader), or None."""
    loaders = getattr(loaders, "flattened", loaders)
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        loaders = loaders[index] if index < len(loaders) else None
    return _read(loaders, "dataset", _same)


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
    for component in islice(_components(dataset), _MOST_COMPONENTS):
        mean, std = _read(component, "mean", _numbers), _read(component, "std", _numbers)
        if mean and std and len(mean) == len(std) and min(std) > 0:
            normalization = mean, std
    return normalization


def find_class_names(dataset: Any) -> list[str] | None:
    """Return the class names of a data set, its `.classes`, also through `Subset` and `ConcatDataset`; or None."""
    for component in islice(_components(dataset), _MOST_COMPONENTS):
        names = _read(component, "classes", _names)
        if names is not None:
            return names
    return None


def _components(component: Any, depth: int = 8) -> Iterator[Any]:
    """Yield a data set, the data sets that it wraps, and its transforms in the order in which they are applied."""
    if component is None or depth == 0:
        return
    yield component
    wrapped = _read(component, "datasets", _entries) or [_read(component, "dataset", _same)]
    yield from _components(wrapped[0], depth - 1)
    for name in ("transforms", "transform"):
        for transform in _read(component, name, _entries) or [_read(component, name, _same)]:
            yield from _components(transform, depth - 1)


def _read(owner: Any, name: str, convert: Callable[[Any], _Read | None]) -> _Read | None:
    """Return a converted attribute; None where there is none, and where reading or converting it fails."""
    try:
        value = getattr(owner, name, None)
        return None if value is None else convert(value)
    except Exception:  # it runs a user's code, which may raise anything, for a guess that no training may depend on
        return None


def _same(value: Any) -> Any:
    return value


def _entries(value: Any) -> list[Any] | None:
    """Return the entries of a list, tuple or `Sequential`; None for anything else."""
    return list(islice(value, _MOST_COMPONENTS)) if isinstance(value, list | tuple | nn.Sequential) else None


def _names(value: Any) -> list[str] | None:
    """Return the names in a sequence of texts; None for anything else."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > _MOST_NAMES:
        return None
    names = list(islice(value, len(value)))
    return names if all(isinstance(name, str) for name in names) else None


def _numbers(value: Any) -> list[float] | None:
    """Return the numbers of a sequence, tensor or array as floats; None for anything else."""
    if hasattr(value, "tolist") and not callable(value) and math.prod(getattr(value, "shape", ())) <= _MOST_COMPONENTS:
        value = value.tolist()
    value = [value] if isinstance(value, int | float) else value
    if not isinstance(value, list | tuple) or len(value) > _MOST_COMPONENTS:
        return None
    numbers = list(islice(value, len(value)))
    is_known = all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
    return list(map(float, numbers)) if is_known else None
