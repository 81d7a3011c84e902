"""`Task`: what a model's output means: which scores are explained, what is predicted, how probable it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from torch import Tensor

from lightning_saliency.data import Answer

TaskName: TypeAlias = Literal[
    "multiclass",
    "ordinal",
    "multilabel",
    "regression",
    "segmentation",
    "multilabel_segmentation",
    "embedding",
    "detection",
    "detection_softmax",
    "detection_list",
]
"""What a model's output means, as an option names it; see `TASKS`."""


@dataclass(frozen=True)
class Reading:
    """What a model's output says of N samples.

    Attributes:
        task: What the output means.
        logits: `(N, K)`: what is explained, one of K for each sample.
        masks: The predicted class of each pixel, `(N, H, W)` int64, of a segmentation, or where the classes overlap
            the pixels of each, `(N, K, H, W)` bool; else None.
        boxes: Of a detection the best box of each class, `(N, K, 4)`, (x1, y1, x2, y2) in pixels, not a number where
            there is none; else None.
        unnormalized: Of embeddings that end in a normalization what goes into it, `(N, K)`; else None.
        value_maps: Of a single value the map of values beside it in the output, `(N, 1, H, W)`; else None.
    """

    task: Task
    logits: Tensor
    masks: Tensor | None = None
    boxes: Tensor | None = None
    unnormalized: Tensor | None = None
    value_maps: Tensor | None = None

    @property
    def predictions(self) -> Tensor:
        """The predicted class per sample, `(N,)` int64; of values the first."""
        return self.task.predictions(self.logits, self.masks)


class Task(ABC):
    """What a model's output means.

    Logits are `(N, K)`, one score for each sample and class, or value; a single class logit is that of class 1 of two.
    """

    name: ClassVar[TaskName]
    of_what: ClassVar[str] = ""
    """What stands behind a probability in words."""
    of_class: ClassVar[str] = ""
    """What stands before the explained class in words, where it is not the class itself."""
    has_values: ClassVar[bool] = False
    """Whether the output is values rather than scores of classes."""
    has_one_class: ClassVar[bool] = False
    """Whether a sample has one class alone, so that a prediction is wrong where it is another one."""
    value: ClassVar[str] = "value"
    """What is explained of values, in words."""
    has_all_classes: ClassVar[bool] = True
    """Whether there are as many classes as logits."""

    @abstractmethod
    def read(self, output: Tensor) -> Reading | None:
        """Return what an output says, its first axis the samples; None where it has not the form of this task's."""

    def predictions(self, logits: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return the predicted class per sample, `(N,)` int64: the largest logit, or class 1 of a single positive."""
        return (logits[:, 0].detach() > 0).long() if logits.shape[1] == 1 else logits.detach().argmax(1)

    def num_classes(self, logits: Tensor) -> int:
        """Return how many classes can be explained: two of a single logit."""
        return max(logits.shape[1], 2)

    def similarity(self, reading: Reading) -> Similarity | None:
        """Return the score that is explained in place of a class's, where the output has no classes; else None."""
        return None

    def describe(self, logits: Tensor) -> str:
        """Return in words what the output is, where it says nothing that one could read."""
        return ""

    def scores(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Return the score of a class per sample, `(N,)`: its logit; of a single one its negative for class 0."""
        if logits.shape[1] == 1:
            return logits[:, 0] * (2 * classes - 1)
        return logits.gather(1, classes[:, None])[:, 0]

    @abstractmethod
    def probabilities(self, logits: Tensor, masks: Tensor | None = None) -> Tensor | None:
        """Return how probable each class is, `(N, num_classes)` in [0, 1]; None for values, which have none."""

    def answers(self, logits: Tensor, masks: Tensor | None = None) -> list[Answer | None]:
        """Return what is predicted for each sample; None where it is nothing that one could read."""
        return list(self.predictions(logits, masks).tolist())

    def pixel_classes(self, masks: Tensor) -> Tensor:
        """Return the class of each pixel as a picture shows it, `(N, H, W)`."""
        return masks

    def absence(self, score: float, predicted: int) -> str | None:
        """Return in words why there is nothing that an explained score could show; None where there is something."""
        return None


@dataclass(frozen=True)
class Similarity:
    """The similarity of embeddings to a reference that is held fixed: their inner product with it.

    Attributes:
        reference: `(N, K)`, one for each sample.

    Example:
        >>> import torch
        >>> Similarity(torch.tensor([[1.0, 2.0]]))(torch.tensor([[3.0, 1.0]]))
        tensor([5.])
    """

    reference: Tensor

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Return the similarity of each embedding `(N, K)` to its reference, `(N,)`."""
        return (embeddings * self.reference.to(embeddings)).sum(1)


def rows_of(task: Task, output: Tensor) -> Reading | None:
    """Return the reading of an output `(N,)`, `(N, K)` or `(N, K, 1, 1)`; None for another form."""
    if not output.dim() or not output.numel() or output.shape[2:].numel() != 1:
        return None
    return Reading(task, output.reshape(len(output), -1))
