"""`Method`: a row of the method table, which stands beside its function."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from torch import Tensor

from lightning_saliency.evidence import Evidence, Need, Passes

ExtraPasses: TypeAlias = Literal["rectified", "noisy", "path", "perturbed"]
"""The kinds of passes that a method may need beyond the shared one."""

Reduce: TypeAlias = Literal["absolute", "signed", "positive", "sum"]
"""How the channels of a map in input space become one: max |v|, the v with the largest |v|, max ReLU(v), or Σ v."""


class OptionCheck(NamedTuple):
    """A check of a method's option: the expected value in words, and the function that tests a value."""

    expected: str
    fits: Callable[[Any], bool]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


BOOL = OptionCheck("True or False", lambda value: isinstance(value, bool))
COUNT = OptionCheck("a positive int", _is_count)
INT = OptionCheck("an int", lambda value: isinstance(value, int))
NUMBER = OptionCheck("a number", _is_number)
NOT_NEGATIVE = OptionCheck("a number that is not negative", lambda value: _is_number(value) and value >= 0)
OPTIONAL_COUNT = OptionCheck("a positive int or None", lambda value: value is None or _is_count(value))
_REDUCE = OptionCheck(f"one of {', '.join(get_args(Reduce))}", lambda value: value in get_args(Reduce))


@dataclass(frozen=True)
class Method:
    """A row of the method table.

    Attributes:
        function: Evidence -> raw attributions `(N, 1, h, w)`, or with `reduce` signed ones of each channel of the input
            `(N, C, H, W)`. With `extra` passes it takes `Passes` as well. Its keyword-only arguments are options.
        title: Its name in pictures.
        needs: The parts of the evidence that it reads.
        reduce: How the channels become one map.
        extra: The kind of passes that it needs beyond the shared one.
        checks: The checks of the function's options by name; an option without one may be anything.
    """

    function: Callable[..., Tensor]
    title: str
    needs: frozenset[Need]
    reduce: Reduce | None = None
    extra: ExtraPasses | None = None
    checks: Mapping[str, OptionCheck] = field(default_factory=dict)

    @property
    def reads_layer(self) -> bool:
        """Whether the method reads a target layer."""
        return bool(self.needs - {"input_grads"})

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the options that can be set."""
        parameters = inspect.signature(self.function).parameters.values()
        keyword_only = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        return (*keyword_only, *(["reduce"] if self.reduce else []))

    def check_options(self, key: str, options: Mapping[str, Any]) -> None:
        """Refuse options that the method does not have, and values that they cannot have.

        Args:
            key: The method's key, for the message.
            options: The options' values by name.

        Raises:
            ValueError: There is no such option, or the value does not fit.
        """
        checks = {**self.checks, **({"reduce": _REDUCE} if self.reduce else {})}
        for option, value in options.items():
            if option not in self.options:
                raise ValueError(
                    f"Expected the options of {key!r} in `methods` out of {', '.join(self.options) or 'none'}, got "
                    f"{option!r}."
                )
            check = checks.get(option)
            if check is not None and not check.fits(value):
                raise ValueError(f"Expected `{option}` of {key!r} to be {check.expected}, got {value!r}.")

    def attribute(
        self, evidence: Evidence, passes: Passes, options: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the raw attributions `(N, 1, h, w)`, and those of each channel `(N, C, H, W)` or None.

        Only methods in input space have one for each channel.
        """
        function_options = dict(options or {})
        reduce = function_options.pop("reduce", self.reduce)
        raw = self.function(evidence, *([passes] if self.extra else []), **function_options)
        if reduce is None:
            return raw.float(), None
        return reduce_channels(raw, reduce).float(), raw.float()


def reduce_channels(attribution: Tensor, reduce: Reduce) -> Tensor:
    """Reduce the channels to one map: `(N, C, H, W)` -> `(N, 1, H, W)`.

    Example:
        >>> import torch
        >>> reduce_channels(torch.tensor([[[[1.0, -2.0]], [[-3.0, 0.0]]]]), "absolute")
        tensor([[[[3., 2.]]]])
    """
    if reduce == "sum":
        return attribution.sum(1, keepdim=True)
    if reduce == "positive":
        return attribution.relu().amax(1, keepdim=True)
    if reduce == "absolute":
        return attribution.abs().amax(1, keepdim=True)
    return attribution.gather(1, attribution.abs().argmax(1, keepdim=True))
