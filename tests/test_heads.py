"""The GAP head: its identities, exactly; and that it trains, saves and refuses."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_saliency import GAPHead, explain


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("classes", [1, 5])
def test_the_identities_of_the_class_maps_hold_exactly(bias, classes):
    torch.manual_seed(0)
    head = GAPHead(7, classes, bias=bias).double()
    features = torch.randn(3, 7, 4, 6, dtype=torch.float64, requires_grad=True)
    maps, logits = head.class_maps(features), head(features)
    assert maps.shape == (3, classes, 4, 6)
    assert logits.shape == (3, classes)
    offset = head.linear.bias if bias else 0.0
    torch.testing.assert_close(logits, maps.mean((2, 3)) + offset, rtol=1e-12, atol=1e-12)
    for c in range(classes):
        for i, j in ((0, 0), (3, 5), (1, 4)):
            expected = sum(head.linear.weight[c, k] * features[1, k, i, j] for k in range(7))
            torch.testing.assert_close(maps[1, c, i, j], expected, rtol=1e-12, atol=1e-12)
        # Grad-CAM at the features, in float64: relu(class map) / Z
        g = torch.autograd.grad(logits[:, c].sum(), features, retain_graph=True)[0]
        grad_cam = (g.mean((2, 3), keepdim=True) * features).sum(1).relu()
        torch.testing.assert_close(grad_cam, maps[:, c].relu() / 24, rtol=1e-12, atol=1e-12)


def test_a_model_that_ends_in_the_head_shows_its_class_maps_as_cam_and_grad_cam():
    torch.manual_seed(1)
    body = nn.Sequential(nn.Conv2d(3, 7, 3), nn.GELU()).double()
    head = GAPHead(7, 4, dropout=0.5).double()
    images = torch.randn(3, 3, 6, 8, dtype=torch.float64)
    found = explain(nn.Sequential(body, head), images, methods=["cam", "grad_cam"], target=[3, 0, 2]).attributions
    maps = head.class_maps(body(images)).detach()[range(3), [3, 0, 2]][:, None]
    torch.testing.assert_close(found["cam"], maps.float(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found["grad_cam"], maps.float().relu() / 24, rtol=1e-6, atol=1e-8)


def test_dropout_acts_in_training_only():
    head, features = GAPHead(64, 3, dropout=0.5), torch.rand(2, 64, 3, 3)
    torch.manual_seed(0)
    assert not torch.equal(head(features), head(features))
    head.eval()
    torch.testing.assert_close(head(features), F.linear(features.mean((2, 3)), head.linear.weight, head.linear.bias))


def test_the_state_dict_goes_round():
    torch.manual_seed(2)
    one, other, features = GAPHead(5, 3), GAPHead(5, 3), torch.randn(2, 5, 4, 4)
    assert not torch.equal(one(features), other(features))
    assert other.load_state_dict(one.state_dict()).missing_keys == []
    assert torch.equal(one(features), other(features))
    assert sorted(one.state_dict()) == ["linear.bias", "linear.weight"]
    assert sorted(GAPHead(5, 3, bias=False).state_dict()) == ["linear.weight"]


def test_it_learns_and_so_does_what_comes_before_it():
    torch.manual_seed(3)
    images, labels = torch.rand(64, 1, 8, 10), torch.arange(64) % 2
    for image, label in zip(images, labels, strict=True):
        row, column = int(torch.randint(6, ())), int(torch.randint(8, ()))
        spot = image[0, row : row + 3, column : column + 3]
        (spot[0] if label else spot[:, 0]).fill_(3.0)  # a horizontal or a vertical stroke somewhere
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), GAPHead(8, 2))
    untrained = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert (model(images).argmax(1) == labels).float().mean() > 0.95
    assert not any(torch.equal(*pair) for pair in zip(model.parameters(), untrained, strict=True))


@pytest.mark.parametrize(("arguments", "says"), [((0, 3), "`in_channels` to be at least 1, got 0"),
                                                 ((8, -1), "`num_classes` to be at least 1, got -1")])  # fmt: skip
def test_a_head_of_nothing_is_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        GAPHead(*arguments)


@pytest.mark.parametrize("shape", [(2, 8), (2, 7, 4, 4), (8, 4, 4)])
def test_other_features_are_refused(shape):
    head = GAPHead(8, 3)
    for call in (head, head.class_maps):
        with pytest.raises(ValueError, match=r"`features` to be \(N, 8, h, w\), got shape \("):
            call(torch.zeros(shape))
