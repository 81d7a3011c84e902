"""The words of the pictures: captions, class names and method titles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lightning_saliency.attribution import METHODS, Explanation
from lightning_saliency.data import NOTHING, Answer

_MOST_NAMED = 3  # classes or values in a caption


@dataclass(frozen=True)
class Caption:
    """A line of words about a sample or a cell.

    Args:
        text: The words. What is too long for its place is broken into two lines, then its names are shortened.
        correct: Whether the prediction is right: the text is green after a ✓ for True, red after a ✗ for False, and
            neutral for None.
        detail: What stands small below a cell's words, such as which slice of a volume is shown.
        names: The names of classes in the text, which may be shortened in the middle.

    Example:
        >>> Caption("true cat · predicted dog 93%", correct=False)
        Caption(text='true cat · predicted dog 93%', correct=False, detail='', names=())
    """

    text: str
    correct: bool | None = None
    detail: str = ""
    names: tuple[str, ...] = ()


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

    def caption(self, index: int, probability: float | None = None) -> Caption:
        """Return the name, with the class's probability behind it."""
        return self.with_number(index, None if probability is None else f"{probability:.0%}")

    def with_number(self, index: int, number: str | None) -> Caption:
        """Return the name with a number behind it, beside which a name that is a number itself is called a class."""
        name = self[index]
        words = [name] if number is None else ["class", name, number] if name.isdigit() else [name, number]
        return Caption(" ".join(words), names=(name,))

    def has(self, index: int) -> bool:
        """Whether a class has a name."""
        return self[index] != str(index)


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


def prediction_captions(explanation: Explanation, truths: Sequence[Answer | None], names: Names) -> list[Caption]:
    """Say of each sample what is predicted and how probable that is, what is true, and which class its map explains.

    What is right, and what explains the predicted class, is not said twice.

    Args:
        explanation: What the model says.
        truths: A class, a set of classes, or values; None where that is not known.
        names: The names of the classes.

    Example:
        >>> import torch
        >>> from lightning_saliency import explain
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> parameters = {"0.weight": torch.zeros(2, 3, 3, 3), "0.bias": torch.tensor([3.0, 2.0])}
        >>> matched = model.load_state_dict(parameters)
        >>> explanation = explain(model, torch.rand(3, 3, 8, 8), methods="saliency", target=[0, 1, 1])
        >>> captions = prediction_captions(explanation, [0, 1, None], Names(["cat", "dog"]))
        >>> [caption.text for caption in captions]
        ['cat 73%', 'predicted cat 73% · map of: true dog 27%', 'predicted cat 73% · map of: dog 27%']
    """
    answers = explanation.answers
    classes = [None] * len(answers) if explanation.classes is None else explanation.classes.tolist()
    captions = []
    for row, (truth, answer, index) in enumerate(zip(truths, answers, classes, strict=True)):
        correct = is_right(answer, truth)
        is_said = index not in (None, -1) and _is_to_be_said(index, answer)
        is_true = is_said and not correct and truth in (index, (index,))
        parts = [_predicted(explanation, row, names, is_right=bool(correct))]
        if truth is not None and not correct and not is_true:
            parts.append(_truth(truth, names))
        if is_said:
            words = _class_words(explanation, row, index, names)
            parts.append(_joined("map of: true " if is_true else "map of: ", words))
        captions.append(replace(_joined("", *parts), correct=correct))
    return captions


def _predicted(explanation: Explanation, row: int, names: Names, *, is_right: bool) -> Caption:
    """Say what is predicted for an image; where there is nothing to read, what the output is."""
    answer, task = explanation.answers[row], explanation.task
    if answer is None:
        return Caption(task.describe(explanation.logits))
    if answer == ():
        return Caption(nothing_words(task.name))
    confidences = explanation.answer_probabilities[row]
    said = _in_words(answer, names, confidences)
    said = replace(said, text=said.text + task.of_what if confidences else said.text)
    return said if is_right else _joined("predicted ", said)


def _class_words(explanation: Explanation, row: int, index: int, names: Names) -> Caption:
    """Name a class of an image, and its probability; or a value."""
    probabilities = explanation.probabilities
    if probabilities is None:
        return Caption(f"{explanation.task.value} {index}")
    said = names.caption(index, float(probabilities[row, index]))
    return replace(said, text=f"{explanation.task.of_class}{said.text}{explanation.task.of_what}")


