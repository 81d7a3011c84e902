"""`Task`: what a model's output means: which scores are explained, what is predicted, how probable it is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from lightning_saliency._checks import OptionError
from lightning_saliency.data import NOTHING, Answer, smallest_classes
from lightning_saliency.evidence.normalizations import is_of_fixed_length

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


class Multiclass(Task):
    """Each sample has one of K classes: softmax; or one of two, by a single logit: sigmoid."""

    name: ClassVar[TaskName] = "multiclass"
    has_one_class: ClassVar[bool] = True

    def read(self, output: Tensor) -> Reading | None:
        """Return the logits of an output `(N,)`, `(N, K)` or `(N, K, 1, 1)`."""
        return _rows(self, output)

    def probabilities(self, logits: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return the softmax, of a single logit the sigmoid's complement and the sigmoid."""
        return _of_two(logits) if logits.shape[1] == 1 else logits.softmax(1)


class Ordinal(Task):
    """Each sample has one of K + 1 ranks: the logit k is that of being above the rank k (Cao 2020, CORAL).

    What is explained of a rank is the logit of reaching it; of the lowest, which all reach, the negative of that of
    exceeding it. So with a single logit it is a binary classification.
    """

    name: ClassVar[TaskName] = "ordinal"
    of_class: ClassVar[str] = "reaching the "

    def read(self, output: Tensor) -> Reading | None:
        """Return the logits of an output `(N, K)` or `(N, K, 1, 1)`."""
        return _rows(self, output)

    def predictions(self, logits: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return the rank per sample, `(N,)`: how many of the logits are positive."""
        return (logits.detach() > 0).sum(1)

    def num_classes(self, logits: Tensor) -> int:
        """Return the number of ranks, one more than there are logits."""
        return logits.shape[1] + 1

    def scores(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Return the logit of reaching a rank per sample, `(N,)`; of rank 0 the negative of exceeding it."""
        reached = logits.gather(1, (classes - 1).clamp(min=0)[:, None])[:, 0]
        return torch.where(classes > 0, reached, -reached)

    def probabilities(self, logits: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return the probability of each rank: of exceeding the one before, and not itself.

        The probabilities of exceeding the ranks are taken in falling order, which is theirs but for a model that errs
        (Chernozhukov 2010): what is predicted is the same, and none is negative.
        """
        above = logits.sigmoid().sort(1, descending=True).values
        return torch.cat([torch.ones_like(above[:, :1]), above], 1) - torch.cat([above, 0 * above[:, :1]], 1)


class Multilabel(Task):
    """Each sample has any number of K classes: each has a sigmoid of its own."""

    name: ClassVar[TaskName] = "multilabel"

    def read(self, output: Tensor) -> Reading | None:
        """Return the logits of an output `(N,)`, `(N, K)` or `(N, K, 1, 1)`."""
        return _rows(self, output)

    def probabilities(self, logits: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return the sigmoid of each logit, of a single one its complement too."""
        return _of_two(logits) if logits.shape[1] == 1 else logits.sigmoid()

    def answers(self, logits: Tensor, masks: Tensor | None = None) -> list[Answer | None]:
        """Return for each sample the classes that are more probable than not."""
        if logits.shape[1] == 1:
            return super().answers(logits)
        return [tuple(row.nonzero()[:, 0].tolist()) for row in logits > 0]


class Regression(Task):
    """The output is values, of which one is explained: what raises it is positive."""

    name: ClassVar[TaskName] = "regression"
    has_values: ClassVar[bool] = True

    def read(self, output: Tensor) -> Reading | None:
        """Return the values of an output `(N,)` or `(N, K)`; of maps of values `(N, K, H, W)` the mean over each."""
        return _rows(self, output.flatten(2).mean(2) if output.dim() > 2 else output)

    def predictions(self, logits: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return the value that is explained by default, the first: `(N,)` zeros."""
        return torch.zeros(len(logits), dtype=torch.long, device=logits.device)

    def num_classes(self, logits: Tensor) -> int:
        """Return the number of values."""
        return logits.shape[1]

    def scores(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Return a value per sample, `(N,)`."""
        return logits.gather(1, classes[:, None])[:, 0]

    def probabilities(self, logits: Tensor, masks: Tensor | None = None) -> None:
        """Return None: values have no probability."""

    def answers(self, logits: Tensor, masks: Tensor | None = None) -> list[Answer | None]:
        """Return the values of each sample."""
        return [tuple(row) for row in logits.tolist()]


@dataclass(frozen=True)
class Similarity:
    """The similarity of embeddings to a reference that is held fixed: their inner product with it.

    Attributes:
        reference: `(N, K)`, one for each sample.

    Example:
        >>> Similarity(torch.tensor([[1.0, 2.0]]))(torch.tensor([[3.0, 1.0]]))
        tensor([5.])
    """

    reference: Tensor

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Return the similarity of each embedding `(N, K)` to its reference, `(N,)`."""
        return (embeddings * self.reference.to(embeddings)).sum(1)


class Embedding(Task):
    """The output is a vector f(x) that is compared with others, of which no number means anything by itself.

    Explained is its similarity to itself (Crabbé & van der Schaar 2022, "Label-Free Explainability for Unsupervised
    Models"): g_x(x') = <f(x'), f(x)> = Σ_k f_k(x') f_k(x), a function of the image x' with f(x) of the original image x
    held fixed, also where a method changes the image. It needs no labels, and every method applies to it: what raises
    it moves the image's embedding further in the direction in which it lies. Its scale is that of ||f(x)||².

    Of embeddings of a fixed length, such as f = b / ||b||, it has no gradient: <f, f> = 1 for all images, so that
    <∂f, f> = 0. Of those that end in a normalization it is therefore taken of what goes into that: <b(x'), b(x)>; see
    `lightning_saliency.evidence.normalizations`. A similarity to something else is a function of the embeddings as the
    model returns them, `target=lambda embeddings: embeddings @ reference`.
    """

    name: ClassVar[TaskName] = "embedding"
    has_values: ClassVar[bool] = True
    value: ClassVar[str] = "similarity to itself"

    def read(self, output: Tensor) -> Reading | None:
        """Return the embeddings of an output `(N, K)`."""
        return _rows(self, output)

    def predictions(self, logits: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return `(N,)` zeros: nothing is predicted."""
        return torch.zeros(len(logits), dtype=torch.long, device=logits.device)

    def num_classes(self, logits: Tensor) -> int:
        """Return 0: there are no classes."""
        return 0

    def similarity(self, reading: Reading) -> Similarity:
        """Return the similarity of the embeddings to themselves.

        Raises:
            ValueError: The embeddings are of a fixed length.
        """
        embeddings = reading.logits if reading.unnormalized is None else reading.unnormalized
        reference = embeddings.detach()
        if reading.unnormalized is None and is_of_fixed_length(reference):
            raise OptionError(
                f"Expected embeddings whose length says something, got {tuple(reference.shape)} of a fixed length: the "
                "similarity of such embeddings to themselves has no gradient. Return the embeddings before their "
                "normalization (`output_fn`), or name a reference to which they are similar: "
                "`target=lambda embeddings: embeddings @ reference`.",
                "target",
            )
        return Similarity(reference)

    def describe(self, logits: Tensor) -> str:
        """Return in words how many dimensions the embeddings have."""
        return f"embedding of {logits.shape[1]}"

    def scores(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Raise an error: a class of an embedding is asked for.

        Raises:
            ValueError: Always.
        """
        raise OptionError(
            f"Expected `target` to be no class for the model's embeddings {tuple(logits.shape)}, which have none. By "
            "default their similarity to themselves is explained; pass a function to one score per image for another "
            "one, such as the similarity to a reference: `target=lambda embeddings: embeddings @ reference`.",
            "target",
        )

    def probabilities(self, logits: Tensor, masks: Tensor | None = None) -> None:
        """Return None: an embedding has no probability."""

    def answers(self, logits: Tensor, masks: Tensor | None = None) -> list[Answer | None]:
        """Return None for each sample: there is no number that one could read."""
        return [None for _ in logits]


class Segmentation(Task):
    """Each pixel has a class. Explained is a class's mean logit over its pixels (Vinogradova 2020, Seg-Grad-CAM).

    Its pixels are those that the model gives this class, or all where it gives it none. The paper takes the sum, whose
    maps are the same but for a factor for each image, the number of these pixels; a mean has the size of a logit, so
    that it has a probability and does not overflow in half precision. What is predicted for a sample is the class with
    the most pixels, and its probability is its share of them; of a single map of logits it is class 1, what is
    segmented, with the share of it.
    """

    name: ClassVar[TaskName] = "segmentation"
    of_what: ClassVar[str] = " of the pixels"

    def read(self, output: Tensor) -> Reading | None:
        """Return the reading of an output `(N, K, H, W)`, or `(N, H, W)` of a single class."""
        if output.dim() < 3 or not output.numel():
            return None
        maps = output[:, None] if output.dim() == 3 else output
        count = maps.shape[1]
        masks = (maps[:, 0] > 0).long() if count == 1 else maps.detach().argmax(1)
        own = torch.stack([(masks == (index if count > 1 else 1)).flatten(1) for index in range(count)], 1)
        own = own | ~own.any(2, keepdim=True)
        flat = maps.flatten(2)
        # not multiplied: outside a mask there may be infinities
        logits = flat.where(own, 0.0).sum(2) / own.sum(2)
        return Reading(self, logits, masks)

    def predictions(self, logits: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return the class with the most pixels; of a single map of logits class 1."""
        if logits.shape[1] == 1:
            return torch.ones(len(logits), dtype=torch.long, device=logits.device)
        return super().predictions(logits) if masks is None else self.probabilities(logits, masks).argmax(1)

    def probabilities(self, logits: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return the share of pixels that each class is given; of logits alone, the probability in these pixels."""
        if masks is None:
            return Multiclass().probabilities(logits)
        pixels = masks.flatten(1)[:, None]
        classes = torch.arange(self.num_classes(logits), device=masks.device)[:, None]
        return (pixels == classes).float().mean(2)


class MultilabelSegmentation(Segmentation):
    """Each pixel has any number of K classes: each class has a sigmoid of its own, and its own pixels."""

    name: ClassVar[TaskName] = "multilabel_segmentation"

    def read(self, output: Tensor) -> Reading | None:
        """Return the reading of an output `(N, K, H, W)` of several classes."""
        if output.dim() < 4 or output.shape[1] < 2:
            return None
        readings = [super(MultilabelSegmentation, self).read(maps) for maps in output.split(1, 1)]
        known = [reading for reading in readings if reading is not None]
        masks = [reading.masks for reading in known if reading.masks is not None]
        logits = torch.cat([reading.logits for reading in known], 1) if known else None
        return None if logits is None else Reading(self, logits, torch.stack(masks, 1).bool())

    def probabilities(self, logits: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return the share of pixels that each class is given; of logits alone, the sigmoid of each."""
        return logits.sigmoid() if masks is None else masks.flatten(2).float().mean(2)

    def pixel_classes(self, masks: Tensor) -> Tensor:
        """Return one class for each pixel, of several that with the fewest pixels; −1 where there is none."""
        return smallest_classes(masks)


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


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        *(Multiclass(), Ordinal(), Multilabel(), Regression(), Segmentation(), MultilabelSegmentation(), Embedding()),
        *(Detection(), SoftmaxDetection(), ListedDetection()),
    )
}
"""What a model's output may mean, by name."""


def _rows(task: Task, output: Tensor) -> Reading | None:
    """Return the reading of an output `(N,)`, `(N, K)` or `(N, K, 1, 1)`; None for another form."""
    if not output.dim() or not output.numel() or output.shape[2:].numel() != 1:
        return None
    return Reading(task, output.reshape(len(output), -1))


def _of_two(logits: Tensor) -> Tensor:
    positive = logits.sigmoid()
    return torch.cat([1 - positive, positive], 1)
