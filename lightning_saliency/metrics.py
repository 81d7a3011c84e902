"""What a heatmap says in numbers: pure functions on heatmaps."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


def heatmaps_to_boxes(heatmaps: Tensor, threshold: float = 0.2) -> tuple[Tensor, Tensor]:
    """Draw a box around what each heatmap marks.

    Zhou et al. 2016, section 3.2: "We first segment the regions of which the value is above 20% of the max value of the
    CAM. Then we take the bounding box that covers the largest connected component in the segmentation map."

    Args:
        heatmaps: `(N, 1, H, W)`, not negative; neighbours are connected over edges and corners.
        threshold: The fraction of each map's maximum that a pixel must exceed, in [0, 1).

    Returns:
        Boxes `(N, 4)` float32 in torchvision's form (x1, y1, x2, y2), where x2 and y2 are the first column and row
        outside; and whether there is one, `(N,)` bool: a blank map, without any positive value, gives zeros.

    Raises:
        ValueError: The heatmaps are not `(N, 1, H, W)`, or the threshold is out of range.

    Example:
        >>> heatmap = torch.zeros(1, 1, 6, 8)
        >>> heatmap[..., 1:4, 2:7] = 1.0
        >>> heatmaps_to_boxes(heatmap)
        (tensor([[2., 1., 7., 4.]]), tensor([True]))
    """
    if heatmaps.dim() != 4 or heatmaps.shape[1] != 1:
        raise ValueError(f"Expected `heatmaps` to be (N, 1, H, W), got shape {tuple(heatmaps.shape)}.")
    if not 0 <= threshold < 1:
        raise ValueError(f"Expected `threshold` to be in [0, 1), got {threshold}.")
    maps = heatmaps.detach()[:, 0].cpu().float()
    found = (maps.amax((1, 2)) > 0) & maps.isfinite().all(2).all(1)
    boxes = torch.zeros(len(maps), 4)
    for row in found.nonzero()[:, 0].tolist():
        labels, _ = ndimage.label((maps[row] > threshold * maps[row].max()).numpy(), structure=_EIGHT_NEIGHBOURS)
        sizes = np.bincount(labels.ravel())
        largest = 1 + int(sizes[1:].argmax())
        rows, columns = ndimage.find_objects(labels)[largest - 1]
        boxes[row] = torch.tensor([columns.start, rows.start, columns.stop, rows.stop])
    return boxes.to(heatmaps.device), found.to(heatmaps.device)
