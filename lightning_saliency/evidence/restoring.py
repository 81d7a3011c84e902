"""Restoring of modules that cannot be copied: their flags, buffers and attributes are as before the pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule


@contextmanager
def restored(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Restore modules and their submodules after the context: training flags, buffers, attributes and lists in them.

    Args:
        modules: Any modules.
    """
    every = list({id(module): module for parent in modules for module in parent.modules()}.values())
    flags = [(module, module.training) for module in every]
    try:
        with _restored_buffers(every), _restored_attributes(every):
            yield
    finally:
        for module, flag in flags:
            if module.training != flag:
                module.train(flag)


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
    """Restore the entries of a module's dict and their order; a scripted module's has no `update`, and keeps them."""
    names = [name for name, _ in current.items()]
    if names != list(originals):
        for name in names:
            del current[name]
    for name, value in originals.items():
        current[name] = value
