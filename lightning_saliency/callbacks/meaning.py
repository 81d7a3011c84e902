"""`choose_meaning`: what a model's output means, from what the loss does with it and from the labels that fit it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from lightning_saliency._checks import OptionError
from lightning_saliency.data import (
    describe,
    find_label_channels,
    find_label_masks,
    find_label_rows,
    find_labels,
    find_values,
)
from lightning_saliency.data.batches import fit_labels
from lightning_saliency.data.trees import Path, dotted
from lightning_saliency.data.truths import find_truths, under_key
from lightning_saliency.evidence import (
    TASKS,
    Detection,
    LossTerm,
    MultilabelSegmentation,
    OutputChoice,
    Regression,
    Task,
    TaskName,
    boxes_beside,
    is_list_of_detections,
    is_single,
    map_beside,
    output_tensors,
    read_as,
    read_output,
)

_TASKS_OF: dict[str, frozenset[TaskName]] = {
    "softmax": frozenset({"multiclass", "segmentation", "detection_softmax"}),
    "sigmoid": frozenset(
        {"multilabel", "ordinal", "multiclass", "segmentation", "multilabel_segmentation", "detection"}
    ),
    "distance": frozenset({"regression"}),
    "similarity": frozenset({"embedding"}),
}
"""What an output means of which a loss takes a softmax, say."""

_CERTAIN = ("softmax", "sigmoid", "distance")
"""The uses that say what an output means, those of classes first."""

_OF_IMAGES = ("image", "img", "vis")
"""Parts of the keys of what is made of the images, where an output holds what is made of texts too."""


@dataclass(frozen=True)
class Meaning:
    """Which tensor of a model's output is explained, and what it means.

    Attributes:
        output: Where it stands in the output, or what the user said of that.
        task: What it means; None where a run is to show whether it is probabilities, of one class or several.
        others: What else of the output could be explained, by keys.
        rank: How likely it is what the training is about, the lowest first: by the loss, then by the labels.
        note: Why it is not what one would expect; empty where it is.
    """

    output: OutputChoice = None
    task: Task | None = None
    others: tuple[str, ...] = ()
    rank: tuple[int, ...] = field(default=(), compare=False)
    note: str = ""

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
    form alone. One score for each image is a class's only where the loss or labels of 0 and 1 say so, else a value; so
    is one beside which there is a map of values, as anomaly detectors return it, unless the loss reads one of the two.

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
    if task is None:
        valued = _value_of_a_map(output, tensors, images, terms or ())
        if valued is not None:
            return Meaning(valued, TASKS["regression"])
    candidates = [
        found
        for path, tensor in (tensors if task is not None else _without_boxes(tensors, output)).items()
        for found in _candidates(path, tensor, batch, images, task)
        if task is not None or isinstance(found.task, Detection) == (boxes_beside(output, tensor) is not None)
    ]
    if terms and task is None:
        candidates = _as_the_loss_uses(candidates, terms, tensors)
    if task is None:  # what has the form of other things too is told from them by the loss alone
        candidates = [found for found in candidates if found.use or not _needs_loss(found, terms, images)]
    if not candidates:
        _refuse_images(tensors, images, terms or ())
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
        _rank(chosen)[:-1],
    )


def embedding_beside(output: Any, count: int, terms: Sequence[LossTerm] | None, note: str) -> Meaning | None:
    """Return the meaning of an output of which the loss reads nothing by itself: an embedding, if it is vectors.

    Such is that of a model whose classes' weights are a part of the loss (ArcFace). Shown as an embedding it is never
    read as classes that it does not have.

    Args:
        output: What the model returned.
        count: N, the number of samples.
        terms: What the training's loss does with its tensors; None where that is not known.
        note: Why the output is nothing else.
    """
    certain = [term for term in terms or () if term.use in _CERTAIN]
    tensors = output_tensors(output, count)
    vectors = [path for path, tensor in tensors.items() if TASKS["embedding"].read(tensor) and _is_of_several(tensor)]
    if not vectors or not certain or any(_is_read_as(tensor, term) for tensor in tensors.values() for term in certain):
        return None
    return Meaning(vectors[0], TASKS["embedding"], tuple(map(dotted, vectors[1:])), note=note)


def confirmed(meaning: Meaning, terms: Sequence[LossTerm], own_terms: Callable[[], Sequence[LossTerm]]) -> Meaning:
    """Return the meaning of one score for each image; where it is not made as what the loss reads, that of a value.

    A loss of several parts may read the logits of a network that is not explained, such as the discriminator of
    adversarial training, which have the form of the score.

    Args:
        meaning: What is explained, one score for each image.
        terms: What the training's loss does with its tensors.
        own_terms: Returns of which layers the score is made, and how; see `output_terms`.
    """
    certain = [term for term in terms if term.use in _CERTAIN]
    if meaning.task is None or meaning.task.has_values or len(certain) < 2:
        return meaning
    read = [_long_axes(shape) for term in certain if meaning.task.name in _TASKS_OF[term.use] for shape in term.shapes]
    own = [term for term in own_terms() if term.use not in ("distance", "similarity")]
    is_read = any(_long_axes(shape) in read for term in own for shape in term.shapes)
    return meaning if is_read else replace(meaning, task=TASKS["regression"])


def _value_of_a_map(
    output: Any, tensors: Mapping[Path, Tensor], images: Tensor, terms: Sequence[LossTerm]
) -> Path | None:
    """Return the path of a value for each image beside which there is a map, neither of which the loss reads."""
    read = [_long_axes(shape) for term in terms if term.use in _CERTAIN for shape in term.shapes]
    for path, value in tensors.items():
        beside = map_beside(output, value, images)
        if beside is not None and not any(_long_axes(tensor.shape) in read for tensor in (value, beside)):
            return path
    return None


def _long_axes(shape: Sequence[int]) -> list[int]:
    """Return the lengths of the axes of each sample, without those of length 1."""
    return [length for length in shape[1:] if length > 1]


def _needs_loss(found: _Candidate, terms: Sequence[LossTerm] | None, images: Tensor) -> bool:
    """Whether a candidate that the loss does not read for what it is is nothing else either."""
    if is_single(found.tensor) and not isinstance(found.task, Regression):
        is_open = terms is None or any(
            term.use == "unknown" and (not term.shape or _is_read_as(found.tensor, term)) for term in terms
        )
        return not (is_open and found.is_labeled)
    is_of_maps = isinstance(found.task, Regression | Detection | MultilabelSegmentation) and found.tensor.dim() > 2
    # of a signal, scores of each point in time and a sequence of features have one form
    is_of_points = found.task.name == "segmentation" and images.dim() == 3 and not found.is_labeled
    return found.task.name in ("embedding", "ordinal") or is_of_maps or is_of_points


def _refuse_images(tensors: Mapping[Path, Tensor], images: Tensor, terms: Sequence[LossTerm]) -> None:
    """Raise an error where the loss reads as many values as the images have, in another form than theirs."""
    for path, tensor in tensors.items():
        is_read = any(term.use == "distance" and _is_read_as(tensor, term) for term in terms)
        if is_read and tensor.numel() == images.numel() and tensor.shape != images.shape:
            raise OptionError(
                f"Expected the model to return class scores or values, got {dotted(path) or 'output'} "
                f"{tuple(tensor.shape)}, as many values as the images {tuple(images.shape)} have: a reconstruction of "
                "them, say. Name what of it is explained, `Execution(output_fn=..., task='regression')`, a function "
                "from what the model returns to one value for each image; or the submodule that returns class scores, "
                "`model=...`.",
                "methods",
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


def _candidates(path: Path, tensor: Tensor, batch: Any, images: Tensor, task: Task | None) -> Iterator[_Candidate]:
    """Yield what a tensor may mean, by its form and the labels that fit it."""
    count, batch = len(images), under_key(batch, dotted(path))
    for meaning in (task,) if task is not None else TASKS.values():
        reading = read_as(meaning, tensor, images)
        if reading is None:
            continue
        width = reading.logits.shape[1]
        rows = find_label_rows(batch, count, width) if width > 1 else None
        if meaning.name == "multiclass":
            labels = find_labels(batch, count, width)
            yield _Candidate(path, tensor, meaning, labels is not None and _fit(labels, width))
        elif meaning.name == "embedding" and (task is not None or width > 1):
            yield _Candidate(path, tensor, meaning, is_labeled=False)
        elif meaning.name == "ordinal":
            labels = find_labels(batch, count, width + 1)
            is_ranked = width > 1 and rows is None and labels is not None and fit_labels(labels, width + 1)
            if task is not None or is_ranked:
                yield _Candidate(path, tensor, meaning, labels is not None and bool((labels == width).any()))
        elif meaning.name == "multilabel":
            yield _Candidate(path, tensor, meaning, rows is not None and bool((rows.sum(1) != 1).any()))
        elif meaning.name == "multilabel_segmentation":
            # masks of one class a pixel say that the classes exclude each other, whatever the loss
            if task is not None or find_label_masks(batch, count, num_axes=images.dim() - 2) is None:
                yield _Candidate(path, tensor, meaning, find_label_channels(batch, count, width) is not None)
        elif reading.masks is not None:
            size = tensor.shape[-1:] if images.dim() == 3 else None
            masks = find_label_masks(batch, count, size, num_axes=reading.masks.dim() - 1, num_classes=width)
            is_whole = tensor.shape[-(images.dim() - 2) :] == images.shape[2:] and tensor.shape != images.shape
            if task is not None or masks is not None or is_whole:
                yield _Candidate(path, tensor, meaning, masks is not None)
        elif isinstance(meaning, Detection):
            yield _Candidate(path, tensor, meaning, find_truths(batch, count, width, meaning.name) is not None)
        elif meaning.name == "regression":
            values = find_values(batch, count, width) if tensor.dim() < 3 else None
            is_labeled = values is not None and not bool(((values == 0) | (values == 1)).all())
            if task is not None or tensor.numel() != images.numel():  # else it is the images again
                yield _Candidate(path, tensor, meaning, is_labeled)


def _fit(labels: Tensor, width: int) -> bool:
    """Whether labels are classes of so many scores; those of a single one are 0 and 1, without exception."""
    return fit_labels(labels, width) and (width > 1 or bool(((labels <= 1) | (labels == 255)).all()))


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
            if _is_used(found, use, [term for term in matching if _is_read_as(found.tensor, term)])
        ]
    overlapping = {found.path for found in used if isinstance(found.task, MultilabelSegmentation)}
    used = [found for found in used if found.path not in overlapping or found.task.name != "segmentation"]
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
            if found.task.name == "embedding" or (found.task.name == "regression" and is_single(found.tensor))
        ]
    return list(candidates)


def _is_used(found: _Candidate, use: str, terms: Sequence[LossTerm]) -> bool:
    """Whether a candidate means what the loss uses its tensor for, as these terms say."""
    if not terms or found.task.name not in _TASKS_OF[use]:
        return False
    if found.task.name == "ordinal":  # by the targets, or by a label that is no class of so many scores
        orders = {term.is_ordered for term in terms}
        return True in orders or (False not in orders and found.is_labeled)
    return (found.task.name == "multilabel") == (use == "sigmoid" and _is_of_several(found.tensor))


def _is_of_several(tensor: Tensor) -> bool:
    return tensor.dim() > 1 and tensor.shape[2:].numel() == 1 and tensor.shape[1] > 1


def _is_read_as(tensor: Tensor, term: LossTerm) -> bool:
    """Whether a tensor of the output may be the one that a loss reads, in another batch: by its number of channels."""
    width = tensor.shape[1] if tensor.dim() > 1 else 1
    widths = {length for shape in term.shapes for length in (shape[1:2] + shape[-1:] if len(shape) > 1 else (1,))}
    return width in widths or (tensor.dim() == 3 and bool({1, tensor.shape[2]} & widths))


def _best(candidates: Sequence[_Candidate]) -> _Candidate:
    """Return the likeliest: what the loss reads, classes first; what has labels; of equal ones the last exit.

    Of embeddings it is the first: that of the first of several inputs.
    """

    def rank(candidate: _Candidate) -> tuple[int, ...]:
        return (*_rank(candidate), *_likelihood_of_embedding(candidate))

    best = min(map(rank, candidates))
    equal = [candidate for candidate in candidates if rank(candidate) == best]
    exits = [other for other in equal if other.tensor.shape == equal[0].tensor.shape]
    is_exit = len(exits) == len(equal) > 1 and not any(map(_is_named, equal)) and equal[0].task.name != "embedding"
    return equal[-1] if is_exit else equal[0]


def _rank(candidate: _Candidate) -> tuple[int, ...]:
    use = (*_CERTAIN, "similarity", "").index(candidate.use)
    is_embedding = candidate.task.name == "embedding" and not candidate.use
    return (use, int(is_embedding), int(not candidate.is_labeled), list(TASKS).index(candidate.task.name))


def _likelihood_of_embedding(candidate: _Candidate) -> tuple[bool, bool]:
    """Rank embeddings: last the similarities of the samples of a batch, and what is not made of the images."""
    if candidate.task.name != "embedding":
        return False, False
    count, width = candidate.tensor.shape[0], candidate.tensor.shape[1:].numel()
    key = dotted(candidate.path).lower()
    return count == width, not any(word in key for word in _OF_IMAGES)


def _is_named(candidate: _Candidate) -> bool:
    """Whether a tensor stands under a name: exits of one depth after the other stand in a list."""
    return any(isinstance(key, str) for key in candidate.path)
