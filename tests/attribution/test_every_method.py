"""What holds for every method: any mode, model and target, nothing touched, no image changes another's map."""

import warnings
from contextlib import nullcontext

import pytest
import torch
from closed_forms import (
    loops_ablation_cam,
    relu,
    score,
    weighted,
)
from networks import CNN_METHODS, EVERY_METHOD, gap_net
from states import assert_alike, assert_all_alike, assert_same, state_of
from torch import nn

from lightning_saliency.attribution import METHODS, blank_reasons, explain
from lightning_saliency.models import GAPHead

LABELS = [2, 0, 1]
IMAGES = torch.randn(3, 2, 10, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
FURTHER = [key for key, method in METHODS.items() if method.extra is not None]


class Fails(torch.autograd.Function):
    """The identity, whose backward raises when it is told to."""

    @staticmethod
    def forward(ctx, tensor, after):
        ctx.after = after
        return tensor.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.after["backward"] -= 1
        if ctx.after["backward"] == 0:
            raise RuntimeError("in backward")
        return grad, None


class Failing(nn.Module):
    def __init__(self, **after):
        super().__init__()
        self.net, self.after = gap_net(), after

    def forward(self, images):
        self.after["forward"] -= 1
        images = self.net[:5](images)
        if self.after["forward"] == 0:
            raise RuntimeError("in forward")
        return self.net[5:](Fails.apply(images, self.after))


@pytest.mark.parametrize("method", FURTHER)
@pytest.mark.parametrize("fails", [{"forward": 0}, {"forward": 1}, {"forward": 2}, {"forward": 3}, {"backward": 1}])
def test_the_model_is_left_as_it_was_also_after_an_error_in_the_middle(method, fails):
    model = Failing(**({"forward": 0, "backward": 0} | fails)).train()
    model.net[1].eval()
    model.net[0].weight.requires_grad_(False)
    model.net[2].register_forward_hook(lambda module, args, output: None)
    before, images = state_of(model), IMAGES.clone()
    never = fails == {"forward": 0} or ("backward" in fails and METHODS[method].extra == "perturbed")
    never |= fails == {"forward": 3} and METHODS[method].extra == "rectified"  # which has one pass beyond the first
    with nullcontext() if never else pytest.raises(RuntimeError, match=r"(?m)(^|: )in (forward|backward)(\.|$)"):
        explain(model, images, methods=method, layer="net.4")
    assert_same(state_of(model), before)
    assert torch.equal(images, IMAGES)
    model.after.update(forward=0, backward=0)
    again = explain(model, images, methods=method, layer="net.4").attributions[method]
    assert_alike(again, explain(gap_net(), IMAGES, methods=method, layer="4").attributions[method])


@pytest.mark.parametrize("method", FURTHER)
def test_what_else_is_in_the_batch_does_not_show(method):
    whole = explain(gap_net(), IMAGES, methods=method, target=LABELS, layer="5")
    for row, label in enumerate(LABELS):
        alone = explain(gap_net(), IMAGES[row : row + 1], methods=method, target=label, layer="5")
        assert_alike(alone.attributions[method], whole.attributions[method][row : row + 1])
    for chunk_size in (1, 2):
        parts = explain(gap_net(), IMAGES, methods=method, target=LABELS, layer="5", chunk_size=chunk_size)
        assert_alike(parts.attributions[method], whole.attributions[method])
        assert_all_alike(parts.signed, whole.signed)
        assert_all_alike(parts.notes, whole.notes)


def callable_target(logits):
    return logits[torch.arange(len(logits)), torch.tensor(LABELS)]  # of each place in the batch another


@pytest.mark.parametrize("method", CNN_METHODS)
def test_no_method_makes_its_tensors_on_the_default_device(method):
    model = gap_net()
    expected = explain(model, IMAGES, methods=method, layer="5").attributions
    with torch.device("meta"):  # on which nothing can be computed
        found = explain(model, IMAGES, methods=method, layer="5").attributions
    assert_all_alike(found, expected)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode])
def test_every_method_works_on_every_model_in_every_mode_for_every_target(frozen, train, context):
    expected = explain(gap_net().eval(), IMAGES, methods=EVERY_METHOD, target=LABELS)
    predicted = explain(gap_net().eval(), IMAGES, methods=EVERY_METHOD, target=expected.predictions)
    one = explain(gap_net().eval(), IMAGES, methods=EVERY_METHOD, target=1)
    model = gap_net().train(train).requires_grad_(not frozen)
    before = state_of(model)
    with context():
        images = IMAGES.clone()  # in inference mode an inference tensor
        for target, there in (
            (LABELS, expected), (torch.tensor(LABELS), expected), (callable_target, expected), (None, predicted),
            (1, one),
        ):  # fmt: skip
            found = explain(model, images, methods=EVERY_METHOD, target=target)
            assert_all_alike(found.attributions, there.attributions)
            assert_all_alike(found.signed, there.signed)
    assert_same(state_of(model), before)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("context", [nullcontext, torch.inference_mode])
def test_every_method_works_on_a_single_logit_whose_sign_the_class_turns(frozen, context):
    model = gap_net(1).requires_grad_(not frozen)
    with context():
        images = IMAGES.clone()
        found = {label: explain(model, images, methods=EVERY_METHOD, target=label) for label in (0, 1)}
        mixed = explain(model, images, methods=EVERY_METHOD, target=[1, 0, 1])
        called = explain(model, images, methods=EVERY_METHOD, target=lambda logits: -logits[:, 0])
    for method, maps in mixed.attributions.items():
        assert_alike(maps, torch.stack([found[label].attributions[method][row] for row, label in enumerate([1, 0, 1])]))
    assert_all_alike(called.attributions, found[0].attributions)
    for method in ("saliency", "input_x_gradient", "smooth_grad", "integrated_gradients"):
        assert_alike(found[0].signed[method], -found[1].signed[method])
    for method in ("cam", "occlusion"):
        assert_alike(found[0].attributions[method], -found[1].attributions[method])
    # what a channel does against class 1 it does for class 0
    A = model.eval()[:6](IMAGES).detach()
    for row, image in enumerate(IMAGES):
        expected = loops_ablation_cam(model, 5, image, 0)
        torch.testing.assert_close(found[1].attributions["ablation_cam"][row, 0].double(), expected, rtol=0, atol=1e-6)
        weights = []
        for k in range(5):
            without = A[row].clone()
            without[k] = 0
            weights.append(float((model[6:](without[None]) - model[6:](A[row : row + 1])).detach()))
        against = relu(weighted(A[row], weights)) / abs(score(model, image, 0))
        torch.testing.assert_close(found[0].attributions["ablation_cam"][row, 0].double(), against, rtol=0, atol=1e-6)


def test_an_image_without_a_score_has_no_map_by_any_method():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.ReLU()]
    model = nn.Sequential(*body, GAPHead(4, 3)).eval()
    images = torch.randn(2, 3, 9, 9)
    images[1, 0, 4, 4] = torch.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # integrated gradients say that they are not complete
        found = explain(model, images, methods=CNN_METHODS).attributions
    blanks = {key: blank_reasons(raw) for key, raw in found.items()}
    assert all(reasons == [None, "not finite"] for reasons in blanks.values()), blanks
