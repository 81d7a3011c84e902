"""Other rules than the gradient's at ReLUs: each against the one written out by hand."""

from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from closed_forms import loops_bilinear, loops_grad_cam, map_and_gradient, positions
from networks import Calling, as_statement, plain_net
from states import assert_alike, assert_all_alike
from torch import nn

from lightning_saliency.attribution import explain
from lightning_saliency.evidence.rectify import rectify
from lightning_saliency.models import GAPHead

LABELS = [2, 0, 1]
IMAGES = torch.randn(3, 2, 10, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
RECTIFIED = ["guided_backprop", "deconvnet", "guided_grad_cam"]


RULES = {
    "saliency": lambda X, R: R if X > 0 else 0.0,
    "guided_backprop": lambda X, R: R if X > 0 and R > 0 else 0.0,
    "deconvnet": lambda X, R: R if R > 0 else 0.0,
}


def by_element(rule):
    """A rule for whole tensors of one for numbers."""
    numbers = RULES[rule]

    def passed(X, R):
        pairs = zip(X.flatten().tolist(), R.flatten().tolist(), strict=True)
        return torch.tensor([numbers(x, r) for x, r in pairs], dtype=R.dtype).reshape(X.shape)

    return passed


def backward_by_hand(layers, image, label, rule):
    """From the score down to the image, layer by layer; a convolution and a linear layer are matrices."""
    inputs = [image]
    with torch.no_grad():
        for layer in layers:
            inputs.append(layer(inputs[-1][None])[0])
        R = torch.zeros_like(inputs.pop())
        R[label] = 1
        for layer, X in zip(reversed(layers), reversed(inputs), strict=True):
            if isinstance(layer, nn.ReLU):
                R = rule(X, R)
            elif isinstance(layer, nn.MaxPool2d):
                unpooled = torch.zeros_like(X)
                for k, (i, j) in product(range(len(X)), positions(R)):
                    down, right = divmod(int(X[k, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].argmax()), 2)
                    unpooled[k, 2 * i + down, 2 * j + right] = R[k, i, j]
                R = unpooled
            else:
                basis = torch.eye(X.numel(), dtype=X.dtype).reshape(-1, *X.shape)
                matrix = (layer(basis) - layer(torch.zeros_like(basis))).flatten(1).T  # its columns; without the bias
                R = (matrix.T @ R.flatten()).reshape(X.shape)
    return R


@pytest.mark.parametrize("method", RULES)
def test_each_rule_for_the_backward_through_relus_is_the_one_written_out_by_hand(method):
    model = plain_net()
    found = explain(model, IMAGES, methods=method, target=LABELS)
    for image, label, signed, shown in zip(
        IMAGES, LABELS, found.signed[method], found.attributions[method], strict=True
    ):
        expected = backward_by_hand(list(model), image, label, by_element(method))
        assert_alike(signed, expected)
        assert_alike(shown[0], expected.abs().amax(0))
    plain = explain(model, IMAGES, methods="saliency", target=LABELS).signed["saliency"]
    assert torch.allclose(found.signed[method], plain) == (method == "saliency")


def test_guided_grad_cam_is_guided_backprop_times_grad_cam_at_the_size_of_the_image():
    model = plain_net()
    found = explain(model, IMAGES, methods="guided_grad_cam", layer="1", target=LABELS)
    for image, label, signed, shown in zip(
        IMAGES, LABELS, found.signed["guided_grad_cam"], found.attributions["guided_grad_cam"], strict=True
    ):
        weights = loops_bilinear(loops_grad_cam(*map_and_gradient(model, 1, image, label)), 10, 8)
        expected = backward_by_hand(list(model), image, label, by_element("guided_backprop")) * weights
        assert_alike(signed, expected)
        assert_alike(shown[0], expected.abs().amax(0))


WRITTEN = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": partial(F.relu, inplace=True),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "a statement": as_statement,
    "clamp": lambda images: images.clamp(min=0),
    "clamp in place": lambda images: images.clamp_(min=0),
    "clamp_min": lambda images: images.clamp_min(0),
    "torch.clamp": lambda images: torch.clamp(images, 0.0),
    "clamp by a tensor": lambda images: images.clamp(min=torch.zeros(1, dtype=images.dtype)),
    "clamp by tensors": lambda images: images.clamp(min=torch.zeros_like(images)),
    "nn.Threshold": nn.Threshold(0.0, 0.0),
    "F.threshold": lambda images: F.threshold(images, 0.0, 0.0),
    "F.threshold in place": lambda images: F.threshold(images, 0.0, 0.0, inplace=True),
    "nn.ReLU6": nn.ReLU6(),
    "F.relu6 in place": partial(F.relu6, inplace=True),
    "clamp to 6": lambda images: images.clamp(0, 6),
    "nn.Hardtanh": nn.Hardtanh(0, 6),
}


