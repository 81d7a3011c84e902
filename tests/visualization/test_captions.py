from types import SimpleNamespace

import pytest
import torch

from lightning_saliency.attribution import blank_reasons
from lightning_saliency.evidence import TASKS
from lightning_saliency.visualization import Caption, Names, class_model_caption, fooling_caption, method_title
from lightning_saliency.visualization.captions import (
    answer_caption,
    class_captions,
    label_captions,
    prediction_captions,
    reason_words,
)

NAMES = Names(["cat", "dog"])
LONG = "Rindfleischetikettierungsueberwachungsaufgabenuebertragungsgesetz"


def test_a_class_without_a_name_is_called_by_its_number():
    assert [NAMES[index] for index in (0, 1, 2, -1)] == ["cat", "dog", "2", "-1"]
    assert Names()[3] == "3"


def explanation(answers, confidences, *, classes=None, probabilities=None, task=TASKS["multiclass"], logits=None):
    """What a caption reads of an explanation."""
    return SimpleNamespace(
        answers=answers,
        answer_probabilities=confidences,
        classes=None if classes is None else torch.tensor(classes),
        probabilities=None if probabilities is None else torch.tensor(probabilities),
        task=task,
        logits=logits,
    )


def test_the_prediction_is_right_and_said_once_or_wrong_or_unknown():
    captions = prediction_captions(
        explanation([1, 1, 1], [(0.934,), (1.0,), (0.5,)], classes=[1, 1, 1]), [1, 0, None], NAMES
    )
    assert captions == [
        Caption("dog 93%", True, names=("dog",)),
        Caption("predicted dog 100% · true cat", False, names=("dog", "cat")),
        Caption("predicted dog 50%", None, names=("dog",)),
    ]


def test_the_class_of_the_map_is_said_with_its_probability_where_it_is_not_the_predicted_one():
    rows = [[0.25, 0.75]] * 4
    words = explanation([1] * 4, [(0.75,)] * 4, classes=[1, 0, 0, 0], probabilities=rows)
    assert [caption.text for caption in prediction_captions(words, [0, 0, 1, None], NAMES)] == [
        "predicted dog 75% · true cat",
        "predicted dog 75% · map of: true cat 25%",
        "dog 75% · map of: cat 25%",
        "predicted dog 75% · map of: cat 25%",
    ]
    assert [caption.correct for caption in prediction_captions(words, [0, 0, 1, None], NAMES)] == [
        False,
        False,
        True,
        None,
    ]
    chosen = explanation([1], [(0.75,)])  # a score of the user's own, which is no class
    assert [caption.text for caption in prediction_captions(chosen, [None], NAMES)] == ["predicted dog 75%"]


def test_a_third_class_is_said_beside_the_predicted_and_the_true_one():
    words = explanation([1], [(0.5,)], classes=[2], probabilities=[[0.2, 0.5, 0.3]])
    (caption,) = prediction_captions(words, [0], Names(["cat", "dog", "cow"]))
    assert caption == Caption("predicted dog 50% · true cat · map of: cow 30%", False, names=("dog", "cat", "cow"))


def test_what_a_probability_is_of_stands_behind_it():
    words = explanation([1, 1], [(0.5,), ()], classes=[1, 1], task=TASKS["segmentation"])
    assert [caption.text for caption in prediction_captions(words, [None, None], NAMES)] == [
        "predicted dog 50% of the pixels",
        "predicted dog",
    ]


def test_a_caption_knows_its_names_so_that_these_alone_are_shortened():
    (caption,) = prediction_captions(explanation([0], [(0.5,)], classes=[0]), [1], Names([LONG, "b"]))
    assert caption == Caption(f"predicted {LONG} 50% · true b", False, names=(LONG, "b"))


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (None, None),
        ("constant 0", "all 0: nothing speaks for it"),
        ("constant 0.5", "the same everywhere: 0.5"),
        ("all negative", "all negative: everything speaks against it"),
        ("not finite", "no numbers: infinite, or not defined"),
        ("not explained", "not explained"),
    ],
)
def test_why_a_map_is_blank_is_said_in_plain_words(reason, words):
    assert reason_words([reason]) == [words]


def test_each_reason_why_a_map_can_be_blank_has_plain_words():
    maps = torch.stack([torch.zeros(1, 4, 4), -1 - torch.rand(1, 4, 4), torch.full((1, 4, 4), torch.nan)])
    reasons = blank_reasons(maps)
    assert None not in reasons
    assert all(words != reason for words, reason in zip(reason_words(reasons), reasons, strict=True))


def test_an_embedding_is_named_and_nothing_is_predicted():
    words = explanation([None], [()], task=TASKS["embedding"], logits=torch.zeros(1, 128))
    assert prediction_captions(words, [None], NAMES) == [Caption("embedding of 128", None)]


def test_what_stands_below_a_cell():
    assert class_captions([1, 1], [0.25, 0.5], [1, 0], NAMES) == [
        Caption("dog 25%", True, names=("dog",)),
        Caption("dog 50%", names=("dog",)),
    ]
    assert label_captions([0, None], NAMES) == [Caption("true cat", names=("cat",)), Caption("")]
    assert answer_caption(None, 1, NAMES) == Caption("dog", names=("dog",))
    assert answer_caption(1, 1, NAMES) == Caption("dog", True, names=("dog",))
    assert answer_caption((39.0,), (37.251,), NAMES) == Caption("37.25")
    assert answer_caption((0, 1), (1, 0), NAMES) == Caption("dog, cat", True, names=("dog", "cat"))
    assert answer_caption(1, None, NAMES) == Caption("")


def test_sets_of_classes_and_values_are_said_as_what_they_are():
    truths, answers = [(0,), (39.0,), (), (0.5, 1.0, 2.0, 3.0)], [(0, 1), (37.25,), (), (0.25, 1.0, 2.0, 3.0)]
    captions = prediction_captions(explanation(answers, [(0.9, 0.6), (), (), ()]), truths, NAMES)
    assert [caption.text for caption in captions] == [
        "predicted cat 90%, dog 60% · true cat",
        "predicted 37.25 · true 39",
        "predicted none",
        "predicted 0.25, 1, 2, … · true 0.5, 1, 2, …",
    ]
    assert [caption.correct for caption in captions] == [False, None, True, None]


@pytest.mark.parametrize(
    ("label", "steps", "fooled", "reason", "text"),
    [
        (0, 1, True, None, "true cat · taken for dog after 1 step"),
        (None, 3, True, None, "taken for dog after 3 steps"),
        (0, 50, False, None, "true cat · not taken for dog within 50 steps"),
        (0, 0, False, "gradient 0", "true cat · not taken for dog: gradient 0"),
    ],
)
def test_a_fooling_image_says_what_it_is_taken_for(label, steps, fooled, reason, text):
    names = ("dog",) if label is None else ("cat", "dog")
    assert fooling_caption(label, 1, steps, fooled, reason, NAMES) == Caption(text, names=names)


def test_a_class_model_image_names_its_class_and_why_there_is_none():
    assert class_model_caption(1, NAMES) == Caption("dog", names=("dog",))
    assert class_model_caption(1, NAMES, "gradient 0") == Caption("dog · gradient 0", names=("dog",))


def test_a_method_is_called_by_its_title_and_its_layer():
    assert method_title("grad_cam_plus_plus") == "Grad-CAM++"
    assert method_title("grad_cam@backbone.layer3") == "Grad-CAM · backbone.layer3"
