"""Each method against its paper's closed form, written out in loops; and heatmaps against theirs."""

import math

import pytest
import torch
from torch import nn

from lightning_saliency import GAPHead, explain
from lightning_saliency.attribution import (
    METHODS,
    blank_reasons,
    eigen_cam,
    grad_cam,
    grad_cam_plus_plus,
    parse_methods,
    to_heatmaps,
    xgrad_cam,
)
from lightning_saliency.evidence import Evidence

NONE = torch.zeros(1)


def evidence(A, g=None):
    return Evidence(NONE, NONE, NONE, activations=A, activation_grads=g)


def positions(A):
    return [(i, j) for i in range(A.shape[1]) for j in range(A.shape[2])]


def weighted(A, weights):
    """Σ_k w_k A_k, in loops."""
    L = torch.zeros(A.shape[1:], dtype=A.dtype)
    for i, j in positions(A):
        L[i, j] = sum(float(weights[k] * A[k, i, j]) for k in range(len(A)))
    return L


def relu(L):
    return torch.tensor([[max(float(value), 0.0) for value in row] for row in L], dtype=L.dtype)


def loops_grad_cam(A, g):
    Z = A.shape[1] * A.shape[2]
    return relu(weighted(A, [sum(g[k, i, j] for i, j in positions(A)) / Z for k in range(len(A))]))


def loops_grad_cam_plus_plus(A, g):
    weights = []
    for k in range(len(A)):
        total = sum(A[k, a, b] for a, b in positions(A))
        weight = 0.0
        for i, j in positions(A):
            denominator = 2 * g[k, i, j] ** 2 + total * g[k, i, j] ** 3
            alpha = g[k, i, j] ** 2 / denominator if denominator != 0 else 0.0
            weight += alpha * max(g[k, i, j], 0.0)
        weights.append(weight)
    return relu(weighted(A, weights))


def loops_hires_cam(A, g):
    L = torch.zeros(A.shape[1:], dtype=A.dtype)
    for i, j in positions(A):
        L[i, j] = sum(float(g[k, i, j] * A[k, i, j]) for k in range(len(A)))
    return relu(L)


def loops_layer_cam(A, g):
    L = torch.zeros(A.shape[1:], dtype=A.dtype)
    for i, j in positions(A):
        L[i, j] = sum(max(float(g[k, i, j]), 0.0) * float(A[k, i, j]) for k in range(len(A)))
    return relu(L)


def loops_xgrad_cam(A, g):
    weights = []
    for k in range(len(A)):
        total = sum(float(A[k, i, j]) for i, j in positions(A))
        weights.append(sum(float(g[k, i, j] * A[k, i, j]) for i, j in positions(A)) / total if total else 0.0)
    return relu(weighted(A, weights))


LOOPS = {
    "grad_cam": loops_grad_cam,
    "grad_cam_plus_plus": loops_grad_cam_plus_plus,
    "hires_cam": loops_hires_cam,
    "layer_cam": loops_layer_cam,
    "xgrad_cam": loops_xgrad_cam,
}


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
        torch.testing.assert_close(L[0], expected, rtol=1e-4, atol=1e-5)


def test_eigen_cam_of_nothing_is_nothing():
    assert not eigen_cam(evidence(torch.zeros(1, 3, 2, 2))).any()
    assert eigen_cam(evidence(torch.tensor([[[[1.0, math.inf]]]]))).isnan().all()


@pytest.mark.parametrize("method", ["saliency", "input_x_gradient"])
def test_the_input_gradient_is_what_finite_differences_say(method):
    torch.manual_seed(4)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GELU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)
    ).double()
    images = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    found = explain(model, images, methods=method, target=[2, 1]).attributions[method]
    step = 1e-5
    for image, label, L in zip(images, [2, 1], found, strict=True):
        slope = torch.zeros_like(image)
        for index in [(c, i, j) for c in range(3) for i, j in positions(image)]:
            shift = torch.zeros_like(image)
            shift[index] = step
            with torch.no_grad():
                above, below = model(image[None] + shift), model(image[None] - shift)
            slope[index] = (above - below)[0, label] / (2 * step)
        expected = slope.abs().max(0).values if method == "saliency" else (image * slope).sum(0)
        torch.testing.assert_close(L[0], expected.float(), rtol=1e-5, atol=1e-7)


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
    found = explain(model, images, methods=METHODS, target=labels).attributions
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
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), GAPHead(6, 3, pooling=pooling)).eval()
    images = torch.randn(4, 2, 6, 8)
    found = explain(model, images, methods="cam", target=[2, 0, 1, 1]).attributions["cam"]
    expected = model[2].class_maps(model[:2](images)).detach()[range(4), [2, 0, 1, 1]]
    torch.testing.assert_close(found[:, 0], expected)


