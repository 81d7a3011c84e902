"""Models that end in a softmax are seen through, and no others."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from closed_forms import gradient
from networks import CNN_METHODS, gap_net
from states import assert_alike, assert_all_alike
from torch import nn

from lightning_saliency.attribution import blank_reasons, explain

LABELS = [2, 0, 1]
IMAGES = torch.randn(3, 2, 10, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Ended(nn.Module):
    """A model with something behind its logits."""

    def __init__(self, net, end):
        super().__init__()
        self.net, self.end = net, end

    def forward(self, images):
        return self.end(self.net(images))


def written_out(logits):
    exponentials = (logits - logits.amax(1, keepdim=True)).exp()
    return exponentials / exponentials.sum(1, keepdim=True)


SOFTENED = {
    "nn.Softmax": nn.Softmax(dim=1),
    "nn.Softmax(-1)": nn.Softmax(dim=-1),
    "nn.LogSoftmax": nn.LogSoftmax(dim=1),
    "F.softmax": partial(F.softmax, dim=1),
    "F.log_softmax": partial(F.log_softmax, dim=1),
    "torch.softmax": partial(torch.softmax, dim=1),
    "torch.log_softmax": lambda logits: torch.log_softmax(input=logits, dim=1),
    "Tensor.softmax": lambda logits: logits.softmax(1),
    "Tensor.log_softmax": lambda logits: logits.log_softmax(-1),
    "in a dict": lambda logits: {"probabilities": logits.softmax(1)},
    "in a tuple": lambda logits: (logits.softmax(1), logits.mean()),
    "as a map": lambda logits: F.softmax(logits[:, :, None, None], dim=1),
    "squeezed": lambda logits: logits[:, :, None, None].softmax(1).squeeze(-1).squeeze(-1),
}


SAYS = r"returns probabilities.*: what goes into its softmax is explained instead"


@pytest.mark.parametrize("end", SOFTENED.values(), ids=SOFTENED)
def test_a_softmax_at_the_end_is_seen_through(end):
    expected = explain(gap_net(), IMAGES, methods=CNN_METHODS, layer="5")
    model = Ended(gap_net(), end)
    with pytest.warns(UserWarning, match=SAYS) as warned:
        found = explain(model, IMAGES, methods=CNN_METHODS)
    assert len(warned) == 1  # of all passes only the first
    assert found.layer == "net.5"
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.scores, expected.scores)
    torch.testing.assert_close(found.probabilities, expected.logits.softmax(1))
    assert_all_alike(found.attributions, expected.attributions)
    assert_all_alike(found.signed, expected.signed)
    with pytest.warns(UserWarning, match=SAYS):
        alone = explain(model, IMAGES[:1], layer="net.5")
    assert_alike(alone.attributions["grad_cam"], expected.attributions["grad_cam"][:1])


@pytest.mark.parametrize("end", ["nn.Softmax", "nn.LogSoftmax", "F.softmax", "in a dict"])
@pytest.mark.parametrize("saturated", ["nearly", "wholly"])
def test_a_saturated_softmax_is_seen_through(end, saturated):
    images = IMAGES[:1] if saturated == "nearly" else IMAGES.float()
    net = gap_net().to(images.dtype).eval()
    with torch.no_grad():
        highest, second = net(images)[0].topk(2).values.tolist()
        net[7].linear.weight *= 20.7 / (highest - second) if saturated == "nearly" else 1e5
        net[7].linear.bias *= 20.7 / (highest - second) if saturated == "nearly" else 1e5
        top = net(images).softmax(1).amax(1)
    assert ((top < 1) & (top > 1 - 1e-8)).all() if saturated == "nearly" else (top == 1).all()
    expected = explain(net, images, methods=CNN_METHODS, layer="5")
    with pytest.warns(UserWarning, match=SAYS):
        found = explain(Ended(net, SOFTENED[end]), images, methods=CNN_METHODS, layer="net.5")
    assert not any(blank_reasons(found.attributions["saliency"]))
    assert_all_alike(found.attributions, expected.attributions)
    torch.testing.assert_close(found.logits, expected.logits)


@pytest.mark.parametrize(
    "end",
    [
        written_out,
        lambda logits: {"probs": written_out(logits)},
        lambda logits: torch.cat([1 - logits[:, :1].sigmoid(), logits[:, :1].sigmoid()], 1),
        lambda logits: (logits.softmax(1) + (2 * logits).softmax(1)) / 2,  # an ensemble
    ],
)
def test_of_probabilities_of_which_no_softmax_is_seen_the_logarithm_is_explained(end):
    def logarithm(logits):
        output = end(logits)
        return (output["probs"] if isinstance(output, dict) else output).log()

    methods = [key for key in CNN_METHODS if key != "cam"]  # W·mean(A) + b are no logarithms of probabilities
    expected = explain(Ended(gap_net(), logarithm), IMAGES, methods=methods)
    with pytest.warns(UserWarning, match=r"returns probabilities.*: their logarithm is explained instead"):
        found = explain(Ended(gap_net(), end), IMAGES, methods=methods)
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.probabilities, expected.logits.exp())
    assert_all_alike(found.attributions, expected.attributions)


class Ridge(nn.Module):
    """A linear regression on one-hot classes, whose values of each image add up to 1."""

    def __init__(self, end):
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Conv2d(IMAGES.shape[1], 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        weight, bias = torch.randn(5, 6).double() * 0.1, torch.full((5,), 0.2).double()
        self.features, self.end = nn.Sequential(*layers), end
        self.weight, self.bias = nn.Parameter(weight - weight.mean(0)), nn.Parameter(bias - bias.mean() + 0.2)

    def forward(self, images):
        return self.end(self.features(images), self.weight, self.bias)


@pytest.mark.parametrize(
    "end",
    [
        F.linear,
        lambda features, weight, bias: features @ weight.T + bias,
        lambda features, weight, bias: torch.addmm(bias, features, weight.T),
        lambda features, weight, bias: F.conv2d(features[:, :, None, None], weight[:, :, None, None], bias).flatten(1),
        lambda features, weight, bias: (features @ weight.T).add_(bias)[:, :, None, None],
    ],
    ids=["linear", "product and sum", "addmm", "convolution", "in place"],
)
def test_values_of_a_linear_layer_are_no_probabilities_though_each_row_has_the_sum_1(end, recwarn):
    model = Ridge(end).to(IMAGES.dtype)
    found = explain(model, IMAGES, methods=["grad_cam", "occlusion"])
    returned = model(IMAGES).flatten(1)
    assert ((returned >= 0) & (returned <= 1)).all()
    torch.testing.assert_close(returned.sum(1), torch.ones_like(returned[:, 0]))
    torch.testing.assert_close(found.logits, returned.to(found.logits.dtype), rtol=1e-5, atol=1e-6)
    assert not [warning for warning in recwarn if "probabilities" in str(warning.message)]


@pytest.mark.parametrize("end", ["nn.Softmax", "F.log_softmax", "written out"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_image_leaves_the_softmax_of_the_others_seen_through(end, value):
    model = Ended(gap_net(), SOFTENED.get(end, written_out))
    images, others, methods = IMAGES.clone(), [0, 2], ["grad_cam", "saliency", "score_cam"]
    images[1] = value
    with pytest.warns(UserWarning, match="returns probabilities"):
        expected = explain(model, IMAGES, methods=methods, target=LABELS)
    with pytest.warns(UserWarning, match="returns probabilities"):
        found = explain(model, images, methods=methods, target=LABELS)
    torch.testing.assert_close(found.logits[others], expected.logits[others])
    for method in methods:
        assert_alike(found.attributions[method][others], expected.attributions[method][others])


class Attention(nn.Module):
    """Softmaxes inside: over the positions, over as many as there are classes, and in a gate; plain logits."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.conv, self.query, self.gate = nn.Conv2d(2, 4, 3), nn.Linear(4, 4), nn.Linear(4, 3)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.pool, self.linear = nn.Linear(4, 1), nn.Linear(4, 3)

    def forward(self, images):
        tokens = self.conv(images).relu().flatten(2).mT
        tokens = tokens + (self.query(tokens) @ tokens.mT).softmax(2) @ tokens
        tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        pooled = (F.softmax(self.pool(tokens), dim=1) * tokens).sum(1)
        return self.linear(pooled) * torch.softmax(self.gate(pooled), 1)


