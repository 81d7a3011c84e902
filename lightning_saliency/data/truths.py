"""`find_truths`: what a batch says is true of its samples, for each kind of task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_saliency.data.batches import (
    find_label_channels,
    find_label_masks,
    find_label_rows,
    find_labels,
    find_values,
    fit_labels,
    known_classes,
    smallest_classes,
)
from lightning_saliency.data.object_boxes import find_object_classes
from lightning_saliency.data.trees import children

Answer: TypeAlias = int | tuple[int, ...] | tuple[float, ...]
"""What is true of a sample, or what a model says of it: a class, a set of classes, or values."""


DETECTIONS = ("detection", "detection_softmax", "detection_list")
"""The tasks whose samples have objects with boxes."""

NOTHING = dict.fromkeys(DETECTIONS, "nothing detected")
"""What is said where no class is predicted, by the task."""

LABEL_FORMS = {
    "multiclass": "one class for each",
    "ordinal": "one rank for each",
    "multilabel": "zeros and ones for the classes of each",
    "regression": "values for each",
    "segmentation": "a map of classes for each",
    "multilabel_segmentation": "a map of zeros and ones for the classes of each",
    "embedding": "nothing for each",
    **dict.fromkeys(DETECTIONS, "a mapping with boxes and labels for each"),
}
"""What labels are, in words, by the task."""


@dataclass(frozen=True)
class Truths:
    """What a batch says is true of its samples.

    Attributes:
        answers: Of each sample its class, its classes, or its values; None where that is not known.
        masks: The class of each pixel, `(N, H, W)` int64, or of volumes or signals; None but for a segmentation.
        unfit: In words, labels that are no classes of the model; None where all are.
    """

    answers: tuple[Answer | None, ...]
    masks: Tensor | None = None
    unfit: str | None = None


def find_truths(
    batch: Any,
    count: int,
    num_classes: int | None = None,
    task: str = "multiclass",
    key: str = "",
    *,
    num_axes: int = 2,
) -> Truths | None:
    """Return what a batch says is true of its samples; None where it holds no such labels.

    Args:
        batch: A tensor, list, tuple, named tuple, mapping or dataclass, also nested.
        count: N, the number of samples.
        num_classes: K, the number of logits, or values; None where it is not known.
        task: What the logits mean: a key of `lightning_saliency.evidence.TASKS`.
        key: The key of the logits in the model's output; see `under_key`.
        num_axes: The number of spatial axes of a segmentation's masks.

    Example:
        >>> batch = (torch.zeros(2, 3, 8, 8), torch.tensor([[1, 0, 1], [0, 0, 0]]))
        >>> find_truths(batch, 2, 3, "multilabel").answers
        ((0, 2), ())
    """
    batch = under_key(batch, key)
    if task == "segmentation":
        return _most_pixels(batch, count, num_classes, num_axes)
    return _READERS[task](batch, count, num_classes)


def under_key(batch: Any, key: str) -> Any:
    """Return the part of a batch that stands under the last of these keys, in a list; the whole where none does.

    A model of several heads often has its labels under the heads' names.

    Example:
        >>> under_key({"image": 1, "labels": {"color": 2, "shape": 3}}, "heads.color")
        [2]
    """
    name = key.rpartition(".")[2]
    entries = children(batch)
    if name in entries and not name.isdigit():
        return [entries[name]]
    for entry in entries.values():
        found = under_key(entry, key)
        if found is not entry:
            return found
    return batch


def _classes(batch: Any, count: int, num_classes: int | None) -> Truths | None:
    labels = find_labels(batch, count, num_classes)
    if labels is None:
        return None
    known = known_classes(labels, num_classes)
    unfit = None
    if not fit_labels(labels, num_classes):
        unfit = f"labels from {int(labels.min())} to {int(labels.max())}, where the model has {num_classes} logits"
    return Truths(_where(labels, known), unfit=unfit)


def _ranks(batch: Any, count: int, num_classes: int | None) -> Truths | None:
    return _classes(batch, count, None if num_classes is None else num_classes + 1)


def _sets(batch: Any, count: int, num_classes: int | None) -> Truths | None:
    rows = find_label_rows(batch, count, num_classes or 1)
    if rows is None:
        return _classes(batch, count, num_classes)
    return Truths(tuple(tuple(row.nonzero()[:, 0].tolist()) for row in rows))


def _values(batch: Any, count: int, num_classes: int | None) -> Truths | None:
    values = find_values(batch, count, num_classes or 1)
    return None if values is None else Truths(tuple(tuple(map(float, row)) for row in values.tolist()))


def _most_pixels(batch: Any, count: int, num_classes: int | None, num_axes: int) -> Truths | None:
    """Return of each sample the class with the most pixels; of a single logit class 1, where it has any."""
    masks = find_label_masks(batch, count, num_axes=num_axes, num_classes=num_classes)
    if masks is None:
        return None
    known = known_classes(masks, num_classes)
    if num_classes == 1:
        return Truths(_where(torch.ones(count, dtype=torch.long), ((masks == 1) & known).flatten(1).any(1)), masks)
    width = max(num_classes or 0, int(masks.max()) + 1)
    counts = torch.stack([((masks == index) & known).flatten(1).sum(1) for index in range(width)], 1)
    return Truths(_where(counts.argmax(1), counts.any(1)), masks)


def _largest_class(batch: Any, count: int, num_classes: int | None) -> Truths | None:
    """Return of each sample the class with the most pixels, where the classes may overlap."""
    masks = find_label_channels(batch, count, num_classes or 1)
    if masks is None:
        return None
    counts = masks.flatten(2).sum(2)
    return Truths(_where(counts.argmax(1), counts.any(1)), smallest_classes(masks))


def _nothing(batch: Any, count: int, num_classes: int | None) -> None:
    return None


def _sets_of_objects(batch: Any, count: int, num_classes: int | None) -> Truths | None:
    """Return of each sample the classes of its objects."""
    classes = find_object_classes(batch, count)
    if classes is None:
        return None
    known = [sorted(set(labels[known_classes(labels, num_classes)].tolist())) for labels in classes]
    return Truths(tuple(map(tuple, known)))


_READERS: dict[str, Callable[[Any, int, int | None], Truths | None]] = {
    "multiclass": _classes,
    "ordinal": _ranks,
    "multilabel": _sets,
    "regression": _values,
    "multilabel_segmentation": _largest_class,
    "embedding": _nothing,
    **dict.fromkeys(DETECTIONS, _sets_of_objects),
}


def _where(labels: Tensor, known: Tensor) -> tuple[int | None, ...]:
    pairs = zip(labels.tolist(), known.tolist(), strict=True)
    return tuple(label if is_known else None for label, is_known in pairs)
