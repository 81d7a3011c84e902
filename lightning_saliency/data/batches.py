"""Finding the images and the labels in a batch of a data loader."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from lightning_saliency.data.trees import children, describe

_IMAGE_NAMES = ("image", "images", "img", "imgs", "pixel_values", "x", "input", "inputs", "data")
_LABEL_NAMES = ("label", "labels", "target", "targets", "y", "class", "classes", "class_id", "category")


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
    candidates = (_first_images(batch, num_axes) for num_axes in ((4, 5, 3) if signals else (4, 5)))
    images = next((images for images in candidates if images is not None), None)
    if images is None:
        raise ValueError(
            f"Expected the batch to hold images: a floating-point tensor (N, C, H, W), got {describe(batch)}."
        )
    return images


def find_labels(batch: Any, count: int, num_classes: int | None = None) -> Tensor | None:
    """Return the labels of a batch: one class for each of its images.

    They are a tensor of N integers (or of zeros and ones) in the same container as the images: under a usual name, or
    the only one; in a tuple or list the first one after the images. Nested batches (dicts of batches from several
    loaders, `({"image": ...}, label)`) are searched too. Where the number of classes is known, tensors that do not fit
    it are skipped, such as the indices of the images.

    Args:
        batch: A tensor, list, tuple, named tuple, mapping or dataclass, also nested.
        count: N, the number of images.
        num_classes: K, the number of logits; None where it is not known.

    Returns:
        `(N,)` int64, or None where the batch holds no labels.

    Example:
        >>> import torch
        >>> find_labels((torch.arange(2), torch.zeros(2, 3, 8, 8), torch.tensor([1, 0])), 2)
        tensor([1, 0])
    """
    entries = children(batch)
    labels: dict[Any, Tensor] = {name: entry for name, entry in entries.items() if is_labels(entry, count)}
    is_positional = all(isinstance(name, int) for name in entries)
    usual = [labels[name] for name in _LABEL_NAMES if name in labels]
    candidates = usual or (list(labels.values()) if is_positional or len(labels) == 1 else [])
    if is_positional:
        image_index = next((name for name, entry in entries.items() if _holds_images(entry)), -1)
        candidates = [labels[name] for name in sorted(labels, key=lambda name: name < image_index)]
    for candidate in candidates:
        if fit_labels(candidate, num_classes):
            return candidate.reshape(-1).long()
    # the container with the images first
    for entry in sorted(entries.values(), key=lambda entry: not _holds_images(entry)):
        nested_labels = find_labels(entry, count, num_classes) if children(entry) else None
        if nested_labels is not None:
            return nested_labels
    return candidates[0].reshape(-1).long() if candidates else None


def fit_labels(labels: Tensor, num_classes: int | None) -> bool:
    """Whether all labels are classes of a model with so many logits; a single logit has the classes 0 and 1."""
    return num_classes is None or bool(((labels >= 0) & (labels < max(num_classes, 2))).all())


def is_images(value: Any, num_axes: Collection[int] = (4, 5)) -> bool:
    """Whether a value is a batch of images `(N, C, H, W)` or volumes `(N, C, D, H, W)`, in floating point.

    Args:
        value: Any value.
        num_axes: How many axes it may have; 3 for signals `(N, C, T)`.
    """
    return isinstance(value, Tensor) and value.dim() in num_axes and value.is_floating_point() and value.numel() > 0


def is_labels(value: Any, count: int) -> bool:
    """Whether a value holds one class for each of so many images; the 0 and 1 of a binary model may be floats."""
    if not isinstance(value, Tensor) or value.shape not in ((count,), (count, 1)) or value.is_complex():
        return False
    return not value.is_floating_point() or bool(((value == 0) | (value == 1)).all())


def _holds_images(value: Any) -> bool:
    """Whether a value holds images: batches of them, or single ones in a list."""
    if isinstance(value, Tensor):
        return value.dim() >= 3
    return any(_holds_images(entry) for entry in children(value).values())


def _first_images(value: Any, num_axes: int) -> Tensor | None:
    if isinstance(value, Tensor):
        return value if is_images(value, [num_axes]) else None
    entries: Mapping[Any, Any] = children(value)
    for name in sorted(entries, key=lambda name: _IMAGE_NAMES.index(name) if name in _IMAGE_NAMES else 99):
        images = _first_images(entries[name], num_axes)
        if images is not None:
            return images
    return None
