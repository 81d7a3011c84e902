"""Detectors' outputs: of each image class scores and boxes, for a fixed number of queries or for what is detected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.data import children
from lightning_saliency.data.trees import leaves

_ABSENT = -torch.inf
"""The logarithm of the odds of a class of which nothing is detected."""

_LEAST_CLASSES = 128
"""So many classes a detector's output has at least that lists what it has detected: it does not tell how many."""


def detections(output: Any, num_samples: int) -> Any:
    """Return an output that lists the detections of each image as tensors for all; any other output as it is.

    Such a list has N mappings with `boxes (n, 4)`, `scores (n,)` and `labels (n,)`, as torchvision's detectors return
    it. It becomes `logits (N, Q, K)`, the logarithm of the odds of each detection's class, −∞ of all others, and
    `boxes (N, Q, 4)`, where Q is the largest n: the others are filled up with detections of no class.

    Example:
        >>> one = {"boxes": torch.zeros(1, 4), "scores": torch.tensor([0.5]), "labels": torch.tensor([2])}
        >>> tensors = detections([one, one], 2)
        >>> tensors["logits"].shape, tensors["logits"][0, 0, 2]
        (torch.Size([2, 1, 128]), tensor(0.))
    """
    if not is_list_of_detections(output, num_samples):
        return output
    count = max(1, *(len(one["scores"]) for one in output))
    largest = max((int(one["labels"].max()) for one in output if len(one["labels"])), default=0)
    width = _LEAST_CLASSES
    while width <= largest:
        width *= 2
    return {
        "logits": torch.stack([_class_logits(one, count, width) for one in output]),
        "boxes": torch.stack([_padded(one["boxes"], count) for one in output]),
    }


def is_list_of_detections(output: Any, num_samples: int) -> bool:
    """Whether an output lists the detections of each image."""
    is_list = isinstance(output, list | tuple) and len(output) == num_samples > 0
    return is_list and all(isinstance(one, Mapping) and _lists_detections(one) for one in output)


def boxes_beside(output: Any, scores: Tensor) -> Tensor | None:
    """Return the boxes `(N, Q, 4)` that stand beside class scores `(N, Q, K)` in an output; None where none do.

    Example:
        >>> output = {"pred_logits": torch.zeros(2, 5, 3), "pred_boxes": torch.zeros(2, 5, 4)}
        >>> boxes_beside(output, output["pred_logits"]) is output["pred_boxes"]
        True
    """
    if scores.dim() != 3:
        return None
    tensors = {path: value for path, value in leaves(output) if isinstance(value, Tensor) and value.dim() == 3}
    own = next((path for path, value in tensors.items() if value is scores), None)
    if own is None or _is_of_boxes(own[-1:]):
        return None
    beside = {path: value for path, value in tensors.items() if path[:-1] == own[:-1] and path != own}
    scored = [path for path in (own, *beside) if "logits" in str(path[-1:])]
    if scored and own not in scored:  # the features that they are made of
        return None
    fitting = [value for path, value in beside.items() if _is_of_boxes(path[-1:])]
    return next((value for value in fitting if value.shape == (*scores.shape[:2], 4)), None)


def best_boxes(odds: Tensor, boxes: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return the box of each class that has its largest score, in pixels.

    Args:
        odds: `(N, Q, K)`.
        boxes: `(N, Q, 4)`: in pixels (x1, y1, x2, y2); or relative to the image's size, all within [0, 1], then center
            and size.
        size: (H, W) of the images.

    Returns:
        `(N, K, 4)`, (x1, y1, x2, y2) in pixels; not a number for a class of which nothing is detected.

    Example:
        >>> best_boxes(torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[0.1] * 4, [0.5, 0.5, 0.5, 1.0]]]), (10, 20))
        tensor([[[ 5.,  0., 15., 10.]]])
    """
    boxes = boxes.detach().float()
    if boxes.numel() and bool(((boxes >= 0) & (boxes <= 1)).all()):
        center, extent = boxes[..., :2], boxes[..., 2:]
        scale = torch.tensor([size[1], size[0]] * 2, device=boxes.device)
        boxes = torch.cat([center - extent / 2, center + extent / 2], 2) * scale
    largest, queries = odds.detach().max(1)
    chosen = boxes.gather(1, queries[..., None].expand(-1, -1, 4))
    return chosen.where(largest[..., None] > _ABSENT, torch.nan)


def _is_of_boxes(names: tuple[Any, ...]) -> bool:
    return "box" in str(names)


def _lists_detections(one: Mapping[Any, Any]) -> bool:
    entries = children(one)
    boxes, scores, labels = (entries.get(name) for name in ("boxes", "scores", "labels"))
    if not (isinstance(boxes, Tensor) and isinstance(scores, Tensor) and isinstance(labels, Tensor)):
        return False
    return boxes.shape == (len(scores), 4) and scores.shape == labels.shape and scores.is_floating_point()


def _class_logits(one: Mapping[str, Tensor], count: int, width: int) -> Tensor:
    scores = one["scores"]
    tiny = torch.finfo(scores.dtype).eps
    odds = torch.logit(scores, tiny)
    is_class = torch.arange(width, device=scores.device) == one["labels"][:, None]
    rows = odds[:, None].where(is_class, _ABSENT)
    # a sum of nothing keeps the graph where nothing is detected
    return torch.cat([rows, rows.new_full((count - len(rows), width), _ABSENT) + 0 * scores.sum()])


def _padded(boxes: Tensor, count: int) -> Tensor:
    return torch.cat([boxes, boxes.new_zeros(count - len(boxes), 4)])
