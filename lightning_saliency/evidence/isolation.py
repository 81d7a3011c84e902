"""Isolation of a pass: modes, buffers, attributes and random states are restored after it."""

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

    Restored are: each module's `training` flag, buffers and attributes (a metric's states, cached features), the random
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
        stack.enter_context(_restored_buffers(modules))
        stack.enter_context(_restored_attributes(modules))
        # a traced module may hold one graph per mode, which its `train` method swaps
        traced_flags = [(module, flag) for module, flag in flags if isinstance(module, GraphModule)]
        try:
            for traced, _ in traced_flags:
                traced.eval()
            for module, flag in flags:
                if flag:
                    module.training = False  # not module.eval(): a user may have overridden it
            yield
        finally:
            for traced, flag in traced_flags:
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
def _restored_buffers(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Restore the buffers after the context: some change in eval mode too (fake quantization, counters)."""
    registered = [(module._buffers, dict(module._buffers.items())) for module in modules]
    copies = [
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
        for buffer, copy, version in copies:
            if buffer._version != version or not torch.equal(buffer, copy):  # `.data` changes no version
                if buffer.shape != copy.shape:  # per-channel observers resize theirs
                    buffer.resize_(copy.shape)
                buffer.copy_(copy)


@contextmanager
def _restored_attributes(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Restore the attributes after the context: a metric's states, cached features, counters."""
    originals = [(vars(module), dict(vars(module))) for module in modules if not isinstance(module, ScriptModule)]
    lists = []
    try:
        for current, attributes in originals:
            for name, value in attributes.items():
                if isinstance(value, Tensor):  # the pass works on a copy: a metric adds to its states in place
                    current[name] = value.detach().clone()
                elif isinstance(value, list):
                    lists.append((value, list(value)))
        yield
    finally:
        for current, attributes in originals:
            _restore(current, attributes)
        for value, items in lists:
            value[:] = items


def _restore(current: Any, originals: dict[str, Any]) -> None:
    """Restore the entries of a module's dict, and delete those that were added; a scripted module's has no `update`."""
    for name, value in originals.items():
        current[name] = value
    if len(current) > len(originals):
        for name in [name for name, _ in current.items() if name not in originals]:
            del current[name]
