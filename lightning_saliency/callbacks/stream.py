"""`SampleStream`: collects samples from the batches of the validation and test loaders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_saliency._lightning import LightningModule, Trainer
from lightning_saliency.callbacks.model_part import ModelPart
from lightning_saliency.callbacks.options import Samples
from lightning_saliency.data import FixedSamples, SampleCollector, mapped


class SampleStream:
    """Collects the samples of a callback, and those of its outputs, from a stream of batches.

    A sample holds the arguments of the explained part of the module in the validation step.

    Args:
        samples: Which samples are explained.
        part: Finds the part of the module that is explained, and records its calls.
        others: Collectors of further samples of the validation stream.

    Attributes:
        was_recorded: Whether the samples were collected in the last pass over a stream.
    """

    def __init__(self, samples: Samples, part: ModelPart, others: Sequence[SampleCollector]) -> None:
        self.dataloader_idx = samples.dataloader_idx
        self.part = part
        self.was_recorded = False
        self._shown = {"validate": samples.collector(), "test": samples.collector(in_test=True)}
        self._others = tuple(others)
        self._batch: Any = None

    def state_dict(self) -> dict[str, Any]:
        """Return the samples of each stream, for a checkpoint."""
        return {stage: collector.state_dict() for stage, collector in self._shown.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the samples of a checkpoint."""
        for stage, collector in self._shown.items():
            collector.load_state_dict(state.get(stage, {}))

    def reset(self) -> None:
        """Drop the samples: another run may have other data."""
        for collector in (*self._shown.values(), *self._others):
            collector.reset()

    def shown(self, stage: str) -> FixedSamples | None:
        """Return the shown samples; before they are complete, those collected so far, or None if there are none."""
        return self._shown[stage].current()

    def incomplete(self, stage: str) -> list[SampleCollector]:
        """Return the collectors whose samples are not complete yet."""
        collectors = [self._shown[stage], *(self._others if stage == "validate" else ())]
        return [collector for collector in collectors if collector.fixed is None]

    def begin(self, stage: str, pl_module: LightningModule) -> None:
        """Begin a pass over a stream; where samples are to be collected, register hooks on the module."""
        incomplete = self.incomplete(stage)
        self.was_recorded = self._shown[stage].fixed is None
        for collector in incomplete:
            collector.begin()
        if incomplete:
            self.part.start(pl_module)

    def begin_step(self, batch: Any, dataloader_idx: int) -> None:
        """Begin to record the calls of a step."""
        if self.part.is_recording and dataloader_idx == self.dataloader_idx:
            # new containers, since a step may modify its batch
            self._batch = mapped(batch, lambda _, value: value)
            self.part.begin_step()

    @property
    def has_step(self) -> bool:
        """Whether the calls of a step are recorded."""
        return self._batch is not None

    def end_step(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> list[str]:
        """Collect samples from the step that has ended.

        Returns:
            Descriptions of labels that do not fit the logits, for warnings.

        Raises:
            ValueError: The explained part was not called, or its arguments hold no images.
        """
        batch, self._batch = self._batch, None
        call, logits = self.part.end_step(trainer, pl_module, batch)
        incomplete = self.incomplete(stage)
        for collector in incomplete:
            collector.offer(batch, call, logits)
        return [collector.unfit_labels for collector in incomplete if collector.unfit_labels is not None]

    def check_loader(self, stage: str, trainer: Any) -> None:
        """Raise an error for a loader that the trainer does not have.

        Raises:
            ValueError: The trainer has fewer loaders.
        """
        loaders = trainer.num_test_batches if stage == "test" else trainer.num_val_batches
        if self.dataloader_idx >= len(loaders):
            raise ValueError(
                f"Expected `samples.dataloader_idx` to be below the number of loaders, {len(loaders)}, got "
                f"{self.dataloader_idx}."
            )

    def has_passed_whole(self, trainer: Any) -> bool:
        """Whether the pass went over the whole stream; sanity checking may run over a part of it."""
        if not trainer.sanity_checking:
            return True
        num_run, num_all = trainer.num_sanity_val_batches, trainer.num_val_batches
        return self.dataloader_idx < len(num_run) and num_run[self.dataloader_idx] >= num_all[self.dataloader_idx]

    def stop(self) -> None:
        """Remove the hooks from the module, and drop the recorded calls."""
        self.part.stop()
        self._batch = None
