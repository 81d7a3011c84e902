"""Each method of the CAM family against its paper's closed form."""

import math

import pytest
import torch
from closed_forms import LOOPS, loops_grad_cam_plus_plus, positions, relu, weighted
from networks import CNN_METHODS
from states import assert_alike
from torch import nn

from lightning_saliency.attribution import eigen_cam, explain, grad_cam_plus_plus, to_heatmaps, xgrad_cam
from lightning_saliency.evidence import Evidence
from lightning_saliency.models import GAPHead

NONE = torch.zeros(1)


def evidence(A, g=None):
    return Evidence(NONE, NONE, NONE, activations=A, activation_grads=g)


def conv_net():
    """Several layers before and after the map: convolutions, in-place ReLU, pooling, batch norm, dropout, linear."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.ReLU(),
        nn.Conv2d(3, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(inplace=True),
        nn.Conv2d(5, 4, 2),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(4 * 2 * 1, 6),
        nn.Tanh(),
        nn.Linear(6, 3),
    ).double()


@pytest.mark.parametrize("layer", ["2", "3", "4", "6"])
@pytest.mark.parametrize("method", LOOPS)
def test_a_cam_method_is_its_closed_form_on_a_network(method, layer):
    model, images = conv_net(), torch.randn(3, 2, 7, 5, dtype=torch.float64)
    raw = explain(model, images, methods=method, layer=layer, target=[2, 0, 1]).attributions[method]
    assert raw.dtype == torch.float32
    model.eval()
    head, tail = model[: int(layer) + 1], model[int(layer) + 1 :]
    shown = 0
    for image, label, found in zip(images, [2, 0, 1], raw, strict=True):
        A = head(image[None]).detach()
        g = torch.autograd.functional.jacobian(lambda A, label=label: tail(A.clone())[0, label], A)[0]
        expected = LOOPS[method](A[0], g).float()
        assert found.shape == (1, *expected.shape)
        torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-5 * float(expected.max()))
        shown += bool(expected.max() > 0)
    assert shown  # not blank by chance


def alpha_of_equation_19(score, A):
    """Chattopadhyay's α and ∂Y/∂A for Y = exp(score), from its first, second and third derivatives by autograd."""
    Y = score(A).exp()
    first = torch.autograd.grad(Y, A, create_graph=True)[0]
    alpha = torch.zeros_like(A)
    for index in [(k, i, j) for k in range(len(A)) for i, j in positions(A)]:
        second = torch.autograd.grad(first[index], A, create_graph=True)[0][index]
        third = torch.autograd.grad(second, A, retain_graph=True)[0][index]
        alpha[index] = second / (2 * second + A[index[0]].sum() * third)
    return alpha.detach(), first.detach()


@pytest.mark.parametrize("through", ["network", "evidence"])
def test_grad_cam_plus_plus_is_made_of_the_derivatives_of_exp_score(through):
    torch.manual_seed(1)
    linear = nn.Linear(3 * 2 * 4, 2).double()  # the score is linear in A: its own higher derivatives vanish
    if through == "network":
        body = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU()).double()
        images = torch.randn(2, 2, 3, 5, dtype=torch.float64)
        maps = body(images).detach()
        model = nn.Sequential(*body, nn.Flatten(), linear)
        raw = explain(model, images, methods="grad_cam_plus_plus", layer="1", target=1).attributions
        found = raw["grad_cam_plus_plus"]
    else:
        maps = torch.randn(2, 3, 2, 4, dtype=torch.float64)  # signed: the sums of A may be negative
        g = linear.weight[1].detach().reshape(1, 3, 2, 4).expand(2, -1, -1, -1)
        found = grad_cam_plus_plus(evidence(maps, g))
    for A, L in zip(maps, found, strict=True):
        A = A.clone().requires_grad_()
        alpha, dY = alpha_of_equation_19(lambda A: linear(A.flatten())[1], A)
        weights = [sum(alpha[k, i, j] * max(dY[k, i, j], 0) for i, j in positions(A)) for k in range(len(A))]
        expected = relu(weighted(A.detach(), weights))
        assert expected.max() > 0
        torch.testing.assert_close((L[0] / L.max()).double(), expected / expected.max(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1.0, 1e-6, 1e-12, 1e-30])
def test_grad_cam_plus_plus_keeps_tiny_gradients(size):
    torch.manual_seed(2)
    A, g = torch.rand(2, 4, 3, 5), torch.randn(2, 4, 3, 5) * size
    found = to_heatmaps(grad_cam_plus_plus(evidence(A, g)), (3, 5))
    for image in range(2):
        expected = loops_grad_cam_plus_plus(A[image].double(), g[image].double())
        # float32 throughout, for that is where they would underflow: rounded to 6e-8, a few hundred times over
        torch.testing.assert_close(found[image, 0], (expected / expected.max()).float(), rtol=1e-4, atol=1e-5)


