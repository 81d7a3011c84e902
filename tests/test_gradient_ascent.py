"""Images made by gradient ascent: closed forms on linear models, and what the model and the process are left as."""

import math
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms.functional import gaussian_blur
from watching import SharedSet

from lightning_saliency.evidence import Forward
from lightning_saliency.gradient_ascent import class_model_image, fooling_image

SIZE = (3, 6, 5)
COUNT = math.prod(SIZE)
IMAGES = torch.randn(6, *SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def linear(classes):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(COUNT, classes)).double()


def weights_of(model):
    return model[1].weight.detach().clone().reshape(-1, *SIZE), model[1].bias.detach()


def network(classes=4):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.AvgPool2d(2), nn.Conv2d(8, 8, 2),
        nn.Tanh(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
    ).double()  # fmt: skip


def rms(images):
    return images.square().mean((1, 2, 3), keepdim=True).sqrt()


def assert_same(found, expected):
    assert vars(found).keys() == vars(expected).keys()
    for name, value in vars(expected).items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(getattr(found, name), value, msg=lambda text, name=name: f"{name}: {text}")
        else:
            assert getattr(found, name) == value


def rows(made, chosen):
    """What was made of some of the images; the trajectory has them in its columns."""
    parts = {}
    for name, value in vars(made).items():
        if name == "objectives":
            parts[name] = value[:, chosen]
        else:
            parts[name] = value[chosen] if isinstance(value, torch.Tensor) else [value[row] for row in chosen]
    return type(made)(**parts)


# class models: closed forms


def test_the_class_model_of_a_linear_model_is_its_weights_over_twice_the_decay():
    model, decay, steps, step_size = linear(4), 0.05, 200, 0.04
    weights, bias = weights_of(model)
    options = {"weight_decay": decay, "steps": steps, "step_size": step_size, "regularized": False}
    made = class_model_image(model, [2, 0, 3], SIZE, **options)
    W, b = weights[[2, 0, 3]], bias[[2, 0, 3]]
    expected = W / (2 * decay)
    assert (rms(expected) < step_size * (steps + 1) / 2).all()  # it is within reach
    assert (rms(made.images - expected) <= step_size / steps).all()  # the last step's length
    assert torch.equal(made.classes, torch.tensor([2, 0, 3]))
    torch.testing.assert_close(made.start_scores, b)
    torch.testing.assert_close(made.scores, (W * made.images).sum((1, 2, 3)) + b)
    assert made.objectives.shape == (steps + 1, 3)
    torch.testing.assert_close(made.objectives[0], b)
    torch.testing.assert_close(made.objectives[-1], b + W.square().sum((1, 2, 3)) / (4 * decay), rtol=1e-5, atol=0)
    torch.testing.assert_close(made.objectives[-1], made.scores - decay * made.images.square().sum((1, 2, 3)))
    assert made.reasons == [None] * 3


def test_each_step_is_a_little_shorter_than_the_one_before_however_large_the_gradient():
    model = linear(4)
    weights, bias = weights_of(model)
    lengths = 0.5 * torch.arange(10, 0, -1, dtype=torch.float64) / 10
    for scale in (1.0, 1e-30, 1e30):
        with torch.no_grad():
            model[1].weight.copy_((weights * scale).flatten(1))
        made = class_model_image(model, [1, 3], SIZE, weight_decay=0.0, steps=10, step_size=0.5, regularized=False)
        direction = weights[[1, 3]] / rms(weights[[1, 3]])
        torch.testing.assert_close(made.images, lengths.sum() * direction)
        walked = F.pad(lengths.cumsum(0), (1, 0))[:, None]
        slope = scale * (weights[[1, 3]] * direction).sum((1, 2, 3))
        torch.testing.assert_close(made.objectives, bias[[1, 3]] + walked * slope)


def regularized_direction(weights):
    """The direction of a regularized step along the weights: three tenths of their color are left."""
    gray = weights.mean(1, keepdim=True)
    mixed = gray + 0.3 * (weights - gray)
    return mixed / rms(mixed)


