"""Further methods, options, several layers, mirrored images and softmax ends: each against its closed form."""

import random
import warnings
from contextlib import nullcontext
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_attribution import LOOPS, loops_bilinear, loops_grad_cam, positions, relu, weighted
from torch import nn

from lightning_saliency import METHODS, GAPHead, explain
from lightning_saliency.attribution import blank_reasons

LABELS = [2, 0, 1]
IMAGES = torch.randn(3, 2, 10, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
CAMS = ["grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "xgrad_cam"]
RECTIFIED = ["guided_backprop", "deconvnet", "guided_grad_cam"]
FURTHER = [key for key, method in METHODS.items() if method.further is not None]
REDUCED = [key for key, method in METHODS.items() if method.reduce is not None]


def plain_net(activation=nn.ReLU):
    """Convolutions, max pooling, linear layers: piecewise linear with ReLUs."""
    torch.manual_seed(23)  # one by which no map is blank
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), activation(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2), activation(), nn.Flatten(),
        nn.Linear(30, 6), activation(), nn.Linear(6, 3),
    ).double().eval()  # fmt: skip


def gap_net(classes=3):
    """One that every method works on."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2),
        nn.ReLU(inplace=True), nn.Dropout(), GAPHead(5, classes),
    ).double()  # fmt: skip


def assert_alike(found, expected):
    """Equal to 1e-5 of the largest magnitude of what is expected, which is not nothing."""
    top = float(expected.abs().max())
    assert top > 0
    torch.testing.assert_close(found.double() / top, expected.double() / top, rtol=0, atol=1e-5)


def assert_all_alike(found, expected):
    """The same for dicts of maps."""
    assert list(found) == list(expected)
    for key, maps in expected.items():
        top = float(maps.abs().max()) or 1.0
        torch.testing.assert_close(found[key] / top, maps / top, rtol=0, atol=1e-5, msg=f"{key}: {{}}".format)


def gradient(model, image, label):
    """∂score/∂image."""
    leaf = image.clone().requires_grad_()
    return torch.autograd.grad(model(leaf[None])[0, label], leaf)[0]


def map_and_gradient(model, layer, image, label):
    """A of the module of a sequential model, and ∂score/∂A."""
    A = model[: layer + 1](image[None]).detach().requires_grad_()
    return A[0].detach(), torch.autograd.grad(model[layer + 1 :](A)[0, label], A)[0][0]


def score(model, image, label):
    with torch.no_grad():
        return float(model(image[None])[0, label])


# --- other rules than the gradient's at ReLUs

RULES = {
    "saliency": lambda X, R: R if X > 0 else 0.0,
    "guided_backprop": lambda X, R: R if X > 0 and R > 0 else 0.0,
    "deconvnet": lambda X, R: R if R > 0 else 0.0,
}


def backward_by_hand(layers, image, label, rule):
    """From the score down to the image, layer by layer; a convolution and a linear layer are matrices."""
    inputs = [image]
    with torch.no_grad():
        for layer in layers:
            inputs.append(layer(inputs[-1][None])[0])
        R = torch.zeros_like(inputs.pop())
        R[label] = 1
        for layer, X in zip(reversed(layers), reversed(inputs), strict=True):
            if isinstance(layer, nn.ReLU):
                passed = [RULES[rule](x, r) for x, r in zip(X.flatten().tolist(), R.flatten().tolist(), strict=True)]
                R = torch.tensor(passed, dtype=R.dtype).reshape(X.shape)
            elif isinstance(layer, nn.MaxPool2d):
                unpooled = torch.zeros_like(X)
                for k, (i, j) in product(range(len(X)), positions(R)):
                    down, right = divmod(int(X[k, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].argmax()), 2)
                    unpooled[k, 2 * i + down, 2 * j + right] = R[k, i, j]
                R = unpooled
            else:
                basis = torch.eye(X.numel(), dtype=X.dtype).reshape(-1, *X.shape)
                matrix = (layer(basis) - layer(torch.zeros_like(basis))).flatten(1).T  # its columns; without the bias
                R = (matrix.T @ R.flatten()).reshape(X.shape)
    return R


@pytest.mark.parametrize("method", RULES)
def test_each_rule_for_the_backward_through_relus_is_the_one_written_out_by_hand(method):
    model = plain_net()
    found = explain(model, IMAGES, methods=method, target=LABELS)
    for image, label, signed, shown in zip(
        IMAGES, LABELS, found.signed[method], found.attributions[method], strict=True
    ):
        expected = backward_by_hand(list(model), image, label, method)
        assert_alike(signed, expected)
        assert_alike(shown[0], expected.abs().amax(0))
    plain = explain(model, IMAGES, methods="saliency", target=LABELS).signed["saliency"]
    assert torch.allclose(found.signed[method], plain) == (method == "saliency")


def test_guided_grad_cam_is_guided_backprop_times_grad_cam_at_the_size_of_the_image():
    model = plain_net()
    found = explain(model, IMAGES, methods="guided_grad_cam", layer="1", target=LABELS)
    for image, label, signed, shown in zip(
        IMAGES, LABELS, found.signed["guided_grad_cam"], found.attributions["guided_grad_cam"], strict=True
    ):
        weights = loops_bilinear(loops_grad_cam(*map_and_gradient(model, 1, image, label)), 10, 8)
        expected = backward_by_hand(list(model), image, label, "guided_backprop") * weights
        assert_alike(signed, expected)
        assert_alike(shown[0], expected.abs().amax(0))


class Calling(nn.Module):
    """The same network with its ReLUs written in some way."""

    def __init__(self, activate):
        super().__init__()
        self.net, self.activate = plain_net(nn.Identity), activate

    def forward(self, images):
        for name, layer in self.net.named_children():
            images = layer(images) if not isinstance(layer, nn.Identity) else self.after(name, images)
        return images

    def after(self, name, images):
        return self.activate(images)


def as_statement(images):
    images.relu_()
    return images


WRITTEN = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": partial(F.relu, inplace=True),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "a statement": as_statement,
    "clamp": lambda images: images.clamp(min=0),
    "clamp in place": lambda images: images.clamp_(min=0),
    "clamp_min": lambda images: images.clamp_min(0),
    "torch.clamp": lambda images: torch.clamp(images, 0.0),
    "clamp by a tensor": lambda images: images.clamp(min=torch.zeros(1, dtype=images.dtype)),
    "clamp by tensors": lambda images: images.clamp(min=torch.zeros_like(images)),
    "nn.ReLU6": nn.ReLU6(),
    "F.relu6 in place": partial(F.relu6, inplace=True),
    "clamp to 6": lambda images: images.clamp(0, 6),
    "nn.Hardtanh": nn.Hardtanh(0, 6),
}


@pytest.mark.parametrize("activate", WRITTEN.values(), ids=WRITTEN)
def test_a_relu_is_a_relu_however_it_is_written(activate):
    expected = explain(plain_net(), IMAGES, methods=["saliency", *RECTIFIED], layer="3", target=LABELS)
    model = Calling(activate)
    assert max(float(layer.abs().max()) for layer in layers_of(model.net, IMAGES)) < 6
    found = explain(model, IMAGES, methods=["saliency", *RECTIFIED], layer="net.3", target=LABELS)
    assert_all_alike(found.signed, expected.signed)


def layers_of(model, images):
    with torch.no_grad():
        for layer in model:
            images = layer(images)
            yield images


class SideBranch(nn.Module):
    """Its only ReLU adds nothing."""

    def __init__(self):
        super().__init__()
        self.net, self.side = plain_net(nn.Tanh), nn.Sequential(nn.Conv2d(2, 3, 8), nn.ReLU())

    def forward(self, images):
        return self.net(images) + 0 * self.side(images).mean((2, 3))


@pytest.mark.parametrize("kind", ["side branch", "positive"])
def test_the_three_rules_are_one_where_no_relu_makes_a_difference(kind):
    if kind == "side branch":
        torch.manual_seed(0)
        model, images = SideBranch().double(), IMAGES
    else:
        model, images = plain_net(), IMAGES.abs()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.abs_()
    found = explain(model, images, methods=RULES, target=LABELS).signed
    assert_alike(found["guided_backprop"], found["saliency"])
    assert_alike(found["deconvnet"], found["saliency"])


@pytest.mark.parametrize("method", RECTIFIED)
def test_a_model_without_a_relu_is_told_what_to_use_instead(method):
    model = plain_net(nn.GELU)
    with pytest.raises(ValueError, match=r"change the backward through ReLUs.* there is none.*Use `saliency`"):
        explain(model, IMAGES, methods=method, layer="3")
    model = Calling(lambda images: images.clamp(-1, 1) + F.leaky_relu(images) + images.clamp(max=0))
    with pytest.raises(ValueError, match=r"change the backward through ReLUs.* there is none.*Use `saliency`"):
        explain(model, IMAGES, methods=method, layer="net.3")


def test_only_the_relus_that_the_score_depends_on_count():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = plain_net(nn.Tanh)

        def forward(self, images):
            return self.net(images + 0 * images.detach().relu())

    with pytest.raises(ValueError, match="between this model's score and its input there is none"):
        explain(Detached(), IMAGES, methods="deconvnet")


# --- nothing is touched


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


def state_of(model):
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "values": [tensor.clone() for tensor in model.state_dict().values()],
        "parameters": [(id(p), p.requires_grad, p.grad) for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [list(getattr(module, name)) for module in model.modules() for name in hooks],
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "random": (torch.get_rng_state(), random.getstate(), str(np.random.get_state())),
    }


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("method", FURTHER)
@pytest.mark.parametrize("fails", [{"forward": 0}, {"forward": 1}, {"forward": 2}, {"forward": 3}, {"backward": 1}])
def test_the_model_is_left_as_it_was_also_after_an_error_in_the_middle(method, fails):
    model = Failing(**({"forward": 0, "backward": 0} | fails)).train()
    model.net[1].eval()
    model.net[0].weight.requires_grad_(False)
    model.net[2].register_forward_hook(lambda module, args, output: None)
    before, images = state_of(model), IMAGES.clone()
    never = fails == {"forward": 0} or ("backward" in fails and METHODS[method].further == "perturbed")
    never |= fails == {"forward": 3} and METHODS[method].further == "rectified"  # which has one pass beyond the first
    with nullcontext() if never else pytest.raises(RuntimeError, match=r"^in (forward|backward)$"):
        explain(model, images, methods=method, layer="net.4")
    after = state_of(model)
    for name in before:
        assert same(before[name], after[name]), name
    assert torch.equal(images, IMAGES)
    model.after.update(forward=0, backward=0)
    again = explain(model, images, methods=method, layer="net.4").attributions[method]
    assert torch.equal(again, explain(gap_net(), IMAGES, methods=method, layer="4").attributions[method])


# --- noisy images


def noisy(image, num_samples, noise, seed):
    """The copies of an image that SmoothGrad sees, from the same generator."""
    generator = torch.Generator().manual_seed(seed)
    sigma = noise * float(image.max() - image.min())
    return [image + sigma * torch.randn(1, *image.shape, generator=generator)[0].double() for _ in range(num_samples)]


@pytest.mark.parametrize("options", [{}, {"num_samples": 4, "noise": 0.3, "seed": 7}])
def test_smooth_grad_is_the_mean_gradient_of_the_noisy_copies(options):
    model = plain_net(nn.Softplus)
    found = explain(model, IMAGES, methods="smooth_grad", target=LABELS, method_options={"smooth_grad": options})
    options = {"num_samples": 25, "noise": 0.15, "seed": 0} | options
    for row, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        copies = noisy(image, **options)
        expected = sum(gradient(model, copy, label) for copy in copies) / len(copies)
        assert_alike(found.signed["smooth_grad"][row], expected)
        assert_alike(found.attributions["smooth_grad"][row, 0], expected.abs().amax(0))


def test_the_noise_has_the_size_that_is_asked_for_and_another_in_each_copy():
    seen, model = [], plain_net()
    model[0].register_forward_hook(lambda module, args, output: seen.append(args[0].detach()))
    options = {"num_samples": 50, "noise": 0.2}
    explain(model, IMAGES, methods="smooth_grad", method_options={"smooth_grad": options})
    noise = torch.stack(seen[1:]) - IMAGES  # the first pass is the shared one
    assert len(noise) == 50
    for row, image in enumerate(IMAGES):
        sigma = 0.2 * float(image.max() - image.min())
        assert abs(float(noise[:, row].std()) / sigma - 1) < 0.03
        assert abs(float(noise[:, row].mean())) < 0.03 * sigma
    one, other = noise[0, 0].flatten(), noise[1, 0].flatten()
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.3


@pytest.mark.parametrize("method", ["smooth_grad", "smooth_grad_cam_plus_plus"])
def test_noise_comes_from_its_own_seed_and_no_global_random_state(method):
    def maps(**options):
        return explain(
            gap_net(), IMAGES, methods=method, layer="2", target=1, method_options={method: options}
        ).attributions[method]

    def set_states(seed):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)

    model, found = gap_net(), []
    for seed in (1, 2):
        set_states(seed)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        found.append(explain(model, IMAGES, methods=method, layer="2", target=1).attributions[method])
        assert same(before, (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], maps(seed=0))
    assert torch.equal(maps(seed=5), maps(seed=5))
    assert not torch.allclose(maps(seed=5), maps(seed=0))


def test_without_noise_the_methods_are_those_without_it():
    still = {"noise": 0.0, "num_samples": 3}
    pairs = {"smooth_grad": "saliency", "smooth_grad_cam_plus_plus": "grad_cam_plus_plus"}
    found = explain(
        gap_net(), IMAGES, methods=[*pairs, *pairs.values()], target=LABELS, method_options=dict.fromkeys(pairs, still)
    ).attributions
    for one, other in pairs.items():
        assert_alike(found[one], found[other])


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


def loops_smooth_grad_cam_plus_plus(model, layer, image, label, copies):
    A = model[: layer + 1](image[None])[0].detach()
    gs = [map_and_gradient(model, layer, copy, label)[1] for copy in copies]
    weights = []
    for k in range(len(A)):
        total, weight = sum(A[k, a, b] for a, b in positions(A)), 0.0
        for i, j in positions(A):
            first = sum(float(g[k, i, j]) for g in gs) / len(gs)
            second = sum(float(g[k, i, j]) ** 2 for g in gs) / len(gs)
            third = sum(float(g[k, i, j]) ** 3 for g in gs) / len(gs)
            denominator = 2 * second + total * third
            weight += max(first, 0.0) * (second / denominator if denominator != 0 else 0.0)
        weights.append(weight)
    return relu(weighted(A, weights))


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("options", [{}, {"num_samples": 3, "noise": 0.4, "seed": 2}])
def test_smooth_grad_cam_plus_plus_takes_the_means_of_the_powers_over_the_noisy_copies(layer, options):
    model, method = plain_net(nn.Tanh if layer == 3 else nn.ReLU), "smooth_grad_cam_plus_plus"
    found = explain(
        model, IMAGES, methods=method, layer=str(layer), target=LABELS, method_options={method: options}
    ).attributions[method]
    options = {"num_samples": 25, "noise": 0.15, "seed": 0} | options
    for row, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        expected = loops_smooth_grad_cam_plus_plus(model, layer, image, label, noisy(image, **options))
        assert_alike(found[row, 0], expected)


@pytest.mark.parametrize("size", [1e-8, 1e-14])
def test_smooth_grad_cam_plus_plus_keeps_tiny_gradients(size):
    model, images, method = plain_net().float(), IMAGES.float(), "smooth_grad_cam_plus_plus"
    with torch.no_grad():
        model[8].weight *= size
    exact = plain_net()
    with torch.no_grad():
        exact[8].weight *= size
    found = explain(model, images, methods=method, layer="3", target=LABELS).heatmaps()[method]
    for row, (image, label) in enumerate(zip(images.double(), LABELS, strict=True)):
        expected = loops_smooth_grad_cam_plus_plus(exact, 3, image, label, noisy(image, 25, 0.15, 0))
        expected = loops_bilinear(expected / expected.max(), 10, 8)
        torch.testing.assert_close(found[row, 0].double(), expected / expected.max(), rtol=1e-4, atol=1e-4)


# --- along a path


class Polynomial(nn.Module):
    """score_k = Σ_i a_ki x_i + x·M_k x, and with a third power Σ_i d_ki x_i³."""

    def __init__(self, cubic=False):
        super().__init__()
        torch.manual_seed(3)
        size = 2 * 3 * 4
        self.a, self.d = (nn.Parameter(torch.randn(3, size, dtype=torch.float64)) for _ in range(2))
        self.M, self.cubic = nn.Parameter(torch.randn(3, size, size, dtype=torch.float64)), cubic

    def forward(self, images):
        x = images.flatten(1)
        quadratic = torch.einsum("ki,ni->nk", self.a, x) + torch.einsum("ni,kij,nj->nk", x, self.M, x)
        return quadratic + torch.einsum("ki,ni->nk", self.d, x**3) if self.cubic else quadratic

    def integrated(self, image, label, start):
        """In closed form: the mean of the gradient along the line, term by term."""
        x, a, d, M = image.flatten().tolist(), self.a[label].tolist(), self.d[label].tolist(), self.M[label].tolist()
        found = []
        for i in range(len(x)):
            middle = [(value + start) / 2 for value in x]
            slope = a[i] + sum((M[i][j] + M[j][i]) * middle[j] for j in range(len(x)))
            rise = d[i] * (x[i] ** 3 - start**3) if self.cubic else 0.0
            found.append((x[i] - start) * slope + rise)
        return torch.tensor(found, dtype=torch.float64).reshape(image.shape)


@pytest.mark.parametrize(("cubic", "steps"), [(False, 1), (False, 32), (True, 2), (True, 32)])
@pytest.mark.parametrize("baseline", [0.0, -0.7])
def test_integrated_gradients_of_a_polynomial_are_exact(cubic, steps, baseline):
    model, images = Polynomial(cubic), IMAGES[:, :, :3, :4]
    options = {"integrated_gradients": {"steps": steps, "baseline": baseline}}
    found = explain(model, images, methods="integrated_gradients", target=LABELS, method_options=options)
    for row, (image, label) in enumerate(zip(images, LABELS, strict=True)):
        expected = model.integrated(image, label, baseline)
        assert_alike(found.signed["integrated_gradients"][row], expected)
        assert_alike(found.attributions["integrated_gradients"][row, 0], expected.sum(0))
    assert float(found.notes["integrated_gradients/completeness_error"].max()) < 1e-9


@pytest.mark.parametrize("baseline", [0.0, 0.5])
def test_integrated_gradients_sum_to_the_rise_of_the_score_and_note_how_well(baseline):
    model, options = plain_net(), {"integrated_gradients": {"baseline": baseline}}
    found = explain(model, IMAGES, methods="integrated_gradients", target=LABELS, method_options=options)
    noted = found.notes["integrated_gradients/completeness_error"]
    assert noted.shape == (3,)
    for row, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        signed = found.signed["integrated_gradients"][row].double()
        rise = score(model, image, label) - score(model, torch.full_like(image, baseline), label)
        error = abs(float(signed.sum()) - rise) / float(signed.abs().sum())
        assert 0 < error < 0.01
        assert float(noted[row]) == pytest.approx(error, abs=1e-6)


def test_too_few_steps_on_a_curved_model_are_warned_of():
    model, images = Polynomial(cubic=True), IMAGES[:, :, :3, :4]
    with pytest.warns(UserWarning, match=r"do not sum to the rise of its score within 1%: take more `steps`"):
        found = explain(
            model, images, methods="integrated_gradients", method_options={"integrated_gradients": {"steps": 1}}
        )
    assert float(found.notes["integrated_gradients/completeness_error"].max()) > 0.01


def test_a_rise_that_no_step_has_seen_is_an_infinite_error():
    class Late(nn.Module):
        def forward(self, images):
            total = (images.mean((1, 2, 3)) - 0.7).relu()  # flat at the middle of the path
            return torch.stack([total, -total], 1)

    options = {"integrated_gradients": {"steps": 1}}
    with pytest.warns(UserWarning, match="take more `steps`"):
        found = explain(
            Late(), torch.ones(2, 1, 3, 3), methods="integrated_gradients", target=0, method_options=options
        )
    assert found.notes["integrated_gradients/completeness_error"].isinf().all()
    flat = explain(Late(), torch.zeros(2, 1, 3, 3), methods="integrated_gradients", target=0, method_options=options)
    assert flat.notes["integrated_gradients/completeness_error"].tolist() == [0.0, 0.0]


# --- changed images and activations


def loops_score_cam(model, layer, image, label):
    A = model[: layer + 1](image[None])[0].detach()
    scores = []
    for k in range(len(A)):
        mask = loops_bilinear(A[k], *image.shape[1:])
        if mask.min() == mask.max():
            scores.append(None)
            continue
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        scores.append(score(model, image * mask, label) - score(model, torch.zeros_like(image), label))
    total = sum(np.exp(value) for value in scores if value is not None)
    weights = [np.exp(value) / total if value is not None else 0.0 for value in scores]
    return relu(weighted(A, torch.tensor(weights)))


def loops_ablation_cam(model, layer, image, label):
    A = model[: layer + 1](image[None])[0].detach()
    whole, weights = score(model, image, label), []
    for k in range(len(A)):
        without = A.clone()
        without[k] = 0
        with torch.no_grad():
            weights.append((whole - float(model[layer + 1 :](without[None])[0, label])) / abs(whole))
    return relu(weighted(A, weights))


@pytest.mark.parametrize("layer", [0, 1, 3])
@pytest.mark.parametrize(("method", "loops"), [("score_cam", loops_score_cam), ("ablation_cam", loops_ablation_cam)])
@pytest.mark.parametrize("chunk_size", [None, 2])  # fewer than the channels
def test_methods_that_try_out_channels_are_their_loops(method, loops, layer, chunk_size):
    model = plain_net()
    with torch.no_grad():
        model[8].weight *= 5  # so that the channels differ in their scores
    found = explain(model, IMAGES, methods=method, layer=str(layer), target=LABELS, chunk_size=chunk_size)
    for row, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        assert_alike(found.attributions[method][row, 0], loops(model, layer, image, label))


def test_a_constant_channel_takes_no_part_in_score_cam():
    model = plain_net()
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = 50  # softmax(S) would give it a share, and A such a weight that nothing else is seen
    found = explain(model, IMAGES, methods="score_cam", layer="1", target=LABELS).attributions["score_cam"]
    for row, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        assert_alike(found[row, 0], loops_score_cam(model, 1, image, label))
    with torch.no_grad():
        model[0].weight.zero_()
    assert not explain(model, IMAGES, methods="score_cam", layer="1").attributions["score_cam"].any()


def test_ablation_cam_has_the_sign_of_what_a_channel_does_for_the_score_also_where_that_is_negative():
    model = plain_net()
    with torch.no_grad():
        model[8].bias -= 10
    found = explain(model, IMAGES, methods="ablation_cam", layer="3", target=LABELS)
    assert (found.scores < 0).all()
    for row, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        expected = loops_ablation_cam(model, 3, image, label)
        assert_alike(found.attributions["ablation_cam"][row, 0], expected)


@pytest.mark.parametrize("in_place", [False, True, None])
@pytest.mark.parametrize("method", ["ablation_cam", "score_cam", "smooth_grad_cam_plus_plus"])
def test_further_passes_read_and_change_a_layer_after_its_activation_where_that_was_found(method, in_place):
    activate = as_statement if in_place is None else partial(F.relu, inplace=in_place)
    found = explain(Calling(activate), IMAGES, methods=method, target=LABELS)
    assert found.layer == "net.3:activated"
    expected = explain(plain_net(), IMAGES, methods=method, target=LABELS, layer="4")
    assert_alike(found.attributions[method], expected.attributions[method])


def loops_occlusion(model, image, label, size, stride, fill):
    height, width = image.shape[1:]
    tops, lefts = (
        sorted({start for start in range(length) if start % stride == 0 and start + size <= length} | {length - size})
        for length in (height, width)
    )
    drops = {(i, j): [] for i in range(height) for j in range(width)}
    for top, left in product(tops, lefts):
        covered = image.clone()
        for c, i, j in product(range(len(image)), range(top, top + size), range(left, left + size)):
            covered[c, i, j] = fill
        drop = score(model, image, label) - score(model, covered, label)
        for i, j in product(range(top, top + size), range(left, left + size)):
            drops[i, j].append(drop)
    L = torch.zeros(height, width, dtype=torch.float64)
    for at, values in drops.items():
        L[at] = sum(values) / len(values) if values else 0.0
    return L


@pytest.mark.parametrize(
    ("options", "size", "stride", "fill"),
    [
        ({}, 1, 1, 0.0),
        ({"size": 3}, 3, 1, 0.0),
        ({"size": 4, "stride": 3, "fill": 0.5}, 4, 3, 0.5),
        ({"size": 8, "stride": 5, "fill": -1}, 8, 5, -1.0),
        ({"size": 20}, 8, 4, 0.0),  # at most the image's shorter side
        ({"size": 2, "stride": 3}, 2, 3, 0.0),  # some pixels are never covered
    ],
)
def test_occlusion_is_the_mean_drop_of_the_score_over_the_squares_on_a_pixel(options, size, stride, fill):
    model = plain_net()
    found = explain(model, IMAGES, methods="occlusion", target=LABELS, method_options={"occlusion": options})
    for row, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        expected = loops_occlusion(model, image, label, size, stride, fill)
        assert_alike(found.attributions["occlusion"][row, 0], expected)
    assert found.signed == {}


def test_the_square_that_covers_is_an_eighth_of_the_shorter_side_and_moves_by_half_of_that():
    image = torch.randn(2, 33, 17, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = explain(gap_net(), image[None], methods="occlusion", target=2).attributions["occlusion"]
    assert_alike(found[0, 0], loops_occlusion(gap_net().eval(), image, 2, 2, 1, 0.0))


# --- options


def loops_reduce(values, how):
    """One map of the channels' signed values."""
    L = torch.zeros(values.shape[1:])
    for i, j in positions(values):
        column = values[:, i, j].tolist()
        L[i, j] = {
            "absolute": max(abs(value) for value in column),
            "signed": max(column, key=abs),
            "positive": max(*column, 0.0),
            "sum": sum(column),
        }[how]
    return L


