"""The JSON that describes a file, each part of which must have its type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any, TypeAlias, TypeVar

_Value = TypeVar("_Value")

Answer: TypeAlias = int | tuple[int, ...] | tuple[float, ...]
"""What a model says of a sample, or what is true of it: a class, a set of classes, or values."""

FORMAT = 1
"""Raised when a file is laid out anew, so that an older reader says so instead of showing something wrong."""


def check_format(about: Mapping[str, Any]) -> None:
    """Raise if the file is laid out in a way that this version does not know."""
    found = about.get("format")
    if found != FORMAT:
        raise ValueError(
            f"it has the format {found!r}, and this version of lightning-saliency reads {FORMAT}; "
            "read it with the version that wrote it"
        )


def value(about: Mapping[str, Any], key: str, *types: type[_Value]) -> _Value:
    """Return a part that has one of these types."""
    return _typed(about.get(key), key, types)


def values(about: Mapping[str, Any], key: str, *types: type[_Value]) -> tuple[_Value, ...]:
    """Return the values of a list, each of one of these types."""
    return tuple(_typed(item, key, types) for item in value(about, key, list))


def sizes(about: Mapping[str, Any], key: str) -> tuple[tuple[int, ...], ...]:
    """Return a list of sizes: heights and widths, or the one length of signals, or the three of volumes."""
    lists = values(about, key, list)
    if any(len(size) not in (1, 2, 3) or type(side) is not int or side < 1 for size in lists for side in size or [0]):
        raise ValueError(f"{key!r} should be lists of one to three lengths")
    return tuple(map(tuple, lists))


def classes(about: Mapping[str, Any], key: str) -> tuple[tuple[int, ...], ...]:
    """Return lists of classes, one for each sample."""
    return tuple(tuple(_typed(item, key, (int,)) for item in listed) for listed in values(about, key, list))


def answers(about: Mapping[str, Any], key: str) -> tuple[Answer | None, ...]:
    """Return what is predicted, or true, of each sample: a class, classes, values, or None."""
    found: list[Answer | None] = []
    for answer in values(about, key, int, list, type(None)):
        if not isinstance(answer, list):
            found.append(answer)
        elif all(type(item) is int for item in answer):
            found.append(tuple(answer))
        else:
            found.append(tuple(map(from_json, answer)))
    return tuple(found)


def answer_to_json(answer: Any) -> Any:
    """Return an answer as JSON can hold it: values as numbers with a point, classes as integers."""
    if answer is None or isinstance(answer, Integral):
        return None if answer is None else int(answer)
    return [int(item) if isinstance(item, Integral) else to_json(item) for item in answer]


def to_json(value: float) -> float | str:
    """Return a number as JSON can hold it, which knows no NaN and no infinities."""
    number = float(value)
    return number if math.isfinite(number) else str(number)


def from_json(value: Any) -> float:
    """Return the number of `to_json`."""
    if type(value) in (int, float) or value in ("nan", "inf", "-inf"):
        return float(value)
    raise ValueError(f"expected a number, got {value!r}"[:200])


def _typed(value: Any, key: str, types: tuple[type[_Value], ...]) -> _Value:
    for known in types:
        if type(value) is known:  # not isinstance: True is no number
            return value
    raise ValueError(f"{key!r} should be of the type {' or '.join(known.__name__ for known in types)}")
