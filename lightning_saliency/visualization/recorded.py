"""What the pictures of a run read of its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_saliency.data import Answer


class RecordedSamples(Protocol):
    """What a film reads of a record's samples."""

    @property
    def positions(self) -> tuple[int, ...]:
        """The samples' places among all that the run looks at."""

    @property
    def images(self) -> tuple[NDArray[np.uint8], ...]:
        """Each sample's image, `(3, H, W)`, volume, `(1, D, H, W)` or `(3, D, H, W)`, or signal, `(C, T)`."""

    @property
    def labels(self) -> tuple[Answer | None, ...]:
        """What is true of each sample, or None."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, or None."""

    @property
    def boxes(self) -> tuple[NDArray[np.float32], ...]:
        """The boxes of each sample's objects, `(k, 4)` in pixels; empty for a task without boxes."""

    @property
    def box_classes(self) -> tuple[tuple[int, ...], ...]:
        """Their classes."""


class RecordedLook(Protocol):
    """What a film reads of one look."""

    @property
    def epoch(self) -> int | None:
        """None before the training."""

    @property
    def step(self) -> int:
        """The step of the training."""

    @property
    def positions(self) -> tuple[int, ...]:
        """The positions of the samples that were explained."""

    @property
    def attributions(self) -> Mapping[str, tuple[NDArray[np.float32], ...]]:
        """By method each sample's raw map, `(h, w)`, of a volume `(d, h, w)`, of a signal `(t,)`."""

    @property
    def fine(self) -> frozenset[str]:
        """The methods whose maps have a value of their own for each pixel."""

    @property
    def reasons(self) -> Mapping[str, tuple[str | None, ...]]:
        """By method why each sample's map is blank, or None."""

    @property
    def predictions(self) -> tuple[Answer | None, ...]:
        """What is predicted for each sample."""

    @property
    def classes(self) -> tuple[int | None, ...]:
        """The explained class of each sample."""

    @property
    def boxes(self) -> tuple[NDArray[np.float32], ...]:
        """What is detected in each sample, `(k, 4)` in pixels; empty for a task without boxes."""

    @property
    def box_classes(self) -> tuple[tuple[int, ...], ...]:
        """The classes of that."""

    @property
    def task(self) -> str:
        """What the logits mean."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The target layers' names."""

    @property
    def explained(self) -> str:
        """In words, which class was explained."""


class RecordedRun(Protocol):
    """What a film reads of a record."""

    @property
    def samples(self) -> RecordedSamples | None:
        """The samples of all looks; None before the first."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> RecordedLook: ...
