"""`choose_meaning`: what a model's output means, from what the loss does with it and from the labels that fit it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_saliency._checks import OptionError
from lightning_saliency.data import describe, find_label_masks, find_label_rows, find_labels, find_values
from lightning_saliency.data.batches import fit_labels
from lightning_saliency.data.trees import Path, dotted
from lightning_saliency.data.truths import find_truths, under_key
from lightning_saliency.evidence import (
    TASKS,
    Detection,
    LossTerm,
    OutputChoice,
    Regression,
    Task,
    TaskName,
    boxes_beside,
    is_list_of_detections,
    output_tensors,
    read_output,
)

_TASKS_OF: dict[str, frozenset[TaskName]] = {
    "softmax": frozenset({"multiclass", "segmentation", "detection_softmax"}),
    "sigmoid": frozenset({"multilabel", "multiclass", "segmentation", "detection"}),
    "distance": frozenset({"regression"}),
    "similarity": frozenset({"embedding"}),
}
"""What an output means of which a loss takes a softmax, say."""

_CERTAIN = ("softmax", "sigmoid", "distance")
"""The uses that say what an output means, those of classes first."""


@dataclass(frozen=True)
class Meaning:
    """Which tensor of a model's output is explained, and what it means.

    Attributes:
        output: Where it stands in the output, or what the user said of that.
        task: What it means; None where a run is to show whether it is probabilities, of one class or several.
        others: What else of the output could be explained, by keys.
    """

    output: OutputChoice = None
    task: Task | None = None
    others: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The key of the tensor in the output; empty where the user gives a function, and of a single tensor."""
        if callable(self.output) or self.output is None:
            return ""
        return self.output if isinstance(self.output, str) else dotted(self.output)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        output = None if callable(self.output) else self.output
        return {"output": output, "task": None if self.task is None else self.task.name, "others": self.others}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], choice: OutputChoice) -> Meaning:
        """Return the meaning that `state_dict` returned, but for what the user says now."""
        task = state["task"]
        return cls(choice or state["output"], None if task is None else TASKS[task], tuple(state["others"]))


@dataclass(frozen=True)
class _Candidate:
    path: Path
    tensor: Tensor
    task: Task
    is_labeled: bool
    use: str = ""


def choose_meaning(
    output: Any,
    batch: Any,
    images: Tensor,
    *,
    terms: Sequence[LossTerm] | None = None,
    choice: OutputChoice = None,
    task: Task | None = None,
) -> Meaning:
    """Choose which tensor of a model's output is explained, and say what it means.

    What the training's loss takes the softmax of is class scores; what it takes the sigmoid of is scores of any number
    of classes; what it takes the distance of is values; what it compares with other outputs is an embedding. Where the
    loss is not known, or does not tell, the batch's labels do: classes, sets of classes, numbers, or masks; then the
    form alone.

    Args:
        output: What the model returned in a step.
        batch: The step's batch.
        images: The images that went into the model.
        terms: What the training's loss does with its tensors; None where that is not known.
        choice: What the user says of where it stands.
        task: What the user says of what it means.

    Raises:
        OptionError: Nothing of it can be explained.
    """
    count = len(images)
    if callable(choice) or (task is not None and choice is not None):
        return Meaning(choice, read_output(output, count, choice, task, images).task if task is None else task)
    if is_list_of_detections(output, count):
        return Meaning(choice, TASKS["detection_list"])
    tensors = output_tensors(output, count, choice)
    candidates = [
        found
        for path, tensor in (tensors if task is not None else _without_boxes(tensors, output)).items()
        for found in _candidates(path, tensor, batch, images, task)
        if task is not None or isinstance(found.task, Detection) == (boxes_beside(output, tensor) is not None)
    ]
    if terms and task is None:
        candidates = _as_the_loss_uses(candidates, terms, tensors)
    if task is None:  # what has the form of other things too is told from them by the loss alone
        candidates = [found for found in candidates if found.use or not _needs_loss(found)]
    if not candidates:
        read_output(output, count, choice, task, images)  # which says what is missing
        raise OptionError(
            f"Expected the model to return class scores or values, got {describe(output)}, of which neither the loss "
            "nor the labels tell what it means. Name its meaning, `Execution(task=...)`, one of "
            f"{', '.join(TASKS)}; or the submodule that returns class scores, `model=...`.",
            "methods",
        )
    chosen = _best(candidates)
    others = [other for other in candidates if other.path != chosen.path and other.task == chosen.task]
    by_form = task is None and chosen.task.name == "multiclass" and not chosen.use
    return Meaning(
        chosen.path,
        None if by_form else chosen.task,
        tuple(dict.fromkeys(dotted(other.path) for other in others if other.is_labeled >= chosen.is_labeled)),
    )


def _without_boxes(tensors: dict[Path, Tensor], output: Any) -> dict[Path, Tensor]:
    """Return the tensors but for the boxes and features `(N, Q, …)` of queries that have class scores too."""
    scores = [path for path, tensor in tensors.items() if boxes_beside(output, tensor) is not None]
    queries = {tensors[path].shape[:2] for path in scores}
    return {
        path: tensor
        for path, tensor in tensors.items()
        if path in scores or tensor.dim() != 3 or tensor.shape[:2] not in queries
    }


