"""Several target layers: read from one pass, each as alone, or fused."""

from functools import partial
from itertools import product

import pytest
import torch
from closed_forms import loops_bilinear, relu
from networks import Meter, gap_net
from states import assert_alike, assert_all_alike
from torch import nn

from lightning_saliency.attribution import METHODS, explain
from lightning_saliency.models import GAPHead

LABELS = [2, 0, 1]
IMAGES = torch.randn(3, 2, 10, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
CAMS = ["grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "xgrad_cam"]


class Counting(nn.Module):
    """Counts how often it runs forward and backward."""

    def __init__(self, net):
        super().__init__()
        self.net, self.meter = net, Meter()

    def forward(self, images):
        return self.meter(self.net(images))


class Branches(nn.Module):
    """Two branches that see the same map, or the image itself, and nothing of each other."""

    def __init__(self, stem):
        super().__init__()
        torch.manual_seed(4)
        self.stem = nn.Conv2d(2, 2, 3) if stem else nn.Identity()
        self.wide, self.fine = nn.Conv2d(2, 3, 4, padding=1), nn.Conv2d(2, 4, 2, stride=2)
        self.relu, self.linear = nn.ReLU(), nn.Linear(7, 3)

    def forward(self, images):
        features = self.stem(images)
        branches = self.relu(self.wide(features)), torch.tanh(self.fine(features))
        return self.linear(torch.cat([branch.square().mean((2, 3)) for branch in branches], 1))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("methods", [["eigen_cam"], CAMS, [*CAMS, "saliency"]])
@pytest.mark.parametrize(
    ("net", "layers"),
    [
        (gap_net, ["net.0", "net.2", "net.5"]),
        (gap_net, ["net.5", "net.0"]),
        (partial(Branches, stem=False), ["net.wide", "net.fine"]),
        (partial(Branches, stem=True), ["net.fine", "net.stem", "net.wide"]),
    ],
    ids=["in order", "the last first", "branches", "branches of a stem"],
)
def test_several_layers_are_read_from_one_pass_and_each_gives_what_it_gives_alone(net, layers, methods, frozen):
    model = Counting(net().double()).requires_grad_(not frozen)
    found = explain(model, IMAGES, methods=methods, layer=layers, target=LABELS)
    assert model.meter.counts["forward"] == 1
    assert model.meter.counts["backward"] == int(methods != ["eigen_cam"])
    assert found.layers == tuple(layers)
    assert found.layer == ", ".join(layers)
    at_layers = [key for key in methods if METHODS[key].reads_layer]
    inputs = ["saliency"] if "saliency" in methods else []
    assert list(found.attributions) == [f"{key}@{name}" for key in at_layers for name in layers] + inputs
    for name in layers:
        alone = explain(model, IMAGES, methods=methods, layer=name, target=LABELS).attributions
        for key in at_layers:
            assert_alike(found.attributions[f"{key}@{name}"], alone[key])
        for key in inputs:
            assert_alike(found.attributions[key], alone[key])


def test_methods_of_further_passes_read_several_layers_too():
    layers, methods = ["2", "5"], ["score_cam", "ablation_cam", "smooth_grad_cam_plus_plus", "guided_grad_cam"]
    found = explain(gap_net(), IMAGES, methods=methods, layer=layers, target=LABELS)
    assert list(found.signed) == [f"guided_grad_cam@{name}" for name in layers]
    for name in layers:
        alone = explain(gap_net(), IMAGES, methods=methods, layer=name, target=LABELS)
        for key in methods:
            assert_alike(found.attributions[f"{key}@{name}"], alone.attributions[key])


def test_one_layer_in_a_list_keeps_the_plain_key_and_modules_are_named():
    model = gap_net()
    found = explain(model, IMAGES, methods=["grad_cam", "saliency"], layer=[model[5]], fuse="mean")
    assert list(found.attributions) == ["grad_cam", "saliency"]
    assert_all_alike(found.attributions, explain(model, IMAGES, methods=["grad_cam", "saliency"]).attributions)
    found = explain(model, IMAGES, layer=[model[2], "5"])
    assert list(found.attributions) == ["grad_cam@2", "grad_cam@5"]
    assert explain(model, IMAGES, methods="saliency", layer=[model[2], "5"]).layers == ()


def test_a_layer_named_twice_or_a_wrong_fuse_is_refused():
    model = gap_net()
    for layers in (["2", "2"], ["5", "2", model[5]], []):
        with pytest.raises(ValueError, match="Expected `layer` to name different layers, got"):
            explain(model, IMAGES, layer=layers)
    with pytest.raises(ValueError, match="`fuse` to be one of mean, max, None, got 'median'"):
        explain(model, IMAGES, layer=["2", "5"], fuse="median")
    with pytest.raises(ValueError, match="`layer` to name a module of Sequential, got '9'"):
        explain(model, IMAGES, layer=["2", "9"])


def test_a_layer_that_the_score_does_not_depend_on_is_named():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.idle = gap_net(), nn.Conv2d(2, 3, 3).double()

        def forward(self, images):
            self.idle(images)
            return self.net(images)

    with pytest.raises(ValueError, match=r"does not depend on the output of .*'idle'"):
        explain(Idle(), IMAGES, layer=["net.5", "idle"])


@pytest.mark.parametrize("fuse", ["mean", "max"])
@pytest.mark.parametrize("layers", [["2", "4", "5"], ["5", "2"]])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_fused_maps_are_rectified_brought_to_the_finest_size_divided_by_their_maximum_and_joined(
    fuse, layers, chunk_size
):
    methods = ["cam", "layer_cam", "eigen_cam"] if layers == ["5"] else ["grad_cam", "eigen_cam", "xgrad_cam"]
    options = {"methods": methods, "target": LABELS}
    fused = explain(gap_net(), IMAGES, layer=layers, fuse=fuse, chunk_size=chunk_size, **options).attributions
    assert list(fused) == methods
    for method in methods:
        assert fused[method].shape == (3, 1, 8, 6)
        for row in range(3):
            maps = []
            for layer in layers:
                raw = explain(gap_net(), IMAGES, layer=layer, **options).attributions[method][row, 0].double()
                L = loops_bilinear(relu(raw), 8, 6)
                maps.append(L / L.max() if L.max() > 0 else L)
            expected = torch.zeros(8, 6)
            for i, j in product(range(8), range(6)):
                values = [float(L[i, j]) for L in maps]
                expected[i, j] = sum(values) / len(values) if fuse == "mean" else max(values)
            assert_alike(fused[method][row, 0], expected)


def test_what_several_layers_make_of_a_signed_method_is_fused_as_the_maps_are():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), GAPHead(4, 3)).double()
    images = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    each = explain(model, images, methods="guided_grad_cam", layer=["1", "3"]).signed
    one, other = each["guided_grad_cam@1"], each["guided_grad_cam@3"]
    for fuse, expected in (("mean", (one + other) / 2), ("max", torch.where(one.abs() >= other.abs(), one, other))):
        found = explain(model, images, methods="guided_grad_cam", layer=["1", "3"], fuse=fuse).signed
        assert list(found) == ["guided_grad_cam"]
        assert_alike(found["guided_grad_cam"], expected)
