"""`choose_part`: which of the modules that a step calls is explained, and what its output means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lightning_saliency._checks import OptionError
from lightning_saliency.callbacks.meaning import Meaning, choose_meaning
from lightning_saliency.data import Call, channels_first
from lightning_saliency.data.trees import leaves
from lightning_saliency.data.truths import under_key
from lightning_saliency.evidence import (
    LossTerm,
    OutputChoice,
    Reading,
    RecordedCall,
    Stages,
    Task,
    find_link,
    find_stages,
    read_output,
    same_tensors,
)

_MOST_NAMED = 8
"""The most submodules that a message names."""

_MOST_SHAPES = 4
"""The most shapes of an input or output that a message lists."""

SAME_RUN = 1e-2
"""The tolerance for outputs of two runs of the same images, relative to the largest: rounding in low precision."""

_COLORS = (1, 3, 4)
"""The numbers of channels that images have whatever the batch holds."""

_ENDS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda output: output,
    lambda output: output.log_softmax(1),
    lambda output: output.softmax(1),
    lambda output: output.sigmoid(),
)
"""What a `forward` may do with the output of its last module, and yet say the same."""


@dataclass(frozen=True)
class CallReader:
    """Reads recorded calls.

    Attributes:
        image: The name of the argument that holds the images, where the user says so.
        output_fn: Which part of the output is explained, where the user says so.
        task: What it means, where the user says so.
        terms: What the training's loss does with its tensors; None where that is not known.
    """

    image: str | None = None
    output_fn: OutputChoice = None
    task: Task | None = None
    terms: tuple[LossTerm, ...] | None = None

    def call(self, recorded: RecordedCall) -> Call:
        """Return a recorded call.

        Raises:
            OptionError: It holds no images, or its output nothing that can be explained.
        """
        if recorded.call is None:
            raise OptionError(
                f"{recorded.problem} Name the argument that holds the images: `Samples(image=...)`.",
                "methods" if self.image is None else "samples.image",
            )
        if recorded.problem is not None:
            raise OptionError(recorded.problem, "methods" if self.output_fn is None else "output_fn")
        return recorded.call

    def meaning(self, recorded: RecordedCall, batch: Any) -> Meaning:
        """Return what the output of a call means.

        Raises:
            OptionError: The call holds no images, or nothing of its output can be explained.
        """
        images = self.call(recorded).first_repeated
        return choose_meaning(recorded.output, batch, images, terms=self.terms, choice=self.output_fn, task=self.task)

    def read(self, recorded: RecordedCall, meaning: Meaning) -> Reading:
        """Return what the output of a call says."""
        call = self.call(recorded)
        return read_output(recorded.output, len(call), meaning.output, meaning.task, call.first_repeated)


@dataclass(frozen=True)
class Step:
    """What was recorded of a validation step.

    Attributes:
        batch: Its batch.
        recorded: The calls in it, by the names of the modules; under the empty name that of the whole module, which is
            its `forward`.
        within: The modules that `forward` itself calls, where the step has called it as a method, not as a module.
    """

    batch: Any
    recorded: Mapping[str, RecordedCall]
    within: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepReading:
    """What the explained part of a module was called with in a step, and what it said.

    Attributes:
        batch: What is true of the samples: the batch of the step, or of windows of its images.
        call: The call.
        reading: What it said; None where that is not known.
        note: What to say of the samples, or None.
    """

    batch: Any
    call: Call
    reading: Reading | None
    note: str | None = None


@dataclass(frozen=True)
class PartChoice:
    """Modules that can be explained, and what their output means; the lower the rank, the likelier it is that."""

    stages: Stages
    meaning: Meaning
    rank: tuple[int, ...]


def choose_part(step: Step, reader: CallReader, is_trained: Callable[[Stages], bool], who: str) -> PartChoice:
    """Choose which modules of a step are explained.

    Of several, these are those that are trained; then what the training's loss and the labels tell; then those whose
    output goes into no other; then the whole module. Of several heads of one body it is the first, and the others are
    named.

    Args:
        step: The step.
        reader: Reads its calls.
        is_trained: Whether the training changes any of these modules.
        who: The name of the whole module's type.

    Raises:
        OptionError: None can be explained, or it is not clear which.
    """
    problems: dict[str, str] = {}
    choices = list(_choices(step, reader, is_trained, problems))
    equal = [choice for choice in choices if choice.rank == min(choice.rank for choice in choices)]
    bodies = {choice.stages.first if choice.stages.links else str(choice.stages) for choice in equal}
    if len(bodies) == 1 and (len(equal) == 1 or all(choice.stages.links for choice in equal)):
        others = tuple(choice.stages.names[-1] for choice in equal[1:])
        meaning = equal[0].meaning
        return replace(equal[0], meaning=replace(meaning, others=(*meaning.others, *others)))
    if "" in step.recorded and not equal:
        reader.meaning(step.recorded[""], step.batch)  # which says what is missing
    names = [str(choice.stages) for choice in equal]
    if names:
        listed = f"It calls several that do so: {', '.join(names)}. "
        listed += f"Name one of them: {_to_paste([choice.stages.first for choice in equal])}."
    else:
        listed = describe_calls(step.recorded, problems)
    raise OptionError(
        f"Expected the validation step of {who} to call what turns images into logits, "
        f"{'and one alone, or to train one alone' if names else 'which it does not'}. {listed}",
        "output_fn" if reader.output_fn is not None else "methods" if reader.image is None else "samples.image",
    )


def describe_calls(recorded: Mapping[str, RecordedCall], problems: Mapping[str, str] | None = None) -> str:
    """Return in words which submodules were called, why each cannot be explained, and what to set."""
    calls = {name: call for name, call in recorded.items() if name}
    if not calls:
        return "It calls none of its submodules. Call the one that does, as a module, or name it: `model=...`."
    listed = "; ".join(f"{name} ({_describe(call)})" for name, call in list(calls.items())[:_MOST_NAMED])
    with_images = [name for name, call in calls.items() if call.call is not None]
    reasons = "".join(f" Of {name}: {problem}" for name, problem in (problems or {}).items())
    return f"It calls {listed}. Name the one that does, `model=...`: {_to_paste(with_images or list(calls))}.{reasons}"


def _to_paste(names: list[str]) -> str:
    return " or ".join(f"`SaliencyCallback(model={name!r})`" for name in names[:_MOST_NAMED])


def _describe(recorded: RecordedCall) -> str:
    """Return in words from what to what a module was called."""
    if recorded.call is not None:
        return recorded.problem or f"from images {_shapes(recorded.call.given)} to {_shapes(recorded.output)}"
    return f"from {_shapes(recorded.given)} to {_shapes(recorded.output)}"


def _shapes(tree: Any) -> str:
    shapes = [str(tuple(leaf.shape)) for _, leaf in leaves(tree) if isinstance(leaf, Tensor)]
    return ", ".join(shapes[:_MOST_SHAPES]) + (" …" if len(shapes) > _MOST_SHAPES else "") or "no tensor"


def _choices(
    step: Step, reader: CallReader, is_trained: Callable[[Stages], bool], problems: dict[str, str]
) -> Iterator[PartChoice]:
    """Yield what can be explained: the modules of a step that are called with images, and those that follow them.

    Of the others that are called with images, it is put into `problems` why they cannot.
    """
    stages, followed = find_stages(step.recorded, _takes_images(step))
    if _is_followed(step):
        followed |= {""}
    is_called = "" in step.recorded and not step.within
    for name, modules in stages.items():
        if is_called and modules.first:
            continue  # beside the module's own call, others are not asked
        try:
            batch = under_key(step.batch, name) if modules.links else step.batch
            meaning = reader.meaning(modules.call(step.recorded), batch)
            if not modules.links or _is_certain(meaning, is_last=name == list(step.recorded)[-1]):
                rank = (not is_trained(modules), *meaning.rank, name in followed, _preference(name, step))
                yield PartChoice(modules, meaning, tuple(map(int, rank)))
        except OptionError as error:
            problems[name] = str(error)


def _is_certain(meaning: Meaning, *, is_last: bool) -> bool:
    """Whether it is clear that the output of modules that are called one after the other is what the step is about.

    An embedding is rather the one that the first of them makes, and values may be of something on the way, such as the
    mean and the variance of a code.
    """
    if meaning.task is None or not meaning.task.has_values:
        return True
    is_labeled = meaning.rank[2:3] == (0,)
    return meaning.task.name != "embedding" and (is_labeled or is_last)


def _takes_images(step: Step) -> Callable[[str, RecordedCall], bool]:
    """Return a function that says whether a call of a module is one with images, and not with features."""
    first = next((name for name in step.recorded if name), "")
    tensors = [leaf for _, leaf in leaves(step.batch) if isinstance(leaf, Tensor) and leaf.numel()]
    channels = {channels_first(leaf).shape[1] for leaf in tensors if leaf.dim() in (4, 5)}
    channels |= {leaf.shape[0] for leaf in tensors if leaf.dim() == 3}  # in a list of images

    def takes_images(name: str, recorded: RecordedCall) -> bool:
        if recorded.call is None:
            return False
        if name in ("", first):
            return True
        images = recorded.call.first_repeated
        # behind another module's call, what looks like a signal is a sequence of features
        return images.dim() > 3 and (not channels or images.shape[1] in (*channels, *_COLORS))

    return takes_images


def _is_followed(step: Step) -> bool:
    """Whether the output of the whole module's `forward` goes into another module of the step."""
    others = [call for name, call in step.recorded.items() if name and name not in step.within]
    return "" in step.recorded and any(find_link(step.recorded[""], call) is not None for call in others)


def _preference(name: str, step: Step) -> int:
    """Return which of several that are equal comes first: the whole module, where it says what its last module says."""
    if name or not step.within:
        return int(bool(name))
    ours = [leaf for _, leaf in leaves(step.recorded[""].output) if isinstance(leaf, Tensor)]
    theirs = [leaf for inner in step.within for _, leaf in leaves(step.recorded[inner].output)]
    candidates = [leaf for leaf in theirs if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() > 1]
    pairs = [(our, their) for our in ours for their in candidates if our.numel() == their.numel()]
    return (
        0
        if any(same_tensors(our, end(their).reshape(our.shape), SAME_RUN) for our, their in pairs for end in _ENDS)
        else 2
    )
