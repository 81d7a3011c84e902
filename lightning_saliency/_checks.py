"""Checks of arguments: one sentence for all errors, which names the argument, what was expected and what came.

Nothing here imports torch: shapes and types of tensors are read from the tensors themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


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
    """Return the type and the text of an error in one line.

    Example:
        >>> describe_error(KeyError("label"))
        "KeyError: 'label'"
    """
    return f"{type(error).__name__}: {error_message(error)}".removesuffix(": ")


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
    """Refuse a value that is not one of the allowed ones."""
    if value not in allowed:
        refuse(name, f"one of {', '.join(map(str, allowed))}", repr(value))
    return value


def check_count(name: str, value: int, least: int = 1) -> int:
    """Refuse what is no positive int, or no int from another number on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        refuse(name, "a positive int" if least == 1 else f"an int from {least}", repr(value))
    return value


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


def check_number(name: str, value: Any, interval: str) -> float:
    """Refuse what is no number in an interval, which is written as for `is_within`."""
    if isinstance(value, bool) or not isinstance(value, Real) or not is_within(float(value), interval):
        low = interval[1:].partition(",")[0]
        bounds = {"[": f"from {low}", "(": f"above {low}"}[interval[0]] if "inf" in interval else f"in {interval}"
        refuse(name, f"a number {bounds}", repr(value))
    return float(value)


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
