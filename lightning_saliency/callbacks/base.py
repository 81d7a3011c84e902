"""`LookCallback`, the base of all callbacks: after each validation, it looks at fixed samples."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from lightning_saliency._checks import OptionError
from lightning_saliency._lightning import LightningModule, Trainer, overrides, rank_zero_info
from lightning_saliency.callbacks.budget import Budget
from lightning_saliency.callbacks.collecting import stream_of
from lightning_saliency.callbacks.looking import LookingCallback, looking_callbacks
from lightning_saliency.callbacks.model_part import ModelPart
from lightning_saliency.callbacks.notices import warn
from lightning_saliency.callbacks.options import Execution, Samples
from lightning_saliency.callbacks.outputs import Output
from lightning_saliency.callbacks.scalars import SECONDS
from lightning_saliency.callbacks.schedule import Schedule
from lightning_saliency.callbacks.surroundings import state_of
from lightning_saliency.callbacks.validation import why_never_validated
from lightning_saliency.evidence import evaluation_modes
from lightning_saliency.loggers import scalar_step


class LookCallback(LookingCallback):
    """Collects samples from the validation stream, and after each validation hands them to its outputs.

    In a training without validation it hands over samples that the user passed, after each training epoch. The pictures
    and scalars that outputs return are logged. A subclass defines how samples are explained.

    Attributes:
        takes_samples: Whether the user may pass images as `samples`.

    Args:
        outputs: The outputs, in the order in which they are called.
        samples: Which samples are explained.
        part: Finds the part of the module that is explained.
        every_n_epochs: The number of epochs from one look to the next.
        execution: How the pass runs, and how errors are handled.
        name: First part of the tags.
        unset: The options that the user has left at their defaults, by their names in an `OptionError`.
    """

    takes_samples: ClassVar[bool] = True

    def __init__(
        self,
        outputs: Sequence[Output],
        *,
        samples: Samples,
        part: ModelPart,
        every_n_epochs: int,
        execution: Execution,
        name: str,
        unset: Collection[str] = ("methods",),
    ) -> None:
        super().__init__(outputs, samples=samples, part=part, execution=execution, name=name, unset=unset)
        self._schedule = Schedule(every_n_epochs)
        self.every_n_epochs = self._schedule.every_n_epochs
        self._is_never_validated = self._lack_is_told = False
        self._initial: Mapping[str, Tensor] | None = None

    @abstractmethod
    def _check(self, pl_module: LightningModule) -> None:
        """Raise an error for options that do not fit this module."""

    @property
    def checkpoint_key(self) -> str:
        """The key of the state in a checkpoint: the name and the choice of samples, not the methods."""
        positions = None if self.samples.positions is None else list(self.samples.positions)
        choice = (self.samples.count, self.samples.choose, positions, self.samples.dataloader_idx)
        return f"{self.name} {choice}"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Go on with the run or begin another one, and raise an error for an option that is impossible here."""
        super().setup(trainer, pl_module, stage)
        self._scalars.current, self._last_end = {}, None
        self._is_never_validated = self._lack_is_told = self._was_sanity_checked = False
        if not self._is_active:
            return
        for callback in looking_callbacks(trainer):
            shared_tags = self.tags & callback.tags
            if shared_tags and callback is not self:
                raise OptionError(
                    f"Expected the callbacks of a Trainer to log under different tags, got {min(shared_tags)!r} twice. "
                    "Give one of them another `name=...`.",
                    "name",
                )
        if not trainer.loggers:
            self._notices.once(
                f"{type(self).__name__} has no logger to write pictures to. What it shows is kept in the run's record, "
                f"in {trainer.default_root_dir}. Give the Trainer one: `Trainer(logger=TensorBoardLogger('logs'))`."
            )
        if not overrides(pl_module, "configure_model"):  # which creates layers after `setup`
            self._check(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the first epoch, and give what monitors the scalars a value to begin with.

        Of a training that will have no validation, say so, or prepare to show the given samples after its epochs.
        """
        super().on_train_start(trainer, pl_module)
        reason = why_never_validated(trainer) if self._is_active else ""
        self._is_never_validated = self._lack_is_told = bool(reason)
        if reason and self.samples.given is None:
            who = type(self).__name__
            other = f"; or pass images: `{who}(samples=images)` shows them at the end of each training epoch"
            warn(
                f"{who} works at the end of each validation, and this run will have none: {reason}"
                f"{other if self.takes_samples else ''}."
            )
        elif reason:
            for output in self.outputs:
                if output.samples is not None:
                    self._notices.once(
                        f"{type(self).__name__}: what {type(output).__name__} takes of the validation stream, of which "
                        "this run has none, is left out."
                    )
            self._await_training(trainer, pl_module)
        elif self._is_active and trainer.is_global_zero and not self._was_sanity_checked:
            self._keep_initial(trainer, pl_module)
        self._guarded(trainer, pl_module, partial(self._scalars.offer, trainer, pl_module), is_audited=False)
        self._last_end = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the outputs return at the end; warn where no validation has run."""
        self._last_end = None
        if not self._lack_is_told:
            warn(
                f"{type(self).__name__} works at the end of each validation, and this run had none: give the Trainer a "
                "validation loader that is not empty, define `validation_step`, and leave `limit_val_batches` above 0 "
                "and `check_val_every_n_epoch` at or below `max_epochs`."
            )
        if trainer.is_global_zero:
            ends = [partial(output.end, trainer.loggers) for output in self.outputs]
            self._show(trainer, pl_module, ends, trainer.loggers, scalar_step(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain the samples that the user passed, where no validation will come."""
        if self._is_never_validated and self.samples.given is not None:
            self._stream.drop()  # what has waited for a backward, if none came
            is_due = self._schedule.is_due(trainer.current_epoch)
            if is_due and self._is_active and trainer.is_global_zero:
                with evaluation_modes():
                    # Lightning logs the scalars of an epoch's end at the step of its last batch
                    self._look(trainer, pl_module, True, scalar_step(trainer) - 1)
            self._end_epoch(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain the samples, and log what the outputs return."""
        if trainer.sanity_checking:
            self._end_sanity_checking(trainer, pl_module)
            return
        if trainer.state.fn != "fit":
            self._finish(trainer, pl_module)
            self._log_scalars(trainer, pl_module)
            return
        self._lack_is_told, self._is_never_validated = True, False
        self._finish(trainer, pl_module, is_due=self._schedule.is_due(trainer.current_epoch))
        self._end_epoch(trainer, pl_module)

    def _end_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scalars after a look in a training, or where none was due, and start the clock anew."""
        peers = self._peers(trainer)
        self._unlogged_seconds += self._guard.seconds
        if self is peers[-1]:  # of those that share a name, the last logs the time of all
            self._scalars.current[SECONDS] = sum(peer._unlogged_seconds for peer in peers)
            for peer in peers:
                peer._unlogged_seconds = 0.0
        self._log_scalars(trainer, pl_module)
        self._guard.seconds, self._last_end = 0.0, time.perf_counter()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain the samples of the test stream, and log what the outputs return."""
        self._finish(trainer, pl_module)
        self._log_scalars(trainer, pl_module, "/test")

    def _begin_run(self) -> None:
        super()._begin_run()
        for output in self.outputs:
            output.reset()
        self._scalars.reset()
        self._schedule.reset()
        self._budget = Budget(self.execution.max_fraction)
        self._unlogged_seconds = 0.0
        self._is_announced, self._initial = False, None

    def _state(self) -> dict[str, Any]:
        return {
            **super()._state(),
            "schedule": self._schedule.state_dict(),
            "scalars": dict(self._scalars.last),
            "outputs": {key: output.state_dict() for key, output in self._outputs_by_key().items()},
        }

    def _load_state(self, pl_module: LightningModule, state: Mapping[str, Any]) -> None:
        super()._load_state(pl_module, state)
        self._schedule.load_state_dict(state.get("schedule", {}))
        self._scalars.last = dict(state.get("scalars", {}))
        for key, output in self._outputs_by_key().items():
            output.load_state_dict(state.get("outputs", {}).get(key, {}))

    def _outputs_by_key(self) -> dict[str, Output]:
        """The outputs by the keys of their states; of several with one key the later ones get a number."""
        keyed: dict[str, Output] = {}
        for output in self.outputs:
            count = sum(other.key == output.key for other in keyed.values())
            keyed[f"{output.key}-{count + 1}" if count else output.key] = output
        return keyed

    def _look_before_training(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain the initial network; where its samples are not there yet, bring out errors, and keep its state.

        A resumed run is sanity checked too, but its network is not the initial one.
        """
        self._end_stream(trainer, pl_module)
        if not (self._is_active and trainer.is_global_zero):
            return
        is_shown = self._shows_initial(trainer)
        is_complete = self._is_never_validated or self._stream.has_all(stream_of(trainer))
        is_initial = trainer.global_step == 0 and is_complete
        self._look(trainer, pl_module, is_shown and is_complete, scalar_step(trainer), is_initial=is_initial)
        self._scalars.current = {}  # nothing is logged before training
        if not is_complete:
            self._keep_initial(trainer, pl_module)

    def _shows_initial(self, trainer: Trainer) -> bool:
        return self.execution.log_initial and trainer.global_step == 0

    def _keep_initial(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the state of the initial network, for the look at the samples of the first whole validation."""
        if not self._shows_initial(trainer):
            return

        def keep() -> None:
            self._initial = state_of(pl_module, self._part.state)
            if self._initial is None:
                rank_zero_info(
                    f"{type(self).__name__} does not show the initial network: its samples come in a validation that "
                    "is yet to run, and a copy of more than 4 GB is not kept until then. "
                    "`Samples(choose='first')` shows it."
                )

        self._guarded(trainer, pl_module, keep, is_audited=False)

    def _look_at_initial(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain the initial network from the state that was kept."""
        self._part.state, self._initial = self._initial, None
        try:
            self._look(trainer, pl_module, True, 0, is_initial=True)
        finally:
            self._part.state = None

    def _finish(self, trainer: Trainer, pl_module: LightningModule, *, is_due: bool = True) -> None:
        """End the pass over a stream: complete the samples, and explain them if that is due."""
        self._end_stream(trainer, pl_module)
        if not (self._is_active and trainer.is_global_zero):
            return
        if self._initial is not None and trainer.state.fn == "fit":
            self._look_at_initial(trainer, pl_module)
        if is_due:
            self._look(trainer, pl_module, True, scalar_step(trainer))
