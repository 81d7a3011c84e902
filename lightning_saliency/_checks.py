"""Checks of arguments: one sentence for all errors, which names the argument, what was expected and what came.

A check takes an argument's name and value, and returns the plain value to keep: an `int` for a NumPy integer, a tuple
for a list. Nothing here imports torch or NumPy: shapes and types of tensors are read from the tensors themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

Check: TypeAlias = Callable[[str, Any], Any]
"""A function of an option's name and value, which refuses a wrong value, and returns the one to keep."""

_LONGEST_TEXT = 200
"""The most characters of a value in an error."""

_LONGEST_ERROR = 300
"""The most characters of somebody else's error in a message: it may hold the `repr` of a whole model."""

_LEAST_LIKENESS = 0.82
"""From which ratio of equal letters a name counts as a misspelled one: with a wrong, a missing or a swapped letter, but
not for another word that is a part of it."""

_LARGEST_INT = 2**63 - 1
"""The largest int of torch, of checkpoints and of records."""


class OptionError(ValueError):
    """An option is set to something that this model or this data cannot meet, which ends a run before it begins.

    Args:
        message: The text.
        option: The option, so that a caller knows whether it was set by the user or is a default.

    Example:
        >>> raise OptionError("Expected `layer` to name a module, got 'nowhere'.", "layer")
        Traceback (most recent call last):
        lightning_saliency._checks.OptionError: Expected `layer` to name a module, got 'nowhere'.
    """

    def __init__(self, message: str, option: str = "") -> None:
        super().__init__(message)
        self.option = option


def error_message(error: BaseException) -> str:
    r"""Return the text of an error in one line, also where its `__str__` raises.

    Example:
        >>> error_message(ValueError("Expected one line,\n  got two."))
        'Expected one line, got two.'
    """
    try:
        return " ".join(str(error).split())
    except Exception as raised:  # somebody else's `__str__`, which may do anything
        return f"(its text raises {type(raised).__name__})"


def describe_error(error: BaseException) -> str:
    """Return the type and the text of an error in one line; a long text of somebody else's, such as a `repr`, is cut.

    Example:
        >>> describe_error(KeyError("label"))
        "KeyError: 'label'"
    """
    text = error_message(error)
    if len(text) > _LONGEST_ERROR and not _is_ours(error):
        text = f"{text[:_LONGEST_ERROR]}…"
    return f"{type(error).__name__}: {text}".removesuffix(": ")


def _is_ours(error: BaseException) -> bool:
    """Whether an error was raised by this package."""
    files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    return isinstance(error, OptionError) or (bool(files) and files[-1].startswith(str(Path(__file__).parent)))


def call_option(option: str, function: Callable[..., T], *args: Any) -> T:
    """Call a function that the user passed as an option, and raise its error as one of the option.

    Args:
        option: The option.
        function: The user's function.
        args: What it is called with.

    Raises:
        OptionError: The function raises.

    Example:
        >>> call_option("samples.labels", lambda batch: batch["y"], {"x": 1})
        Traceback (most recent call last):
        lightning_saliency._checks.OptionError: The function for `samples.labels` raises KeyError: 'y'.
    """
    try:
        return function(*args)
    except OptionError:  # the function is one of ours, and its error names the option
        raise
    except Exception as error:
        raise OptionError(f"The function for `{option}` raises {describe_error(error)}.", option) from error


def refuse(name: str, expected: str, got: object, *, hint: str = "", error: type[Exception] = ValueError) -> NoReturn:
    """Raise the error that all checks raise.

    Args:
        name: The argument.
        expected: What it is expected to be, as the sentence goes on after "to be".
        got: What came instead.
        hint: A sentence that says what to do.
        error: `TypeError` for an argument of another kind.

    Example:
        >>> refuse("steps", "a positive int", 0, hint="Leave it out for 16.")
        Traceback (most recent call last):
        ValueError: Expected `steps` to be a positive int, got 0. Leave it out for 16.
    """
    raise error(f"Expected `{name}` to be {expected}, got {got}.{hint and ' '}{hint}")


def shown(value: Any) -> str:
    """Return a value as an error shows it: its `repr` on one line, cut where it is long.

    Example:
        >>> shown([1.5, "a"]), len(shown("x" * 1000))
        ("[1.5, 'a']", 201)
    """
    try:
        text = " ".join(repr(value).split())
    except Exception:  # the error is about the value, not about its class, whose `repr` may raise anything
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "…"


def suggest(value: Any, names: Mapping[str, str]) -> str:
    """Return the question whether a misspelled name is meant, for the hint of an error; empty where none is near.

    Args:
        value: What came; anything but a text is near to none.
        names: Those that there are, by their spellings.

    Example:
        >>> suggest("entropi", {"entropy": "entropy"}), suggest("gradientshap", {"gradient": "saliency"})
        ("Did you mean 'entropy'?", '')
    """
    nearest = get_close_matches(value, names, n=1, cutoff=_LEAST_LIKENESS) if isinstance(value, str) else []
    return f"Did you mean {names[nearest[0]]!r}?" if nearest else ""


def check_options(options: Any, prefix: str, checks: Mapping[str, Check]) -> None:
    """Check the options of a frozen dataclass while it is made, and keep their plain values.

    Args:
        options: The dataclass, in its `__post_init__`.
        prefix: What stands before an option's name in errors.
        checks: A check of each option.
    """
    for option, check in checks.items():
        object.__setattr__(options, option, check(f"{prefix}{option}", getattr(options, option)))


def optional(check: Check) -> Check:
    """Return a check that passes None.

    Example:
        >>> optional(check_count)("chunk_size", None)
    """
    return lambda name, value: None if value is None else check(name, value)


