"""Objects in images: boxes, masks of pixels, and the conversion of one to the other.

Boxes are torchvision's (x1, y1, x2, y2) in pixels, where x2 and y2 are the first column and row outside. They are of
images; objects in volumes and signals are given as masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor

from lightning_saliency._checks import OptionError, check_bool, check_shape, refuse
from lightning_saliency.data.spatial import times
from lightning_saliency.data.trees import describe


def boxes_to_masks(boxes: Tensor | Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Return masks of the pixels inside boxes, one box or several per image.

    Args:
        boxes: `(N, 4)`, one for each image; or N tensors `(k, 4)`, each an image's k ≥ 0 boxes.
        size: Height and width of the images.

    Returns:
        `(N, 1, H, W)` bool: whether the pixel lies in the image's box, or in one of its boxes.

    Raises:
        ValueError: The boxes are not `(N, 4)`, or one of the tensors is not `(k, 4)`; or the size is not of images.

    Example:
        >>> boxes_to_masks(torch.tensor([[1, 0, 3, 1]]), (2, 3)).int()
        tensor([[[[0, 1, 1],
                  [0, 0, 0]]]], dtype=torch.int32)
        >>> boxes_to_masks([torch.tensor([[1, 0, 3, 1], [0, 1, 1, 2]]), torch.empty(0, 4)], (2, 3)).sum((1, 2, 3))
        tensor([3, 0])
    """
    if len(size) != 2:
        refuse("size", "(H, W), since boxes are for images only", tuple(size))
    if isinstance(boxes, Tensor):
        check_shape("boxes", boxes, ("N", 4))
        return _filled(boxes, size)
    for row, image_boxes in enumerate(boxes):
        check_shape(f"boxes[{row}]", image_boxes, ("N", 4))
    masks = [_filled(image_boxes, size).any(0) for image_boxes in boxes]
    return torch.stack(masks) if masks else torch.zeros(0, 1, *size, dtype=torch.bool)


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Return the smallest box around the pixels of each mask.

    Args:
        masks: `(N, 1, H, W)` bool.

    Returns:
        `(N, 4)` float32; zeros for an empty mask.

    Raises:
        ValueError: The masks are not bool of `(N, 1, H, W)`.

    Example:
        >>> masks_to_boxes(torch.tensor([[[[False, True, True], [False, False, True]]]]))
        tensor([[1., 0., 3., 2.]])
    """
    check_bool("masks", check_shape("masks", masks, ("N", 1, "H", "W")))
    boxes = torch.zeros(len(masks), 4, device=masks.device)
    is_present = masks.flatten(1).any(1)
    outside = torch.tensor([0, 0, 1, 1], device=masks.device)  # torchvision's are the last column and row inside
    boxes[is_present] = torchvision.ops.masks_to_boxes(masks[is_present, 0]) + outside
    return boxes


def objects_to_masks(objects: Any, count: int, size: Sequence[int]) -> Tensor:
    """Return masks of the pixels of objects that are given as boxes or masks.

    Args:
        objects: Boxes `(N, 4)` as (x1, y1, x2, y2) in pixels, x2 and y2 outside; N tensors of boxes `(k, 4)`, for
            several objects per image; or masks `(N, H, W)` or `(N, 1, H, W)`, not 0 at the pixels of the objects. Of
            volumes masks `(N, D, H, W)` or `(N, 1, D, H, W)`, of signals `(N, T)` or `(N, 1, T)`.
        count: N, the number of images.
        size: (H, W) of the images, (D, H, W) of volumes, (T,) of signals.

    Returns:
        `(N, 1, H, W)` bool on the CPU.

    Raises:
        ValueError: `objects` is none of these.

    Example:
        >>> objects_to_masks(torch.tensor([[1, 0, 3, 1]]), 1, (2, 4)).int()
        tensor([[[[0, 1, 1, 0],
                  [0, 0, 0, 0]]]], dtype=torch.int32)
    """
    masks = (count, 1, *size)
    if isinstance(objects, Tensor) and objects.shape in (masks, (count, *size)):
        present: Tensor = objects.detach().cpu() != 0
        return present.view(masks)
    can_be_boxes = len(size) == 2 and isinstance(objects, Tensor | list | tuple) and len(objects) == count
    if can_be_boxes and _is_boxes(objects):
        return boxes_to_masks(objects.detach().cpu(), size)
    if can_be_boxes and all(map(_is_boxes, objects)):
        return boxes_to_masks([boxes.detach().cpu() for boxes in objects], size)
    boxes = f"boxes ({count}, 4), a list of {count} tensors of boxes (k, 4), or " if len(size) == 2 else ""
    raise OptionError(
        f"Expected `objects` to be, for {count} images of {times(size)}, {boxes}masks {masks}, got "
        f"{describe(objects)}.{'' if boxes else ' Boxes are for images (N, C, H, W) only.'}",
        "samples.objects",
    )


def _is_boxes(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and value.shape[1] == 4


def _filled(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Return the mask of each box: `(N, 4)` -> `(N, 1, H, W)` bool."""
    x1, y1, x2, y2 = (corner[:, None] for corner in boxes.unbind(1))
    y, x = torch.arange(size[0], device=boxes.device), torch.arange(size[1], device=boxes.device)
    rows, columns = (y1 <= y) & (y < y2), (x1 <= x) & (x < x2)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
