"""A pass whose head is random while the model keeps its own, and what is left of the heatmaps."""

import copy
from contextlib import contextmanager, nullcontext

import pytest
import torch
import torch.nn.functional as F
from networks import HEADS, Disturbing, Headed, called_later, metered
from states import assert_alike, assert_same, state_of
from torch import nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from watching import SharedList

from lightning_saliency.attribution import explain
from lightning_saliency.data import make_call
from lightning_saliency.evidence import Forward, find_head
from lightning_saliency.metrics import measure_head_randomization, randomized_head, rank_correlation

IMAGES = torch.randn(3, 3, 10, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CONTEXTS = [nullcontext, torch.no_grad, torch.inference_mode]


def changed(isolated, model):
    """The names of the parameters that are others in the shadow that a pass runs than in the model."""
    return {
        name
        for name, parameter in isolated.model.named_parameters()
        if not torch.equal(parameter, model.get_parameter(name))
    }


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(("forward", "head"), HEADS)
def test_the_layer_that_makes_the_logits_is_random_however_it_is_written(forward, head, frozen):
    model = Headed(forward).requires_grad_(not frozen)
    before = model(IMAGES)
    with randomized_head(model, IMAGES).undisturbed() as isolated:
        assert changed(isolated, model) == ({f"{head}.weight", f"{head}.bias"} if head else {"own"})
        after = isolated.model(IMAGES)
    if isinstance(before, dict):
        assert torch.equal(before["boxes"], after["boxes"])
        before, after = before["logits"], after["logits"]
    assert not torch.isclose(before, after).all(0).any()


def test_the_head_of_other_logits_is_random_where_output_fn_says():
    model = Headed(called_later)
    forward = Forward(model, output_fn=lambda output: output["boxes"])
    with randomized_head(forward, IMAGES).undisturbed() as isolated:
        assert changed(isolated, model) == {"second.weight", "second.bias"}


def test_a_compiled_model_has_a_random_head_without_a_compilation():
    model = metered()
    randomized = randomized_head(torch.compile(model, backend=lambda graph, inputs: pytest.fail("compiled")), IMAGES)
    with randomized.undisturbed() as isolated:
        assert changed(isolated, model) == {"8.weight", "8.bias"}
    assert not torch.isclose(explain(randomized, IMAGES).logits, model(IMAGES)).all(0).any()


def test_a_seed_that_is_no_int_is_refused():
    with pytest.raises(TypeError, match=r"`seed` to be an int, got 0\.5"):
        randomized_head(metered(), IMAGES, seed=0.5)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_parameters_of_the_model_are_the_very_same_and_unwritten_during_and_after(context, fails, frozen):
    model = Disturbing().requires_grad_(not frozen)
    held = list(model.named_parameters())
    versions = [parameter._version for _, parameter in held]
    passes = []

    def assert_untouched():
        assert_same({**state_of(model), **of_the_process}, before | of_the_process)
        for (name, parameter), (other_name, other), version in zip(
            model.named_parameters(), held, versions, strict=True
        ):
            assert name == other_name
            assert parameter is other
            assert parameter._version == version

    @contextmanager
    def watched():
        assert_untouched()
        passes.append(1)
        yield
        assert_untouched()

    with context():
        before = state_of(model)
        of_the_process = dict.fromkeys(("torch", "python", "numpy", "grad"), 0)  # which a pass draws from, and restores
        randomized = randomized_head(Forward(model, context=watched), IMAGES)
        assert_same(state_of(model), before)
        with pytest.raises(RuntimeError, match="inside") if fails else nullcontext(), randomized.undisturbed() as run:
            assert changed(run, model) == {"linear.weight", "linear.bias"}
            assert [name for name, _ in run.model.named_parameters()] == [name for name, _ in held]
            assert all(parameter.requires_grad is not frozen for parameter in run.model.parameters())
            assert_untouched()
            if fails:
                raise RuntimeError("inside")
        assert_same(state_of(model), before)
        model.fails, count = fails, len(passes)
        with pytest.raises(RuntimeError, match="in the middle") if fails else nullcontext():
            explain(randomized, IMAGES, methods=["cam", "grad_cam", "saliency"], target=1, layer="act")
        assert_same(state_of(model), before)
    assert len(passes) > count
    assert_untouched()


def test_an_error_of_the_model_leaves_it_as_it_was():
    model = Disturbing(fails=True)
    before = state_of(model)
    with pytest.raises(RuntimeError, match="in the middle"):
        randomized_head(model, IMAGES)
    assert_same(state_of(model), before)


def test_values_are_shuffled_by_the_seed_alone():
    model = metered()
    learned = {name: parameter.clone() for name, parameter in model[8].named_parameters()}

    def shuffled(seed):
        with randomized_head(model, IMAGES, seed=seed).undisturbed() as isolated:
            return {name: parameter.detach().clone() for name, parameter in isolated.model[8].named_parameters()}

    one, other = shuffled(1), shuffled(2)
    torch.manual_seed(5)
    assert_same(shuffled(1), one)
    for name, values in learned.items():
        for random in (one, other):
            assert not torch.equal(random[name], values)
            assert torch.equal(random[name].flatten().sort().values, values.flatten().sort().values)
    assert not torch.equal(one["weight"], other["weight"])


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_equal_weights_are_drawn_anew(value):
    model = metered(classes=400)
    nn.init.constant_(model[8].weight, value)
    nn.init.constant_(model[8].bias, 1.0)
    with randomized_head(model, IMAGES).undisturbed() as isolated:
        weight = isolated.model[8].weight.detach().clone()
        assert (isolated.model[8].bias == 1).all()
    assert weight.mean().abs() < 2e-3
    assert 0.019 < weight.std() < 0.021


def test_a_tied_weight_elsewhere_stays_as_it_is():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 8, 3)
            self.inner, self.head = nn.Linear(8, 8), nn.Linear(8, 8)
            self.head.weight = self.inner.weight
            self.double()

        def forward(self, images):
            return self.head(self.inner(self.conv(images).mean((2, 3))))

    model = Tied()
    with randomized_head(model, IMAGES).undisturbed() as isolated:
        assert changed(isolated, model) == {"head.weight", "head.bias"}
        assert isolated.model.inner.weight is not isolated.model.head.weight
    assert model.inner.weight is model.head.weight


