"""Deletion, insertion, drop and increase of the probability: closed forms, costs, and that nothing is disturbed."""

import math
import warnings
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from networks import Disturbing, Meter, metered
from scipy.ndimage import gaussian_filter
from states import assert_same, state_of
from torch import nn
from watching import SharedList

from lightning_saliency.attribution import Explanation, Settings, explain
from lightning_saliency.data import make_call, plain_call
from lightning_saliency.evidence import TASKS, Forward
from lightning_saliency.metrics import measure_faithfulness

METRICS = ["average_drop", "increase_in_confidence", "deletion", "insertion"]
CAMS = ["grad_cam", "eigen_cam", "saliency"]
IMAGES = torch.randn(3, 3, 10, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MAPS = torch.rand(3, 1, 10, 12, generator=torch.Generator().manual_seed(0))


def explanation_of(images, classes, task="multiclass"):
    """An explanation whose heatmaps are given to `measure_faithfulness` apart from it."""
    settings, nothing = Settings(Forward(nn.Identity()), {}), torch.zeros(len(images))
    of_classes = torch.as_tensor(classes), {}
    return Explanation(settings, plain_call(images), images, nothing[:, None], nothing, *of_classes, task=TASKS[task])


def linear(classes=3, size=(12, 12), channels=2):
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * math.prod(size), classes)).double()


def close(found, expected, rtol=1e-10):
    assert list(found) == list(expected)
    for name in expected:
        assert list(found[name]) == METRICS
        for metric in METRICS:
            wanted = torch.as_tensor(expected[name][metric], dtype=found[name][metric].dtype)
            torch.testing.assert_close(found[name][metric], wanted, rtol=rtol, atol=rtol, equal_nan=True, msg=metric)


