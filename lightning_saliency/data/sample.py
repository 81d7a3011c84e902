"""The fixed samples: calls of the model for one image each, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.data.calls import Call, join_calls
from lightning_saliency.data.normalization import Normalization
from lightning_saliency.data.object_boxes import ObjectBoxes
from lightning_saliency.data.truths import Answer


@dataclass(frozen=True)
class Sample:
    """A sample that is explained: a call of the model for one image.

    Attributes:
        call: The call, on the CPU.
        truth: What is true of it: a class, a set of classes, or values; None where that is not known.
        mask: The pixels of the objects, `(1, H, W)` bool, of a volume `(1, D, H, W)`; None where they are not known.
        logits: The logits of the validation pass in which the sample was collected, `(K,)`, or None.
        pixel_labels: The true class of each pixel, `(H, W)` int64, or None where it is not known.
        normalization: What the step has done to its pixels; None where that is nothing, or not known.
        objects: The boxes of its objects, for a detector; None where they are not known.
    """

    call: Call
    truth: Answer | None = None
    mask: Tensor | None = None
    logits: Tensor | None = None
    pixel_labels: Tensor | None = None
    normalization: Normalization | None = None
    objects: ObjectBoxes | None = None

    @property
    def label(self) -> int | None:
        """The true class, of several the first; None where none is known."""
        return next(iter(self.classes), None)

    @property
    def classes(self) -> tuple[int, ...]:
        """The true classes; none of values, and where none is known."""
        values = self.truth if isinstance(self.truth, tuple) else (self.truth,)
        return tuple(value for value in values if isinstance(value, int))


@dataclass(frozen=True)
class SampleBatch:
    """Samples that the model can be called with together.

    Attributes:
        call: The call for all of them, on the CPU.
        truths: What is true of each; see `Sample`.
        positions: Their indices among all samples that are explained.
        masks: The pixels of the objects, `(N, 1, H, W)` bool, or None where they are not known.
        pixel_labels: The true class of each pixel, of each sample `(H, W)` int64, or None where it is not known.
        normalizations: What the step has done to the pixels of each; see `Sample`.
        objects: The boxes of the objects of each, or None where they are not known.
    """

    call: Call
    truths: tuple[Answer | None, ...]
    positions: tuple[int, ...]
    masks: Tensor | None = None
    pixel_labels: tuple[Tensor | None, ...] = ()
    normalizations: tuple[Normalization | None, ...] = ()
    objects: tuple[ObjectBoxes | None, ...] = ()

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def labels(self) -> tuple[int | None, ...]:
        """The true class of each, of several the first; None where none is known."""
        return tuple(Sample(self.call, truth).label for truth in self.truths)

    @property
    def known_labels(self) -> Tensor | None:
        """The labels as `(N,)` int64, with −1 for an unknown one; None where all are unknown."""
        if all(label is None for label in self.labels):
            return None
        return torch.tensor([-1 if label is None else label for label in self.labels])

    @property
    def true_classes(self) -> Tensor | None:
        """The true classes of each, `(N, T)` int64 filled up with −1; None where all are unknown."""
        classes = [Sample(self.call, truth).classes for truth in self.truths]
        width = max(map(len, classes))
        return torch.tensor([[*row, *[-1] * (width - len(row))] for row in classes]) if width else None


@dataclass(frozen=True)
class FixedSamples:
    """The samples that are explained, in the order in which they are shown.

    Attributes:
        samples: The samples, whose images may be of different sizes.
        positions: Their indices in the whole selection, of which some samples may not have been collected yet.
    """

    samples: tuple[Sample, ...]
    positions: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def first(self, count: int) -> FixedSamples:
        """Return the first `count` samples."""
        return FixedSamples(self.samples[:count], self.positions[:count])

    def batches(self) -> list[SampleBatch]:
        """Return batches of samples that the model can be called with together, such as one for each size of images."""
        groups: dict[Any, list[int]] = {}
        for index, sample in enumerate(self.samples):
            groups.setdefault((sample.call.signature, sample.mask is None), []).append(index)
        return [self._batch(indices) for indices in groups.values()]

    def _batch(self, indices: Sequence[int]) -> SampleBatch:
        members = [self.samples[index] for index in indices]
        masks = [sample.mask for sample in members if sample.mask is not None]
        return SampleBatch(
            join_calls([sample.call for sample in members]),
            tuple(sample.truth for sample in members),
            tuple(self.positions[index] for index in indices),
            torch.stack(masks) if masks else None,
            tuple(sample.pixel_labels for sample in members),
            tuple(sample.normalization for sample in members),
            tuple(sample.objects for sample in members),
        )
