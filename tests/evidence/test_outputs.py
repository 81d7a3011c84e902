"""What a model returns: the logits in it, wherever they are."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from lightning_saliency.evidence import read_output

LOGITS = torch.tensor([[0.5, 2.0, -1.0], [3.0, 1.0, 0.0]])


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
    assert torch.equal(read_output(output, 2, output_fn).logits, LOGITS)


@pytest.mark.parametrize(("made", "shape"), [(torch.tensor(1.5), (1, 1)), (LOGITS[0], (1, 3)), (LOGITS[:1], (1, 3))])
def test_the_logits_of_one_image_are_found_behind_a_squeeze(made, shape):
    assert read_output(made, 1).logits.shape == shape
    assert read_output({"wrapped": made}, 1, lambda output: output["wrapped"]).logits.shape == shape


@pytest.mark.parametrize(
    ("output", "output_fn", "says"),
    [
        (FEATURES, None, r"the model to return logits of shape \(2, classes\), got a tensor of shape \(2, 3, 4, 4\)"),
        (torch.zeros(3, 2), None, r"got a tensor of shape \(3, 2\)"),
        (torch.zeros(2, 3).long(), None, r"got a tensor of shape \(2, 3\) and dtype torch.int64"),
        (None, None, r"got a NoneType"),
        ("text", None, r"got a str"),
        (
            {"features": FEATURES, "name": "x"},
            None,
            r"got a dict of \{features: a tensor of shape \(2, 3, 4, 4\) .*, name: a str\}",
        ),
        ((FEATURES, None), None, r"got a tuple of \{0: a tensor of shape \(2, 3, 4, 4\) .*, 1: a NoneType\}"),
        (LOGITS, lambda output: output[0], r"`output_fn` to return logits .* got a tensor of shape \(3,\)"),
    ],
)
def test_an_output_without_logits_is_refused_and_described(output, output_fn, says):
    with pytest.raises(ValueError, match=says):
        read_output(output, 2, output_fn)
