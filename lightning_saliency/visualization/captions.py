"""The words of the pictures: captions, class names and method titles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_saliency.attribution import METHODS, Explanation
from lightning_saliency.data import NOTHING, Answer

_MOST_NAMED = 3  # classes or values in a caption
_LONGEST_NAME = 40  # characters of a class name in a caption, so that what follows it is seen too


@dataclass(frozen=True)
class Caption:
    """A line of words about a sample or a cell.

    Args:
        text: The words. What is too long for its place is cut with "…".
        correct: Whether the prediction is right: the text is green after a ✓ for True, red after a ✗ for False, and
            neutral for None.
        detail: What stands small below a cell's words, such as which slice of a volume is shown.

    Example:
        >>> Caption("true cat · predicted dog 93%", correct=False)
        Caption(text='true cat · predicted dog 93%', correct=False, detail='')
    """

    text: str
    correct: bool | None = None
    detail: str = ""


@dataclass(frozen=True)
class Names:
    """The names of the classes; a class without a name, or with an empty one, is called by its number.

    Args:
        names: By class index; None where there are none.

    Example:
        >>> Names(["cat", "dog"])[1], Names()[1]
        ('dog', '1')
    """

    names: Sequence[str] | None = None

    def __getitem__(self, index: int) -> str:
        names = self.names or ()
        return (str(names[index]) if 0 <= index < len(names) else "") or str(index)

    def has(self, index: int) -> bool:
        """Whether a class has a name."""
        return self[index] != str(index)

    def short(self, index: int, probability: float | None = None) -> str:
        """Return the name, cut where it is longer than 40 characters, with the class's probability behind it."""
        name = self[index] if len(self[index]) <= _LONGEST_NAME else self[index][: _LONGEST_NAME - 1].rstrip() + "…"
        return name if probability is None else f"{name} {probability:.0%}"


def nothing_words(task: str) -> str:
    """Return what is said where no class is predicted.

    Example:
        >>> nothing_words("multilabel"), nothing_words("detection")
        ('predicted none', 'nothing detected')
    """
    return NOTHING.get(task, "predicted none")


def method_title(key: str) -> str:
    """Return what a picture calls a method, with the layer where it reads several.

    Example:
        >>> method_title("grad_cam"), method_title("grad_cam@layer3")
        ('Grad-CAM', 'Grad-CAM · layer3')
    """
    method, _, layer = key.partition("@")
    return join_notes(METHODS[method].title, layer)


def join_notes(*notes: str | bool | None) -> str:
    """Join what a picture says in one line, without what is empty."""
    return " · ".join(str(note) for note in notes if note)


def prediction_captions(
    truths: Sequence[Answer | None],
    answers: Sequence[Answer | None],
    confidences: Sequence[Sequence[float]],
    names: Names,
    of_what: str = "",
    output: str = "",
    nothing: str = "predicted none",
    explained: Sequence[int] | None = None,
) -> list[Caption]:
    """Say of each sample what is true of it, where that is known, what is predicted, and how probable that is.

    Args:
        truths: A class, a set of classes, or values; None where that is not known.
        answers: The same of the model; None where there is nothing to read.
        confidences: The probability of each predicted class; none of values.
        names: The names of the classes.
        of_what: What stands behind a probability.
        output: What the model's output is, where there is nothing to read.
        nothing: What is said where no class is predicted.
        explained: The class of each that is explained in place of the true one, −1 for none; said unless it is the only
            true one, or the only predicted one where that is not known. None where it stands elsewhere.

    Example:
        >>> prediction_captions([(39.0,)], [(37.25,)], [()], Names())[0].text
        'true 39 · predicted 37.25'
        >>> prediction_captions([(0, 1)], [(0, 1)], [(0.9, 0.8)], Names(["cat", "dog"]), explained=[1])[0].text
        'true cat, dog · predicted cat 90%, dog 80% · explained: dog'
    """
    classes = [-1] * len(truths) if explained is None else explained
    return [
        Caption(
            join_notes(
                _truth(truth, names),
                output if answer is None else _predicted(answer, names, row, of_what, nothing),
                _is_to_be_said(index, answer if truth is None else truth) and f"explained: {names.short(index)}",
            ),
            None if truth is None else is_right(answer, truth),
        )
        for truth, answer, row, index in zip(truths, answers, confidences, classes, strict=True)
    ]


