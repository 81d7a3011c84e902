"""Nested containers, such as batches and arguments: dicts, lists, tuples, named tuples and dataclasses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any, TypeAlias

from torch import Tensor

Path: TypeAlias = tuple[Any, ...]
"""The keys that lead from the root of a tree to a value."""

_MOST_DESCRIBED = 8
"""The most entries of a container in a message: a list may hold a file name for each of hundreds of images."""


def children(value: Any) -> dict[Any, Any]:
    """Return the entries of a mapping, dataclass, named tuple, tuple or list by their keys; none for other values.

    Example:
        >>> children(["a", "b"])
        {0: 'a', 1: 'b'}
    """
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return dict(value._asdict())
    return dict(enumerate(value)) if isinstance(value, tuple | list) else {}


def leaves(tree: Any, whole: Collection[Path] = (), path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield each value of a tree that is not a container, with its path.

    An empty container is a leaf too.

    Args:
        tree: Any tree.
        whole: The paths of containers that count as leaves.
        path: The keys that lead to the tree.

    Example:
        >>> list(leaves({"a": [1, 2]}))
        [(('a', 0), 1), (('a', 1), 2)]
    """
    entries = {} if path in whole else children(tree)
    if not entries:
        yield path, tree
    for key, entry in entries.items():
        yield from leaves(entry, whole, (*path, key))


def mapped(tree: Any, change: Callable[[Path, Any], Any], whole: Collection[Path] = (), path: Path = ()) -> Any:
    """Return a copy of a tree with each leaf changed; a read-only mapping becomes a dict.

    Args:
        tree: Any tree; it is not written to.
        change: A function of a leaf's path and value that returns the new value.
        whole: The paths of containers that count as leaves.
        path: The keys that lead to the tree.

    Example:
        >>> mapped({"a": [1, 2]}, lambda path, value: 10 * value)
        {'a': [10, 20]}
    """
    entries = {} if path in whole else children(tree)
    if not entries:
        return change(path, copy.copy(tree) if isinstance(tree, MutableMapping | list) else tree)
    changed = {key: mapped(entry, change, whole, (*path, key)) for key, entry in entries.items()}
    if isinstance(tree, tuple):
        return type(tree)(*changed.values()) if hasattr(tree, "_asdict") else tuple(changed.values())
    if isinstance(tree, Mapping) and not isinstance(tree, MutableMapping):
        return changed
    rebuilt: Any = copy.copy(tree)
    for key, entry in changed.items():
        if isinstance(tree, MutableMapping | list):
            rebuilt[key] = entry
        else:
            object.__setattr__(rebuilt, key, entry)  # the dataclass may be frozen, and this copy is ours alone
    return rebuilt


def plain_tensors(tree: Any) -> Any:
    """Return a copy of a tree with plain tensors, of the same memory, in place of those of subclasses.

    A subclass may carry what slices and joins cannot keep (metadata of each image, say). Those that compute by
    themselves, such as distributed and jagged tensors, are no plain tensors, and stay.

    Example:
        >>> import torch
        >>> class Image(torch.Tensor): ...
        >>> type(plain_tensors({"image": torch.zeros(1).as_subclass(Image)})["image"])
        <class 'torch.Tensor'>
    """
    return mapped(tree, lambda _, value: value.as_subclass(Tensor) if is_subclass(value) else value)


def is_subclass(value: Any) -> bool:
    """Whether a value is a tensor of a subclass whose data is a plain tensor's."""
    kind = type(value)
    return isinstance(value, Tensor) and kind is not Tensor and kind.__torch_dispatch__ is Tensor.__torch_dispatch__


def at_path(tree: Any, path: Sequence[Any]) -> Any:
    """Return the value at a path of a tree."""
    for key in path:
        tree = children(tree)[key]
    return tree


def dotted(path: Sequence[Any]) -> str:
    """Return a path as text, with its keys joined by dots."""
    return ".".join(map(str, path))


def describe(value: Any) -> str:
    """Return a description of a value in words, for an error message.

    Example:
        >>> import torch
        >>> describe({"x": torch.zeros(2, 3), "name": "a"})
        'a dict of {x: a tensor of shape (2, 3) and dtype torch.float32, name: a str}'
    """
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    entries = children(value)
    if not entries:
        return f"a {type(value).__name__}"
    described = [f"{name}: {describe(entry)}" for name, entry in islice(entries.items(), _MOST_DESCRIBED)]
    more = [f"… {len(entries)} in all"] if len(entries) > _MOST_DESCRIBED else []
    return f"a {type(value).__name__} of {{{', '.join([*described, *more])}}}"