@pytest.mark.parametrize("label", [0, 1])
def test_cam_of_a_binary_model_changes_its_sign_with_the_class(label):
    torch.manual_seed(6)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), GAPHead(6, 1))
    images = torch.randn(2, 2, 6, 8)
    found = explain(model, images, methods=["cam", "grad_cam"], target=label).attributions
    expected = model[2].class_maps(model[:2](images)).detach() * (1 if label else -1)
    torch.testing.assert_close(found["cam"], expected)
    torch.testing.assert_close(found["grad_cam"], expected.relu() / (4 * 6))


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
    model, images = LikeDenseNet(), torch.randn(2, 2, 6, 8)
    maps = model.conv(images).detach()
    maps = maps.relu() if rectified else maps
    expected = torch.stack([weighted(A, model.linear.weight[1].detach()) for A in maps])[:, None]
    for layer in (None, "conv"):
        found = explain(model, images, methods="cam", target=1, layer=layer).attributions["cam"]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


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
    images = torch.randn(2, 1, 5, 5)
    features = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU())
    head = nn.Linear(6, 3500)
    found = explain(
        nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head), images, methods="cam", target=3457
    )
    expected = torch.einsum("d,ndhw->nhw", head.weight[3457], features(images)).detach()
    torch.testing.assert_close(found.attributions["cam"][:, 0], expected)
    for pooling in (nn.LPPool2d(2, 3), nn.AdaptiveAvgPool2d(1)):
        other = nn.Sequential(features, pooling, nn.Flatten(), head, OddTimesThree())
        with pytest.raises(ValueError, match="`cam` needs a model whose head is global average pooling"):
            explain(other, images, methods="cam")


class OddTimesThree(nn.Module):
    def forward(self, logits):
        return torch.stack([logits[:, ::2], 3 * logits[:, 1::2]], dim=2).flatten(1)


def test_the_explanation_keeps_what_the_model_was():
    torch.manual_seed(9)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    found = explain(model, torch.randn(2, 1, 5, 5), methods="cam", target=2, layer="0")
    with torch.no_grad():
        model[3].weight.zero_()  # as training goes on
    torch.testing.assert_close(found.class_maps()[:, 2:], found.attributions["cam"])


def test_layer_cam_is_hires_cam_where_no_gradient_is_negative_and_not_elsewhere():
    torch.manual_seed(9)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    images = torch.randn(2, 2, 5, 7)
    both = ["layer_cam", "hires_cam"]
    signed = explain(model, images, methods=both, layer="1").attributions
    assert not torch.allclose(signed["layer_cam"], signed["hires_cam"])
    with torch.no_grad():
        for layer in (2, 5):
            model[layer].weight.abs_()
    positive = explain(model, images, methods=both, layer="1").attributions
    torch.testing.assert_close(positive["layer_cam"], positive["hires_cam"])


def test_input_x_gradient_adds_up_to_the_score_of_a_piecewise_linear_network():
    torch.manual_seed(10)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 3, bias=False)
    )
    explanation = explain(model, torch.randn(3, 3, 6, 9), methods="input_x_gradient")
    torch.testing.assert_close(explanation.attributions["input_x_gradient"].sum((1, 2, 3)), explanation.scores)


def loops_bilinear(L, H, W):
    """Upsampling with `align_corners=False`: a pixel's centre is at (i + ½)·h/H − ½, held inside the map."""
    h, w = L.shape
    out = torch.zeros(H, W, dtype=L.dtype)
    for i in range(H):
        for j in range(W):
            y, x = max((i + 0.5) * h / H - 0.5, 0), max((j + 0.5) * w / W - 0.5, 0)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            top = L[y0, x0] * (1 - (x - x0)) + L[y0, x1] * (x - x0)
            low = L[y1, x0] * (1 - (x - x0)) + L[y1, x1] * (x - x0)
            out[i, j] = top * (1 - (y - y0)) + low * (y - y0)
    return out


