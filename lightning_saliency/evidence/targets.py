"""Targets: which class is explained, and the score of each image for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_saliency._checks import OptionError, call_option, check_text, is_int, shown
from lightning_saliency.evidence.backward import widen
from lightning_saliency.evidence.task import Reading, Similarity, Task
from lightning_saliency.evidence.tasks import TASKS

TargetChoice: TypeAlias = str | int | Sequence[int | str] | Tensor | Callable[[Tensor], Tensor] | None
"""A choice of the explained class: `"label"`, `"predicted"`, a class, one per image, or a function of the logits."""

ParsedTarget: TypeAlias = Tensor | Callable[[Tensor], Tensor] | None
"""A checked target: classes `(N,)` int64, from −K to K − 1 or `PREDICTED`; the true classes of each, `(N, T)` int64
filled up with `PREDICTED`; a function logits `(N, K)` -> scores `(N,)`; or None for the predicted class of each."""

PREDICTED = torch.iinfo(torch.int64).min
"""Among the classes of a target the one that is predicted."""

_WORDS = ("label", "predicted")
_MOST_SUGGESTED = 3

_MULTICLASS = TASKS["multiclass"]


@dataclass(frozen=True)
class Target:
    """Which class is explained, chosen before the samples are known.

    Attributes:
        choice: `"label"` (the true class of a sample, of several the one with the largest score; the predicted one
            where none is known, or none has a score), `"predicted"` or None, a class, one class a sample (kept as a
            tuple), or a callable from logits `(N, K)` to scores `(N,)`. A class is an index, from the end where it is
            negative, or a name, which `named` replaces by its index.

    Raises:
        TypeError: The choice is of another type.
        ValueError: The choice is an empty text, or not of one dimension.

    Example:
        >>> Target((3, 1, 4)).resolve(2, positions=[0, 2])
        tensor([3, 4])
        >>> Target("label").resolve(2, labels=torch.tensor([5, 6]))
        tensor([5, 6])
        >>> Target("predicted").describe(), Target(7).describe()
        ('predicted class', 'class 7')
    """

    choice: TargetChoice = None

    def __post_init__(self) -> None:
        if isinstance(self.choice, str):
            object.__setattr__(self, "choice", check_text("target", self.choice))
        elif isinstance(self.choice, list | tuple) and _are_texts(self.choice):
            object.__setattr__(self, "choice", tuple(self.choice))
        elif self.choice is not None and not callable(self.choice):
            classes = _class_indices(self.choice)
            object.__setattr__(self, "choice", classes.item() if classes.dim() == 0 else tuple(classes.tolist()))

    @property
    def is_function(self) -> bool:
        """Whether it is a callable, whose scores belong to no class."""
        return callable(self.choice)

    @property
    def has_names(self) -> bool:
        """Whether it holds names of classes, which `named` replaces by their indices."""
        if isinstance(self.choice, str):
            return self.choice not in _WORDS
        return isinstance(self.choice, tuple) and any(isinstance(entry, str) for entry in self.choice)

    def named(self, names: Sequence[str] | None) -> Target:
        """Return the target with its names of classes replaced by their indices.

        Case, underscores and hyphens do not matter, and a class may go by several names, with commas between them.

        Args:
            names: The names of all classes; None where they are not known.

        Raises:
            OptionError: There is no class of that name, or several, or the names are not known.

        Example:
            >>> Target("Tiger_Cat").named(["tabby, tabby cat", "tiger cat"]).choice
            1
            >>> Target(["tabby", -1]).named(["tabby, tabby cat", "tiger cat"]).choice
            (0, -1)
        """
        if not self.has_names:
            return self
        if isinstance(self.choice, str):
            return replace(self, choice=_find_class(self.choice, names))
        classes: Any = self.choice  # a tuple since it was checked
        return replace(
            self, choice=[_find_class(entry, names) if isinstance(entry, str) else entry for entry in classes]
        )

    def resolve(
        self, count: int, *, labels: Tensor | None = None, positions: Sequence[int] | None = None
    ) -> ParsedTarget:
        """Return the explained classes of given samples.

        Args:
            count: N, the number of samples.
            labels: The true classes, where they are known: `(N,)`, or of several for a sample `(N, T)`.
            positions: The positions of these samples among all samples; by default the first N.

        Returns:
            Classes `(N,)` int64, the labels, the callable, or None for the predicted classes.

        Raises:
            ValueError: There is not one class for each sample, or a class is named still.
        """
        if self.choice == "label":
            return None if labels is None else torch.where(labels < 0, PREDICTED, labels)
        if self.choice is None or self.choice == "predicted":
            return None
        if callable(self.choice):
            return self.choice
        if self.has_names:
            return self.named(None).resolve(count)
        if isinstance(self.choice, int):
            return torch.full((count,), self.choice)
        classes: Any = self.choice  # a tuple since it was checked
        if positions is None and len(classes) != count:
            raise ValueError(
                f"Expected `target` to hold one class for each of the {count} images, shape ({count},), got shape "
                f"({len(classes)},)."
            )
        if positions and max(positions) >= len(classes):
            raise ValueError(
                f"Expected `target` to hold one class for each sample, got {len(classes)} classes for sample "
                f"{max(positions)}."
            )
        return torch.tensor([classes[position] for position in positions or range(count)])

    def describe(
        self, *, has_labels: bool = False, task: Task = _MULTICLASS, names: Sequence[str] | None = None
    ) -> str:
        """Return in words which class, or value, is explained, for a caption.

        Args:
            has_labels: Whether the true classes are known.
            task: What the model's output means.
            names: The names of all classes, where they are known.
        """
        if task.has_values and not self.is_function:
            return f"{task.value} {self.choice}" if isinstance(self.choice, int) else task.value
        if self.choice == "label" and has_labels:
            return f"{task.of_class}true class"
        if self.choice in ("label", "predicted", None):
            return f"{task.of_class}predicted class"
        if isinstance(self.choice, int) and names:
            return f"{task.of_class}class {names[self.choice]}"
        return f"{task.of_class}class {self.choice}" if isinstance(self.choice, int | str) else "chosen target"


def _are_texts(choice: Sequence[Any]) -> bool:
    """Whether a choice holds a class for each image by name, perhaps besides indices."""
    are_names = [isinstance(entry, str) and bool(entry) for entry in choice]
    return any(are_names) and all(name or is_int(entry) for name, entry in zip(are_names, choice, strict=True))


def _find_class(name: str, names: Sequence[str] | None) -> int:
    """Return the index of the class of a name; see `Target.named`."""
    if names is None:
        raise OptionError(
            f"Expected `target` to be label, predicted or a class's index, as the classes have no names here, got "
            f"{name!r}. Pass their names, `class_names=[...]`, in a callback `style=Style(class_names=[...])`.",
            "target",
        )
    classes: dict[str, list[int]] = defaultdict(list)
    for index, spellings in enumerate(names):
        for spelling in dict.fromkeys(map(_plain_name, [spellings, *spellings.split(",")])):
            classes[spelling].append(index)
    exact = [index for index, spelling in enumerate(names) if spelling == name]
    matches = exact or classes.get(_plain_name(name), [])
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise OptionError(
            f"Expected `target` to name one class, got {name!r}, the name of the classes "
            f"{', '.join(map(str, matches))}. Pass the index.",
            "target",
        )
    nearest = get_close_matches(_plain_name(name), [*classes, *_WORDS], n=_MOST_SUGGESTED)
    near = [names[classes[spelling][0]] if spelling in classes else spelling for spelling in nearest]
    hint = f" Nearest: {', '.join(dict.fromkeys(near))}." if near else ""
    raise OptionError(
        f"Expected `target` to be label, predicted, or one of the {len(names)} classes by name or index, got "
        f"{name!r}.{hint}",
        "target",
    )


def _plain_name(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _class_indices(target: Any) -> Tensor:
    """Return class indices as an int64 tensor of no or one dimension."""
    if isinstance(target, bool):
        raise TypeError(f"Expected `target` to be a class index, got the bool {target}.")
    try:
        classes = torch.as_tensor(target).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"Expected `target` to be None, a class index, one class index per image or a callable, got "
            f"{shown(target)}."
        ) from error
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise TypeError(
            f"Expected `target` to hold integer class indices, got dtype {classes.dtype}. "
            "For one-hot or soft labels pass `target=labels.argmax(1)`."
        )
    if classes.dim() > 1:
        raise ValueError(f"Expected `target` to hold one class per image, shape (N,), got {tuple(classes.shape)}.")
    return classes.long()


def check_classes(target: ParsedTarget, logits: Tensor, task: Task = _MULTICLASS) -> None:
    """Raise an error for a target class that the logits do not have; −1 is the last one, −K the first.

    Args:
        target: What `Target.resolve` returned.
        logits: `(N, K)`.
        task: What they mean; K = 1 is a binary model with the classes 0 and 1, but a single value. Of embeddings, which
            have no classes, no error is raised here: their scores say it.

    Raises:
        ValueError: A class is out of range.
    """
    if not isinstance(target, Tensor):
        return
    num_classes = task.num_classes(logits)
    wrong = target[(target != PREDICTED) & ((target >= num_classes) | (target < -num_classes))]
    if num_classes and len(wrong):
        bound = f"below the model's {num_classes} classes (0 to {num_classes - 1})"
        if int(wrong[0]) < 0:
            bound = f"one of the model's {num_classes} classes (0 to {num_classes - 1}, or {-num_classes} to -1)"
        raise OptionError(f"Expected `target` to be {bound}, got {int(wrong[0])}.", "target")


def select_scores(
    logits: Tensor, target: ParsedTarget, task: Task = _MULTICLASS, predictions: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return the score of each image that is explained, and the explained classes.

    A single logit per image is a binary model: class 1 is explained by the logit, class 0 by its negative. Of several
    true classes the one with the largest score is explained, or the predicted one where none has a score.

    Args:
        logits: `(N, K)`.
        target: What `Target.resolve` returned, for these N images.
        task: What the logits mean.
        predictions: The predicted classes `(N,)`; by default those of the logits.

    Returns:
        The scores `(N,)`, and the explained classes `(N,)`, or None for a callable. Where a detector has no box,
        nothing is predicted, and the class is −1.

    Raises:
        ValueError: A callable returned something else than one score per image.

    Example:
        >>> scores, classes = select_scores(torch.tensor([[0.5, 2.0], [1.0, -1.0]]), None)
        >>> scores, classes
        (tensor([2., 1.]), tensor([1, 0]))
        >>> select_scores(torch.tensor([[0.5, 2.0, 3.0]]), torch.tensor([[0, 1]]))
        (tensor([2.]), tensor([1]))
    """
    if target is not None and not isinstance(target, Tensor):
        scores = call_option("target", target, logits)
        if not isinstance(scores, Tensor) or scores.shape != logits.shape[:1]:
            got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise OptionError(
                f"Expected the callable `target` to turn logits {tuple(logits.shape)} into one score per image, "
                f"shape ({logits.shape[0]},), got {got}.",
                "target",
            )
        return scores, None
    predicted = task.predictions(logits) if predictions is None else predictions
    if target is None:
        return task.scores(logits, predicted), predicted
    classes = target.to(logits.device)
    if classes.dim() == 2:
        classes = _best_of(logits, classes, task)
    counted = torch.where(classes < 0, classes + task.num_classes(logits), classes)  # from the end
    classes = torch.where(classes == PREDICTED, predicted, counted)
    return task.scores(logits, classes), classes


