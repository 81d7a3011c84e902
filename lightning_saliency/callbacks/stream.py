"""`SampleStream`: collects samples from the batches of the validation and test loaders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from lightning_saliency._checks import OptionError
from lightning_saliency._lightning import LightningModule, Trainer
from lightning_saliency.callbacks.kept_steps import KeptSteps
from lightning_saliency.callbacks.model_part import ModelPart
from lightning_saliency.callbacks.options import Samples
from lightning_saliency.callbacks.surroundings import buffers_of
from lightning_saliency.callbacks.transfer import find_transfer_normalization
from lightning_saliency.data import Call, FixedSamples, Normalization, SampleCollector, plain_tensors
from lightning_saliency.evidence import RecordedCall


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
        buffers: The module's buffers at the end of a pass whose steps are kept; else None.
    """

    def __init__(self, samples: Samples, part: ModelPart, others: Sequence[SampleCollector | None]) -> None:
        self.dataloader_idx = samples.dataloader_idx
        self.part = part
        self.was_recorded = False
        self.buffers: Mapping[str, Tensor] | None = None
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
        self._kept: KeptSteps | None = None
        self._ran_all = True
        self._in_transfer: list[Normalization | None] = []

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

    def has_all(self, stage: str) -> bool:
        """Whether all samples are there, those of the outputs too."""
        return not self._incomplete(stage)

    def stand_in(self, stage: str) -> FixedSamples | None:
        """Return the shown samples that there are, or where there are none yet the first sample of the stream."""
        return self._shown[stage].current() or self._shown[stage].stand_in

    def own(self, stage: str, index: int) -> SampleCollector | None:
        """Return what has collected the samples of the output of this index; None where it takes the shown ones."""
        return self._others[stage][index]

    def is_complete(self, stage: str) -> bool:
        """Whether all samples of a stream are there, or the steps that hold them."""
        needed = [collector.num_needed for collector in self._incomplete(stage)]
        num_kept = 0 if self._kept is None else self._kept.num_samples
        return all(count is not None and count <= num_kept for count in needed)

    @property
    def is_waiting(self) -> bool:
        """Whether the steps of a pass are kept."""
        return self._kept is not None

    def begin(
        self, stage: str, pl_module: LightningModule, labels: Tensor | None = None, *, keeps: bool = False
    ) -> None:
        """Begin a pass over a stream; where samples are to be collected, register hooks on the module.

        Args:
            stage: The stream.
            pl_module: The module.
            labels: Those of the stream's samples, where they are known beforehand.
            keeps: Whether the steps are kept as they are, and the samples collected from them in `end`.
        """
        self._kept, self.buffers = KeptSteps() if keeps else None, None
        incomplete = self._incomplete(stage)
        self.was_recorded = self._shown[stage].fixed is None
        self._is_whole = False
        self._in_transfer = []
        for collector in incomplete:
            collector.begin(labels)
        if incomplete:
            self.part.start(pl_module)
        self._is_whole = True

    def wait(self, pl_module: LightningModule) -> None:
        """Await the loss without a pass over a stream: for samples that were given."""
        self._kept, self.buffers = KeptSteps(), buffers_of(pl_module)

    def begin_step(self, batch: Any, dataloader_idx: int) -> None:
        """Begin to record the calls of a step."""
        if self.part.is_recording and dataloader_idx == self.dataloader_idx:
            self._is_whole = False  # until its samples are collected
            # new containers, since a step may modify its batch
            self._batch = plain_tensors(batch)
            self.part.begin_step()

    @property
    def has_step(self) -> bool:
        """Whether the calls of a step are recorded."""
        return self._batch is not None

    def end_step(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> list[str]:
        """Collect samples from the step that has ended, or keep it.

        Returns:
            Descriptions of labels that do not fit the logits, for warnings.

        Raises:
            ValueError: The explained part was not called, or its arguments hold no images.
        """
        batch, self._batch = self._batch, None
        recorded = self.part.end_step()
        if self._kept is None:
            return self._collect(stage, trainer, pl_module, batch, recorded)
        self._kept.add(batch, recorded)
        self._is_whole = True
        return self._collect_kept(stage, trainer, pl_module) if self._kept.is_full else []

    def end(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> list[str]:
        """End a pass over a stream, with which samples may be complete.

        Returns:
            Descriptions, for warnings, of labels that do not fit the logits, and of samples that lack an entry of the
            objects that the user passed.

        Raises:
            OptionError: The trainer has no such loader, or the stream not all of the positions.
            ValueError: The explained part was not called in a kept step, or its arguments hold no images.
        """
        if not self.is_waiting:
            self.pause(stage, trainer, pl_module)
        notes = self._collect_kept(stage, trainer, pl_module)
        for collector in self._incomplete(stage):
            collector.end(whole=self._is_whole and self._ran_all)
        samples, objects = self._shown[stage].fixed, self._shown[stage].objects
        if samples is not None and objects is not None and not callable(objects) and len(objects) < len(samples):
            lacking = f"{len(objects)} entries for {len(samples)} samples: the others have no object"
            notes.append(f"`samples.objects` has {lacking}")
        return notes

    def pause(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the hooks after a pass over a stream, before `end`, which may be later.

        Raises:
            OptionError: The trainer has no such loader.
        """
        self.stop()
        num_all = trainer.num_test_batches if stage == "test" else trainer.num_val_batches
        if self.dataloader_idx >= len(num_all):
            raise OptionError(
                f"Expected `samples.dataloader_idx` to be below the number of loaders, {len(num_all)}, got "
                f"{self.dataloader_idx}.",
                "samples.dataloader_idx",
            )
        num_run = trainer.num_sanity_val_batches if trainer.sanity_checking else num_all
        self._ran_all = num_run[self.dataloader_idx] >= num_all[self.dataloader_idx]
        self.buffers = buffers_of(pl_module) if self.is_waiting else None

    def stop(self) -> None:
        """Remove the hooks from the module, and drop the calls of a step that has not ended."""
        self.part.stop()
        self._batch = None

    def drop(self) -> None:
        """Remove the hooks, and drop what is kept."""
        self.stop()
        self._kept = self.buffers = None

    def _collect_kept(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> list[str]:
        """Collect samples from the kept steps, if there are any; from now on no step is kept."""
        kept, self._kept = self._kept, None
        steps = () if kept is None else kept.take()
        return [note for step in steps for note in self._collect(stage, trainer, pl_module, *step)]

    def _collect(
        self,
        stage: str,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        recorded: Mapping[str, RecordedCall],
    ) -> list[str]:
        self._is_whole = False
        incomplete = self._incomplete(stage)
        notes = []
        if incomplete:
            step = self.part.read_step(trainer, pl_module, batch, recorded)
            reading = step.reading
            logits, task = (None, "multiclass") if reading is None else (reading.logits, reading.task.name)
            num_axes = 2 if reading is None or reading.masks is None else reading.masks.dim() - 1
            in_transfer = self._find_in_transfer(trainer, pl_module, step.batch, step.call)
            notes += [] if step.note is None else [step.note]
            for collector in incomplete:
                collector.offer(
                    step.batch, step.call, logits, task, self.part.key, num_axes=num_axes, in_transfer=in_transfer
                )
        self._is_whole = True
        return notes + [
            f"labels that do not fit the model's logits are taken for none: {collector.unfit_labels}"
            for collector in incomplete
            if collector.unfit_labels is not None
        ]

    def _find_in_transfer(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, call: Call
    ) -> Normalization | None:
        """Return what the module's transfer hooks do to pixels: tried on the first batch of a pass."""
        if not self._in_transfer:
            found = None
            if isinstance(call.given, Tensor):
                found = find_transfer_normalization(
                    trainer, pl_module, batch, call.images, self.dataloader_idx, self.part.state
                )
            self._in_transfer.append(found)
        return self._in_transfer[0]

    def _collectors(self, stage: str) -> list[SampleCollector]:
        others = [collector for collector in self._others[stage] if collector is not None]
        return [*others, self._shown[stage]]

    def _incomplete(self, stage: str) -> list[SampleCollector]:
        """Return the collectors whose samples are not complete yet."""
        return [collector for collector in self._collectors(stage) if collector.fixed is None]
