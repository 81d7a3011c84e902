"""`LookCallback`, the base of all callbacks: after each validation, it hands fixed samples to a list of outputs."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from lightning_saliency._checks import OptionError
from lightning_saliency._lightning import LightningModule, Trainer, overrides, rank_zero_info
from lightning_saliency._names import check_tag
from lightning_saliency.attribution import ExplainedSamples
from lightning_saliency.callbacks.announcing import announcement
from lightning_saliency.callbacks.audit import forward_fingerprint
from lightning_saliency.callbacks.budget import Budget
from lightning_saliency.callbacks.collecting import stream_of
from lightning_saliency.callbacks.loss_reading import LossReadingCallback
from lightning_saliency.callbacks.model_part import ModelPart
from lightning_saliency.callbacks.notices import warn
from lightning_saliency.callbacks.options import Execution, Samples
from lightning_saliency.callbacks.outputs import Logged, Look, Output
from lightning_saliency.callbacks.scalars import SECONDS, Scalars
from lightning_saliency.callbacks.schedule import Schedule
from lightning_saliency.callbacks.surroundings import state_of
from lightning_saliency.callbacks.validation import dataset_of, why_never_validated
from lightning_saliency.data import FixedSamples
from lightning_saliency.evidence import evaluation_modes
from lightning_saliency.loggers import log_pictures, scalar_step

_CHUNK = 32
"""The most samples of an output's own that are explained together."""