def test_a_regularized_step_rolls_the_image_and_reports_the_one_that_is_returned():
    size = (3, 32, 16)  # which is rolled by up to 2 and 1 pixels
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(size), 2)).double()
    weights, bias = model[1].weight.detach().reshape(-1, *size), model[1].bias.detach()
    start = torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = class_model_image(model, 1, start=start, weight_decay=0.0, steps=9, step_size=0.3)
    moved = sum(0.3 * step / 9 for step in range(1, 10)) * regularized_direction(weights[1:2])
    assert not torch.allclose(made.images, start + moved)
    # each step adds the direction, rolled: the sum of a channel does not depend on how far it was rolled
    torch.testing.assert_close(made.images.sum((2, 3)), (start + moved).sum((2, 3)))
    torch.testing.assert_close(made.scores, (made.images * weights[1]).sum((1, 2, 3)) + bias[1])
    torch.testing.assert_close(made.start_scores, (start * weights[1]).sum((0, 1, 2))[None] + bias[1])


@pytest.mark.parametrize("size", [(3, 6, 5), (1, 7, 7)])  # too small to be rolled
def test_the_tenth_regularized_step_ends_in_a_blur(size):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(size), 2)).double()
    direction = regularized_direction(model[1].weight.detach().reshape(-1, *size)[:1])
    start = torch.zeros(size)
    made = class_model_image(model, 0, start=start, weight_decay=0.0, steps=11, step_size=1.1)
    walked = sum(0.1 * length for length in range(11, 1, -1)) * direction
    blurred = gaussian_blur(walked, [3, 3], [size[2] / 128, size[1] / 128])
    torch.testing.assert_close(made.images, blurred + 0.1 * direction)
    unblurred = class_model_image(model, 0, start=start, weight_decay=0.0, steps=10, step_size=1.1)
    walked = sum(0.11 * length for length in range(10, 0, -1)) * direction
    torch.testing.assert_close(unblurred.images, walked)


@pytest.mark.parametrize(("size", "sigma"), [(64, 0.5), (128, 1.0), (512, 1.0)])
def test_a_larger_image_is_blurred_more_but_by_no_more_than_a_pixel(size, sigma):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(size, 2)).double()
    start = torch.randn(1, size, 1, dtype=torch.float64)
    options = {"start": start, "weight_decay": 0.0, "step_size": 1e-9}
    made, unblurred = (class_model_image(model, 0, steps=steps, **options) for steps in (11, 10))
    torch.testing.assert_close(unblurred.images, start[None], rtol=0, atol=1e-7)
    kernel = [1, 2 * math.ceil(3 * sigma) + 1]
    torch.testing.assert_close(made.images, gaussian_blur(start[None], kernel, [1.0, sigma]), rtol=0, atol=1e-7)


def test_a_single_logit_has_a_class_model_for_and_one_against():
    model = linear(1)
    made = class_model_image(model, [0, 1], SIZE, regularized=False)
    torch.testing.assert_close(made.images[0], -made.images[1])
    logits = model(made.images)[:, 0].detach()
    torch.testing.assert_close(made.scores, torch.stack([-logits[0], logits[1]]))


# class models: nets


@pytest.mark.parametrize("weight_decay", [0.0, 1e-4, 1e-3])
def test_the_objective_of_a_net_rises_with_each_small_step(weight_decay):
    options = {"steps": 40, "step_size": 5e-3, "regularized": False}
    made = class_model_image(network(), range(4), (3, 12, 12), weight_decay=weight_decay, **options)
    assert (made.objectives.diff(dim=0) > 0).all()
    assert (made.scores > made.start_scores).all()


def test_each_class_gets_what_it_gets_alone_and_the_seed_decides():
    options = {"steps": 12}
    made = class_model_image(network(), [3, 1, 1], (3, 12, 12), seed=5, **options)
    for row, label in enumerate([3, 1, 1]):
        assert_same(class_model_image(network(), label, (3, 12, 12), seed=5, **options), rows(made, [row]))
    again = class_model_image(network(), torch.tensor([3, 1, 1]), (3, 12, 12), seed=5, **options)
    assert torch.equal(again.images, made.images)
    other = class_model_image(network(), [3, 1, 1], (3, 12, 12), seed=6, **options)
    assert not torch.allclose(other.images, made.images)


