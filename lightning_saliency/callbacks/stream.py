"""The validation and test streams: what is collected of them as they pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_saliency._lightning import LightningModule, Trainer
from lightning_saliency.callbacks.model_part import ModelPart
from lightning_saliency.callbacks.options import Samples
from lightning_saliency.data import FixedSamples, SampleCollector, mapped


class SampleStream:
    """Collects the samples of a callback, and those of its outputs, while a stream of batches passes.

    A sample is what the explained part of the module was called with in the validation step.

    Args:
        samples: Which samples are looked at.
        part: Finds the part of the module that is explained, and records its calls.
        others: Collectors of further samples of the validation stream.

    Attributes:
        was_recorded: Whether the samples were taken from the stream that passed last.
    """

    def __init__(self, samples: Samples, part: ModelPart, others: Sequence[SampleCollector]) -> None:
        self.dataloader_idx = samples.dataloader_idx
        self.part = part
        self.was_recorded = False
        self._shown = {"validate": samples.collector(), "test": samples.collector(in_test=True)}
        self._others = tuple(others)
        self._batch: Any = None

    def state_dict(self) -> dict[str, Any]:
        """The samples, by stream."""
        return {stage: collector.state_dict() for stage, collector in self._shown.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the samples of a checkpoint."""
        for stage, collector in self._shown.items():
            collector.load_state_dict(state.get(stage, {}))

    def reset(self) -> None:
        """Forget the samples: another run may have other data."""
        for collector in (*self._shown.values(), *self._others):
            collector.reset()

    def shown(self, stage: str) -> FixedSamples | None:
        """The samples that are looked at; before they are complete, those so far; None if there is none."""
        return self._shown[stage].current()

    def incomplete(self, stage: str) -> list[SampleCollector]:
        """What is still to be collected from a stream."""
        collectors = [self._shown[stage], *(self._others if stage == "validate" else ())]
        return [collector for collector in collectors if collector.fixed is None]

    def begin(self, stage: str, pl_module: LightningModule) -> None:
        """Begin with a stream: where samples are to be collected, hooks are on the module from now on."""
        incomplete = self.incomplete(stage)
        self.was_recorded = self._shown[stage].fixed is None
        for collector in incomplete:
            collector.begin()
        if incomplete:
            self.part.start(pl_module)

    def begin_step(self, batch: Any, dataloader_idx: int) -> None:
        """Listen to what a step calls."""
        if self.part.is_recording and dataloader_idx == self.dataloader_idx:
            # other containers, since a step may take its batch apart
            self._batch = mapped(batch, lambda _, value: value)
            self.part.begin_step()

    @property
    def has_step(self) -> bool:
        """Whether a step was listened to."""
        return self._batch is not None

    def end_step(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> list[str]:
        """Take the samples of the step that has ended.

        Returns:
            What is wrong with the labels, for notes.

        Raises:
            ValueError: The explained part was not called, or what it was called with holds no images.
        """
        batch, self._batch = self._batch, None
        call, logits = self.part.end_step(trainer, pl_module, batch)
        incomplete = self.incomplete(stage)
        for collector in incomplete:
            collector.offer(batch, call, logits)
        return [collector.unfit_labels for collector in incomplete if collector.unfit_labels is not None]

    def check_loader(self, stage: str, trainer: Any) -> None:
        """Refuse a stream that the trainer does not have.

        Raises:
            ValueError: There are not as many loaders.
        """
        loaders = trainer.num_test_batches if stage == "test" else trainer.num_val_batches
        if self.dataloader_idx >= len(loaders):
            raise ValueError(
                f"Expected `samples.dataloader_idx` to be below the number of loaders, {len(loaders)}, got "
                f"{self.dataloader_idx}."
            )

    def has_passed_whole(self, trainer: Any) -> bool:
        """Whether all of the stream has passed: sanity checking may run over a part of it."""
        if not trainer.sanity_checking:
            return True
        ran, all_of_it = trainer.num_sanity_val_batches, trainer.num_val_batches
        return self.dataloader_idx < len(ran) and ran[self.dataloader_idx] >= all_of_it[self.dataloader_idx]

    def stop(self) -> None:
        """Take the hooks off the module, and let go of what was recorded."""
        self.part.stop()
        self._batch = None
