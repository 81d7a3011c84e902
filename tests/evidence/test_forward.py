"""How a model is run: on any call and layout, on integer images that it converts; the inputs stay as they are."""

import copy
import dataclasses
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from networks import CNN_METHODS
from states import assert_alike, assert_all_alike, assert_same, state_of
from torch import nn
from torchvision.transforms.v2 import functional as transforms

from lightning_saliency.attribution import explain
from lightning_saliency.data import children, make_call, plain_call
from lightning_saliency.evidence import Forward, as_forward, find_target_layer
from lightning_saliency.metrics import measure_faithfulness
from lightning_saliency.models import GAPHead

IMAGES = torch.randn(4, 3, 10, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BYTES = torch.randint(0, 256, (4, 3, 10, 12), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
LABELS = [2, 0, 1, 2]
SOME = ["cam", "grad_cam", "saliency", "smooth_grad", "integrated_gradients", "ablation_cam", "occlusion"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 6, 2), nn.ReLU(), GAPHead(6, 3))


class Taking(nn.Module):
    """The network behind what takes its images out of the arguments."""

    def __init__(self, take):
        super().__init__()
        self.net, self.take = network(), take
        self.double()

    def forward(self, *args, **kwargs):
        return self.net(self.take(*args, **kwargs))


def plain(tree):
    parts = children(tree)
    return {key: plain(part) for key, part in parts.items()} if parts else tree


# calls of any kind


Pair = namedtuple("Pair", ["picture", "scale"])


@dataclass
class Batch:
    image: torch.Tensor
    info: dict


@dataclass(frozen=True)
class FrozenBatch:
    image: torch.Tensor


def popped(batch):
    batch.pop("id")
    return batch.pop("image") * batch["scale"]


def written_on(images, others):
    others.append(images.mul_(2))
    return others.pop().div_(2)


def cleared(batch):
    batch.info.clear()
    batch.image = batch.image.abs_().neg_()
    return batch.image


def named_only(*, pixel_values, names=()):
    assert len(names) == len(pixel_values)
    return pixel_values


SCALE = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)[:, None, None, None]
CALLS = {
    "a dict that is emptied": (popped, ({"id": torch.arange(4), "image": IMAGES, "scale": SCALE},), {}, IMAGES * SCALE),
    "written on in place": (written_on, (IMAGES, []), {}, IMAGES),
    "a dataclass": (cleared, (Batch(IMAGES, {"a": 1}),), {}, -IMAGES.abs()),
    "a frozen dataclass": (lambda batch: batch.image, (FrozenBatch(IMAGES),), {}, IMAGES),
    "a named tuple": (lambda pair: pair.picture * pair.scale, (Pair(IMAGES, SCALE),), {}, IMAGES * SCALE),
    "keywords": (named_only, (), {"pixel_values": IMAGES, "names": ["a", "b", "c", "d"]}, IMAGES),
    "a list": (lambda parts: parts[1] * parts[0], ([SCALE, IMAGES],), {}, IMAGES * SCALE),
    "two inputs": (lambda images, *, scale: images * scale, (IMAGES,), {"scale": SCALE}, IMAGES * SCALE),
    "nested": (lambda a, b: b["x"][0] - a["y"], ({"y": SCALE},), {"b": {"x": [IMAGES]}}, IMAGES - SCALE),
    "channels last": (
        lambda images: images.permute(0, 3, 1, 2), (IMAGES.permute(0, 2, 3, 1).contiguous(),), {}, IMAGES
    ),
}  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"chunk_size": 2}, {"flip": True}], ids=["whole", "chunks", "flipped"])
@pytest.mark.parametrize("kind", CALLS)
def test_every_method_explains_the_images_in_any_call_and_leaves_it_as_it_was(kind, options):
    take, args, kwargs, seen = CALLS[kind]
    before = copy.deepcopy(plain((args, kwargs)))
    methods = [key for key in SOME if key not in ("saliency", "smooth_grad", "integrated_gradients", "occlusion")]
    found = explain(Taking(take), (args, kwargs), methods=methods, target=LABELS, **options)
    expected = explain(network().double(), seen, methods=methods, target=LABELS, **options)
    assert found.layer == f"net.{expected.layer}"
    torch.testing.assert_close(found.logits, expected.logits)
    assert_all_alike(found.attributions, expected.attributions)
    assert_same(plain((args, kwargs)), before)
    assert found.images.shape == (4, 3, 10, 12)
    part = found[1:3]
    torch.testing.assert_close(Forward(Taking(take).eval())(part.call), part.logits)


