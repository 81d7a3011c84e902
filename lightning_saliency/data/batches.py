"""Finding the images and the labels in a batch of a data loader."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_saliency.data.trees import Path, children, describe

_IMAGE_NAMES = ("image", "images", "img", "imgs", "pixel_values", "x", "input", "inputs", "data")
LABEL_NAMES = (
    *("label", "labels", "target", "targets", "y", "class", "classes", "class_id", "category"),
    *("mask", "masks", "segmentation"),
)
"""The usual names of labels, the most usual first."""

_IGNORED = (-1, -100, 255)
"""What is no class but means "ignore", in PyTorch's losses and in data sets."""

_NO_ARITHMETIC = (torch.bool, torch.uint16, torch.uint32, torch.uint64)
"""The types of numbers that cannot be compared with others."""

_SOFT_TOLERANCE = 1e-2
"""How far the probabilities of soft labels may be from 1 in sum, as they may be of half precision."""


def find_images(batch: Any, *, signals: bool = False) -> Tensor:
    """Return the images of a batch: the first floating-point tensor `(N, C, H, W)`, usual names first.

    Where there is none, volumes `(N, C, D, H, W)` are looked for, and then signals `(N, C, T)`.

    Args:
        batch: A tensor, list, tuple, named tuple, mapping or dataclass, also nested.
        signals: Whether signals are looked for: a tensor of three axes may also be a single image.

    Raises:
        ValueError: The batch holds no such tensor.

    Example:
        >>> import torch
        >>> find_images({"id": torch.arange(2), "x": torch.zeros(2, 3, 8, 8)}).shape
        torch.Size([2, 3, 8, 8])
    """
    for num_axes in (4, 5, 3) if signals else (4, 5):
        entry = find_entry(batch, partial(is_images, num_axes=[num_axes]))
        if entry is not None:
            images: Tensor = entry[1]
            return images
    raise ValueError(f"Expected the batch to hold images: a floating-point tensor (N, C, H, W), got {describe(batch)}.")


def find_entry(batch: Any, is_wanted: Callable[[Any], bool], path: Path = ()) -> tuple[Path, Any] | None:
    """Return the first wanted value in a batch with its path, under the usual names of images first; None for none.

    Args:
        batch: Any value; itself, or a list, tuple, named tuple, mapping or dataclass that holds the wanted one.
        is_wanted: Tells whether it is one.
        path: The keys that lead to the batch.

    Example:
        >>> find_entry({"id": 7, "image": 8}, lambda value: value in (7, 8))
        (('image',), 8)
    """
    if is_wanted(batch):
        return path, batch
    entries = children(batch)
    for name in sorted(entries, key=lambda name: _IMAGE_NAMES.index(name) if name in _IMAGE_NAMES else 99):
        entry = find_entry(entries[name], is_wanted, (*path, name))
        if entry is not None:
            return entry
    return None


def find_labels(batch: Any, count: int, num_classes: int | None = None) -> Tensor | None:
    """Return the labels of a batch: one class for each of its images.

    They are in the same container as the images: under a usual name, or the only ones; in a tuple or list the first
    after the images. Nested batches (dicts of batches from several loaders, `({"image": ...}, label)`) are searched
    too. Where the number of classes is known, what does not fit it is passed over, such as the indices of the images:
    the labels are the first whose entries are all classes; else the first most of whose entries are, the others being
    "ignore"; else the first.

    Args:
        batch: A tensor, list, tuple, named tuple, mapping or dataclass, also nested.
        count: N, the number of images.
        num_classes: K, the number of logits; None where it is not known.

    Returns:
        `(N,)` int64 as `read_classes` reads them, or None where the batch holds no labels.

    Example:
        >>> import torch
        >>> find_labels((torch.arange(2), torch.zeros(2, 3, 8, 8), torch.tensor([1, 0])), 2)
        tensor([1, 0])
    """
    read = partial(read_classes, count=count, num_classes=num_classes)
    candidates = [labels for _, labels in _columns(batch, read)]
    for fits in (_are_classes, fit_labels):
        fitting = next((labels for labels in candidates if fits(labels, num_classes)), None)
        if fitting is not None:
            return fitting
    return candidates[0] if candidates else None


