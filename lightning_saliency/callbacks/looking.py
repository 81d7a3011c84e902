"""`LookingCallback`: explains the samples, hands the look to the outputs, and logs what they return."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_saliency._lightning import LightningModule, Trainer, rank_zero_info
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
from lightning_saliency.callbacks.scalars import Scalars
from lightning_saliency.callbacks.validation import dataset_of
from lightning_saliency.data import FixedSamples
from lightning_saliency.loggers import log_pictures

_CHUNK = 32
"""The most samples of an output's own that are explained together."""


class LookingCallback(LossReadingCallback):
    """Makes a look at the samples when it is told to, hands it to its outputs, and logs what these return.

    When that is, is said by `LookCallback`; how samples are explained, by its subclasses.

    Args:
        outputs: The outputs, in the order in which they are called.
        samples: Which samples are explained.
        part: Finds the part of the module that is explained.
        execution: How the pass runs, and how errors are handled.
        name: First part of the tags.
        unset: The options that the user has left at their defaults, by their names in an `OptionError`.
    """

    def __init__(
        self,
        outputs: Sequence[Output],
        *,
        samples: Samples,
        part: ModelPart,
        execution: Execution,
        name: str,
        unset: Collection[str],
    ) -> None:
        name = check_tag("name", name)
        for output in outputs:
            if not isinstance(output, Output):
                raise TypeError(f"Expected `outputs` to be `Output`s, got {type(output).__name__}.")
        super().__init__(samples, part, [output.samples for output in outputs], execution, unset)
        self.outputs = tuple(outputs)
        self.name = name
        self._scalars = Scalars(name, outputs)
        self._budget = Budget(execution.max_fraction)
        self._last_end: float | None = None
        self._unlogged_seconds = 0.0
        self._is_announced = False

    @abstractmethod
    def _explain(
        self, trainer: Trainer, pl_module: LightningModule, samples: FixedSamples, at_once: int | None = None
    ) -> tuple[ExplainedSamples, ...]:
        """Return the explanations of samples; none where the outputs compute what they need themselves."""

    @abstractmethod
    def _describe_target(self, samples: FixedSamples) -> str:
        """Return in words which class is explained."""

    @property
    def tags(self) -> set[str]:
        """The tags of the pictures, as far as they are known; two callbacks of a trainer must not share one."""
        return {f"{self.name}/{tag}" for output in self.outputs for tag in output.tags()}

    def _look(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        is_logged: bool,
        step: int,
        *,
        is_initial: bool = False,
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
                    self._make_look(trainer, pl_module, affordable, fraction, is_logged, step, is_initial=is_initial)
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
        if counts and self._last_end is not None and not (is_early or is_initial):
            self._budget.record(self._guard.seconds - seconds_before, counts[0])
        if answers and self._answers(trainer, pl_module) != answers:
            raise RuntimeError(
                f"{type(self).__name__} has changed the training: the model's logits for the same samples differ "
                "before and after it, by a state that neither a copy of the model nor the audit reaches: a global, say."
            )

    def _make_look(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        samples: FixedSamples,
        fraction: float,
        is_logged: bool,
        step: int,
        *,
        is_initial: bool,
    ) -> Look:
        """Explain samples."""
        explained = self._explain(trainer, pl_module, samples)
        is_before_training = self._is_before_training(trainer)
        # in the pass that has just ended, with the same weights
        if self._stream.was_recorded and (is_before_training or not is_initial):
            self._compare(samples, explained)
        in_test = stream_of(trainer) == "test"
        return Look(
            stage="test" if in_test else "validate",
            in_fit=trainer.state.fn == "fit",
            is_initial=is_initial,
            is_rehearsal=is_before_training and not is_initial,
            epoch=None if is_initial else trainer.current_epoch,
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

    def _answers(self, trainer: Trainer, pl_module: LightningModule) -> list[str]:
        """Return a hash of the model's logits for the samples, where the audit is on."""
        answers: list[str] = []

        def answer() -> None:
            samples = self._stream.shown(stream_of(trainer)) if self.execution.audit else None
            if samples is not None:
                answers.append(forward_fingerprint(self._part.forward(trainer, pl_module), samples))

        self._guarded(trainer, pl_module, answer, is_audited=False)
        return answers

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

    def _peers(self, trainer: Trainer) -> list[LookingCallback]:
        """Return the callbacks of the trainer that log under the same name, in their order."""
        return [callback for callback in looking_callbacks(trainer) if callback.name == self.name]

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


def looking_callbacks(trainer: Any) -> list[LookingCallback]:
    """Return the callbacks of this package among those of a trainer."""
    return [callback for callback in trainer.callbacks if isinstance(callback, LookingCallback)]
