"""`ObjectBoxes`: what a batch says of the objects of its images, their boxes and classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert

from lightning_saliency.data.trees import children, leaves

_CLASSES = ("labels", "class_labels", "label", "classes", "category_id", "category")
"""The usual names of the classes of an image's objects."""

_FORMS = {"boxes": "xyxy", "bbox_xyxy": "xyxy", "bbox_xywh": "xywh", "bbox": "xywh"}
"""The usual names of an image's boxes, and the form that they have under them."""

_LISTS = ("annotations", "objects")
"""The usual names of what holds an image's objects one by one, as COCO does."""

_SLACK = 1.0
"""How far a box may go over the image's edge, in pixels: rounding."""


@dataclass(frozen=True)
class ObjectBoxes:
    """The objects of an image.

    Attributes:
        corners: `(k, 4)` float32, (x1, y1, x2, y2) in pixels, x2 and y2 outside.
        classes: `(k,)` int64.
    """

    corners: Tensor
    classes: Tensor

    def of_class(self, index: int) -> Tensor:
        """Return the boxes of the objects of a class, `(n, 4)`."""
        return self.corners[self.classes == index]


def find_object_classes(batch: Any, count: int) -> list[Tensor] | None:
    """Return the classes of each image's objects, N tensors `(k,)` int64; None where a batch does not hold them.

    Args:
        batch: A batch that holds for each image a mapping with its objects' classes, or a list of mappings, one for
            each object; or the classes of all images under their name.
        count: N.

    Example:
        >>> find_object_classes(([torch.zeros(3, 8, 8)], [{"boxes": torch.ones(1, 4), "labels": torch.tensor([2])}]), 1)
        [tensor([2])]
    """
    return next((classes for _, classes in _found(batch, count)), None)


def find_object_boxes(batch: Any, sizes: Sequence[Sequence[int]]) -> list[ObjectBoxes] | None:
    """Return the boxes and classes of each image's objects; None where a batch does not hold them in a certain form.

    Boxes are (x1, y1, x2, y2) in pixels, as torchvision's detectors take them (`boxes`, or `bbox_xyxy`); or (x1, y1,
    width, height), as COCO has them (`bbox`, one for each object, or `bbox_xywh`); or, where all are at most 1, center
    and size relative to the image's, as DETR takes them (`boxes`). A `torchvision.tv_tensors.BoundingBoxes` says its
    form itself. Boxes in pixels count only where the batch holds images of the model's size, and they are in them.

    Args:
        batch: See `find_object_classes`.
        sizes: Of each image (H, W), as the model gets it.

    Example:
        >>> target = {"boxes": torch.tensor([[0.5, 0.5, 0.5, 1.0]]), "class_labels": torch.tensor([2])}
        >>> find_object_boxes([target], [(10, 20)])[0].corners
        tensor([[ 5.,  0., 15., 10.]])
    """
    for targets, classes in _found(batch, len(sizes)):
        corners = _corners(targets, sizes, batch)
        if corners is not None and all(map(_are_alike, corners, classes)):
            return [ObjectBoxes(*pair) for pair in zip(corners, classes, strict=True)]
    return None


def _are_alike(corners: Tensor, classes: Tensor) -> bool:
    return len(corners) == len(classes)


def _found(tree: Any, count: int) -> Iterator[tuple[list[dict[Any, Any]], list[Tensor]]]:
    """Yield what may be the objects of N images, a mapping for each, with their classes."""
    for targets in _targets(tree, count):
        classes = [next((one[name] for name in _CLASSES if name in one), None) for one in targets]
        if all(isinstance(labels, Tensor) and labels.dim() == 1 for labels in classes):
            yield targets, [labels.long().cpu() for labels in classes if labels is not None]
    for entry in children(tree).values():
        yield from _found(entry, count)


def _targets(tree: Any, count: int) -> Iterator[list[dict[Any, Any]]]:
    """Yield N mappings, where a container holds one for each image, one for each object, or columns of all images."""
    entries = children(tree)
    if isinstance(tree, list | tuple) and len(tree) == count > 0:
        yield [_joined(one) for one in tree]
    elif isinstance(tree, Mapping):
        columns = {
            name: list(value)
            for name, value in entries.items()
            if name in (*_CLASSES, *_FORMS) and isinstance(value, list | tuple | Tensor) and _is_column(value, count)
        }
        if columns.keys() & set(_FORMS):  # else they are the classes of the images
            yield [{name: column[row] for name, column in columns.items()} for row in range(count)]


def _is_column(value: Any, count: int) -> bool:
    return len(value) == count if not isinstance(value, Tensor) else value.dim() > 1 and len(value) == count


def _joined(one: Any) -> dict[Any, Any]:
    """Return what is said of an image's objects by name; of a list with a mapping for each object, as one."""
    entries = children(one)
    if isinstance(one, Mapping):
        listed = next((entries[name] for name in _LISTS if isinstance(entries.get(name), list | tuple)), None)
        if listed is None:
            return entries
        one = listed
    if not isinstance(one, list | tuple) or not all(isinstance(item, Mapping) for item in one):
        return {}
    objects = [item for item in one if not item.get("iscrowd")]
    names = [name for name in ("bbox", "category_id") if all(name in item for item in objects)]
    width = {"bbox": (0, 4), "category_id": (0,)}
    return {
        name: torch.as_tensor([list(item[name]) if name == "bbox" else int(item[name]) for item in objects])
        if objects
        else torch.zeros(width[name])
        for name in names
    }


def _corners(targets: Sequence[Mapping[Any, Any]], sizes: Sequence[Sequence[int]], batch: Any) -> list[Tensor] | None:
    """Return the corners of each image's boxes in pixels; None where their form is not certain."""
    name = next((name for name in _FORMS if all(name in one for one in targets)), None)
    if name is None:
        return None
    boxes = [_as_boxes(one[name]) for one in targets]
    if any(one is None for one in boxes):
        return None
    known = [one for one in boxes if one is not None]
    form = getattr(getattr(targets[0][name], "format", None), "value", _FORMS[name]).lower()
    everything = torch.cat(known)
    if name == "boxes" and len(everything) and bool(((everything >= 0) & (everything <= 1)).all()):
        scales = [torch.tensor([width, height] * 2) for height, width in sizes]
        corners = [box_convert(one, "cxcywh", "xyxy") * scale for one, scale in zip(known, scales, strict=True)]
    elif {tuple(size) for size in sizes} <= _image_sizes(batch):
        corners = [box_convert(one, form, "xyxy") for one in known]
    else:
        return None
    return corners if all(map(_are_within, corners, sizes)) else None


def _as_boxes(value: Any) -> Tensor | None:
    if not isinstance(value, Tensor):
        return None
    plain = value.detach().as_subclass(Tensor).float().cpu()
    return plain.reshape(-1, 4) if plain.shape[-1:] == (4,) or not plain.numel() else None


def _are_within(corners: Tensor, size: Sequence[int]) -> bool:
    """Whether boxes are boxes, and lie in an image."""
    is_box = (corners[:, 2:] >= corners[:, :2]).all()
    most = torch.tensor([size[1], size[0]] * 2)
    return bool(is_box and (corners >= -_SLACK).all() and (corners <= most + _SLACK).all())


def _image_sizes(batch: Any) -> set[tuple[int, ...]]:
    """Return the sizes (H, W) of what may be images in a batch."""
    return {tuple(value.shape[-2:]) for _, value in leaves(batch) if isinstance(value, Tensor) and value.dim() > 2}
