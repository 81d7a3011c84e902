"""Fingerprints of a training's state, by which an audit checks that a callback changes none of it."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from threading import Thread
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any
from weakref import CallableProxyType, ProxyType

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_saliency.data import FixedSamples
from lightning_saliency.evidence import Forward

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

_PASSED_OVER = (type, property, staticmethod, classmethod, FunctionType, Dataset, DataLoader, Sampler)
"""Types of attributes that hold no state of a training, or too much to be read."""


_PROXIES = (ProxyType, CallableProxyType)
"""Types that stand for another object, whose state is read where that object is."""

_RUNNING = (Thread, Executor)
"""Types of objects whose state is that of the process, and differs from moment to moment."""


def fingerprint(trainer: Any, pl_module: Any) -> dict[str, str]:
    """Return a hash of each part of the state that decides how a training continues.

    Parameters, buffers, gradients (and whether there is one), `requires_grad`, the `training` flag, the hooks, all
    attributes and the class attributes of each module (containers, helper objects, generators, closures), optimizers,
    schedulers, gradient scalers, loop counters, the random states of torch (CPU and every CUDA device), Python and
    NumPy, and torch's grad, inference and autocast modes.

    Args:
        trainer: A Lightning Trainer, in `fit`, `validate` or `test`.
        pl_module: The LightningModule.

    Returns:
        A hash for each part of the state, by a name in words. Nothing is changed.
    """
    parts: dict[str, Any] = {}
    for name, parameter in pl_module.named_parameters():
        parts[f"the parameter {name}"] = parameter
        parts[f"the gradient of {name}"] = parameter.grad
        parts[f"requires_grad of {name}"] = parameter.requires_grad
    for name, buffer in pl_module.named_buffers():
        parts[f"the buffer {name}"] = buffer
    for name, module in pl_module.named_modules():
        parts[f"the training flag of {name or 'the module'}"] = module.training
        parts[f"the hooks of {name or 'the module'}"] = [list(getattr(module, hooks, ())) for hooks in _HOOKS]
        parts |= {f"{attribute} of {name or 'the module'}": value for attribute, value in _python_state(module)}
    for index, optimizer in enumerate(trainer.optimizers):
        parts[f"the optimizer {index}"] = optimizer.state_dict()
    for index, config in enumerate(trainer.lr_scheduler_configs):
        parts[f"the scheduler {index}"] = config.scheduler.state_dict()
    parts["the precision plugin"] = trainer.precision_plugin.state_dict()
    parts["the loop counters"] = [trainer.global_step, trainer.current_epoch, trainer.fit_loop.state_dict()]
    parts["torch's random state"] = torch.get_rng_state()
    for device in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        parts[f"the random state of cuda:{device}"] = torch.cuda.get_rng_state(device)
    parts["Python's random state"] = random.getstate()
    parts["NumPy's random state"] = np.random.get_state()
    parts["torch's modes"] = [
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
    ]
    known = [trainer, *trainer.loggers, *pl_module.modules()]  # whose state is read otherwise, or is not the training's
    return {name: digest(part, known) for name, part in parts.items()}


def forward_fingerprint(forward: Forward, samples: FixedSamples) -> str:
    """Return a hash of a model's logits for samples: another one afterwards shows a change that no state shows.

    A forward may depend on what neither a shadow nor `fingerprint` reaches: globals, closures, files.

    Args:
        forward: How the model is run; it is left as it was, but for such things.
        samples: Any samples.
    """
    with forward.undisturbed() as isolated:  # one at a time, for which there is memory
        return digest([isolated(isolated.on_device(sample.call)) for sample in samples.samples])


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return the names of the parts that differ between two fingerprints, or are in one only."""
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def digest(value: Any, known: Iterable[Any] = ()) -> str:
    """Return a hash of any value: tensors, arrays, containers, generators, objects by their attributes.

    Args:
        value: The value.
        known: Objects that are passed over.

    Example:
        >>> digest({"weight": torch.zeros(2)}) == digest({"weight": torch.zeros(2)})
        True
        >>> digest({"weight": torch.zeros(2)}) == digest({"weight": torch.zeros(2, dtype=torch.float64)})
        False
    """
    hashed = hashlib.blake2b(digest_size=16)
    seen = {id(part) for part in known}
    alive: list[Any] = []  # so that no two parts have the same id

    def add(part: Any) -> None:
        if type(part) in _PROXIES:
            hashed.update(b"a proxy")
        elif isinstance(part, Tensor):
            hashed.update(f"{part.dtype}{tuple(part.shape)}".encode())
            hashed.update(_bytes(part))
        elif isinstance(part, np.ndarray) and part.dtype != object:
            hashed.update(f"{part.dtype}{part.shape}".encode())
            hashed.update(np.ascontiguousarray(part).tobytes())
        elif part is None or isinstance(part, bool | int | float | complex | str | bytes):
            hashed.update(f"{part!r},".encode())
        elif id(part) in seen:
            hashed.update(b"seen")
        else:
            seen.add(id(part))
            alive.append(part)
            hashed.update(type(part).__qualname__.encode())
            for item in _parts(part):
                add(item)
            seen.discard(id(part))

    add(value)
    return hashed.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    """Return the values of a tensor; those of no plain memory by their representation."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        return repr(tensor).encode()
    return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _parts(value: Any) -> Iterator[Any]:
    """Yield what an object consists of; nothing that differs between two equal objects, such as addresses."""
    if isinstance(value, type):
        yield value.__qualname__
    elif isinstance(value, _RUNNING):
        return
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from pair
    elif isinstance(value, list | tuple | deque):
        yield len(value)
        yield from value
    elif isinstance(value, set | frozenset):
        yield sorted(map(digest, value))
    elif isinstance(value, FunctionType):
        yield value.__qualname__
        yield from (cell.cell_contents for cell in value.__closure__ or ())
        yield from (value.__defaults__, value.__kwdefaults__)
    elif isinstance(value, MethodType | BuiltinMethodType):
        yield value.__name__
    elif isinstance(value, torch.Generator):
        yield value.get_state()
    elif hasattr(value, "state_dict") and not isinstance(value, nn.Module):
        yield value.state_dict()
    else:
        yield from _pickled(value)


def _pickled(value: Any) -> Iterator[Any]:
    """Yield what an object would be pickled as; nothing where it cannot be."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # locks, files and others refuse, each by an error of its own
        return
    if isinstance(reduced, str):
        yield reduced
        return
    _, arguments, *rest = reduced
    yield arguments
    for part in rest:
        yield list(part) if isinstance(part, Iterator) else part