def test_it_starts_where_it_is_told():
    model = network()
    zero = class_model_image(model, [0, 2], (3, 12, 12), steps=5, regularized=False)
    assert_same(class_model_image(model, [0, 2], start=torch.zeros(3, 12, 12), steps=5, regularized=False), zero)
    starts = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    kept = starts.clone()
    made = class_model_image(model, [0, 2], start=starts, steps=5)
    torch.testing.assert_close(made.start_scores, model.eval()(starts)[range(2), [0, 2]].detach())
    for row, label in enumerate([0, 2]):
        assert_same(class_model_image(model, label, start=starts[row], steps=5), rows(made, [row]))
    assert torch.equal(starts, kept)


# class models: the pixels


@pytest.mark.parametrize("regularized", [True, False])
@pytest.mark.parametrize("white", [1.0, 255.0])
def test_the_image_is_the_same_whatever_the_normalization(white, regularized):
    mean, std = (torch.tensor(numbers, dtype=torch.float64)[:, None, None] for numbers in ([0.3, 0.5, 0.6], [0.2] * 3))

    class Normalizing(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, images):
            return self.net((images / white - mean) / std)

    options = {"image_size": (3, 16, 16), "steps": 30, "step_size": 2.0, "regularized": regularized}
    bounds = ((0 - mean) / std, (1 - mean) / std)
    outside = class_model_image(network(), [0, 2], bounds=bounds, **options)
    inside = class_model_image(Normalizing(), [0, 2], bounds=(0, white), **options)
    torch.testing.assert_close(inside.images / white, outside.images * std + mean)
    torch.testing.assert_close(inside.objectives, outside.objectives)
    assert ((inside.images >= 0) & (inside.images <= white)).all()
    assert ((inside.images == 0) | (inside.images == white)).any()  # steps that long meet the bounds
    assert ((outside.images >= bounds[0]) & (outside.images <= bounds[1])).all()


def test_it_starts_from_faint_noise_around_the_middle_of_the_bounds_and_from_the_zero_image_without_regularization():
    size, tiny = (3, 64, 64), {"steps": 1, "step_size": 1e-9}
    flat = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(192, 2)).double()
    noise = class_model_image(flat, 0, size, **tiny).images
    assert abs(noise.mean()) < 0.01
    assert 0.09 < noise.std() < 0.11
    around = class_model_image(flat, 0, size, bounds=(0, 255), **tiny).images
    torch.testing.assert_close(around, 127.5 + 63.75 * noise)
    for bounds, middle in ((None, 0.0), ((0, 1), 0.5), ((-torch.inf, 1), 0.0)):
        image = class_model_image(flat, 0, size, bounds=bounds, regularized=False, **tiny).images
        torch.testing.assert_close(image, torch.full_like(image, middle))


# class models: a logit that is 0


class Rectified(nn.Module):
    """A classifier that ends in convolution, ReLU and pooling, as SqueezeNet's; its logits are 0 for noise."""

    def __init__(self, bias=-0.3):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 3)).double()
        self.net[2].bias.data.fill_(bias)

    def forward(self, images):
        return self.net(images).relu().mean((2, 3))


def test_a_logit_that_is_0_without_a_gradient_is_left():
    model, size = Rectified(), (3, 16, 16)
    for seed in range(3):
        made = class_model_image(model, range(4), size, seed=seed)
        assert not made.start_scores.any()
        assert (made.scores > 0).all()
        assert made.reasons == [None] * 4
    plain = class_model_image(model, range(4), size, regularized=False)
    assert not plain.images.any()
    assert plain.reasons == ["gradient 0"] * 4


def test_only_the_image_whose_gradient_is_0_gets_the_one_that_passes_the_relu():
    model, dead = Rectified(bias=0.2), Rectified(bias=0.2)
    dead.net[2].bias.data[3] = -1.0
    expected = class_model_image(model, [0, 1, 2], (3, 16, 16))
    made = class_model_image(dead, [0, 1, 2, 3], (3, 16, 16))
    torch.testing.assert_close(made.images[:3], expected.images)
    assert made.scores[3] > made.start_scores[3] == 0


def test_an_image_without_any_gradient_stays_what_it_is():
    class Rounding(nn.Module):
        def forward(self, images):
            return (images * 0).flatten(1)

    start = torch.rand(1, 2, 3, generator=torch.Generator().manual_seed(0))
    made = class_model_image(Rounding(), [2, 4], start=start, weight_decay=0.5)
    assert torch.equal(made.images, start.expand(2, -1, -1, -1))
    assert made.reasons == ["gradient 0"] * 2


