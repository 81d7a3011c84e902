"""Which layer is read: named, or found from a run as the papers choose it."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from states import assert_alike
from tiny import L
from torch import nn

from lightning_saliency.attribution import blank_reasons, explain
from lightning_saliency.data import make_call
from lightning_saliency.evidence import Forward, find_target_layer, name_layer
from lightning_saliency.models import GAPHead

IMAGES = torch.randn(2, 3, 16, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def torchvision_model(name):
    torch.manual_seed(0)
    quick = {"init_weights": False} if name in ("googlenet", "inception_v3", "vgg11", "vgg16") else {}
    return torchvision.models.get_model(name, weights=None, num_classes=10, **quick)


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [
        ("vgg16", "features.29", 14),  # relu5_3
        ("alexnet", "features.11", 13),
        ("squeezenet1_1", "features", 13),
        ("resnet18", "layer4", 7),
        ("densenet121", "features:activated", 7),
        ("googlenet", "inception5b", 7),
        ("mobilenet_v2", "features", 7),
    ],
)
def test_at_224_the_layer_is_the_one_of_the_papers(name, layer, size):
    model = torchvision_model(name)
    found = explain(model, torch.randn(1, 3, 224, 224), methods="grad_cam")
    assert found.layer == layer
    assert found.attributions["grad_cam"].shape == (1, 1, size, size)


@pytest.mark.parametrize(
    "name",
    [
        "alexnet", "vgg11", "resnet18", "resnext50_32x4d", "densenet121", "googlenet", "inception_v3", "squeezenet1_1",
        "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5", "efficientnet_b0",
        "efficientnet_v2_s", "regnet_x_400mf", "regnet_y_400mf", "convnext_tiny",
    ],
)  # fmt: skip
def test_every_architecture_of_torchvision_is_explained_with_no_arguments(name):
    model = torchvision_model(name)
    size = 128 if name == "inception_v3" else 64
    images = torch.randn(1, 3, size, size)
    found = explain(model, images)
    heatmap = found.heatmaps()["grad_cam"]
    assert heatmap.shape == (1, 1, size, size)
    assert found.attributions["grad_cam"].shape[2] in (2, 3, 4)
    assert heatmap.max() == 1 or blank_reasons(found.attributions["grad_cam"]) == ["constant 0"]
    assert torch.equal(explain(model, images, layer=found.layer).logits, found.logits)
    assert model.training


def test_a_dense_net_is_read_after_its_activation_unless_the_layer_is_named():
    model = torchvision_model("densenet121").double()
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    target = find_target_layer(model, images)
    assert (target.name, target.activated, str(target)) == ("features", True, "features:activated")
    maps = model.eval().features(images).detach()
    for layer, expected in ((None, maps.relu()), (target, maps.relu()), ("features", maps)):
        found = explain(model, images, methods="eigen_cam", layer=layer).attributions["eigen_cam"]
        assert_reads(found, expected)


def assert_reads(eigen_cam, maps):
    """A principal component's norm is the first singular value of the map that was read."""
    singular = torch.linalg.svdvals(maps.detach().flatten(2))[:, 0]
    assert_alike(eigen_cam.double().flatten(1).norm(dim=1), singular)


class Net(nn.Module):
    """Two convolutions, a `tail(self, features)` from the second one's output to a vector, and a linear layer."""

    def __init__(self, tail, pooled=8, **modules):
        super().__init__()
        torch.manual_seed(1)
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        for name, module in modules.items():
            self.add_module(name, module)
        self.fc = nn.Linear(pooled, 4)
        self.tail = tail
        self.double()

    def forward(self, images):
        features = self.conv1(images)
        features = self.relu(features) if hasattr(self, "relu") else F.relu(features)
        return self.fc(self.tail(self, self.conv2(features)))


def gap(features):
    return features.mean((2, 3))


def normed():
    norm = nn.BatchNorm2d(8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.running_mean)
    return norm


