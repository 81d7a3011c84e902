"""Methods in input space that read gradients: finite differences, noisy copies, a path; each in closed form."""

import random

import numpy as np
import pytest
import torch
from closed_forms import (
    gradient,
    loops_bilinear,
    map_and_gradient,
    positions,
    relu,
    score,
    weighted,
)
from networks import gap_net, plain_net
from states import assert_alike, assert_same, state_of
from torch import nn
from watching import SharedList

from lightning_saliency.attribution import explain

LABELS = [2, 0, 1]
IMAGES = torch.randn(3, 2, 10, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("method", ["saliency", "input_x_gradient"])
def test_the_input_gradient_is_what_finite_differences_say(method):
    torch.manual_seed(4)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GELU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)
    ).double()
    images = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    found = explain(model, images, methods=method, target=[2, 1]).attributions[method]
    step = 1e-5
    for image, label, L in zip(images, [2, 1], found, strict=True):
        slope = torch.zeros_like(image)
        for index in [(c, i, j) for c in range(3) for i, j in positions(image)]:
            shift = torch.zeros_like(image)
            shift[index] = step
            with torch.no_grad():
                above, below = model(image[None] + shift), model(image[None] - shift)
            slope[index] = (above - below)[0, label] / (2 * step)
        expected = slope.abs().max(0).values if method == "saliency" else (image * slope).sum(0)
        torch.testing.assert_close(L[0], expected.float(), rtol=1e-5, atol=1e-7)


def test_input_x_gradient_adds_up_to_the_score_of_a_piecewise_linear_network():
    torch.manual_seed(10)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 3, bias=False)
    ).double()
    images = torch.randn(3, 3, 6, 9, dtype=torch.float64)
    explanation = explain(model, images, methods="input_x_gradient")
    assert_alike(explanation.attributions["input_x_gradient"].sum((1, 2, 3)), explanation.scores)


def noisy(image, num_samples, noise, seed):
    """The copies of an image that SmoothGrad sees, from the same generator."""
    generator = torch.Generator().manual_seed(seed)
    sigma = noise * float(image.max() - image.min())
    return [image + sigma * torch.randn(1, *image.shape, generator=generator)[0].double() for _ in range(num_samples)]


@pytest.mark.parametrize("options", [{}, {"num_samples": 4, "noise": 0.3, "seed": 7}])
def test_smooth_grad_is_the_mean_gradient_of_the_noisy_copies(options):
    model = plain_net(nn.Softplus)
    found = explain(model, IMAGES, methods={"smooth_grad": options}, target=LABELS)
    options = {"num_samples": 25, "noise": 0.15, "seed": 0} | options
    for row, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        copies = noisy(image, **options)
        expected = sum(gradient(model, copy, label) for copy in copies) / len(copies)
        assert_alike(found.signed["smooth_grad"][row], expected)
        assert_alike(found.attributions["smooth_grad"][row, 0], expected.abs().amax(0))


def test_the_noise_has_the_size_that_is_asked_for_and_another_in_each_copy():
    seen, model = SharedList(), plain_net()
    model[0].register_forward_hook(lambda module, args, output: seen.append(args[0].detach()))
    options = {"num_samples": 50, "noise": 0.2}
    explain(model, IMAGES, methods={"smooth_grad": options})
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
        return explain(gap_net(), IMAGES, methods={method: options}, layer="2", target=1).attributions[method]

    def set_states(seed):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)

    model, found = gap_net(), []
    for seed in (1, 2):
        set_states(seed)
        before = state_of(model)
        found.append(explain(model, IMAGES, methods=method, layer="2", target=1).attributions[method])
        assert_same(state_of(model), before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], maps(seed=0))
    assert torch.equal(maps(seed=5), maps(seed=5))
    assert not torch.allclose(maps(seed=5), maps(seed=0))


def test_without_noise_the_methods_are_those_without_it():
    still = {"noise": 0.0, "num_samples": 3}
    pairs = {"smooth_grad": "saliency", "smooth_grad_cam_plus_plus": "grad_cam_plus_plus"}
    methods = {**dict.fromkeys(pairs, still), **dict.fromkeys(pairs.values())}
    found = explain(gap_net(), IMAGES, methods=methods, target=LABELS).attributions
    for one, other in pairs.items():
        assert_alike(found[one], found[other])


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
    found = explain(model, IMAGES, methods={method: options}, layer=str(layer), target=LABELS).attributions[method]
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
        # float32 throughout, for that is where the powers would underflow
        torch.testing.assert_close(found[row, 0].double(), expected / expected.max(), rtol=1e-4, atol=1e-4)


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
    found = explain(model, images, methods=options, target=LABELS)
    for row, (image, label) in enumerate(zip(images, LABELS, strict=True)):
        expected = model.integrated(image, label, baseline)
        assert_alike(found.signed["integrated_gradients"][row], expected)
        assert_alike(found.attributions["integrated_gradients"][row, 0], expected.sum(0))
    assert float(found.notes["integrated_gradients/completeness_error"].max()) < 1e-9


@pytest.mark.parametrize("baseline", [0.0, 0.5])
def test_integrated_gradients_sum_to_the_rise_of_the_score_and_note_how_well(baseline):
    model, options = plain_net(), {"integrated_gradients": {"baseline": baseline}}
    found = explain(model, IMAGES, methods=options, target=LABELS)
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
        found = explain(model, images, methods={"integrated_gradients": {"steps": 1}})
    assert float(found.notes["integrated_gradients/completeness_error"].max()) > 0.01


def test_a_rise_that_no_step_has_seen_is_an_infinite_error():
    class Late(nn.Module):
        def forward(self, images):
            total = (images.mean((1, 2, 3)) - 0.7).relu()  # flat at the middle of the path
            return torch.stack([total, -total], 1)

    options = {"integrated_gradients": {"steps": 1}}
    with pytest.warns(UserWarning, match="take more `steps`"):
        found = explain(Late(), torch.ones(2, 1, 3, 3), methods=options, target=0)
    assert found.notes["integrated_gradients/completeness_error"].isinf().all()
    flat = explain(Late(), torch.zeros(2, 1, 3, 3), methods=options, target=0)
    assert flat.notes["integrated_gradients/completeness_error"].tolist() == [0.0, 0.0]
