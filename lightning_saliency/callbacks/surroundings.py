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


def buffers_of(pl_module: nn.Module) -> dict[str, Tensor]:
    """Return copies of a module's buffers on the CPU, by name: what the forward of a training step changes."""
    buffers = {
        name: buffer
        for name, buffer in pl_module.named_buffers()
        if buffer.layout == torch.strided and buffer.device.type != "meta" and not torch.nn.parameter.is_lazy(buffer)
    }
    return {name: buffer.detach().to("cpu", copy=True) for name, buffer in buffers.items()}


def quiet_surroundings(
    trainer: Trainer,
    pl_module: LightningModule,
    buffers: Mapping[str, Tensor] | None = None,
    model: nn.Module | None = None,
) -> Surroundings:
    """Return the surroundings of any part of a module: its shadow logs nothing, and is never in training.

    Args:
        trainer: The trainer; the shadow refers to a shallow copy with loggers that do nothing.
        pl_module: Its module, whose shadow is made as a whole, since hooks on a part of it may reach the rest.
        buffers: The buffers that the module had in sanity checking, if the shadow is to be in that state again.
        model: What is run: a part of the module, or a `Chain` of its parts.
    """
    quiet = copy(trainer)
    quiet.loggers = [DummyLogger() for _ in trainer.loggers]
    stand_ins = [(trainer, quiet), *zip(trainer.loggers, quiet.loggers, strict=True)]
    quiet.state = copy(trainer.state)
    if buffers is not None:
        quiet.sanity_checking = True
    elif quiet.training:  # at the end of its epoch
        quiet.validating = True
    restore = () if buffers is None else (partial(_restore, pl_module, buffers),)
    owner = nn.ModuleList([pl_module, model]) if isinstance(model, Chain) else pl_module
    return Surroundings(owner, tuple(stand_ins), (partial(_attach, quiet, pl_module), *restore))


def _restore(pl_module: nn.Module, buffers: Mapping[str, Tensor], shadow: Shadow) -> None:
    """Write buffers into a shadow; not into what it shares with the module, which a graph may depend on."""
    shared = set(map(id, pl_module.buffers()))
    for name, buffer in shadow.of(pl_module).named_buffers():
        if name in buffers and buffers[name].shape == buffer.shape and id(buffer) not in shared:
            buffer.copy_(buffers[name])


def _attach(trainer: Trainer, owner: nn.Module, shadow: Shadow) -> None:
    """Attach the trainer to a shadow, and discard what its modules log in `forward`."""
    pl_module: Any = shadow.of(owner)
    pl_module.trainer = trainer  # which a copy of a LightningModule lacks
    for module in pl_module.modules():
        if hasattr(module, "log") and hasattr(module, "log_dict"):
            vars(module).update(log=_discard, log_dict=_discard)


def _discard(*args: object, **kwargs: object) -> None:
    """Do nothing with what is logged."""