def find_label_rows(batch: Any, count: int, num_classes: int) -> Tensor | None:
    """Return the labels of a batch for a multi-label task: for each image and class whether it is there.

    Args:
        batch: A tensor, list, tuple, named tuple, mapping or dataclass, also nested.
        count: N, the number of images.
        num_classes: K, the number of logits.

    Returns:
        `(N, K)` int64 of zeros and ones, or None where the batch holds no such labels.

    Example:
        >>> import torch
        >>> find_label_rows((torch.zeros(2, 3, 8, 8), torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])), 2, 3)
        tensor([[1, 1, 0],
                [0, 0, 0]])
    """

    def read_rows(value: Any) -> Tensor | None:
        rows = _to_tensor(value)
        is_one = rows is not None and rows.shape == (count, num_classes) and _is_binary(rows)
        return rows.long() if rows is not None and is_one else None

    return next((rows for _, rows in _columns(batch, read_rows)), None)


def find_values(batch: Any, count: int, width: int = 1) -> Tensor | None:
    """Return the labels of a batch for a regression: numbers for each of its images.

    Floating-point ones come before integers, which may be the indices of the images.

    Args:
        batch: A tensor, list, tuple, named tuple, mapping or dataclass, also nested.
        count: N, the number of images.
        width: D, the number of the model's outputs.

    Returns:
        `(N, D)`, floating point, or None where the batch holds no such labels.

    Example:
        >>> import torch
        >>> find_values((torch.zeros(2, 3, 8, 8), torch.arange(2), torch.tensor([0.5, 7.25])), 2)
        tensor([[0.5000],
                [7.2500]])
    """
    shapes = [(count, width), *([(count,)] if width == 1 else [])]

    def read_numbers(value: Any) -> Tensor | None:
        numbers = _to_tensor(value)
        return numbers if numbers is not None and numbers.shape in shapes else None

    columns = [column for _, column in _columns(batch, read_numbers)]
    columns.sort(key=lambda column: not column.is_floating_point())
    return columns[0].reshape(count, width) * 1.0 if columns else None


def find_label_masks(
    batch: Any, count: int, size: Sequence[int] | None = None, *, num_axes: int = 2, num_classes: int | None = None
) -> Tensor | None:
    """Return the labels of a batch for a segmentation: the class of each pixel.

    Args:
        batch: A tensor, list, tuple, named tuple, mapping or dataclass, also nested.
        count: N, the number of images.
        size: H and W of the masks; None for any.
        num_axes: The number of spatial axes: 2 of images, 3 of volumes, 1 of signals.
        num_classes: K, the number of logits, which masks of one channel a class must have; None where it is not known.

    Returns:
        `(N, H, W)` int64, as they are in the batch, also with values that mean "ignore"; or None where there are none.
        Of masks `(N, K, H, W)` with one channel a class, the one that is 1, and −1 where none is.

    Example:
        >>> import torch
        >>> batch = {"image": torch.zeros(2, 3, 8, 8), "mask": torch.full((2, 1, 8, 8), 255)}
        >>> find_label_masks(batch, 2).shape
        torch.Size([2, 8, 8])
    """

    def read_masks(value: Any) -> Tensor | None:
        masks = _to_tensor(value)
        if masks is None or masks.dim() - num_axes not in (1, 2) or len(masks) != count:
            return None
        if size is not None and masks.shape[-num_axes:] != tuple(size):
            return None
        if masks.dim() == num_axes + 2 and masks.shape[1] > 1:
            return _read_channels(masks) if num_classes in (None, masks.shape[1]) else None
        are_classes = not masks.is_floating_point() or _is_binary(masks) or _are_whole(masks, num_classes)
        return masks.reshape(count, *masks.shape[-num_axes:]).long() if are_classes else None

    return next((masks for _, masks in _columns(batch, read_masks)), None)


