"""`Look` and `Output`: the explanations of one time that a callback looks, and what they are used for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_saliency._lightning import LightningModule, Trainer
from lightning_saliency.attribution import ExplainedSamples
from lightning_saliency.data import FixedSamples, SampleCollector
from lightning_saliency.evidence import Forward


@dataclass(frozen=True, kw_only=True)
class Look:
    """One time that a callback explains its samples: when it was, the samples and their explanations.

    It stays true after the trainer has gone on.

    Attributes:
        stage: `validate` or `test`.
        in_fit: Whether it is in `trainer.fit`, sanity checking included.
        is_initial: Whether the network has not been trained for a single step.
        is_rehearsal: Whether it is before a resumed run trains on, and serves only to bring out errors early.
        epoch: The epoch from 0; None for the initial network.
        step: The step, as on the axis of Lightning's scalars.
        trainer: The trainer.
        pl_module: Its module.
        forward: How the part of the module that is explained is run: `with look.forward.undisturbed() as isolated`.
        samples: The samples that are explained.
        explained: Their explanations, one for each size of images.
        target: Which class is explained, in words.
        dataset: The data set, in which the normalization and the class names are searched first.
        fraction: The fraction of all samples that are explained: below 1 where the time budget leaves some out.
        is_logged: Whether it belongs to what the run shows: neither a rehearsal, nor an initial network that is not
            to be shown.
        index: Which of the trainer's callbacks of the same name this is, from 0.
        scalars: The scalars that earlier outputs of this look have logged.
        monitored: The scalars that callbacks or schedulers of the trainer monitor, by the last part of their names.
    """

    stage: str
    in_fit: bool
    is_initial: bool
    is_rehearsal: bool
    epoch: int | None
    step: int
    trainer: Trainer
    pl_module: LightningModule
    forward: Forward
    samples: FixedSamples
    explained: tuple[ExplainedSamples, ...]
    target: str
    dataset: Any
    fraction: float
    is_logged: bool
    index: int = 0
    scalars: Mapping[str, float] = field(default_factory=dict)
    monitored: frozenset[str] = frozenset()

    @property
    def modules(self) -> tuple[Any, ...]:
        """The data module, if there is one, and the module: what the data set does not say may be in them."""
        return getattr(self.trainer, "datamodule", None), self.pl_module

    @property
    def title(self) -> str:
        """The time of the look in words, as the title of a picture."""
        if self.is_initial or self.is_rehearsal:
            return "before training"
        return f"epoch {self.epoch} · step {self.step}" if self.in_fit else self.stage


@dataclass(frozen=True)
class Logged:
    """The pictures and scalars that an output logs.

    Attributes:
        pictures: Pictures, uint8 `(3, H, W)`, or the files of animations, by the last part of their tags.
        scalars: Scalars by the last part of their names.
    """

    pictures: Mapping[str, Tensor | Path] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)


class Output(ABC):
    """Base class of outputs: an output turns a look into pictures, scalars or files.

    The callback runs its outputs one after another, each guarded by itself, and logs what they return: pictures to
    every logger, scalars on all ranks. An output must not modify the look.

    Attributes:
        key: The key of its state in a checkpoint.
    """

    key: str = "output"

    @property
    def samples(self) -> SampleCollector | None:
        """The output's own samples, which are collected from the validation stream; None for the shown ones."""
        return None

    def tags(self) -> set[str]:
        """Return the last parts of the pictures' tags, as far as they are known before the first look."""
        return set()

    def wants(self, look: Look) -> bool:
        """Whether the output is to be called with a look."""
        return True

    @abstractmethod
    def __call__(self, look: Look) -> Logged:
        """Return the pictures and scalars to log for a look."""

    def worst(self) -> Mapping[str, float]:
        """Return the worst value of each scalar that the output may return, by the last part of its name.

        What monitors a scalar, such as `EarlyStopping`, finds this value until the first is logged. It is finite.
        """
        return {}

    def end(self, loggers: Sequence[Any]) -> Logged:
        """Return the pictures and scalars to log at the end of a training."""
        return Logged()

    def reset(self) -> None:
        """Drop the state of a run, before the next one."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of a checkpoint."""