class Residual(nn.Module):
    """A block as in kuangliu's CIFAR networks: functional ReLU, in-place addition."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, features):
        out = F.relu(self.bn1(self.conv1(features)))
        out = self.bn2(self.conv2(out))
        out += features
        return F.relu(out)


class PooledBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, features):
        return F.max_pool2d(F.relu(self.conv(features)), 2)


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.act = nn.ReLU()

    def forward(self, features):
        features = self.conv(features)
        gate = self.up(self.act(self.down(features.mean((2, 3), keepdim=True)))).sigmoid()
        return features * gate


class ClassMaps(nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.conv = nn.Conv2d(8, channels, 1)

    def forward(self, features):
        return F.relu(self.conv(features))


torch.manual_seed(0)  # for the modules in these tables
NETS = {
    # functional ReLU, then pooling, inside one forward
    "conv, F.relu, F.max_pool2d": (lambda net, x: F.max_pool2d(F.relu(x), 2).mean((2, 3)), {}, "conv2", F.relu),
    "conv, in-place F.relu, pool": (lambda net, x: gap(F.max_pool2d(F.relu(x, True), 2)), {}, "conv2", F.relu),
    "conv, in-place statement": (lambda net, x: (F.relu_(x), gap(x))[1], {}, "conv2", F.relu),
    "conv, x.relu(), pool": (lambda net, x: gap(F.avg_pool2d(x.relu(), 2)), {}, "conv2", F.relu),
    "conv, F.gelu, pool": (lambda net, x: gap(F.avg_pool2d(F.gelu(x), 2)), {}, "conv2", F.gelu),
    "conv, pool, F.relu": (lambda net, x: gap(F.relu(F.max_pool2d(x, 2))), {}, "conv2", lambda x: x),
    "conv, norm, F.relu, pool": (
        lambda net, x: gap(F.max_pool2d(F.relu(net.norm(x)), 2)), {"norm": normed()}, "norm",
        lambda x, norm: norm(x).relu(),
    ),
    "conv, GAP": (lambda net, x: gap(x), {}, "conv2", lambda x: x),
    # modules
    "a shared ReLU and pool": (
        lambda net, x: gap(net.pool(net.relu(x))), {"relu": nn.ReLU(), "pool": nn.MaxPool2d(2)}, "conv2", F.relu,
    ),
    "a shared in-place ReLU": (
        lambda net, x: gap(net.relu(x)), {"relu": nn.ReLU(inplace=True)}, "conv2", F.relu,
    ),
    "norm after pooling": (
        lambda net, x: gap(net.norm(net.pool(net.act(x)))),
        {"act": nn.SiLU(), "pool": nn.MaxPool2d(2), "norm": normed()}, "act", F.silu,
    ),
    "pooled without a change of size": (
        lambda net, x: gap(net.pool(net.act(x))), {"act": nn.ReLU(), "pool": nn.MaxPool2d(3, 1, 1)}, "act", F.relu,
    ),
    "a strided slice before its own normalization": (
        lambda net, x: gap(net.norm(x[:, :, ::2, ::2])), {"norm": normed()}, "conv2", lambda x: x,
    ),
    "dropout, flatten": (
        lambda net, x: net.drop(net.act(x)).flatten(1)[:, :8], {"act": nn.ReLU(), "drop": nn.Dropout()}, "act", F.relu,
    ),
    "upsampled": (lambda net, x: gap(F.interpolate(net.act(x), scale_factor=2)), {"act": nn.ReLU()}, "act", F.relu),
    "upsampled by a module": (
        lambda net, x: gap(net.up(net.act(x))), {"act": nn.ReLU(), "up": nn.Upsample(scale_factor=2, mode="bilinear")},
        "act", F.relu,
    ),
    "pooled by modules, 1x1 map": (
        lambda net, x: net.late(net.pool(net.act(x))).flatten(1),
        {"act": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1), "late": nn.Conv2d(8, 8, 1)}, "act", F.relu,
    ),
}  # fmt: skip


@pytest.mark.parametrize("net", NETS)
def test_the_map_that_is_found_is_activated_and_unpooled(net):
    tail, modules, layer, activation = NETS[net]
    model = Net(tail, **modules).eval()
    found = explain(model, IMAGES, methods=["eigen_cam", "grad_cam"])
    assert found.layer.removesuffix(":activated") == layer
    again = explain(model, IMAGES, methods="eigen_cam", layer=found.layer)
    assert_alike(again.attributions["eigen_cam"], found.attributions["eigen_cam"])
    signed = model.conv2(F.relu(model.conv1(IMAGES)))
    maps = activation(signed, modules["norm"]) if "norm," in net else activation(signed)
    assert found.attributions["eigen_cam"].shape == (2, 1, 16, 20)
    assert_reads(found.attributions["eigen_cam"], maps)
    assert found.attributions["grad_cam"].max() > 0


BLOCKS = {
    "a residual block": (lambda net, x: gap(net.block(x)), {"block": Residual()}, "block"),
    "residual blocks": (
        lambda net, x: gap(net.blocks(x)), {"blocks": nn.Sequential(Residual(), Residual())}, "blocks"
    ),
    "a pooled block": (lambda net, x: gap(net.block(x)), {"block": PooledBlock()}, "block.conv"),
    "pooled blocks": (
        lambda net, x: gap(net.blocks(x)), {"blocks": nn.Sequential(PooledBlock(), PooledBlock())}, "blocks.1.conv"
    ),
    "squeeze and excitation": (lambda net, x: gap(net.block(x)), {"block": SqueezeExcite()}, "block"),
    "channel shuffle": (
        lambda net, x: gap(net.blocks(x)), {"blocks": nn.Sequential(Residual(), nn.ChannelShuffle(2))}, "blocks"
    ),
}  # fmt: skip


@pytest.mark.parametrize("net", BLOCKS)
def test_a_block_is_read_as_a_whole_unless_it_pools(net):
    tail, modules, layer = BLOCKS[net]
    model = Net(tail, **modules).eval()
    found = explain(model, IMAGES, methods="eigen_cam")
    assert found.layer.removesuffix(":activated") == layer
    features, block = model.conv2(F.relu(model.conv1(IMAGES))), next(iter(modules.values()))
    if layer.endswith("blocks.1.conv"):
        maps = F.relu(block[1].conv(block[0](features)))
    elif layer.endswith("conv"):
        maps = F.relu(block.conv(features))
    else:
        maps = block(features)
    assert_reads(found.attributions["eigen_cam"], maps)


@pytest.mark.parametrize("classes", [4, 1])
def test_a_map_of_class_scores_is_passed_over_and_one_of_hidden_channels_is_not(classes):
    torch.manual_seed(2)
    features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert explain(nn.Sequential(features, ClassMaps(classes), pool), IMAGES).layer == "0"
    hidden = nn.Sequential(features, ClassMaps(classes), pool, nn.Linear(classes, classes))
    assert explain(hidden, IMAGES).layer == "1"  # as many channels as classes, but no scores yet
    only_scores = nn.Sequential(nn.Conv2d(3, classes, 3), pool)
    with pytest.raises(ValueError, match=r"the run shows only maps of class scores.*`layer=\.\.\.`"):
        explain(only_scores, IMAGES)


def spatial_attention(net, maps):
    weighted = maps * net.channels(gap(maps))[..., None, None].sigmoid()
    return gap(weighted * net.gate(torch.stack([weighted.mean(1), weighted.amax(1)], 1)).sigmoid())


GATES = {
    "attention pooling": (lambda net, x: (x.flatten(2) * net.gate(x).flatten(2).softmax(2)).sum(2), nn.Conv2d(8, 1, 1)),
    "the same as a product of matrices": (
        lambda net, x: (x.flatten(2) @ net.gate(x).flatten(2).softmax(2).mT)[..., 0], nn.Conv2d(8, 1, 1),
    ),
    "a sigmoid for each channel": (lambda net, x: gap(x * net.gate(x).sigmoid()), nn.Conv2d(8, 8, 1)),
    "the sigmoid in a module": (lambda net, x: gap(x * net.gate(x)), nn.Sequential(nn.Conv2d(8, 1, 1), nn.Sigmoid())),
    "residual attention (Wang 2017)": (lambda net, x: gap(x * (1 + net.gate(x).sigmoid())), nn.Conv2d(8, 8, 1)),
    "CBAM (Woo 2018)": (spatial_attention, nn.Conv2d(2, 1, 3, padding=1)),
}  # fmt: skip


@pytest.mark.parametrize("gate", GATES)
def test_a_convolution_that_only_weighs_the_features_is_passed_over(gate):
    tail, module = GATES[gate]
    model = Net(lambda net, x: tail(net, net.act(x)), act=nn.ReLU(), gate=module, channels=nn.Linear(8, 8)).eval()
    found = explain(model, IMAGES, methods=["eigen_cam", "grad_cam"])
    assert found.layer == "act"
    assert_reads(found.attributions["eigen_cam"], F.relu(model.conv2(F.relu(model.conv1(IMAGES)))))


@pytest.mark.parametrize(
    "tail",
    [
        lambda net, x: gap(net.last(x).sigmoid()),
        lambda net, x: gap(F.silu(net.last(x))),
        lambda net, x: gap((y := net.last(x)) * y.sigmoid()),
        lambda net, x: gap((y := net.last(x).sigmoid()) * net.channels(gap(y))[..., None, None].sigmoid()),
    ],
    ids=["sigmoid", "SiLU", "SiLU written out", "sigmoid, squeeze and excitation"],
)
def test_a_convolution_behind_an_activation_that_is_a_gate_elsewhere_is_read(tail):
    model = Net(tail, last=nn.Conv2d(8, 8, 3, padding=1), channels=nn.Linear(8, 8))
    assert explain(model, IMAGES).layer.removesuffix(":activated") == "last"


def test_a_branch_that_the_logits_do_not_depend_on_is_passed_over():
    class Auxiliary(Net):
        def forward(self, images):
            features = F.relu(self.conv1(images))
            logits = self.fc(gap(F.relu(self.conv2(features))))
            return {"logits": logits, "aux": self.aux(features)}

    model = Auxiliary(None, aux=nn.Conv2d(6, 8, 3))
    assert explain(model, IMAGES).layer == "conv2:activated"


def test_the_backbone_of_a_lightning_module_is_found():
    class Lit(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
            self.head = GAPHead(8, 4)

        def forward(self, images):
            return self.head(self.backbone(images))

    assert explain(Lit(), IMAGES, methods=["grad_cam", "saliency"]).layer == "backbone.2"


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(960, 4)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4)),
    ],
)
def test_a_model_without_a_convolutional_map_is_refused_but_its_saliency_is_shown(model):
    with pytest.raises(ValueError, match=r"no map of more than one position.*methods=\['saliency'\]"):
        explain(model, IMAGES)
    explanation = explain(model, IMAGES, methods=["saliency"])
    assert explanation.layer is None
    assert explanation.attributions["saliency"].max() > 0


def test_a_layer_is_given_by_name_or_as_a_module():
    model = Net(lambda net, x: gap(net.blocks(x)), blocks=nn.Sequential(Residual(), Residual()))
    by_name = explain(model, IMAGES, layer="blocks.0.bn2")
    by_module = explain(model, IMAGES, layer=model.blocks[0].bn2)
    assert by_name.layer == by_module.layer == "blocks.0.bn2"
    assert torch.equal(by_name.attributions["grad_cam"], by_module.attributions["grad_cam"])
    layer = name_layer(model, "blocks")
    assert layer == name_layer(model, model.blocks)
    assert model.get_submodule(layer.name) is model.blocks


@pytest.mark.parametrize(
    ("layer", "error", "says"),
    [
        ("layer5", ValueError, r"`layer` to name a module of ResNet, got 'layer5'\. Nearest: layer\d, "),
        ("layer4.1.cnov2", ValueError, r"got 'layer4.1.cnov2'\. Nearest: layer4\.1\.conv2, "),
        ("", ValueError, r"`layer` to name a module of ResNet, got ''\. Nearest: .*fc"),
        ("?", ValueError, r"got '\?'\. Nearest: .*fc"),
        (
            nn.Conv2d(3, 4, 1),
            ValueError,
            r"`layer` to be a module of the model, got a Conv2d that ResNet does not hold",
        ),
        (4, TypeError, r"`layer` to be a dotted name, a module or None, got int"),
        ("fc", ValueError, r"target layer 'fc' to return a feature map, \(N, D, h, w\), .*, got \(2, 10\)"),
        ("layer4.0.relu", ValueError, r"target layer 'layer4.0.relu' to run once in a forward, it ran 2 times"),
    ],
)
def test_a_wrong_layer_is_refused_by_its_name(layer, error, says):
    with pytest.raises(error, match=says):
        explain(torchvision_model("resnet18"), torch.randn(2, 3, 32, 32), layer=layer)


def test_a_layer_that_never_runs_or_returns_no_tensor_is_refused():
    class Texts(nn.Module):
        def forward(self, features):
            return [str(features.shape)]

    model = Net(lambda net, x: (net.texts(x), gap(x))[1], texts=Texts(), unused=nn.Conv2d(8, 8, 1))
    with pytest.raises(ValueError, match="target layer 'unused' to run once in a forward, it ran 0 times"):
        explain(model, IMAGES, layer="unused")
    with pytest.raises(ValueError, match=r"target layer 'texts' to return a feature map, .* got list"):
        explain(model, IMAGES, layer="texts")


@pytest.mark.parametrize("name", ["vit_b_32", "swin_t"])
def test_the_patch_embedding_of_a_transformer_is_no_feature_map(name):
    model = torchvision.models.get_model(name, **({"image_size": 64} if name == "vit_b_32" else {}))
    assert "embed" not in explain(model, torch.rand(1, 3, 64, 64)).layer
    assert explain(model, torch.rand(1, 3, 64, 64), methods="saliency").layer is None


def test_a_layer_is_found_in_how_a_model_is_run_and_in_what_it_is_called_with():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.one = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(504, 4))
            self.other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2016, 4))
            self.double()

        def forward(self, image, scale):
            return {"logits": self.one(image * scale), "mine": self.other(image)}

    model, call = Two(), make_call([IMAGES], {"scale": torch.ones(2, 1, 1, 1, dtype=torch.float64)})
    assert find_target_layer(model, call).name == "one.1"
    mine = Forward(model, output_fn=lambda output: output["mine"])
    assert find_target_layer(mine, call).name == "other.1"
    assert explain(mine, call).layer == "other.1"


def test_an_earlier_layer_is_found_by_its_size():
    model, images = torchvision_model("resnet18"), torch.randn(1, 3, 64, 64)
    assert find_target_layer(model, images, size=(4, 4)).name == "layer3"
    assert find_target_layer(model, images, size=(16, 16)).name == "layer1"
    with pytest.raises(ValueError, match=r"a convolutional map of 5×5 at this image size.*maps are 32×32, 16×16, 8×8"):
        find_target_layer(model, images, size=(5, 5))


def test_a_model_can_be_cut_only_where_everything_passes_through():
    class Skipping(Net):
        def forward(self, images):
            features = self.conv1(images)
            return self.fc(gap(F.relu(self.conv2(features)) + self.around(features)))

    model = Skipping(None, around=nn.Conv2d(6, 8, 1))
    assert str(find_target_layer(model, IMAGES)) == "around"
    assert str(find_target_layer(model, IMAGES, can_be_cut=True)) == "conv1"
