"""The fixed samples: calls of the model for one image each, taken as the validation stream passes, kept on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.data.batches import find_labels, fit_labels, is_images, is_labels
from lightning_saliency.data.calls import Call, join_calls, plain_call
from lightning_saliency.data.choosing import Candidate, Chooser
from lightning_saliency.data.objects import objects_to_masks
from lightning_saliency.data.trees import describe

Objects: TypeAlias = Callable[[Any], Any] | Tensor | Sequence[Tensor]
"""Takes out of a batch where the objects are, as `objects_to_masks` takes it; or that itself, for each sample."""

LabelFn: TypeAlias = Callable[[Any], Tensor | None]
"""Takes the labels `(N,)` out of a batch."""

_PLAIN = (Tensor, int, float, str, bool, bytes, type(None))
"""What a checkpoint can hold without any class of the user's."""


@dataclass(frozen=True)
class Sample:
    """What is looked at: a call of the model for one image.

    Attributes:
        call: On the CPU.
        label: The true class, or None where that is not known.
        mask: Where the objects are, `(1, H, W)` bool, or None where that is not known.
        logits: What the model said of it as the stream passed, `(K,)`, or None where that was not seen.
    """

    call: Call
    label: int | None = None
    mask: Tensor | None = None
    logits: Tensor | None = None


@dataclass(frozen=True)
class SampleBatch:
    """Samples that the model can be called with together.

    Attributes:
        call: On the CPU.
        labels: The true class of each, or None where that is not known.
        positions: Their places among all samples that are looked at.
        masks: Where the objects are, `(N, 1, H, W)` bool, or None where that is not known.
    """

    call: Call
    labels: tuple[int | None, ...]
    positions: tuple[int, ...]
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def known_labels(self) -> Tensor | None:
        """The labels as `(N,)` int64, −1 for an unknown one; None where all are."""
        if all(label is None for label in self.labels):
            return None
        return torch.tensor([-1 if label is None else label for label in self.labels])


@dataclass(frozen=True)
class FixedSamples:
    """The samples that are looked at, in the order in which they are shown.

    Attributes:
        samples: Each with its own arguments, images of different sizes among them.
        positions: Their places in the whole selection, of which some may not have been seen yet.
    """

    samples: tuple[Sample, ...]
    positions: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def first(self, count: int) -> FixedSamples:
        """Return the first so many of them."""
        return FixedSamples(self.samples[:count], self.positions[:count])

    def batches(self) -> list[SampleBatch]:
        """Put together those that the model can be called with together: one batch for images of one size."""
        groups: dict[Any, list[int]] = {}
        for index, sample in enumerate(self.samples):
            groups.setdefault((sample.call.signature, sample.mask is None), []).append(index)
        return [self._batch(indices) for indices in groups.values()]

    def _batch(self, indices: Sequence[int]) -> SampleBatch:
        members = [self.samples[index] for index in indices]
        masks = [sample.mask for sample in members if sample.mask is not None]
        return SampleBatch(
            join_calls([sample.call for sample in members]),
            tuple(sample.label for sample in members),
            tuple(self.positions[index] for index in indices),
            torch.stack(masks) if masks else None,
        )


