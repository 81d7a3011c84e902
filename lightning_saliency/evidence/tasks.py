"""`TASKS`: what a model's output may mean, by name."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lightning_saliency._checks import OptionError
from lightning_saliency.data import Answer, smallest_classes
from lightning_saliency.evidence.detection_tasks import Detection, ListedDetection, SoftmaxDetection
from lightning_saliency.evidence.normalizations import is_of_fixed_length
from lightning_saliency.evidence.task import Reading, Similarity, Task, TaskName, rows_of


class Multiclass(Task):
    """Each sample has one of K classes: softmax; or one of two, by a single logit: sigmoid."""

    name: ClassVar[TaskName] = "multiclass"
    has_one_class: ClassVar[bool] = True

    def read(self, output: Tensor) -> Reading | None:
        """Return the logits of an output `(N,)`, `(N, K)` or `(N, K, 1, 1)`."""
        return rows_of(self, output)

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
        return rows_of(self, output)

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
        return rows_of(self, output)

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
        return rows_of(self, output.flatten(2).mean(2) if output.dim() > 2 else output)

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
        return rows_of(self, output)

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


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        *(Multiclass(), Ordinal(), Multilabel(), Regression(), Segmentation(), MultilabelSegmentation(), Embedding()),
        *(Detection(), SoftmaxDetection(), ListedDetection()),
    )
}
"""What a model's output may mean, by name."""


def _of_two(logits: Tensor) -> Tensor:
    positive = logits.sigmoid()
    return torch.cat([1 - positive, positive], 1)
