"""The data set of a loader, and what it consists of: the data sets that it wraps, and its transforms.

A data set need not say anything of itself, and what it says under a usual name may be something else: a method, an
iterator without an end, a property that raises. Whatever cannot be used counts as not known. No sample is read.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from types import CodeType, FunctionType, MethodType
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Dataset

_MOST_COMPONENTS = 2**10
"""The most data sets, and the most transforms, that are searched."""

_MOST_ENTRIES = 2**6
"""The most entries of a list or a dict that are searched: it may hold all samples."""

_DEEPEST = 8
"""The most wrappers around a data set or a transform."""

_Value = TypeVar("_Value")


def find_dataset(loaders: Any, index: int = 0) -> Any:
    """Return the data set of one of a trainer's loaders (one, a list, a dict, a CombinedLoader), or None."""
    return read(find_loader(loaders, index), "dataset")


def find_loader(loaders: Any, index: int = 0) -> Any:
    """Return one of a trainer's loaders (one, a list, a dict, a CombinedLoader), or None."""
    loaders = getattr(loaders, "flattened", loaders)
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        return loaders[index] if index < len(loaders) else None
    return loaders


def attempt(function: Callable[[], _Value | None]) -> _Value | None:
    """Return what a function returns, or None where it raises."""
    try:
        return function()
    except Exception:  # it runs a user's code, which may raise anything, for a guess that no training may depend on
        return None


def read(owner: Any, name: str, convert: Callable[[Any], _Value | None] | None = None) -> Any:
    """Return an attribute, converted; None where there is none, and where reading or converting it fails."""

    def convert_attribute() -> Any:
        value = getattr(owner, name, None)
        return value if value is None or convert is None else convert(value)

    return attempt(convert_attribute)


def attributes(owner: Any) -> dict[str, Any]:
    """Return the attributes that an object itself holds, without running properties; none of functions.

    To ask a function or a `partial` for its attributes would give it a dict, with which it is pickled in another way.
    """
    return {} if _is_a(owner, FunctionType | MethodType | partial) else read(owner, "__dict__", dict) or {}


def walk_datasets(owner: Any) -> Iterator[Any]:
    """Yield a data set, or what holds data sets, and those that it wraps, the outer ones first.

    Wrapped are those under `dataset` and `datasets`, as in `Subset` and `ConcatDataset`, and all other attributes that
    are data sets: of a class of torch's, or with `__getitem__` and `__len__` but no container.

    Example:
        >>> from torch.utils.data import Subset, TensorDataset
        >>> dataset = TensorDataset()
        >>> list(walk_datasets(Subset(dataset, [0])))[-1] is dataset
        True
    """
    return _walk(owner, _wrapped_datasets)


def walk_transforms(dataset: Any) -> Iterator[Any]:
    """Yield a data set, and the transforms that it holds, also in compositions, lists, dicts and closures.

    They are what stands under `transform` and `transforms`, and all other attributes that can be called.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> from torchvision.transforms import v2
        >>> dataset = TensorDataset()
        >>> dataset.transform = v2.Compose([v2.ToImage()])
        >>> [type(transform).__name__ for transform in walk_transforms(dataset)]
        ['TensorDataset', 'Compose', 'ToImage']
    """
    return _walk(dataset, _inner_transforms)


def _walk(root: Any, children: Callable[[Any], Iterator[Any]]) -> Iterator[Any]:
    """Yield a root and what is below it, each once, breadth first."""
    found = {id(root): root}  # which keeps them alive, so that no other gets the same id
    queue = deque([(root, 0)])
    while queue and len(found) <= _MOST_COMPONENTS:
        component, depth = queue.popleft()
        if component is None:
            continue
        yield component
        for child in children(component) if depth < _DEEPEST else ():
            if id(child) not in found:
                found[id(child)] = child
                queue.append((child, depth + 1))


def _wrapped_datasets(component: Any) -> Iterator[Any]:
    named = [read(component, name) for name in ("datasets", "dataset")]
    for value in (component, *named, *attributes(component).values()):
        yield from filter(_is_dataset, _entries(value))
    for value in named:  # by its name it is one, whatever else it is
        if not _is_a(value, Sequence | Mapping | np.ndarray | Tensor):
            yield value


def _inner_transforms(component: Any) -> Iterator[Any]:
    named = [read(component, name) for name in ("transforms", "transform")]
    named = [value for value in named if not (_is_a(value, MethodType) and value.__self__ is component)]
    for value in (*named, *attributes(component).values(), *(attempt(lambda: _referenced(component)) or ())):
        for entry in (value, *_entries(value)):
            if callable(entry) and not _is_a(entry, type):
                yield entry
    if _is_a(component, MethodType):
        yield component.__self__


def _referenced(function: Any) -> list[Any]:
    """Return what a function takes from its surroundings, but for the functions of other modules."""
    if _is_a(function, MethodType):
        return [function.__func__]
    if _is_a(function, partial):
        return [function.func, *function.args, *function.keywords.values()]
    if not _is_a(function, FunctionType):
        return []
    cells = [attempt(partial(getattr, cell, "cell_contents")) for cell in function.__closure__ or ()]
    names = _global_names(function.__code__) & function.__globals__.keys()
    values = [*cells, *(function.__globals__[name] for name in sorted(names))]
    return [
        value
        for value in values
        if not inspect.isroutine(value) or getattr(value, "__module__", None) == function.__module__
    ]


def _global_names(code: CodeType) -> set[str]:
    """Return the names in a function's code, and in that of the comprehensions and functions within it."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(_global_names, inner))


def _entries(value: Any) -> list[Any]:
    """Return the first entries of a list, tuple, dict or `Sequential`; for another value, the value alone."""
    if _is_a(value, Mapping):
        return attempt(lambda: list(islice(value.values(), _MOST_ENTRIES))) or []
    if _is_a(value, list | tuple | nn.Sequential):
        return attempt(lambda: list(islice(value, _MOST_ENTRIES))) or []
    return [value]


def _is_dataset(value: Any) -> bool:
    is_indexed = hasattr(type(value), "__getitem__") and hasattr(type(value), "__len__")
    is_container = _is_a(value, Sequence | Mapping | np.ndarray | Tensor | nn.Module | type)
    return _is_a(value, Dataset) or (is_indexed and not is_container)


def _is_a(value: Any, kinds: Any) -> bool:
    """Whether a value is of a class, by its type alone: `isinstance` would ask the value too, which may raise."""
    return issubclass(type(value), kinds)