# fooling images: closed forms


@pytest.mark.parametrize("method", ["sign", "gradient"])
@pytest.mark.parametrize("classes", [1, 2])
def test_a_linear_model_is_fooled_after_its_margin_over_what_a_step_gains(classes, method):
    model, step_size = linear(classes), 0.004
    weights, _ = weights_of(model)
    logits = model(IMAGES).detach()
    margins = 2 * logits[:, 0].abs() if classes == 1 else (logits[:, 0] - logits[:, 1]).abs()
    towards = 2 * weights[0] if classes == 1 else weights[1] - weights[0]
    gain = step_size * (towards.abs().sum() if method == "sign" else math.sqrt(COUNT) * towards.norm())
    expected = (margins / gain).ceil().long()
    assert expected.unique().numel() > 3

    made = fooling_image(model, IMAGES, method=method, step_size=step_size, max_steps=int(expected.max()))
    predicted = (logits[:, 0] > 0).long() if classes == 1 else logits.argmax(1)
    assert torch.equal(made.targets, 1 - predicted)
    assert torch.equal(made.steps, expected)
    assert made.fooled.all()
    assert made.reasons == [None] * 6
    torch.testing.assert_close(made.l2_norms, step_size * math.sqrt(COUNT) * expected.double())
    if method == "sign":
        torch.testing.assert_close(made.linf_norms, step_size * expected.double())
    torch.testing.assert_close(made.changes, made.images - IMAGES)
    torch.testing.assert_close(made.logits, model(made.images).detach())

    short = fooling_image(model, IMAGES, method=method, step_size=step_size, max_steps=int(expected.max()) - 1)
    assert torch.equal(short.fooled, expected < expected.max())
    assert torch.equal(short.steps, expected.clamp(max=int(expected.max()) - 1))
    assert torch.equal(short.images[short.fooled], made.images[short.fooled])


def test_the_way_leads_past_whichever_class_is_ahead():
    model = linear(5)
    start = model(IMAGES).detach()
    last = start.argmin(1)
    made = fooling_image(model, IMAGES, last, step_size=0.01, max_steps=500)
    assert made.fooled.all()
    assert torch.equal(model(made.images).argmax(1), last)


# fooling images: nets


def test_the_target_is_the_second_most_probable_class_or_the_one_that_is_given():
    model = network()
    logits = model.eval()(IMAGES).detach()
    made = fooling_image(model, IMAGES, max_steps=500)
    assert torch.equal(made.targets, logits.topk(2).indices[:, 1])
    assert made.fooled.all()
    assert (made.steps > 0).all()
    assert_same(fooling_image(model, IMAGES, made.targets.tolist(), max_steps=500), made)
    assert torch.equal(fooling_image(model, IMAGES, 2, max_steps=1).targets, torch.full((6,), 2))


def test_an_image_that_is_taken_for_its_target_already_stays_as_it_is():
    model = network()
    predicted = model.eval()(IMAGES).argmax(1)
    targets = predicted.clone()
    targets[2:] = (targets[2:] + 1) % 4
    made = fooling_image(model, IMAGES, targets, bounds=(-0.1, 0.1))  # even where it is out of bounds
    assert made.steps[:2].tolist() == [0, 0]
    assert (made.steps[2:] > 0).all()
    assert made.fooled[:2].all()
    assert torch.equal(made.images[:2], IMAGES[:2])
    assert not made.changes[:2].any()


@pytest.mark.parametrize("method", ["sign", "gradient"])
def test_each_image_gets_what_it_gets_alone(method):
    made = fooling_image(network(), IMAGES, method=method, max_steps=60)
    assert made.steps.unique().numel() > 3
    for row in range(6):
        assert_same(fooling_image(network(), IMAGES[[row]], method=method, max_steps=60), rows(made, [row]))