class LastStep(nn.Module):
    """A recurrent layer, whose last output is the logits."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 4, batch_first=True).double()

    def forward(self, features):
        return self.rnn(features[:, None])[0][:, -1]


@pytest.mark.filterwarnings("ignore:.*(torch.jit.script|weight_norm).*is deprecated.*:FutureWarning")
@pytest.mark.parametrize(
    ("wrap", "head"),
    [
        (weight_norm, "4"),
        (orthogonal, "4"),
        (spectral_norm, "4"),
        (nn.utils.weight_norm, "4"),
        (torch.jit.script, "4"),
        (lambda linear: LastStep(), "4.rnn"),
    ],
    ids=["weight_norm", "orthogonal", "spectral_norm", "old weight_norm", "scripted", "recurrent"],
)
def test_a_head_whose_weight_is_made_or_kept_elsewhere_is_random_too(wrap, head):
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*body, wrap(nn.Linear(8, 4).double())).double().eval()
    before, ids = model(IMAGES), {name: id(value) for name, value in model.state_dict(keep_vars=True).items()}
    assert find_head(model, IMAGES) == head
    with randomized_head(model, IMAGES).undisturbed() as isolated:
        random = isolated.model(IMAGES)
        assert torch.equal(model(IMAGES), before)
    assert not torch.isclose(random, before).all(0).any()
    assert torch.equal(model(IMAGES), before)
    assert {name: id(value) for name, value in model.state_dict(keep_vars=True).items()} == ids


@pytest.mark.parametrize("frozen", [False, True])
def test_a_spectral_norm_keeps_its_estimate_and_its_weight_the_scale(frozen):
    torch.manual_seed(0)
    linear = spectral_norm(nn.Linear(8, 4)).requires_grad_(not frozen)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    model = model.double().train()
    before, makers = state_of(model), linear.parametrizations["weight"]
    model.eval()
    learned = linear.weight.detach()
    model.train()
    with randomized_head(model, IMAGES).undisturbed() as isolated:
        random = isolated.model[4].weight
        assert random.requires_grad is not frozen
        assert not torch.equal(random, learned)
        torch.testing.assert_close(random.flatten().sort().values, learned.flatten().sort().values)
    assert linear.parametrizations["weight"] is makers
    assert_same(state_of(model), before)  # in train mode, each look at the weight improves the estimate


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_method_explains_the_random_head(context):
    model = metered()
    A = model[:5](IMAGES).detach()
    with context():
        images = IMAGES.clone()
        randomized = randomized_head(model, images)
        with randomized.undisturbed() as isolated:
            weight, bias = isolated.model[8].weight.detach().clone(), isolated.model[8].bias.detach().clone()
        found = explain(randomized, images, methods=["cam", "grad_cam", "saliency"], target=[3, 0, 1], layer="4")
        logits = F.linear(A.mean((2, 3)), weight, bias)
    cam = torch.einsum("nd,ndhw->nhw", weight[[3, 0, 1]], A)[:, None]
    assert not torch.equal(weight, model[8].weight)
    assert_alike(found.attributions["cam"], cam)
    assert_alike(found.attributions["grad_cam"], cam.relu() / A[0, 0].numel())
    torch.testing.assert_close(found.logits, logits.detach())
    assert found.attributions["saliency"].amax() > 0


METHODS = ["eigen_cam", "cam", "grad_cam", "saliency"]
SWAPS = {"rtol": 0, "atol": 1e-4}
"""Rounding may swap the ranks of two pixels: of 120 that is worth 7e-6."""
SAME = 1 - 1e-5
"""The correlation of a map with itself, but for rounding."""


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("frozen", [False, True])
def test_the_similarity_is_the_rank_correlation_with_the_maps_of_the_random_head(context, frozen):
    model = metered().requires_grad_(not frozen)
    with context():
        explanation = explain(model, IMAGES.clone(), methods=METHODS, target=[3, 0, 1])
        before = state_of(model)
        found = measure_head_randomization(model, explanation, seed=4)
        assert_same(state_of(model), before)
        randomized = randomized_head(model, IMAGES, seed=4)
        random = explain(randomized, IMAGES.clone(), methods=METHODS, target=[3, 0, 1], layer="4").heatmaps()
    assert list(found) == METHODS
    for method, heatmaps in explanation.heatmaps().items():
        torch.testing.assert_close(found[method], rank_correlation(heatmaps, random[method]), **SWAPS)
        assert found[method].shape == (3,)
        assert (found[method] > SAME if method == "eigen_cam" else found[method] < 0.95).all(), method
    again = measure_head_randomization(model, explanation, seed=3)
    assert not torch.equal(again["cam"], found["cam"])


def test_large_heatmaps_are_compared_at_no_more_than_32_pixels_a_side():
    images = torch.randn(2, 3, 96, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = metered()
    explanation = explain(model, images, methods="saliency", target=1)
    random = explain(randomized_head(model, images), images, methods="saliency", target=1)
    maps = [one.heatmaps()["saliency"].view(2, 1, 32, 3, 16, 3).mean((3, 5)) for one in (explanation, random)]
    found = measure_head_randomization(model, explanation)["saliency"]
    torch.testing.assert_close(found, rank_correlation(*maps), **SWAPS)
    assert (rank_correlation(explanation.heatmaps()["saliency"], random.heatmaps()["saliency"]) != found).all()


class Pair(nn.Module):
    """Takes metadata with its images, and returns more than its logits."""

    def __init__(self):
        super().__init__()
        self.body = metered()

    def forward(self, images, metadata):
        return {"loss": images.mean(), "aux": images.mean((2, 3)), "mine": self.body(images * metadata["scale"])}


SCALE = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)[:, None, None, None]


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (metered(), {"layer": ["1", "4"]}),
        (metered(), {"layer": ["1", "4"], "fuse": "mean"}),
        (metered(), {"layer": "1", "flip": True}),
        (
            metered(),
            {"methods": {"eigen_cam": {}, "saliency": {"reduce": "positive"}, "smooth_grad": {"num_samples": 3}}},
        ),
        (metered(), {"chunk_size": 2}),
        (Forward(metered(), output_fn=lambda logits: logits.flip(1)), {}),
        (Forward(metered().float(), context=lambda: torch.autocast("cpu", torch.bfloat16)), {}),
        (Forward(Pair(), output_fn=lambda output: output["mine"]), {"layer": "body.4"}),
        (Forward(Pair(), output_fn=lambda output: output["mine"]), {"layer": ["body.1", "body.4"], "fuse": "max"}),
    ],
    ids=["layers", "fused", "flipped", "options", "chunks", "output_fn", "autocast", "two inputs", "all"],
)
def test_the_maps_of_the_random_head_are_made_as_the_explanation_was(model, options):
    is_pair = isinstance(model, Forward) and isinstance(model.model, Pair)
    inputs = make_call([IMAGES, {"scale": SCALE}], {}) if is_pair else IMAGES
    run = {"methods": ["eigen_cam", "grad_cam", "saliency"], "target": [3, 0, 1], **options}
    explanation = explain(model, inputs, **run)
    random = explain(randomized_head(model, inputs), inputs, **run)
    module = model.model if isinstance(model, Forward) else model
    found = measure_head_randomization(module, explanation)
    assert list(found) == list(explanation.attributions)
    for key, heatmaps in explanation.heatmaps().items():
        torch.testing.assert_close(found[key], rank_correlation(heatmaps, random.heatmaps()[key]), **SWAPS)
        assert not found[key].isnan().any()
        assert bool((found[key] > SAME).all()) is key.startswith("eigen_cam")


def test_a_copy_of_the_model_is_measured_as_the_model_itself():
    model = metered()
    explanation = explain(model, IMAGES, methods=METHODS, target=[3, 0, 1])
    expected = measure_head_randomization(model, explanation)
    found = measure_head_randomization(copy.deepcopy(model), explanation)
    for method, values in expected.items():
        torch.testing.assert_close(found[method], values, **SWAPS)
    found = measure_head_randomization(Forward(model), explanation)
    assert_same(found, expected)


def test_heatmaps_that_are_there_are_compared_and_no_others():
    model = metered()
    explanation = explain(model, IMAGES, methods=METHODS, target=[3, 0, 1])
    expected, maps = measure_head_randomization(model, explanation), explanation.heatmaps()
    found = measure_head_randomization(model, explanation, heatmaps={"saliency": maps["saliency"], "cam": maps["cam"]})
    assert list(found) == ["saliency", "cam"]
    for method, values in found.items():
        torch.testing.assert_close(values, expected[method], **SWAPS)
    with pytest.raises(ValueError, match=r"`heatmaps` of eigen_cam, cam, grad_cam, saliency, got 'mine'"):
        measure_head_randomization(model, explanation, heatmaps={"mine": maps["cam"]})


def test_a_layer_that_was_read_after_its_activation_is_read_so_again():
    class Functional(Disturbing):
        def forward(self, images):
            return self.linear(F.relu(self.norm(self.conv(images))).mean((2, 3)))

    model = Functional()
    explanation = explain(model, IMAGES, methods=["eigen_cam", "grad_cam"], target=1)
    assert explanation.layers == ("norm:activated",)
    found = measure_head_randomization(model, explanation)
    assert (found["eigen_cam"] > SAME).all()
    assert (found["grad_cam"] < 0.95).all()


def test_it_costs_an_explanation_of_named_layers_and_a_forward_of_one_image():
    model, sizes = metered(), SharedList()
    explanation = explain(model, IMAGES, methods=METHODS)
    model[0].register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    measure_head_randomization(model, explanation)
    assert sizes == [1, 3]
    explanation = explain(model, IMAGES, methods=METHODS, chunk_size=2)
    sizes.clear()
    measure_head_randomization(model, explanation)
    assert sizes == [1, 2, 1]


def test_a_blank_heatmap_is_like_nothing():
    model = metered()
    images = IMAGES.clone()
    images[1] = torch.nan
    found = measure_head_randomization(model, explain(model, images, methods=METHODS, target=1))
    for values in found.values():
        assert values.isnan().tolist() == [False, True, False]


def test_a_single_logit_has_a_random_head_too():
    model = metered(classes=1)
    explanation = explain(model, IMAGES, methods=METHODS, target=[0, 1, 1])
    found = measure_head_randomization(model, explanation)
    assert (found["eigen_cam"] > SAME).all()
    assert (found["cam"] < 0.95).all()


def test_what_cannot_be_compared_is_refused_by_its_name():
    model = metered()
    with pytest.raises(TypeError, match="`explanation` to be what `explain` returned, got Tensor"):
        measure_head_randomization(model, IMAGES)
    of_callable = explain(model, IMAGES, target=lambda logits: logits[:, 0])
    with pytest.raises(ValueError, match=r"`explanation` to be of classes.*callable target"):
        measure_head_randomization(model, of_callable)
