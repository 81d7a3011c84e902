"""`LookPass`: explains samples in the trainer's precision and within the available memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from lightning_saliency._lightning import LightningModule, Trainer, is_oom_error
from lightning_saliency.attribution import (
    METHODS,
    ExplainedSamples,
    HeatmapStage,
    Settings,
    explain_call,
)
from lightning_saliency.callbacks.model_part import ModelPart, same_logits
from lightning_saliency.callbacks.options import Execution
from lightning_saliency.data import FixedSamples, SampleBatch
from lightning_saliency.evidence import (
    ParsedTarget,
    Target,
    TargetLayer,
    find_target_layer,
)


@dataclass
class LookPass:
    """Explains samples with a trainer's module, and remembers its target layer and the chunk size that fits.

    Attributes:
        methods: The options of each method's function, by the method's key in `METHODS`.
        target: Which class is explained.
        part: Which part of the module is explained.
        layer: Dotted names of the target layers; none to choose it automatically.
        execution: How the pass runs.
    """

    methods: Mapping[str, Mapping[str, Any]]
    target: Target
    part: ModelPart
    layer: tuple[str, ...]
    execution: Execution
    _target_layer: TargetLayer | None = field(default=None, init=False)
    _fitting_chunk: int | None = field(default=None, init=False)

    def forget(self) -> None:
        """Drop the module and its target layer, which is chosen again in the next look."""
        self._target_layer = None

    def check(self, pl_module: LightningModule) -> None:
        """Raise an error for names that the module does not have.

        Raises:
            ValueError: There is no such layer or submodule.
        """
        self.part.check(pl_module)
        model = self.part.find(pl_module)
        if model is not None:
            for name in self.layer:
                self.part.layer(model, name)

    def explain(
        self, trainer: Trainer, pl_module: LightningModule, samples: FixedSamples, at_once: int | None = None
    ) -> tuple[ExplainedSamples, ...]:
        """Explain the samples in the trainer's precision, in smaller chunks where the memory does not suffice.

        Args:
            trainer: The trainer.
            pl_module: Its module.
            samples: Any number of samples.
            at_once: The size of chunks, where the user sets none; None for all samples together.

        Returns:
            The explanations, one for each size of images.
        """
        settings = self._settings(trainer, pl_module, at_once)
        explained = []
        for batch in samples.batches():
            if self._target_layer is None and not settings.layers and self._reads_layer:
                self._target_layer = find_target_layer(settings.forward, batch.call)
            if self._target_layer is not None:
                settings = replace(settings, layers=(self._target_layer,))
            target = self.target.resolve(len(batch), labels=batch.known_labels, positions=batch.positions)
            explained.append(self._explain(settings, batch, target))
        return tuple(explained)

    def disagreement(self, samples: FixedSamples, explained: tuple[ExplainedSamples, ...]) -> int:
        """Return the number of samples whose logits are not those of the validation pass they were collected in."""
        recorded = dict(zip(samples.positions, (sample.logits for sample in samples.samples), strict=True))
        count = 0
        for group in explained:
            for position, logits in zip(group.samples.positions, group.explanation.logits, strict=True):
                expected = recorded[position]
                count += expected is not None and not same_logits(logits, expected)
        return count

    def _explain(self, settings: Settings, batch: SampleBatch, target: ParsedTarget) -> ExplainedSamples:
        while True:
            settings = replace(settings, chunk_size=self._fitting_chunk or settings.chunk_size)
            try:
                explanation = explain_call(settings, batch.call, target)
                return ExplainedSamples(batch, explanation, HeatmapStage(explanation))
            except (RuntimeError, MemoryError) as fault:
                failed_chunk = min(settings.chunk_size or len(batch), len(batch))
                if failed_chunk == 1 or not (is_oom_error(fault) or isinstance(fault, MemoryError)):
                    raise
            # outside the handler: the error holds the frames, and these hold the tensors
            self._fitting_chunk = failed_chunk // 2
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()

    def _settings(self, trainer: Trainer, pl_module: LightningModule, at_once: int | None) -> Settings:
        forward = self.part.forward(trainer, pl_module)
        module_task = getattr(pl_module, "task", None)
        return Settings(
            forward=forward,
            methods=self.methods,
            target=self.target,
            layers=tuple(self.part.layer(forward.model, name) for name in self.layer),
            fuse=self.execution.fuse,
            flip=self.execution.flip,
            task=self.execution.task or ("multilabel" if module_task == "multilabel" else "multiclass"),
            chunk_size=self._fitting_chunk or self.execution.chunk_size or at_once,
        )

    @property
    def _reads_layer(self) -> bool:
        return any(METHODS[key].reads_layer for key in self.methods)