class LookCallback(LossReadingCallback):
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
        name = check_tag("name", name)
        for output in outputs:
            if not isinstance(output, Output):
                raise TypeError(f"Expected `outputs` to be `Output`s, got {type(output).__name__}.")
        super().__init__(samples, part, [output.samples for output in outputs], execution, unset)
        self.outputs = tuple(outputs)
        self.name = name
        self._schedule = Schedule(every_n_epochs)
        self.every_n_epochs = self._schedule.every_n_epochs
        self._scalars = Scalars(name, outputs)
        self._budget = Budget(execution.max_fraction)
        self._last_end: float | None = None
        self._unlogged_seconds = 0.0
        self._is_never_validated = self._lack_is_told = self._is_announced = False
        self._untrained: Mapping[str, Tensor] | None = None

    @abstractmethod
    def _explain(
        self, trainer: Trainer, pl_module: LightningModule, samples: FixedSamples, at_once: int | None = None
    ) -> tuple[ExplainedSamples, ...]:
        """Return the explanations of samples; none where the outputs compute what they need themselves."""

    @abstractmethod
    def _check(self, pl_module: LightningModule) -> None:
        """Raise an error for options that do not fit this module."""

    @abstractmethod
    def _describe_target(self, samples: FixedSamples) -> str:
        """Return in words which class is explained."""

    @property
    def tags(self) -> set[str]:
        """The tags of the pictures, as far as they are known; two callbacks of a trainer must not share one."""
        return {f"{self.name}/{tag}" for output in self.outputs for tag in output.tags()}

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
        for callback in _look_callbacks(trainer):
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
            self._keep_untrained(trainer, pl_module)
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
        self._is_announced, self._untrained = False, None

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
        """Explain the untrained network; where its samples are not there yet, bring out errors, and keep its state.

        A resumed run is sanity checked too, but its network is not untrained.
        """
        self._end_stream(trainer, pl_module)
        if not (self._is_active and trainer.is_global_zero):
            return
        is_shown = self._shows_untrained(trainer)
        is_complete = self._is_never_validated or self._stream.has_all(stream_of(trainer))
        is_untrained = trainer.global_step == 0 and is_complete
        self._look(trainer, pl_module, is_shown and is_complete, scalar_step(trainer), is_untrained=is_untrained)
        self._scalars.current = {}  # nothing is logged before training
        if not is_complete:
            self._keep_untrained(trainer, pl_module)

    def _shows_untrained(self, trainer: Trainer) -> bool:
        return self.execution.log_untrained and trainer.global_step == 0

    def _keep_untrained(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the state of the untrained network, for the look at the samples of the first whole validation."""
        if not self._shows_untrained(trainer):
            return

        def keep() -> None:
            self._untrained = state_of(pl_module, self._part.state)
            if self._untrained is None:
                rank_zero_info(
                    f"{type(self).__name__} does not show the untrained network: its samples come in a validation that "
                    "is yet to run, and a copy of more than 4 GB is not kept until then. "
                    "`Samples(choose='first')` shows it."
                )

        self._guarded(trainer, pl_module, keep, is_audited=False)

    def _look_at_untrained(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain the untrained network from the state that was kept."""
        self._part.state, self._untrained = self._untrained, None
        try:
            self._look(trainer, pl_module, True, 0, is_untrained=True)
        finally:
            self._part.state = None

    def _finish(self, trainer: Trainer, pl_module: LightningModule, *, is_due: bool = True) -> None:
        """End the pass over a stream: complete the samples, and explain them if that is due."""
        self._end_stream(trainer, pl_module)
        if not (self._is_active and trainer.is_global_zero):
            return
        if self._untrained is not None and trainer.state.fn == "fit":
            self._look_at_untrained(trainer, pl_module)
        if is_due:
            self._look(trainer, pl_module, True, scalar_step(trainer))

    def _look(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        is_logged: bool,
        step: int,
        *,
        is_untrained: bool = False,
    ) -> None:
        """Explain the samples, and call the outputs with the look, each guarded so that the others still run."""
        is_early = self._is_before_training(trainer)
        self._scalars.current = {}  # of a look that was interrupted
        answers = self._answers(trainer, pl_module)
        looks: list[Look] = []
        counts: list[int] = []
        seconds_before = self._guard.seconds

        def explain() -> Logged:
            shown = self._stream.stand_in if is_early else self._stream.shown
            samples = shown(stream_of(trainer))
            if samples is None:
                return Logged()
            affordable = samples.first(self._affordable(trainer, len(samples)))
            if affordable:
                counts.append(len(affordable))
                fraction = len(affordable) / len(samples)
                looks.append(
                    self._make_look(
                        trainer, pl_module, affordable, fraction, is_logged, step, is_untrained=is_untrained
                    )
                )
                if looks[0].in_fit and looks[0].is_logged and not self._is_announced:
                    self._is_announced = True
                    rank_zero_info(announcement(type(self).__name__, looks[0]))
            return Logged()

        def call_output(index: int, output: Output) -> Logged:
            if not looks or not output.wants(looks[0]):
                return Logged()
            look = replace(looks[0], scalars=dict(self._scalars.current))
            collector = self._stream.own(stream_of(trainer), index)
            if collector is not None:
                own_samples = collector.current()
                if own_samples is None:
                    return Logged()
                own_samples = own_samples.first(max(1, round(look.fraction * len(own_samples))))
                explained = self._explain(trainer, pl_module, own_samples, _CHUNK)
                look = replace(look, samples=own_samples, explained=explained)
            return output(look)

        calls = [partial(call_output, index, output) for index, output in enumerate(self.outputs)]
        self._show(trainer, pl_module, [explain, *calls], trainer.loggers if is_logged else (), step)
        # the first look includes the warm-up, whose time is not typical
        if counts and self._last_end is not None and not (is_early or is_untrained):
            self._budget.record(self._guard.seconds - seconds_before, counts[0])
        if answers and self._answers(trainer, pl_module) != answers:
            raise RuntimeError(
                f"{type(self).__name__} has changed the training: the model's logits for the same samples differ "
                "before and after it, by a state that neither a copy of the model nor the audit reaches: a global, say."
            )

    def _answers(self, trainer: Trainer, pl_module: LightningModule) -> list[str]:
        """Return a hash of the model's logits for the samples, where the audit is on."""
        answers: list[str] = []

        def answer() -> None:
            samples = self._stream.shown(stream_of(trainer)) if self.execution.audit else None
            if samples is not None:
                answers.append(forward_fingerprint(self._part.forward(trainer, pl_module), samples))

        self._guarded(trainer, pl_module, answer, is_audited=False)
        return answers

    def _make_look(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        samples: FixedSamples,
        fraction: float,
        is_logged: bool,
        step: int,
        *,
        is_untrained: bool,
    ) -> Look:
        """Explain samples."""
        explained = self._explain(trainer, pl_module, samples)
        is_before_training = self._is_before_training(trainer)
        # in the pass that has just ended, with the same weights
        if self._stream.was_recorded and (is_before_training or not is_untrained):
            self._compare(samples, explained)
        in_test = stream_of(trainer) == "test"
        return Look(
            stage="test" if in_test else "validate",
            in_fit=trainer.state.fn == "fit",
            is_untrained=is_untrained,
            is_rehearsal=is_before_training and not is_untrained,
            epoch=None if is_untrained else trainer.current_epoch,
            step=step,
            trainer=trainer,
            pl_module=pl_module,
            forward=self._part.forward(trainer, pl_module),
            samples=samples,
            explained=explained,
            target=self._describe_target(samples),
            dataset=dataset_of(trainer, self.samples.dataloader_idx, in_test=in_test),
            fraction=fraction,
            is_logged=is_logged,
            index=self._peers(trainer).index(self),
            monitored=self._scalars.monitored(trainer),
        )

    def _compare(self, samples: FixedSamples, explained: tuple[ExplainedSamples, ...]) -> None:
        """Warn if the logits are not those of the validation pass; a subclass may do so."""

    def _show(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        steps: Sequence[Callable[[], Logged]],
        loggers: Sequence[Any],
        step: int,
    ) -> None:
        """Run steps and log what they return, each guarded so that the others still run."""
        pictures: dict[str, Tensor | Path] = {}
        scalars = self._scalars.current

        def run(make: Callable[[], Logged]) -> None:
            logged = make()
            values = {name: float(value) for name, value in logged.scalars.items()}
            taken = (pictures.keys() & logged.pictures.keys()) | (scalars.keys() & values.keys())
            if taken:
                raise ValueError(
                    f"Expected the outputs of a callback to log under different names, got {min(taken)!r} twice."
                )
            pictures.update(logged.pictures)
            scalars.update(values)

        for make in steps:
            self._guarded(trainer, pl_module, partial(run, make))
        suffix = "/test" if stream_of(trainer) == "test" else ""
        tagged = {f"{self.name}/{tag}{suffix}": picture for tag, picture in pictures.items()}

        def log(logger: Any) -> None:
            folder = log_pictures(logger, tagged, step, trainer.default_root_dir)
            if folder:
                self._notices.once(
                    f"{type(self).__name__}: {type(logger).__name__} takes no pictures, so they are files in {folder}."
                )

        for logger in loggers if tagged else ():
            self._guarded(trainer, pl_module, partial(log, logger))

    def _log_scalars(self, trainer: Trainer, pl_module: LightningModule, suffix: str = "") -> None:
        """Log the scalars of rank 0 on all ranks."""
        if self._is_active:
            self._scalars.share(trainer)
            log = partial(self._scalars.log, trainer, pl_module, suffix)
            self._guarded(trainer, pl_module, log, is_audited=False)

    def _peers(self, trainer: Trainer) -> list[LookCallback]:
        """Return the callbacks of the trainer that log under the same name, in their order."""
        return [callback for callback in _look_callbacks(trainer) if callback.name == self.name]

    def _affordable(self, trainer: Trainer, num_samples: int) -> int:
        """Return how many samples the time budget allows now."""
        if self._last_end is None or self._is_before_training(trainer):
            return num_samples
        was_thinned = self._budget.is_thinned
        other_seconds = time.perf_counter() - self._last_end - self._guard.seconds
        planned = self._budget.plan(num_samples, other_seconds)
        if self._budget.is_thinned and not was_thinned:
            warn(f"{type(self).__name__} would take {self._budget.describe(num_samples)}.")
        return planned


def _look_callbacks(trainer: Any) -> list[LookCallback]:
    """Return the callbacks of this package among those of a trainer."""
    return [callback for callback in trainer.callbacks if isinstance(callback, LookCallback)]
