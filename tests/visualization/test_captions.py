from types import SimpleNamespace

import pytest
import torch

from lightning_saliency.evidence import TASKS, Target
from lightning_saliency.visualization import Caption, Names, class_model_caption, fooling_caption, method_title
from lightning_saliency.visualization.captions import (
    answer_caption,
    class_captions,
    explanation_captions,
    label_captions,
    prediction_captions,
)

NAMES = Names(["cat", "dog"])
LONG = "Rindfleischetikettierungsueberwachungsaufgabenuebertragungsgesetz"


def test_a_class_without_a_name_is_called_by_its_number():
    assert [NAMES[index] for index in (0, 1, 2, -1)] == ["cat", "dog", "2", "-1"]
    assert Names()[3] == "3"


def test_the_prediction_is_right_wrong_or_unknown():
    captions = prediction_captions([1, 0, None], [1, 1, 1], [(0.934,), (1.0,), (0.5,)], NAMES)
    assert captions == [
        Caption("true dog · predicted dog 93%", True),
        Caption("true cat · predicted dog 100%", False),
        Caption("predicted dog 50%", None),
    ]


def test_a_long_name_leaves_room_for_what_follows_it():
    (caption,) = prediction_captions([0], [0], [(0.5,)], Names([LONG]))
    assert caption.text == f"true {LONG[:39]}… · predicted {LONG[:39]}… 50%"
    assert Names([LONG])[0] == LONG


def test_an_explanation_says_which_class_is_explained():
    explanation = SimpleNamespace(
        logits=torch.tensor([[0.25, 0.75], [0.25, 0.75]]).log(),
        probabilities=torch.tensor([[0.25, 0.75], [0.25, 0.75]]),
        predictions=torch.tensor([1, 1]),
        classes=torch.tensor([1, 0]),
        answers=[1, 1],
        answer_probabilities=[(0.75,), (0.75,)],
        task=TASKS["multiclass"],
        settings=SimpleNamespace(target=Target(lambda logits: logits[:, 0])),
    )
    assert [caption.text for caption in explanation_captions(explanation, NAMES)] == [
        "predicted dog 75% · explained: predicted class",
        "predicted dog 75% · explained: cat 25%",
    ]
    explanation.classes = None
    assert explanation_captions(explanation, NAMES)[0].text == "predicted dog 75% · explained: chosen target"


def test_an_embedding_is_named_and_nothing_is_predicted():
    captions = prediction_captions([None], [None], [()], NAMES, "", "embedding of 128")
    assert captions == [Caption("embedding of 128", None)]


def test_what_stands_below_a_cell():
    assert class_captions([1, 1], [0.25, 0.5], [1, 0], NAMES) == [Caption("dog · 25%", True), Caption("dog · 50%")]
    assert label_captions([0, None], NAMES) == [Caption("true cat"), Caption("")]
    assert answer_caption(None, 1, NAMES) == Caption("dog")
    assert answer_caption(1, 1, NAMES) == Caption("dog", True)
    assert answer_caption((39.0,), (37.251,), NAMES) == Caption("37.25")
    assert answer_caption((0, 1), (1, 0), NAMES) == Caption("dog, cat", True)
    assert answer_caption(1, None, NAMES) == Caption("")


def test_sets_of_classes_and_values_are_said_as_what_they_are():
    truths, answers = [(0,), (39.0,), (), (0.5, 1.0, 2.0, 3.0)], [(0, 1), (37.25,), (), (0.25, 1.0, 2.0, 3.0)]
    captions = prediction_captions(truths, answers, [(0.9, 0.6), (), (), ()], NAMES)
    assert [caption.text for caption in captions] == [
        "true cat · predicted cat 90%, dog 60%",
        "true 39 · predicted 37.25",
        "true none · predicted none",
        "true 0.5, 1, 2, … · predicted 0.25, 1, 2, …",
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
    assert fooling_caption(label, 1, steps, fooled, reason, NAMES) == Caption(text)


def test_a_class_model_image_names_its_class_and_why_there_is_none():
    assert class_model_caption(1, NAMES) == Caption("dog")
    assert class_model_caption(1, NAMES, "gradient 0") == Caption("dog · gradient 0")


def test_a_method_is_called_by_its_title_and_its_layer():
    assert method_title("grad_cam_plus_plus") == "Grad-CAM++"
    assert method_title("grad_cam@backbone.layer3") == "Grad-CAM · backbone.layer3"