def check_type(name: str, value: Any, expected: type[T]) -> T:
    """Refuse what is no instance of a class, with a `TypeError`."""
    if not isinstance(value, expected):
        refuse(name, f"of type {expected.__qualname__}", type(value).__name__, error=TypeError)
    return value


def check_function(name: str, value: T) -> T:
    """Refuse what is neither a function nor None, with a `TypeError`."""
    if value is not None and not callable(value):
        refuse(name, "a function or None", type(value).__name__, error=TypeError)
    return value


def check_choice(name: str, value: T, allowed: Sequence[Any]) -> T:
    """Return the one of the allowed values, which are texts or None, that equals a value, and refuse any other."""
    if not (value is None or isinstance(value, str)) or value not in allowed:
        hint = suggest(value, {text: text for text in allowed if text is not None})
        refuse(name, f"one of {', '.join(map(str, allowed))}", shown(value), hint=hint)
    choice: T = allowed[allowed.index(value)]
    return choice


def check_text(name: str, value: Any) -> str:
    """Refuse what is no text, with a `TypeError`, and an empty one."""
    if not isinstance(value, str):
        refuse(name, "a text", shown(value), error=TypeError)
    if not value:
        refuse(name, "a text that is not empty", shown(value))
    return str(value)


def is_flag(value: Any) -> bool:
    """Whether a value is True or False, of Python or of NumPy; 1, "False" and None are not."""
    return isinstance(value, bool) or (str(getattr(value, "dtype", "")) == "bool" and value.shape == ())


def check_flag(name: str, value: Any) -> bool:
    """Refuse what is neither True nor False, with a `TypeError`.

    Example:
        >>> check_flag("flip", "False")
        Traceback (most recent call last):
        TypeError: Expected `flip` to be True or False, got 'False'.
    """
    if not is_flag(value):
        refuse(name, "True or False", shown(value), error=TypeError)
    return bool(value)


def is_int(value: Any) -> bool:
    """Whether a value is an int, of Python or of NumPy; True and 3.0 are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Refuse what is no int, such as True and 3.0, with a `TypeError`, and one that is below another."""
    if not is_int(value) or not least <= value <= _LARGEST_INT:
        expected = "a positive int" if least == 1 else f"an int from {least}"
        refuse(name, expected, shown(value), error=ValueError if is_int(value) else TypeError)
    return int(value)


def is_within(value: float, interval: str) -> bool:
    """Whether a number lies in an interval such as `"[0, 1)"`, a square bracket being an end that belongs to it.

    Example:
        >>> is_within(0, "[0, 1)"), is_within(1, "[0, 1)"), is_within(float("nan"), "[0, 1]"), is_within(5, "(0, inf)")
        (True, False, False, True)
    """
    low, high = map(float, interval[1:-1].split(","))
    return (low <= value if interval[0] == "[" else low < value) and (
        value <= high if interval[-1] == "]" else value < high
    )


def check_number(name: str, value: Any, interval: str = "(-inf, inf)") -> float:
    """Refuse what is no number, such as True, with a `TypeError`, and one outside an interval as of `is_within`."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    number = _as_float(value) if is_number else math.nan
    if not is_within(number, interval):
        low, _, high = interval[1:-1].partition(", ")
        bounds = f"in {interval}" if high != "inf" else f"from {low}" if interval[0] == "[" else f"above {low}"
        expected = "a finite number" if interval == "(-inf, inf)" else f"a number {bounds}"
        refuse(name, expected, shown(value), error=ValueError if is_number else TypeError)
    return number


def _as_float(number: Any) -> float:
    """Return a number as a float, and one that is too large for a float as infinity."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def check_each(name: str, values: Any, check: Check, *, of: str) -> tuple[Any, ...]:
    """Check each value of a list, tuple, range or array that is not empty, and return them as a tuple.

    Args:
        name: The argument.
        values: The list.
        check: The check of a value.
        of: What the values are, as the sentence goes on after "a list of" and "one or more".

    Example:
        >>> check_each("thresholds", [0.2, 1], check_number, of="numbers")
        (0.2, 1.0)
    """
    items = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(items, Sequence) or isinstance(items, str | bytes):
        refuse(name, f"a list of {of}", shown(values), error=TypeError)
    if not items:
        refuse(name, f"one or more {of}", shown(values))
    return tuple(check(name if len(items) == 1 else f"{name}[{index}]", item) for index, item in enumerate(items))


def check_shape(name: str, tensor: Tensor, shape: Sequence[int | str], note: str = "") -> Tensor:
    """Refuse a tensor of another shape.

    Args:
        name: The argument.
        tensor: What came.
        shape: Of each dimension its size, or a name where any size will do.
        note: Where the sizes come from, as the sentence goes on: "as `heatmaps`".

    Example:
        >>> import torch
        >>> check_shape("images", torch.zeros(3, 8, 8), ("N", "C", "H", "W"))
        Traceback (most recent call last):
        ValueError: Expected `images` to be (N, C, H, W), got shape (3, 8, 8).
    """
    found = tuple(tensor.shape)
    if len(found) != len(shape) or any(
        size != there for size, there in zip(shape, found, strict=True) if isinstance(size, int)
    ):
        sizes = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
        refuse(name, f"{sizes}{note and ' '}{note}", f"shape {found}")
    return tensor


def check_bool(name: str, tensor: Tensor, hint: str = "") -> Tensor:
    """Refuse a tensor of another type than bool."""
    if str(tensor.dtype) != "torch.bool":
        refuse(name, "of type bool", tensor.dtype, hint=hint)
    return tensor


def check_not_negative(name: str, tensor: Tensor) -> Tensor:
    """Refuse a tensor with a value below 0."""
    if (tensor < 0).any():
        refuse(name, "0 or more everywhere", f"{float(tensor.min()):.3g}")
    return tensor
