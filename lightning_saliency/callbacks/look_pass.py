"""`LookPass`: explains samples in the trainer's precision and within the available memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_saliency._checks import OptionError, describe_error, error_message
from lightning_saliency._lightning import LightningModule, Trainer, is_oom_error
from lightning_saliency.attribution import (
    ExplainedSamples,
    HeatmapStage,
    Settings,
    default_methods,
    explain_call,
    find_detected,
)
from lightning_saliency.callbacks.model_part import ModelPart, same_logits
from lightning_saliency.callbacks.options import Execution
from lightning_saliency.data import FixedSamples, SampleBatch
from lightning_saliency.evidence import (
    GradientEnd,
    Layers,
    ParsedTarget,
    Target,
    TargetLayer,
    call_note,
    find_gradient_end,
    find_layers,
    name_layer,
)


@dataclass
class LookPass:
    """Explains samples with a trainer's module, and remembers what it has found out about it.

    These are the layers, the chunk size that fits, and of the default methods those that suit the model and work:
    before the first success each is tried alone on one sample, if all together fail. Methods that the user names must
    all work.

    Attributes:
        methods: The options of each method's function, by the method's key in `METHODS`.
        target: Which class is explained.
        part: Which part of the module is explained.
        layer: Dotted names of the target layers, or the layers, which `name_layers` replaces by their names; none to
            choose it automatically.
        execution: How the pass runs.
        unset: The options that the user has left at their defaults.
        left_out: Why methods are left out, by their keys.
        shown: The methods of the last look.
    """

    methods: Mapping[str, Mapping[str, Any]]
    target: Target
    part: ModelPart
    layer: tuple[str | nn.Module, ...]
    execution: Execution
    unset: frozenset[str] = frozenset()
    left_out: Mapping[str, str] = field(default_factory=dict, init=False)
    shown: tuple[str, ...] = field(default=(), init=False)
    _has_succeeded: bool = field(default=False, init=False)
    _layers: tuple[TargetLayer, ...] = field(default=(), init=False)
    _found: Layers | None = field(default=None, init=False)
    _fitting_chunk: int | None = field(default=None, init=False)
    _has_searched_end: bool = field(default=False, init=False)

    def forget(self) -> None:
        """Drop what is known of the module's layers, which are chosen again in the next look."""
        self._layers, self._found = (), None

    def choices(self) -> dict[str, Any]:
        """Return which methods are shown, and which are left out, with the reasons, for a resumed run."""
        return {"left_out": dict(self.left_out), "shown": list(self.shown)}

    def load_choices(self, choices: Mapping[str, Any]) -> None:
        """Load what `choices` has returned; empty for a model that has not been explained yet."""
        choices = choices if "methods" in self.unset else {}
        self.left_out = {key: reason for key, reason in choices.get("left_out", {}).items() if key in self.methods}
        self.shown = tuple(key for key in choices.get("shown", ()) if key in self.methods)
        self._has_succeeded = self._has_searched_end = False

    def name_layers(self, pl_module: LightningModule) -> tuple[str, ...]:
        """Replace layers that are modules by their names, since copies of the module are explained; return all names.

        Raises:
            ValueError: The module does not hold one.
        """
        names = tuple(layer if isinstance(layer, str) else name_layer(pl_module, layer).name for layer in self.layer)
        self.layer = names
        return names

    def check(self, pl_module: LightningModule) -> None:
        """Raise an error for names that the module does not have.

        Raises:
            ValueError: There is no such layer or submodule.
        """
        self.part.check(pl_module)
        model = self.part.find(pl_module)
        if model is not None:
            for name in self.name_layers(pl_module):
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

        Raises:
            OptionError: A named method does not work on this model.
        """
        self.part.learn(trainer, pl_module, samples.first(1).batches()[0])
        settings = self._settings(trainer, pl_module, at_once)
        try:
            settings = self._suited(settings, samples)
            explained = self._explain_batches(settings, samples)
        except Exception as fault:
            if self._has_succeeded or _is_out_of_memory(fault) or self._is_impossible(fault):
                raise
            if call_note(fault) is not None:
                _run_plainly(settings, samples)  # without any method: its error is the model's own
            if "methods" not in self.unset:
                raise OptionError(
                    f"Expected `methods` to be such as work on this model, got {', '.join(self.methods)}. "
                    f"{describe_error(fault)}",
                    "methods",
                ) from fault
            reasons = self._reasons(settings, _first_with_score(settings, samples) or samples.first(1))
            if len(reasons) in (0, len(settings.methods)):
                raise
        else:
            if not all(map(_is_absent, explained)):
                self._has_succeeded, self.shown = True, tuple(settings.methods)
            return explained
        # outside the handler: the error holds the frames, and these hold the tensors
        methods = {key: options for key, options in settings.methods.items() if key not in reasons}
        explained = self._explain_batches(replace(settings, methods=methods), samples)
        self._has_succeeded, self.left_out, self.shown = True, {**self.left_out, **reasons}, tuple(methods)
        return explained

    def gradient_end(
        self, trainer: Trainer, pl_module: LightningModule, explained: tuple[ExplainedSamples, ...]
    ) -> tuple[int, GradientEnd | None]:
        """Return how many samples have no map by any method, and where the gradient of the first one's score ends.

        It ends nowhere where there is a gradient, of which the methods show nothing, and is searched until one is found
        that is no weight's that is still zero.
        """
        blank = [(group, row) for group in explained for row in range(len(group)) if _is_blank(group, row)]
        if not blank or self._has_searched_end:
            return 0, None
        self._has_searched_end = True
        group, row = blank[0]
        forward, sample = self.part.forward(trainer, pl_module), group.samples
        target = self.target.resolve(len(sample), labels=sample.known_labels, positions=sample.positions)
        classes = target[row : row + 1] if isinstance(target, Tensor) else target
        with forward.undisturbed() as isolated:
            end = find_gradient_end(isolated, forward.on_device(sample.call[row : row + 1]), classes)
        self._has_searched_end = end is None or end.zero_weight is None  # else there may be another once it has learned
        return len(blank), end

    def disagreement(self, samples: FixedSamples, explained: tuple[ExplainedSamples, ...]) -> int:
        """Return the number of samples whose logits are not those of the validation pass they were collected in."""
        recorded = dict(zip(samples.positions, (sample.logits for sample in samples.samples), strict=True))
        count = 0
        for group in explained:
            for position, logits in zip(group.samples.positions, group.explanation.logits, strict=True):
                expected = recorded[position]
                # a model that ends in a softmax or sigmoid, or its logarithm, is explained by what goes into it
                answers = (logits, logits.softmax(0), logits.log_softmax(0), logits.sigmoid(), F.logsigmoid(logits))
                count += expected is not None and not any(same_logits(answer, expected) for answer in answers)
        return count

    def _suited(self, settings: Settings, samples: FixedSamples) -> Settings:
        """Return the settings with those of the default methods that suit the model, or with the named ones."""
        if "methods" not in self.unset:
            return settings
        suited = self.shown
        if not suited:
            sample = _first_with_score(settings, samples)
            if sample is None:  # nothing is detected, so that no run shows the layers
                return replace(settings, methods={"saliency": settings.methods["saliency"]})
            found = settings.found or find_layers(settings.forward, sample.batches()[0].call)
            self._found, settings = found, replace(settings, found=found)
            suited = default_methods(replace(found, target=found.target or next(iter(settings.layers), None)))
            if suited == ("saliency",):
                self.left_out = {"grad_cam": found.problem}
        return replace(settings, methods={key: settings.methods[key] for key in suited if key in settings.methods})

    def _explain_batches(self, settings: Settings, samples: FixedSamples) -> tuple[ExplainedSamples, ...]:
        explained = []
        for batch in samples.batches():
            target = self.target.resolve(len(batch), labels=batch.true_classes, positions=batch.positions)
            explained.append(self._explain(settings, batch, target))
            settings = replace(settings, layers=self._layers, found=self._found)
        # those of which nothing could be explained know no layers
        return tuple(sorted(explained, key=_is_absent))

    def _reasons(self, settings: Settings, sample: FixedSamples) -> dict[str, str]:
        """Return why each of the methods that do not work fails, by its key: each is run alone, on one sample."""
        reasons = {}
        for key, options in settings.methods.items():
            try:
                self._explain_batches(replace(settings, methods={key: options}), sample)
            except Exception as fault:
                if _is_out_of_memory(fault) or self._is_impossible(fault):
                    raise
                reasons[key] = describe_error(fault)
        return reasons

    def _is_impossible(self, fault: Exception) -> bool:
        """Whether an error is of an option that the user has set, so that no other method helps."""
        return isinstance(fault, OptionError) and fault.option not in self.unset

    def _explain(self, settings: Settings, batch: SampleBatch, target: ParsedTarget) -> ExplainedSamples:
        while True:
            settings = replace(settings, chunk_size=self._fitting_chunk or settings.chunk_size)
            try:
                explanation = explain_call(settings, batch.call, target)
                self._layers, self._found = explanation.settings.layers, explanation.settings.found
                return ExplainedSamples(batch, explanation, HeatmapStage(explanation))
            except Exception as fault:
                failed_chunk = min(settings.chunk_size or len(batch), len(batch))
                if failed_chunk == 1 or not _is_out_of_memory(fault):
                    raise
            # outside the handler: the error holds the frames, and these hold the tensors
            self._fitting_chunk = failed_chunk // 2
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()

    def _settings(self, trainer: Trainer, pl_module: LightningModule, at_once: int | None) -> Settings:
        forward = self.part.forward(trainer, pl_module)
        return Settings(
            forward=forward,
            methods={key: options for key, options in self.methods.items() if key not in self.left_out},
            target=self.target,
            layers=self._layers or tuple(self.part.layer(forward.model, name) for name in self.name_layers(pl_module)),
            found=self._found,
            fuse=self.execution.fuse,
            flip=self.execution.flip,
            chunk_size=self._fitting_chunk or self.execution.chunk_size or at_once,
            compares=self.target.choice == "label",
        )


def _is_blank(group: ExplainedSamples, row: int) -> bool:
    """Whether a sample has no map by any method, since there is no gradient or none that is finite."""
    return all(heatmaps.reasons[row] in ("constant 0", "not finite") for heatmaps in group.heatmaps("max").values())


def _first_with_score(settings: Settings, samples: FixedSamples) -> FixedSamples | None:
    """Return the first sample that has a score, alone: of a detector's one in which it detects something, or None."""
    for sample, position in zip(samples.samples, samples.positions, strict=True):
        detected = find_detected(settings.forward, settings.forward.on_device(sample.call))
        if detected is None or detected.rows:
            return FixedSamples((sample,), (position,))
    return None


def _is_absent(group: ExplainedSamples) -> bool:
    """Whether there was nothing to explain in any of these samples."""
    return None not in group.explanation.absences


def _run_plainly(settings: Settings, samples: FixedSamples) -> None:
    """Run the model on the first sample as it is."""
    with settings.forward.undisturbed() as isolated:
        isolated.output(isolated.on_device(samples.first(1).batches()[0].call))


def _is_out_of_memory(fault: BaseException) -> bool:
    """Whether an error, or what has caused it in a function of the user's, is of the memory."""
    return any(
        isinstance(cause, MemoryError)
        or (isinstance(cause, RuntimeError) and is_oom_error(RuntimeError(error_message(cause))))
        for cause in (fault, fault.__cause__)
    )
