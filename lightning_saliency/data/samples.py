"""`SampleCollector`: collects the fixed samples from a stream; `given_samples`: makes them of what is passed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency._checks import OptionError, call_option
from lightning_saliency.data.batches import is_images, read_classes
from lightning_saliency.data.calls import Call, plain_call
from lightning_saliency.data.choosing import Chooser, Selection
from lightning_saliency.data.normalization import Normalization
from lightning_saliency.data.object_boxes import ObjectBoxes, find_object_boxes
from lightning_saliency.data.objects import objects_to_masks
from lightning_saliency.data.pixels import find_step_normalization
from lightning_saliency.data.sample import FixedSamples, Sample
from lightning_saliency.data.sample_states import from_state, is_plain, state_of
from lightning_saliency.data.trees import describe, plain_tensors
from lightning_saliency.data.truths import DETECTIONS, LABEL_FORMS, Truths, find_truths

Objects: TypeAlias = Callable[[Any], Any] | Tensor | Sequence[Tensor]
"""The objects of the samples, as for `objects_to_masks`; or a function that returns the objects of a batch."""

LabelFn: TypeAlias = Callable[[Any], Tensor | None]
"""A function that returns the labels `(N,)` of a batch, or None."""


@dataclass
class SampleCollector:
    """Collects the fixed samples from a stream of batches, once, and keeps them.

    Args:
        chooser: The rule by which samples are chosen.
        objects: The objects of the samples, or a function that returns those of a batch; None where they are unknown.
        label_fn: Returns the labels of a batch, where they are not found automatically.
        given: Samples that the user passed, so that nothing is collected.

    Attributes:
        fixed: The samples, once they are complete.
        unfit_labels: A description of labels that do not fit the logits, for a warning; None where all fit.
        stand_in: The first sample of the stream, as long as none is chosen: to try with.
    """

    chooser: Chooser
    objects: Objects | None = None
    label_fn: LabelFn | None = None
    given: FixedSamples | None = None
    fixed: FixedSamples | None = field(init=False)
    unfit_labels: str | None = field(default=None, init=False)
    stand_in: FixedSamples | None = field(default=None, init=False)
    _kept: dict[int, Sample] = field(default_factory=dict, init=False)
    _selection: Selection = field(init=False)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Drop the collected samples: another run may have other data."""
        self.fixed = None if self.given is None else self._with_objects(self.given)
        self.begin()

    @property
    def num_needed(self) -> int | None:
        """The number of samples of the stream after which the choice stands; None where that is not known."""
        return self._selection.chooser.num_needed

    def begin(self, labels: Tensor | None = None) -> None:
        """Begin at the start of the stream; the samples of an incomplete earlier pass are dropped.

        Args:
            labels: Those of the whole stream, `(n,)`, where they are known.
        """
        self._kept, self._selection = {}, Selection(self.chooser.for_labels(labels))
        self.stand_in = None

    def offer(
        self,
        batch: Any,
        call: Call,
        logits: Tensor | None,
        task: str = "multiclass",
        key: str = "",
        *,
        num_axes: int = 2,
        in_transfer: Normalization | None = None,
    ) -> None:
        """Keep the samples of a batch that the chooser wants; does nothing once the samples are complete.

        Args:
            batch: The data loader's batch, for labels and objects.
            call: What the model was called with for it.
            logits: `(N, K)`, the model's output for it, where it was recorded.
            task: What the logits mean: a key of `lightning_saliency.evidence.TASKS`.
            key: Their key in the model's output, which the labels may have too.
            num_axes: The number of spatial axes of a segmentation's masks.
            in_transfer: What was done to the pixels before the step, in which more may be done.

        Raises:
            ValueError: There are no labels where the chooser needs them, or the objects are neither boxes nor masks.
        """
        if self.fixed is not None:
            return
        truths = self._truths(batch, len(call), logits, task, key, num_axes)
        labels = [Sample(call, truth).label for truth in truths.answers]
        chooser = self._selection.chooser
        if chooser.needs_labels and all(label is None for label in labels):
            raise OptionError(
                f"Expected the batch to hold integer labels (N,), which the choice of the samples "
                f"({type(chooser).__name__}) needs, found none that fit. Pass `Samples(labels=...)`, a function "
                "that takes them out of the batch.",
                "samples.choose",
            )
        losses = _losses(logits, labels) if chooser.needs_losses else [None] * len(labels)
        start = self._selection.num_seen
        for label, loss in zip(labels, losses, strict=True):
            self._selection.offer(label, loss)
        chosen = self._selection.kept
        self._kept = {position: sample for position, sample in self._kept.items() if position in chosen}
        rows = [position - start for position in chosen if position >= start]
        if rows:
            normalization = _normalization(batch, call, rows) or in_transfer
            boxes = find_object_boxes(batch, call.sizes) if task in DETECTIONS else None
            samples = self._samples(rows, batch, call, truths, logits, normalization, boxes)
            self._kept |= {start + row: sample for row, sample in zip(rows, samples, strict=True)}
            self.stand_in = None
        elif self.stand_in is None and not self._kept and len(call):
            (sample,) = self._samples([0], batch, call, truths, logits, None, None)
            self.stand_in = FixedSamples((sample,), (0,))
        if self._selection.is_complete:
            self.end(whole=True)

    def end(self, *, whole: bool) -> None:
        """End a pass over the stream; if it was the whole stream, the samples are complete.

        Args:
            whole: Whether the pass went over the whole stream.

        Raises:
            ValueError: Some of the positions lie beyond the end of the stream.
        """
        if not whole or self.fixed is not None:
            return
        self.fixed = self.current()
        count = self._selection.num_seen
        missing = sorted({position for position in self._selection.order() if position >= count})
        if missing:
            raise OptionError(
                f"Expected `samples` to be positions in the stream, which held {count} images, got {missing}.",
                "samples.positions",
            )

    def current(self) -> FixedSamples | None:
        """Return the samples; before they are complete, those collected so far, or None if there are none."""
        if self.fixed is not None or not self._kept:
            return self.fixed
        order = [(index, position) for index, position in enumerate(self._selection.order()) if position in self._kept]
        samples = tuple(self._kept[position] for _, position in order)
        return self._with_objects(FixedSamples(samples, tuple(index for index, _ in order)))

    def state_dict(self) -> dict[str, Any]:
        """Return the samples as tensors and plain values for a checkpoint.

        Empty where they hold anything else, and where the user passed them, as a resumed run is passed them again.
        """
        if self.fixed is None or self.given is not None or not all(map(is_plain, self.fixed.samples)):
            return {}
        return {"samples": [state_of(sample) for sample in self.fixed.samples]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the samples of a checkpoint, unless the user passed samples, or the checkpoint lacks the objects."""
        samples = tuple(map(from_state, state.get("samples", ())))
        knows_objects = not callable(self.objects) or all(sample.mask is not None for sample in samples)
        if samples and self.given is None and knows_objects:
            self.fixed = self._with_objects(FixedSamples(samples, tuple(range(len(samples)))))

    def _truths(self, batch: Any, count: int, logits: Tensor | None, task: str, key: str, num_axes: int) -> Truths:
        """Return what is true of each sample, None for a class that the logits do not have."""
        num_classes = None if logits is None else logits.shape[1]
        labels = batch if self.label_fn is None else call_option("samples.labels", self.label_fn, batch)
        if labels is None:
            return Truths((None,) * count)
        within = labels if self.label_fn is None else [labels]
        truths = find_truths(within, count, num_classes, task, key, num_axes=num_axes)
        if truths is None and self.label_fn is not None:
            raise OptionError(
                f"Expected the function for `labels` to return {LABEL_FORMS[task]} of the {count} images, got "
                f"{describe(labels)}.",
                "samples.labels",
            )
        if truths is None:
            return Truths((None,) * count)
        self.unfit_labels = truths.unfit or self.unfit_labels
        return truths

    def _samples(
        self,
        rows: Sequence[int],
        batch: Any,
        call: Call,
        truths: Truths,
        logits: Tensor | None,
        normalization: Normalization | None,
        boxes: Sequence[ObjectBoxes] | None,
    ) -> Iterator[Sample]:
        """Yield samples of a batch, which hold nothing of the others."""
        objects = call_option("samples.objects", self.objects, batch) if callable(self.objects) else None
        outputs = None
        if logits is not None:
            outputs = logits.detach()[rows].float().cpu()
        for index, (row, sample_call) in enumerate(zip(rows, call.separate(rows), strict=True)):
            yield Sample(
                sample_call,
                truths.answers[row],
                None if objects is None else _mask(objects, row, len(call), sample_call.images.shape[2:]),
                None if outputs is None else outputs[index].clone(),
                None if truths.masks is None else truths.masks[row].cpu().clone(),
                normalization,
                None if boxes is None else boxes[row],
            )

    def _with_objects(self, samples: FixedSamples) -> FixedSamples:
        """Return the samples with masks of the objects that the user passed for them."""
        if self.objects is None or callable(self.objects):
            return samples
        masked = []
        for sample, position in zip(samples.samples, samples.positions, strict=True):
            objects: Any = self.objects[position : position + 1]
            size = sample.call.images.shape[2:]
            # a sample without an entry has no object
            mask = objects_to_masks(objects, 1, size)[0] if len(objects) else torch.zeros(1, *size, dtype=torch.bool)
            masked.append(replace(sample, mask=mask))
        return replace(samples, samples=tuple(masked))


def _normalization(batch: Any, call: Call, rows: Sequence[int]) -> Normalization | None:
    """Return what the step has done to the pixels of its batch; not of images of several sizes."""
    return find_step_normalization(batch, call.images, rows) if isinstance(call.given, Tensor) else None


def _mask(objects: Any, row: int, count: int, size: Sequence[int]) -> Tensor:
    """Return the mask of a sample's objects, of those of a batch of N, whose images may be of several sizes."""
    is_of_samples = isinstance(objects, Tensor | list | tuple) and len(objects) == count
    own, row = (objects[row : row + 1], 0) if is_of_samples and not isinstance(objects, Tensor) else (objects, row)
    return objects_to_masks(own, count if own is objects else 1, size)[row].clone()


def given_samples(images: Any, labels: Any = None) -> FixedSamples:
    """Return fixed samples of given images, for a model that is called as `model(images)`.

    Args:
        images: `(N, C, H, W)`, as the model takes them; or volumes `(N, C, D, H, W)`; or with their labels signals
            `(N, C, T)`, which by themselves could be a single image.
        labels: The true classes, integers `(N,)` with −1 for an unknown one, or None.

    Raises:
        ValueError: The images are not a batch of images, or the labels do not fit them.

    Example:
        >>> len(given_samples(torch.zeros(2, 3, 8, 8), torch.tensor([1, 0])))
        2
    """
    if not is_images(images, (4, 5) if labels is None else (4, 5, 3)):
        raise ValueError(
            f"Expected `samples` to hold images: floating point, (N, C, H, W), got {describe(images)}. Volumes are "
            "(N, C, D, H, W); signals (N, C, T) need their labels beside them, (signals, labels)."
        )
    is_integer = isinstance(labels, Tensor) and not labels.is_floating_point()
    classes = read_classes(labels, len(images)) if is_integer else None
    if labels is not None and classes is None:
        raise ValueError(
            f"Expected `samples` to hold one integer class for each of the {len(images)} images, got "
            f"{describe(labels)}."
        )
    call = plain_call(plain_tensors(images).detach().cpu())
    known = [None] * len(images) if classes is None else [x if x >= 0 else None for x in classes.tolist()]
    samples = tuple(Sample(call[row : row + 1], label) for row, label in enumerate(known))
    return FixedSamples(samples, tuple(range(len(samples))))


def _losses(logits: Tensor | None, labels: Sequence[int | None]) -> list[float | None]:
    """Return the cross-entropy of each sample, for a single logit the binary cross-entropy; None where unknown."""
    known = [row for row, label in enumerate(labels) if label is not None]
    losses: list[float | None] = [None] * len(labels)
    if logits is None or not known:
        return losses
    known_logits = logits.detach()[known].double().cpu()
    classes = torch.tensor([labels[row] for row in known])
    if known_logits.shape[1] == 1:
        values = F.binary_cross_entropy_with_logits(known_logits[:, 0], classes.double(), reduction="none")
    else:
        values = F.cross_entropy(known_logits, classes, reduction="none")
    for row, value in zip(known, values.tolist(), strict=True):
        losses[row] = value
    return losses
