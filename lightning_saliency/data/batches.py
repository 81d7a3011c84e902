"""What is in a batch of a data loader: its images and its labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_saliency.data.trees import children, describe

_IMAGE_NAMES = ("image", "images", "img", "imgs", "pixel_values", "x", "input", "inputs", "data")
_LABEL_NAMES = ("label", "labels", "target", "targets", "y", "class", "classes", "class_id", "category")


def find_images(batch: Any) -> Tensor:
    """Return the images of a batch: the first floating-point tensor `(N, C, H, W)`, under a usual name first.

    Args:
        batch: A tensor, list, tuple, named tuple, mapping or dataclass, or several in each other.

    Raises:
        ValueError: There is none.

    Example:
        >>> import torch
        >>> find_images({"id": torch.arange(2), "x": torch.zeros(2, 3, 8, 8)}).shape
        torch.Size([2, 3, 8, 8])
    """
    images = _first_images(batch)
    if images is None:
        raise ValueError(
            f"Expected the batch to hold images: a floating-point tensor (N, C, H, W), got {describe(batch)}."
        )
    return images


def find_labels(batch: Any, count: int, num_classes: int | None = None) -> Tensor | None:
    """Return the labels of a batch: one class for each of its images.

    They are a tensor of N integers (or of zeros and ones) that stands beside the images: under a usual name, or the
    only one; in a tuple or list the first one behind the images. Batches inside batches (dicts of batches from several
    loaders, `({"image": ...}, label)`) are looked into. Where the number of classes is known, what does not fit it is
    passed over, such as the indices of the images.

    Args:
        batch: A tensor, list, tuple, named tuple, mapping or dataclass, or several in each other.
        count: N.
        num_classes: K.

    Returns:
        `(N,)` int64, or None where there are none.

    Example:
        >>> import torch
        >>> find_labels((torch.arange(2), torch.zeros(2, 3, 8, 8), torch.tensor([1, 0])), 2)
        tensor([1, 0])
    """
    parts = children(batch)
    labels: dict[Any, Tensor] = {name: part for name, part in parts.items() if is_labels(part, count)}
    is_positional = all(isinstance(name, int) for name in parts)
    usual = [labels[name] for name in _LABEL_NAMES if name in labels]
    candidates = usual or (list(labels.values()) if is_positional or len(labels) == 1 else [])
    if is_positional:
        place = next((name for name, part in parts.items() if _holds_images(part)), -1)
        candidates = [labels[name] for name in sorted(labels, key=lambda name: name < place)]
    for candidate in candidates:
        if fit_labels(candidate, num_classes):
            return candidate.reshape(-1).long()
    # the images' own container first
    for part in sorted(parts.values(), key=lambda part: not _holds_images(part)):
        inner = find_labels(part, count, num_classes) if children(part) else None
        if inner is not None:
            return inner
    return candidates[0].reshape(-1).long() if candidates else None


def fit_labels(labels: Tensor, num_classes: int | None) -> bool:
    """Whether all labels are classes that the logits have; one logit has the classes 0 and 1."""
    return num_classes is None or bool(((labels >= 0) & (labels < max(num_classes, 2))).all())


def is_images(value: Any) -> bool:
    """Whether it is a batch of images as a model takes them."""
    return isinstance(value, Tensor) and value.dim() == 4 and value.is_floating_point() and value.numel() > 0


def is_labels(value: Any, count: int) -> bool:
    """Whether it is one class per image; a binary model's 0 and 1 may be floats."""
    if not isinstance(value, Tensor) or value.shape not in ((count,), (count, 1)) or value.is_complex():
        return False
    return not value.is_floating_point() or bool(((value == 0) | (value == 1)).all())


def _holds_images(part: Any) -> bool:
    """Whether images are in it: batches of them, or single ones in a list."""
    if isinstance(part, Tensor):
        return part.dim() >= 3
    return any(_holds_images(inner) for inner in children(part).values())


def _first_images(part: Any) -> Tensor | None:
    if isinstance(part, Tensor):
        return part if is_images(part) else None
    parts: Mapping[Any, Any] = children(part)
    for name in sorted(parts, key=lambda name: _IMAGE_NAMES.index(name) if name in _IMAGE_NAMES else 99):
        images = _first_images(parts[name])
        if images is not None:
            return images
    return None
