"""The GAP head: its identities, exactly; and that it trains, saves and refuses."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from states import assert_alike
from torch import nn

from lightning_saliency.attribution import explain
from lightning_saliency.models import GAPHead, gap_model


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
    assert_alike(found["cam"], maps)
    assert_alike(found["grad_cam"], maps.relu() / 24)


def test_dropout_acts_in_training_only():
    head, features = GAPHead(64, 3, dropout=0.5).double(), torch.rand(2, 64, 3, 3, dtype=torch.float64)
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


@pytest.mark.parametrize(("arguments", "says"), [((0, 3), "`in_channels` to be a positive int, got 0"),
                                                 ((8, -1), "`num_classes` to be a positive int, got -1")])  # fmt: skip
def test_a_head_of_nothing_is_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        GAPHead(*arguments)


@pytest.mark.parametrize("shape", [(2, 8), (2, 7, 4, 4), (8, 4, 4)])
def test_other_features_are_refused(shape):
    head = GAPHead(8, 3)
    for call in (head, head.class_maps):
        with pytest.raises(ValueError, match=r"`features` to be \(N, 8, h, w\), got shape \("):
            call(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "cut", "size"),
    [("alexnet", "features.11", 13), ("vgg16", "features.29", 14), ("googlenet", "inception4e", 14)],
)
def test_the_papers_networks_have_the_papers_resolutions_and_widths(name, cut, size):
    """Zhou et al. 2016, section 3: cut there, then a 3×3 convolution, stride 1, pad 1, with 1024 units."""
    model = gap_model(name, num_classes=7).eval()
    assert model.cut == cut
    convolution, rectifier = model.neck
    assert (convolution.kernel_size, convolution.stride, convolution.padding) == ((3, 3), (1, 1), (1, 1))
    assert convolution.out_channels == model.head.linear.in_features == 1024
    assert isinstance(rectifier, nn.ReLU)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        features = model.features(images)
        assert model.class_maps(images).shape == (1, 7, size, size)
        torch.testing.assert_close(model(images), model.head(features))
        head, features = copy.deepcopy(model.head).double(), features.double()
        torch.testing.assert_close(head(features), head.class_maps(features).mean((2, 3)) + head.linear.bias)
    assert not [linear for linear in model.backbone.modules() if isinstance(linear, nn.Linear)]  # all removed


@pytest.mark.parametrize(
    ("name", "resolution", "cut"),
    [
        ("resnet18", 14, "layer3"),
        ("resnet18", 28, "layer2"),
        ("densenet121", None, "features:activated"),
        ("efficientnet_b0", 14, "features.6.0.block.0"),  # the last 14×14 map: the next block has no way around it
        ("mobilenet_v2", None, "features"),
        ("squeezenet1_1", None, "features"),
    ],
)
def test_other_backbones_are_cut_where_everything_passes_through(name, resolution, cut):
    model = gap_model(name, num_classes=3, resolution=resolution, hidden=None)
    model.eval()
    assert model.cut == cut
    assert (
        model.class_maps(torch.randn(1, 3, 224, 224)).shape[2:]
        == (resolution or {"squeezenet1_1": 13}.get(name, 7),) * 2
    )
    explanation = explain(model, torch.randn(2, 3, 224, 224), methods=["cam", "grad_cam"], target=1)
    maps, grad_cam = explanation.attributions["cam"], explanation.attributions["grad_cam"]
    # in float32, where a value is a sum of up to 1280 that cancel each other
    torch.testing.assert_close(maps.relu() / maps[0].numel(), grad_cam, rtol=0, atol=1e-3 * float(grad_cam.max()))


def test_what_is_kept_of_the_backbone_keeps_its_weights_and_any_module_will_do():
    whole = torchvision.models.resnet18()
    features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU())
    for backbone, options in (
        (whole, {"resolution": 14}),
        (features, {"in_channels": 1, "image_size": 32, "hidden": 8}),
    ):
        before = {name: weight.clone() for name, weight in backbone.state_dict().items()}
        model = gap_model(backbone, 2, **options)
        kept = model.backbone.state_dict()
        assert kept
        assert all(torch.equal(weight, before[name]) for name, weight in kept.items())
        assert all(torch.equal(weight, before[name]) for name, weight in backbone.state_dict().items())
        assert all(module.training for module in model.modules())
    assert not any(name.startswith("layer4") for name in gap_model(whole, 2, resolution=14).backbone.state_dict())
    assert gap_model(features, 2, in_channels=1, image_size=32, hidden=None).cut == "4"


@pytest.mark.parametrize("channels", [1, 6])
@pytest.mark.parametrize("name", ["resnet18", "alexnet", "googlenet"])
def test_a_named_backbone_takes_other_channels_and_sees_in_them_what_it_saw_in_colors(name, channels):
    gray, features = torch.randn(1, 1, 96, 96, dtype=torch.float64), []
    for number in (3, channels):
        torch.manual_seed(0)  # which draws the same weights
        model = gap_model(name, 2, hidden=None, in_channels=number, image_size=96).double().eval()
        with torch.no_grad():
            features.append(model.features(gray.expand(-1, number, -1, -1)))
    expected, found = features
    assert_alike(found, expected)  # but for the means of the filters, which were rounded to float32


def test_a_gap_model_trains_and_is_explained_in_eval_whatever_its_mode():
    torch.manual_seed(0)
    model = gap_model("efficientnet_b0", 2, hidden=16, image_size=64).train()  # with stochastic depth
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 0, 1])
    nn.functional.cross_entropy(model(images), labels).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    first, again = (explain(model, images, methods="cam").attributions["cam"] for _ in range(2))
    assert all(module.training for module in model.modules())
    evaluated = explain(model.eval(), images, methods="cam").attributions["cam"]
    for maps in (again, evaluated):  # in float32, but the same computation
        torch.testing.assert_close(maps, first, rtol=0, atol=1e-6 * float(first.abs().max()))


def test_other_poolings_are_their_formulas():
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    pooled = {
        "avg": features.mean((2, 3)),
        "max": features.flatten(2).max(2).values,
        "lse": (5 * features).exp().mean((2, 3)).log() / 5,
    }
    for pooling, expected in pooled.items():
        head = GAPHead(3, 4, pooling=pooling).double()
        assert torch.allclose(head(features), head.linear(expected), atol=1e-12)
    with pytest.raises(ValueError, match="`pooling` to be one of avg, max, lse, got 'sum'"):
        GAPHead(3, 4, pooling="sum")


def test_a_backbone_that_cannot_serve_is_refused():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, images):
            return self.conv(images) if images.sum() > 1 else self.conv(-images)

    with pytest.raises(ValueError, match="no convolutional map"):
        gap_model(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4)), 2, image_size=8)
    with pytest.raises(ValueError, match=r"convolutional map of 15×15.*its maps are 112×112, 56×56"):
        gap_model("resnet18", 2, resolution=15)
    with pytest.raises(
        ValueError, match=r"name a classification model of torchvision, got 'resnet19'. Nearest: resnet1"
    ):
        gap_model("resnet19", 2)
    with pytest.raises(TypeError, match="`backbone` to be a name or a module, got int"):
        gap_model(18, 2)
    with pytest.raises(ValueError, match=r"torch\.fx can trace, got Branches"):
        gap_model(Branches(), 2, image_size=16)
