"""Cutting a backbone: its own features at that place, exactly, in both modes, copied and pickled."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_saliency.evidence import TargetLayer
from lightning_saliency.models import gap_model
from lightning_saliency.models.cut import cut_backbone

IMAGES = 3 * torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

ACTIVATIONS = {
    "relu": F.relu,
    "torch.relu": torch.relu,
    "relu6": F.relu6,
    "hardtanh": lambda maps: F.hardtanh(maps, -0.5, 2.0),
    "leaky_relu": lambda maps: F.leaky_relu(maps, 0.2),
    "elu": lambda maps: F.elu(maps, alpha=0.7),
    "selu": F.selu,
    "celu": lambda maps: F.celu(maps, 0.4),
    "gelu": F.gelu,
    "gelu of tanh": lambda maps: F.gelu(maps, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "rrelu": F.rrelu,
    "relu in place": lambda maps: F.relu(maps, inplace=True),
    "silu in place": lambda maps: F.silu(maps, inplace=True),
    "threshold": lambda maps: F.threshold(maps, -0.3, -0.6),
    "relu_": F.relu_,
    "leaky_relu_": lambda maps: F.leaky_relu_(maps, 0.2),
    "method": lambda maps: maps.relu(),
    "method in place": lambda maps: maps.relu_(),
}


class Net(nn.Module):
    """Two convolutions with batch norms, and an activation after each, outside of the modules that are called once."""

    def __init__(self, activate):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 6, 3)
        self.norm, self.linear = nn.BatchNorm2d(6), nn.Linear(6, 4)
        self.activate = activate

    def features(self, images):
        return self.activate(self.norm(self.second(self.activate(self.first(images)))))

    def forward(self, images):
        return self.linear(self.features(images).mean((2, 3)))


def net(activate, kind=Net):
    torch.manual_seed(0)
    module = kind(activate).eval()
    nn.init.normal_(module.norm.running_mean)
    return module.double()


def gap(module, **options):
    return gap_model(module.float(), 3, hidden=None, image_size=16, **options).double().eval()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_backbones_own_activation_is_kept(name):
    module = net(ACTIVATIONS[name])
    model = gap(module)
    assert model.cut == "norm:activated"
    assert torch.equal(model.features(IMAGES), module.features(IMAGES))
    assert bool((model.features(IMAGES) < 0).any()) == (name not in
        {"relu", "torch.relu", "relu6", "relu in place", "relu_", "method", "method in place"})  # fmt: skip
    assert not list(model.neck)
    assert not [key for key in model.backbone.state_dict() if key.startswith("linear")]


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardtanh(-0.2, 1.5), nn.LeakyReLU(0.3, inplace=True), nn.SiLU(),
     nn.GELU("tanh"), nn.PReLU(6, 0.4), nn.Mish(), nn.Hardswish(inplace=True)],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "one each"])
def test_it_may_be_a_module_with_its_options_and_weights(activation, shared):
    class Shared(Net):
        def features(self, images):
            first = self.first(images)
            first = self.activate(torch.cat([first, first[:, :1]], 1))[:, :5] if shared else F.relu(first)
            return self.activate(self.norm(self.second(first)))

    module = net(activation, Shared)
    model = gap(module)
    assert model.cut == ("norm:activated" if shared else "activate")
    assert torch.equal(model.features(IMAGES), module.features(IMAGES))
    learned = {key for key, _ in module.named_parameters() if not key.startswith("linear")}
    assert {key for key, _ in model.backbone.named_parameters()} == learned


def test_statements_in_place_are_kept_and_what_does_not_lead_to_the_features_is_not():
    class Statements(Net):
        def __init__(self, activate):
            super().__init__(activate)
            self.side = nn.Sequential(nn.Conv2d(5, 2, 1), nn.ReLU(inplace=True))

        def features(self, images):
            first = self.first(images)
            self.activate(first)
            first.mul_(0.5)
            side = self.side(first)
            side.add_(1)
            second = self.norm(self.second(first))
            F.leaky_relu_(second, 0.1)
            return second

    module = net(nn.ReLU6(inplace=True), Statements)
    model = gap(module)
    assert torch.equal(model.features(IMAGES), module.double().features(IMAGES))
    assert not [key for key in model.backbone.state_dict() if key.startswith("side")]


def test_the_map_of_a_layer_that_returns_several_is_the_one_and_not_the_last_computed():
    class Stage(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.map, self.other = nn.Conv2d(channels, 6, 3), nn.Conv2d(channels, 6, 1)

        def forward(self, images):
            maps = self.map(images)
            return {"other": self.other(images).mean((2, 3)), "maps": [maps, maps.shape]}

    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.stage, self.linear = Stage(3), nn.Linear(6, 4)

        def forward(self, images):
            found = self.stage(images)
            return self.linear(F.silu(found["maps"][0]).mean((2, 3)) + found["other"])

    module = Several().double()
    layer = TargetLayer("stage.map", activated=True)
    cut = cut_backbone(module, layer, IMAGES[:1])
    assert torch.equal(cut(IMAGES), F.silu(module.stage.map(IMAGES)))
    assert sorted(cut.state_dict()) == ["stage.map.bias", "stage.map.weight"]


def drop_paths(maps, training):
    if not training:
        return maps
    return maps * torch.bernoulli(torch.full((len(maps), 1, 1, 1), 0.5, dtype=maps.dtype))


class Moody(Net):
    """Its forward depends on the mode by more than its modules: by a function's argument and by a branch."""

    def features(self, images):
        first = F.dropout(self.first(images), 0.5, training=self.training)
        if self.training:
            first = F.relu(first) * 2
        return F.silu(self.norm(self.second(first)))