def test_small_logits_in_half_precision_are_no_probabilities():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = gap_net()

        def forward(self, images):
            return self.net(images)[:, :2] * 0 + torch.tensor([0.3, 0.85], dtype=images.dtype)

    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        found = explain(Two().to(dtype), IMAGES, methods="saliency", target=0)  # a warning is an error
        torch.testing.assert_close(found.logits[0], torch.tensor([0.3, 0.85]), rtol=1e-2, atol=0)


class SumsToOne(Ended):
    def __init__(self):
        super().__init__(gap_net(), lambda logits: 10 * (logits - logits.mean(1, keepdim=True)) + 1 / 3)


@pytest.mark.parametrize("make", [Attention, gap_net, lambda: gap_net(1), SumsToOne])
def test_models_that_return_logits_or_a_single_number_are_left_alone(make):
    model = make().double().eval()
    found = explain(model, IMAGES, methods=["grad_cam", "saliency", "occlusion"], target=1)  # a warning is an error
    with torch.no_grad():
        torch.testing.assert_close(found.logits, model(IMAGES))
    expected = torch.stack([gradient(model, image, min(1, found.logits.shape[1] - 1)) for image in IMAGES])
    assert_alike(found.signed["saliency"], expected)


@pytest.mark.parametrize("end", [torch.sigmoid, F.sigmoid, nn.Sigmoid(), lambda logits: logits.clone().sigmoid_()])
@pytest.mark.parametrize("classes", [1, 3])
def test_models_that_end_in_sigmoids_are_explained_by_what_goes_into_them(classes, end):
    model = Ended(gap_net(classes), end).double().eval()
    with pytest.warns(UserWarning, match="what goes into its sigmoid is explained"):
        found = explain(model, IMAGES, methods=["grad_cam", "saliency"], target=0)
    plain = explain(model.net, IMAGES, methods=["grad_cam", "saliency"], target=0)
    assert_all_alike(found.attributions, plain.attributions)
    with torch.no_grad():
        torch.testing.assert_close(found.probabilities[:, -classes:], model(IMAGES))
    assert found.task.name == ("multiclass" if classes == 1 else "multilabel")
