"""One pass: what it costs, what it reads, and that it leaves the model and the process as they were."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from networks import CNN_METHODS, EVERY_METHOD, Disturbing, metered
from states import assert_alike, assert_all_alike, assert_same, state_of
from torch import nn
from torch.utils.checkpoint import checkpoint
from watching import SharedList

from lightning_saliency.attribution import METHODS, explain
from lightning_saliency.evidence import Forward, Surroundings, find_target_layer

CAMS = ["grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "xgrad_cam", "eigen_cam"]
GRADIENTS = ["saliency", "input_x_gradient"]


PLAIN = [key for key in CNN_METHODS if METHODS[key].extra is None and key != "lrp"]  # which has a second backward
IMAGES = torch.randn(3, 3, 10, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("methods", "before", "after"),
    [
        (["cam"], (1, 0, 0), (1, 0, 0)),
        (["cam", "eigen_cam"], (1, 0, 0), (1, 0, 0)),
        (["grad_cam"], (1, 0, 0), (1, 1, 1)),
        ([*CAMS, "cam"], (1, 0, 0), (1, 1, 1)),
        (["saliency"], (1, 1, 1), (1, 1, 1)),
        (PLAIN, (1, 1, 1), (1, 1, 1)),
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_all_methods_share_one_forward_and_one_backward_that_goes_no_further_than_it_must(
    methods, before, after, frozen
):
    model = metered().requires_grad_(not frozen)
    explain(model, IMAGES, methods=methods, layer="4", target=1)
    assert tuple(model[2].counts.values()) == before
    assert tuple(model[5].counts.values()) == after


def test_no_gradient_of_a_parameter_is_computed():
    class WeightGradient(torch.autograd.Function):
        """Scales by a weight, and refuses to compute the weight's gradient."""

        @staticmethod
        def forward(ctx, tensor, weight):
            ctx.save_for_backward(weight)
            return tensor * weight

        @staticmethod
        def backward(ctx, grad):
            assert ctx.needs_input_grad[0]
            seen.append(ctx.needs_input_grad[1])
            return grad * ctx.saved_tensors[0], None

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, tensor):
            return WeightGradient.apply(tensor, self.weight)

    seen = []
    model = nn.Sequential(Scale(), metered(), Scale())
    kept = [torch.full_like(p, 7.0) for p in model.parameters()]
    for parameter, grad in zip(model.parameters(), kept, strict=True):
        parameter.grad = grad
    frozen = model[1][0].weight.requires_grad_(False)
    watched, hooked = [], []

    def watch(shadow):
        for parameter in shadow.module.parameters():
            if parameter.requires_grad:
                watched.append(parameter)
                parameter.register_hook(hooked.append)  # fires when a gradient of it is computed

    forward = Forward(model, surroundings=Surroundings(prepare=(watch,)))
    explain(forward, IMAGES, methods=CNN_METHODS, target=0, layer="1.4")
    assert seen
    assert len(watched) % (len(kept) - 1) == 0 < len(watched)
    assert not hooked
    assert all(parameter.grad is None for parameter in watched)
    for parameter, grad in zip(model.parameters(), kept, strict=True):
        assert parameter.grad is grad
        assert (grad == 7).all()
        assert parameter.requires_grad is (parameter is not frozen)


def test_the_layer_is_found_in_a_run_of_one_image():
    model = metered()
    seen = SharedList()
    model[0].register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    explain(model, IMAGES, methods=PLAIN, target=0)
    assert seen == [1, 3]
    seen.clear()
    explain(model, IMAGES, methods=PLAIN, target=0, layer=find_target_layer(model, IMAGES))
    assert seen == [1, 3]
    seen.clear()
    explain(model, IMAGES, methods=GRADIENTS, target=0)
    assert seen == [3]


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("train", [True, False])
def test_everything_is_left_as_it_was_also_when_the_model_raises(context, fails, train):
    model = Disturbing(fails)
    model.train(train)
    model.norm.training = not train  # a frozen batch norm, as users have it: one flag differs
    with context():
        before = state_of(model)
        for layer in ("act", None):
            with pytest.raises(RuntimeError, match="in the middle") if fails else nullcontext():
                explain(model, IMAGES, methods=CNN_METHODS, layer=layer, target=1)
            assert_same(state_of(model), before)
    assert model.moved.sum() == 0