@pytest.mark.parametrize("how", [None, "absolute", "signed", "positive", "sum"])
@pytest.mark.parametrize("method", REDUCED)
def test_the_channels_become_one_map_as_the_option_says(method, how):
    model = gap_net()
    options = {} if how is None else {method: {"reduce": how}}
    found = explain(model, IMAGES, methods=method, target=LABELS, method_options=options)
    signed, maps = found.signed[method], found.attributions[method]
    assert signed.shape == IMAGES.shape
    assert signed.dtype == torch.float32
    default = "sum" if method in ("input_x_gradient", "integrated_gradients") else "absolute"
    for row in range(3):
        assert_alike(maps[row, 0], loops_reduce(signed[row], how or default))
    if method == "saliency":
        expected = torch.stack([gradient(model.eval(), *pair) for pair in zip(IMAGES, LABELS, strict=True)])
        assert_alike(signed, expected)


def test_methods_that_read_a_layer_have_no_signed_values():
    assert list(explain(gap_net(), IMAGES, methods=METHODS).signed) == REDUCED


@pytest.mark.parametrize(
    ("methods", "options", "says"),
    [
        ("saliency", {"smooth_grad": {}}, r"`method_options` for the methods saliency, got 'smooth_grad'"),
        ("saliency", {"salience": {}}, r"`method_options` for the methods saliency, got 'salience'"),
        ("saliency", {"saliency": {"seed": 1}}, r"options of 'saliency' in `method_options` out of reduce, got 'seed'"),
        ("cam", {"cam": {"principal": True}}, r"options of 'cam' in `method_options` out of none, got 'principal'"),
        ("score_cam", {"score_cam": {"reduce": "sum"}}, r"options of 'score_cam' in `method_options` out of none"),
        (
            "smooth_grad",
            {"smooth_grad": {"samples": 3}},
            r"'smooth_grad' .* out of num_samples, noise, seed, reduce, got 'samples'",
        ),
        ("saliency", {"saliency": {"reduce": "max"}}, r"`reduce` .* absolute, signed, positive, sum.* got 'max'"),
        ("grad_cam", {"grad_cam": {"principal": "yes"}}, r"`principal` .* got 'yes'"),
        ("smooth_grad", {"smooth_grad": {"num_samples": 0}}, r"`num_samples` .* got 0"),
        ("smooth_grad", {"smooth_grad": {"num_samples": 2.5}}, r"`num_samples` .* got 2.5"),
        ("smooth_grad", {"smooth_grad": {"noise": -0.1}}, r"`noise` .* got -0.1"),
        ("smooth_grad", {"smooth_grad": {"seed": "a"}}, r"`seed` .* got 'a'"),
        (
            "smooth_grad_cam_plus_plus",
            {"smooth_grad_cam_plus_plus": {"num_samples": 0}},
            r"`num_samples` .* got 0",
        ),
        ("integrated_gradients", {"integrated_gradients": {"steps": 0}}, r"`steps` .* got 0"),
        ("integrated_gradients", {"integrated_gradients": {"baseline": "blur"}}, r"`baseline` .* got 'blur'"),
        ("occlusion", {"occlusion": {"size": 0}}, r"`size` .* got 0"),
        ("occlusion", {"occlusion": {"stride": -1}}, r"`stride` .* got -1"),
        ("occlusion", {"occlusion": {"fill": None}}, r"`fill` .* got None"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(methods, options, says):
    with pytest.raises(ValueError, match=says):
        explain(gap_net(), IMAGES, methods=methods, method_options=options)


def weighted_maps(method, A, g):
    """w_k A_k of each channel: what the methods add up."""
    Z, total = A.shape[1] * A.shape[2], A.sum((1, 2), keepdim=True)
    return {
        "grad_cam": g.sum((1, 2), keepdim=True) / Z * A,
        "grad_cam_plus_plus": (g.clamp(min=0) / (2 + g * total)).sum((1, 2), keepdim=True) * A,
        "hires_cam": g * A,
        "layer_cam": g.clamp(min=0) * A,
        "xgrad_cam": (g * A).sum((1, 2), keepdim=True) / total * A,
    }[method]


@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize("method", CAMS)
def test_principal_shows_the_first_singular_component_with_the_sign_of_the_sum(method, layer):
    model, options = plain_net(nn.Tanh), {method: {"principal": True}}
    found = explain(model, IMAGES, methods=method, layer=str(layer), target=LABELS, method_options=options)
    shown = 0
    for row, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        A, g = map_and_gradient(model, layer, image, label)
        terms = weighted_maps(method, A, g)
        torch.testing.assert_close(relu(terms.sum(0)), LOOPS[method](A, g))
        matrix = terms.flatten(1).T  # positions × channels, uncentred
        U, S, _ = torch.linalg.svd(matrix, full_matrices=False)
        component = (U[:, 0] * S[0]).reshape(A.shape[1:])
        if (component * terms.sum(0)).sum() < 0:
            component = -component
        map_, expected = found.attributions[method][row, 0].double(), relu(component)
        torch.testing.assert_close(map_, expected, rtol=0, atol=1e-5 * float(component.abs().max()))
        shown += bool(expected.any())
    assert shown > 1  # not blank by chance


# --- several layers


class Counted(torch.autograd.Function):
    """The identity, which counts its backward calls."""

    @staticmethod
    def forward(ctx, tensor, counts):
        ctx.counts = counts
        return tensor.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.counts["backward"] += 1
        return grad, None


class Counting(nn.Module):
    """Counts how often it runs forward and backward."""

    def __init__(self, net):
        super().__init__()
        self.net, self.counts = net, {"forward": 0, "backward": 0}

    def forward(self, images):
        self.counts["forward"] += 1
        return Counted.apply(self.net(images), self.counts)


class Branches(nn.Module):
    """Two branches that see the same map, or the image itself, and nothing of each other."""

    def __init__(self, stem):
        super().__init__()
        torch.manual_seed(4)
        self.stem = nn.Conv2d(2, 2, 3) if stem else nn.Identity()
        self.wide, self.fine = nn.Conv2d(2, 3, 4, padding=1), nn.Conv2d(2, 4, 2, stride=2)
        self.relu, self.linear = nn.ReLU(), nn.Linear(7, 3)

    def forward(self, images):
        features = self.stem(images)
        branches = self.relu(self.wide(features)), torch.tanh(self.fine(features))
        return self.linear(torch.cat([branch.square().mean((2, 3)) for branch in branches], 1))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("methods", [["eigen_cam"], CAMS, [*CAMS, "saliency"]])
@pytest.mark.parametrize(
    ("net", "layers"),
    [
        (gap_net, ["net.0", "net.2", "net.5"]),
        (gap_net, ["net.5", "net.0"]),
        (partial(Branches, stem=False), ["net.wide", "net.fine"]),
        (partial(Branches, stem=True), ["net.fine", "net.stem", "net.wide"]),
    ],
    ids=["in order", "the last first", "branches", "branches of a stem"],
)
def test_several_layers_are_read_from_one_pass_and_each_gives_what_it_gives_alone(net, layers, methods, frozen):
    model = Counting(net().double()).requires_grad_(not frozen)
    found = explain(model, IMAGES, methods=methods, layer=layers, target=LABELS)
    assert model.counts == {"forward": 1, "backward": int(methods != ["eigen_cam"])}
    assert found.layers == tuple(layers)
    assert found.layer == ", ".join(layers)
    at_layers = [key for key in methods if METHODS[key].reads_layer]
    inputs = ["saliency"] if "saliency" in methods else []
    assert list(found.attributions) == [f"{key}@{name}" for key in at_layers for name in layers] + inputs
    for name in layers:
        alone = explain(model, IMAGES, methods=methods, layer=name, target=LABELS).attributions
        for key in at_layers:
            assert_alike(found.attributions[f"{key}@{name}"], alone[key])
        for key in inputs:
            assert_alike(found.attributions[key], alone[key])


def test_methods_of_further_passes_read_several_layers_too():
    layers, methods = ["2", "5"], ["score_cam", "ablation_cam", "smooth_grad_cam_plus_plus", "guided_grad_cam"]
    found = explain(gap_net(), IMAGES, methods=methods, layer=layers, target=LABELS)
    assert list(found.signed) == [f"guided_grad_cam@{name}" for name in layers]
    for name in layers:
        alone = explain(gap_net(), IMAGES, methods=methods, layer=name, target=LABELS)
        for key in methods:
            assert_alike(found.attributions[f"{key}@{name}"], alone.attributions[key])


def test_one_layer_in_a_list_keeps_the_plain_key_and_modules_are_named():
    model = gap_net()
    found = explain(model, IMAGES, methods=["grad_cam", "saliency"], layer=[model[5]], fuse="mean")
    assert list(found.attributions) == ["grad_cam", "saliency"]
    assert_all_alike(found.attributions, explain(model, IMAGES, methods=["grad_cam", "saliency"]).attributions)
    found = explain(model, IMAGES, layer=[model[2], "5"])
    assert list(found.attributions) == ["grad_cam@2", "grad_cam@5"]
    assert explain(model, IMAGES, methods="saliency", layer=[model[2], "5"]).layers == ()


def test_a_layer_named_twice_or_a_wrong_fuse_is_refused():
    model = gap_net()
    for layers in (["2", "2"], ["5", "2", model[5]], []):
        with pytest.raises(ValueError, match="Expected `layer` to name different layers, got"):
            explain(model, IMAGES, layer=layers)
    with pytest.raises(ValueError, match="`fuse` to be one of mean, max, None, got 'median'"):
        explain(model, IMAGES, layer=["2", "5"], fuse="median")
    with pytest.raises(ValueError, match="`layer` to name a module of Sequential, got '9'"):
        explain(model, IMAGES, layer=["2", "9"])


def test_a_layer_that_the_score_does_not_depend_on_is_named():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.idle = gap_net(), nn.Conv2d(2, 3, 3).double()

        def forward(self, images):
            self.idle(images)
            return self.net(images)

    with pytest.raises(ValueError, match=r"does not depend on the output of .*'idle'"):
        explain(Idle(), IMAGES, layer=["net.5", "idle"])


@pytest.mark.parametrize("fuse", ["mean", "max"])
@pytest.mark.parametrize("layers", [["2", "4", "5"], ["5", "2"]])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_fused_maps_are_rectified_brought_to_the_finest_size_divided_by_their_maximum_and_joined(
    fuse, layers, chunk_size
):
    methods = ["cam", "layer_cam", "eigen_cam"] if layers == ["5"] else ["grad_cam", "eigen_cam", "xgrad_cam"]
    options = {"methods": methods, "target": LABELS}
    fused = explain(gap_net(), IMAGES, layer=layers, fuse=fuse, chunk_size=chunk_size, **options).attributions
    assert list(fused) == methods
    for method in methods:
        assert fused[method].shape == (3, 1, 8, 6)
        for row in range(3):
            maps = []
            for layer in layers:
                raw = explain(gap_net(), IMAGES, layer=layer, **options).attributions[method][row, 0].double()
                L = loops_bilinear(relu(raw), 8, 6)
                maps.append(L / L.max() if L.max() > 0 else L)
            expected = torch.zeros(8, 6)
            for i, j in product(range(8), range(6)):
                values = [float(L[i, j]) for L in maps]
                expected[i, j] = sum(values) / len(values) if fuse == "mean" else max(values)
            assert_alike(fused[method][row, 0], expected)


# --- mirrored images


@pytest.mark.parametrize("target", [None, LABELS, lambda logits: logits[:, 1] - logits[:, 0]])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_flip_shows_the_mean_of_the_map_and_the_mirrored_map_of_the_mirrored_image(target, chunk_size):
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(30, 3)
    ).double()
    methods = ["grad_cam", "eigen_cam", "ablation_cam", "saliency", "integrated_gradients", *RECTIFIED]
    images = torch.randn(6, 2, 10, 8, dtype=torch.float64)
    target = LABELS * 2 if target is LABELS else target
    options = {"methods": methods, "layer": "3", "chunk_size": chunk_size}
    found = explain(model, images, target=target, flip=True, **options)
    plain = explain(model, images, target=target, **options)
    mirror = images.flip(3)
    predicted, mirrored_class = plain.predictions, explain(model, mirror).predictions
    assert not torch.equal(predicted, mirrored_class)
    mirrored = explain(model, mirror, target=predicted if target is None else target, **options)
    for method in methods:
        one, other = plain.attributions[method], mirrored.attributions[method]
        expected = torch.zeros_like(one)
        for j in range(one.shape[3]):
            expected[..., j] = (one[..., j] + other[..., one.shape[3] - 1 - j]) / 2
        assert_alike(found.attributions[method], expected)
    for method in found.signed:
        assert_alike(found.signed[method], (plain.signed[method] + mirrored.signed[method].flip(3)) / 2)
    torch.testing.assert_close(found.logits, plain.logits)
    torch.testing.assert_close(found.scores, plain.scores)
    assert torch.equal(found.images, images)
    assert found.classes is None if plain.classes is None else torch.equal(found.classes, plain.classes)


def test_flip_makes_the_map_of_a_mirrored_image_the_mirrored_map():
    model, methods = gap_net(), ["grad_cam", "saliency", "occlusion", "input_x_gradient"]
    options = {"methods": methods, "target": LABELS, "layer": ["0", "2"], "fuse": "mean", "flip": True}
    one = explain(model, IMAGES, **options).attributions
    other = explain(model, IMAGES.flip(3), **options).attributions
    assert_all_alike({key: maps.flip(3) for key, maps in other.items()}, one)


# --- models that end in a softmax


class Ended(nn.Module):
    """A model with something behind its logits."""

    def __init__(self, net, end):
        super().__init__()
        self.net, self.end = net, end

    def forward(self, images):
        return self.end(self.net(images))


def written_out(logits):
    exponentials = (logits - logits.amax(1, keepdim=True)).exp()
    return exponentials / exponentials.sum(1, keepdim=True)


SOFTENED = {
    "nn.Softmax": nn.Softmax(dim=1),
    "nn.Softmax(-1)": nn.Softmax(dim=-1),
    "nn.LogSoftmax": nn.LogSoftmax(dim=1),
    "F.softmax": partial(F.softmax, dim=1),
    "F.log_softmax": partial(F.log_softmax, dim=1),
    "torch.softmax": partial(torch.softmax, dim=1),
    "torch.log_softmax": lambda logits: torch.log_softmax(input=logits, dim=1),
    "Tensor.softmax": lambda logits: logits.softmax(1),
    "Tensor.log_softmax": lambda logits: logits.log_softmax(-1),
    "in a dict": lambda logits: {"probabilities": logits.softmax(1)},
    "in a tuple": lambda logits: (logits.softmax(1), logits.mean()),
    "as a map": lambda logits: F.softmax(logits[:, :, None, None], dim=1),
    "squeezed": lambda logits: logits[:, :, None, None].softmax(1).squeeze(-1).squeeze(-1),
}
SAYS = r"returns probabilities.*: what goes into its softmax is explained instead"


@pytest.mark.parametrize("end", SOFTENED.values(), ids=SOFTENED)
def test_a_softmax_at_the_end_is_seen_through(end):
    expected = explain(gap_net(), IMAGES, methods=METHODS, layer="5")
    model = Ended(gap_net(), end)
    with pytest.warns(UserWarning, match=SAYS) as warned:
        found = explain(model, IMAGES, methods=METHODS)
    assert len(warned) == 1  # of all passes only the first
    assert found.layer == "net.5"
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.scores, expected.scores)
    torch.testing.assert_close(found.probabilities, expected.logits.softmax(1))
    assert_all_alike(found.attributions, expected.attributions)
    assert_all_alike(found.signed, expected.signed)
    with pytest.warns(UserWarning, match=SAYS):
        alone = explain(model, IMAGES[:1], layer="net.5")
    assert_alike(alone.attributions["grad_cam"], expected.attributions["grad_cam"][:1])


@pytest.mark.parametrize("end", ["nn.Softmax", "nn.LogSoftmax", "F.softmax", "in a dict"])
@pytest.mark.parametrize("saturated", ["nearly", "wholly"])
def test_a_saturated_softmax_is_seen_through(end, saturated):
    images = IMAGES[:1] if saturated == "nearly" else IMAGES.float()
    net = gap_net().to(images.dtype).eval()
    with torch.no_grad():
        highest, second = net(images)[0].topk(2).values.tolist()
        net[7].linear.weight *= 20.7 / (highest - second) if saturated == "nearly" else 1e5
        net[7].linear.bias *= 20.7 / (highest - second) if saturated == "nearly" else 1e5
        top = net(images).softmax(1).amax(1)
    assert ((top < 1) & (top > 1 - 1e-8)).all() if saturated == "nearly" else (top == 1).all()
    expected = explain(net, images, methods=METHODS, layer="5")
    with pytest.warns(UserWarning, match=SAYS):
        found = explain(Ended(net, SOFTENED[end]), images, methods=METHODS, layer="net.5")
    assert not any(blank_reasons(found.attributions["saliency"]))
    assert_all_alike(found.attributions, expected.attributions)
    torch.testing.assert_close(found.logits, expected.logits)


@pytest.mark.parametrize(
    "end",
    [
        written_out,
        lambda logits: {"probs": written_out(logits)},
        lambda logits: torch.cat([1 - logits[:, :1].sigmoid(), logits[:, :1].sigmoid()], 1),
        lambda logits: (logits.softmax(1) + (2 * logits).softmax(1)) / 2,  # an ensemble
    ],
)
def test_of_probabilities_of_which_no_softmax_is_seen_the_logarithm_is_explained(end):
    def logarithm(logits):
        output = end(logits)
        return (output["probs"] if isinstance(output, dict) else output).log()

    methods = [key for key in METHODS if key != "cam"]  # W·mean(A) + b are no logarithms of probabilities
    expected = explain(Ended(gap_net(), logarithm), IMAGES, methods=methods)
    with pytest.warns(UserWarning, match=r"returns probabilities.*: their logarithm is explained instead"):
        found = explain(Ended(gap_net(), end), IMAGES, methods=methods)
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.probabilities, expected.logits.exp())
    assert_all_alike(found.attributions, expected.attributions)


