"""The functional face: precisions, chunks, batches, layouts, errors, and memory."""

import gc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import CNN_METHODS, EVERY_METHOD
from states import assert_alike, assert_all_alike
from torch import nn
from watching import SharedList, SharedSet

from lightning_saliency.attribution import METHODS, Explanation, blank_reasons, explain
from lightning_saliency.evidence import Forward, find_target_layer
from lightning_saliency.models import GAPHead

PLAIN = [key for key in CNN_METHODS if METHODS[key].extra is None and key != "lrp"]  # which has a second backward


def network(classes=4):
    """In float64, by which what is the same does not depend on the machine."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(inplace=True),
        GAPHead(8, classes),
    ).double()


IMAGES = torch.randn(5, 3, 14, 18, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_an_explanation_holds_what_was_explained():
    model, labels = network(), torch.tensor([3, 0, 1, 2, 2])
    found = explain(model, IMAGES, methods=CNN_METHODS, target=labels)
    logits = model.eval()(IMAGES).detach()
    assert isinstance(found, Explanation)
    assert torch.equal(found.images, IMAGES)
    torch.testing.assert_close(found.logits, logits)
    torch.testing.assert_close(found.scores, logits[range(5), labels])
    assert torch.equal(found.classes, labels)
    assert torch.equal(found.predictions, logits.argmax(1))
    torch.testing.assert_close(found.probabilities, logits.softmax(1))
    assert found.layer == "5"
    assert list(found.attributions) == CNN_METHODS
    for method, raw in found.attributions.items():
        at_input = METHODS[method].reduce is not None or method in ("occlusion", "lrp")
        assert raw.shape == ((5, 1, 14, 18) if at_input else (5, 1, 4, 6)), method
        assert raw.dtype == torch.float32
    heatmaps = found.heatmaps()
    for method, heatmap in heatmaps.items():
        assert heatmap.shape == (5, 1, 14, 18), method
        assert heatmap.dtype == torch.float32
        for image, reason in zip(heatmap, blank_reasons(found.attributions[method]), strict=True):
            assert (image.min() >= 0) & (image.max() == (0 if reason else 1)), method
    assert found.heatmaps(size=(7, 31))["cam"].shape == (5, 1, 7, 31)
    shared = found.heatmaps(normalize="shared")["cam"].amax((1, 2, 3))
    assert shared.max() == 1 > shared.min()


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_the_maps_of_several_classes_are_each_what_cam_gives_for_it(chunk_size):
    model = network()
    found = explain(model, IMAGES, methods=["cam", "saliency"], chunk_size=chunk_size)
    maps = found.class_maps()
    assert maps.shape == (5, 4, 4, 6)
    for label in range(4):
        one = explain(model, IMAGES, methods="cam", target=label).attributions["cam"]
        assert_alike(maps[:, label, None], one)
    classes = found.logits.topk(2).indices
    assert_alike(found.class_maps(classes), torch.stack([m[c] for m, c in zip(maps, classes, strict=True)]))
    assert_alike(found.class_maps(classes)[:, :1], found.attributions["cam"])
    with pytest.raises(ValueError, match="Expected `cam` among the methods"):
        explain(model, IMAGES, methods="grad_cam").class_maps()


def test_several_labels_an_image_have_each_its_own_probability():
    found = explain(network(), IMAGES, task="multilabel", chunk_size=2)
    torch.testing.assert_close(found.probabilities, found.logits.sigmoid())
    assert not torch.allclose(found.probabilities.sum(1), torch.ones(5, dtype=torch.float64), atol=0.1)
    binary = explain(network(1), IMAGES, task="multilabel")
    torch.testing.assert_close(binary.probabilities.sum(1), torch.ones(5, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"`task` to be one of multiclass, ordinal, .*, got 'binary'"):
        explain(network(), IMAGES, task="binary")


def test_a_binary_model_has_a_map_of_each_class():
    model = network(1)
    maps = explain(model, IMAGES, methods="cam").class_maps()
    assert maps.shape == (5, 2, 4, 6)
    for label in (0, 1):
        one = explain(model, IMAGES, methods="cam", target=label).attributions["cam"]
        assert_alike(maps[:, label, None], one)


def test_a_part_of_an_explanation_is_that_of_its_images():
    whole = explain(network(), IMAGES, methods=["cam", "saliency"], target=[3, 0, 1, 2, 2])
    part = whole[1:3]
    alone = explain(network(), IMAGES[1:3], methods=["cam", "saliency"], target=[0, 1])
    assert_all_alike(part.attributions, alone.attributions)
    assert_all_alike(part.signed, alone.signed)
    assert_alike(part.class_maps(), alone.class_maps())
    assert torch.equal(part.classes, alone.classes)
    assert torch.equal(part.images, alone.images)
    assert torch.equal(part.inputs, alone.inputs)
    assert len(part) == len(part.call) == 2
    assert part.layer == alone.layer == "5"
    for index, row in ((2, 2), (-1, 4), (np.int64(0), 0)):
        assert_all_alike(whole[index].attributions, whole[row : row + 1].attributions)
        assert len(whole[index]) == 1
    assert [int(one.classes) for one in whole] == [3, 0, 1, 2, 2]
    for wrong in (5, -6):
        with pytest.raises(IndexError, match=rf"below 5, got {wrong}"):
            whole[wrong]
    for wrong in (True, 1.0, [1], "a"):
        with pytest.raises(TypeError, match=r"the index of an image or a slice of them, such as \[2\] or \[2:4\], got"):
            whole[wrong]


def test_the_maps_of_several_classes_take_one_forward_and_no_graph():
    model, seen = network(), SharedList()
    model[6].register_forward_hook(lambda module, args, output: seen.append((len(args[0]), output.requires_grad)))
    explain(model, IMAGES, methods="cam", layer="5").class_maps()
    assert seen == [(5, False)]


def test_by_default_grad_cam_of_the_predicted_class_is_shown():
    model = network()
    found = explain(model, IMAGES)
    assert list(found.attributions) == ["grad_cam"]
    assert torch.equal(found.classes, found.logits.argmax(1))
    assert_all_alike(found.attributions, explain(model, IMAGES, target=found.predictions).attributions)
    assert explain(model, IMAGES, target=lambda logits: logits.sum(1)).classes is None


@pytest.mark.parametrize("method", CNN_METHODS)
def test_a_method_alone_gives_what_it_gives_among_all(method):
    together = explain(network(), IMAGES, methods=CNN_METHODS).attributions[method]
    assert_alike(explain(network(), IMAGES, methods=method).attributions[method], together)


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 100])
@pytest.mark.parametrize("target", [None, 2, [3, 0, 1, 2, 2], lambda logits: logits[:, 1] - logits[:, 0]])
def test_the_size_of_the_chunks_does_not_show(chunk_size, target):
    sizes = SharedList()
    model = network()
    model[0].register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    whole = explain(network(), IMAGES, methods=EVERY_METHOD, target=target, layer="5")
    explain(model, IMAGES, methods=PLAIN, target=target, layer="5", chunk_size=chunk_size)
    assert max(sizes) == min(chunk_size, 5)
    assert sum(sizes) == 5
    parts = explain(model, IMAGES, methods=EVERY_METHOD, target=target, layer="5", chunk_size=chunk_size)
    assert max(sizes) <= min(chunk_size, 32)  # nor do further passes, whose copies of an image may be more than a batch
    assert_all_alike(parts.attributions, whole.attributions)
    torch.testing.assert_close(parts.logits, whole.logits)
    torch.testing.assert_close(parts.scores, whole.scores)
    assert torch.equal(parts.images, whole.images)
    assert parts.classes is None if whole.classes is None else torch.equal(parts.classes, whole.classes)


def test_a_batch_gives_each_image_what_it_gets_alone():
    model = network().train()
    batch = explain(model, IMAGES, methods=CNN_METHODS, target=[3, 0, 1, 2, 2])
    for image, label in enumerate([3, 0, 1, 2, 2]):
        alone = explain(model, IMAGES[image : image + 1], methods=CNN_METHODS, target=label)
        assert_all_alike(alone.attributions, {key: raw[image : image + 1] for key, raw in batch.attributions.items()})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 60000.0])
def test_a_broken_image_changes_no_other_map(value, dtype):
    images = IMAGES.clone()
    images[1] = value
    model = network().to(dtype)
    whole = explain(model, IMAGES, methods=CNN_METHODS, target=1)
    broken = explain(model, images, methods=CNN_METHODS, target=1)
    others = [0, 2, 3, 4]
    for method, raw in broken.attributions.items():
        # to the last bit: the same computation, in which no image meets another
        assert torch.equal(raw[others], whole.attributions[method][others]), method
    for normalize in ("max", "minmax", "shared"):
        for method, heatmap in broken.heatmaps(normalize=normalize).items():
            assert heatmap.isfinite().all(), method
            if normalize != "shared":
                assert torch.equal(heatmap[others], whole.heatmaps(normalize=normalize)[method][others]), method
    if value != 60000.0:
        assert [blank_reasons(broken.attributions[method])[1] for method in ("cam", "grad_cam", "eigen_cam")] == [
            "not finite"
        ] * 3


def assert_correlated(found, expected, least):
    """Maps of the layer, of the input, and of differences of scores: each with its own least correlation.

    By rounding, a ReLU or a maximum tips over, which changes a pixel's gradient for good; and differences of scores
    that are nearly equal keep few of the digits of half precision.
    """
    for method, raw in found.items():
        kind = "scores" if METHODS[method].extra == "perturbed" else "input" if METHODS[method].reduce else "layer"
        correlation = torch.corrcoef(torch.stack([raw.flatten(), expected[method].flatten()]))[0, 1]
        assert correlation > least[kind], method


@pytest.mark.parametrize(
    ("dtype", "least"),
    [
        (torch.float32, {"layer": 0.999999, "input": 0.999, "scores": 0.9999}),
        (torch.float16, {"layer": 0.999, "input": 0.99, "scores": 0.95}),
        (torch.bfloat16, {"layer": 0.99, "input": 0.95, "scores": 0.8}),
    ],
)
def test_weights_of_every_precision_give_float32_maps_alike(dtype, least):
    expected = explain(network(), IMAGES, methods=CNN_METHODS, target=1)
    found = explain(network().to(dtype), IMAGES, methods=CNN_METHODS, target=1)
    assert expected.logits.dtype == torch.float64
    assert found.logits.dtype == torch.float32
    assert {raw.dtype for raw in (*found.attributions.values(), *expected.attributions.values())} == {torch.float32}
    assert_correlated(found.attributions, expected.attributions, least)


def test_the_forward_runs_in_the_context_that_is_asked_for():
    model, dtypes = network().float(), SharedSet()
    model[4].register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))
    expected = explain(network(), IMAGES, methods=CNN_METHODS, target=1).attributions
    forward = Forward(model, context=lambda: torch.autocast("cpu", torch.bfloat16))
    found = explain(forward, IMAGES, methods=CNN_METHODS, target=1)
    assert dtypes == {torch.bfloat16}
    assert not torch.is_autocast_enabled("cpu")
    assert found.logits.dtype == torch.float32
    assert_correlated(found.attributions, expected, {"layer": 0.98, "input": 0.95, "scores": 0.8})


def test_the_logits_are_taken_where_output_fn_says():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, images):
            return {"logits": images.mean((2, 3)), "mine": self.net(images)}

    found = explain(Forward(Two(), output_fn=lambda output: output["mine"]), IMAGES, methods=CNN_METHODS)
    expected = explain(network(), IMAGES, methods=CNN_METHODS)
    assert found.layer == f"net.{expected.layer}"
    assert_all_alike(found.attributions, expected.attributions)


def test_a_model_that_squeezes_its_single_logit_is_binary_for_one_image_too():
    class Squeezed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network(1)

        def forward(self, images):
            return self.net(images).squeeze()

    for count in (1, 3):
        found = explain(Squeezed(), IMAGES[:count], methods=CNN_METHODS, target=0)
        assert_all_alike(
            found.attributions, explain(network(1), IMAGES[:count], methods=CNN_METHODS, target=0).attributions
        )
        assert found.probabilities.shape == (count, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"images": IMAGES[0, 0]}, ValueError, r"`images` to be \(N, C, H, W\) or \(C, H, W\), got shape \(14, 18\)"),
        ({"images": IMAGES[:0]}, ValueError, r"`images` to be \(N, C, H, W\) .*, got shape \(0, 3, 14, 18\)"),
        ({"images": IMAGES.byte()}, TypeError, r"`images` to be floating point, .* got torch.uint8"),
        ({"images": IMAGES.numpy()}, ValueError, r"an array .* of uint8 .*, got \(5, 3, 14, 18\) .*torch\.from_numpy"),
        ({"images": 3}, TypeError, r"`images` to be a tensor \(N, C, H, W\), .* got 3"),
        ({"model": lambda images: images}, TypeError, r"`model` to be a torch.nn.Module, got function"),
        ({"chunk_size": 0}, ValueError, r"`chunk_size` to be a positive int, got 0"),
        ({"chunk_size": 1.5}, TypeError, r"`chunk_size` to be a positive int, got 1.5"),
        ({"methods": "grad_camm"}, ValueError, r"`methods` out of .*'grad_camm'\. Did you mean 'grad_cam'\?"),
        ({"target": 4}, ValueError, r"`target` to be below the model's 4 classes \(0 to 3\), got 4"),
        ({"target": [0, 1]}, ValueError, r"each of the 5 images, shape \(5,\), got shape \(2,\)"),
        ({"target": lambda logits: logits}, ValueError, r"callable `target` .* shape \(5,\), got shape \(5, 4\)"),
        ({"target": lambda logits: logits.argmax(1)}, ValueError, r"explained score does not depend on the output"),
        ({"layer": "7"}, ValueError, r"`layer` to name a module of Sequential, got '7'"),
        (
            {"model": Forward(network(), output_fn=lambda output: output[None])},
            ValueError,
            r"`output_fn` to return logits of shape \(1, classes\)",
        ),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(arguments, error, says):
    arguments = {"model": network(), "images": IMAGES, **arguments}
    with pytest.raises(error, match=says):
        explain(arguments.pop("model"), arguments.pop("images"), **arguments)


@pytest.mark.filterwarnings("ignore:The integrated gradients")
@pytest.mark.parametrize("raises", [False, True])
def test_memory_stays_flat_over_many_calls(raises):
    model, images = network(), IMAGES[:3, :, :10, :10]
    methods = EVERY_METHOD | {"integrated_gradients": {"steps": 2}}

    def call():
        if raises:
            with pytest.raises(ValueError, match="below the model's 4 classes"):
                explain(model, images, methods=methods, target=9)
        else:
            explain(model, images, methods=methods, chunk_size=2).heatmaps()

    def census():
        gc.collect()
        objects = gc.get_objects()
        return len(objects), sum(type(thing) is torch.Tensor for thing in objects)

    for _ in range(3):
        call()
    before = census()
    for _ in range(200):
        call()
    after = census()
    assert after[1] == before[1]
    assert after[0] - before[0] < 50  # far less than one a call


def test_no_graph_is_kept_and_the_images_of_the_caller_get_no_gradient():
    model, images = network(), IMAGES.clone().requires_grad_()
    found = explain(model, images, methods=CNN_METHODS, target=lambda logits: logits[:, 0])
    for tensor in (found.images, found.logits, found.scores, *found.attributions.values()):
        assert not tensor.requires_grad
    assert images.grad is None
    assert images.requires_grad
    assert torch.equal(images, IMAGES)


def test_the_input_of_a_model_that_writes_on_it_stays_as_it_was():
    class Normalising(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, images):
            return self.net(images.sub_(0.5).div_(2))

    images = IMAGES.clone()
    for methods in (["grad_cam"], ["saliency", "input_x_gradient"], CNN_METHODS):
        found = explain(Normalising(), images, methods=methods, target=1).attributions
        assert torch.equal(images, IMAGES)
    inner = explain(network(), (IMAGES - 0.5) / 2, methods=CNN_METHODS, target=1).attributions
    assert_alike(found["grad_cam"], inner["grad_cam"])
    assert_alike(found["saliency"], inner["saliency"] / 2)  # of the pixel as it was given


def test_the_layer_found_once_serves_later_calls():
    model = network()
    layer = find_target_layer(model, IMAGES)
    assert layer.name == explain(model, IMAGES, layer=layer).layer == explain(model, IMAGES).layer


def test_methods_that_read_the_same_rectified_pass_share_it():
    model, forwards = network(), SharedList()
    model[6].register_forward_hook(lambda *_: forwards.append(1))
    explain(model, IMAGES, methods=["guided_backprop", "guided_grad_cam", "deconvnet"], layer="5")
    assert len(forwards) == 3  # the plain one, the guided one, the deconvnet's


class Views(nn.Module):
    """Flattens by `view`, as many a network does: it cannot take what a convolution returns channels last."""

    def __init__(self, layouts):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.pool, self.linear = nn.Conv2d(3, 6, 3, padding=1), nn.AdaptiveMaxPool2d(4), nn.Linear(96, 5)
        self.note = lambda images: layouts.append(images.is_contiguous())

    def forward(self, images):
        self.note(images)
        return self.linear(self.pool(F.relu(self.conv(images))).view(len(images), -1))


@pytest.mark.parametrize(
    ("count", "side", "options", "as_they_lie"),
    [
        (3, 8, {}, [True]),
        (2, 224, {}, [True]),
        (3, 224, {}, [False, True]),  # and once more, since this model cannot take it
        (3, 224, {"chunk_size": 1}, [True, True, True]),
        (4, 280, {"chunk_size": 2}, [False, True, True]),
        (1, 70, {}, [True]),
        (1, 70, {"methods": "ablation_cam"}, [False, True, True]),  # the copies of one image are many
        (1, 70, {"methods": "ablation_cam", "chunk_size": 1}, [True] * 7),
    ],
)
def test_many_pixels_go_through_a_model_channels_last_if_it_can_take_that(count, side, options, as_they_lie):
    layouts = SharedList()
    explain(Views(layouts), torch.randn(count, 3, side, side), layer="conv", progress=False, **options)
    assert layouts == as_they_lie


def test_a_model_that_cannot_take_images_channels_last_is_remembered():
    layouts, images = SharedList(), torch.randn(3, 3, 224, 224)
    model = Views(layouts)
    found = explain(model, images, methods=["grad_cam", "saliency"], layer="conv")
    again = explain(model, images, methods=["grad_cam", "saliency"], layer="conv")
    assert layouts == [False, True, True]
    for method, maps in found.attributions.items():
        assert torch.equal(maps, again.attributions[method])  # the same computation
    assert all(maps.is_contiguous() for maps in found.signed.values())


def test_a_layout_that_is_asked_for_is_kept():
    layouts, images = SharedList(), torch.randn(3, 3, 224, 224)
    explain(Forward(Views(layouts), memory_format=torch.contiguous_format), images, layer="conv")
    explain(Forward(nn.Sequential(Views(layouts)), memory_format=torch.contiguous_format), images[:1], layer="0.conv")
    assert layouts == [True, True]
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        explain(Forward(Views(layouts), memory_format=torch.channels_last), images[:1], layer="conv")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_layout_changes_maps_by_rounding_alone(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    ).to(dtype)  # fmt: skip
    images, methods = torch.randn(3, 3, 224, 224), ["cam", "grad_cam", "grad_cam_plus_plus", "saliency"]
    found = explain(model, images, methods=methods, target=0).heatmaps()
    usual = explain(Forward(model, memory_format=torch.contiguous_format), images, methods=methods, target=0).heatmaps()
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 5e-2}[dtype]
    for method, maps in usual.items():
        differs = ((found[method] - maps).abs() > tolerance).float().mean()
        # by rounding, a ReLU or a maximum tips over now and then: that changes a pixel's gradient for good
        assert differs <= (0.05 if method == "saliency" else 0), method


def test_a_models_own_fault_is_the_cause_of_the_error_and_not_remembered():
    class Fails(Views):
        fails = True

        def forward(self, images):
            self.note(images)
            if self.fails:
                raise RuntimeError("of its own")
            return self.linear(self.pool(F.relu(self.conv(images))).flatten(1))

    layouts, images = SharedList(), torch.randn(3, 3, 224, 224)
    model = Fails(layouts)
    said = r"^The model failed on images of shape \(3, 3, 224, 224\)\. RuntimeError: of its own\. .* inside Fails"
    with pytest.raises(RuntimeError, match=said) as caught:
        explain(model, images, methods="saliency")
    assert str(caught.value.__cause__) == "of its own"
    assert caught.value.__cause__.__context__ is None
    layouts.clear()
    model.fails = False
    explain(model, images, methods="saliency")
    assert layouts == [False]


@pytest.mark.parametrize(
    ("methods", "target", "options", "sizes"),
    [
        ("saliency", None, {}, [3, 3, 3]),
        (["grad_cam", "saliency"], [0, 1, 2] * 3, {}, [3, 3, 3]),
        ("saliency", None, {"chunk_size": 2}, [2, 2, 2, 2, 1]),
        (["cam", "grad_cam"], None, {}, [3, 3, 3]),
        ("saliency", lambda logits: logits[:, 0] * torch.arange(len(logits)), {}, [9]),  # it may see them all together
    ],
)
def test_on_a_cpu_images_go_through_in_even_parts_that_fit_its_caches(methods, target, options, sizes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(*model, nn.Linear(6, 3)).double()
    images = torch.randn(9, 3, 317, 317, dtype=torch.float64)  # of which four are as many pixels as eight of 224
    seen = SharedList()
    asked = {"methods": methods, "layer": "1"}
    hook = model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    parts = explain(model, images, target=target, **asked, **options)
    assert seen == sizes
    hook.remove()
    if callable(target):
        return
    for row in (0, 8):
        alone = explain(model, images[row : row + 1], target=parts.classes[row : row + 1], **asked)
        assert_all_alike({key: maps[row : row + 1] for key, maps in parts.attributions.items()}, alone.attributions)
