"""Fingerprints of a training's state, by which an audit checks that a callback changes none of it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def fingerprint(trainer: Any, pl_module: Any) -> dict[str, str]:
    """Return a hash of each part of the state that decides how a training continues.

    Parameters, buffers, gradients (and whether there is one), `requires_grad`, the `training` flag and the hooks of
    each module, optimizers, schedulers, gradient scalers, loop counters, the random states of torch (CPU and every
    CUDA device), Python and NumPy, and torch's grad, inference and autocast modes.

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
        parts[f"the hooks of {name or 'the module'}"] = [
            list(getattr(module, hooks, ()))
            for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        ]
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
    return {name: digest(part) for name, part in parts.items()}


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return the names of the parts that differ between two fingerprints, or are in one only."""
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def digest(value: Any) -> str:
    """Return a hash of nested mappings, sequences, tensors, arrays and plain values.

    Example:
        >>> digest({"weight": torch.zeros(2)}) == digest({"weight": torch.zeros(2)})
        True
        >>> digest({"weight": torch.zeros(2)}) == digest({"weight": torch.zeros(2, dtype=torch.float64)})
        False
    """
    hashed = hashlib.blake2b(digest_size=16)

    def add(part: Any) -> None:
        if isinstance(part, Tensor):
            hashed.update(f"{part.dtype}{tuple(part.shape)}".encode())
            hashed.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(part, np.ndarray):
            hashed.update(f"{part.dtype}{part.shape}".encode())
            hashed.update(np.ascontiguousarray(part).tobytes())
        elif isinstance(part, Mapping):
            for key, item in part.items():
                add(key)
                add(item)
        elif isinstance(part, list | tuple):
            hashed.update(f"{len(part)}".encode())
            for item in part:
                add(item)
        elif hasattr(part, "state_dict"):
            add(part.state_dict())
        else:
            hashed.update(repr(part).encode())

    add(value)
    return hashed.hexdigest()