def _is_to_be_said(index: int, answer: Answer | None) -> bool:
    """Whether an explained class, or value, is another one than what is predicted alone, or the first of values."""
    is_first_value = answer is not None and _is_values(answer) and index == 0
    return answer not in (index, (index,)) and not is_first_value


def reason_words(reasons: Sequence[str | None]) -> list[str | None]:
    """Say in plain words why maps are blank; see `lightning_saliency.attribution.blank_reasons`.

    Example:
        >>> reason_words(["constant 0", "constant 2.5", None])
        ['all 0: nothing speaks for it', 'the same everywhere: 2.5', None]
    """
    plain = {
        "constant 0": "all 0: nothing speaks for it",
        "all negative": "all negative: everything speaks against it",
        "not finite": "no numbers: infinite, or not defined",
    }
    return [
        reason if not reason else plain.get(reason, reason.replace("constant ", "the same everywhere: "))
        for reason in reasons
    ]


def is_right(answer: Answer | None, truth: Answer | None) -> bool | None:
    """Whether what a model says is true: None of values, and where one of the two is not known."""
    if answer is None or truth is None or _is_values(answer) or _is_values(truth):
        return None
    return _as_set(answer) == _as_set(truth)


def _as_set(answer: Answer) -> set[float]:
    return set(answer) if isinstance(answer, tuple) else {answer}


def _is_values(answer: Answer) -> bool:
    return isinstance(answer, tuple) and any(isinstance(value, float) for value in answer)


def _in_words(answer: Answer, names: Names, confidences: Sequence[float] = ()) -> Caption:
    """Return an answer in words, the first three of several."""
    if not isinstance(answer, tuple):
        return names.caption(answer, *confidences[:1])
    if not answer:
        return Caption("none")
    words = [
        Caption(f"{value:.4g}") if isinstance(value, float) else names.caption(value, *confidences[index : index + 1])
        for index, value in enumerate(answer[:_MOST_NAMED])
    ]
    text = ", ".join([*(word.text for word in words), *(["…"] if len(answer) > _MOST_NAMED else [])])
    return Caption(text, names=_names_of(words))


def class_captions(
    classes: Sequence[int],
    probabilities: Sequence[float],
    labels: Sequence[int | None],
    names: Names,
    as_text: str = "{:.0%}",
) -> list[Caption]:
    """Name a class of each sample and its probability; marked as right where it is the true one."""
    return [
        replace(names.with_number(index, as_text.format(probability)), correct=True if index == label else None)
        for index, probability, label in zip(classes, probabilities, labels, strict=True)
    ]


def label_captions(labels: Sequence[Answer | None], names: Names) -> list[Caption]:
    """Say what is true of each sample, where that is known."""
    return [_truth(label, names) for label in labels]


def answer_caption(label: Answer | None, answer: Answer | None, names: Names, nothing: str = "none") -> Caption:
    """Say what is predicted alone, and whether it is right, where that is known."""
    if answer is None:
        return Caption("")
    said = Caption(nothing) if answer == () else _in_words(answer, names)
    return replace(said, correct=is_right(answer, label))


def class_model_caption(index: int, names: Names, blank_reason: str | None = None) -> Caption:
    """Name the class that a class model image shows, and why there is no image, where that is so."""
    return Caption(join_notes(names[index], blank_reason), names=(names[index],))


def fooling_caption(
    label: int | None, target: int, steps: int, fooled: bool, blank_reason: str | None, names: Names
) -> Caption:
    """Say of a fooling image whether the model takes it for the target, after how many steps, or why not.

    Example:
        >>> fooling_caption(0, 1, 3, True, None, Names(["cat", "dog"])).text
        'true cat · taken for dog after 3 steps'
    """
    outcome = f"taken for {names[target]}"
    if fooled:
        outcome += f" after {steps} step{'' if steps == 1 else 's'}"
    else:
        outcome = f"not {outcome}" + (f": {blank_reason}" if blank_reason else f" within {steps} steps")
    return _joined("", _truth(label, names), Caption(outcome, names=(names[target],)))


def _truth(label: Answer | None, names: Names) -> Caption:
    return Caption("") if label is None else _joined("true ", _in_words(label, names))


def _joined(begin: str, *parts: Caption) -> Caption:
    """Join captions to one, with these words before the first."""
    return Caption(begin + join_notes(*(part.text for part in parts)), names=_names_of(parts))


def _names_of(captions: Sequence[Caption]) -> tuple[str, ...]:
    return tuple(name for caption in captions for name in caption.names)
