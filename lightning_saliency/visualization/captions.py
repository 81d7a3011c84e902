"""The words of the pictures: captions, class names and method titles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_saliency.attribution import METHODS, Explanation

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

    def short(self, index: int, probability: float | None = None) -> str:
        """Return the name, cut where it is longer than 40 characters, with the class's probability behind it."""
        name = self[index] if len(self[index]) <= _LONGEST_NAME else self[index][: _LONGEST_NAME - 1].rstrip() + "…"
        return name if probability is None else f"{name} {probability:.0%}"


def method_title(key: str) -> str:
    """Return what a picture calls a method, with the layer where it reads several.

    Example:
        >>> method_title("grad_cam"), method_title("grad_cam@layer3")
        ('Grad-CAM', 'Grad-CAM · layer3')
    """
    method, _, layer = key.partition("@")
    return join_notes(METHODS[method].title, layer)


def join_notes(*notes: str | None) -> str:
    """Join what a picture says in one line, without what is empty."""
    return " · ".join(note for note in notes if note)


def prediction_captions(
    labels: Sequence[int | None], predictions: Sequence[int], probabilities: Sequence[float], names: Names
) -> list[Caption]:
    """Say of each sample its true class, where it is known, the predicted one, and how probable that is."""
    return [
        Caption(
            join_notes(_true_class(label, names), f"predicted {names.short(prediction, probability)}"),
            None if label is None else label == prediction,
        )
        for label, prediction, probability in zip(labels, predictions, probabilities, strict=True)
    ]


def explanation_captions(explanation: Explanation, names: Names) -> list[Caption]:
    """Say of each image the predicted class, how probable it is, and which class is explained."""
    probabilities, predictions = explanation.probabilities.tolist(), explanation.predictions.tolist()
    classes = [None] * len(predictions) if explanation.classes is None else explanation.classes.tolist()
    captions = []
    for row, predicted, index in zip(probabilities, predictions, classes, strict=True):
        explained = "predicted class" if index == predicted else "chosen target"
        if index not in (None, predicted):
            explained = names.short(index, row[index])
        captions.append(Caption(f"predicted {names.short(predicted, row[predicted])} · explained: {explained}"))
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
    return [Caption(_true_class(label, names)) for label in labels]


def predicted_class_caption(label: int | None, prediction: int, names: Names) -> Caption:
    """Name the predicted class alone, and say whether it is right, where that is known."""
    return Caption(names[prediction], None if label is None else prediction == label)


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
    return Caption(join_notes(_true_class(label, names), outcome))


def _true_class(label: int | None, names: Names) -> str:
    return "" if label is None else f"true {names.short(label)}"
