"""Which score is explained: every form a target and a model's output may have, and the errors of the wrong ones."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_saliency.targets import check_classes, class_probabilities, find_logits, parse_target, select_scores
from torch import Tensor, nn

from lightning_saliency import explain

LOGITS = torch.tensor([[0.5, 2.0, -1.0], [3.0, 1.0, 0.0]])


@pytest.mark.parametrize(
    ("target", "classes", "scores"),
    [
        (None, [1, 0], [2.0, 3.0]),
        (2, [2, 2], [-1.0, 0.0]),
        (np.int64(2), [2, 2], [-1.0, 0.0]),
        (torch.tensor(2), [2, 2], [-1.0, 0.0]),
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
    found, explained = select_scores(LOGITS, parse_target(target, 2))
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
        ("cat", TypeError, r"`target` to be None, a class index, .* got 'cat'"),
        (["cat", "dog"], TypeError, r"`target` to be None, a class index, .* got \['cat', 'dog'\]"),
        ([[0], [1, 2]], TypeError, r"`target` to be None, a class index, .* got \[\[0\], \[1, 2\]\]"),
        ([0, 1, 2], ValueError, r"each of the 2 images, shape \(2,\), got shape \(3,\)"),
        (torch.zeros(2, 1, dtype=torch.long), ValueError, r"each of the 2 images, shape \(2,\), got shape \(2, 1\)"),
        (-1, ValueError, r"`target` to hold class indices from 0, got -1"),
        ([1, -3], ValueError, r"`target` to hold class indices from 0, got -3"),
    ],
)
def test_a_wrong_target_is_refused_before_the_model_runs(target, error, says):
    class Untouched(nn.Module):
        def forward(self, images):
            pytest.fail("the model ran")

    with pytest.raises(error, match=says):
        explain(Untouched(), torch.rand(2, 1, 4, 4), target=target, methods="saliency")


@pytest.mark.parametrize(("logits", "target", "classes"), [(LOGITS, 3, 3), (LOGITS[:, :1], 2, 2)])
def test_a_class_that_the_logits_lack_is_refused(logits, target, classes):
    with pytest.raises(ValueError, match=rf"`target` to be below the model's {classes} classes .* got {target}"):
        check_classes(parse_target(target, 2), logits)
    check_classes(parse_target(target - 1, 2), logits)


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
    logits = find_logits(single.reshape(shape), 4)
    scores, classes = select_scores(logits, parse_target([0, 0, 1, 1], 4))
    assert (scores.tolist(), classes.tolist()) == ([2.0, -3.0, 1.0, -1.0], [0, 0, 1, 1])
    scores, classes = select_scores(logits, None)
    assert (scores.tolist(), classes.tolist()) == ([2.0, 3.0, 1.0, 1.0], [0, 1, 1, 0])
    expected = torch.stack([1 / (1 + single.exp()), 1 / (1 + (-single).exp())], dim=1)
    torch.testing.assert_close(class_probabilities(logits), expected)


def test_a_binary_model_explained_for_class_0_shows_the_evidence_against_class_1():
    class Binary(nn.Module):
        def forward(self, images):
            return images[:, 0].sum((1, 2)) - 2 * images[:, 1].sum((1, 2))

    images = torch.rand(2, 2, 3, 4)
    one, zero = (explain(Binary(), images, methods="input_x_gradient", target=target) for target in (1, 0))
    expected = images[:, :1] - 2 * images[:, 1:]
    torch.testing.assert_close(one.attributions["input_x_gradient"], expected)
    torch.testing.assert_close(zero.attributions["input_x_gradient"], -expected)
    torch.testing.assert_close(zero.scores, -one.scores)
    torch.testing.assert_close(one.probabilities[:, 1], one.logits[:, 0].sigmoid())


@dataclass
class Output:
    loss: Tensor
    logits: Tensor


Named = namedtuple("Named", ["features", "logits"])
FEATURES = torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("output", "output_fn"),
    [
        (LOGITS, None),
        (LOGITS[:, :, None, None], None),
        ((FEATURES, LOGITS), None),
        ([LOGITS, FEATURES], None),
        ({"logits": LOGITS, "embedding": torch.zeros(2, 7)}, None),
        ({"embedding": torch.zeros(2, 7), "logits": LOGITS}, None),
        ({"aux": torch.zeros(2, 3), "out": LOGITS}, None),
        ({"features": FEATURES, "anything": LOGITS}, None),
        (Output(torch.zeros(()), LOGITS), None),
        (Output(torch.zeros(2), LOGITS), None),
        (Named(torch.zeros(2, 7), LOGITS), None),
        (SimpleNamespace(features=FEATURES, logits=LOGITS), None),
        ({"loss": None, "result": ("text", {"logits": LOGITS})}, None),
        ((torch.zeros(()), None, torch.zeros(2, dtype=torch.long), LOGITS), None),
        ((torch.zeros(2, 7), LOGITS), lambda output: output[1]),
        ({"a": torch.zeros(2, 7), "b": LOGITS}, lambda output: output["b"]),
    ],
)
def test_the_logits_are_found_in_whatever_a_model_returns(output, output_fn):
    assert torch.equal(find_logits(output, 2, output_fn), LOGITS)


@pytest.mark.parametrize(("made", "shape"), [(torch.tensor(1.5), (1, 1)), (LOGITS[0], (1, 3)), (LOGITS[:1], (1, 3))])
def test_the_logits_of_one_image_are_found_behind_a_squeeze(made, shape):
    assert find_logits(made, 1).shape == shape
    assert find_logits({"wrapped": made}, 1, lambda output: output["wrapped"]).shape == shape


@pytest.mark.parametrize(
    ("output", "output_fn", "says"),
    [
        (FEATURES, None, r"the model to return logits of shape \(2, classes\), got a tensor of shape \(2, 3, 4, 4\)"),
        (torch.zeros(3, 2), None, r"got a tensor of shape \(3, 2\)"),
        (torch.zeros(2, 3).long(), None, r"got a tensor of shape \(2, 3\) and dtype torch.int64"),
        (None, None, r"got a NoneType"),
        ("text", None, r"got a str"),
        ({"features": FEATURES, "name": "x"}, None, r"got a dict with the keys \['features', 'name'\]"),
        ((FEATURES, None), None, r"got a tuple of \['a tensor of shape \(2, 3, 4, 4\) .*', 'a NoneType'\]"),
        (LOGITS, lambda output: output[0], r"`output_fn` to return logits .* got a tensor of shape \(3,\)"),
    ],
)
def test_an_output_without_logits_is_refused_and_described(output, output_fn, says):
    with pytest.raises(ValueError, match=says):
        find_logits(output, 2, output_fn)