def test_grad_cam_plus_plus_counts_a_zero_denominator_as_zero():
    A = torch.tensor([[[[-3.0, -1.0]], [[1.0, 2.0]]]])  # the first channel sums to -4: 2 + 0.5·(-4) = 0
    g = torch.tensor([[[[0.5, -1.0]], [[0.0, 1.0]]]])
    expected = torch.tensor([[[[0.2, 0.4]]]])  # 1 / (2 + 1·3) of the second channel; g = 0 adds nothing
    torch.testing.assert_close(grad_cam_plus_plus(evidence(A, g)), expected)


def test_xgrad_cam_gives_no_weight_to_a_channel_that_sums_to_zero():
    A = torch.tensor([[[[1.0, -1.0]], [[0.0, 0.0]], [[1.0, 3.0]]]])
    g = torch.tensor([[[[5.0, -7.0]], [[9.0, 9.0]], [[2.0, 6.0]]]])
    torch.testing.assert_close(xgrad_cam(evidence(A, g)), torch.tensor([[[[5.0, 15.0]]]]))


@pytest.mark.parametrize("shape", [(6, 2, 3), (4, 5, 3), (6, 3, 2)])
@pytest.mark.parametrize("size", [1.0, 1e-25, 1e25])
@pytest.mark.parametrize("signed", [False, True])
def test_eigen_cam_is_the_first_principal_component(shape, size, signed):
    torch.manual_seed(3)
    A = torch.randn(2, *shape) + 0.5 if signed else torch.rand(2, *shape)
    found = eigen_cam(evidence(A * size)) / size
    for image, L in zip(A.double(), found.double(), strict=True):
        matrix = image.flatten(1).T
        projection = (matrix @ torch.linalg.svd(matrix, full_matrices=False)[2][0]).reshape(shape[1:])
        expected = projection if projection.sum() > 0 else -projection
        # float32 throughout, for that is where the squares would underflow or overflow
        torch.testing.assert_close(L[0], expected, rtol=1e-4, atol=1e-5)


def test_eigen_cam_of_nothing_is_nothing():
    assert not eigen_cam(evidence(torch.zeros(1, 3, 2, 2))).any()
    assert eigen_cam(evidence(torch.tensor([[[[1.0, math.inf]]]]))).isnan().all()


class ConvHead(nn.Module):
    """Global average pooling, then a 1×1 convolution."""

    def __init__(self, depth, classes):
        super().__init__()
        self.classifier = nn.Conv2d(depth, classes, 1)

    def forward(self, features):
        return self.classifier(features.mean((2, 3), keepdim=True)).flatten(1)


def plain_head(depth, classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(depth, classes, bias=False))


@pytest.mark.parametrize("head", [GAPHead, plain_head, ConvHead])
def test_cam_is_the_weighted_sum_of_the_pooled_maps_and_grad_cam_its_positive_part(head):
    torch.manual_seed(5)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), head(6, 3)).double()
    images, labels = torch.randn(4, 2, 6, 8, dtype=torch.float64), [2, 0, 1, 1]
    found = explain(model, images, methods=CNN_METHODS, target=labels).attributions
    W = next(p for p in reversed(list(model.parameters())) if p.dim() > 1).detach().reshape(3, 6)
    maps = model.eval()[:3](images).detach()
    for image, label in enumerate(labels):
        expected = weighted(maps[image], W[label])
        assert expected.min() < 0 < expected.max()  # neither a bias nor a ReLU would go unseen
        torch.testing.assert_close(found["cam"][image, 0], expected.float(), rtol=1e-5, atol=1e-6)
        if label:
            minus = explain(
                model, images[image][None], methods="cam", target=lambda logits: logits[:, 0] - logits[:, 1]
            )
            torch.testing.assert_close(
                minus.attributions["cam"][0, 0], weighted(maps[image], W[0] - W[1]).float(), rtol=1e-5, atol=1e-6
            )
    # g is w/Z at every position of such a model: these methods fall together
    area = maps.shape[2] * maps.shape[3]
    for method in ("grad_cam", "hires_cam", "xgrad_cam"):
        torch.testing.assert_close(found[method], found["cam"].relu() / area, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("pooling", ["max", "lse"])
def test_cam_of_a_head_with_another_pooling_is_the_same_sum(pooling):
    torch.manual_seed(5)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), GAPHead(6, 3, pooling=pooling)).double().eval()
    images = torch.randn(4, 2, 6, 8, dtype=torch.float64)
    found = explain(model, images, methods="cam", target=[2, 0, 1, 1]).attributions["cam"]
    expected = model[2].class_maps(model[:2](images)).detach()[range(4), [2, 0, 1, 1]]
    assert_alike(found[:, 0], expected)