class Additive(nn.Module):
    """The probability of class 1 is the sum of the weighted pixels."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, images):
        probability = (images * self.weights).sum((1, 2, 3))
        return torch.stack([1 - probability, probability], dim=1).log()


def test_numbers_by_hand_of_a_model_whose_probability_is_a_sum_over_the_pixels():
    model = Additive(0.8 * torch.tensor([[[0.4, 0.3], [0.2, 0.1]]], dtype=torch.double))
    images = torch.ones(1, 1, 2, 2, dtype=torch.double)
    right = torch.tensor([[[[1.0, 0.75], [0.5, 0.25]]]], dtype=torch.double)
    found = measure_faithfulness(
        model, explanation_of(images, [1]), heatmaps={"right": right, "wrong": 1.25 - right}, steps=4
    )
    expected = {
        # 0.8, 0.48, 0.24, 0.08, 0 for the right order, 0.8, 0.72, 0.56, 0.32, 0 for the opposite one; a blurred image
        # of ones is one of ones
        "right": {"average_drop": [0.25], "increase_in_confidence": [0], "deletion": [0.3], "insertion": [0.8]},
        "wrong": {"average_drop": [0.5], "increase_in_confidence": [0], "deletion": [0.5], "insertion": [0.8]},
    }
    close(found, expected)
    # class 0 gains where pixels go: 0.2 of the whole image, 0.4 and 0.6 of the marked ones, 1 of none
    found = measure_faithfulness(
        model, explanation_of(images, [0]), heatmaps={"right": right, "wrong": 1.25 - right}, steps=4
    )
    for metrics, deletion in ((expected["right"], 0.7), (expected["wrong"], 0.5)):
        metrics |= {"average_drop": [0], "increase_in_confidence": [1], "deletion": [deletion], "insertion": [0.2]}
    close(found, expected)


def loops(model, images, classes, heatmaps, steps, probability, sigma=5.0, radius=5):
    """The four metrics, an image and a pixel at a time."""

    def of(image, label):
        with torch.no_grad():
            return float(probability(model(torch.as_tensor(image)[None]))[0, label])

    expected = {name: {metric: [] for metric in METRICS} for name in heatmaps}
    for row, (image, label) in enumerate(zip(images.numpy(), classes, strict=True)):
        blurred = np.stack([gaussian_filter(channel, sigma, mode="mirror", radius=radius) for channel in image])
        for name, maps in heatmaps.items():
            heatmap, (height, width) = maps[row, 0].numpy(), image.shape[1:]
            pixels = [(y, x) for y in range(height) for x in range(width)]
            order = sorted(pixels, key=lambda place: -heatmap[place])  # equal ones stay in rows
            curves = {"deletion": [], "insertion": []}
            for step in range(steps + 1):
                deleted, inserted = image.copy(), blurred.copy()
                for y, x in order[: height * width * step // steps]:
                    deleted[:, y, x] = 0
                    inserted[:, y, x] = image[:, y, x]
                curves["deletion"].append(of(deleted, label))
                curves["insertion"].append(of(inserted, label))
            for metric, curve in curves.items():
                area = sum((one + other) / 2 / steps for one, other in pairwise(curve))
                expected[name][metric].append(area)
            whole, marked = of(image, label), of(image * heatmap, label)
            expected[name]["average_drop"].append(max(0, whole - marked) / whole)
            expected[name]["increase_in_confidence"].append(float(marked > whole))
    return expected


@pytest.mark.parametrize("steps", [1, 5, 6])  # of 144 pixels: 5 do not divide them
@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "single logit"])
def test_every_metric_is_what_loops_over_images_steps_and_pixels_give(steps, kind):
    model = linear(classes=1 if kind == "single logit" else 3)
    images = torch.randn(3, 2, 12, 12, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    heatmaps = {
        "fine": torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(3)).double(),
        "coarse": torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(4)).double().mul(4).round() / 4,
    }
    classes = [0, 1, 1] if kind == "single logit" else [2, 0, 1]
    probability = {
        "multiclass": lambda logits: logits.softmax(1),
        "multilabel": torch.sigmoid,
        "single logit": lambda logits: torch.cat([(-logits).sigmoid(), logits.sigmoid()], dim=1),
    }[kind]
    task = "multilabel" if kind == "multilabel" else "multiclass"
    found = measure_faithfulness(model, explanation_of(images, classes, task), heatmaps=heatmaps, steps=steps)
    close(found, loops(model, images, classes, heatmaps, steps, probability))
    for metrics in found.values():
        assert all(values.dtype == torch.double and values.shape == (3,) for values in metrics.values())


@pytest.mark.parametrize(
    ("size", "sigma", "radius"),
    [((4, 30), 5.0, 3), ((224, 300), 5.0, 5), ((448, 500), 10.0, 10), ((1, 9), 5.0, 0)],
)
def test_the_blur_is_the_papers_and_grows_with_the_image(size, sigma, radius):
    model = linear(size=size, channels=1)
    images = torch.randn(1, 1, *size, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    heatmaps = {"any": torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(3)).double()}
    found = measure_faithfulness(model, explanation_of(images, [2]), heatmaps=heatmaps, steps=1)
    close(found, loops(model, images, [2], heatmaps, 1, lambda logits: logits.softmax(1), sigma, radius))


def test_by_default_the_heatmaps_are_those_of_the_explanation():
    model = metered()
    explanation = explain(model, IMAGES, methods=CAMS, target=[3, 0, 1], layer="4")
    found = measure_faithfulness(model, explanation, steps=4)
    assert list(found) == CAMS
    close(found, measure_faithfulness(model, explanation, heatmaps=explanation.heatmaps(), steps=4))
    maps = {key: heatmaps.double() for key, heatmaps in explanation.heatmaps().items()}
    model.requires_grad_(False)
    close(found, loops(model, IMAGES, [3, 0, 1], maps, 4, lambda logits: logits.softmax(1)), rtol=1e-7)
    several = explain(model, IMAGES, layer=["1", "4"], target=1)
    assert list(measure_faithfulness(model, several, steps=2)) == ["grad_cam@1", "grad_cam@4"]


@pytest.mark.parametrize("value", [0.0, 0.5, math.nan])
def test_a_heatmap_that_marks_nothing_has_no_value_and_takes_none_from_the_others(value):
    model = linear()
    images = torch.randn(3, 2, 12, 12, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    heatmaps = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(3)).double()
    expected = measure_faithfulness(model, explanation_of(images, [2, 0, 1]), heatmaps={"map": heatmaps}, steps=4)
    heatmaps = heatmaps.clone()
    heatmaps[1] = value
    for values in expected["map"].values():
        values[1] = math.nan
    close(measure_faithfulness(model, explanation_of(images, [2, 0, 1]), heatmaps={"map": heatmaps}, steps=4), expected)


def test_a_class_without_probability_has_no_drop():
    model = linear()
    model[1].bias.data[0] = -1e6
    heatmap = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(3))
    images = torch.randn(1, 2, 12, 12, dtype=torch.double)
    found = measure_faithfulness(model, explanation_of(images, [0]), heatmaps={"map": heatmap}, steps=4)["map"]
    assert found["average_drop"].isnan().all()
    assert found["deletion"] == found["insertion"] == found["increase_in_confidence"] == 0


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("batch_size", [1, 5, 32, 1000])
def test_it_takes_as_many_forwards_as_it_says_without_a_graph_and_their_size_does_not_show(steps, batch_size):
    model = metered()
    explanation = explain(model, IMAGES, methods=CAMS, target=[3, 0, 1], layer="4")
    expected = measure_faithfulness(model, explanation, steps=steps, batch_size=16)
    sizes = SharedList()
    model[0].register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    model[2].counts.update(forward=0, graph=0, backward=0)
    found = measure_faithfulness(model, explanation, steps=steps, batch_size=batch_size)
    close(found, expected, rtol=1e-12)
    count = 2 * 3 + 1 + 3 * 3 * (2 * steps - 1)
    assert sum(sizes) == count
    assert len(sizes) == math.ceil(count / batch_size)
    assert max(sizes) <= batch_size
    assert isinstance(model[2], Meter)
    assert model[2].counts == {"forward": len(sizes), "graph": 0, "backward": 0}


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("train", [True, False])
def test_everything_is_left_as_it_was_also_when_the_model_raises(context, fails, train):
    model = Disturbing()
    model.train(train)
    model.norm.training = not train
    with context():
        explanation = explain(model, IMAGES.clone(), methods=["grad_cam", "saliency"], layer="act", target=1)
        model.fails = fails
        before = state_of(model)
        with pytest.raises(RuntimeError, match="in the middle") if fails else nullcontext():
            measure_faithfulness(model, explanation, steps=3)
        assert_same(state_of(model), before)
    assert model.moved.sum() == 0


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode])
def test_every_context_gives_the_same_values_and_none_a_graph(context, frozen):
    model = metered()
    expected = measure_faithfulness(model, explain(model, IMAGES, methods=CAMS, target=[0, 1, 2]), steps=4)
    model.requires_grad_(not frozen)
    with context():
        images, labels = IMAGES.clone(), torch.tensor([0, 1, 2])
        found = measure_faithfulness(model, explain(model, images, methods=CAMS, target=labels), steps=4)
    close(found, expected)
    asking = IMAGES.clone().requires_grad_()
    found = measure_faithfulness(model, explain(model, asking, methods=CAMS, target=[0, 1, 2]), steps=4)
    close(found, expected)
    assert not any(values.requires_grad for metrics in found.values() for values in metrics.values())


@pytest.mark.parametrize("written_out", [False, True])
def test_a_model_that_ends_in_a_softmax_is_measured_by_what_it_returns(written_out):
    class Softened(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = metered()

        def forward(self, images):
            logits = self.body(images)
            return logits.exp() / logits.exp().sum(1, keepdim=True) if written_out else logits.softmax(1)

    plain = explain(metered(), IMAGES, methods=CAMS, target=1, layer="4")
    expected = measure_faithfulness(metered(), plain, steps=4)
    model = Softened()
    with pytest.warns(UserWarning, match="The model returns probabilities"):
        explanation = explain(model, IMAGES, methods=CAMS, target=1, layer="body.4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was said once
        found = measure_faithfulness(model, explanation, heatmaps=plain.heatmaps(), steps=4)
    close(found, expected)


def test_a_single_logit_is_two_classes():
    class Pair(nn.Module):
        def __init__(self, single):
            super().__init__()
            self.single = single

        def forward(self, images):
            logit = self.single(images)
            return torch.cat([-logit / 2, logit / 2], dim=1)

    single = linear(classes=1)
    images = torch.randn(2, 2, 12, 12, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    for target in (0, 1, [1, 0], None):
        one = explain(single, images, methods="saliency", target=target)
        two = explain(Pair(single), images, methods="saliency", target=one.classes)
        close(measure_faithfulness(single, one, steps=6), measure_faithfulness(Pair(single), two, steps=6))


@pytest.mark.parametrize(("dtype", "alike"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_weights_of_half_precision_give_nearly_what_those_of_full_give(dtype, alike):
    whole = explain(metered(), IMAGES, methods="grad_cam", target=1, layer="4")
    expected, run = measure_faithfulness(metered(), whole, steps=4)["grad_cam"], {"target": 1, "layer": "4"}

    def measured(model):
        explanation = explain(model, IMAGES, **run)
        module = model.model if isinstance(model, Forward) else model
        return measure_faithfulness(module, explanation, heatmaps=whole.heatmaps(), steps=4)["grad_cam"]

    autocast = Forward(metered().float(), context=lambda: torch.autocast("cpu", torch.bfloat16))
    for found, tolerance in ((measured(metered().to(dtype)), alike), (measured(autocast), 2e-2)):
        for metric in ("average_drop", "deletion", "insertion"):
            assert found[metric].dtype == torch.float32
            # to what a rounded weight, of 11 or 8 bits, is worth to a probability
            torch.testing.assert_close(found[metric].double(), expected[metric], rtol=0, atol=tolerance)
        assert not torch.equal(found["deletion"].double(), expected["deletion"])


def test_how_a_model_is_run_is_taken_in_place_of_the_model():
    model = metered()
    explanation = explain(model, IMAGES, methods=CAMS, target=[3, 0, 1])
    forward = Forward(model, output_fn=lambda logits: logits.flip(1))
    flipped = explain(forward, IMAGES, methods=CAMS, target=[0, 3, 2])
    expected = measure_faithfulness(model, explanation, steps=3)
    close(measure_faithfulness(Forward(model), explanation, steps=3), expected)
    close(measure_faithfulness(forward, flipped, steps=3), expected)


def test_a_model_of_half_precision_sees_each_changed_image_rounded_once():
    model, seen = metered().bfloat16(), SharedList()
    model[0].register_forward_pre_hook(lambda module, args: seen.extend(args[0]))
    images = IMAGES.bfloat16()
    measure_faithfulness(model, explanation_of(images, [0, 1, 2]), heatmaps={"map": MAPS}, steps=1)
    blurred = [gaussian_filter(image.double().numpy(), (0, 5, 5), mode="mirror", radius=(0, 5, 5)) for image in images]
    expected = [*images, *torch.tensor(np.stack(blurred)), torch.zeros(3, 10, 12), *(images.double() * MAPS)]
    for found, wanted in zip(seen, expected, strict=True):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), wanted.double(), rtol=2**-8, atol=1e-6)


class Pair(nn.Module):
    """Takes metadata with its images, and returns more than its logits."""

    def __init__(self):
        super().__init__()
        self.body = metered()

    def forward(self, images, metadata):
        logits = self.body(images * metadata["scale"])
        return -logits, logits


SCALE = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)[:, None, None, None]


class Scaled(nn.Module):
    """The same of one image, whose scale is known."""

    def __init__(self, scale):
        super().__init__()
        self.body, self.scale = metered(), scale

    def forward(self, images):
        return self.body(images * self.scale)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_a_model_with_other_inputs_and_outputs_is_measured_as_it_was_explained(batch_size):
    model = Forward(Pair(), output_fn=lambda output: output[1])
    call = make_call([IMAGES], {"metadata": {"scale": SCALE, "name": "any"}})
    explanation = explain(model, call, methods=CAMS, target=[3, 0, 1], layer="body.4")
    found = measure_faithfulness(model.model, explanation, steps=4, batch_size=batch_size)
    for row, label in enumerate([3, 0, 1]):
        single = Scaled(SCALE[row])
        alone = explain(single, IMAGES[row : row + 1], methods=CAMS, target=label, layer="body.4")
        expected = measure_faithfulness(single, alone, steps=4)
        of_row = {
            key: {name: values[row : row + 1] for name, values in metrics.items()} for key, metrics in found.items()
        }
        close(of_row, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"layer": ["1", "4"]},
        {"layer": ["1", "4"], "fuse": "mean"},
        {"layer": "4", "flip": True},
        {"methods": {"saliency": {"reduce": "positive"}, "smooth_grad": {"num_samples": 3}}},
        {"task": "multilabel"},
        {"chunk_size": 2},
    ],
    ids=["layers", "fused", "flipped", "options", "multilabel", "chunks"],
)
def test_nothing_has_to_be_told_again_of_how_an_explanation_was_made(options):
    model = metered()
    explanation = explain(model, IMAGES, **{"methods": CAMS, "target": [3, 0, 1], **options})
    maps = {key: heatmaps.double() for key, heatmaps in explanation.heatmaps().items()}
    probability = torch.sigmoid if "task" in options else lambda logits: logits.softmax(1)
    close(
        measure_faithfulness(model, explanation, steps=3), loops(model, IMAGES, [3, 0, 1], maps, 3, probability), 1e-7
    )


def test_a_compiled_model_and_one_that_writes_on_its_input_are_measured_as_any():
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = metered()

        def forward(self, images):
            logits = self.body(images)
            images.zero_()
            return logits

    explanation = explain(metered(), IMAGES, target=1, layer="4")
    expected = measure_faithfulness(metered(), explanation, steps=4)
    kept = IMAGES.clone()
    close(measure_faithfulness(Writing(), explanation, steps=4), expected)
    assert torch.equal(IMAGES, kept)
    assert torch.equal(explanation.images, kept)
    compiled = torch.compile(metered(), backend=lambda graph, inputs: pytest.fail("compiled"))
    close(measure_faithfulness(compiled, explanation, steps=4), expected)


GOOD = explanation_of(IMAGES, [1, 1, 1])


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"model": "resnet18"}, TypeError, "`model` to be a torch.nn.Module, got str"),
        ({"explanation": IMAGES}, TypeError, "`explanation` to be of type Explanation, got Tensor"),
        ({"explanation": explanation_of(IMAGES, [1, 4, 1])}, ValueError, "below the model's 4 classes.*got 4"),
        ({"steps": 0}, ValueError, "`steps` to be a positive int, got 0"),
        ({"batch_size": 2.0}, TypeError, "`batch_size` to be a positive int, got 2.0"),
        (
            {"heatmaps": {"mine": MAPS[:2]}},
            ValueError,
            r"\(3, 1, 10, 12\) as the images, got \(2, 1, 10, 12\) of 'mine'",
        ),
        ({"heatmaps": {"mine": MAPS * 255}}, ValueError, r"`heatmaps` to be in \[0, 1\], got .* to 25\d of 'mine'"),
        ({"heatmaps": {"mine": MAPS - 0.5}}, ValueError, r"`heatmaps` to be in \[0, 1\], got -0.49"),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(arguments, error, says):
    with pytest.raises(error, match=says):
        measure_faithfulness(**({"model": metered(), "explanation": GOOD, "heatmaps": {"map": MAPS}} | arguments))


def test_an_explanation_of_a_callable_has_no_class_whose_probability_could_change():
    explanation = explain(metered(), IMAGES, target=lambda logits: logits[:, 0] - logits[:, 1], layer="4")
    with pytest.raises(ValueError, match=r"`explanation` to be of classes.*callable target"):
        measure_faithfulness(metered(), explanation)


class Laid(nn.Module):
    """Notes how the images lie that it gets."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.layouts = nn.Conv2d(3, 4, 3), SharedList()

    def forward(self, images):
        self.layouts.append(images.is_contiguous())
        return self.conv(images).relu().mean((2, 3))


@pytest.mark.parametrize(("batch_size", "as_they_lie"), [(8, [False] * 2), (1, [True] * 11)])
def test_many_pixels_go_through_the_model_channels_last(batch_size, as_they_lie):
    model = Laid()
    explanation = explain(model, torch.rand(2, 3, 150, 150), methods="grad_cam", layer="conv", progress=False)
    model.layouts.clear()
    plain = measure_faithfulness(Forward(model, memory_format=torch.contiguous_format), explanation, steps=2)
    model.layouts.clear()
    found = measure_faithfulness(model, explanation, steps=2, batch_size=batch_size)
    assert model.layouts == as_they_lie
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
