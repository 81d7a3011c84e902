"""Boxes of detections, drawn into the images of a sheet."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_saliency.attribution import Explanation

_PREDICTED = (255, 255, 255)
_EDGE = (0, 0, 0)
_SIDE_OF_A_PIXEL = 256
"""The side of images in which a box's line is one pixel wide: larger ones are reduced, smaller ones enlarged."""


def with_boxes(images: Tensor, explanation: Explanation) -> Tensor:
    """Return the images with the best box of the explained class; those without boxes as they are.

    Args:
        images: `(N, 3, H, W)`, uint8.
        explanation: What was explained of them.
    """
    if explanation.boxes is None or explanation.classes is None:
        return images
    rows = torch.arange(len(images))
    boxes = explanation.boxes.cpu()[rows, explanation.classes.cpu()]
    pairs = zip(images, boxes, strict=True)
    return torch.stack([image if box.isnan().any() else draw_box(image, box) for image, box in pairs])


def draw_box(image: Tensor, box: Tensor) -> Tensor:
    """Return an image with a box: a white line on a dark one, seen on any pixels.

    Args:
        image: `(3, H, W)`, uint8.
        box: `(4,)`: x1, y1, x2, y2 in pixels, x2 and y2 outside; what lies outside the image is cut.

    Example:
        >>> draw_box(torch.zeros(3, 4, 4, dtype=torch.uint8), torch.tensor([1.0, 1, 4, 3]))[0]
        tensor([[  0,   0,   0,   0],
                [  0, 255, 255, 255],
                [  0, 255, 255, 255],
                [  0,   0,   0,   0]], dtype=torch.uint8)
    """
    height, width = image.shape[1:]
    page = Image.fromarray(np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy()))
    draw = ImageDraw.Draw(page)
    x1, y1, x2, y2 = box.round().tolist()
    left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    right, bottom = min(max(x2 - 1, left), width - 1), min(max(y2 - 1, top), height - 1)
    line = max(1, round(max(height, width) / _SIDE_OF_A_PIXEL))
    if max(height, width) >= _SIDE_OF_A_PIXEL // 2:  # where one more line hides no part of the object
        draw.rectangle((left - line, top - line, right + line, bottom + line), outline=_EDGE, width=line)
    draw.rectangle((left, top, right, bottom), outline=_PREDICTED, width=line)
    return torch.from_numpy(np.array(page)).permute(2, 0, 1)