@pytest.mark.parametrize("label", [0, 1])
def test_cam_of_a_binary_model_changes_its_sign_with_the_class(label):
    torch.manual_seed(6)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), GAPHead(6, 1)).double()
    images = torch.randn(2, 2, 6, 8, dtype=torch.float64)
    found = explain(model, images, methods=["cam", "grad_cam"], target=label).attributions
    expected = model[2].class_maps(model[:2](images)).detach() * (1 if label else -1)
    assert_alike(found["cam"], expected)
    assert_alike(found["grad_cam"], expected.relu() / (4 * 6))


@pytest.mark.parametrize("rectified", [False, True])
def test_cam_takes_the_map_for_which_the_identity_holds(rectified):
    class LikeDenseNet(nn.Module):
        """Rectifies its last map outside any module, in place; or not at all."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 6, 3)
            self.linear = nn.Linear(6, 3)

        def forward(self, images):
            features = self.conv(images)
            if rectified:
                features.relu_()
            return self.linear(features.mean((2, 3)))

    torch.manual_seed(7)
    model, images = LikeDenseNet().double(), torch.randn(2, 2, 6, 8, dtype=torch.float64)
    maps = model.conv(images).detach()
    maps = maps.relu() if rectified else maps
    expected = torch.stack([weighted(A, model.linear.weight[1].detach()) for A in maps])[:, None]
    for layer in (None, "conv"):
        found = explain(model, images, methods="cam", target=1, layer=layer).attributions["cam"]
        assert_alike(found, expected)


def test_cam_of_another_head_is_refused_and_named_an_alternative():
    torch.manual_seed(8)
    body = [nn.Conv2d(1, 6, 3), nn.ReLU()]
    images = torch.randn(2, 1, 5, 5)
    for head in (
        [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)],
        [nn.LPPool2d(2, 3), nn.Flatten(), nn.Linear(6, 3)],
        [nn.Flatten(), nn.Linear(54, 3)],
        [nn.Conv2d(6, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
    ):
        with pytest.raises(ValueError, match=r"`cam` needs a model whose head is global average pooling.*GAPHead"):
            explain(nn.Sequential(*body, *head), images, methods=["grad_cam", "cam"])


def test_cam_of_very_many_classes_is_checked_on_some_of_them():
    torch.manual_seed(8)
    images = torch.randn(2, 1, 5, 5, dtype=torch.float64)
    features = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU()).double()
    head = nn.Linear(6, 3500).double()
    found = explain(
        nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head), images, methods="cam", target=3457
    )
    expected = torch.einsum("d,ndhw->nhw", head.weight[3457], features(images)).detach()
    assert_alike(found.attributions["cam"][:, 0], expected)
    for pooling in (nn.LPPool2d(2, 3), nn.AdaptiveAvgPool2d(1)):
        other = nn.Sequential(features, pooling, nn.Flatten(), head, OddTimesThree())
        with pytest.raises(ValueError, match="`cam` needs a model whose head is global average pooling"):
            explain(other, images, methods="cam")


class OddTimesThree(nn.Module):
    def forward(self, logits):
        return torch.stack([logits[:, ::2], 3 * logits[:, 1::2]], dim=2).flatten(1)


def test_the_explanation_keeps_what_the_model_was():
    torch.manual_seed(9)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).double()
    found = explain(model, torch.randn(2, 1, 5, 5, dtype=torch.float64), methods="cam", target=2, layer="0")
    with torch.no_grad():
        model[3].weight.zero_()  # as training goes on
    assert_alike(found.class_maps()[:, 2:], found.attributions["cam"])


def test_layer_cam_is_hires_cam_where_no_gradient_is_negative_and_not_elsewhere():
    torch.manual_seed(9)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    model, images = model.double(), torch.randn(2, 2, 5, 7, dtype=torch.float64)
    both = ["layer_cam", "hires_cam"]
    signed = explain(model, images, methods=both, layer="1").attributions
    assert not torch.allclose(signed["layer_cam"], signed["hires_cam"])
    with torch.no_grad():
        for layer in (2, 5):
            model[layer].weight.abs_()
    positive = explain(model, images, methods=both, layer="1").attributions
    assert_alike(positive["layer_cam"], positive["hires_cam"])
