"""What a LightningModule is a part of, for the shadow in which a callback's pass runs: a trainer that logs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency._lightning import DummyLogger, LightningModule, Trainer
from lightning_saliency.evidence import Chain, Shadow, Surroundings

_MOST_BYTES = 2**32
"""The memory on the CPU that the parameters of an initial network may take until its samples are there."""


def buffers_of(pl_module: nn.Module) -> dict[str, Tensor]:
    """Return copies of a module's buffers on the CPU, by name: what the forward of a training step changes."""
    buffers = {
        name: buffer
        for name, buffer in pl_module.named_buffers()
        if buffer.layout == torch.strided and buffer.device.type != "meta" and not torch.nn.parameter.is_lazy(buffer)
    }
    return {name: buffer.detach().to("cpu", copy=True) for name, buffer in buffers.items()}


def state_of(pl_module: nn.Module, buffers: Mapping[str, Tensor] | None = None) -> dict[str, Tensor] | None:
    """Return copies of a module's parameters and buffers on the CPU, by name, for a shadow in that state later on.

    Args:
        pl_module: The module.
        buffers: The buffers in place of its present ones, where a forward has changed these.

    Returns:
        None where they take more than 4 GB.
    """
    parameters = {
        name: parameter
        for name, parameter in pl_module.named_parameters()
        if parameter.layout == torch.strided
        and parameter.device.type != "meta"
        and not torch.nn.parameter.is_lazy(parameter)
    }
    if sum(parameter.numel() * parameter.element_size() for parameter in parameters.values()) > _MOST_BYTES:
        return None
    copies = {name: parameter.detach().to("cpu", copy=True) for name, parameter in parameters.items()}
    return copies | dict(buffers_of(pl_module) if buffers is None else buffers)


def quiet_surroundings(
    trainer: Trainer,
    pl_module: LightningModule,
    state: Mapping[str, Tensor] | None = None,
    model: nn.Module | None = None,
) -> Surroundings:
    """Return the surroundings of any part of a module: its shadow logs nothing, and is never in training.

    Args:
        trainer: The trainer; the shadow refers to a shallow copy with loggers that do nothing.
        pl_module: Its module, whose shadow is made as a whole, since hooks on a part of it may reach the rest.
        state: The buffers, and perhaps the parameters, that the module had before its training, if the shadow is to be
            in that state again.
        model: What is run: a part of the module, or a `Chain` of its parts.
    """
    quiet = copy(trainer)
    quiet.loggers = [DummyLogger() for _ in trainer.loggers]
    stand_ins = [(trainer, quiet), *zip(trainer.loggers, quiet.loggers, strict=True)]
    quiet.state = copy(trainer.state)
    if state is not None:
        quiet.sanity_checking = True
    elif quiet.training:  # at the end of its epoch
        quiet.validating = True
    restore = () if state is None else (partial(_restore, pl_module, state),)
    owner = nn.ModuleList([pl_module, model]) if isinstance(model, Chain) else pl_module
    return Surroundings(owner, tuple(stand_ins), (partial(_attach, quiet, pl_module), *restore))


def _restore(pl_module: nn.Module, state: Mapping[str, Tensor], shadow: Shadow) -> None:
    """Put a state into a shadow; not into what it shares with the module, which a graph may depend on.

    Raises:
        RuntimeError: A part that cannot be copied has been trained since.
    """
    shared = set(map(id, pl_module.buffers()))
    for name, buffer in shadow.of(pl_module).named_buffers():
        if name in state and state[name].shape == buffer.shape and id(buffer) not in shared:
            buffer.copy_(state[name])
    own_modules = set(map(id, pl_module.modules()))
    replaced: dict[int, nn.Parameter] = {}
    for path, module in shadow.of(pl_module).named_modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            kept = state.get(f"{path}.{key}" if path else key)
            is_trained = kept is not None and kept.shape == parameter.shape and not _are_same(kept, parameter)
            if is_trained and kept is not None:
                replaced[id(parameter)] = nn.Parameter(kept.to(parameter), requires_grad=parameter.requires_grad)
            if id(parameter) not in replaced:
                continue
            if id(module) in own_modules:
                raise RuntimeError(
                    f"The initial network cannot be shown: `{path}` ({type(module).__name__}) has been trained "
                    "since, and is none that can be copied."
                )
            setattr(module, key, replaced[id(parameter)])  # also a tied one, which has a second name


def _are_same(kept: Tensor, parameter: Tensor) -> bool:
    return torch.equal(kept.to(parameter), parameter)


def _attach(trainer: Trainer, owner: nn.Module, shadow: Shadow) -> None:
    """Attach the trainer to a shadow, and discard what its modules log in `forward`."""
    pl_module: Any = shadow.of(owner)
    pl_module.trainer = trainer  # which a copy of a LightningModule lacks
    for module in pl_module.modules():
        if hasattr(module, "log") and hasattr(module, "log_dict"):
            vars(module).update(log=_discard, log_dict=_discard)


def _discard(*args: object, **kwargs: object) -> None:
    """Do nothing with what is logged."""