@pytest.mark.parametrize("activate", WRITTEN.values(), ids=WRITTEN)
def test_a_relu_is_a_relu_however_it_is_written(activate):
    expected = explain(plain_net(), IMAGES, methods=["saliency", *RECTIFIED], layer="3", target=LABELS)
    model = Calling(activate)
    assert max(float(layer.abs().max()) for layer in layers_of(model.net, IMAGES)) < 6
    found = explain(model, IMAGES, methods=["saliency", *RECTIFIED], layer="net.3", target=LABELS)
    assert_all_alike(found.signed, expected.signed)


def layers_of(model, images):
    with torch.no_grad():
        for layer in model:
            images = layer(images)
            yield images


def redirected(X, R):
    """As the gradient, but a ReLU that lets nothing of it through passes on what it got (Lucid; Olah et al. 2017)."""
    passed = R * (X > 0)
    return passed if passed.any() else R


def test_a_redirected_gradient_passes_a_relu_that_lets_nothing_through_image_by_image():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3), nn.ReLU()).double()
    images = IMAGES.clone()
    with torch.no_grad():
        net[3].bias.copy_(-net[:3](images[:1]).matmul(net[3].weight.T)[0] - 1)  # all scores of the first image are 0
        net[3].bias[1] = 50.0  # and class 1 is active in all
    labels = [0, 1, 1]
    inputs = images.requires_grad_()
    scores = net(inputs)[torch.arange(3), labels]
    assert scores[0] == 0
    rectify(scores, inputs, "redirected")
    (found,) = torch.autograd.grad(scores.sum(), inputs)
    for image, label, gradient in zip(images.detach(), labels, found, strict=True):
        torch.testing.assert_close(gradient, backward_by_hand(list(net), image, label, redirected))
    (plain,) = torch.autograd.grad(net(inputs)[torch.arange(3), labels].sum(), inputs)
    assert not plain[0].any()
    assert found[0].any()
    assert torch.equal(found[1:], plain[1:])  # where something passes it is the gradient


def test_redirecting_has_nothing_to_do_without_a_relu():
    images = IMAGES.clone().requires_grad_()
    scores = plain_net(nn.Tanh)(images)[:, 0]
    rectify(scores, images, "redirected")
    assert torch.autograd.grad(scores.sum(), images)[0].any()


class SideBranch(nn.Module):
    """Its only ReLU adds nothing."""

    def __init__(self):
        super().__init__()
        self.net, self.side = plain_net(nn.Tanh), nn.Sequential(nn.Conv2d(2, 3, 8), nn.ReLU())

    def forward(self, images):
        return self.net(images) + 0 * self.side(images).mean((2, 3))


@pytest.mark.parametrize("kind", ["side branch", "positive"])
def test_the_three_rules_are_one_where_no_relu_makes_a_difference(kind):
    if kind == "side branch":
        torch.manual_seed(0)
        model, images = SideBranch().double(), IMAGES
    else:
        model, images = plain_net(), IMAGES.abs()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.abs_()
    found = explain(model, images, methods=list(RULES), target=LABELS).signed
    assert_alike(found["guided_backprop"], found["saliency"])
    assert_alike(found["deconvnet"], found["saliency"])


@pytest.mark.parametrize("method", RECTIFIED)
def test_a_model_without_a_relu_is_told_what_to_use_instead(method):
    model = plain_net(nn.GELU)
    with pytest.raises(ValueError, match=r"change the backward through ReLUs.* there is none.*Use `saliency`"):
        explain(model, IMAGES, methods=method, layer="3")
    model = Calling(lambda images: images.clamp(-1, 1) + F.leaky_relu(images) + images.clamp(max=0))
    with pytest.raises(ValueError, match=r"change the backward through ReLUs.* there is none.*Use `saliency`"):
        explain(model, IMAGES, methods=method, layer="net.3")


def test_only_the_relus_that_the_score_depends_on_count():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = plain_net(nn.Tanh)

        def forward(self, images):
            return self.net(images + 0 * images.detach().relu())

    with pytest.raises(ValueError, match="between this model's score and its input there is none"):
        explain(Detached(), IMAGES, methods="deconvnet")


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
def test_a_rectified_pass_goes_through_a_backbone_that_the_model_runs_without_a_graph(method):
    class Frozen(nn.Module):
        def __init__(self, cut):
            super().__init__()
            self.cut, self.body, self.head = cut, nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), GAPHead(4, 3)
            self.double()

        def forward(self, images):
            with torch.set_grad_enabled(not self.cut and torch.is_grad_enabled()):
                features = self.body(images)
            return self.head(features)

    torch.manual_seed(0)
    plain, frozen, images = Frozen(False), Frozen(True), torch.randn(2, 3, 9, 9, dtype=torch.float64)
    frozen.load_state_dict(plain.state_dict())
    expected, found = (explain(model, images, methods=method).attributions[method] for model in (plain, frozen))
    assert_alike(found, expected)
