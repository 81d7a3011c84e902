"""`ModelPart`: finds the part of a LightningModule that is explained, and records its calls in validation steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency._checks import OptionError, check_text, optional
from lightning_saliency._lightning import LightningModule, Trainer, overrides
from lightning_saliency.callbacks.surroundings import quiet_surroundings
from lightning_saliency.data import Call, find_images, plain_call
from lightning_saliency.evidence import (
    CallRecorder,
    Forward,
    RecordedCall,
    TargetLayer,
    name_layer,
)

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
        output_fn: Returns the logits of the part's output.
    """

    def __init__(
        self, name: str | None = None, image: str | None = None, output_fn: Callable[[Any], Tensor] | None = None
    ) -> None:
        self.name = optional(check_text)("model", name)
        self.image = image
        self.output_fn = output_fn
        self._chosen: str | None = name
        self._recorder: CallRecorder | None = None

    def forget(self) -> None:
        """Drop the module, and the choice of its part."""
        self.stop()
        self._chosen = self.name

    def check(self, pl_module: LightningModule) -> None:
        """Raise an error for a name that the module does not have.

        Raises:
            ValueError: There is no such submodule.
        """
        if self.name is not None:
            name_layer(pl_module, self.name, argument="model")

    def state_dict(self) -> dict[str, Any]:
        """Return which part was chosen."""
        return {"name": self._chosen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the choice of a checkpoint, unless the user names a part."""
        self._chosen = self.name or state.get("name")

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
            self.output_fn,
            trainer.precision_plugin.forward_context,
            surroundings=quiet_surroundings(trainer, pl_module),
        )

    def layer(self, model: nn.Module, name: str) -> TargetLayer:
        """Return a layer of the part, by its name in the part or in the whole module.

        Raises:
            ValueError: There is no such layer.
        """
        return name_layer(model, name.removeprefix(f"{self._chosen}.") if self._chosen else name)

    @property
    def is_recording(self) -> bool:
        """Whether hooks are registered on the module."""
        return self._recorder is not None

    def start(self, pl_module: LightningModule) -> None:
        """Register hooks on the modules that the step may call, to record their calls."""
        self.stop()
        self._recorder = CallRecorder(self._candidates(pl_module), image=self.image, output_fn=self.output_fn)
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

    def end_step(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> tuple[Call, Tensor | None]:
        """Return what the explained part was called with, and the logits that it returned.

        Args:
            trainer: The trainer, in whose precision the model is run.
            pl_module: Its module.
            batch: The batch of the step.

        Raises:
            ValueError: The part was not called, or no part of the module turns images into logits.
        """
        recorded = {} if self._recorder is None else self._recorder.end_step()
        if self._chosen is not None and self._chosen in recorded:
            return self._call_and_logits(recorded[self._chosen])
        if self.name is not None:
            raise OptionError(
                f"Expected `model`, {self.name!r}, to be called in the validation step, where it is not. "
                f"{_describe_calls(recorded)}",
                "model",
            )
        if "" in recorded:
            self._chosen = ""
            return self._call_and_logits(recorded[""])
        if overrides(pl_module, "forward"):
            call_and_logits = self._forward_call(trainer, pl_module, batch, list(recorded.values()))
            if call_and_logits is not None:
                self._chosen = ""
                return call_and_logits
        # behind another module's call, what looks like a signal is a sequence of features
        fitting = [
            record
            for number, record in enumerate(recorded.values())
            if record.call is not None and record.logits is not None and (record.call.images.dim() > 3 or number == 0)
        ]
        if len(fitting) != 1:
            raise OptionError(
                f"Expected the validation step of {type(pl_module).__name__} to call what turns images into logits, "
                f"which it does not. {_describe_calls(recorded)}",
                "output_fn" if self.output_fn is not None else "methods" if self.image is None else "samples.image",
            )
        self._chosen = fitting[0].name
        return self._call_and_logits(fitting[0])

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

    def _call_and_logits(self, recorded: RecordedCall) -> tuple[Call, Tensor | None]:
        if recorded.call is None:
            raise OptionError(
                f"{recorded.problem} Name the argument that holds the images: `Samples(image=...)`.",
                "methods" if self.image is None else "samples.image",
            )
        if recorded.logits is None:
            raise OptionError(f"{recorded.problem}", "methods" if self.output_fn is None else "output_fn")
        return recorded.call, recorded.logits

    def _forward_call(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, recorded: list[RecordedCall]
    ) -> tuple[Call, Tensor | None] | None:
        """Return the call `forward(images)` and its logits, if they are those of the step; else None."""
        first_call = next((record.call for record in recorded if record.call is not None), None)
        last_logits = next((record.logits for record in reversed(recorded) if record.logits is not None), None)
        call = plain_call(find_images(batch, signals=True) if first_call is None else first_call.images)
        try:
            with self.forward(trainer, pl_module, pl_module).undisturbed() as isolated:
                logits = isolated(call)
        except Exception:  # `forward` is not what the step computes, and may not even take images
            return None
        if not recorded:
            return call, None  # no submodule is called, so there are no logits to compare with
        if last_logits is None:
            return None
        return (call, last_logits) if same_logits(logits, last_logits) else None


def same_logits(logits: Tensor, others: Tensor) -> bool:
    """Whether two runs of the same samples gave the same logits, up to rounding."""
    if logits.shape != others.shape:
        return False
    actual, expected = logits.detach().float().cpu(), others.detach().float().cpu()
    scale = expected.abs().nan_to_num(0.0, 0.0, 0.0).max()
    return bool(torch.allclose(actual, expected, rtol=0.0, atol=float(_SAME_LOGITS * (1 + scale)), equal_nan=True))


def _describe_calls(recorded: Mapping[str, RecordedCall]) -> str:
    """Return in words which submodules were called, and why each cannot be explained."""
    if not recorded:
        return "It calls none of its submodules. Call the one that does, as a module, or name it: `model=...`."
    listed = "; ".join(f"{name} ({call.problem or 'images to logits'})" for name, call in recorded.items())
    return f"It calls {listed}. Name the one that does: `model=...`."