def find_label_channels(batch: Any, count: int, num_classes: int) -> Tensor | None:
    """Return the labels of a batch for a segmentation whose classes may overlap: whether each pixel has each class.

    Args:
        batch: A tensor, list, tuple, named tuple, mapping or dataclass, also nested.
        count: N, the number of images.
        num_classes: K, the number of logits.

    Returns:
        `(N, K, H, W)` bool, or None where there are none.

    Example:
        >>> import torch
        >>> find_label_channels((torch.rand(2, 1, 8, 8), torch.ones(2, 3, 8, 8)), 2, 3).shape
        torch.Size([2, 3, 8, 8])
    """

    def read_channels(value: Any) -> Tensor | None:
        masks = _to_tensor(value)
        fits = masks is not None and masks.dim() > 3 and masks.shape[:2] == (count, num_classes)
        return masks == 1 if masks is not None and fits and _is_binary(masks) else None

    return next((masks for _, masks in _columns(batch, read_channels)), None)


def smallest_classes(masks: Tensor) -> Tensor:
    """Return one class for each pixel of overlapping masks: of several that with the fewest pixels, −1 where is none.

    Args:
        masks: `(N, K, H, W)` bool.

    Example:
        >>> import torch
        >>> smallest_classes(torch.tensor([[[[True, True, False]], [[False, True, False]]]]))
        tensor([[[ 0,  1, -1]]])
    """
    sizes = masks.flatten(2).sum(2)
    ranks = sizes.argsort(1).argsort(1).reshape(*sizes.shape, *[1] * (masks.dim() - 2))
    smallest = ranks.expand(masks.shape).masked_fill(~masks, masks.shape[1]).argmin(1)
    return smallest.masked_fill(~masks.any(1), -1)


def find_label_columns(batch: Any, read: Callable[[Any], Tensor | None]) -> dict[Path, Tensor]:
    """Return all that may be the labels of a batch, by the paths in it, the most likely first.

    These are those among which `find_labels` looks, and in each container, after all others, those under several
    unusual names, such as the labels of several heads: what tells them apart are their paths.

    Args:
        batch: A tensor, list, tuple, named tuple, mapping or dataclass, also nested.
        read: Returns the labels that a value is, or None, such as `read_classes` for N images.

    Example:
        >>> import torch
        >>> labels = {"color": torch.tensor([3, 0]), "shape": torch.tensor([1, 1])}
        >>> columns = find_label_columns((torch.zeros(2, 3, 8, 8), labels), partial(read_classes, count=2))
        >>> list(columns)
        [(1, 'color'), (1, 'shape')]
    """
    return dict(_columns(batch, read, with_ambiguous=True))


def read_classes(value: Any, count: int, num_classes: int | None = None) -> Tensor | None:
    """Return one class for each image, if a value holds that: integers, or a row of probabilities for each image.

    Args:
        value: Integers `(N,)` or `(N, 1)`, of a binary model also the floating-point numbers 0 and 1; or one-hot or
            soft labels `(N, K)`, whose rows sum to 1. A tensor, an array, or a list of integers.
        count: N, the number of images.
        num_classes: K, which soft labels must fit; a single logit has two classes. None where it is not known.

    Returns:
        `(N,)` int64, also with integers that are no classes, such as −1 for "ignore"; of soft labels the most probable
        class. None for anything else.

    Example:
        >>> import torch
        >>> read_classes(torch.eye(3)[[2, 0]], 2), read_classes([2, 0], 2), read_classes(torch.rand(2), 2)
        (tensor([2, 0]), tensor([2, 0]), None)
    """
    labels = _to_tensor(value)
    if labels is None:
        return None
    if labels.shape in ((count,), (count, 1)):
        return labels.reshape(-1).long() if not labels.is_floating_point() or _is_binary(labels) else None
    if labels.dim() != 2 or len(labels) != count or labels.shape[1] != max(num_classes or labels.shape[1], 2):
        return None
    rows = labels.float()
    are_soft = bool(((rows >= 0) & (rows <= 1)).all()) and bool(((rows.sum(1) - 1).abs() < _SOFT_TOLERANCE).all())
    return rows.argmax(1) if are_soft else None


