"""`Scalars`: the numbers that a callback logs, and the values that callbacks and schedulers find which monitor them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lightning_saliency._lightning import LightningModule, Trainer
from lightning_saliency.callbacks.outputs import Output

SECONDS = "seconds"
"""The scalar that a callback logs by itself: the time that it took since the last validation."""


class Scalars:
    """Collects the scalars of a validation, logs them at its end, and keeps the last ones.

    Args:
        name: The callback's name, the first part of the keys.
        outputs: The outputs, which know the scalars that they may return.

    Attributes:
        current: The scalars since the last validation, by the last part of their names.
        last: The last values that were logged in `fit`, on all ranks.
    """

    def __init__(self, name: str, outputs: Sequence[Output]) -> None:
        self.name = name
        self.outputs = tuple(outputs)
        self.current: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def reset(self) -> None:
        """Drop the scalars of a run."""
        self.current, self.last = {}, {}

    def share(self, trainer: Trainer) -> None:
        """Give all ranks the scalars of rank 0; to be called on all ranks."""
        self.current = trainer.strategy.broadcast(self.current)

    def log(self, trainer: Trainer, pl_module: LightningModule, suffix: str = "") -> None:
        """Log the current scalars on this rank, so that what runs on it can monitor them."""
        current, self.current = self.current, {}
        if trainer.state.fn == "fit":
            self.last |= current
        for scalar, value in current.items():
            pl_module.log(f"{self.name}/{scalar}{suffix}", value, on_step=False, on_epoch=True)

    def offer(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the first step, give the scalars that something monitors a value: the last one, else the worst.

        What stops early, saves checkpoints or lowers the learning rate raises an error where the key that it monitors
        is not there: before the first look, or where that fails. Once there, a value stays until the next is logged.
        """
        for key in monitored_keys(trainer) - trainer.callback_metrics.keys():
            value = self._find(key)
            if value is not None:
                trainer.callback_metrics[key] = torch.tensor(value, device=pl_module.device)

    def _find(self, key: str) -> float | None:
        """Return the last value of a scalar, else the worst that it can have; None for a key of somebody else."""
        scalar = key.removeprefix(f"{self.name}/")
        if scalar == key:
            return None
        known = [self.last.get(scalar), *(output.worst(scalar) for output in self.outputs)]
        known.append(0.0 if scalar == SECONDS else None)
        return next((value for value in known if value is not None), None)


def monitored_keys(trainer: Any) -> set[str]:
    """Return the keys of the scalars that the callbacks and the schedulers of a trainer monitor."""
    monitors = [getattr(callback, "monitor", None) for callback in trainer.callbacks]
    monitors += [config.monitor for config in trainer.lr_scheduler_configs]
    return {monitor for monitor in monitors if isinstance(monitor, str)}
