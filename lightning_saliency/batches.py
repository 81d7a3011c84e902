"""What is in a batch: its images, its labels, and where the objects are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

from torch import Tensor

from lightning_saliency.metrics import boxes_to_masks

InputFn: TypeAlias = Callable[[Any], Tensor | tuple[Tensor, Tensor]]
"""Takes the images `(N, C, H, W)`, or the images and the labels `(N,)`, out of a batch."""

Objects: TypeAlias = Callable[[Any], Any] | Tensor | Sequence[Tensor]
"""Takes out of a batch where the objects are, as `objects_to_masks` takes it; or that itself, for each sample."""

_IMAGE_NAMES = ("image", "images", "img", "imgs", "pixel_values", "x", "input", "inputs", "data")
_LABEL_NAMES = ("label", "labels", "target", "targets", "y", "class", "classes", "class_id", "category")


def split_batch(batch: Any, input_fn: InputFn | None = None) -> tuple[Tensor, Tensor | None]:
    """Find the images and the labels in a batch.

    The images are the first floating-point tensor `(N, C, H, W)`, under a usual name first. The labels are a tensor of
    N classes beside it: in a tuple or list the first one, under names the one with a usual name, or the only one.
    Batches inside batches (dicts of batches from several loaders, `({"image": ...}, label)`) are looked into.

    Args:
        batch: A tensor, list, tuple, named tuple, mapping or dataclass.
        input_fn: Does it in place of this search.

    Returns:
        Images `(N, C, H, W)`, and labels `(N,)` int64 or None.

    Raises:
        ValueError: No images are found.

    Example:
        >>> import torch
        >>> batch = {"id": torch.arange(2), "x": torch.zeros(2, 3, 8, 8), "y": torch.tensor([1, 0])}
        >>> images, labels = split_batch(batch)
        >>> images.shape, labels
        (torch.Size([2, 3, 8, 8]), tensor([1, 0]))
    """
    found = _from_input_fn(input_fn(batch)) if input_fn else _search(batch)
    if found is None:
        source = "`input_fn` to return" if input_fn else "the batch to hold"
        raise ValueError(
            f"Expected {source} images: a floating-point tensor (N, C, H, W), got {describe(batch)}. "
            "Pass an `input_fn` that takes images, or (images, labels), out of the batch."
        )
    return found


def objects_to_masks(objects: Any, images: Tensor) -> Tensor:
    """Where the objects are -> their pixels.

    Args:
        objects: For images `(N, C, H, W)` boxes `(N, 4)` as (x1, y1, x2, y2) in their pixels, x2 and y2 outside; N
            tensors of boxes `(k, 4)`, for several objects an image; or masks `(N, H, W)` or `(N, 1, H, W)`, of which
            what is not 0 is the object.
        images: The images.

    Returns:
        `(N, 1, H, W)` bool on the CPU.

    Raises:
        ValueError: It is none of these.

    Example:
        >>> import torch
        >>> objects_to_masks(torch.tensor([[1, 0, 3, 1]]), torch.zeros(1, 3, 2, 4)).int()
        tensor([[[[0, 1, 1, 0],
                  [0, 0, 0, 0]]]], dtype=torch.int32)
    """
    count, size = len(images), images.shape[2:]
    if isinstance(objects, list | tuple) and len(objects) == count:
        if all(isinstance(boxes, Tensor) and boxes.dim() == 2 and boxes.shape[1] == 4 for boxes in objects):
            return boxes_to_masks([boxes.detach().cpu() for boxes in objects], size)
    elif isinstance(objects, Tensor) and len(objects) == count:
        objects = objects.detach().cpu()
        if objects.dim() == 2 and objects.shape[1] == 4:
            return boxes_to_masks(objects, size)
        if objects.shape in ((count, *size), (count, 1, *size)):
            present: Tensor = objects != 0
            return present.view(count, 1, *size)
    raise ValueError(
        f"Expected `objects` to be, for {count} images of {size[0]}×{size[1]}, boxes ({count}, 4), a list of {count} "
        f"tensors of boxes (k, 4), or masks ({count}, 1, {size[0]}, {size[1]}), got {describe(objects)}."
    )


def _from_input_fn(found: Any) -> tuple[Tensor, Tensor | None] | None:
    images, labels = found if isinstance(found, tuple | list) and len(found) == 2 else (found, None)
    if not is_images(images):
        return None
    if labels is not None and not is_labels(labels, len(images)):
        raise ValueError(
            f"Expected `input_fn` to return labels of shape ({len(images)},) and an integer dtype beside the images, "
            f"got {describe(labels)}."
        )
    return images, None if labels is None else labels.reshape(-1).long()


def _search(part: Any) -> tuple[Tensor, Tensor | None] | None:
    if isinstance(part, Tensor):
        return (part, None) if is_images(part) else None
    named = _fields(part)
    usual_first = sorted(named, key=lambda name: _IMAGE_NAMES.index(name) if name in _IMAGE_NAMES else 99)
    for name in usual_first:
        found = _search(named[name])
        if found is not None:
            images, labels = found
            return images, _labels_beside(named, len(images)) if labels is None else labels
    return None


def _labels_beside(named: Mapping[Any, Any], num_images: int) -> Tensor | None:
    found: dict[Any, Tensor] = {name: value for name, value in named.items() if is_labels(value, num_images)}
    usual = [found[name] for name in _LABEL_NAMES if name in found]
    is_positional = all(isinstance(name, int) for name in named)
    others = list(found.values()) if is_positional or len(found) == 1 else []
    for labels in usual + others:
        return labels.reshape(-1).long()
    return None


def _fields(part: Any) -> dict[Any, Any]:
    if isinstance(part, Mapping):
        return dict(part)
    if is_dataclass(part):
        return {item.name: getattr(part, item.name) for item in fields(part)}
    if isinstance(part, tuple) and hasattr(part, "_asdict"):
        return dict(part._asdict())
    return dict(enumerate(part)) if isinstance(part, tuple | list) else {}


def is_images(value: Any) -> bool:
    """A batch of images as a model takes them."""
    return isinstance(value, Tensor) and value.dim() == 4 and value.is_floating_point() and value.numel() > 0


def is_labels(value: Any, num_images: int) -> bool:
    """One class per image; a binary model's 0 and 1 may be floats."""
    if not isinstance(value, Tensor) or value.shape not in ((num_images,), (num_images, 1)) or value.is_complex():
        return False
    return not value.is_floating_point() or bool(((value == 0) | (value == 1)).all())


def describe(batch: Any) -> str:
    """What came, in words for a message."""
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)} and dtype {batch.dtype}"
    named = _fields(batch)
    if not named:
        return f"a {type(batch).__name__}"
    return f"a {type(batch).__name__} of {{{', '.join(f'{name}: {describe(part)}' for name, part in named.items())}}}"
