"""The names of the classes, as data sets and models give them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from torch import nn

from lightning_saliency.data.batches import LABEL_NAMES
from lightning_saliency.data.datasets import attempt, attributes, read, walk_datasets

_NAMES = (
    "classes",
    "class_names",
    "CLASSES",
    "label_names",
    "target_names",
    "attr_names",
    "categories",
    "names",
    *(f"{index}{to}{name}" for index in ("id", "idx") for to in ("2", "_to_") for name in ("label", "class")),
    *(f"{name}{to}{index}" for index in ("id", "idx") for to in ("2", "_to_") for name in ("label", "class")),
)
"""Where names of classes stand, in a data set or in what is told of it."""

_ABOUT = ("info", "metainfo", "METAINFO", "meta", "metadata", "config", "_hparams", "pretrained_cfg")
"""Where a data set or a model has an object or a dict that tells of it."""

_BACKGROUND = ("background", "bg", "no object", "nothing")
"""What the class of label 0 is called where that is no object."""

_MOST_NAMES = 2**20
"""The most classes that are named, where a sequence has no end."""


def find_class_names(*owners: Any, num_classes: int | None = None) -> list[str] | None:
    """Return the names of the classes, where a data set gives them; else a data module or a model.

    They are `classes`, `categories`, `id2label`, `class_to_idx` and the like: a sequence of names or of tuples of
    synonyms, an array, or a dict of names by index or of indices by name. They are searched in the object itself, in
    the data sets that it wraps, in the `features` of a Hugging Face data set, and in what tells of it, such as the
    `info` of a data set or the `config` of a model. Names of another number of classes are passed over.

    Args:
        owners: Data sets, data modules and models, in the order in which they are searched.
        num_classes: K, the number of logits; a single logit has two classes. None where it is not known.

    Returns:
        The names in the order of the classes, or None where there are none that fit.

    Example:
        >>> from types import SimpleNamespace
        >>> find_class_names(SimpleNamespace(class_to_idx={"dog": 1, "cat": 0}))
        ['cat', 'dog']
    """
    count = None if num_classes is None else max(num_classes, 2)
    for owner in owners:
        for component in (*walk_datasets(owner), *_described_modules(owner)):
            for holder, name in _places(component):
                names = attempt(partial(_names_at, holder, name, count))
                if names is not None:
                    return names
    return None


def names_by_label(names: Sequence[str], labels: Collection[int]) -> list[str] | None:
    """Return the names of an object detector's labels, of which 0 may be the background, where it is certain.

    The names have the background first, or the labels go from 0 on, or from 1 up to the number of the names.

    Args:
        names: The names of the classes, as a data set gives them.
        labels: The labels that occur.

    Returns:
        The names in the order of the labels, or None where it is not certain which label has which name.

    Example:
        >>> names_by_label(["__background__", "cat", "dog"], {1})
        ['__background__', 'cat', 'dog']
        >>> names_by_label(["cat", "dog"], {1, 2}), names_by_label(["cat", "dog"], {1})
        (['background', 'cat', 'dog'], None)
    """
    has_background = names[0].strip("_ ").lower() in _BACKGROUND
    largest = max(labels, default=0)
    if largest < len(names) and (has_background or 0 in labels):
        return list(names)
    is_from_one = largest == len(names) and 0 not in labels and not has_background
    return ["background", *names] if is_from_one else None


def _described_modules(owner: Any) -> Iterator[nn.Module]:
    """Yield the submodules of a model that hold anything under a name under which names of classes stand."""
    modules = owner.modules() if issubclass(type(owner), nn.Module) else ()
    return (module for module in modules if not attributes(module).keys().isdisjoint((*_NAMES, *_ABOUT)))


def _places(component: Any) -> Iterator[tuple[Any, str]]:
    """Yield where the names of the classes may stand: an object or a dict, and the attribute or key in it."""
    yield from ((component, name) for name in _NAMES)
    features = read(component, "features")
    if issubclass(type(features), Mapping):
        keys = attempt(lambda: sorted(islice(features, _MOST_NAMES), key=_distance_from_label)) or []
        for feature in (attempt(partial(features.get, key)) for key in keys):
            yield feature, "names"
            yield read(feature, "feature"), "names"  # of a list of labels
    for about in (read(component, name) for name in _ABOUT):
        if about is not None:
            yield from ((about, name) for name in (*_NAMES, *LABEL_NAMES))


def _distance_from_label(key: Any) -> int:
    return 0 if key in LABEL_NAMES else 1 if "label" in str(key) else 2


def _names_at(holder: Any, name: str, count: int | None) -> list[str] | None:
    value = holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
    names = _names_of(value, count)
    # of a single class there is nothing to tell apart
    return names if names is not None and len(names) >= 2 and count in (None, len(names)) else None


def _names_of(value: Any, count: int | None) -> list[str] | None:
    """Return the names in a sequence, an array or a dict; None for anything else."""
    if not isinstance(value, Sequence | Mapping | np.ndarray) or isinstance(value, str | bytes):
        return None
    if isinstance(value, Mapping):
        return _by_index(dict(islice(value.items(), min(len(value), _MOST_NAMES))))
    if len(value) != (count or len(value)) or len(value) > _MOST_NAMES:
        return None
    names = [_name(entry) for entry in islice(value, len(value))]
    return [name for name in names if name is not None] if None not in names else None


def _by_index(entries: Mapping[Any, Any]) -> list[str] | None:
    """Return the names of a dict of names by index, or of indices by name, of which the first name counts."""
    names: dict[int, str] = {}
    for key, value in entries.items():
        is_inverse = isinstance(key, str) and isinstance(value, int | np.integer)
        index, name = (value, key) if is_inverse else (key, _name(value))
        if name is None or not isinstance(index, int | str | np.integer):
            return None
        names.setdefault(int(index), name)
    return [names[index] for index in range(len(names))] if names.keys() == set(range(len(names))) else None


def _name(entry: Any) -> str | None:
    """Return a name, of several synonyms the first, of what is told of a class its `name`; None for anything else."""
    if isinstance(entry, Mapping):
        entry = entry.get("name")
    elif isinstance(entry, tuple | list):
        entry = entry[0] if entry else None
    return str(entry) if isinstance(entry, str) else None
