"""The tasks of detectors: an image has boxes, each with classes."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from lightning_saliency.data import NOTHING, Answer
from lightning_saliency.evidence.task import Reading, Task, TaskName


class Detection(Task):
    """Each query, or detection, has any of K classes, each with a sigmoid of its own, and a box.

    Explained is of a class the logarithm of the odds of its most probable box; what is predicted for an image is the
    class of the most probable one.
    """

    name: ClassVar[TaskName] = "detection"

    def read(self, output: Tensor) -> Reading | None:
        """Return the reading of an output `(N, Q, K)`."""
        if output.dim() != 3 or not output.numel() or not self.odds(output).numel():
            return None
        return Reading(self, self.odds(output).amax(1))

    def odds(self, output: Tensor) -> Tensor:
        """Return the logarithm of the odds of each class of each query, `(N, Q, K)`."""
        return output

    def predictions(self, logits: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return the class of the most probable box; −1 where there is no box."""
        largest, classes = logits.detach().max(1)
        return classes.where(largest > -torch.inf, -1)

    def num_classes(self, logits: Tensor) -> int:
        """Return the number of classes, of which there may be one."""
        return logits.shape[1]

    def scores(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Return the score of a class's best box per sample, `(N,)`; −∞ where there is none, as of no class, −1."""
        return logits.gather(1, classes[:, None].clamp(min=0))[:, 0]

    def probabilities(self, logits: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return the probability of each class's best box."""
        return logits.sigmoid()

    def answers(self, logits: Tensor, masks: Tensor | None = None) -> list[Answer | None]:
        """Return for each sample the classes with a box that is more probable than not; at least the likeliest."""
        best = [() if one < 0 else (one,) for one in self.predictions(logits).tolist()]
        return [tuple(row.nonzero()[:, 0].tolist()) or one for row, one in zip(logits > 0, best, strict=True)]

    def absence(self, score: float, predicted: int) -> str | None:
        """Return in words that there is no box of the explained class; None where there is one."""
        if score > -math.inf or math.isnan(score):
            return None
        return NOTHING[self.name] if predicted < 0 else "no box of this class"


class SoftmaxDetection(Detection):
    """Each query has one of K classes, or none: a softmax of K + 1, the last for "no object" (Carion 2020, DETR)."""

    name: ClassVar[TaskName] = "detection_softmax"

    def odds(self, output: Tensor) -> Tensor:
        """Return the logarithm of the odds of each class of each query, `(N, Q, K)`, of logits `(N, Q, K + 1)`."""
        logarithms = output.log_softmax(2)[..., :-1]
        surest = 1 - torch.finfo(output.dtype).eps
        return logarithms - torch.log1p(-logarithms.exp().clamp(max=surest))


class ListedDetection(Detection):
    """Each image has a list of what is detected in it, which may be empty: a class, its probability and a box each.

    How many classes there are is not known: the logits have some more columns than the largest class that occurs.
    """

    name: ClassVar[TaskName] = "detection_list"
    has_all_classes: ClassVar[bool] = False
