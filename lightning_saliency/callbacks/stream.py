"""`SampleStream`: collects samples from the batches of the validation and test loaders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning_saliency._checks import OptionError
from lightning_saliency._lightning import LightningModule, Trainer
from lightning_saliency.callbacks.model_part import ModelPart
from lightning_saliency.callbacks.options import Samples
from lightning_saliency.data import FixedSamples, SampleCollector, mapped


class SampleStream:
    """Collects the samples of a callback, and those of its outputs, from a stream of batches.

    A sample holds the arguments of the explained part of the module in the validation step. Each of the streams has
    samples of its own: `fit`, whose samples a run keeps, and `validate` and `test`, which may pass other data each
    time.

    Args:
        samples: Which samples are explained.
        part: Finds the part of the module that is explained, and records its calls.
        others: Of each output what collects samples of its own from a validation stream, or None.

    Attributes:
        was_recorded: Whether the samples were collected in the last pass over a stream.
    """

    def __init__(self, samples: Samples, part: ModelPart, others: Sequence[SampleCollector | None]) -> None:
        self.dataloader_idx = samples.dataloader_idx
        self.part = part
        self.was_recorded = False
        self._shown = {
            "fit": samples.collector(),
            "validate": samples.collector(),
            "test": samples.collector(in_test=True),
        }
        self._others: dict[str, list[SampleCollector | None]] = {"test": [None for _ in others]}
        for stage in ("fit", "validate"):
            self._others[stage] = [None if other is None else replace(other) for other in others]
        self._batch: Any = None
        self._is_whole = False

    def state_dict(self) -> dict[str, Any]:
        """Return the samples of `fit`, for a checkpoint."""
        return self._shown["fit"].state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the samples of a checkpoint."""
        self._shown["fit"].load_state_dict(state)

    def reset(self, stage: str) -> None:
        """Drop the samples of a stream: the next may have other data."""
        for collector in self._collectors(stage):
            collector.reset()

    def reset_all(self) -> None:
        """Drop the samples of all streams."""
        for stage in self._shown:
            self.reset(stage)

    def shown(self, stage: str) -> FixedSamples | None:
        """Return the shown samples; before they are complete, those collected so far, or None if there are none."""
        return self._shown[stage].current()

    def own(self, stage: str, index: int) -> SampleCollector | None:
        """Return what has collected the samples of the output of this index; None where it takes the shown ones."""
        return self._others[stage][index]

    def is_complete(self, stage: str) -> bool:
        """Whether all samples of a stream are there."""
        return not self._incomplete(stage)

    def begin(self, stage: str, pl_module: LightningModule) -> None:
        """Begin a pass over a stream; where samples are to be collected, register hooks on the module."""
        incomplete = self._incomplete(stage)
        self.was_recorded = self._shown[stage].fixed is None
        self._is_whole = False
        for collector in incomplete:
            collector.begin()
        if incomplete:
            self.part.start(pl_module)
        self._is_whole = True

    def begin_step(self, batch: Any, dataloader_idx: int) -> None:
        """Begin to record the calls of a step."""
        if self.part.is_recording and dataloader_idx == self.dataloader_idx:
            self._is_whole = False  # until its samples are collected
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
        call, reading = self.part.end_step(trainer, pl_module, batch)
        logits, task = (None, "multiclass") if reading is None else (reading.logits, reading.task.name)
        incomplete = self._incomplete(stage)
        for collector in incomplete:
            collector.offer(batch, call, logits, task)
        self._is_whole = True
        return [
            f"labels that do not fit the model's logits are taken for none: {collector.unfit_labels}"
            for collector in incomplete
            if collector.unfit_labels is not None
        ]

    def end(self, stage: str, trainer: Trainer) -> list[str]:
        """End a pass over a stream, with which samples may be complete.

        Returns:
            A description of samples that lack an entry of the objects that the user passed, for a warning.

        Raises:
            OptionError: The trainer has no such loader, or the stream not all of the positions.
        """
        loaders = trainer.num_test_batches if stage == "test" else trainer.num_val_batches
        if self.dataloader_idx >= len(loaders):
            raise OptionError(
                f"Expected `samples.dataloader_idx` to be below the number of loaders, {len(loaders)}, got "
                f"{self.dataloader_idx}.",
                "samples.dataloader_idx",
            )
        for collector in self._incomplete(stage):
            collector.end(whole=self._has_passed_whole(trainer))
        samples, objects = self._shown[stage].fixed, self._shown[stage].objects
        if samples is None or objects is None or callable(objects) or len(objects) >= len(samples):
            return []
        return [f"`samples.objects` has {len(objects)} entries for {len(samples)} samples: the others have no object"]

    def stop(self) -> None:
        """Remove the hooks from the module, and drop the recorded calls."""
        self.part.stop()
        self._batch = None

    def _collectors(self, stage: str) -> list[SampleCollector]:
        others = [collector for collector in self._others[stage] if collector is not None]
        return [*others, self._shown[stage]]

    def _incomplete(self, stage: str) -> list[SampleCollector]:
        """Return the collectors whose samples are not complete yet."""
        return [collector for collector in self._collectors(stage) if collector.fixed is None]

    def _has_passed_whole(self, trainer: Trainer) -> bool:
        """Whether each batch of the stream was offered: not after an error, nor where sanity checking runs a part."""
        if not trainer.sanity_checking:
            return self._is_whole
        num_run, num_all = trainer.num_sanity_val_batches, trainer.num_val_batches
        return self._is_whole and num_run[self.dataloader_idx] >= num_all[self.dataloader_idx]
