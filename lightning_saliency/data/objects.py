"""Where the objects are in images: boxes and masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.data.trees import describe


def boxes_to_masks(boxes: Tensor | Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Fill the pixels of boxes: of one an image, or of any number of them.

    Args:
        boxes: `(N, 4)`, one for each image; or N tensors `(k, 4)`, each an image's k ≥ 0 boxes; as (x1, y1, x2, y2) in
            pixels, x2 and y2 outside.
        size: Height and width of the images.

    Returns:
        `(N, 1, H, W)` bool: whether the pixel lies in the image's box, or in one of its boxes.

    Raises:
        ValueError: The boxes are not `(N, 4)`, or one of the tensors is not `(k, 4)`.

    Example:
        >>> boxes_to_masks(torch.tensor([[1, 0, 3, 1]]), (2, 3)).int()
        tensor([[[[0, 1, 1],
                  [0, 0, 0]]]], dtype=torch.int32)
        >>> boxes_to_masks([torch.tensor([[1, 0, 3, 1], [0, 1, 1, 2]]), torch.empty(0, 4)], (2, 3)).sum((1, 2, 3))
        tensor([3, 0])
    """
    if isinstance(boxes, Tensor):
        return _filled(boxes, size, "boxes")
    masks = [_filled(several, size, f"boxes[{row}]").any(0) for row, several in enumerate(boxes)]
    return torch.stack(masks) if masks else torch.zeros(0, 1, *size, dtype=torch.bool)


def objects_to_masks(objects: Any, count: int, size: Sequence[int]) -> Tensor:
    """Turn boxes or masks of objects into masks of their pixels.

    Args:
        objects: Boxes `(N, 4)` as (x1, y1, x2, y2) in pixels, x2 and y2 outside; N tensors of boxes `(k, 4)`, for
            several objects an image; or masks `(N, H, W)` or `(N, 1, H, W)`, of which what is not 0 is the object.
        count: N.
        size: (H, W) of the images.

    Returns:
        `(N, 1, H, W)` bool on the CPU.

    Raises:
        ValueError: It is none of these.

    Example:
        >>> objects_to_masks(torch.tensor([[1, 0, 3, 1]]), 1, (2, 4)).int()
        tensor([[[[0, 1, 1, 0],
                  [0, 0, 0, 0]]]], dtype=torch.int32)
    """
    height, width = size
    if isinstance(objects, list | tuple) and len(objects) == count:
        if all(isinstance(boxes, Tensor) and boxes.dim() == 2 and boxes.shape[1] == 4 for boxes in objects):
            return boxes_to_masks([boxes.detach().cpu() for boxes in objects], size)
    elif isinstance(objects, Tensor) and len(objects) == count:
        objects = objects.detach().cpu()
        if objects.dim() == 2 and objects.shape[1] == 4:
            return boxes_to_masks(objects, size)
        if objects.shape in ((count, height, width), (count, 1, height, width)):
            present: Tensor = objects != 0
            return present.view(count, 1, height, width)
    raise ValueError(
        f"Expected `objects` to be, for {count} images of {height}×{width}, boxes ({count}, 4), a list of {count} "
        f"tensors of boxes (k, 4), or masks ({count}, 1, {height}, {width}), got {describe(objects)}."
    )


def _filled(boxes: Tensor, size: Sequence[int], name: str) -> Tensor:
    """`(k, 4)` -> `(k, 1, H, W)`."""
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"Expected `{name}` to be (N, 4), got shape {tuple(boxes.shape)}.")
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    columns, rows = torch.arange(size[1], device=boxes.device), torch.arange(size[0], device=boxes.device)
    across, down = (columns >= left) & (columns < right), (rows >= top) & (rows < bottom)
    return (down[:, :, None] & across[:, None, :])[:, None]
