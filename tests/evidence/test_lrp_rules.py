"""Each rule of relevance propagation on one operation, against its formula written out in loops, in float64."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_saliency.evidence.lrp import lrp_rules


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MATRIX, OTHER, THIRD = (random(8, 8, seed=seed) for seed in (2, 3, 4))


def propagated(function, x, gamma=0.25):
    """g̃ at x, and g behind the function, whose score weighs each of its outputs by a number."""
    x = x.clone().requires_grad_()
    y = function(x)
    weights = random(*y.shape, seed=1)
    score = (y * weights).sum()
    with lrp_rules(score, x, gamma=gamma):
        (gradient,) = torch.autograd.grad(score, x)
    return gradient, weights


def phi(x):
    return (1 + math.erf(x / math.sqrt(2))) / 2


def tanh_phi(x):
    return (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def softplus(x):
    return math.log1p(math.exp(x))


def expm1_ratio(x):
    return 1.0 if x >= 0 else math.expm1(x) / x


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
SLOPES = {
    "GELU": (F.gelu, phi),
    "GELU by tanh": (lambda x: F.gelu(x, approximate="tanh"), tanh_phi),
    "GELU written out": (lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))), phi),
    "GELU by tanh written out": (
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3)))),
        tanh_phi,
    ),
    "quick GELU": (lambda x: x * torch.sigmoid(1.702 * x), lambda x: sigmoid(1.702 * x)),
    "SiLU": (F.silu, sigmoid),
    "SiLU in place": (lambda x: F.silu(x.clone(), inplace=True), sigmoid),
    "SiLU written out": (lambda x: x.sigmoid() * x, sigmoid),
    "SiLU by exp": (lambda x: x / (1 + torch.exp(-x)), sigmoid),
    "Mish": (F.mish, lambda x: math.tanh(softplus(x))),
    "Mish written out": (lambda x: x.mul(F.softplus(x).tanh()), lambda x: math.tanh(softplus(x))),
    "Hardswish": (F.hardswish, lambda x: min(max(x + 3, 0), 6) / 6),
    "Hardswish written out": (lambda x: x * F.relu6(x + 3) / 6, lambda x: min(max(x + 3, 0), 6) / 6),
    "ELU": (F.elu, expm1_ratio),
    "ELU in place": (lambda x: F.elu(x.clone(), inplace=True), expm1_ratio),
    "SELU": (F.selu, lambda x: SELU_SCALE * (1 if x > 0 else SELU_ALPHA * expm1_ratio(x))),
    "CELU": (lambda x: F.celu(x, 0.5), lambda x: expm1_ratio(2 * x)),
    "tanh": (torch.tanh, lambda x: math.tanh(x) / x if x else 1.0),
    "ReLU": (F.relu, lambda x: float(x > 0)),
    "ReLU6": (lambda x: F.relu6(4 * x), lambda x: min(4 * x, 6) / x if x > 0 else 0.0),
    "Hardtanh": (F.hardtanh, lambda x: min(1.0, 1 / abs(x)) if x else 1.0),
    "LeakyReLU": (F.leaky_relu, lambda x: 1.0 if x > 0 else 0.01),
    "Softshrink": (F.softshrink, lambda x: max(1 - 0.5 / abs(x), 0) if x else 0.0),
    "Softsign": (F.softsign, lambda x: 1 / (1 + abs(x))),
    "squared ReLU": (lambda x: F.relu(x).square(), lambda x: max(x, 0.0)),
    "square as product": (lambda x: x * x, lambda x: x),
    "cube": (lambda x: x**3, lambda x: x * x),
}


@pytest.mark.parametrize(("function", "slope"), SLOPES.values(), ids=SLOPES)
def test_an_activation_passes_on_its_output_over_its_input(function, slope):
    x = torch.cat([random(4, 8), torch.zeros(1, 8, dtype=torch.float64), 3 * random(2, 8)])
    gradient, g = propagated(function, x)
    expected = [behind * slope(value) for behind, value in zip(g.flatten().tolist(), x.flatten().tolist(), strict=True)]
    torch.testing.assert_close(gradient.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def norm_by_hand(x, g, weight, centered):
    """R_i = Σ_k z_ki / y_k R_k, over the last dimension; x_i adds z_ki = w_k (δ_ki − 1/n) x_i / σ to y_k."""
    gradient = torch.zeros_like(x)
    n = x.shape[-1]
    for row in product(*map(range, x.shape[:-1])):
        values = x[row].tolist()
        mean = sum(values) / n if centered else 0.0
        sigma = math.sqrt(sum((value - mean) ** 2 for value in values) / n + 1e-6)
        for i, k in product(range(n), range(n)):
            gradient[(*row, i)] += g[(*row, k)] * weight[k] * ((i == k) - centered / n) / sigma
    return gradient


WEIGHT = MATRIX[0]


def layer_norm_written_out(x):
    centered = x - x.mean(-1, keepdim=True)
    return centered / torch.sqrt(centered.pow(2).mean(-1, keepdim=True) + 1e-6) * WEIGHT


def layer_norm_by_variance(x):
    deviation = (x.var(-1, unbiased=False, keepdim=True) + 1e-6).rsqrt()
    return WEIGHT * ((x - x.mean(-1, keepdim=True)) * deviation) + MATRIX[1]


LAYER_NORMS = {
    "fused": lambda x: F.layer_norm(x, (8,), WEIGHT, eps=1e-6),
    "with bias": lambda x: F.layer_norm(x, (8,), WEIGHT, MATRIX[1], eps=1e-6),
    "written out": layer_norm_written_out,
    "by variance": layer_norm_by_variance,
    "over channels": lambda x: F.layer_norm(x.permute(0, 2, 1).permute(0, 2, 1), (8,), WEIGHT, eps=1e-6),
    "group norm": lambda x: F.group_norm(x.flatten(0, 1)[:, :, None], 1, WEIGHT, eps=1e-6).reshape(x.shape),
    "instance norm": lambda x: F.instance_norm(x, eps=1e-6) * WEIGHT,
}
RMS_NORMS = {
    "F.rms_norm": lambda x: F.rms_norm(x, (8,), WEIGHT, eps=1e-6),
    "by rsqrt": lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * WEIGHT,
    "by power": lambda x: x * (x * x).mean(-1, keepdim=True).add(1e-6).pow(-0.5) * WEIGHT,
    "by division": lambda x: WEIGHT * (x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)),
    "by normalize": lambda x: F.normalize(x, dim=-1) * math.sqrt(8) * WEIGHT,
}


@pytest.mark.parametrize("norm", LAYER_NORMS.values(), ids=LAYER_NORMS)
def test_a_norm_is_linear_with_a_constant_scale(norm):
    gradient, g = propagated(norm, random(2, 3, 8))
    torch.testing.assert_close(gradient, norm_by_hand(random(2, 3, 8), g, WEIGHT, True), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("norm", RMS_NORMS.values(), ids=RMS_NORMS)
def test_a_norm_without_mean_is_linear_with_a_constant_scale(norm):
    gradient, g = propagated(norm, random(2, 3, 8))
    torch.testing.assert_close(gradient, norm_by_hand(random(2, 3, 8), g, WEIGHT, False), rtol=1e-5, atol=1e-6)


def test_a_batch_norm_in_eval_is_linear_and_with_the_batchs_statistics_has_a_constant_scale():
    x, mean, variance = random(3, 2, 4, 5), random(2, seed=5), random(2, seed=6).square() + 0.5
    gradient, g = propagated(lambda x: F.batch_norm(x, mean, variance, WEIGHT[:2], eps=1e-12), x)
    torch.testing.assert_close(gradient, g * (WEIGHT[:2] / variance.sqrt())[:, None, None])
    gradient, g = propagated(lambda x: F.batch_norm(x, mean, variance, eps=1e-12).flatten(2).mT, x)
    torch.testing.assert_close(gradient, g.mT.unflatten(2, (4, 5)) / variance.sqrt()[:, None, None])
    gradient, g = propagated(lambda x: F.batch_norm(x, None, None, WEIGHT[:2], training=True, eps=1e-9), x)
    scale = (WEIGHT[:2] / (x.var((0, 2, 3), unbiased=False) + 1e-9).sqrt())[:, None, None]
    torch.testing.assert_close(gradient, (g - g.mean((0, 2, 3), keepdim=True)) * scale)


def test_a_group_norm_has_the_groups_own_scales():
    x = random(2, 4, 3, 5)
    gradient, g = propagated(lambda x: F.group_norm(x, 2, WEIGHT[:4], eps=0), x)
    for image, group in product(range(2), range(2)):
        own = image, slice(2 * group, 2 * group + 2)
        weighted = g[own] * WEIGHT[own[1], None, None]
        torch.testing.assert_close(gradient[own], (weighted - weighted.mean()) / x[own].std(unbiased=False))


def terms_of(convolution, x):
    """By position of the output, what each value of the input adds to it."""
    basis = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    columns = torch.stack([convolution(unit) for unit in basis])
    return columns.flatten(1).T * x.flatten()


def gamma_by_hand(terms, R, gamma):
    """Each term of the sign of the sum weighs 1 + γ, in loops."""
    relevance = torch.zeros(terms.shape[1], dtype=terms.dtype)
    for j, row in enumerate(terms.tolist()):
        total = sum(row)
        weights = [(1 + gamma) * term if term * total > 0 else term for term in row]
        for i, weighted in enumerate(weights):
            if weighted:
                relevance[i] += R[j] * weighted / sum(weights)
    return relevance


KERNEL = random(4, 2, 3, 3, seed=7)
CONVOLUTIONS = {
    "plain": lambda x: F.conv2d(x, KERNEL),
    "stride, padding": lambda x: F.conv2d(x, KERNEL, stride=2, padding=1),
    "dilated": lambda x: F.conv2d(x, KERNEL, dilation=2, padding=2),
    "1×1": lambda x: F.conv2d(x, KERNEL[:, :, :1, :1]),
    "by channel": lambda x: F.conv2d(x, KERNEL[:, :1], groups=2),
    "transposed": lambda x: F.conv_transpose2d(x, KERNEL.transpose(0, 1), stride=2),
    "over one dimension": lambda x: F.conv1d(x.flatten(2), KERNEL[:, :, 0]),
}


@pytest.mark.parametrize("gamma", [0.25, 3.0])
@pytest.mark.parametrize("sign", ["of both signs", "not negative"])
@pytest.mark.parametrize("convolution", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_a_convolution_favors_the_terms_that_have_the_sign_of_their_sum(convolution, sign, gamma):
    x = random(1, 2, 5, 4) if sign == "of both signs" else random(1, 2, 5, 4).relu()
    gradient, g = propagated(convolution, x, gamma)
    expected = gamma_by_hand(terms_of(convolution, x), (g * convolution(x)).flatten(), gamma)
    torch.testing.assert_close((x * gradient).flatten(), expected)
    plain, _ = propagated(convolution, x, gamma=0)
    torch.testing.assert_close((x * plain).flatten(), (g.flatten() @ terms_of(convolution, x)))


def test_the_bias_of_a_convolution_takes_no_part():
    x = random(2, 2, 5, 4)
    without, _ = propagated(lambda x: F.conv2d(x, KERNEL), x)
    with_bias, _ = propagated(lambda x: F.conv2d(x, KERNEL, random(4, seed=8)), x)
    assert torch.equal(with_bias, without)


def test_a_convolution_of_nothing_passes_on_nothing():
    gradient, _ = propagated(lambda x: F.conv2d(x, KERNEL), torch.zeros(1, 2, 5, 4, dtype=torch.float64))
    assert not gradient.any()


def attention(kind, x):
    queries, keys, values = x @ MATRIX, x @ OTHER, x @ THIRD
    if kind == "fused":
        return F.scaled_dot_product_attention(queries[:, None], keys[:, None], values[:, None])[:, 0]
    if kind == "fused, written out by torch":
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(queries[:, None], keys[:, None], values[:, None])[:, 0]
    if kind == "einsum":
        weights = torch.einsum("nid,njd->nij", queries, keys).div(math.sqrt(8)).softmax(-1)
        return torch.einsum("nij,njd->nid", weights, values)
    return F.softmax(queries @ keys.mT / math.sqrt(8), dim=-1) @ values


@pytest.mark.parametrize("kind", ["fused", "fused, written out by torch", "einsum", "softmax"])
def test_attention_is_a_constant_matrix(kind):
    x = random(2, 5, 8) / 4
    gradient, g = propagated(lambda x: x + attention(kind, x), x)
    weights = ((x @ MATRIX) @ (x @ OTHER).mT / math.sqrt(8)).softmax(-1)
    torch.testing.assert_close(gradient, g + weights.mT @ g @ THIRD.T)


def halves(x):
    first, second = (x @ MATRIX).chunk(2, -1)
    return F.silu(first) * second


def separate(x):
    return F.silu(x @ MATRIX) * (x @ OTHER)


@pytest.mark.parametrize("gated", [halves, separate])
def test_of_a_gated_mlp_both_factors_get_half(gated):
    x = random(3, 8)
    gradient, g = propagated(gated, x)
    if gated is halves:
        (first, second), (in_first, in_second) = (x @ MATRIX).chunk(2, -1), MATRIX.chunk(2, 1)
    else:
        first, second, in_first, in_second = x @ MATRIX, x @ OTHER, MATRIX, OTHER
    expected = (g * second * first.sigmoid() / 2) @ in_first.T + (g * F.silu(first) / 2) @ in_second.T
    torch.testing.assert_close(gradient, expected)


def pooled(x):
    return x.mean((2, 3), keepdim=True)


GATES = {
    "squeeze and excite": lambda x: torch.sigmoid(F.conv2d(pooled(x), KERNEL[:2, :, :1, :1])),
    "its hard form": lambda x: F.hardsigmoid(F.conv2d(pooled(x), KERNEL[:2, :, :1, :1])),
    "with a tanh": lambda x: 1 + torch.tanh(pooled(x)),
    "of a convolution": lambda x: F.conv2d(x, KERNEL[:2], padding=1),
    "global response": lambda x: (g := x.norm(dim=(2, 3), keepdim=True)) / (g.mean(1, keepdim=True) + 1e-6),
}


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("gate", GATES.values(), ids=GATES)
def test_what_is_computed_from_the_tensor_that_it_multiplies_is_a_constant_gate(gate, is_first):
    x = random(2, 2, 4, 5)
    gradient, g = propagated(lambda x: 2 * x + (gate(x) * (x / 2) if is_first else (x / 2) * gate(x)), x)
    torch.testing.assert_close(gradient, g * (2 + gate(x) / 2))


@pytest.mark.parametrize("function", [F.glu, lambda x: (parts := x.chunk(2, -1))[0] * parts[1].sigmoid()])
def test_the_sigmoid_of_a_gated_linear_unit_is_a_constant_gate(function):
    x = random(3, 8)
    gradient, g = propagated(lambda x: function(x @ MATRIX), x)
    gate = (x @ MATRIX)[:, 4:].sigmoid()
    torch.testing.assert_close(gradient, (g * gate) @ MATRIX[:, :4].T)


def test_an_expert_that_a_softmax_weighs_is_a_constant_mixture():
    x = random(3, 8)
    gradient, g = propagated(lambda x: (x @ OTHER).softmax(-1)[:, :1] * (x @ MATRIX), x)
    torch.testing.assert_close(gradient, (x @ OTHER).softmax(-1)[:, :1] * (g @ MATRIX.T))


def test_of_linear_attention_each_factor_gets_its_half():
    """Σ_s φ(q_t)·φ(k_s) v_s / Σ_s φ(q_t)·φ(k_s), whose denominator is a scale."""
    x = random(2, 5, 8)

    def parts(x):
        return (x @ MATRIX).relu(), (x @ OTHER).relu(), x @ THIRD

    def linear_attention(x):
        q, k, v = parts(x)
        return q @ (k.mT @ v) / (q @ k.sum(1, keepdim=True).mT + 1)

    gradient, g = propagated(linear_attention, x)
    q, k, v = parts(x)
    g = g / (q @ k.sum(1, keepdim=True).mT + 1)
    to_q, to_kv = g @ (k.mT @ v).mT / 2, q.mT @ g / 2
    to_k, to_v = (to_kv @ v.mT).mT / 2, k @ to_kv / 2
    expected = (to_q * (q > 0)) @ MATRIX.T + (to_k * (k > 0)) @ OTHER.T + to_v @ THIRD.T
    torch.testing.assert_close(gradient, expected)


def test_a_parameter_that_multiplies_takes_no_half():
    scale = nn.Parameter(random(8, seed=9))
    x = random(3, 8)
    gradient, g = propagated(lambda x: x + scale * torch.tanh(x), x)
    torch.testing.assert_close(gradient, g * (1 + scale.detach() * torch.tanh(x) / x))


@pytest.mark.parametrize("pooling", [lambda x: F.max_pool2d(x, 2), lambda x: F.avg_pool2d(x, 2), lambda x: x.amax(1)])
def test_pooling_has_the_gradients_rule(pooling):
    x = random(2, 2, 4, 6)
    gradient, g = propagated(pooling, x)
    leaf = x.requires_grad_()
    assert torch.equal(gradient, torch.autograd.grad((pooling(leaf) * g).sum(), leaf)[0])


POWER_POOLINGS = {
    "generalized mean": lambda x: x.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3),
    "L2": lambda x: F.lp_pool2d(x.abs(), 2.0, 2),
    "root of the mean square": lambda x: x.square().mean((2, 3)).sqrt(),
    "norm": lambda x: x.norm(dim=1),
}


@pytest.mark.parametrize("pooling", POWER_POOLINGS.values(), ids=POWER_POOLINGS)
def test_pooling_by_powers_conserves_relevance(pooling):
    x = random(2, 2, 4, 6)
    gradient, g = propagated(pooling, x)
    torch.testing.assert_close((x * gradient).sum(), (pooling(x) * g).sum())


ENDS = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda logits: logits.softmax(1),
    "softmax, one class": lambda logits: logits.softmax(1)[:, 2],
    "its negative": lambda logits: -torch.sigmoid(logits).sum(1),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_softmax_or_sigmoid_at_the_end_of_the_model_is_no_gate(end):
    x = random(3, 8)
    gradient, g = propagated(lambda x: end(F.gelu(x) @ MATRIX), x)
    logits = (F.gelu(x) @ MATRIX).requires_grad_()
    (behind,) = torch.autograd.grad((end(logits) * g).sum(), logits)
    expected, _ = propagated(lambda x: (F.gelu(x) @ MATRIX) * behind / random(3, 8, seed=1), x)
    torch.testing.assert_close(gradient, expected)
