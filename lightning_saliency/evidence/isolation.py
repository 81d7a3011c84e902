"""Isolation of a pass: it runs on a shadow of the model, and the states of the process are restored after it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import RLock
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

import torch
from torch import distributed, nn
from torch.fx import GraphModule
from torch.jit import ScriptModule
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_saliency.evidence.process_state import ProcessState
from lightning_saliency.evidence.random_states import cuda_devices
from lightning_saliency.evidence.restoring import restored
from lightning_saliency.evidence.shadow import Shadow
from lightning_saliency.evidence.signals import GATE, uninterrupted

T = TypeVar("T")


@dataclass(frozen=True)
class Surroundings:
    """What a model is a part of, for the shadow of it in which a pass runs.

    Attributes:
        owner: The module that the model is a part of, which hooks on the model may reach; None for the model itself.
        stand_ins: Pairs: an object that the module refers to, and what its shadow refers to in its place.
        prepare: Functions that are called with the shadow before the pass.
    """

    owner: nn.Module | None = None
    stand_ins: tuple[tuple[Any, Any], ...] = ()
    prepare: tuple[Callable[[Shadow], None], ...] = ()


class Undisturbed(Generic[T]):
    """Runs a pass on a model's shadow in eval mode, without a graph; all is left as it was, also after Ctrl-C.

    The model is not touched: see `Shadow`. Restored are the random states of torch (on the CPU and on the model's
    devices), Python and NumPy, and the grad, inference, autocast and function modes. Compiled modules run eagerly,
    without a recompile. One pass runs at a time: another thread waits.

    Args:
        model: Any module.
        surroundings: What the model is a part of.
        read: Returns, for the shadow, what entering the context returns.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
        >>> with Undisturbed(model, Surroundings(), lambda shadow: shadow.module) as copied:
        ...     print(copied.training, model.training)
        False True
    """

    def __init__(self, model: nn.Module, surroundings: Surroundings, read: Callable[[Shadow], T]) -> None:
        self.model = model
        self.surroundings = surroundings
        self.read = read
        self._handled = sys.exc_info()[1]  # an error that is being handled where the pass begins is not the pass's
        self._stack = ExitStack()

    def __enter__(self) -> T:
        try:
            return self._begin()
        except BaseException:  # also of a signal that has waited until the pass had begun
            self.__exit__()
            raise

    @uninterrupted
    def __exit__(
        self, kind: object = None, error: BaseException | None = None, traceback: TracebackType | None = None
    ) -> None:
        self._stack.close()
        interruption = _interruption(error)
        if interruption not in (None, error, self._handled):
            raise interruption

    @uninterrupted
    def _begin(self) -> T:
        while not _PASS.acquire(timeout=_PATIENCE):
            GATE.handle_waiting()
        try:
            GATE.put_up()
            self._stack.callback(GATE.take_down)
            self._stack.callback(_PASS.release)
            return self.read(self._enter())
        except BaseException:
            self._stack.close()
            raise

    def _enter(self) -> Shadow:
        enter = self._stack.enter_context
        self._stack.callback(ProcessState(cuda_devices(self.model)).restore)
        owner = self.surroundings.owner
        shadow = Shadow(self.model if owner is None else owner, self.surroundings.stand_ins)
        self._stack.callback(shadow.release)
        modules = list(shadow.module.modules())
        enter(torch.compiler.set_stance("force_eager"))
        enter(torch.inference_mode(False))
        enter(torch.no_grad())
        if any(isinstance(module, nn.RNNBase) for module in modules):
            # cuDNN has no backward through a recurrent layer in eval mode; torch's own kernels have
            enter(torch.backends.cudnn.flags(enabled=False))
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            enter(cast(Any, _NoCollectives)())
        enter(restored(shadow.uncopied))
        for module in modules:
            if isinstance(module, GraphModule):
                module.eval()  # a traced module may hold one graph per mode, which its `train` method swaps
            elif module.training:
                module.training = False  # not module.eval(): a user may have overridden it
        for prepare in self.surroundings.prepare:
            prepare(shadow)
        return shadow


_PASS = RLock()
"""Held during a pass: the random states are the process's, so that only one thread at a time can keep them."""

_PATIENCE = 0.05
"""Seconds between two looks for a signal, while another thread's pass is waited for."""


def _interruption(error: BaseException | None) -> BaseException | None:
    """Return the interruption behind an error: Ctrl-C while torch switched a mode ends in an error of torch's."""
    while isinstance(error, Exception):
        error = error.__context__
    return error


class _NoCollectives(TorchDispatchMode):
    """Refuses operations between ranks, for which this one, which runs the model alone, would wait forever."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if "c10d" in func.namespace:
            raise RuntimeError(
                "Expected a model that one rank can run alone, but its forward calls a collective operation "
                f"({func.namespace}.{func.overloadpacket.__name__}), for which all ranks must run it together. Name a "
                "submodule that calls none (`model=...`), or gather from the other ranks in training alone."
            )
        return func(*args, **(kwargs or {}))


@contextmanager
def graph_everywhere(model: nn.Module) -> Iterator[None]:
    """Build a graph in every module of a shadow, also in those that it runs under `no_grad`."""

    def enable(module: nn.Module, args: Any) -> None:
        torch.set_grad_enabled(True)

    with ExitStack() as stack, torch.enable_grad():
        for module in model.modules():
            if not isinstance(module, ScriptModule):  # which has no hooks
                stack.callback(module.register_forward_pre_hook(enable).remove)
        yield
