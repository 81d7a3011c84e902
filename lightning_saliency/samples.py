"""The fixed batch: taken out of the batches as they pass, chosen, kept on the CPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lightning_saliency.batches import InputFn, Objects, describe, is_images, is_labels, objects_to_masks, split_batch

Choose: TypeAlias = Literal["first", "per_class"]


@dataclass(frozen=True)
class Samples:
    """The images that are explained, as the model gets them, and their labels where the batch has some.

    Attributes:
        images: `(N, C, H, W)` on the CPU.
        labels: `(N,)` int64 on the CPU, or None.
        rows: Which rows of the whole selection these are, where it is not complete; None for all.
        masks: Where the objects are, `(N, 1, H, W)` bool on the CPU, or None where that is not known.
    """

    images: Tensor
    labels: Tensor | None = None
    rows: list[int] | None = None
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> Samples:
        return Samples(
            self.images[rows],
            None if self.labels is None else self.labels[rows],
            None if self.rows is None else self.rows[rows],
            None if self.masks is None else self.masks[rows],
        )

    @property
    def places(self) -> list[int]:
        """Their places in the whole selection."""
        return list(range(len(self))) if self.rows is None else self.rows


@dataclass
class FixedBatch:
    """Collects the samples from a stream of batches, once, and keeps them.

    Args:
        num_samples: How many are kept at most.
        choose: `"first"`: the first of the stream; `"per_class"`: as evenly over the classes as they come.
        indices: Positions in the stream, which are kept instead, in this order.
        input_fn: Takes images, or images and labels, out of a batch that `split_batch` does not understand.
        given: Samples that are given, so that nothing is collected.
        objects: Where the objects are, or a function that takes that out of a batch; None where it is not known.

    Attributes:
        fixed: The samples, once they are complete.
    """

    num_samples: int = 8
    choose: Choose = "first"
    indices: Sequence[int] | None = None
    input_fn: InputFn | None = None
    given: Samples | None = None
    objects: Objects | None = None
    fixed: Samples | None = field(init=False)
    _kept: dict[int, tuple[Tensor, int | None, Tensor | None]] = field(default_factory=dict)
    _position: int = 0

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was collected: another run may have other data."""
        self.fixed = None if self.given is None else self._masked(self.given)
        self.begin()

    def begin(self) -> None:
        """A run over the stream starts; what an incomplete run before it left is collected anew."""
        self._kept.clear()
        self._position = 0

    def offer(self, batch: Any) -> None:
        """Take what is wanted out of the batch; cheap once the samples are complete.

        Raises:
            ValueError: The images cannot be found, differ in size, or have no labels where classes are asked for.
        """
        if self.fixed is not None:
            return
        images, labels = split_batch(batch, self.input_fn)
        if self.choose == "per_class" and labels is None and self.indices is None:
            raise ValueError(
                "Expected `choose='per_class'` to find integer labels (N,) in the batch, found none. "
                "Pass an `input_fn` that returns (images, labels)."
            )
        masks = objects_to_masks(self.objects(batch), images) if callable(self.objects) else None
        nothing = [None] * len(images)
        for image, label, mask in zip(
            images, nothing if labels is None else labels.tolist(), nothing if masks is None else masks, strict=True
        ):
            if self._wants(label):
                self._keep(image, label, mask)
            self._position += 1
        if self._is_complete():
            self.end(whole=True)

    def end(self, *, whole: bool) -> None:
        """The run over the stream has ended; if it was the whole stream, what was found stays.

        Raises:
            ValueError: Some of the indices lie beyond the stream.
        """
        if not whole or self.fixed is not None:
            return
        self.fixed = self.current()
        missing = sorted(set(self.indices or ()) - set(self._kept))
        if missing:
            raise ValueError(
                f"Expected `samples` to be positions in the stream, which held {self._position} images, got {missing}."
            )

    def current(self) -> Samples | None:
        """The samples; before they are complete, those of the running stream so far; None if there is none."""
        if self.fixed is not None or not self._kept:
            return self.fixed
        found = [(row, *self._kept[at]) for row, at in enumerate(self._order()) if at in self._kept]
        labels = [label for _, _, label, _ in found if label is not None]
        masks = [mask for _, _, _, mask in found if mask is not None]
        return self._masked(
            Samples(
                torch.stack([image for _, image, _, _ in found]),
                torch.tensor(labels) if len(labels) == len(found) else None,
                [row for row, _, _, _ in found],
                torch.stack(masks) if masks else None,
            )
        )

    def state_dict(self) -> dict[str, Any]:
        """The samples as tensors, for a checkpoint."""
        if self.fixed is None:
            return {}
        return {"images": self.fixed.images, "labels": self.fixed.labels, "masks": self.fixed.masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the samples of a checkpoint, unless some were given, or it does not know where the objects are."""
        masks = state.get("masks")
        if state and self.given is None and (not callable(self.objects) or masks is not None):
            self.fixed = self._masked(Samples(state["images"], state["labels"], masks=masks))

    def _masked(self, samples: Samples) -> Samples:
        """With the objects that were given for the samples."""
        if self.objects is None or callable(self.objects):
            return samples
        if len(self.objects) <= max(samples.places):
            raise ValueError(
                f"Expected `objects` to hold one entry for each sample, got {len(self.objects)} for the sample "
                f"{max(samples.places)}."
            )
        own = [self.objects[place] for place in samples.places]
        objects = torch.stack(own) if isinstance(self.objects, Tensor) else own
        return replace(samples, masks=objects_to_masks(objects, samples.images))

    def _wants(self, label: int | None) -> bool:
        if self.indices is not None:
            return self._position in self.indices
        if self.choose == "first":
            return self._position < self.num_samples
        groups = self._positions_by_class()
        # of so many classes, and of each, no more than could ever be shown
        if label in groups:
            return len(groups[label]) < self.num_samples
        return len(groups) < self.num_samples

    def _keep(self, image: Tensor, label: int | None, mask: Tensor | None) -> None:
        for first, _, _ in self._kept.values():
            if first.shape != image.shape:
                raise ValueError(
                    f"Expected the samples to be of one size, got {tuple(first.shape)} and {tuple(image.shape)}. "
                    "Choose images of one size by `samples`, or pass them as a tensor."
                )
            break
        self._kept[self._position] = image.detach().cpu().clone(), label, mask

    def _is_complete(self) -> bool:
        if self.indices is not None:
            return len(self._kept) == len(set(self.indices))
        if self.choose == "first":
            return len(self._kept) == self.num_samples
        return len(self._positions_by_class()) == self.num_samples

    def _order(self) -> Iterable[int]:
        if self.indices is not None:
            return self.indices
        if self.choose == "first":
            return sorted(self._kept)
        groups = [group for _, group in sorted(self._positions_by_class().items())]
        rounds = [group[turn] for turn in range(self.num_samples) for group in groups if turn < len(group)]
        return rounds[: self.num_samples]

    def _positions_by_class(self) -> dict[int, list[int]]:
        groups: dict[int, list[int]] = defaultdict(list)
        for position, (_, label, _) in self._kept.items():
            if label is not None:  # `offer` has seen that there are labels
                groups[label].append(position)
        return dict(groups)


def parse_samples(samples: Any) -> tuple[Samples | None, list[int] | None]:
    """Tell given samples from positions in the stream.

    Args:
        samples: None, positions (non-negative ints), images `(N, C, H, W)`, or a pair of images and labels `(N,)`.

    Returns:
        The samples that were given, or None; and the positions, or None.

    Raises:
        TypeError: It is none of these.
        ValueError: The images are no batch of images, the labels do not fit them, or there is no position.

    Example:
        >>> parse_samples([5, 2])
        (None, [5, 2])
    """
    if isinstance(samples, Tensor):
        samples = samples.tolist() if samples.dim() == 1 else (samples, None)
    if samples is None:
        return None, None
    if isinstance(samples, tuple | list) and len(samples) == 2 and isinstance(samples[0], Tensor):
        images, labels = samples
        if not is_images(images):
            raise ValueError(
                f"Expected `samples` to hold images: floating point, (N, C, H, W), got shape {tuple(images.shape)} and "
                f"{images.dtype}."
            )
        if labels is not None and (not is_labels(labels, len(images)) or labels.is_floating_point()):
            raise ValueError(
                f"Expected `samples` to hold one integer class for each of the {len(images)} images, "
                f"got {describe(labels)}."
            )
        return Samples(images.detach().cpu(), None if labels is None else labels.reshape(-1).long().cpu()), None
    if not isinstance(samples, Sequence) or not all(type(index) is int and index >= 0 for index in samples):
        raise TypeError(
            "Expected `samples` to be positions in the validation stream (non-negative ints), images (N, C, H, W), or "
            f"a pair of images and labels, got {describe(samples)}."
        )
    if not samples:
        raise ValueError("Expected `samples` to hold at least one position, got none.")
    return None, list(samples)
