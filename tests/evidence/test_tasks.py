"""What scores mean, in closed form."""

import pytest
import torch
from torch import nn

from lightning_saliency import explain
from lightning_saliency.evidence import TASKS

ORDINAL = TASKS["ordinal"]
LOGITS = torch.tensor([[2.0, 0.5, -1.0], [-0.5, -1.0, -3.0], [3.0, 2.0, 1.0], [1.0, -1.0, 0.5]], dtype=torch.float64)


def test_the_probability_of_a_rank_is_that_of_exceeding_the_one_before_and_not_itself():
    found = ORDINAL.probabilities(LOGITS)
    for logits, row in zip(LOGITS[:3], found, strict=False):
        above = [1.0, *(1 / (1 + torch.exp(-logits))).tolist(), 0.0]
        assert row.tolist() == pytest.approx([above[rank] - above[rank + 1] for rank in range(4)])
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(4, dtype=torch.float64))


def test_the_rank_is_how_many_are_exceeded_also_out_of_order():
    assert ORDINAL.predictions(LOGITS).tolist() == [2, 0, 3, 2]
    assert ORDINAL.answers(LOGITS) == [2, 0, 3, 2]
    assert ORDINAL.num_classes(LOGITS) == 4
    assert (ORDINAL.probabilities(LOGITS).gather(1, ORDINAL.predictions(LOGITS)[:, None]) > 0).all()


def test_a_rank_is_explained_by_the_logit_of_reaching_it_and_the_lowest_by_not_exceeding_it():
    scores = ORDINAL.scores(LOGITS, torch.tensor([2, 0, 3, 1]))
    assert scores.tolist() == [0.5, 0.5, 1.0, 1.0]


def test_a_single_ordinal_logit_is_a_binary_one():
    logits, classes = LOGITS[:, :1], torch.tensor([0, 1, 0, 1])
    binary = TASKS["multiclass"]
    assert torch.equal(ORDINAL.scores(logits, classes), binary.scores(logits, classes))
    torch.testing.assert_close(ORDINAL.probabilities(logits), binary.probabilities(logits))
    assert torch.equal(ORDINAL.predictions(logits), binary.predictions(logits))


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_cam_of_a_rank_is_grad_cam_of_its_score(rank):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    ).double()  # fmt: skip
    images = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    explanation = explain(model, images, methods=["cam", "grad_cam"], layer="1", task="ordinal", target=rank)
    cam, grad_cam = (explanation.attributions[key] for key in ("cam", "grad_cam"))
    torch.testing.assert_close(grad_cam, cam.relu() / 100)