@dataclass
class SampleCollector:
    """Collects the samples from a stream of batches, once, and keeps them.

    Args:
        chooser: Which of the samples that pass.
        objects: Where the objects are, or a function that takes that out of a batch; None where it is not known.
        label_fn: Takes the labels out of a batch in which they are not found by themselves.
        given: Samples that are given, so that nothing is collected.

    Attributes:
        fixed: The samples, once they are complete.
        unfit_labels: What is wrong with the labels of a batch, for a note; None where nothing is.
    """

    chooser: Chooser
    objects: Objects | None = None
    label_fn: LabelFn | None = None
    given: FixedSamples | None = None
    fixed: FixedSamples | None = field(init=False)
    unfit_labels: str | None = field(default=None, init=False)
    _kept: dict[int, Sample] = field(default_factory=dict, init=False)
    _candidates: dict[int, Candidate] = field(default_factory=dict, init=False)
    _position: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was collected: another run may have other data."""
        self.fixed = None if self.given is None else self._with_objects(self.given)
        self.begin()

    def begin(self) -> None:
        """Begin with the stream; what an incomplete pass before it left is collected again."""
        self._kept, self._candidates, self._position = {}, {}, 0

    def offer(self, batch: Any, call: Call, logits: Tensor | None) -> None:
        """Take what is wanted of a batch; free once the samples are complete.

        Args:
            batch: As the data loader gave it: for labels and objects.
            call: What the model was called with for it.
            logits: `(N, K)`, what it said, where that was seen.

        Raises:
            ValueError: There are no labels where the choice needs them, or the objects are none.
        """
        if self.fixed is not None:
            return
        labels = self._labels(batch, len(call), logits)
        if self.chooser.needs_labels and all(label is None for label in labels):
            raise ValueError(
                f"Expected the batch to hold integer labels (N,), which the choice of the samples "
                f"({type(self.chooser).__name__}) needs, found none that fit. Pass `Samples(labels=...)`, a function "
                "that takes them out of the batch."
            )
        masks = None
        if callable(self.objects):
            masks = objects_to_masks(self.objects(batch), len(call), call.images.shape[2:])
        for row, label in enumerate(labels):
            candidate = Candidate(self._position, label, _loss(logits, row, label))
            self._position += 1
            if self.chooser.needs_labels and label is None:
                continue
            if self.chooser.wants(candidate, self._candidates):
                self._keep(candidate, call[row : row + 1], None if masks is None else masks[row].clone(), logits, row)
        if self.chooser.is_complete(self._candidates):
            self.end(whole=True)

    def end(self, *, whole: bool) -> None:
        """End with the stream; if it was the whole one, what was found stays.

        Raises:
            ValueError: Some of the positions lie beyond the stream.
        """
        if not whole or self.fixed is not None:
            return
        self.fixed = self.current()
        missing = sorted(set(self.chooser.order(self._candidates)) - set(self._kept))
        if missing:
            raise ValueError(
                f"Expected `samples` to be positions in the stream, which held {self._position} images, got {missing}."
            )

    def current(self) -> FixedSamples | None:
        """The samples; before they are complete, those of the running stream so far; None if there is none."""
        if self.fixed is not None or not self._kept:
            return self.fixed
        order = [
            (place, position)
            for place, position in enumerate(self.chooser.order(self._candidates))
            if position in self._kept
        ]
        samples = tuple(self._kept[position] for _, position in order)
        return self._with_objects(FixedSamples(samples, tuple(place for place, _ in order)))

    def state_dict(self) -> dict[str, Any]:
        """The samples as tensors and plain values, for a checkpoint; empty where they hold anything else."""
        if self.fixed is None or not all(map(_is_plain, self.fixed.samples)):
            return {}
        return {"samples": [_state_of(sample) for sample in self.fixed.samples]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the samples of a checkpoint, unless some were given, or it does not know where the objects are."""
        samples = tuple(map(_from_state, state.get("samples", ())))
        knows_objects = not callable(self.objects) or all(sample.mask is not None for sample in samples)
        if samples and self.given is None and knows_objects:
            self.fixed = self._with_objects(FixedSamples(samples, tuple(range(len(samples)))))

    def _labels(self, batch: Any, count: int, logits: Tensor | None) -> list[int | None]:
        """The label of each sample, None for one that the logits do not have."""
        num_classes = None if logits is None else logits.shape[1]
        labels = find_labels(batch, count, num_classes) if self.label_fn is None else self.label_fn(batch)
        if labels is None:
            return [None] * count
        if not is_labels(labels, count):
            raise ValueError(
                f"Expected the function for `labels` to return one class for each of the {count} images, got "
                f"{describe(labels)}."
            )
        labels = labels.reshape(-1).long()
        if not fit_labels(labels, num_classes):
            self.unfit_labels = (
                f"labels from {int(labels.min())} to {int(labels.max())}, where the model has {num_classes} logits"
            )
        return [label if fit_labels(torch.tensor(label), num_classes) else None for label in labels.tolist()]

    def _keep(self, candidate: Candidate, call: Call, mask: Tensor | None, logits: Tensor | None, row: int) -> None:
        position = candidate.position
        said = None if logits is None else logits[row].detach().float().cpu().clone()
        self._candidates[position] = candidate
        self._kept[position] = Sample(call.copied().to("cpu"), candidate.label, mask, said)
        for surplus in self.chooser.surplus(self._candidates):
            del self._kept[surplus], self._candidates[surplus]

    def _with_objects(self, samples: FixedSamples) -> FixedSamples:
        """With the objects that were given for the samples."""
        if self.objects is None or callable(self.objects):
            return samples
        if len(self.objects) <= max(samples.positions):
            raise ValueError(
                f"Expected `objects` to hold one entry for each sample, got {len(self.objects)} for the sample "
                f"{max(samples.positions)}."
            )
        masked = []
        for sample, position in zip(samples.samples, samples.positions, strict=True):
            entry = self.objects[position]
            objects = entry[None] if isinstance(self.objects, Tensor) else [entry]
            mask = objects_to_masks(objects, 1, sample.call.images.shape[2:])[0]
            masked.append(replace(sample, mask=mask))
        return replace(samples, samples=tuple(masked))


