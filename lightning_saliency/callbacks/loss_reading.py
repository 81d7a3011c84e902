"""`LossReadingCallback`: before the first optimizer step, reads what a training's loss does with the outputs."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_saliency._lightning import LightningModule, Trainer
from lightning_saliency.callbacks.collecting import CollectingCallback, stream_of
from lightning_saliency.evidence import evaluation_modes


class LossReadingCallback(CollectingCallback):
    """Collects samples, those of sanity checking once it is known what the loss does with the outputs.

    Which of a model's outputs is explained, and what it means, is best told by what the training's loss does with it,
    and there is no loss before the first training step. So what sanity checking has recorded is kept until the first
    backward, before which no weight has changed. Then the loss's graph is read, the samples are collected, and the
    initial network is explained. Of a module that calls the backward of its loss without its trainer, this is before
    the first step of an optimizer, and the loss remains unknown.
    """

    _awaits_loss = False
    _was_sanity_checked = False

    @abstractmethod
    def _look_before_training(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Complete the samples of sanity checking, and explain the network before training."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Await the loss, unless it is known from an earlier training of the run."""
        self._awaits_loss = self._is_active and trainer.is_global_zero and self._part.loss_terms is None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Before the first backward, read what the loss does, and explain the initial network."""
        if self._awaits_loss:
            torch.compiler.disable(self._begin_training)(trainer, pl_module, loss)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Explain the initial network, where the module calls the backward of its loss without its trainer."""
        if self._awaits_loss and not pl_module.automatic_optimization:
            torch.compiler.disable(self._begin_training)(trainer, pl_module, None)

    def _is_before_training(self, trainer: Trainer) -> bool:
        return bool(trainer.sanity_checking) or self._guard.before_training

    def _await_training(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain the network before its training, as sanity checking does, where there is none; or await the loss."""
        if self._was_sanity_checked or not (self._is_active and trainer.is_global_zero):
            return
        self._guarded(trainer, pl_module, partial(self._stream.wait, pl_module), is_audited=False)
        if not self._awaits_loss:
            self._begin_training(trainer, pl_module, None)

    def _end_sanity_checking(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain the network, or let that wait for the loss."""
        self._was_sanity_checked = True
        if self._stream.is_waiting:
            pause = partial(self._stream.pause, stream_of(trainer), trainer, pl_module)
            self._guarded(trainer, pl_module, pause, is_audited=False)
        else:
            self._look_before_training(trainer, pl_module)

    def _begin_training(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor | None) -> None:
        """Read what the loss does, where it is given, and explain the network, if that has waited.

        It is the middle of a training step. The graph of its batch takes memory beside what the look takes. Its forward
        has changed the module's buffers, so that those of sanity checking are used. A module of manual optimization
        calls it from under autocast, and maybe from compiled code.
        """
        self._awaits_loss = False
        if loss is not None:
            self._guarded(trainer, pl_module, partial(self._part.read_loss, loss, pl_module))
        if not self._stream.is_waiting:
            return
        self._part.state, self._guard.before_training = self._stream.buffers, True
        try:
            with evaluation_modes():
                self._look_before_training(trainer, pl_module)
        finally:
            self._part.state, self._guard.before_training = None, False