@pytest.mark.parametrize("kind", CALLS)
def test_maps_of_the_input_are_those_of_the_images_in_the_call(kind):
    take, args, kwargs, _ = CALLS[kind]
    methods = {
        "saliency": {},
        "smooth_grad": {"num_samples": 3},
        "integrated_gradients": {"steps": 64},
        "occlusion": {},
    }
    model, call = Taking(take), make_call(args, kwargs)
    found = explain(model, call, methods=methods, target=LABELS)
    for row, label in enumerate(LABELS):
        leaf = IMAGES[row : row + 1].clone().requires_grad_()
        copied = call[row : row + 1].copied(leaf * 1)
        expected = torch.autograd.grad(model.eval()(*copied.args, **copied.kwargs)[0, label], leaf)[0]
        assert_alike(found.signed["saliency"][row : row + 1], expected)
    assert not any(maps.isnan().any() for maps in found.attributions.values())
    assert {maps.shape for maps in found.attributions.values()} == {(4, 1, 10, 12)}


def test_the_call_that_is_held_is_the_one_that_was_given():
    images = IMAGES.clone()
    explanation = explain(Taking(lambda images: images.zero_()), images, methods="saliency", target=1)
    assert torch.equal(images, IMAGES)
    assert torch.equal(explanation.images, IMAGES)


@pytest.mark.parametrize("given", [IMAGES[0], (IMAGES[:1], {}), ((IMAGES[:1],), {}), ([IMAGES[:1]], {})])
def test_one_image_and_a_call_in_parentheses_alone_are_taken(given):
    expected = explain(network().double(), IMAGES[:1])
    found = explain(network().double(), given)
    assert torch.equal(found.images, IMAGES[:1])
    assert_all_alike(found.attributions, expected.attributions)


# integer images that the model converts itself


def one_by_one(images):
    return torch.stack([image.double() / 255 for image in images])


def one_by_one_channels_last(images):
    return torch.stack([images[row].permute(2, 0, 1).to(torch.float64) for row in range(len(images))])


def converted_in_place(images):
    return images.double().div_(255).sub_(0.5)


MEAN = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)[:, None, None]
NHWC = BYTES.permute(0, 2, 3, 1).contiguous()
BYTE = BYTES.double()
CONVERSIONS = {
    # how, what is given, what it first makes of it, and what of that
    "divided": (lambda images: images / 255.0, BYTES, BYTE / 255, lambda x: x),
    "cast": (lambda images: images.double() / 255, BYTES, BYTE, lambda x: x / 255),
    "to": (lambda images: images.to(dtype=torch.float64), BYTES, BYTE, lambda x: x),
    "by keywords": (lambda images: torch.div(input=images, other=255.0), BYTES, BYTE / 255, lambda x: x),
    "normalized": (lambda images: images.double() / 255 - MEAN, BYTES, BYTE, lambda x: x / 255 - MEAN),
    "in place": (converted_in_place, BYTES, BYTE, lambda x: x / 255 - 0.5),
    "by torchvision": (
        lambda images: transforms.to_dtype(images, torch.float64, scale=True), BYTES, BYTE, lambda x: x / 255
    ),
    "each for itself": (one_by_one, BYTES, BYTE / 255, lambda x: x),
    "channels last": (lambda images: images.permute(0, 3, 1, 2).double(), NHWC, BYTE, lambda x: x),
    "channels last, moved later": (lambda images: images.double().permute(0, 3, 1, 2) / 9, NHWC, BYTE, lambda x: x / 9),
    "channels last, each for itself": (one_by_one_channels_last, NHWC, BYTE, lambda x: x),
    "cropped before": (lambda images: images[:, :, 1:-1].double(), BYTES, BYTE[:, :, 1:-1], lambda x: x),
    "in a dict": (lambda batch: batch.pop("image").double(), {"image": BYTES}, BYTE, lambda x: x),
}  # fmt: skip


@pytest.fixture(params=CONVERSIONS)
def converting(request):
    convert, given, inputs, rest = CONVERSIONS[request.param]
    return Taking(_in_float64(convert)), given, inputs, Taking(rest)


def _in_float64(convert):
    return lambda images: convert(images).double()  # a quotient of bytes is float32