def test_the_model_is_explained_in_eval_mode_whatever_its_mode():
    model = Disturbing()
    model.norm.running_mean += 0.3
    trained = explain(model.train(), IMAGES, methods=CNN_METHODS, target=1)
    evaluated = explain(model.train(False), IMAGES, methods=CNN_METHODS, target=1)
    assert_all_alike(trained.attributions, evaluated.attributions)
    model.dropout.p = 0.0
    assert_all_alike(trained.attributions, explain(model, IMAGES, methods=CNN_METHODS, target=1).attributions)


def test_the_hooks_of_a_user_stay_and_are_obeyed():
    model = metered()
    doubled = model[4].register_forward_hook(lambda module, args, output: 2 * output)
    found = explain(model, IMAGES, methods=["eigen_cam", "grad_cam"], layer="4", target=1).attributions
    assert list(model[4]._forward_hooks) == [doubled.id]
    doubled.remove()
    plain = explain(model, IMAGES, methods=["eigen_cam", "grad_cam"], layer="4", target=1).attributions
    assert_alike(found["eigen_cam"], 2 * plain["eigen_cam"])
    assert_alike(found["grad_cam"], 2 * plain["grad_cam"])


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode])
def test_every_context_gives_the_same_maps(context, frozen):
    expected = explain(metered(), IMAGES, methods=EVERY_METHOD, target=[0, 1, 2])
    model = metered().requires_grad_(not frozen)
    with context():
        images, labels = IMAGES.clone(), torch.tensor([0, 1, 2])  # made here: inference tensors, labels too
        for target in (labels, lambda logits: torch.stack([logits[i, i] for i in range(3)])):
            found = explain(model, images, methods=EVERY_METHOD, target=target)
            assert_all_alike(found.attributions, expected.attributions)
        predicted = explain(model, images, methods=EVERY_METHOD)
    assert_all_alike(predicted.attributions, explain(metered(), IMAGES, methods=EVERY_METHOD).attributions)
    for tensor in (found.logits, found.scores, *found.attributions.values()):
        assert not tensor.requires_grad


@pytest.mark.parametrize("methods", [CAMS, [*CAMS, "saliency"]])
@pytest.mark.parametrize("later", ["module", "function", "arithmetic"])
def test_a_named_layer_means_its_values_as_returned_whatever_happens_in_place_later(methods, later):
    class InPlace(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            torch.manual_seed(1)
            self.conv = nn.Conv2d(3, 6, 3)
            self.act = nn.ReLU(inplace=inplace)
            self.linear = nn.Linear(6, 4)
            self.inplace = inplace
            self.double()

        def forward(self, images):
            features = self.conv(images)
            if later == "module":
                features = self.act(features)
            elif later == "function":
                features = F.relu(features, inplace=self.inplace)
            elif self.inplace:
                features.mul_(features.detach() > 0)
            else:
                features = features * (features.detach() > 0)
            return self.linear(features.mean((2, 3)))

    expected = explain(InPlace(False), IMAGES, methods=methods, layer="conv", target=1).attributions
    found = explain(InPlace(True), IMAGES, methods=methods, layer="conv", target=1).attributions
    assert_all_alike(found, expected)
    A = InPlace(False).conv(IMAGES).detach()
    singular = torch.linalg.svdvals(A.flatten(2))[:, 0]  # of the signed map
    assert_alike(found["eigen_cam"].double().flatten(1).norm(dim=1), singular)


class Wrapped(nn.Module):
    """A body under some wrapping, then a head."""

    def __init__(self, wrap):
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.head = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 6 * 8, 4))
        self.wrap = wrap
        self.double()

    def forward(self, images):
        return self.head(self.wrap(self.body, images))


def under_no_grad(body, images):
    with torch.no_grad():
        return body(images)


def checkpointed(body, images):
    return checkpoint(body, images, use_reentrant=False)


@pytest.mark.parametrize("layer", ["body.4", "body.2", "body", None])
@pytest.mark.parametrize("methods", [["grad_cam", "eigen_cam"], ["grad_cam", "saliency"], ["saliency"]])
@pytest.mark.parametrize("wrap", [under_no_grad, checkpointed])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_body_under_no_grad_or_checkpointing_is_explained_as_one_without(wrap, methods, layer, frozen):
    expected = explain(Wrapped(lambda body, images: body(images)), IMAGES, methods=methods, layer=layer, target=1)
    model = Wrapped(wrap).requires_grad_(not frozen)
    found = explain(model, IMAGES, methods=methods, layer=layer, target=1)
    assert found.layer == expected.layer
    assert_all_alike(found.attributions, expected.attributions)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def cut(body, images):
    return body(images).detach()


def reentrant(body, images):
    return checkpoint(body, images, use_reentrant=True)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("wrap", [cut, reentrant])
