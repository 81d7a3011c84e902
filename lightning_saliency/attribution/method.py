"""`Method`: a row of the method table, which stands beside its function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor

from lightning_saliency._checks import Check, check_choice, shown
from lightning_saliency.evidence import Evidence, Need, Passes

ExtraPasses: TypeAlias = Literal["rectified", "noisy", "path", "perturbed"]
"""The kinds of passes that a method may need beyond the shared one."""

Reduce: TypeAlias = Literal["absolute", "signed", "positive", "sum"]
"""How the channels of a map in input space become one: max |v|, the v with the largest |v|, max ReLU(v), or Σ v."""


_check_reduce = partial(check_choice, allowed=get_args(Reduce))


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
        checks: By option a function of its name and value that refuses a wrong value, or returns the right one; an
            option without one may be anything.
        option_needs: By option the parts of the evidence that the method reads in addition where it is not None.
        notes: By name a function of the evidence and the options that returns a number for each map, `(N,)`, which is
            reported with it.
        aliases: Other names that it goes by in the literature and in other libraries; see `find_method`.
    """

    function: Callable[..., Tensor]
    title: str
    needs: frozenset[Need]
    reduce: Reduce | None = None
    extra: ExtraPasses | None = None
    checks: Mapping[str, Check] = field(default_factory=dict)
    option_needs: Mapping[str, frozenset[Need]] = field(default_factory=dict)
    notes: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    @property
    def reads_layer(self) -> bool:
        """Whether the method reads a target layer."""
        return bool(self.needs & {"activations", "activation_grads", "class_weights"})

    @property
    def is_fine(self) -> bool:
        """Whether its maps of a CNN have a value of their own for each pixel of the input, of which few are large."""
        return self.reduce is not None or "lrp" in self.needs

    @property
    def needs_run(self) -> bool:
        """Whether the method reads what only a run of the model shows: its attentions, or the grid of its patches."""
        return self.reads_attentions or "lrp" in self.needs

    @property
    def reads_attentions(self) -> bool:
        """Whether the method reads the model's attentions, or their inputs."""
        return bool(self.needs & {"attention_relevance", "attention_weights", "attention_inputs"})

    def needs_with(self, options: Mapping[str, Any]) -> frozenset[Need]:
        """Return the parts of the evidence that the method reads with these options."""
        needed = (self.option_needs.get(option, frozenset()) for option, value in options.items() if value is not None)
        return self.needs.union(*needed)

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the options that can be set."""
        parameters = inspect.signature(self.function).parameters.values()
        keyword_only = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        return (*keyword_only, *(["reduce"] if self.reduce else []))

    def parse_options(self, key: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return options as their checks return them.

        Args:
            key: The method's key, for the message.
            options: The options' values by name.

        Raises:
            TypeError: A value is of the wrong kind.
            ValueError: There is no such option, or the value does not fit.
        """
        checks: dict[str, Check] = {**self.checks, **({"reduce": _check_reduce} if self.reduce else {})}
        parsed = {}
        for option, value in options.items():
            if option not in self.options:
                raise ValueError(
                    f"Expected the options of {key!r} in `methods` out of {', '.join(self.options) or 'none'}, got "
                    f"{shown(option)}."
                )
            check = checks.get(option)
            parsed[option] = value if check is None else check(f"methods[{key!r}][{option!r}]", value)
        return parsed

    def attribute(
        self, evidence: Evidence, passes: Passes, options: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the raw attributions `(N, 1, h, w)`, and those of each channel `(N, C, H, W)` or None.

        Only methods in input space have one for each channel. The method's notes are put into those of the passes.
        """
        function_options = dict(options or {})
        reduce = function_options.pop("reduce", self.reduce)
        raw = self.function(evidence, *([passes] if self.extra else []), **function_options)
        for name, note in self.notes.items():
            passes.notes[name] = note(evidence, **function_options)
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
