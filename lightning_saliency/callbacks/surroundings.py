"""What a LightningModule is a part of, for the shadow in which a callback's pass runs: a trainer that logs nothing."""

from __future__ import annotations

from copy import copy
from functools import partial
from typing import Any

from lightning_saliency._lightning import DummyLogger, LightningModule, Trainer
from lightning_saliency.evidence import Shadow, Surroundings


def quiet_surroundings(trainer: Trainer, pl_module: LightningModule) -> Surroundings:
    """Return the surroundings of any part of a module: its shadow sees the trainer's state, but logs nothing.

    Args:
        trainer: The trainer; the shadow refers to a shallow copy with loggers that do nothing.
        pl_module: Its module, whose shadow is made as a whole, since hooks on a part of it may reach the rest.
    """
    quiet = copy(trainer)
    quiet.loggers = [DummyLogger() for _ in trainer.loggers]
    stand_ins = [(trainer, quiet), *zip(trainer.loggers, quiet.loggers, strict=True)]
    return Surroundings(pl_module, tuple(stand_ins), (partial(_attach, quiet),))


def _attach(trainer: Trainer, shadow: Shadow) -> None:
    """Attach the trainer to a shadow, and discard what its modules log in `forward`."""
    pl_module: Any = shadow.module
    pl_module.trainer = trainer  # which a copy of a LightningModule lacks
    for module in pl_module.modules():
        if hasattr(module, "log") and hasattr(module, "log_dict"):
            vars(module).update(log=_discard, log_dict=_discard)


def _discard(*args: object, **kwargs: object) -> None:
    """Do nothing with what is logged."""
