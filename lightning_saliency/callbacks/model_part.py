"""`ModelPart`: finds the part of a LightningModule that is explained, and records its calls in validation steps."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency._checks import OptionError, check_text, optional
from lightning_saliency._lightning import LightningModule, Trainer, overrides
from lightning_saliency.callbacks.meaning import Meaning, choose_meaning, confirmed
from lightning_saliency.callbacks.surroundings import quiet_surroundings
from lightning_saliency.data import Call, SampleBatch, find_images, make_call, plain_call
from lightning_saliency.evidence import (
    CallRecorder,
    Forward,
    LossTerm,
    OutputChoice,
    Reading,
    RecordedCall,
    TargetLayer,
    Task,
    name_layer,
    output_terms,
    read_loss,
    read_output,
)

_MOST_NAMED = 8
"""The most submodules that a message names."""

_SAME_LOGITS = 1e-2
"""The tolerance for logits of the same images, relative to the largest: rounding in low precision."""


class ModelPart:
    """Finds the part of a LightningModule that turns images into logits, and records its calls.

    It is the submodule of the given name; else the module itself, where its step calls it, or where its `forward`
    returns the logits of the step without being called as a module; else the one submodule that the step calls with
    images and that returns logits.

    Args:
        name: Dotted name of the submodule, or None to find it.
        image: The name of the argument that holds the images; see `lightning_saliency.data.make_call`.
        output_fn: Which part of the output is explained, where the user says so.
        task: What it means, where the user says so.

    Attributes:
        loss_terms: What the training's loss does with the outputs of the last layers; None as long as it is not known.
        buffers: The module's buffers, with which its shadows are run in place of the present ones; None for these.
    """

    def __init__(
        self,
        name: str | None = None,
        image: str | None = None,
        output_fn: OutputChoice = None,
        task: Task | None = None,
    ) -> None:
        self.name = optional(check_text)("model", name)
        self.image = image
        self.output_fn = output_fn
        self.task = task
        self.loss_terms: tuple[LossTerm, ...] | None = None
        self.meaning: Meaning | None = None
        self.buffers: Mapping[str, Tensor] | None = None
        self._chosen: str | None = name
        self._recorder: CallRecorder | None = None

    def forget(self) -> None:
        """Drop the module, and the choice of its part."""
        self.stop()
        self._chosen, self.meaning = self.name, None

    def check(self, pl_module: LightningModule) -> None:
        """Raise an error for a name that the module does not have.

        Raises:
            ValueError: There is no such submodule.
        """
        if self.name is not None:
            name_layer(pl_module, self.name, argument="model")

    def state_dict(self) -> dict[str, Any]:
        """Return which part was chosen, what its output means, and what the loss does."""
        terms = None if self.loss_terms is None else [term.to_plain() for term in self.loss_terms]
        meaning = None if self.meaning is None else self.meaning.state_dict()
        return {"name": self._chosen, "meaning": meaning, "loss": terms}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` has returned; the choice, unless the user names a part."""
        self._chosen = self.name or state.get("name")
        self.meaning = Meaning.from_state(state["meaning"], self.output_fn) if state.get("meaning") else None
        terms = state.get("loss")
        self.loss_terms = None if terms is None else tuple(LossTerm.from_plain(*term) for term in terms)

    def find(self, pl_module: LightningModule) -> nn.Module | None:
        """Return the part that is explained, or None as long as only a validation step can show which it is."""
        if self._chosen is not None:
            return pl_module.get_submodule(self._chosen)
        if overrides(pl_module, "forward"):
            return pl_module
        children = self._trainable_children(pl_module)
        return pl_module.get_submodule(children[0]) if len(children) == 1 else None

    def model(self, pl_module: LightningModule) -> nn.Module:
        """Return the part that is explained.

        Raises:
            ValueError: It is not clear which part that is.
        """
        model = self.find(pl_module)
        if model is None:
            raise OptionError(
                f"{type(pl_module).__name__} defines no `forward`, so it is not clear what turns images into logits. "
                "Define it, or name a submodule: `model=...`, one of "
                f"{', '.join(self._trainable_children(pl_module)) or 'none'}.",
                "samples.images",
            )
        return model

    def forward(self, trainer: Trainer, pl_module: LightningModule, model: nn.Module | None = None) -> Forward:
        """Return how the part is run: in the trainer's precision, and in a shadow of the whole module.

        Args:
            trainer: The trainer.
            pl_module: Its module.
            model: Another part of the module.

        Raises:
            ValueError: It is not clear which part is explained.
        """
        return Forward(
            self.model(pl_module) if model is None else model,
            self.output_fn if self.meaning is None else self.meaning.output,
            self.task if self.meaning is None else self.meaning.task,
            trainer.precision_plugin.forward_context,
            surroundings=quiet_surroundings(trainer, pl_module, self.buffers),
        )

    def learn(self, trainer: Trainer, pl_module: LightningModule, samples: SampleBatch) -> None:
        """Find what the part's output means by a run of its own, where no step has shown it: of given images, say.

        Raises:
            ValueError: Nothing of it can be explained.
        """
        if self.meaning is not None:
            return
        forward = self.forward(trainer, pl_module)
        call, labels = forward.on_device(samples.call), samples.known_labels
        with forward.undisturbed() as isolated:
            output = isolated.output(call)
        batch = (call.images,) if labels is None else (call.images, labels)
        meaning = choose_meaning(
            output, batch, call.first_repeated, terms=self.loss_terms, choice=self.output_fn, task=self.task
        )
        self.meaning = self._confirmed(trainer, pl_module, meaning, output, call)

    def advice(self, pl_module: LightningModule) -> str:
        """Return what to set where the part that was chosen fails on a call that was recorded."""
        others = [name for name in self._trainable_children(pl_module) if name != self._chosen]
        choice = f", one of {', '.join(others[:_MOST_NAMED])}" if others else ""
        image = "" if self.image is not None else ", or the argument that holds the images: `Samples(image=...)`"
        return f"Name what can be called by itself, and turns images into logits: `model=...`{choice}{image}."

    def layer(self, model: nn.Module, name: str) -> TargetLayer:
        """Return a layer of the part, by its name in the part or in the whole module.

        Raises:
            ValueError: There is no such layer.
        """
        return name_layer(model, name.removeprefix(f"{self._chosen}.") if self._chosen else name)

    def read_loss(self, loss: Tensor) -> None:
        """Read what a training's loss does with the outputs."""
        self.loss_terms = read_loss(loss)

    @property
    def key(self) -> str:
        """The key of the explained tensor in the part's output, as far as it has one."""
        return "" if self.meaning is None else self.meaning.key

    @property
    def is_recording(self) -> bool:
        """Whether hooks are registered on the module."""
        return self._recorder is not None

    def start(self, pl_module: LightningModule) -> None:
        """Register hooks on the modules that the step may call, to record their calls."""
        self.stop()
        self._recorder = CallRecorder(
            self._candidates(pl_module), image=self.image, output_fn=self.output_fn, task=self.task
        )
        self._recorder.start()

    def stop(self) -> None:
        """Remove the hooks."""
        if self._recorder is not None:
            self._recorder.stop()
            self._recorder = None

    def begin_step(self) -> None:
        """Begin to record the calls of a step."""
        if self._recorder is not None:
            self._recorder.begin_step()

    def discard_step(self) -> None:
        """Drop the recorded calls."""
        if self._recorder is not None:
            self._recorder.end_step()

    def end_step(self) -> Mapping[str, RecordedCall]:
        """Return the calls that were recorded since the step began, by the names of the modules."""
        return {} if self._recorder is None else self._recorder.end_step()

    def read_step(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, recorded: Mapping[str, RecordedCall]
    ) -> tuple[Call, Reading | None]:
        """Return what the explained part was called with in a step, and what it said.

        Args:
            trainer: The trainer, in whose precision the model is run.
            pl_module: Its module.
            batch: The batch of the step.
            recorded: The calls in the step.

        Raises:
            ValueError: The part was not called, or no part of the module says of images what can be explained.
        """
        if self._chosen is not None and self._chosen in recorded:
            return self._read(trainer, pl_module, recorded[self._chosen], batch)
        if self.name is not None:
            raise OptionError(
                f"Expected `model`, {self.name!r}, to be called in the validation step, where it is not. "
                f"{_describe_calls(recorded, {})}",
                "model",
            )
        if "" in recorded:
            self._chosen = ""
            return self._read(trainer, pl_module, recorded[""], batch)
        readings, problems = self._readings(recorded, batch)
        if overrides(pl_module, "forward"):
            call_and_reading = self._forward_call(trainer, pl_module, batch, list(recorded.values()))
            if call_and_reading is not None:
                self._chosen = ""
                return call_and_reading
        if len(readings) != 1:
            raise OptionError(
                f"Expected the validation step of {type(pl_module).__name__} to call what turns images into logits, "
                f"which it does not. {_describe_calls(recorded, problems)}",
                "output_fn" if self.output_fn is not None else "methods" if self.image is None else "samples.image",
            )
        (self._chosen,) = readings
        return self._read(trainer, pl_module, recorded[self._chosen], batch)

    @staticmethod
    def _trainable_children(pl_module: LightningModule) -> list[str]:
        return [name for name, child in pl_module.named_children() if any(True for _ in child.parameters())]

    def _candidates(self, pl_module: LightningModule) -> dict[str, nn.Module]:
        """Return the modules that the step may call: the named part, or the module and its submodules."""
        if self.name is not None:
            return {self.name: pl_module.get_submodule(self.name)}
        candidates: dict[str, nn.Module] = {"": pl_module} if overrides(pl_module, "forward") else {}
        waiting = list(pl_module.named_children())
        while waiting:
            name, module = waiting.pop(0)
            if isinstance(module, nn.ModuleList | nn.ModuleDict):  # which is not called itself
                waiting += [(f"{name}.{key}", child) for key, child in module.named_children()]
            elif any(True for _ in module.parameters()):
                candidates[name] = module
        return candidates

    def _readings(self, recorded: Mapping[str, RecordedCall], batch: Any) -> tuple[dict[str, Meaning], dict[str, str]]:
        """Return what the outputs of the submodules mean that turn images into something that can be explained.

        Of the others it is why they do not.
        """
        readings, problems = {}, {}
        for number, (name, call) in enumerate(recorded.items()):
            try:
                # behind another module's call, what looks like a signal is a sequence of features
                if number == 0 or self._call(call).images.dim() > 3:
                    readings[name] = self._meaning(call, batch)
            except OptionError as error:
                problems[name] = str(error)
        return readings, problems

    def _call(self, recorded: RecordedCall) -> Call:
        """Return a recorded call.

        Raises:
            OptionError: It holds no images, or its output nothing that can be explained.
        """
        if recorded.call is None:
            raise OptionError(
                f"{recorded.problem} Name the argument that holds the images: `Samples(image=...)`.",
                "methods" if self.image is None else "samples.image",
            )
        if recorded.problem is not None:
            raise OptionError(recorded.problem, "methods" if self.output_fn is None else "output_fn")
        return recorded.call

    def _meaning(self, recorded: RecordedCall, batch: Any) -> Meaning:
        """Return what the output of a call means.

        Raises:
            OptionError: The call holds no images, or nothing of its output can be explained.
        """
        images = self._call(recorded).first_repeated
        return choose_meaning(
            recorded.output, batch, images, terms=self.loss_terms, choice=self.output_fn, task=self.task
        )

    def _read(
        self, trainer: Trainer, pl_module: LightningModule, recorded: RecordedCall, batch: Any
    ) -> tuple[Call, Reading]:
        """Return a call, and what its output says, by the meaning that the first one had."""
        call = self._call(recorded)
        if self.meaning is None:
            meaning = self._meaning(recorded, batch)
            self.meaning = self._confirmed(trainer, pl_module, meaning, recorded.output, call)
        meaning = self.meaning
        return call, read_output(recorded.output, len(call), meaning.output, meaning.task, call.first_repeated)

    def _confirmed(
        self, trainer: Trainer, pl_module: LightningModule, meaning: Meaning, output: Any, call: Call
    ) -> Meaning:
        """Return the meaning of what a call has returned, of one score by a run that shows how it is made."""
        reading = read_output(output, len(call), meaning.output, meaning.task, call.first_repeated)
        if self.task is not None or reading.logits.shape[1] > 1:
            return meaning
        forward = replace(self.forward(trainer, pl_module), output_fn=meaning.output)
        return confirmed(meaning, self.loss_terms or (), partial(output_terms, forward, call[:1]))

    def _forward_call(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, recorded: list[RecordedCall]
    ) -> tuple[Call, Reading | None] | None:
        """Return the call `forward(images)` and what it says, if that is what the step computes; else None."""
        first_call = next((record.call for record in recorded if record.call is not None), None)
        call = (
            plain_call(find_images(batch, signals=True))
            if first_call is None
            else make_call((first_call.given,), {}, signals=True)
        )
        try:
            with self.forward(trainer, pl_module, pl_module).undisturbed() as isolated:
                logits = isolated(call)
        except Exception:  # `forward` is not what the step computes, and may not even take images
            return None
        if not recorded:
            return call, None  # no submodule is called, so there are no logits to compare with
        for last in reversed(recorded):
            with suppress(OptionError):
                meaning = self._meaning(last, batch)
                reading = read_output(last.output, len(call), meaning.output, meaning.task, call.first_repeated)
                return (call, reading) if same_logits(logits, reading.logits) else None
        return None


def same_logits(logits: Tensor, others: Tensor) -> bool:
    """Whether two runs of the same samples gave the same logits, up to rounding."""
    if logits.shape != others.shape:
        return False
    actual, expected = logits.detach().float().cpu(), others.detach().float().cpu()
    scale = expected.abs().nan_to_num(0.0, 0.0, 0.0).max()
    return bool(torch.allclose(actual, expected, rtol=0.0, atol=float(_SAME_LOGITS * (1 + scale)), equal_nan=True))


def _describe_calls(recorded: Mapping[str, RecordedCall], problems: Mapping[str, str]) -> str:
    """Return in words which submodules were called, and why each cannot be explained."""
    if not recorded:
        return "It calls none of its submodules. Call the one that does, as a module, or name it: `model=...`."
    listed = "; ".join(
        f"{name} ({call.problem or problems.get(name, 'images to logits')})" for name, call in recorded.items()
    )
    return f"It calls {listed}. Name the one that does: `model=...`."
