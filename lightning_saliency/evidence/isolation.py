"""Everything about a model that a pass must leave as it was: modes, buffers, attributes, random states."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.jit import ScriptModule


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run the model in eval mode, without a graph, and leave everything as it was, also after an error.

    Kept are: each module's `training` flag, buffers and attributes (a metric's states, cached features), the random
    states of torch (on the CPU and on the model's devices), Python and NumPy, the grad and inference modes. Compiled
    modules run eagerly, without a recompile.
    `requires_grad`, `.grad` and the parameters are never touched.

    Args:
        model: Any module.
    """
    modules = list(model.modules())
    flags = [(module, module.training) for module in modules]
    cuda = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=sorted(cuda)))
        stack.callback(np.random.set_state, numpy_state)
        stack.callback(random.setstate, python_state)
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        if any(isinstance(module, nn.RNNBase) for module in modules):
            # cuDNN has no backward through a recurrent layer in eval mode; torch's own kernels have
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(_buffers_kept(modules))
        stack.enter_context(_attributes_kept(modules))
        # a traced module with a graph for each mode swaps them in `train`
        swapped = [(module, flag) for module, flag in flags if isinstance(module, GraphModule)]
        try:
            for traced, _ in swapped:
                traced.eval()
            for module, flag in flags:
                if flag:
                    module.training = False  # not module.eval(): a user may have overridden it
            yield
        finally:
            for traced, flag in swapped:
                traced.train(flag)
            for module, flag in flags:
                if module.training != flag:
                    module.training = flag


@contextmanager
def graph_everywhere(model: nn.Module) -> Iterator[None]:
    """Build a graph in every module, also in those that the model runs under `no_grad`."""

    def enable(module: nn.Module, args: Any) -> None:
        torch.set_grad_enabled(True)

    with ExitStack() as stack, torch.enable_grad():
        for module in model.modules():
            if not isinstance(module, ScriptModule):  # which has no hooks
                stack.callback(module.register_forward_pre_hook(enable).remove)
        yield


@contextmanager
def _buffers_kept(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Undo what the forward does to buffers: some change in eval mode too (fake quantisation, counters)."""
    registered = [(module._buffers, dict(module._buffers.items())) for module in modules]
    kept = [
        (buffer, buffer.clone(), buffer._version)
        for _, buffers in registered
        for buffer in buffers.values()
        if buffer is not None and not buffer.is_inference()  # an inference tensor cannot be changed in here
    ]
    try:
        yield
    finally:
        for current, buffers in registered:
            _restore(current, buffers)
        for buffer, copy, version in kept:
            if buffer._version != version or not torch.equal(buffer, copy):  # writing to `.data` leaves the version
                if buffer.shape != copy.shape:  # per-channel observers resize theirs
                    buffer.resize_(copy.shape)
                buffer.copy_(copy)


@contextmanager
def _attributes_kept(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Undo what the forward assigns to modules: a metric's states, features kept for later, counters."""
    kept = [(vars(module), dict(vars(module))) for module in modules if not isinstance(module, ScriptModule)]
    lists = []
    try:
        for current, names in kept:
            for name, value in names.items():
                if isinstance(value, Tensor):  # a copy to work on: a metric adds to its states in place
                    current[name] = value.detach().clone()
                elif isinstance(value, list):
                    lists.append((value, list(value)))
        yield
    finally:
        for current, names in kept:
            _restore(current, names)
        for value, items in lists:
            value[:] = items


def _restore(current: Any, names: dict[str, Any]) -> None:
    """Give a module's dict back the very objects that it had, and no others; a scripted module's has no `update`."""
    for name, value in names.items():
        current[name] = value
    if len(current) > len(names):
        for name in [name for name, _ in current.items() if name not in names]:
            del current[name]