@pytest.mark.parametrize("methods", [["grad_cam"], ["saliency"], ["grad_cam", "saliency"]])
def test_a_graph_that_the_model_cuts_is_an_error_that_says_what_cut_it(wrap, methods):
    model = Wrapped(wrap)
    source = "output of the layer 'body.2'" if "grad_cam" in methods else "input"
    says = rf"does not depend on the {source}.*use_reentrant=False"
    with pytest.raises((ValueError, RuntimeError), match=says if wrap is cut else "use_reentrant=False"):
        explain(model, IMAGES, methods=methods, layer="body.2", target=1)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_inference_mode_inside_the_model_is_no_way_for_a_gradient_but_fine_for_cam():
    def under_inference_mode(body, images):
        with torch.inference_mode():
            return body(images)

    class Pooled(Wrapped):
        def __init__(self):
            super().__init__(under_inference_mode)
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).double()

        def forward(self, images):
            return self.head(self.wrap(self.body, images).clone())

    model = Pooled()
    maps = explain(model, IMAGES, methods="cam", layer="body.4", target=1).attributions["cam"]
    model.wrap = lambda body, images: body(images)
    assert_alike(maps, explain(model, IMAGES, methods="cam", layer="body.4", target=1).attributions["cam"])


@pytest.mark.parametrize("compiled", ["function", "method", "submodule"])
@pytest.mark.parametrize("warm", [False, True])
def test_a_compiled_model_is_explained_without_another_compilation(compiled, warm):
    torch._dynamo.reset()
    graphs = SharedList()

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    expected = explain(Wrapped(lambda body, images: body(images)), IMAGES, methods={*CNN_METHODS} - {"cam"}, target=1)
    model = Wrapped(lambda body, images: body(images))
    if compiled == "function":
        model = torch.compile(model, backend=backend)
    elif compiled == "method":
        model.compile(backend=backend)
    else:
        model.body = torch.compile(model.body, backend=backend)
    if warm:
        with torch.no_grad():
            model.eval()(IMAGES)
        assert graphs
    count = len(graphs)
    found = explain(model, IMAGES, methods={*CNN_METHODS} - {"cam"}, target=1)
    assert_all_alike(found.attributions, {key: expected.attributions[key] for key in found.attributions})
    named = explain(model, IMAGES, layer=expected.layer, target=1)
    assert_alike(named.attributions["grad_cam"], expected.attributions["grad_cam"])
    assert found.layer == named.layer == expected.layer
    assert len(graphs) == count
    if warm:
        with torch.no_grad():
            model(IMAGES)
        assert len(graphs) == count  # nor afterwards


def test_undisturbed_nests_and_ends_the_modes_of_its_caller_only_inside():
    model = metered().train()
    forward = Forward(model)
    before = state_of(model)
    with torch.inference_mode():
        with forward.undisturbed() as outer, forward.undisturbed() as beside, outer.undisturbed() as within:
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_grad_enabled()
            for isolated in (outer, beside, within):
                assert not any(module.training for module in isolated.model.modules())
            assert all(module.training for module in model.modules())
        assert torch.is_inference_mode_enabled()
    assert model.training
    assert_same(state_of(model), before)


def test_float16_gradients_neither_underflow_nor_let_one_image_take_the_scale_from_the_others():
    class Steep(nn.Module):
        """∂score/∂map is 1e-8, too small for float16, and 100 for a bright image, too large once it is scaled."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 1, bias=False)
            nn.init.constant_(self.conv.weight, 1.0)

        def forward(self, images):
            root = torch.where(images.detach().amax((1, 2, 3), keepdim=True) > 5, 10.0, 1e-4).half()
            return (self.conv(images) * root * root).sum((2, 3))

    images = torch.rand(3, 1, 4, 4)
    images[1] += 6
    model, both = Steep().half(), ["grad_cam", "saliency"]
    together = explain(model, images, methods=both, layer="conv", target=0).attributions
    for image in range(3):  # exact: each value of this model's map is one product
        alone = explain(model, images[image][None], methods=both, layer="conv", target=0).attributions
        for method, raw in together.items():
            assert torch.equal(raw[image], alone[method][0]), method
    slope = torch.tensor([1e-8, 100.0, 1e-8])[:, None, None, None]
    torch.testing.assert_close(together["saliency"], slope.expand(3, 1, 4, 4), rtol=1e-2, atol=0)
    torch.testing.assert_close(together["grad_cam"], images.half().float() * slope, rtol=1e-2, atol=0)