@pytest.mark.parametrize("options", [{}, {"chunk_size": 2}, {"flip": True}], ids=["whole", "chunks", "flipped"])
def test_the_first_floating_point_map_that_a_model_makes_of_integer_images_is_explained(converting, options):
    model, given, inputs, rest = converting
    before = state_of(model)
    found = explain(model, ((given,), {}), methods=SOME, target=LABELS, **options)
    assert_same(state_of(model), before)
    torch.testing.assert_close(found.inputs.double(), inputs)
    expected = explain(rest, inputs, methods=SOME, target=LABELS, **options)
    assert torch.equal(found.images, BYTES)
    assert found.layer == expected.layer
    torch.testing.assert_close(found.logits, expected.logits)
    for method, maps in expected.attributions.items():
        # a quotient of bytes is float32: half of its digits are left
        tolerance = 1e-5 if found.inputs.dtype == torch.float64 else 1e-3
        top = float(maps.abs().max())
        torch.testing.assert_close(found.attributions[method] / top, maps / top, rtol=0, atol=tolerance)


def test_a_model_that_converts_its_images_is_measured_on_what_it_makes_of_them(converting):
    model, given, inputs, rest = converting
    found = explain(model, ((given,), {}), methods=["grad_cam", "saliency"], target=LABELS)
    expected = explain(rest, inputs, methods=["grad_cam", "saliency"], target=LABELS)
    maps = expected.heatmaps()
    measured, wanted = (
        measure_faithfulness(one, explanation, heatmaps=maps, steps=3)
        for one, explanation in ((model, found), (rest, expected))
    )
    for method, metrics in wanted.items():
        for metric, values in metrics.items():
            torch.testing.assert_close(measured[method][metric].double(), values, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_a_conversion_that_torch_does_not_show_is_an_error_that_says_what_to_explain():
    model = Taking(lambda images: torch.from_numpy(images.numpy().astype("float64")))
    with pytest.raises(ValueError, match=r"Taking to convert its torch.uint8 images .* Explain the submodule"):
        explain(model, ((BYTES,), {}), target=1)
    with pytest.raises(TypeError, match=r"to be floating point.*converts them itself pass `\(\(images,\), \{\}\)`"):
        explain(model, BYTES)


def test_integer_images_take_no_gradient_where_none_is_asked_for():
    model = Taking(lambda images: images.double() / 255)
    call = make_call((BYTES,), {})
    with Forward(model).undisturbed() as isolated:
        logits = isolated(call)
        assert not logits.requires_grad
        torch.testing.assert_close(isolated(call, BYTE), logits)
        torch.testing.assert_close(isolated(call, BYTE * 0), Taking(lambda x: x).eval()(BYTE * 0))
    assert find_target_layer(model, call).name == "net.4"


# the value itself


def test_a_forward_is_a_value_that_keeps_what_it_was_made_of():
    model = network().double()
    forward = Forward(model, output_fn=lambda output: output.flip(1))
    assert as_forward(forward) is forward
    assert as_forward(model) == Forward(model)
    torch.testing.assert_close(forward(plain_call(IMAGES)), model(IMAGES).flip(1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        forward.model = None
    compiled = torch.compile(model, backend=lambda graph, inputs: pytest.fail("compiled"))
    assert Forward(compiled).model is model
    assert explain(compiled, IMAGES).layer == "4"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"model": len}, "`model` to be a torch.nn.Module, got builtin_function_or_method"),
        ({"output_fn": 3}, "`output_fn` to be a function, a key of the model's output, or None, got 3"),
        ({"task": "multiclass"}, "`task` to be one of `TASKS`, got 'multiclass'"),
        (
            {"context": torch.no_grad()},
            "`context` to be a function that makes a context manager, got the context manager no_grad",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_by_its_name(arguments, says):
    with pytest.raises(TypeError, match=says):
        Forward(**{"model": network(), **arguments})


def test_images_are_brought_to_the_precision_of_the_model_and_a_call_is_not():
    half = Forward(network().bfloat16())
    assert half.call_of(IMAGES).images.dtype == torch.bfloat16
    assert half.on_device(plain_call(IMAGES)).images.dtype == torch.float64
    none = Forward(nn.Flatten())
    assert none.call_of(IMAGES).images is IMAGES


@pytest.mark.parametrize("method", CNN_METHODS)
def test_every_method_sees_the_other_inputs_of_its_image(method):
    model = Taking(lambda images, *, scale: images * scale)
    found = explain(model, make_call((IMAGES,), {"scale": SCALE}), methods=method, target=LABELS, layer="net.4")
    for row, label in enumerate(LABELS):
        alone = Taking(lambda images, row=row: images * SCALE[row])
        expected = explain(alone, IMAGES[row : row + 1], methods=method, target=label, layer="net.4")
        assert_alike(found.attributions[method][row : row + 1], expected.attributions[method])
