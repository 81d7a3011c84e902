"""`Scalars`: the numbers that a callback logs, and the values that callbacks and schedulers find which monitor them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from lightning_saliency._lightning import LightningModule, Trainer
from lightning_saliency.callbacks.outputs import Output

SECONDS = "seconds"
"""The scalar that a callback logs by itself: the time that it took since the last validation."""


class Scalars:
    """Collects the scalars of a validation, logs them at its end, and keeps the last ones.

    Loggers get them as `xai_<name>/<scalar>`, a group that is sorted behind those of the training. What monitors them,
    and the file names of checkpoints, find them also as `<name>_<scalar>` with each slash as an underscore: a slash in
    a file name would make a folder.

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
            pl_module.log(f"{self._group}/{scalar}{suffix}", value, on_step=False, on_epoch=True)
            plain = to_plain_name(f"{self.name}/{scalar}{suffix}")
            trainer.callback_metrics[plain] = torch.tensor(value, device=pl_module.device)

    def offer(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the first step, give the scalars that something monitors a value: the last one, else the worst.

        What stops early, saves checkpoints or lowers the learning rate raises an error where the key that it monitors
        is not there: before the first look, or where that fails. Once there, a value stays until the next is logged.
        """
        for key in monitored_keys(trainer) - trainer.callback_metrics.keys():
            value = self._find(key)
            if value is not None:
                trainer.callback_metrics[key] = torch.tensor(value, device=pl_module.device)

    def monitored(self, trainer: Trainer) -> frozenset[str]:
        """Return the scalars that something monitors, as far as the outputs may return them."""
        scalars = map(self._scalar, monitored_keys(trainer))
        return frozenset(scalar for scalar in scalars if scalar is not None)

    @property
    def _group(self) -> str:
        return f"xai_{self.name}"

    def _scalar(self, key: str) -> str | None:
        """Return the last part of a scalar's name, by either of its keys; None for a key of somebody else."""
        scalar = key.removeprefix(f"{self._group}/")
        if scalar != key:
            return scalar
        return next((scalar for scalar in self._worst() if to_plain_name(f"{self.name}/{scalar}") == key), None)

    def _worst(self) -> dict[str, float]:
        """Return the worst value of each scalar that may be logged, by the last part of its name."""
        known = {SECONDS: 0.0}
        for output in self.outputs:
            known |= output.worst()
        return known

    def _find(self, key: str) -> float | None:
        """Return the last value of a scalar, else the worst that it can have; None for a key of somebody else."""
        scalar = self._scalar(key)
        if scalar is None:
            return None
        return self.last.get(scalar, self._worst().get(scalar))


def monitored_keys(trainer: Any) -> set[str]:
    """Return the keys of the scalars that callbacks and schedulers of a trainer monitor, or put in file names."""
    monitors = [getattr(callback, "monitor", None) for callback in trainer.callbacks]
    monitors += [config.monitor for config in trainer.lr_scheduler_configs]
    file_names = [getattr(callback, "filename", None) for callback in trainer.callbacks]
    monitors += [key for name in file_names if isinstance(name, str) for key in re.findall(r"\{([^}:]+)", name)]
    return {monitor for monitor in monitors if isinstance(monitor, str)}


def to_plain_name(key: str) -> str:
    """Return a scalar's key such that it can stand in a file name.

    Example:
        >>> to_plain_name("saliency/grad_cam@layer4.1/entropy")
        'saliency_grad_cam_layer4_1_entropy'
    """
    return re.sub(r"\W", "_", key)