def _predicted(answer: Answer, names: Names, confidences: Sequence[float], of_what: str, nothing: str) -> str:
    if answer == ():
        return nothing
    return f"predicted {_in_words(answer, names, confidences)}{of_what if confidences else ''}"


def _is_to_be_said(index: int, known: Answer | None) -> bool:
    return index >= 0 and known not in (index, (index,))


def is_right(answer: Answer | None, truth: Answer | None) -> bool | None:
    """Whether what a model says is true: None of values, and where one of the two is not known."""
    if answer is None or truth is None or _is_values(answer) or _is_values(truth):
        return None
    return _as_set(answer) == _as_set(truth)


def _as_set(answer: Answer) -> set[float]:
    return set(answer) if isinstance(answer, tuple) else {answer}


def _is_values(answer: Answer) -> bool:
    return isinstance(answer, tuple) and any(isinstance(value, float) for value in answer)


def _in_words(answer: Answer, names: Names, confidences: Sequence[float] = ()) -> str:
    """Return an answer in words, the first three of several."""
    if not isinstance(answer, tuple):
        return names.short(answer, *confidences[:1])
    if not answer:
        return "none"
    words = [
        f"{value:.4g}" if isinstance(value, float) else names.short(value, *confidences[index : index + 1])
        for index, value in enumerate(answer[:_MOST_NAMED])
    ]
    return ", ".join([*words, *(["…"] if len(answer) > _MOST_NAMED else [])])


def explanation_captions(explanation: Explanation, names: Names) -> list[Caption]:
    """Say of each image the predicted class, how probable it is, and which class is explained."""
    predictions = explanation.predictions.tolist()
    classes = [None] * len(predictions) if explanation.classes is None else explanation.classes.tolist()
    probabilities = explanation.probabilities
    said = prediction_captions(
        [None] * len(predictions),
        explanation.answers,
        explanation.answer_probabilities,
        names,
        explanation.task.of_what,
        explanation.task.describe(explanation.logits),
        nothing_words(explanation.task.name),
    )
    captions = []
    for row, (predicted, index, caption) in enumerate(zip(predictions, classes, said, strict=True)):
        if index == -1:  # nothing is detected
            captions.append(caption)
            continue
        explained = "predicted class"
        if index is None:
            explained = explanation.settings.target.describe(task=explanation.task)
        elif probabilities is None:
            explained = f"value {index}"
        elif index != predicted:
            explained = names.short(index, float(probabilities[row, index]))
        captions.append(Caption(join_notes(caption.text, f"explained: {explained}")))
    return captions


def class_captions(
    classes: Sequence[int],
    probabilities: Sequence[float],
    labels: Sequence[int | None],
    names: Names,
    as_text: str = "{:.0%}",
) -> list[Caption]:
    """Name a class of each sample and its probability; marked as right where it is the true one."""
    return [
        Caption(f"{names[index]} · {as_text.format(probability)}", True if index == label else None)
        for index, probability, label in zip(classes, probabilities, labels, strict=True)
    ]


def label_captions(labels: Sequence[Answer | None], names: Names) -> list[Caption]:
    """Say what is true of each sample, where that is known."""
    return [Caption(_truth(label, names)) for label in labels]


def answer_caption(label: Answer | None, answer: Answer | None, names: Names, nothing: str = "none") -> Caption:
    """Say what is predicted alone, and whether it is right, where that is known."""
    words = "" if answer is None else nothing if answer == () else _in_words(answer, names)
    return Caption(words, is_right(answer, label))


def class_model_caption(index: int, names: Names, blank_reason: str | None = None) -> Caption:
    """Name the class that a class model image shows, and why there is no image, where that is so."""
    return Caption(join_notes(names[index], blank_reason))


def fooling_caption(
    label: int | None, target: int, steps: int, fooled: bool, blank_reason: str | None, names: Names
) -> Caption:
    """Say of a fooling image whether the model takes it for the target, after how many steps, or why not.

    Example:
        >>> fooling_caption(0, 1, 3, True, None, Names(["cat", "dog"])).text
        'true cat · taken for dog after 3 steps'
    """
    outcome = f"taken for {names.short(target)}"
    if fooled:
        outcome += f" after {steps} step{'' if steps == 1 else 's'}"
    else:
        outcome = f"not {outcome}" + (f": {blank_reason}" if blank_reason else f" within {steps} steps")
    return Caption(join_notes(_truth(label, names), outcome))


def _truth(label: Answer | None, names: Names) -> str:
    return "" if label is None else f"true {_in_words(label, names)}"