@pytest.mark.parametrize("method", ["sign", "gradient"])
def test_steps_stay_within_the_bounds(method):
    images = IMAGES.clamp(-0.5, 0.5)
    options = {"method": method, "step_size": 0.05, "max_steps": 40}
    made = fooling_image(network(), images, bounds=(-0.5, 0.5), **options)
    assert (made.images.abs() <= 0.5).all()
    assert not torch.allclose(made.images, fooling_image(network(), images, **options).images)
    low = torch.tensor([-1.0, -0.5, -0.7])[:, None, None]
    high = torch.tensor([0.5, 1.0, 0.6])[:, None, None]
    made = fooling_image(network(), images, bounds=(low, high), **options)
    assert ((made.images >= low) & (made.images <= high)).all()
    assert (made.images > 0.6).any()


# where there is no way


class Gated(nn.Module):
    """Sees nothing of what is below 0."""

    def __init__(self):
        super().__init__()
        self.linear = linear(3)

    def forward(self, images):
        return self.linear(images.relu())


@pytest.mark.parametrize("method", ["sign", "gradient"])
def test_an_image_without_a_gradient_or_with_one_that_is_not_finite_stops_and_says_so(method):
    images = IMAGES.clone()
    images[1] = -1.0
    images[2, 0, 0, 0] = torch.nan
    images[3, 1, 2, 2] = torch.inf
    model = Gated()
    targets = (model(images).nan_to_num(0).argmax(1) + 1) % 3
    for made in (
        fooling_image(model, images, targets, method=method, step_size=0.05),
        class_model_image(model, targets, start=images, steps=20, weight_decay=0, regularized=False),
    ):
        assert made.reasons == [None, "gradient 0", "not finite", "not finite", None, None]
        others = [0, 4, 5]
        assert made.images[others].isfinite().all()
        torch.testing.assert_close(made.images[1:4], images[1:4], equal_nan=True, rtol=0, atol=0)
        assert not torch.allclose(made.images[others], images[others])
    made = fooling_image(model, images, method=method, step_size=0.05)
    assert not made.fooled[1:4].any()
    assert made.fooled[[0, 4, 5]].all()
    assert not made.changes[1:4].any()
    assert made.steps[1:4].tolist() == [0, 0, 0]
    alone = fooling_image(model, images[[0, 4, 5]], method=method, step_size=0.05)
    torch.testing.assert_close(made.images[[0, 4, 5]], alone.images)

    done = fooling_image(model, images[1:2], model(images[1:2]).argmax(1))
    assert (done.fooled.tolist(), done.reasons) == ([True], [None])  # it need not go anywhere
    for label in range(3):
        assert not fooling_image(model, images[2:3], label).fooled.any()


def test_a_step_into_what_is_not_finite_is_not_taken():
    class Root(nn.Module):
        def forward(self, images):
            return (0.5 - images.mean((2, 3))).sqrt()  # NaN beyond, and climbs away from there: λ draws it there

    made = class_model_image(Root(), 0, start=torch.full((3, 2, 2), -4.0), weight_decay=1.0, step_size=2.0)
    assert made.images.isfinite().all()
    assert made.objectives.isfinite().all()
    assert made.reasons == [None]


def test_a_model_that_cuts_the_graph_is_refused():
    class Cut(nn.Module):
        def forward(self, images):
            return images.mean((2, 3)).detach()

    with pytest.raises(ValueError, match="does not depend on the input"):
        class_model_image(Cut(), 0, SIZE)
    with pytest.raises(ValueError, match="does not depend on the input"):
        fooling_image(Cut(), IMAGES)


# what is around it


class Disturbing(nn.Module):
    """What a careless pass changes: dropout, batch norm, buffers, attributes, random states; a part has no graph."""

    def __init__(self):
        super().__init__()
        self.net = network()
        self.seen = []
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images):
        self.calls += 1
        self.features = images
        self.seen.append(len(images))
        torch.rand(1), random.random(), np.random.rand()
        with torch.no_grad():
            features = self.net[:3](images)
        return {"aux": images.mean((2, 3)), "mine": self.net[3:](features)}