@pytest.mark.parametrize("end", ["nn.Softmax", "F.log_softmax", "written out"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_image_leaves_the_softmax_of_the_others_seen_through(end, value):
    model = Ended(gap_net(), SOFTENED.get(end, written_out))
    images, others, methods = IMAGES.clone(), [0, 2], ["grad_cam", "saliency", "score_cam"]
    images[1] = value
    with pytest.warns(UserWarning, match="returns probabilities"):
        expected = explain(model, IMAGES, methods=methods, target=LABELS)
    with pytest.warns(UserWarning, match="returns probabilities"):
        found = explain(model, images, methods=methods, target=LABELS)
    torch.testing.assert_close(found.logits[others], expected.logits[others])
    for method in methods:
        assert_alike(found.attributions[method][others], expected.attributions[method][others])


class Attention(nn.Module):
    """Softmaxes inside: over the positions, over as many as there are classes, and in a gate; plain logits."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.conv, self.query, self.gate = nn.Conv2d(2, 4, 3), nn.Linear(4, 4), nn.Linear(4, 3)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.pool, self.linear = nn.Linear(4, 1), nn.Linear(4, 3)

    def forward(self, images):
        tokens = self.conv(images).relu().flatten(2).mT
        tokens = tokens + (self.query(tokens) @ tokens.mT).softmax(2) @ tokens
        tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        pooled = (F.softmax(self.pool(tokens), dim=1) * tokens).sum(1)
        return self.linear(pooled) * torch.softmax(self.gate(pooled), 1)


def test_small_logits_in_half_precision_are_no_probabilities():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = gap_net()

        def forward(self, images):
            return self.net(images)[:, :2] * 0 + torch.tensor([0.3, 0.85], dtype=images.dtype)

    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        found = explain(Two().to(dtype), IMAGES, methods="saliency", target=0)  # a warning is an error
        torch.testing.assert_close(found.logits[0], torch.tensor([0.3, 0.85]), rtol=1e-2, atol=0)


class SingleLogit(Ended):
    def __init__(self):
        super().__init__(gap_net(1), lambda logit: logit.sigmoid())


class SumsToOne(Ended):
    def __init__(self):
        super().__init__(gap_net(), lambda logits: 10 * (logits - logits.mean(1, keepdim=True)) + 1 / 3)


@pytest.mark.parametrize("make", [Attention, gap_net, lambda: gap_net(1), SingleLogit, SumsToOne])
def test_models_that_return_logits_or_a_single_number_are_left_alone(make):
    model = make().double().eval()
    found = explain(model, IMAGES, methods=["grad_cam", "saliency", "occlusion"], target=1)  # a warning is an error
    with torch.no_grad():
        torch.testing.assert_close(found.logits, model(IMAGES))
    expected = torch.stack([gradient(model, image, min(1, found.logits.shape[1] - 1)) for image in IMAGES])
    assert_alike(found.signed["saliency"], expected)


# --- every method, everywhere


def callable_target(logits):
    return logits[torch.arange(len(logits)), torch.tensor(LABELS)]  # of each place in the batch another


@pytest.mark.parametrize("method", METHODS)
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
    expected = explain(gap_net().eval(), IMAGES, methods=METHODS, target=LABELS)
    predicted = explain(gap_net().eval(), IMAGES, methods=METHODS, target=expected.predictions)
    one = explain(gap_net().eval(), IMAGES, methods=METHODS, target=1)
    model = gap_net().train(train).requires_grad_(not frozen)
    before = state_of(model)
    with context():
        images = IMAGES.clone()  # in inference mode an inference tensor
        for target, there in (
            (LABELS, expected), (torch.tensor(LABELS), expected), (callable_target, expected), (None, predicted),
            (1, one),
        ):  # fmt: skip
            found = explain(model, images, methods=METHODS, target=target)
            assert_all_alike(found.attributions, there.attributions)
            assert_all_alike(found.signed, there.signed)
    after = state_of(model)
    for name in before:
        assert same(before[name], after[name]), name


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("context", [nullcontext, torch.inference_mode])
def test_every_method_works_on_a_single_logit_whose_sign_the_class_turns(frozen, context):
    model = gap_net(1).requires_grad_(not frozen)
    with context():
        images = IMAGES.clone()
        found = {label: explain(model, images, methods=METHODS, target=label) for label in (0, 1)}
        mixed = explain(model, images, methods=METHODS, target=[1, 0, 1])
        called = explain(model, images, methods=METHODS, target=lambda logits: -logits[:, 0])
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


def test_what_several_layers_make_of_a_signed_method_is_fused_as_the_maps_are():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), GAPHead(4, 3)).eval()
    images = torch.randn(2, 3, 9, 9)
    each = explain(model, images, methods="guided_grad_cam", layer=["1", "3"]).signed
    one, other = each["guided_grad_cam@1"], each["guided_grad_cam@3"]
    for fuse, expected in (("mean", (one + other) / 2), ("max", torch.where(one.abs() >= other.abs(), one, other))):
        found = explain(model, images, methods="guided_grad_cam", layer=["1", "3"], fuse=fuse).signed
        assert list(found) == ["guided_grad_cam"]
        torch.testing.assert_close(found["guided_grad_cam"], expected)


def test_the_maps_of_the_classes_are_mirrored_as_cam_is():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), GAPHead(4, 3)).eval()
    found = explain(model, torch.randn(2, 3, 9, 9), methods="cam", target=[0, 2], flip=True)
    torch.testing.assert_close(found.class_maps(torch.tensor([[0], [2]])), found.attributions["cam"])


def test_an_image_without_a_score_has_no_map_by_any_method():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.ReLU()]
    model = nn.Sequential(*body, GAPHead(4, 3)).eval()
    images = torch.randn(2, 3, 9, 9)
    images[1, 0, 4, 4] = torch.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # integrated gradients say that they are not complete
        blanks = {key: blank_reasons(raw) for key, raw in explain(model, images, methods=METHODS).attributions.items()}
    assert all(reasons == [None, "not finite"] for reasons in blanks.values()), blanks


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
def test_a_rectified_pass_goes_through_a_backbone_that_the_model_runs_without_a_graph(method):
    class Frozen(nn.Module):
        def __init__(self, cut):
            super().__init__()
            self.cut, self.body, self.head = cut, nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), GAPHead(4, 3)

        def forward(self, images):
            with torch.set_grad_enabled(not self.cut and torch.is_grad_enabled()):
                features = self.body(images)
            return self.head(features)

    torch.manual_seed(0)
    plain, frozen, images = Frozen(False), Frozen(True), torch.randn(2, 3, 9, 9)
    frozen.load_state_dict(plain.state_dict())
    expected, found = (explain(model, images, methods=method).attributions[method] for model in (plain, frozen))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("given", [["smooth_grad"], {"smooth_grad": None}, "smooth_grad"])
def test_options_that_are_no_dict_of_dicts_are_refused(given):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), GAPHead(4, 3))
    with pytest.raises(TypeError, match="`method_options` to be a dict of dicts"):
        explain(model, torch.randn(1, 3, 9, 9), methods="smooth_grad", method_options=given)
