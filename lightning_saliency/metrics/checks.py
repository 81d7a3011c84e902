"""What the metrics ask of their arguments: each says which one, what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_shape(maps: Tensor, name: str = "heatmaps") -> None:
    """Refuses all but `(N, 1, H, W)`."""
    if maps.dim() != 4 or maps.shape[1] != 1:
        raise ValueError(f"Expected `{name}` to be (N, 1, H, W), got shape {tuple(maps.shape)}.")


def checked_maps(maps: Tensor, name: str = "heatmaps") -> Tensor:
    """Refuses other shapes and negative values; `(N, 1, H, W)` -> `(N, H, W)`, at least float32, without a graph."""
    check_shape(maps, name)
    if (maps < 0).any():
        raise ValueError(f"Expected `{name}` not to be negative, got {float(maps.min()):.3g}.")
    return at_least_float32(maps)[:, 0]


def check_masks(masks: Tensor, heatmaps: Tensor) -> None:
    """Refuses all but bool of the heatmaps' shape."""
    if masks.shape != heatmaps.shape or masks.dtype != torch.bool:
        raise ValueError(
            f"Expected `masks` to be bool of shape {tuple(heatmaps.shape)} as `heatmaps`, got {masks.dtype} of shape "
            f"{tuple(masks.shape)}. For boxes: `boxes_to_masks(boxes, (H, W))`."
        )


def check_boxes(boxes: Tensor, num: int | None = None, name: str = "boxes", of: str = "heatmaps") -> None:
    """Refuses all but `(N, 4)`, where `num` says what N is and `of` whence."""
    if boxes.dim() != 2 or boxes.shape[1] != 4 or num not in (None, len(boxes)):
        expected = "(N, 4)" if num is None else f"({num}, 4), a row for each of `{of}`"
        raise ValueError(f"Expected `{name}` to be {expected}, got shape {tuple(boxes.shape)}.")


def check_threshold(threshold: float) -> float:
    """Refuses what is not a fraction of the maximum that a pixel can exceed."""
    if not 0 <= threshold < 1:
        raise ValueError(f"Expected `threshold` to be in [0, 1), got {threshold}.")
    return threshold


def check_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    """The same for several; none would have no best one."""
    numbers = tuple(float(threshold) for threshold in thresholds)
    if not numbers or not all(0 <= number < 1 for number in numbers):
        raise ValueError(f"Expected `thresholds` to be one or more numbers in [0, 1), got {numbers}.")
    return numbers


def check_iou(iou: float) -> float:
    """Refuses an overlap that any box or none would have."""
    if not 0 < iou <= 1:
        raise ValueError(f"Expected `iou` to be in (0, 1], got {iou}.")
    return iou


def at_least_float32(values: Tensor) -> Tensor:
    """Without a graph, and in a type that sums of it fit in."""
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))