def state_of(model):
    return [
        [module.training for module in model.modules()],
        [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()],
        [(name, id(tensor), tensor.tolist()) for name, tensor in model.state_dict(keep_vars=True).items()],
        [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in model.parameters()],
        [model.seen, sorted(vars(model))],
        [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())],
        [torch.is_grad_enabled(), torch.is_inference_mode_enabled()],
    ]


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("frozen", [False, True])
def test_every_context_gives_the_same_images_and_leaves_the_model_as_it_was(context, frozen):
    plain = network().eval()
    expected = (
        class_model_image(plain, [1, 2], start=IMAGES[0], steps=5),
        fooling_image(plain, IMAGES, [1] * 6, max_steps=20),
    )
    model = Disturbing().train().requires_grad_(not frozen)
    model.net[1].training = False  # a frozen batch norm: one flag differs
    model.net[9].weight.grad = torch.ones_like(model.net[9].weight)
    with context():
        before = state_of(model)
        images, labels, classes = (
            IMAGES.clone(),
            torch.tensor([1] * 6),
            torch.tensor([1, 2]),
        )  # may be inference tensors
        forward = Forward(model, output_fn=lambda output: output["mine"])
        made = (
            class_model_image(forward, classes, start=images[0], steps=5),
            fooling_image(forward, images, labels, bounds=(images.min(), 10), max_steps=20),
        )
        assert state_of(model) == before
    made = (made[0], fooling_image(forward, images, labels, max_steps=20))
    for found, wanted in zip(made, expected, strict=True):
        assert_same(found, wanted)
        for value in vars(found).values():
            assert not (isinstance(value, torch.Tensor) and value.requires_grad)


@pytest.mark.parametrize(("dtype", "made_dtype"), [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)])
def test_weights_of_every_precision_serve(dtype, made_dtype):
    model = network().to(dtype).eval()
    made = class_model_image(model, [0, 1], (3, 12, 12), steps=20)
    assert made.images.dtype == made.scores.dtype == made_dtype
    assert (made.scores > made.start_scores).all()
    fooled = fooling_image(model, IMAGES.float(), step_size=0.02, max_steps=200)
    assert fooled.images.dtype == fooled.logits.dtype == made_dtype
    assert fooled.fooled.all()
    assert torch.equal(fooled.logits.argmax(1), fooled.targets)
    if dtype == torch.float64:  # half precision may see an image otherwise beside others
        assert torch.equal(model(fooled.images.to(dtype)).argmax(1), fooled.targets)


