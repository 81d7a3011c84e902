"""`find_stream_labels`: the labels of a loader's stream, where its data set has them at hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, SequentialSampler, Subset, TensorDataset

from lightning_saliency.data.datasets import attempt, read

_NAMES = ("targets", "labels", "_labels", "y")
"""Under which data sets usually hold the labels of all their samples."""


def find_stream_labels(loader: Any) -> Tensor | None:
    """Return the label of each sample of a loader's stream, `(n,)` int64, without reading a sample.

    Args:
        loader: A loader that takes the samples of its data set in their order.

    Returns:
        None where the data set does not hold one integer for each sample under a usual name, where it is wrapped by
        something else than PyTorch's own wrappers, or where the loader takes the samples in another order.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> dataset = TensorDataset(torch.zeros(4, 3, 8, 8), torch.tensor([0, 0, 1, 1]))
        >>> find_stream_labels(DataLoader(Subset(dataset, [3, 0]), batch_size=2))
        tensor([1, 0])
    """
    is_in_order = isinstance(read(loader, "sampler"), SequentialSampler)
    return _labels_of(read(loader, "dataset")) if is_in_order else None


def spread_positions(labels: Tensor, count: int) -> tuple[int, ...]:
    """Return the positions of samples that are spread over the classes: of each class as many, the first ones.

    Args:
        labels: The label of each sample, `(n,)` integers; negative ones are of no class.
        count: How many positions.

    Returns:
        One of each class, then the next of each, then those of no class; where there are more classes than positions,
        of classes at even distances.

    Example:
        >>> spread_positions(torch.tensor([0, 0, 0, 0, 1, 1, 2, 2]), 4)
        (0, 4, 6, 1)
        >>> spread_positions(torch.arange(1000), 4)
        (0, 333, 666, 999)
        >>> spread_positions(torch.tensor([-1, 3, -1]), 4)
        (1, 0, 2)
    """
    classes = labels[labels >= 0].unique().tolist()
    if len(classes) > count:
        classes = [classes[round(index * (len(classes) - 1) / max(count - 1, 1))] for index in range(count)]
    by_class = [(labels == one).nonzero()[:count, 0].tolist() for one in classes]
    rounds = itertools.zip_longest(*by_class)  # one of each class, then the next of each
    spread = (position for one_round in rounds for position in one_round if position is not None)
    return (*spread, *(labels < 0).nonzero()[:count, 0].tolist())[:count]


def _labels_of(dataset: Any) -> Tensor | None:
    """Return the labels of all samples of a data set, or None."""
    if isinstance(dataset, Subset):
        inner = _labels_of(dataset.dataset)
        return None if inner is None else attempt(lambda: inner[torch.as_tensor(dataset.indices, dtype=torch.long)])
    if isinstance(dataset, ConcatDataset):
        parts = [_labels_of(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return torch.cat(known) if known and len(known) == len(parts) else None
    if isinstance(dataset, TensorDataset):
        columns = [_as_labels(column, len(dataset)) for column in dataset.tensors]
        known = [column for column in columns if column is not None]
        return known[0] if len(known) == 1 else None
    length = attempt(lambda: len(dataset))
    named = (read(dataset, name, lambda value: _as_labels(value, length)) for name in _NAMES)
    return next((labels for labels in named if labels is not None), None)


def _as_labels(value: Any, length: int | None) -> Tensor | None:
    """Return one integer for each sample, if a value holds that and nothing else."""
    if not length or (not isinstance(value, Sequence | Tensor) and not hasattr(value, "__array__")):
        return None
    if len(value) != length or isinstance(value, str | bytes):
        return None
    labels = torch.as_tensor(value)
    is_of_classes = labels.dim() == 1 and not labels.is_floating_point() and not labels.is_complex()
    return labels.long() if is_of_classes and labels.dtype != torch.bool else None
