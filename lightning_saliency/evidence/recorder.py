"""`CallRecorder`: records the arguments and outputs of a model's calls during somebody else's step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule

from lightning_saliency._checks import error_message
from lightning_saliency.data import Call, is_subclass, make_call, mapped, plain_tensors
from lightning_saliency.data.trees import leaves
from lightning_saliency.evidence.detections import is_list_of_detections
from lightning_saliency.evidence.outputs import OutputChoice, output_tensors, read_output
from lightning_saliency.evidence.signals import uninterrupted
from lightning_saliency.evidence.task import Task


@dataclass(frozen=True)
class RecordedCall:
    """A call of a module that was recorded during somebody else's step.

    Attributes:
        name: The name of the module.
        call: What the module was called with; None where that holds no images.
        output: What it returned, with copies of its tensors.
        problem: Why there is no call, or no output that can be explained; else None.
        arguments: The positional and keyword arguments where there is no call; else None.
        subclasses: The names of the types of its arguments' tensors that are no plain ones; copies are.
        times: How often the module was called in the step.
    """

    name: str
    call: Call | None
    output: Any
    problem: str | None
    arguments: tuple[Any, Any] | None = None
    subclasses: tuple[str, ...] = ()
    times: int = 1

    @property
    def given(self) -> tuple[Any, Any]:
        """The positional and keyword arguments."""
        if self.call is not None:
            return self.call.args, self.call.kwargs
        return ((), {}) if self.arguments is None else self.arguments


class CallRecorder:
    """Records the first call of each of several modules in a step, by hooks.

    A call inside the call of another one of the modules is not recorded. The hooks are registered from `start` to
    `stop`, and read nothing outside `begin_step` and `end_step`.

    Args:
        modules: The modules by name.
        image: The name of the argument that holds the images, where there are several; see `make_call`.
        output_fn: Which part of a module's output is explained.
        task: What it means; None where that is not known.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        *,
        image: str | None = None,
        output_fn: OutputChoice = None,
        task: Task | None = None,
    ) -> None:
        # a scripted module has no hooks
        self.modules = {name: module for name, module in modules.items() if not isinstance(module, ScriptModule)}
        self.image = image
        self.output_fn = output_fn
        self.task = task
        self._hooks = ExitStack()
        self._forwards: dict[str, Callable[..., Any]] = {}
        self._is_listening = False
        self._open: list[str] = []
        self._arguments: dict[str, tuple[Any, Any]] = {}
        self._subclasses: dict[str, tuple[str, ...]] = {}
        self._times: Counter[str] = Counter()
        self._recorded: dict[str, RecordedCall] = {}

    @uninterrupted
    def start(self) -> None:
        """Register the hooks."""
        self.stop()
        # a strategy may run a step by the module's call, its `forward` replaced for that: no call of the model
        self._forwards = {name: module.forward for name, module in self.modules.items()}
        for name, module in self.modules.items():
            before, after = _never_compiled(self._before(name)), _never_compiled(self._after(name))
            # before the user's own hooks, which run again when the call is repeated, and after them
            self._hooks.callback(module.register_forward_pre_hook(before, prepend=True, with_kwargs=True).remove)
            self._hooks.callback(module.register_forward_hook(after, always_call=True).remove)

    @uninterrupted
    def stop(self) -> None:
        """Remove the hooks."""
        self.end_step()
        self._hooks.close()

    def begin_step(self) -> None:
        """Begin to record calls."""
        self.end_step()
        self._is_listening = True

    def end_step(self) -> dict[str, RecordedCall]:
        """Return the calls since the step began, in the order in which they ended, and drop them."""
        recorded = {name: replace(call, times=self._times[name]) for name, call in self._recorded.items()}
        self._is_listening, self._open, self._arguments, self._recorded = False, [], {}, {}
        self._subclasses, self._times = {}, Counter()
        return recorded

    def _before(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not self._is_listening or module.forward != self._forwards[name]:
                return
            if not self._open:
                self._times[name] += 1
            if not self._open and name not in self._recorded:
                self._subclasses[name] = _subclasses((args, kwargs))
                # copied before the forward, which may write into them
                self._arguments[name] = _cloned((args, kwargs))
            self._open.append(name)

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not self._is_listening or name not in self._open:
                return
            del self._open[self._open.index(name) :]
            if not self._open and name in self._arguments:
                self._recorded[name] = self._record(name, *self._arguments.pop(name), output)

        return hook

    def _record(self, name: str, args: Any, kwargs: Any, output: Any) -> RecordedCall:
        call = copied = None
        recorded = partial(RecordedCall, name, subclasses=self._subclasses.get(name, ()))
        try:
            copied = _cloned(output)
            call = make_call(args, kwargs, self.image, signals=True)
            is_unread = not is_list_of_detections(output, len(call)) and not output_tensors(output, len(call))
            if callable(self.output_fn) or is_unread:
                read_output(output, len(call), self.output_fn, self.task)
        except Exception as error:  # reported where the call is read: a hook that raises would end the user's step
            return recorded(call, copied, error_message(error), (args, kwargs) if call is None else None)
        return recorded(call, copied, None)


def _never_compiled(hook: Callable[..., None]) -> Callable[..., None]:
    """Return the hook such that a compiled module calls it uncompiled."""
    disabled: Callable[..., None] = torch.compiler.disable(hook)
    return disabled


def _cloned(tree: Any) -> Any:
    """Return a copy of a tree with copies of its tensors, plain ones, without a graph."""
    with torch.inference_mode(False), torch.no_grad():
        plain = plain_tensors(tree)
        return mapped(plain, lambda _, value: value.detach().clone() if isinstance(value, Tensor) else value)


def _subclasses(tree: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(type(value).__name__ for _, value in leaves(tree) if is_subclass(value)))