def test_the_forward_runs_in_the_context_that_is_asked_for():
    model, dtypes = network().float(), SharedSet()
    model[4].register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))
    forward = Forward(model, context=lambda: torch.autocast("cpu", torch.bfloat16))
    class_model_image(forward, 1, (3, 12, 12), steps=2)
    fooling_image(forward, IMAGES, max_steps=2)
    assert dtypes == {torch.bfloat16}


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"model": lambda images: images}, TypeError, "`model` to be a torch.nn.Module, got function"),
        ({"classes": 1.0}, TypeError, "`classes` to be a class index or a sequence of them, got 1.0"),
        ({"classes": True}, TypeError, "`classes` to be a class index or a sequence of them, got True"),
        ({"classes": "cat"}, TypeError, "`classes` to be a class index or a sequence of them, got 'cat'"),
        ({"classes": [[0, 1]]}, ValueError, "`classes` to be one class index or more"),
        ({"classes": [0, -1]}, ValueError, "`classes` to be one class index or more, from 0"),
        ({"classes": [0, 4]}, ValueError, r"`classes` to be below the model's 4 classes \(0 to 3\), got 4"),
        ({"image_size": None}, ValueError, r"`image_size` to be \(C, H, W\), got None"),
        ({"image_size": 12}, ValueError, r"`image_size` to be \(C, H, W\), got 12"),
        ({"image_size": (12, 12)}, ValueError, r"`image_size` to be \(C, H, W\), got \(12, 12\)"),
        (
            {"start": IMAGES[:2]},
            ValueError,
            r"`start` to be \(C, H, W\), or one image per class, got shape \(2, 3, 6, 5",
        ),
        ({"start": IMAGES[0].byte()}, TypeError, "`start` to be a floating-point tensor, .* got torch.uint8"),
        ({"steps": 0}, ValueError, "`steps` to be a positive int, got 0"),
        ({"steps": 1.5}, TypeError, "`steps` to be a positive int, got 1.5"),
        ({"step_size": 0}, ValueError, "`step_size` to be a number above 0, got 0"),
        ({"step_size": math.nan}, ValueError, "`step_size` to be a number above 0, got nan"),
        ({"weight_decay": -1e-3}, ValueError, "`weight_decay` to be a number from 0, got -0.001"),
        ({"regularized": 1}, TypeError, "`regularized` to be .*, got 1"),
        ({"bounds": (1, 0)}, ValueError, r"`bounds` to be \(low, high\), low below high, .* got \(1, 0\)"),
        ({"seed": 0.5}, TypeError, "`seed` to be an int from 0, got 0.5"),
    ],
)
def test_a_wrong_argument_of_a_class_model_is_refused_by_its_name(arguments, error, says):
    arguments = {"model": network(), "classes": 1, "image_size": (3, 12, 12), **arguments}
    with pytest.raises(error, match=says):
        class_model_image(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"model": None}, TypeError, "`model` to be a torch.nn.Module, got NoneType"),
        ({"images": IMAGES[0]}, ValueError, r"`images` to be \(N, C, H, W\), got shape \(3, 6, 5\)"),
        ({"images": IMAGES[:0]}, ValueError, r"`images` to be \(N, C, H, W\), got shape \(0, 3, 6, 5\)"),
        ({"images": IMAGES.byte()}, TypeError, "`images` to be a floating-point tensor, .* got torch.uint8"),
        ({"images": IMAGES.numpy()}, TypeError, "`images` to be a floating-point tensor, .* got ndarray"),
        ({"target": 4}, ValueError, r"`target` to be below the model's 4 classes \(0 to 3\), got 4"),
        ({"target": [0, 1]}, ValueError, "`target` to hold one class for each of the 6 images"),
        ({"target": lambda logits: logits[:, 0]}, TypeError, "`target` to be None, .* got a callable"),
        ({"target": "predicted"}, TypeError, "`target` to be None, .* got 'predicted'"),
        ({"method": "adam"}, ValueError, "`method` to be one of sign, gradient, got 'adam'"),
        ({"step_size": -0.1}, ValueError, "`step_size` to be a number above 0, got -0.1"),
        ({"max_steps": 0}, ValueError, "`max_steps` to be a positive int, got 0"),
        ({"bounds": (1, 0)}, ValueError, r"`bounds` to be \(low, high\), low below high, .* got \(1, 0\)"),
        ({"bounds": 1.0}, ValueError, r"`bounds` to be \(low, high\)"),
        (
            {"bounds": (-torch.ones(3), torch.ones(3))},
            ValueError,
            r"broadcasts to \(3, 6, 5\), .*bound\[:, None, None\]",
        ),
    ],
)
def test_a_wrong_argument_of_a_fooling_image_is_refused_by_its_name(arguments, error, says):
    with pytest.raises(error, match=says):
        fooling_image(**{"model": network(), "images": IMAGES, **arguments})


# what they are for


def stripes(count):
    """Waves along the width (class 0) or along the height (class 1), at any phase, in noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    phases = 2 * torch.pi * torch.rand(count, 1, 1, generator=generator)
    waves = torch.sin(1.5 * torch.arange(16) + phases).expand(count, 16, 16)
    images = torch.where(labels[:, None, None] == 0, waves, waves.mT)[:, None]
    return (images + 0.3 * torch.randn(count, 1, 16, 16, generator=generator)).double(), labels


def test_a_trained_net_sees_the_class_in_its_class_model_and_the_target_in_its_fooling_image():
    images, labels = stripes(64)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 2),
    ).double()  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    model.eval()
    assert torch.equal(model(images).argmax(1), labels)

    for options in ({}, {"seed": 1}, {"regularized": False}):
        made = class_model_image(model, [0, 1], images.shape[1:], **options)
        assert torch.equal(model(made.images).argmax(1), torch.tensor([0, 1]))
        assert (made.scores > made.start_scores).all()
        # how much more an image varies along the width, as the stripes of class 0 do, than along the height
        along_width = made.images.diff(dim=3).square().sum((1, 2, 3)) / made.images.diff(dim=2).square().sum((1, 2, 3))
        assert along_width[0] > 1.5 * along_width[1], options

    for method in ("sign", "gradient"):
        fooled = fooling_image(model, images, method=method, max_steps=200)
        assert fooled.fooled.all()
        assert torch.equal(model(fooled.images).argmax(1), 1 - labels)
        assert (fooled.steps > 0).all()
        assert (fooled.l2_norms < images.flatten(1).norm(dim=1)).all()  # less than the image itself
