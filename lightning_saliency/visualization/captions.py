"""The words of the pictures: captions, class names and method titles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_saliency.attribution import METHODS, Explanation

_MOST_CHARACTERS = 40  # of a class name in a caption, so that what follows it is seen too


@dataclass(frozen=True)
class Caption:
    """A line of words about a sample or a cell.

    Args:
        text: The words. What is too long for its place is cut with "…".
        correct: Whether the prediction is right: the text is green after a ✓ for True, red after a ✗ for False, and
            neutral for None.

    Example:
        >>> Caption("true cat · predicted dog 93%", correct=False)
        Caption(text='true cat · predicted dog 93%', correct=False)
    """

    text: str
    correct: bool | None = None


@dataclass(frozen=True)
class Names:
    """The names of the classes; a class without a name is called by its number.

    Args:
        names: By class index; None where there are none.

    Example:
        >>> Names(["cat", "dog"])[1], Names()[1]
        ('dog', '1')
    """

    names: Sequence[str] | None = None

    def __getitem__(self, index: int) -> str:
        return str(self.names[index]) if self.names is not None and 0 <= index < len(self.names) else str(index)

    def short(self, index: int) -> str:
        """Return the name, cut with "…" where it is longer than 40 characters."""
        name = self[index]
        return name if len(name) <= _MOST_CHARACTERS else name[: _MOST_CHARACTERS - 1].rstrip() + "…"


def method_title(key: str) -> str:
    """Return what a picture calls a method, with the layer where it reads several.

    Example:
        >>> method_title("grad_cam"), method_title("grad_cam@layer3")
        ('Grad-CAM', 'Grad-CAM · layer3')
    """
    method, _, layer = key.partition("@")
    return f"{METHODS[method].title} · {layer}" if layer else METHODS[method].title


def prediction_captions(
    labels: Sequence[int | None], predictions: Sequence[int], probabilities: Sequence[float], names: Names
) -> list[Caption]:
    """Say of each sample its true class, where it is known, the predicted one, and how probable that is."""
    return [
        Caption(
            f"{_true(label, names)}predicted {names.short(prediction)} {probability:.0%}",
            None if label is None else label == prediction,
        )
        for label, prediction, probability in zip(labels, predictions, probabilities, strict=True)
    ]


def explanation_captions(explanation: Explanation, names: Names) -> list[Caption]:
    """Say of each image the predicted class, how probable it is, and which class is explained."""
    probabilities, predictions = explanation.probabilities, explanation.predictions.tolist()
    classes = [None] * len(predictions) if explanation.classes is None else explanation.classes.tolist()

    def with_probability(row: int, index: int) -> str:
        return f"{names.short(index)} {probabilities[row, index]:.0%}"

    captions = []
    for row, (prediction, index) in enumerate(zip(predictions, classes, strict=True)):
        explained = "predicted class" if index == prediction else "chosen target"
        if index is not None and index != prediction:
            explained = with_probability(row, index)
        captions.append(Caption(f"predicted {with_probability(row, prediction)} · explained: {explained}"))
    return captions


def class_captions(
    classes: Sequence[int], probabilities: Sequence[float], labels: Sequence[int | None], names: Names
) -> list[Caption]:
    """Name a class of each sample and its probability; marked as right where it is the true one."""
    return [
        Caption(f"{names[index]} · {probability:.0%}", True if index == label else None)
        for index, probability, label in zip(classes, probabilities, labels, strict=True)
    ]


def label_captions(labels: Sequence[int | None], names: Names) -> list[Caption]:
    """Name the true class of each sample, where it is known."""
    return [Caption("" if label is None else f"true {names[label]}") for label in labels]


def predicted_class_caption(label: int | None, prediction: int, names: Names) -> Caption:
    """Name the predicted class alone, and say whether it is right, where that is known."""
    return Caption(names[prediction], None if label is None else prediction == label)


def class_model_caption(index: int, names: Names, blank_reason: str | None = None) -> Caption:
    """Name the class that a class model image shows, and why there is none, where that is so."""
    return Caption(f"{names[index]} · {blank_reason}" if blank_reason else names[index])


def fooling_caption(
    label: int | None, target: int, steps: int, fooled: bool, blank_reason: str | None, names: Names
) -> Caption:
    """Say of a fooling image what the model takes it for, and after how many steps.

    Args:
        label: The true class of the image it was made of, or None.
        target: The class that it was to be taken for.
        steps: How many steps were made.
        fooled: Whether the model takes it for that class.
        blank_reason: Why no step could be made, or None.
        names: The names of the classes.

    Example:
        >>> fooling_caption(0, 1, 3, True, None, Names(["cat", "dog"])).text
        'true cat · taken for dog after 3 steps'
    """
    taken_for = names.short(target)
    if fooled:
        outcome = f"taken for {taken_for} after {steps} step{'' if steps == 1 else 's'}"
    else:
        outcome = f"not taken for {taken_for}" + (f": {blank_reason}" if blank_reason else f" within {steps} steps")
    return Caption(_true(label, names) + outcome)


def join_notes(*notes: str | None) -> str:
    """Join what a picture's note says, without what is empty.

    Example:
        >>> join_notes("explained: true class", "", "layer: layer4")
        'explained: true class · layer: layer4'
    """
    return " · ".join(note for note in notes if note)


def _true(label: int | None, names: Names) -> str:
    return "" if label is None else f"true {names.short(label)} · "