@pytest.mark.parametrize("size", [(9, 14), (7, 5), (3, 4), (2, 2)])
@pytest.mark.parametrize("normalize", ["max", "minmax", "shared"])
@pytest.mark.parametrize("scale", [1.0, 1e-36, 1e36])
def test_a_heatmap_is_rectified_then_upsampled_bilinearly_then_divided(size, normalize, scale):
    torch.manual_seed(11)
    raw = torch.randn(3, 1, 3, 4) * torch.tensor([1.0, 10.0, 0.1])[:, None, None, None]
    found = to_heatmaps(raw * scale, size, normalize)
    if normalize == "minmax":
        maps = [loops_bilinear(L[0] - L.min(), *size) for L in raw.double()]
    else:
        maps = [loops_bilinear(relu(L[0]), *size) for L in raw.double()]
    top = max(L.max() for L in maps)
    for heatmap, expected in zip(found, maps, strict=True):
        expected = expected / (top if normalize == "shared" else expected.max())
        torch.testing.assert_close(heatmap[0], expected.float(), rtol=1e-5, atol=1e-5)
    assert found.dtype == torch.float32
    assert found.min() >= 0
    tops = found.amax((1, 2, 3))
    assert (tops == 1).all() if normalize != "shared" else tops.max() == 1 > tops.min()


@pytest.mark.parametrize("normalize", ["max", "minmax", "shared"])
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([[math.nan, 1.0], [2.0, 3.0]], "not finite"),
        ([[math.inf, 1.0], [2.0, 3.0]], "not finite"),
        ([[-math.inf, 1.0], [2.0, 3.0]], "not finite"),
        ([[math.nan, math.nan], [math.nan, math.nan]], "not finite"),
        ([[0.0, 0.0], [0.0, 0.0]], "constant 0"),
        ([[5.0, 5.0], [5.0, 5.0]], "constant 5"),
        ([[-5.0, -5.0], [-5.0, -5.0]], "constant -5"),
        ([[-1.0, -2.0], [0.0, -3.0]], "all negative"),
    ],
)
def test_a_map_with_nothing_to_show_is_blank_with_its_reason_and_alone_in_that(bad, reason, normalize):
    good = torch.tensor([[[1.0, 2.0], [-4.0, 0.5]]])
    raw = torch.stack([good, torch.tensor([bad]), 2 * good])
    shows_negative = normalize == "minmax" and reason == "all negative"
    assert blank_reasons(raw, normalize) == [None, None if shows_negative else reason, None]
    found = to_heatmaps(raw, (5, 6), normalize)
    assert found.isfinite().all()
    assert bool(found[1].any()) is shows_negative
    assert torch.equal(found[[0, 2]], to_heatmaps(raw[[0, 2]], (5, 6), normalize))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 4), (2, 0), (2, 4), (1, 3)])
def test_a_heatmap_lies_on_its_image_the_right_way_round(row, column):
    images = torch.zeros(1, 1, 3 * 4, 5 * 4)
    images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1
    model = nn.Sequential(nn.Conv2d(1, 1, 4, stride=4), GAPHead(1, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0 if parameter.dim() > 1 else 0.0)
    # this model's gradient is the same everywhere, and it has no ReLU
    methods = [key for key, row in METHODS.items() if row.reads_layer and row.further != "rectified"]
    for key, heatmap in explain(model, images, methods=methods, target=1, layer="0").heatmaps().items():
        at = divmod(int(heatmap.flatten().argmax()), images.shape[3])
        assert (at[0] // 4, at[1] // 4) == (row, column), key
        inside = heatmap[images == 1]
        assert heatmap.shape == images.shape
        assert inside.min() > 0.35, key


def test_wrong_methods_and_normalizations_are_refused():
    assert parse_methods(["cam", "grad_cam", "cam"]) == ("cam", "grad_cam")
    with pytest.raises(
        ValueError, match=r"`methods` out of cam, grad_cam, .*, got 'gradcam'\. Did you mean 'grad_cam'\?"
    ):
        parse_methods(["saliency", "gradcam"])
    with pytest.raises(ValueError, match=r"`methods` to name at least one of cam, .*, got none"):
        parse_methods([])
    with pytest.raises(ValueError, match=r"`normalize` to be one of max, minmax, shared, got 'softmax'"):
        to_heatmaps(torch.rand(1, 1, 2, 2), (2, 2), "softmax")
    with pytest.raises(ValueError, match="`needs` of the method's row"):
        grad_cam(evidence(torch.rand(1, 1, 2, 2)))