def given_samples(images: Any, labels: Any = None) -> FixedSamples:
    """Return samples that the model is called with as `model(images)`.

    Args:
        images: `(N, C, H, W)`, as the model takes them.
        labels: `(N,)`, or None.

    Raises:
        ValueError: The images are no batch of images, or the labels do not fit them.

    Example:
        >>> len(given_samples(torch.zeros(2, 3, 8, 8), torch.tensor([1, 0])))
        2
    """
    if not is_images(images):
        raise ValueError(f"Expected `samples` to hold images: floating point, (N, C, H, W), got {describe(images)}.")
    if labels is not None and (not is_labels(labels, len(images)) or labels.is_floating_point()):
        raise ValueError(
            f"Expected `samples` to hold one integer class for each of the {len(images)} images, got "
            f"{describe(labels)}."
        )
    call = plain_call(images.detach().cpu())
    classes = [None] * len(images) if labels is None else labels.reshape(-1).tolist()
    samples = tuple(Sample(call[row : row + 1], label) for row, label in enumerate(classes))
    return FixedSamples(samples, tuple(range(len(samples))))


def _loss(logits: Tensor | None, row: int, label: int | None) -> float | None:
    """The cross-entropy of one sample; of one logit the binary one."""
    if logits is None or label is None:
        return None
    said = logits[row].detach().double()
    if len(said) == 1:
        return float(F.binary_cross_entropy_with_logits(said, said.new_tensor([label])))
    return float(F.cross_entropy(said, torch.tensor(label, device=said.device)))


def _is_plain(sample: Sample) -> bool:
    containers = (dict, list, tuple)

    def is_plain(value: Any) -> bool:
        if type(value) in containers:
            return all(map(is_plain, (*value, *value.values()) if isinstance(value, dict) else value))
        return type(value) in _PLAIN

    return is_plain(dict(sample.call.arguments))


def _state_of(sample: Sample) -> dict[str, Any]:
    call = sample.call
    return {
        "arguments": dict(call.arguments),
        "image": call.image,
        "per_sample": sorted(call.per_sample, key=str),
        "label": sample.label,
        "mask": sample.mask,
        "logits": sample.logits,
    }


def _from_state(state: Mapping[str, Any]) -> Sample:
    call = Call(state["arguments"], tuple(state["image"]), frozenset(map(tuple, state["per_sample"])))
    return Sample(call, state["label"], state["mask"], state["logits"])