def _needs_loss(found: _Candidate) -> bool:
    is_of_maps = isinstance(found.task, Regression | Detection) and found.tensor.dim() > 2
    return found.task.name == "embedding" or is_of_maps


def _candidates(path: Path, tensor: Tensor, batch: Any, images: Tensor, task: Task | None) -> Iterator[_Candidate]:
    """Yield what a tensor may mean, by its form and the labels that fit it."""
    count, batch = len(images), under_key(batch, dotted(path))
    for meaning in (task,) if task is not None else TASKS.values():
        reading = meaning.read(tensor)
        if reading is None:
            continue
        width = reading.logits.shape[1]
        if meaning.name in ("multiclass", "embedding"):
            labels = find_labels(batch, count, width)
            is_labeled = meaning.name == "multiclass" and labels is not None and fit_labels(labels, width)
            yield _Candidate(path, tensor, meaning, is_labeled)
        elif meaning.name == "multilabel":
            rows = find_label_rows(batch, count, width) if width > 1 else None
            yield _Candidate(path, tensor, meaning, rows is not None and bool((rows.sum(1) != 1).any()))
        elif meaning.name == "segmentation" and images.dim() > 3:
            masks = find_label_masks(batch, count)
            is_whole = tensor.shape[-(images.dim() - 2) :] == images.shape[2:] and tensor.shape != images.shape
            if task is not None or masks is not None or is_whole:
                yield _Candidate(path, tensor, meaning, masks is not None)
        elif isinstance(meaning, Detection):
            yield _Candidate(path, tensor, meaning, find_truths(batch, count, width, meaning.name) is not None)
        elif meaning.name == "regression":
            values = find_values(batch, count, width) if tensor.dim() < 3 else None
            is_labeled = values is not None and not bool(((values == 0) | (values == 1)).all())
            if task is not None or tensor.shape != images.shape:  # else it is the image again
                yield _Candidate(path, tensor, meaning, is_labeled)


def _as_the_loss_uses(
    candidates: Sequence[_Candidate], terms: Sequence[LossTerm], tensors: dict[Path, Tensor]
) -> list[_Candidate]:
    """Return the candidates that mean what the loss takes their tensors for, or all where it does not tell.

    Raises:
        OptionError: The loss reads class scores of another width than any of the tensors has.
    """
    used: list[_Candidate] = []
    for use in (*_CERTAIN, "similarity"):
        matching = [term for term in terms if term.use == use]
        used += [
            _Candidate(found.path, found.tensor, found.task, found.is_labeled, use)
            for found in candidates
            if found.task.name in _TASKS_OF[use]
            and (found.task.name == "multilabel") == (use == "sigmoid" and _is_of_several(found.tensor))
            and any(_is_read_as(found.tensor, term) for term in matching)
        ]
    if used:
        return used
    certain = [term for term in terms if term.use in _CERTAIN]
    if any(_is_read_as(tensor, term) for tensor in tensors.values() for term in certain):
        return []  # which is no such thing by its form
    if certain:
        widths = ", ".join(dict.fromkeys(f"(N, {', '.join(map(str, term.shape[1:]))})" for term in certain))
        returned = ", ".join(f"{dotted(path) or 'output'} {tuple(tensor.shape)}" for path, tensor in tensors.items())
        raise OptionError(
            f"Expected the model to return what the training's loss reads, of shape {widths}, got {returned}. Name the "
            "submodule that returns it, `model=...`.",
            "methods",
        )
    if all(term.use == "similarity" for term in terms):
        return [
            _Candidate(found.path, found.tensor, found.task, found.is_labeled, "similarity")
            for found in candidates
            if found.task.name == "embedding"
        ]
    return list(candidates)


def _is_of_several(tensor: Tensor) -> bool:
    return tensor.dim() > 1 and tensor.shape[2:].numel() == 1 and tensor.shape[1] > 1


def _is_read_as(tensor: Tensor, term: LossTerm) -> bool:
    """Whether a tensor of the output may be the one that a loss reads, in another batch: by its number of channels."""
    width = tensor.shape[1] if tensor.dim() > 1 else 1
    widths = {term.shape[1], term.shape[-1]} if len(term.shape) > 1 else {1}
    return width in widths or (tensor.dim() == 3 and bool({1, tensor.shape[2]} & widths))


def _best(candidates: Sequence[_Candidate]) -> _Candidate:
    """Return the likeliest: what the loss reads, classes first; what has labels; of equal ones the last exit."""
    order = list(TASKS)

    def rank(candidate: _Candidate) -> tuple[Any, ...]:
        use = (*_CERTAIN, "similarity", "").index(candidate.use)
        is_embedding = candidate.task.name == "embedding" and not candidate.use
        return (use, is_embedding, not candidate.is_labeled, order.index(candidate.task.name))

    best = min(map(rank, candidates))
    equal = [candidate for candidate in candidates if rank(candidate) == best]
    exits = [other for other in equal if other.tensor.shape == equal[0].tensor.shape]
    is_exit = len(exits) == len(equal) > 1 and not any(map(_is_named, equal))
    return equal[-1] if is_exit else equal[0]


def _is_named(candidate: _Candidate) -> bool:
    """Whether a tensor stands under a name: exits of one depth after the other stand in a list."""
    return any(isinstance(key, str) for key in candidate.path)