def read_scores(reading: Reading, target: ParsedTarget) -> tuple[Tensor, ParsedTarget]:
    """Return the score of each image that is explained, and the target by which changed images have the same one.

    Args:
        reading: What the model's output says of the N images.
        target: What `Target.resolve` returned for them, or what this function returned for their originals.

    Returns:
        The scores `(N,)`, at least float32; and the explained classes `(N,)`, or a function: the given one, or of
        embeddings the similarity to those of these images.

    Raises:
        ValueError: A callable returned something else than one score per image, or nothing can be explained.

    Example:
        >>> embedding = TASKS["embedding"]
        >>> scores, target = read_scores(Reading(embedding, torch.tensor([[3.0, 4.0]])), None)
        >>> scores, read_scores(Reading(embedding, torch.tensor([[1.0, 0.0]])), target)[0]
        (tensor([25.]), tensor([3.]))
    """
    if target is None:
        target = reading.task.similarity(reading)
    logits = widen(scored_logits(reading, target))
    scores, classes = select_scores(logits, target, reading.task, reading.predictions)
    return scores, target if classes is None else classes


def scored_logits(reading: Reading, target: ParsedTarget) -> Tensor:
    """Return what a target's scores are read from, `(N, K)`.

    Those are the logits; for the similarity of embeddings to themselves, what goes into their normalization.
    """
    own = reading.unnormalized if isinstance(target, Similarity) else None
    return reading.logits if own is None else own


def _best_of(logits: Tensor, classes: Tensor, task: Task) -> Tensor:
    """Return of several classes for each image, `(N, T)`, the one with the largest score.

    Where none has a score it is `PREDICTED`.
    """
    columns = [task.scores(logits.detach(), column.clamp(min=0)) for column in classes.unbind(1)]
    scores = torch.stack(columns, 1).where(classes >= 0, -torch.inf).nan_to_num(-torch.inf, torch.inf, -torch.inf)
    largest, best = scores.max(1, keepdim=True)
    return classes.gather(1, best).where(largest > -torch.inf, PREDICTED)[:, 0]


def predicted_classes(logits: Tensor) -> Tensor:
    """Return the predicted class per image: the largest logit, or for a single logit class 1 where it is positive."""
    return _MULTICLASS.predictions(logits)
