"""`LookCallback`, the base of all callbacks: after each validation, it hands fixed samples to a list of outputs."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_saliency._lightning import (
    SHARDED_STRATEGIES,
    Callback,
    LightningModule,
    Trainer,
    muted,
    overrides,
    rank_zero_info,
    rank_zero_warn,
)
from lightning_saliency._names import check_tag
from lightning_saliency.attribution import ExplainedSamples
from lightning_saliency.callbacks.budget import Budget
from lightning_saliency.callbacks.guard import Guard
from lightning_saliency.callbacks.model_part import ModelPart
from lightning_saliency.callbacks.options import Execution, Samples
from lightning_saliency.callbacks.outputs import Logged, Look, Output
from lightning_saliency.callbacks.schedule import Schedule
from lightning_saliency.callbacks.stream import SampleStream
from lightning_saliency.data import FixedSamples, find_dataset
from lightning_saliency.loggers import log_pictures, scalar_step

_CHUNK = 32
"""The most samples of an output's own that are explained together."""


class LookCallback(Callback):
    """Collects samples from the validation stream, and after each validation hands them to its outputs.

    A sample is the model's own call: the arguments of the explained part of the module in the validation step. The
    pictures and scalars that outputs return are logged. A subclass defines how samples are explained.

    Args:
        outputs: The outputs, in the order in which they are called.
        samples: Which samples are explained.
        part: Finds the part of the module that is explained.
        every_n_epochs: The number of epochs from one look to the next.
        execution: How the pass runs, and how errors are handled.
        name: First part of the tags.
    """

    def __init__(
        self,
        outputs: Sequence[Output],
        *,
        samples: Samples,
        part: ModelPart,
        every_n_epochs: int,
        execution: Execution,
        name: str,
    ) -> None:
        super().__init__()
        for output in outputs:
            if not isinstance(output, Output):
                raise TypeError(f"Expected `outputs` to be `Output`s, got {type(output).__name__}.")
        self.outputs = tuple(outputs)
        self.samples = samples
        self.execution = execution
        self.name = check_tag("name", name)
        self._part = part
        collectors = [output.samples for output in outputs]
        self._stream = SampleStream(samples, part, [collector for collector in collectors if collector is not None])
        self._schedule = Schedule(every_n_epochs)
        self.every_n_epochs = self._schedule.every_n_epochs
        self._key = self._generate_state_key(
            name=name,
            num_samples=samples.count,
            choose=samples.choose,
            samples=None if samples.positions is None else list(samples.positions),
            dataloader_idx=samples.dataloader_idx,
        )
        self._last_end: float | None = None
        self._first_step: int | None = None
        self._scalars: dict[str, float] = {}
        self._unlogged_seconds = 0.0
        self._warned: set[str] = set()
        self._begin_run()

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

    def _forget(self) -> None:
        """Drop references to the model, and choices that may have caused an error."""
        self._part.stop()

    @property
    def tags(self) -> set[str]:
        """The tags of the pictures, as far as they are known; two callbacks of a trainer must not share one."""
        return {f"{self.name}/{tag}" for output in self.outputs for tag in output.tags()}

    @property
    def state_key(self) -> str:
        """The key of the state in a checkpoint: the name and the choice of samples, not the methods."""
        return self._key

    def state_dict(self) -> dict[str, Any]:
        """Return the samples, the explained part and the outputs' states, so that a resumed run continues."""
        outputs = {key: output.state_dict() for key, output in self._outputs_by_key().items()}
        return {**self._stream.state_dict(), "part": self._part.state_dict(), "outputs": outputs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of a checkpoint."""
        self._stream.load_state_dict(state_dict)
        self._part.load_state_dict(state_dict.get("part", {}))
        for key, output in self._outputs_by_key().items():
            output.load_state_dict(state_dict.get("outputs", {}).get(key, {}))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise an error, before anything runs, for options that do not fit the trainer or the module."""
        if isinstance(trainer.strategy, SHARDED_STRATEGIES):
            raise ValueError(
                f"{type(self).__name__} needs the whole model on one rank, which {type(trainer.strategy).__name__} "
                "does not keep. Use a strategy that does, such as 'ddp', or train without this callback."
            )
        self._begin_run()
        self._stream.reset()  # another run may have other data; a checkpoint's samples are loaded after this
        for callback in _look_callbacks(trainer):
            shared_tags = self.tags & callback.tags
            if shared_tags and callback is not self:
                raise ValueError(
                    f"Expected the callbacks of a Trainer to log under different tags, got {min(shared_tags)!r} twice. "
                    "Give one of them another `name=...`."
                )
        if not trainer.loggers:
            rank_zero_warn(
                f"{type(self).__name__} has no logger to write pictures to, so it shows nothing. Give the Trainer one: "
                "`Trainer(logger=TensorBoardLogger('logs'))`."
            )
        if not overrides(pl_module, "configure_model"):  # which creates layers after `setup`
            self._check(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the first epoch."""
        self._first_step = trainer.global_step
        self._last_end = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the outputs return at the end; warn where no validation has run."""
        if not self._has_validated:
            rank_zero_warn(
                f"{type(self).__name__} works at the end of each validation, and this run had none: give the Trainer a "
                "validation loader that is not empty, define `validation_step`, and leave `limit_val_batches` above 0 "
                "and `check_val_every_n_epoch` at or below `max_epochs`."
            )
        if trainer.is_global_zero:
            ends = [partial(output.end, trainer.loggers) for output in self.outputs]
            self._show("validate", trainer, pl_module, ends, trainer.loggers)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to collect samples from the validation stream."""
        self._begin_stream("validate", trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to collect samples from the test stream."""
        self._begin_stream("test", trainer, pl_module)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin to record the calls of the step."""
        self._begin_step(trainer, pl_module, batch, dataloader_idx)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect samples from the batch of the step."""
        self._end_step("validate", trainer, pl_module)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin to record the calls of the step."""
        self._begin_step(trainer, pl_module, batch, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect samples from the batch of the step."""
        self._end_step("test", trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain the samples, and log what the outputs return."""
        if trainer.sanity_checking:
            # a resumed run is sanity checked too, but then the look serves only to bring out errors early
            is_logged = self.execution.log_untrained and trainer.global_step == 0
            self._finish("validate", trainer, pl_module, is_logged=is_logged)
            self._scalars = {}  # nothing is logged in sanity checking
            return
        if trainer.state.fn != "fit":
            self._finish("validate", trainer, pl_module)
            self._log_scalars(trainer, pl_module)
            return
        self._has_validated = True
        self._finish("validate", trainer, pl_module, is_due=self._schedule.is_due(trainer.current_epoch))
        peers = self._peers(trainer)
        self._unlogged_seconds += self._guard.seconds
        if self is peers[-1]:  # of those that share a name, the last logs the time of all
            self._scalars["seconds"] = sum(peer._unlogged_seconds for peer in peers)
            for peer in peers:
                peer._unlogged_seconds = 0.0
        self._log_scalars(trainer, pl_module)
        self._guard.seconds, self._last_end = 0.0, time.perf_counter()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain the samples of the test stream, and log what the outputs return."""
        self._finish("test", trainer, pl_module)
        self._log_scalars(trainer, pl_module, "/test")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks from the module."""
        self._part.stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Drop references to the model."""
        self._forget()

    def _outputs_by_key(self) -> dict[str, Output]:
        """The outputs by the keys of their states; of several with one key the later ones get a number."""
        keyed: dict[str, Output] = {}
        for output in self.outputs:
            count = sum(other.key == output.key for other in keyed.values())
            keyed[f"{output.key}-{count + 1}" if count else output.key] = output
        return keyed

    def _begin_run(self) -> None:
        """Drop the state of a run of the trainer, before the next one."""
        self._scalars = {}
        self._guard = Guard(type(self).__name__, raises=self.execution.on_error == "raise", audit=self.execution.audit)
        self._budget = Budget(self.execution.max_fraction)
        self._forget()
        self._part.forget()
        for output in self.outputs:
            output.reset()
        self._has_validated = False
        self._schedule.reset()
        self._first_step = None
        self._last_end = None
        self._warned = set()

    def _begin_stream(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._guarded(trainer, pl_module, partial(self._stream.begin, stage, pl_module), is_audited=False)

    def _begin_step(self, trainer: Trainer, pl_module: LightningModule, batch: Any, dataloader_idx: int) -> None:
        if self._part.is_recording:
            step = partial(self._stream.begin_step, batch, dataloader_idx)
            self._guarded(trainer, pl_module, step, is_audited=False)

    def _end_step(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._stream.has_step:
            self._guarded(trainer, pl_module, partial(self._collect, stage, trainer, pl_module))
            if not self._stream.incomplete(stage):
                self._stream.stop()

    def _collect(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        for note in self._stream.end_step(stage, trainer, pl_module):
            self._warn_once(
                f"{type(self).__name__} takes samples whose labels do not fit the model's logits as unlabeled: {note}."
            )

    def _finish(
        self, stage: str, trainer: Trainer, pl_module: LightningModule, *, is_due: bool = True, is_logged: bool = True
    ) -> None:
        """End the pass over a stream: complete the samples, and explain them if that is due."""
        self._stream.stop()
        if not trainer.is_global_zero:
            return
        self._guarded(trainer, pl_module, partial(self._stream.check_loader, stage, trainer))
        for collector in self._stream.incomplete(stage):
            end = partial(collector.end, whole=self._stream.has_passed_whole(trainer))
            self._guarded(trainer, pl_module, end)
        if not is_due or not trainer.loggers:
            return
        samples = self._stream.shown(stage)
        if samples is None:
            if trainer.sanity_checking and is_logged:
                rank_zero_info(
                    f"{type(self).__name__}: none of the samples is among the batches of sanity checking, so the "
                    "untrained network is not shown. `Trainer(num_sanity_val_steps=-1)` runs them all."
                )
            return
        shown = samples.first(self._affordable(len(samples)))
        if not len(shown):
            return
        seconds_before = self._guard.seconds
        self._look(stage, trainer, pl_module, shown, len(shown) / len(samples), is_logged)
        if self._last_end is not None:  # sanity checking includes the warm-up, whose time is not typical
            self._budget.record(self._guard.seconds - seconds_before, len(shown))

    def _look(
        self,
        stage: str,
        trainer: Trainer,
        pl_module: LightningModule,
        samples: FixedSamples,
        fraction: float,
        is_logged: bool,
    ) -> None:
        """Explain the samples, and call the outputs with the look, each guarded so that the others still run."""
        loaders = trainer.val_dataloaders if stage == "validate" else trainer.test_dataloaders
        looks: list[Look] = []

        def explain() -> Logged:
            explained = self._explain(trainer, pl_module, samples)
            if self._stream.was_recorded:  # in the pass that has just ended, with the same weights
                self._compare(samples, explained)
            is_untrained = trainer.sanity_checking and trainer.global_step == 0
            look = Look(
                stage=stage,
                in_fit=trainer.state.fn == "fit",
                is_untrained=is_untrained,
                is_rehearsal=trainer.sanity_checking and not is_untrained,
                epoch=None if is_untrained else trainer.current_epoch,
                step=scalar_step(trainer),
                trainer=trainer,
                pl_module=pl_module,
                model=self._part.model(pl_module),
                samples=samples,
                explained=explained,
                target=self._describe_target(samples),
                dataset=find_dataset(loaders, self.samples.dataloader_idx),
                fraction=fraction,
                is_logged=is_logged,
                is_fresh=(trainer.global_step if self._first_step is None else self._first_step) == 0,
                index=self._peers(trainer).index(self),
            )
            looks.append(look)
            return Logged()

        def call_output(output: Output) -> Logged:
            if not looks or not output.wants(looks[0]):
                return Logged()
            look = replace(looks[0], scalars=dict(self._scalars))
            collector = output.samples if stage == "validate" else None
            if collector is not None:
                own_samples = collector.current()
                if own_samples is None:
                    return Logged()
                own_samples = own_samples.first(max(1, round(fraction * len(own_samples))))
                explained = self._explain(trainer, pl_module, own_samples, _CHUNK)
                look = replace(look, samples=own_samples, explained=explained)
            with muted(pl_module):
                return output(look)

        steps: list[Callable[[], Logged]] = [explain, *(partial(call_output, output) for output in self.outputs)]
        self._show(stage, trainer, pl_module, steps, trainer.loggers if is_logged else ())

    def _compare(self, samples: FixedSamples, explained: tuple[ExplainedSamples, ...]) -> None:
        """Warn if the logits are not those of the validation pass; a subclass may do so."""

    def _show(
        self,
        stage: str,
        trainer: Trainer,
        pl_module: LightningModule,
        steps: Sequence[Callable[[], Logged]],
        loggers: Sequence[Any],
    ) -> None:
        """Run steps and log what they return, each guarded so that the others still run."""
        pictures: dict[str, Tensor | Path] = {}

        def run(step: Callable[[], Logged]) -> None:
            logged = step()
            taken = (pictures.keys() & logged.pictures.keys()) | (self._scalars.keys() & logged.scalars.keys())
            if taken:
                raise ValueError(
                    f"Expected the outputs of a callback to log under different names, got {min(taken)!r} twice."
                )
            pictures.update(logged.pictures)
            self._scalars.update(logged.scalars)

        for step in steps:
            self._guarded(trainer, pl_module, partial(run, step))
        suffix = "" if stage == "validate" else f"/{stage}"
        tagged = {f"{self.name}/{tag}{suffix}": picture for tag, picture in pictures.items()}
        for logger in loggers if tagged else ():
            self._guarded(trainer, pl_module, partial(log_pictures, logger, tagged, scalar_step(trainer)))

    def _guarded(
        self, trainer: Trainer, pl_module: LightningModule, step: Callable[[], None], *, is_audited: bool = True
    ) -> None:
        if not self._guard.run(trainer, pl_module, step, is_audited=is_audited):
            self._forget()

    def _log_scalars(self, trainer: Trainer, pl_module: LightningModule, suffix: str = "") -> None:
        """Log the scalars of rank 0 on all ranks, so that callbacks on all ranks can monitor them."""
        for scalar, value in trainer.strategy.broadcast(self._scalars).items():
            pl_module.log(f"{self.name}/{scalar}{suffix}", value, on_step=False, on_epoch=True)
        self._scalars = {}

    def _peers(self, trainer: Trainer) -> list[LookCallback]:
        """Return the callbacks of the trainer that log under the same name, in their order."""
        return [callback for callback in _look_callbacks(trainer) if callback.name == self.name]

    def _affordable(self, num_samples: int) -> int:
        """Return how many samples the time budget allows now."""
        if self._last_end is None:  # training has not begun
            return num_samples
        was_thinned = self._budget.is_thinned
        other_seconds = time.perf_counter() - self._last_end - self._guard.seconds
        planned = self._budget.plan(num_samples, other_seconds)
        if self._budget.is_thinned and not was_thinned:
            rank_zero_warn(f"{type(self).__name__} would take {self._budget.describe(num_samples)}.")
        return planned

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            rank_zero_warn(message)


def _look_callbacks(trainer: Any) -> list[LookCallback]:
    """Return the callbacks of this package among those of a trainer."""
    return [callback for callback in trainer.callbacks if isinstance(callback, LookCallback)]
