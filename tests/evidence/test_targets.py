"""Which score is explained: every form that a target may have, and the errors of the wrong ones."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from lightning_saliency._checks import OptionError
from lightning_saliency.attribution import explain
from lightning_saliency.evidence import PREDICTED, TASKS, Target, check_classes, read_output, select_scores

LOGITS = torch.tensor([[0.5, 2.0, -1.0], [3.0, 1.0, 0.0]])


@pytest.mark.parametrize(
    ("target", "classes", "scores"),
    [
        (None, [1, 0], [2.0, 3.0]),
        (2, [2, 2], [-1.0, 0.0]),
        (np.int64(2), [2, 2], [-1.0, 0.0]),
        (torch.tensor(2), [2, 2], [-1.0, 0.0]),
        (-1, [2, 2], [-1.0, 0.0]),
        ([-3, -1], [0, 2], [0.5, 0.0]),
        ([0, PREDICTED], [0, 0], [0.5, 3.0]),
        ([0, 2], [0, 2], [0.5, 0.0]),
        ((0, 2), [0, 2], [0.5, 0.0]),
        (np.array([0, 2]), [0, 2], [0.5, 0.0]),
        (torch.tensor([0, 2]), [0, 2], [0.5, 0.0]),
        (torch.tensor([0, 2], dtype=torch.uint8), [0, 2], [0.5, 0.0]),
        (torch.tensor([0, 2], dtype=torch.int32), [0, 2], [0.5, 0.0]),
        (lambda logits: logits[:, 0] - logits[:, 1], None, [-1.5, 2.0]),
    ],
)
def test_every_form_of_target_gives_its_scores(target, classes, scores):
    found, explained = select_scores(LOGITS, Target(target).resolve(2))
    assert found.tolist() == scores
    assert explained is None if classes is None else explained.tolist() == classes


@pytest.mark.parametrize(
    ("target", "error", "says"),
    [
        (True, TypeError, r"`target` to be a class index, got the bool True"),
        (1.0, TypeError, r"`target` to hold integer class indices, got dtype torch.float32"),
        ([0.0, 1.0], TypeError, r"`target` to hold integer class indices, got dtype torch.float32"),
        (torch.eye(2), TypeError, r"`target` to hold integer .* torch.float32.*labels.argmax\(1\)"),
        (torch.tensor([True, False]), TypeError, r"`target` to hold integer class indices, got dtype torch.bool"),
        ("", ValueError, r"`target` to be a text that is not empty, got ''"),
        (
            "cat",
            ValueError,
            r"`target` to be label, predicted or a class's index, as the classes have no names .* 'cat'",
        ),
        ("label", ValueError, r"`target` to be the labels themselves, got 'label': pass a batch with them"),
        (["cat", "dog"], ValueError, r"`target` to be .*, as the classes have no names here, got 'cat'"),
        (["cat", 1.5], TypeError, r"`target` to be None, a class index, .* got \['cat', 1.5\]"),
        ([[0], [1, 2]], TypeError, r"`target` to be None, a class index, .* got \[\[0\], \[1, 2\]\]"),
        ([0, 1, 2], ValueError, r"each of the 2 images, shape \(2,\), got shape \(3,\)"),
        (torch.zeros(2, 1, dtype=torch.long), ValueError, r"one class per image, shape \(N,\), got \(2, 1\)"),
    ],
)
def test_a_wrong_target_is_refused_before_the_model_runs(target, error, says):
    class Untouched(nn.Module):
        def forward(self, images):
            pytest.fail("the model ran")

    with pytest.raises(error, match=says):
        explain(Untouched(), torch.rand(2, 1, 4, 4), target=target, methods="saliency")


@pytest.mark.parametrize(("logits", "target", "classes"), [(LOGITS, -4, 3), (LOGITS[:, :1], -3, 2)])
def test_a_class_from_the_end_that_the_logits_lack_is_refused(logits, target, classes):
    with pytest.raises(
        ValueError, match=rf"`target` to be one of .* {classes} classes .* or -{classes} to -1\), got {target}"
    ):
        check_classes(Target(target).resolve(2), logits)
    check_classes(Target(target + 1).resolve(2), logits)


def test_of_a_single_logit_the_last_class_is_the_logits_own():
    scores, classes = select_scores(LOGITS[:, :1], Target([-1, -2]).resolve(2))
    assert (scores.tolist(), classes.tolist()) == ([0.5, -3.0], [1, 0])


NAMES = ["tench", "tabby, tabby cat", "Tiger_Cat", "crane", "crane", "Crane"]


@pytest.mark.parametrize(
    ("name", "index"),
    [("tench", 0), ("TENCH", 0), ("tabby", 1), ("tabby cat", 1), ("tabby, tabby cat", 1), ("tiger cat", 2),
     ("tiger-cat", 2), (" Tiger_Cat ", 2), ("Crane", 5), (["tench", -1, "tabby"], (0, -1, 1))],
)  # fmt: skip
def test_a_class_is_named_in_any_case_with_spaces_or_underscores_by_any_of_its_names(name, index):
    target = Target(name)
    assert target.has_names
    assert target.named(NAMES) == Target(index)
    assert not target.named(NAMES).has_names


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tigercat", r"one of the 6 classes by name or index, got 'tigercat'. Nearest: Tiger_Cat"),
        ("lable", r"got 'lable'. Nearest: label"),
        ("crane", r"to name one class, got 'crane', the name of the classes 3, 4\. Pass the index"),
        ("CRANE", r"got 'CRANE', the name of the classes 3, 4, 5"),
        (["tench", "zebra"], r"got 'zebra'\.$"),
    ],
)
def test_a_name_of_no_class_or_of_several_is_refused_with_the_nearest(name, says):
    with pytest.raises(OptionError, match=says) as raised:
        Target(name).named(NAMES)
    assert raised.value.option == "target"


@pytest.mark.parametrize(("logits", "target", "classes"), [(LOGITS, 3, 3), (LOGITS[:, :1], 2, 2)])
def test_a_class_that_the_logits_lack_is_refused(logits, target, classes):
    with pytest.raises(ValueError, match=rf"`target` to be below the model's {classes} classes .* got {target}"):
        check_classes(Target(target).resolve(2), logits)
    check_classes(Target(target - 1).resolve(2), logits)


@pytest.mark.parametrize(
    ("target", "got"),
    [
        (lambda logits: logits, r"shape \(2, 3\)"),
        (lambda logits: logits.sum(), r"shape \(\)"),
        (lambda logits: 1.0, "float"),
    ],
)
def test_a_callable_target_must_return_one_score_per_image(target, got):
    with pytest.raises(ValueError, match=rf"callable `target` to turn logits \(2, 3\) .* shape \(2,\), got {got}"):
        select_scores(LOGITS, target)


@pytest.mark.parametrize("shape", [(4, 1), (4,)])
def test_a_single_logit_is_binary_and_class_0_is_explained_by_its_negative(shape):
    single = torch.tensor([-2.0, 3.0, 1.0, -1.0])
    logits = read_output(single.reshape(shape), 4).logits
    scores, classes = select_scores(logits, Target([0, 0, 1, 1]).resolve(4))
    assert (scores.tolist(), classes.tolist()) == ([2.0, -3.0, 1.0, -1.0], [0, 0, 1, 1])
    scores, classes = select_scores(logits, None)
    assert (scores.tolist(), classes.tolist()) == ([2.0, 3.0, 1.0, 1.0], [0, 1, 1, 0])
    expected = torch.stack([1 / (1 + single.exp()), 1 / (1 + (-single).exp())], dim=1)
    torch.testing.assert_close(TASKS["multiclass"].probabilities(logits), expected)


def test_a_binary_model_explained_for_class_0_shows_the_evidence_against_class_1():
    class Binary(nn.Module):
        def forward(self, images):
            return images[:, 0].sum((1, 2)) - 2 * images[:, 1].sum((1, 2))

    images = torch.rand(2, 2, 3, 4, dtype=torch.float64)
    one, zero = (explain(Binary(), images, methods="input_x_gradient", target=target) for target in (1, 0))
    expected = images[:, :1] - 2 * images[:, 1:]
    torch.testing.assert_close(one.attributions["input_x_gradient"], expected.float())
    torch.testing.assert_close(zero.attributions["input_x_gradient"], -expected.float())
    torch.testing.assert_close(zero.scores, -one.scores)
    torch.testing.assert_close(one.probabilities[:, 1], one.logits[:, 0].sigmoid())


def test_the_label_is_explained_where_it_is_known_and_else_the_predicted_class():
    target, labels = Target("label"), torch.tensor([2, -1])
    scores, classes = select_scores(LOGITS, target.resolve(2, labels=labels))
    assert (scores.tolist(), classes.tolist()) == ([-1.0, 3.0], [2, 0])
    check_classes(target.resolve(2, labels=labels), LOGITS)
    for known in (None, torch.tensor([-1, -1])):
        assert select_scores(LOGITS, target.resolve(2, labels=known))[1].tolist() == [1, 0]
    assert Target("predicted").resolve(2, labels=labels) is None
    single = torch.tensor([[0.5], [-0.5]])  # class 0, then the predicted class, which is 0 too
    scores, classes = select_scores(single, target.resolve(2, labels=torch.tensor([0, -1])))
    assert (scores.tolist(), classes.tolist()) == ([-0.5, 0.5], [0, 0])


def test_one_class_a_sample_is_chosen_by_the_places_of_the_samples():
    target = Target([3, 1, 4, 1])
    assert target.resolve(4).tolist() == [3, 1, 4, 1]
    assert target.resolve(2, positions=[2, 0]).tolist() == [4, 3]
    with pytest.raises(ValueError, match=r"`target` to hold one class for each sample, got 4 classes for sample 5"):
        target.resolve(2, positions=[0, 5])
    assert Target(7).resolve(2, positions=[0, 5]).tolist() == [7, 7]


@pytest.mark.parametrize(
    ("choice", "without_labels", "with_labels"),
    [
        ("label", "predicted class", "true class"),
        ("predicted", "predicted class", "predicted class"),
        (None, "predicted class", "predicted class"),
        (7, "class 7", "class 7"),
        ([1, 2], "chosen target", "chosen target"),
        (lambda logits: logits[:, 0], "chosen target", "chosen target"),
    ],
)
def test_a_target_says_in_words_what_it_is(choice, without_labels, with_labels):
    assert Target(choice).describe() == without_labels
    assert Target(choice).describe(has_labels=True) == with_labels
    assert Target(choice).is_function is callable(choice)


def test_a_target_is_a_value_whatever_it_was_made_of():
    for choice in ([3, 1], np.array([3, 1]), torch.tensor([3, 1])):
        assert Target(choice) == Target((3, 1))
        assert hash(Target(choice)) == hash(Target((3, 1)))
    classes = torch.tensor([3, 1])
    target = Target(classes)
    classes[0] = 9
    assert target.choice == (3, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        target.choice = 4


def test_of_several_true_classes_the_one_with_the_largest_score_is_explained_else_the_predicted_one():
    logits = torch.tensor([[0.5, 2.0, 3.0], [0.5, 2.0, 3.0], [-torch.inf, -torch.inf, 1.0], [0.0, torch.nan, -1.0]])
    scores, classes = select_scores(logits, torch.tensor([[0, 1], [-1, -1], [0, 1], [1, 2]]))
    assert classes.tolist() == [1, 2, 2, 2]
    assert scores.tolist() == [2.0, 3.0, 1.0, -1.0]


def test_of_a_single_logit_the_true_class_has_the_sign_of_its_score():
    scores, classes = select_scores(torch.tensor([[2.0], [2.0]]), torch.tensor([[0], [1]]))
    assert (scores.tolist(), classes.tolist()) == ([-2.0, 2.0], [0, 1])


def test_where_a_detector_finds_nothing_no_class_is_explained():
    logits = torch.tensor([[-torch.inf, -torch.inf], [-torch.inf, 1.0]])
    scores, classes = select_scores(logits, torch.tensor([[0], [0]]), TASKS["detection_list"])
    assert (scores.tolist(), classes.tolist()) == ([-torch.inf, 1.0], [-1, 1])
