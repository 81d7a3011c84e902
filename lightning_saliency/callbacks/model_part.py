"""`ModelPart`: finds the part of a LightningModule that is explained, and records its calls in validation steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency._checks import OptionError, check_text, error_message, optional
from lightning_saliency._lightning import PACKAGES, LightningModule, Trainer, overrides
from lightning_saliency.callbacks.batch_rows import of_the_batch
from lightning_saliency.callbacks.meaning import Meaning, choose_meaning, confirmed, embedding_beside
from lightning_saliency.callbacks.own_forward import call_of_batch, with_forward
from lightning_saliency.callbacks.part_choice import (
    SAME_RUN,
    CallReader,
    Step,
    StepReading,
    choose_part,
    describe_calls,
)
from lightning_saliency.callbacks.surroundings import quiet_surroundings
from lightning_saliency.callbacks.windowed_steps import find_step_windows, goes_by_windows, in_whole
from lightning_saliency.data import Call, SampleBatch
from lightning_saliency.evidence import (
    CallRecorder,
    Forward,
    LossTerm,
    OutputChoice,
    RecordedCall,
    Stages,
    TargetLayer,
    Task,
    name_layer,
    output_terms,
    read_loss,
    read_output,
    trained_parameters,
)

_MOST_NAMED = 8
"""The most submodules that a message names."""


_LIGHTNING_MODULES = tuple(package.LightningModule for package in PACKAGES)


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
        state: The module's buffers, and perhaps its parameters, with which its shadows are run in place of the present
            ones; None for these.
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
        self.state: Mapping[str, Tensor] | None = None
        self._chosen = None if name is None else Stages(name)
        self._trained: frozenset[str] | None = None
        self._recorder: CallRecorder | None = None
        self._subclasses: tuple[str, ...] = ()

    def forget(self) -> None:
        """Drop the module, and the choice of its part."""
        self.stop()
        self._chosen, self.meaning = None if self.name is None else Stages(self.name), None

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
        chosen = {"name": None} if self._chosen is None else self._chosen.state_dict()
        return {**chosen, "meaning": meaning, "loss": terms}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` has returned; the choice, unless the user names a part."""
        chosen = None if state.get("name") is None else Stages.from_state(state)
        self._chosen = chosen if self.name is None else Stages(self.name)
        self.meaning = Meaning.from_state(state["meaning"], self.output_fn) if state.get("meaning") else None
        terms = state.get("loss")
        self.loss_terms = None if terms is None else tuple(LossTerm.from_plain(*term) for term in terms)

    @staticmethod
    def is_of(pl_module: LightningModule, state: Mapping[str, Any]) -> bool:
        """Whether what `state_dict` has returned is of such a module, and says which part was chosen."""
        names = {state.get("name"), *(link[0] for link in state.get("links", ()))}
        return names <= {name for name, _ in pl_module.named_modules()}

    def find(self, pl_module: LightningModule) -> nn.Module | None:
        """Return the part that is explained, or None as long as only a validation step can show which it is."""
        if self._chosen is not None:
            return self._chosen.module(pl_module)
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
        model = self.model(pl_module) if model is None else model
        return Forward(
            model,
            self.output_fn if self.meaning is None else self.meaning.output,
            self.task if self.meaning is None else self.meaning.task,
            trainer.precision_plugin.forward_context,
            surroundings=quiet_surroundings(trainer, pl_module, self.state, model),
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
        try:
            meaning = choose_meaning(
                output, batch, call.first_repeated, terms=self.loss_terms, choice=self.output_fn, task=self.task
            )
            self.meaning = self._confirmed(trainer, pl_module, meaning, output, call)
        except OptionError as error:
            if not self._is_embedding(output, len(call), error):
                raise

    def advice(self, pl_module: LightningModule) -> str:
        """Return what to set where the part that was chosen fails on a call that was recorded."""
        chosen = () if self._chosen is None else self._chosen.names
        others = [name for name in self._trainable_children(pl_module) if name not in chosen]
        choice = f", one of {', '.join(others[:_MOST_NAMED])}" if others else ""
        image = "" if self.image is not None else ", or the argument that holds the images: `Samples(image=...)`"
        plain = ""
        if self._subclasses:
            kinds = ", ".join(self._subclasses)
            plain = (
                f"In the step it was called with {kinds}: it is called again with plain tensors of the same values. "
            )
        return f"{plain}Name what can be called by itself, and turns images into logits: `model=...`{choice}{image}."

    def layer(self, model: nn.Module, name: str) -> TargetLayer:
        """Return a layer of the part, by its name in the part or in the whole module.

        Raises:
            ValueError: There is no such layer.
        """
        is_single = self._chosen is not None and self._chosen.first and not self._chosen.links
        return name_layer(model, name.removeprefix(f"{self._chosen}.") if is_single else name)

    def read_loss(self, loss: Tensor, pl_module: LightningModule) -> None:
        """Read what a training's loss does with the outputs, and which parameters it trains."""
        self.loss_terms = read_loss(loss)
        parameters = trained_parameters(loss)
        if parameters is not None:
            ids = set(map(id, parameters))
            self._trained = frozenset(name for name, value in pl_module.named_parameters() if id(value) in ids)

    @property
    def key(self) -> str:
        """The key of the explained tensor in the part's output, as far as it has one; behind the name of a head."""
        own = "" if self.meaning is None else self.meaning.key
        head = self._chosen.names[-1] if self._chosen is not None and self._chosen.links else ""
        return ".".join(filter(None, (head, own)))

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
    ) -> StepReading:
        """Return what the explained part was called with in a step, and what it said.

        Args:
            trainer: The trainer, in whose precision the model is run.
            pl_module: Its module.
            batch: The batch of the step.
            recorded: The calls in the step.

        Raises:
            ValueError: The part was not called, or no part of the module says of images what can be explained.
        """
        try:
            return self._read_step(trainer, pl_module, batch, recorded)
        except OptionError as error:
            if not self._find_embedding(recorded, error):
                raise
        return self._read_step(trainer, pl_module, batch, recorded)

    def _find_embedding(self, recorded: Mapping[str, RecordedCall], error: OptionError) -> bool:
        """Whether the step's only call returns an embedding that the loss goes on with, which then is explained."""
        if len(recorded) != 1 or self.meaning is not None:
            return False
        ((name, call),) = recorded.items()
        if call.call is None or self.name not in (None, name):
            return False
        is_embedding = self._is_embedding(call.output, len(call.call), error)
        self._chosen = Stages(name) if is_embedding else self._chosen
        return is_embedding

    def _is_embedding(self, output: Any, count: int, error: OptionError) -> bool:
        """Whether an output that means nothing else, for this reason, is an embedding, which then is explained."""
        if self.task is None and self.output_fn is None:
            self.meaning = embedding_beside(output, count, self.loss_terms, error_message(error))
        return self.meaning is not None

    def _read_step(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, recorded: Mapping[str, RecordedCall]
    ) -> StepReading:
        step, is_known = Step(batch, recorded), self.meaning is not None
        windows = find_step_windows(step)
        step = step if windows is None else Step(windows.cut(batch), recorded)
        call = self._explained_call(trainer, pl_module, step)
        if call is None:  # no submodule is called, so there is no output to compare with
            return StepReading(step.batch, call_of_batch(step.batch), None)
        call = of_the_batch(call, step.batch)
        meaning = self._reader.meaning(call, step.batch) if self.meaning is None else self.meaning
        if not is_known:
            meaning = self._confirmed(trainer, pl_module, meaning, call.output, self._reader.call(call))
        self.meaning, self._subclasses = meaning, call.subclasses
        note = None
        if windows is not None and goes_by_windows(call, windows):
            whole, note = in_whole(call, windows, self.forward(trainer, pl_module))
            step, call = (step, call) if whole is None else (Step(batch, recorded), whole)
        return StepReading(step.batch, self._reader.call(call), self._reader.read(call, meaning), note)

    def _explained_call(self, trainer: Trainer, pl_module: LightningModule, step: Step) -> RecordedCall | None:
        """Return the call of the explained part in a step; choose the part, if none is chosen yet."""
        recorded = step.recorded
        if self._chosen is not None and all(name in recorded for name in self._chosen.names):
            return self._chosen.call(recorded)
        if self.name is not None:
            raise OptionError(
                f"Expected `model`, {self.name!r}, to be called in the validation step, where it is not. "
                f"{describe_calls(recorded)}",
                "model",
            )
        if overrides(pl_module, "forward") and "" not in recorded:
            step = with_forward(step, self.forward(trainer, pl_module, pl_module))
        if not recorded and step.within:
            self._chosen = Stages("")
            return None
        choice = choose_part(step, self._reader, partial(self._is_trained, pl_module), type(pl_module).__name__)
        self._chosen, self.meaning = choice.stages, choice.meaning
        return choice.stages.call(step.recorded)

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
            is_container = type(module).forward is nn.Module.forward
            # the step may call the steps of a LightningModule in it, and these its parts
            is_stepped = isinstance(module, _LIGHTNING_MODULES) and module._compiled_call_impl is None
            if is_container or is_stepped:
                waiting += [(f"{name}.{key}", child) for key, child in module.named_children()]
            if not is_container and any(True for _ in module.parameters()):
                candidates[name] = module
        return candidates

    @property
    def _reader(self) -> CallReader:
        return CallReader(self.image, self.output_fn, self.task, self.loss_terms)

    def _is_trained(self, pl_module: LightningModule, stages: Stages) -> bool:
        """Whether the training changes any of these modules, as far as that is known."""
        parameters = [
            parameter for name in stages.names for parameter in pl_module.get_submodule(name).named_parameters(name)
        ]
        return any(
            parameter.requires_grad and (self._trained is None or name in self._trained)
            for name, parameter in parameters
        )

    def _confirmed(
        self, trainer: Trainer, pl_module: LightningModule, meaning: Meaning, output: Any, call: Call
    ) -> Meaning:
        """Return the meaning of what a call has returned, of one score by a run that shows how it is made."""
        reading = read_output(output, len(call), meaning.output, meaning.task, call.first_repeated)
        if self.task is not None or reading.logits.shape[1] > 1:
            return meaning
        forward = replace(self.forward(trainer, pl_module), output_fn=meaning.output)
        return confirmed(meaning, self.loss_terms or (), partial(output_terms, forward, call[:1]))


def same_logits(logits: Tensor, others: Tensor) -> bool:
    """Whether two runs of the same samples gave the same logits, up to rounding."""
    if logits.shape != others.shape:
        return False
    actual, expected = logits.detach().float().cpu(), others.detach().float().cpu()
    scale = expected.abs().nan_to_num(0.0, 0.0, 0.0).max()
    return bool(torch.allclose(actual, expected, rtol=0.0, atol=float(SAME_RUN * (1 + scale)), equal_nan=True))
