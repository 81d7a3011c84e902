"""The classes of a segmentation laid over pictures: of images, of volumes, and along signals."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.visualization.colors import class_overlay

_PAPER = 255


def with_classes(picture: Tensor, classes: Tensor) -> Tensor:
    """Lay the class of each pixel over a picture of an image or a volume; of a signal return the colors alone.

    Args:
        picture: `(3, H, W)` uint8; or of a volume `(C, D, H, W)`; or of a signal `(C, T)`.
        classes: As many spatial axes, of any size; see `class_overlay`.

    Returns:
        `(3, H, W)`, `(3, D, H, W)` or `(3, T)`, uint8.

    Example:
        >>> with_classes(torch.zeros(1, 2, 4, 4, dtype=torch.uint8), torch.ones(2, 4, 4)).shape
        torch.Size([3, 2, 4, 4])
    """
    if picture.dim() == 3:
        return class_overlay(picture[None], classes[None])[0]
    sized = F.interpolate(classes[None, None].double(), tuple(picture.shape[1:]), mode="nearest-exact")[0, 0].long()
    if picture.dim() == 2:
        paper = torch.full((1, 3, 1, picture.shape[1]), _PAPER, dtype=torch.uint8)
        return class_overlay(paper, sized[None, None], alpha=1.0)[0, :, 0]
    slices = picture.expand(3, -1, -1, -1).movedim(1, 0)
    return class_overlay(slices, sized).movedim(0, 1)
