"""What a look is used for: pictures, metrics, the run's history, or something of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_saliency._lightning import LightningModule, Trainer
from lightning_saliency.attribution import ExplainedSamples
from lightning_saliency.data import FixedSamples, SampleCollector


@dataclass(frozen=True, kw_only=True)
class Look:
    """One time that a callback explains its samples. It says when that was also after the trainer has gone on.

    Attributes:
        stage: `validate` or `test`.
        in_fit: Whether it is in a training, or before it.
        is_untrained: Whether the network has made no step yet.
        is_rehearsal: Whether it only brings out errors before the first step of a resumed run.
        epoch: The epoch from 0; None for the untrained network.
        step: The step, as on the axis of Lightning's scalars.
        trainer: The trainer.
        pl_module: Its module.
        model: The part of the module that is explained.
        samples: What is looked at.
        explained: Their explanations, one for each size of images.
        target: In words, which class is explained.
        dataset: Where to look for the normalization and the classes' names.
        fraction: How much of all samples these are: less than 1 where the time budget has thinned them.
        is_logged: Whether pictures go to the loggers.
        is_fresh: Whether the training began, or begins, with this run.
        index: Which of the trainer's callbacks of the same name this is, from 0.
        scalars: What the outputs before this one have logged.
    """

    stage: str
    in_fit: bool
    is_untrained: bool
    is_rehearsal: bool
    epoch: int | None
    step: int
    trainer: Trainer
    pl_module: LightningModule
    model: nn.Module
    samples: FixedSamples
    explained: tuple[ExplainedSamples, ...]
    target: str
    dataset: Any
    fraction: float
    is_logged: bool
    is_fresh: bool
    index: int = 0
    scalars: Mapping[str, float] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What stands on top of a picture: when it was."""
        if self.is_untrained or self.is_rehearsal:
            return "before training"
        return f"epoch {self.epoch} · step {self.step}" if self.in_fit else self.stage


@dataclass(frozen=True)
class Logged:
    """What an output logs.

    Attributes:
        pictures: By the last part of its tag a picture, uint8 `(3, H, W)`, or an animation's file.
        scalars: By the last part of its name.
    """

    pictures: Mapping[str, Tensor | Path] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)


class Output:
    """What a look is used for; a subclass says what it makes of one.

    The callback runs its outputs one after another, each guarded by itself, and logs what they return: pictures to
    every logger, scalars on all ranks. Nothing that an output does may write on the look.

    Attributes:
        key: Under which its state stands in a checkpoint.
    """

    key: str = "output"

    @property
    def samples(self) -> SampleCollector | None:
        """Samples of its own, which are collected from the validation stream; None for those that are shown."""
        return None

    def tags(self) -> set[str]:
        """The last parts of the pictures' tags, as far as they are known before the first look."""
        return set()

    def wants(self, look: Look) -> bool:
        """Whether a look is of use; else it is not called with it."""
        return True

    def __call__(self, look: Look) -> Logged:
        """Use a look."""
        raise NotImplementedError(f"Expected {type(self).__name__} to define `__call__(self, look)`.")

    def end(self, loggers: Sequence[Any]) -> Logged:
        """Do what is left to do at the end of a training."""
        return Logged()

    def reset(self) -> None:
        """Forget what belongs to one run."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it."""
