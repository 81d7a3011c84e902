"""Refusals of options that several rooms share: the argument, what was expected, what came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def check_count(option: str, count: int) -> None:
    """Refuse what is no positive int."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"Expected `{option}` to be a positive int, got {count!r}.")


def check_choice(option: str, value: Any, allowed: Sequence[Any]) -> None:
    """Refuse a value that is not one of these."""
    if value not in allowed:
        raise ValueError(f"Expected `{option}` to be one of {', '.join(map(str, allowed))}, got {value!r}.")


def check_function(option: str, function: Any) -> None:
    """Refuse what is neither a function nor None."""
    if function is not None and not callable(function):
        raise TypeError(f"Expected `{option}` to be a function or None, got {type(function).__name__}.")