def fit_labels(labels: Tensor, num_classes: int | None) -> bool:
    """Whether labels are classes of a model with so many logits; a single logit has the classes 0 and 1.

    Some labels may be no classes, and mean "ignore": −1, −100 and 255, and fewer than half whatever they are.
    """
    if num_classes is None:
        return True
    is_ignored = torch.isin(labels, torch.tensor(_IGNORED, device=labels.device))
    return 2 * int((~known_classes(labels, num_classes) & ~is_ignored).sum()) < max(len(labels), 1)


def known_classes(labels: Tensor, num_classes: int | None) -> Tensor:
    """Return where labels are classes of a model with so many logits, bool of their shape."""
    return (labels >= 0) & (labels < (torch.inf if num_classes is None else max(num_classes, 2)))


def is_images(value: Any, num_axes: Collection[int] = (4, 5)) -> bool:
    """Whether a value is a batch of images `(N, C, H, W)` or volumes `(N, C, D, H, W)`, in floating point.

    Args:
        value: Any value.
        num_axes: How many axes it may have; 3 for signals `(N, C, T)`.
    """
    return isinstance(value, Tensor) and value.dim() in num_axes and value.is_floating_point() and value.numel() > 0


def _read_channels(masks: Tensor) -> Tensor | None:
    """Return the class of each pixel of masks `(N, K, …)` with one channel a class; None where they are none."""
    is_ignored = torch.isin(masks, torch.tensor(_IGNORED, device=masks.device)).any(1)
    num_true = (masks == 1).sum(1).masked_fill(is_ignored, 0)
    are_masks = bool(((masks == 0) | (masks == 1) | is_ignored[:, None]).all() and (num_true <= 1).all())
    if not are_masks or 2 * int(num_true.sum()) < num_true.numel():
        return None
    return (masks == 1).long().argmax(1).masked_fill(num_true == 0, -1)


def _are_whole(masks: Tensor, num_classes: int | None) -> bool:
    """Whether floating-point numbers are the classes of a model, as some libraries read them from files."""
    return num_classes is not None and bool((masks == masks.round()).all()) and fit_labels(masks, num_classes)


def _are_classes(labels: Tensor, num_classes: int | None) -> bool:
    return bool(known_classes(labels, num_classes).all())


def _columns(
    batch: Any, read: Callable[[Any], Tensor | None], path: Path = (), *, with_ambiguous: bool = False
) -> Iterator[tuple[Path, Tensor]]:
    """Yield what may be labels with their paths, the most likely first."""
    entries = children(batch)
    readings = {name: read(entry) for name, entry in entries.items()}
    labels = {name: labels for name, labels in readings.items() if labels is not None}
    others = []
    if all(isinstance(name, int) for name in entries):
        image_index = next((name for name, entry in entries.items() if _holds_images(entry)), -1)
        names = sorted(labels, key=lambda name: name <= image_index)
    else:
        names = [name for name in LABEL_NAMES if name in labels]
        others = [name for name in labels if name not in (*LABEL_NAMES, *_IMAGE_NAMES)]
        if not names and len(others) == 1:
            names, others = others, []
    yield from (((*path, name), labels[name]) for name in names)
    for name in sorted(entries, key=lambda name: not _holds_images(entries[name])):  # what holds the images first
        yield from _columns(entries[name], read, (*path, name), with_ambiguous=with_ambiguous)
    if with_ambiguous:
        yield from (((*path, name), labels[name]) for name in others)


def _to_tensor(value: Any) -> Tensor | None:
    """Return a tensor of real numbers for a tensor, an array or a list of numbers; None for anything else."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_complex():
            return None
        return value.long() if value.dtype in _NO_ARITHMETIC else value
    if isinstance(value, list | tuple) and all(map(_is_number, value)):
        value = np.array([entry.item() if isinstance(entry, Tensor) else entry for entry in value])
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        return None
    return torch.from_numpy(value.astype(np.float64 if value.dtype.kind == "f" else np.int64))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number | np.bool_) or (isinstance(value, Tensor) and value.dim() == 0)


def _is_binary(values: Tensor) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _holds_images(value: Any) -> bool:
    """Whether a value holds images: batches of them, or single ones in a list."""
    if isinstance(value, Tensor):
        return value.dim() >= 3
    return any(_holds_images(entry) for entry in children(value).values())
