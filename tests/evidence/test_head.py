"""The layer that makes the logits: found however it is written; and other parameters in a module's place."""

import pytest
import torch
from networks import HEADS, Headed, called_later, metered
from states import assert_same, state_of
from torch import nn
from torchvision.models import get_model
from watching import SharedList

from lightning_saliency.data import make_call
from lightning_saliency.evidence import Forward, find_head, replace_parameters

IMAGES = torch.randn(3, 3, 10, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", "fc"),
        ("squeezenet1_1", "classifier.1"),
        ("densenet121", "classifier"),
        ("vit_b_32", "heads.head"),  # which has weights of its own beside its layers: the class token
    ],
)
def test_the_head_of_common_models_is_found(name, head, frozen):
    size = {"image_size": 64} if name == "vit_b_32" else {}
    model = get_model(name, weights=None, **size).requires_grad_(not frozen)
    assert find_head(model, torch.randn(2, 3, 64, 64)) == head


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(("forward", "head"), HEADS)
def test_the_head_is_what_makes_the_logits_however_it_is_written(forward, head, frozen):
    model = Headed(forward).requires_grad_(not frozen)
    before = state_of(model)
    assert find_head(model, IMAGES) == head
    assert_same(state_of(model), before)


def test_the_head_of_other_logits_is_found_by_output_fn_and_of_a_call_by_what_it_holds():
    boxes = Forward(Headed(called_later), output_fn=lambda output: output["boxes"])
    assert find_head(boxes, IMAGES) == "second"
    assert find_head(boxes, make_call([], {"images": IMAGES})) == "second"


def test_the_head_is_found_in_one_forward_of_one_image():
    model, sizes = metered(), SharedList()
    model[0].register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    assert find_head(model, IMAGES) == "8"
    assert sizes == [1]
    compiled = torch.compile(model, backend=lambda graph, inputs: pytest.fail("compiled"))
    assert find_head(compiled, IMAGES) == "8"


def test_a_model_without_weights_has_no_head():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(3)).double()
    with pytest.raises(ValueError, match="logits of Sequential to depend on a floating-point parameter of two dim"):
        find_head(model, IMAGES)


def test_parameters_are_replaced_by_name_in_a_shadow_and_those_of_the_model_stay():
    linear = nn.Linear(8, 4)
    weight, bias = linear.parameters()
    before = state_of(linear)
    zeros = {name: nn.Parameter(torch.zeros_like(value)) for name, value in linear.named_parameters()}
    with Forward(linear).undisturbed() as isolated:
        replace_parameters(isolated.model, zeros)
        assert isolated.model.weight is zeros["weight"]
        assert isolated.model.bias is zeros["bias"]
        assert (isolated.model(torch.ones(2, 8)) == 0).all()
        assert linear.weight is weight
        assert linear.bias is bias
        assert (linear(torch.ones(2, 8)) != 0).any()
    broken = {"weight": zeros["weight"], "bias": torch.zeros(4)}  # no parameter: refused when the other is in place
    with pytest.raises(TypeError, match="cannot assign"), Forward(linear).undisturbed() as isolated:
        replace_parameters(isolated.model, broken)
    assert linear.weight is weight
    assert linear.bias is bias
    assert_same(state_of(linear), before)
