"""Trees of containers, as batches and arguments are: dicts, lists, tuples, named tuples, dataclasses in each other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any, TypeAlias

from torch import Tensor

Path: TypeAlias = tuple[Any, ...]
"""Where a value is in a tree: the keys that lead to it."""

_TOLD = 8
"""Of a container's parts in a message: a list may hold a file name for each of hundreds of images."""


def children(value: Any) -> dict[Any, Any]:
    """Return the parts of a container by their keys: a mapping, dataclass, named tuple, tuple or list; else nothing.

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
    """Yield all that is no container, with the keys that lead to it.

    Args:
        tree: Any tree.
        whole: Where containers are that are not looked into.
        path: The keys that lead to the tree.

    Example:
        >>> list(leaves({"a": [1, 2]}))
        [(('a', 0), 1), (('a', 1), 2)]
    """
    parts = {} if path in whole else children(tree)
    if not parts:
        yield path, tree
    for key, part in parts.items():
        yield from leaves(part, whole, (*path, key))


def mapped(tree: Any, change: Callable[[Path, Any], Any], whole: Collection[Path] = (), path: Path = ()) -> Any:
    """Return a tree of new containers of the same kinds, with each leaf changed; of a read-only mapping a dict.

    Args:
        tree: Any tree, which is not written to.
        change: Of a leaf's path and value, what stands in its place.
        whole: Where containers are that are leaves.
        path: The keys that lead to the tree.

    Example:
        >>> mapped({"a": [1, 2]}, lambda path, value: 10 * value)
        {'a': [10, 20]}
    """
    parts = {} if path in whole else children(tree)
    if not parts:
        return change(path, copy.copy(tree) if isinstance(tree, MutableMapping | list) else tree)
    changed = {key: mapped(part, change, whole, (*path, key)) for key, part in parts.items()}
    if isinstance(tree, tuple):
        return type(tree)(*changed.values()) if hasattr(tree, "_asdict") else tuple(changed.values())
    if isinstance(tree, Mapping) and not isinstance(tree, MutableMapping):
        return changed
    rebuilt: Any = copy.copy(tree)
    for key, part in changed.items():
        if isinstance(tree, MutableMapping | list):
            rebuilt[key] = part
        else:
            object.__setattr__(rebuilt, key, part)  # the dataclass may be frozen, and nobody else knows this copy
    return rebuilt


def at_path(tree: Any, path: Sequence[Any]) -> Any:
    """Return what the keys lead to."""
    for key in path:
        tree = children(tree)[key]
    return tree


def dotted(path: Sequence[Any]) -> str:
    """Return a path as people write it, with dots between the keys."""
    return ".".join(map(str, path))


def describe(value: Any) -> str:
    """Say in words what a value is, for a message.

    Example:
        >>> import torch
        >>> describe({"x": torch.zeros(2, 3), "name": "a"})
        'a dict of {x: a tensor of shape (2, 3) and dtype torch.float32, name: a str}'
    """
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    parts = children(value)
    if not parts:
        return f"a {type(value).__name__}"
    told = [f"{name}: {describe(part)}" for name, part in islice(parts.items(), _TOLD)]
    more = [f"… {len(parts)} in all"] if len(parts) > _TOLD else []
    return f"a {type(value).__name__} of {{{', '.join([*told, *more])}}}"
