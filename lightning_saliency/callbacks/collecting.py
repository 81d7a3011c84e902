"""`CollectingCallback`: collects samples from the streams of a run, guarded such that errors do not end it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any
from weakref import ref

from lightning_saliency._lightning import SHARDED_STRATEGIES, Callback, LightningModule, Trainer
from lightning_saliency.callbacks.guard import Guard
from lightning_saliency.callbacks.model_part import ModelPart
from lightning_saliency.callbacks.notices import Notices
from lightning_saliency.callbacks.options import Execution, Samples
from lightning_saliency.callbacks.stream import SampleStream
from lightning_saliency.callbacks.validation import stream_labels
from lightning_saliency.data import SampleCollector

_CHECKPOINT_ENTRY = "lightning_saliency"
"""The entry of a checkpoint that holds the states of these callbacks."""


class CollectingCallback(Callback):
    """Collects samples from the streams of a run, such that its own errors do not end the run.

    A sample is the model's own call: the arguments of the explained part of the module in the validation step. What is
    kept from look to look belongs to one run, which is a trainer with a module: another `fit` of these two goes on with
    it, also after a `validate` or `test` of whatever module in between; a `fit` of others begins anew.

    Args:
        samples: Which samples are collected.
        part: Finds the part of the module that is explained.
        others: Of each output what collects samples of its own, or None.
        execution: How errors are handled.
        unset: The options that the user has left at their defaults, by their names in an `OptionError`.
    """

    def __init__(
        self,
        samples: Samples,
        part: ModelPart,
        others: Sequence[SampleCollector | None],
        execution: Execution,
        unset: Collection[str],
    ) -> None:
        super().__init__()
        self.samples = samples
        self.execution = execution
        self._part = part
        self._stream = SampleStream(samples, part, others)
        self._notices = Notices()
        self._guard = Guard(
            type(self).__name__,
            self._notices,
            unset=unset,
            raises=execution.on_error == "raise",
            audit=execution.audit,
            advise=self._advise,
        )
        self._run: tuple[ref[Trainer], ref[LightningModule]] | None = None
        self._is_active = True
        self._is_guest = False
        self._other_choices: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has of this callback: not the run that it is in."""
        return {**vars(self), "_run": None}

    def _advise(self, pl_module: LightningModule) -> str:
        """Return what to set where the model itself fails on the call that is repeated."""
        if self.samples.given is not None:
            return "Leave out `samples=images`: then it is called as in your validation step."
        return self._part.advice(pl_module)

    def _begin_run(self) -> None:
        """Drop the state of a run, before another one."""
        self._forget()
        self._load_choices({})
        self._is_guest, self._other_choices = False, {}
        self._stream.reset_all()
        self._notices.reset()

    def _choices(self) -> dict[str, Any]:
        """Return what was found out about a module, for the next look or a resumed run."""
        return {"part": self._part.state_dict()}

    def _load_choices(self, choices: Mapping[str, Any]) -> None:
        """Load what `_choices` has returned; nothing is found out yet where it is empty."""
        self._part.load_state_dict(choices.get("part", {}))

    def _forget(self) -> None:
        """Drop references to the model, and choices that may have caused an error."""
        self._part.stop()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Go on with the run, or begin another one; be inactive where nothing can be explained.

        Raises:
            ValueError: Nothing can be explained, and errors are to be raised.
        """
        own_trainer, own_module = (None, None) if self._run is None else (self._run[0](), self._run[1]())
        is_other = trainer is not own_trainer or pl_module is not own_module
        if self._run is None or (is_other and stage == "fit"):
            self._begin_run()
            self._run = ref(trainer), ref(pl_module)
        elif (pl_module is not own_module) != self._is_guest:  # another module has choices of its own
            choices, self._is_guest = self._choices(), not self._is_guest
            self._load_choices(self._other_choices)
            self._other_choices = choices
        self._guard.seconds = 0.0
        obstacle = _find_obstacle(trainer)
        self._is_active = obstacle is None
        if obstacle is not None and self._guard.raises:
            raise ValueError(f"{type(self).__name__} {obstacle}")
        if obstacle is not None:
            self._notices.once(f"{type(self).__name__} {obstacle} The run goes on without it.")
        if stage in ("validate", "test"):
            self._stream.reset(stage)

    @property
    @abstractmethod
    def checkpoint_key(self) -> str:
        """The key of the state in a checkpoint, by which another process finds it."""

    # Lightning refuses two callbacks of one state key before `setup` can say what to do, so the state is not handed to
    # it by `state_dict`.
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save what a resumed run needs, so that it continues."""

        def save() -> None:
            checkpoint.setdefault(_CHECKPOINT_ENTRY, {})[self._key_in(trainer)] = self._state()

        self._guarded(trainer, pl_module, save, is_audited=False)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Load the state of a checkpoint; without one in it, or with a damaged one, begin anew."""

        def load() -> None:
            self._begin_run()
            self._load_state(pl_module, checkpoint.get(_CHECKPOINT_ENTRY, {}).get(self._key_in(trainer), {}))

        if not self._guarded(trainer, pl_module, load, is_audited=False):
            self._begin_run()

    def _key_in(self, trainer: Any) -> str:
        """The key of the state among those of a trainer's callbacks, of which later ones of one key get a number."""
        callbacks = [callback for callback in trainer.callbacks if isinstance(callback, CollectingCallback)]
        same = [callback for callback in callbacks if callback.checkpoint_key == self.checkpoint_key]
        index = same.index(self)
        return f"{self.checkpoint_key} {index + 1}" if index else self.checkpoint_key

    def _state(self) -> dict[str, Any]:
        """Return the state for a checkpoint: tensors and plain values."""
        choices = self._other_choices if self._is_guest else self._choices()
        return {"samples": self._stream.state_dict(), "choices": choices}

    def _load_state(self, pl_module: LightningModule, state: Mapping[str, Any]) -> None:
        """Load what `_state` has returned, as far as it is there."""
        self._stream.load_state_dict(state.get("samples", {}))
        choices = state.get("choices", {})
        if self._part.is_of(pl_module, choices.get("part", {})):
            self._load_choices(choices)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to collect samples from the validation or test stream."""
        self._begin_stream(trainer, pl_module)

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
        self._end_step(trainer, pl_module)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks from the module, and drop what waits for the loss."""
        self._stream.drop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Drop references to the model."""
        self._stream.drop()
        self._forget()

    def _begin_stream(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self._is_active:
            # which of the outputs is explained, and what it means, is best told by the loss, which is yet to come
            keeps = trainer.sanity_checking and self._part.loss_terms is None

            def begin() -> None:
                in_test = stream_of(trainer) == "test"
                labels = stream_labels(trainer, self.samples.dataloader_idx, in_test=in_test)
                self._stream.begin(stream_of(trainer), pl_module, labels, keeps=keeps)

            self._guarded(trainer, pl_module, begin, is_audited=False)

    def _begin_step(self, trainer: Trainer, pl_module: LightningModule, batch: Any, dataloader_idx: int) -> None:
        if self._part.is_recording:
            begin = partial(self._stream.begin_step, batch, dataloader_idx)
            self._guarded(trainer, pl_module, begin, is_audited=False)

    def _end_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._stream.has_step:
            end = partial(self._stream.end_step, stream_of(trainer), trainer, pl_module)
            self._guarded(trainer, pl_module, partial(self._note, end))
            if self._stream.is_complete(stream_of(trainer)):
                self._stream.stop()

    def _end_stream(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stream.stop()
        if trainer.is_global_zero and self._is_active:
            end = partial(self._stream.end, stream_of(trainer), trainer, pl_module)
            self._guarded(trainer, pl_module, partial(self._note, end))

    def _note(self, step: Callable[[], list[str]]) -> None:
        """Run a step, and warn once of each thing that it notes."""
        for note in step():
            self._notices.once(f"{type(self).__name__}: {note}.")

    def _guarded(
        self, trainer: Trainer, pl_module: LightningModule, step: Callable[[], None], *, is_audited: bool = True
    ) -> bool:
        """Run a step, and drop references to the model where it fails; return whether it succeeded."""
        succeeded = self._guard.run(trainer, pl_module, step, is_audited=is_audited)
        if not succeeded:
            self._forget()
        return succeeded


def stream_of(trainer: Trainer) -> str:
    """Return the name of the stream that a trainer's function passes: `fit`, `validate` or `test`."""
    return str(trainer.state.fn.value) if trainer.state.fn is not None else "fit"


def _find_obstacle(trainer: Trainer) -> str | None:
    """Return in words why nothing can be explained under a trainer; None where it can."""
    if isinstance(trainer.strategy, SHARDED_STRATEGIES):
        return (
            f"needs the whole model on one rank, which {type(trainer.strategy).__name__} does not keep. Use a strategy "
            "that does, such as 'ddp'."
        )
    if trainer.barebones:
        return "has nothing to write to under `Trainer(barebones=True)`, which logs nothing."
    return None