@pytest.mark.parametrize(
    "copied", [lambda model: model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_a_forward_that_depends_on_the_mode_does_so_when_it_is_cut(copied):
    module = net(None, Moody)
    model = copied(gap(copy.deepcopy(module)))
    assert torch.equal(model.features(IMAGES), module.features(IMAGES))
    for _ in range(2):
        features = []
        for each in (model, module):
            torch.manual_seed(1)
            features.append((each.train().features(IMAGES), each.eval().features(IMAGES)))
        (in_training, in_evaluation), (expected_in_training, expected_in_evaluation) = features
        assert torch.equal(in_training, expected_in_training)
        assert torch.equal(in_evaluation, expected_in_evaluation)
        assert not torch.equal(in_training, in_evaluation)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("training", [True, False])
def test_a_copy_has_the_modes_and_values_and_shares_nothing(copied, training):
    model = gap_model("densenet121", 3, hidden=None, image_size=32).train(training)
    model.backbone.features.norm0.eval()  # one that a user has frozen
    twin = copied(model)
    assert repr(twin) == repr(model)
    assert [module.training for module in twin.modules()] == [module.training for module in model.modules()]
    state, copied_state = model.state_dict(), twin.state_dict()
    assert list(state) == list(copied_state)
    assert all(torch.equal(value, copied_state[key]) for key, value in state.items())
    assert {value.data_ptr() for value in state.values()}.isdisjoint(
        value.data_ptr() for value in copied_state.values()
    )
    images = torch.randn(4, 3, 64, 64)
    assert torch.equal(twin.eval()(images), model.eval()(images))
    twin.train().backbone.zero_grad()
    twin(images).sum().backward()
    assert all(parameter.grad is not None for parameter in twin.parameters())


def test_parts_of_the_backbone_that_are_frozen_stay_so():
    module = net(F.silu).train()
    module.norm.eval()
    model = gap_model(module.float(), 3, hidden=None, image_size=16)
    assert module.training
    assert not module.norm.training
    assert model.backbone.first.training
    assert not model.backbone.norm.training
    assert model.backbone.norm is module.norm


def test_parameters_and_buffers_of_the_model_itself_come_along():
    class Scaled(Net):
        def __init__(self, activate):
            super().__init__(activate)
            self.scale = nn.Parameter(torch.full((6, 1, 1), 2.0))
            self.register_buffer("shift", torch.full((6, 1, 1), 0.5), persistent=False)

        def features(self, images):
            return self.activate(self.norm(self.second(self.first(images)) * self.scale + self.shift))

    module = net(F.silu, Scaled)
    for model in (gap(module), copy.deepcopy(gap(module)), pickle.loads(pickle.dumps(gap(module)))):
        assert torch.equal(model.features(IMAGES), module.double().features(IMAGES))
        assert dict(model.backbone.named_parameters())["scale"].requires_grad
        assert "shift" not in model.backbone.state_dict()


def test_a_layer_that_the_graph_does_not_show_is_refused():
    module = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"can trace, got Sequential: .*no output of '0.linear1'.*Cut it yourself"):
        cut_backbone(module, TargetLayer("0.linear1"), torch.zeros(1, 5, 4))
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(ValueError, match=r"no activation function behind '0'"):
        cut_backbone(plain, TargetLayer("0", activated=True), torch.zeros(1, 3, 8, 8))