def _python_state(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield a module's attributes besides its tensors and children, those of its class, and what its hooks keep."""
    own = {*vars(nn.Module()), *vars(nn.Module)}  # the mechanics of modules, compiled code among them
    every_hook = [hook for hooks in _HOOKS for hook in getattr(module, hooks, {}).values()]
    yield "what the hooks keep", [hook for hook in every_hook if not _is_own(hook)]
    for name, value in _state(module).items():
        if name not in own:
            yield f"the attribute {name}", value
    for kind in type(module).__mro__:
        for name, value in vars(kind).items():
            is_data = (
                not name.startswith("__") and not isinstance(value, _PASSED_OVER) and not hasattr(value, "__get__")
            )
            if is_data and kind is not nn.Module:
                yield f"the class attribute {kind.__name__}.{name}", value


def _state(module: nn.Module) -> Mapping[str, Any]:
    """Return a module's attributes without those that its pickled state leaves out, such as compiled code."""
    try:
        state = (*module.__reduce_ex__(4), None)[2]
    except Exception:  # what cannot be pickled says so by any error
        state = vars(module)
    return state if isinstance(state, Mapping) else {}


def _is_own(hook: Any) -> bool:
    """Whether a hook is one of this package, which records the model's calls during validation."""
    return getattr(hook, "__module__", "").partition(".")[0] == __name__.partition(".")[0]
