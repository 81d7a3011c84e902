"""Relevance propagation through whole networks: what it conserves, what it equals, and that it leaves no trace."""

import math
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from tiny_transformer import Transformer
from torch import nn

from lightning_saliency.evidence.lrp import lrp_rules

IMAGES = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = [2, 0]


def seeded(make, *args, **options):
    torch.manual_seed(0)
    model = make(*args, **options).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    return model


def leaf_of(tokens):
    return tokens.detach().requires_grad_()


def propagate(function, source, gamma=0.25):
    """The relevance of each value of a source, and the scores, of which the graph is kept."""
    scores = function(source)[range(len(LABELS)), LABELS]
    with lrp_rules(scores, source, gamma=gamma):
        (gradient,) = torch.autograd.grad(scores.sum(), source, retain_graph=True)
    return (source * gradient).detach(), scores


TRANSFORMERS = {
    "class token": {},
    "mean": {"pool": "mean"},
    "written out": {"written": True},
    "mean, written out": {"pool": "mean", "written": True},
    "gated": {"gated": True},
    "in place": {"in_place": True},
    "checkpointed": {"checkpointed": True},
    "all of it": {"pool": "mean", "written": True, "gated": True, "in_place": True, "checkpointed": True},
}


@pytest.mark.parametrize("options", TRANSFORMERS.values(), ids=TRANSFORMERS)
def test_without_biases_the_relevances_of_all_tokens_sum_to_the_score(options):
    model = seeded(Transformer, **options)
    relevance, scores = propagate(model.behind, leaf_of(model.embed(IMAGES)))
    torch.testing.assert_close(relevance.sum((1, 2)), scores, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("source", ["tokens", "images"])
@pytest.mark.parametrize("options", [{"written": True}, {"in_place": True}, {"checkpointed": True}])
def test_how_a_transformer_is_written_changes_nothing(source, options):
    model, other = seeded(Transformer), seeded(Transformer, **options)
    other.load_state_dict(model.state_dict())

    def relevance_of(model):
        if source == "images":
            return propagate(model, leaf_of(IMAGES))[0]
        return propagate(model.behind, leaf_of(model.embed(IMAGES)))[0]

    torch.testing.assert_close(relevance_of(other), relevance_of(model), rtol=1e-6, atol=1e-9)


def test_the_source_may_be_a_result_of_the_model_or_a_leaf():
    model = seeded(Transformer, biases=True)
    from_leaf, _ = propagate(model.behind, leaf_of(model.embed(IMAGES)))
    from_result, _ = propagate(model.behind, model.embed(leaf_of(IMAGES)))
    assert torch.equal(from_leaf, from_result)


def test_the_pixels_of_a_patch_have_what_its_embedding_has_but_for_the_bias():
    model, images = seeded(Transformer, biases=True), leaf_of(IMAGES)
    tokens = model.embed(images)
    scores = model.behind(tokens)[range(2), LABELS]
    with lrp_rules(scores, images):
        at_pixels, at_tokens = torch.autograd.grad(scores.sum(), [images, tokens])
    relevance = (images * at_pixels).detach().sum(1).reshape(2, 2, 4, 3, 4).sum((2, 4)).flatten(1)
    expected = ((tokens[:, 1:] - model.patches.bias) * at_tokens[:, 1:]).detach().sum(2)
    torch.testing.assert_close(relevance, expected, rtol=1e-10, atol=1e-12)


def redistributed(R, terms):
    """R_i = Σ_j R_j z_ij / Σ_k z_kj for the terms z[j][i] of an operation's outputs: the rule of all rules."""
    return [sum(R[j] * row[i] / sum(row) for j, row in enumerate(terms)) for i in range(len(terms[0]))]


def times(matrix, vector):
    """The terms of a matrix times a vector."""
    return [[weight * value for weight, value in zip(row, vector, strict=True)] for row in matrix]


def norm_terms(norm, x):
    n, mean = len(x), sum(x) / len(x)
    sigma = math.sqrt(sum((value - mean) ** 2 for value in x) / n + norm.eps)
    weight = norm.weight.tolist()
    return [[weight[k] * ((i == k) - 1 / n) * x[i] / sigma for i in range(n)] for k in range(n)]


def totals(terms):
    return [sum(row) for row in terms]


def loops_relevance(model, tokens, label):
    """CP-LRP of a transformer of one block with a class token: relevances handed down, with no gradient anywhere."""
    block, x0 = model.blocks[0], tokens.tolist()
    L, D = tokens.shape
    qkv, out = block.attention.qkv.weight.tolist(), block.attention.out.weight.tolist()
    up, down, scale = block.mlp.up.weight.tolist(), block.mlp.down.weight.tolist(), block.scale.tolist()

    u = [totals(norm_terms(block.norm1, x)) for x in x0]
    q, k, v = ([totals(times(qkv[p * D : (p + 1) * D], row)) for row in u] for p in range(3))
    P = {}
    for head, t in product(range(2), range(L)):
        ours = range(head * D // 2, (head + 1) * D // 2)
        e = [math.exp(sum(q[t][d] * k[s][d] for d in ours) / math.sqrt(D // 2)) for s in range(L)]
        P[head, t] = [value / sum(e) for value in e]
    o = [[sum(P[d // (D // 2), t][s] * v[s][d] for s in range(L)) for d in range(D)] for t in range(L)]
    a = [[scale[d] * value for d, value in enumerate(totals(times(out, row)))] for row in o]
    # the score reads the class token, and nothing mixes tokens behind the attention
    x1 = [x0[0][d] + a[0][d] for d in range(D)]
    w = totals(norm_terms(block.norm2, x1))
    h = totals(times(up, w))
    m = totals(times(down, [value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in h]))
    x2 = [x1[d] + m[d] for d in range(D)]
    z = totals(norm_terms(model.norm, x2))

    score = totals(times([model.head.weight[label].tolist()], z))
    R = redistributed(score, times([model.head.weight[label].tolist()], z))
    R = redistributed(R, norm_terms(model.norm, x2))
    R_m, R_x1 = [R[d] * m[d] / x2[d] for d in range(D)], [R[d] * x1[d] / x2[d] for d in range(D)]
    activated = [value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in h]
    R_h = redistributed(R_m, times(down, activated))  # that of an activation's output is its input's
    R_w = redistributed(R_h, times(up, w))
    R_x1 = [one + other for one, other in zip(R_x1, redistributed(R_w, norm_terms(block.norm2, x1)), strict=True)]
    R_a, R_x0 = [R_x1[d] * a[0][d] / x1[d] for d in range(D)], [R_x1[d] * x0[0][d] / x1[d] for d in range(D)]
    R_o = redistributed(R_a, times(out, o[0]))
    relevance = [[0.0] * D for _ in range(L)]
    relevance[0] = R_x0
    for s in range(L):
        R_v = [R_o[d] * P[d // (D // 2), 0][s] * v[s][d] / o[0][d] for d in range(D)]
        R_u = redistributed(R_v, times(qkv[2 * D :], u[s]))
        R_s = redistributed(R_u, norm_terms(block.norm1, x0[s]))
        relevance[s] = [one + other for one, other in zip(relevance[s], R_s, strict=True)]
    return torch.tensor(relevance, dtype=torch.float64)


def test_the_relevances_are_those_handed_down_by_loops():
    model = seeded(Transformer, width=4)
    model.blocks = model.blocks[:1]
    tokens = model.embed(IMAGES)
    relevance, _ = propagate(model.behind, leaf_of(tokens))
    for image, (found, label) in enumerate(zip(relevance, LABELS, strict=True)):
        torch.testing.assert_close(found, loops_relevance(model, tokens[image].detach(), label), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_permuted_patches_have_permuted_relevances(pool):
    model = seeded(Transformer, pool=pool, biases=True)
    tokens = model.embed(IMAGES).detach()
    order = [0, 3, 1, 6, 2, 5, 4]
    relevance, _ = propagate(model.behind, leaf_of(tokens))
    permuted, _ = propagate(model.behind, leaf_of(tokens[:, order]))
    torch.testing.assert_close(permuted, relevance[:, order], rtol=1e-10, atol=1e-12)


class Excited(nn.Module):
    """A residual block with squeeze-and-excite."""

    def __init__(self, width):
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.squeeze, self.excite = nn.Conv2d(width, 2, 1), nn.Conv2d(2, width, 1)

    def forward(self, x):
        branch = F.silu(self.convolution(x))
        return x + branch * self.excite(self.squeeze(branch.mean((2, 3), keepdim=True)).relu()).sigmoid()


def head(width):
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4, bias=False)


conv = partial(nn.Conv2d, kernel_size=3, padding=1, bias=False)
CNNS = {
    "ReLU": lambda: nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 8, stride=2), nn.ReLU(inplace=True), *head(8)),
    "max pooling": lambda: nn.Sequential(conv(3, 6), nn.ReLU(), nn.MaxPool2d(2), conv(6, 8), nn.ReLU6(), *head(8)),
    "batch norm": lambda: nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 8), nn.SiLU(), *head(8)),
    "group norm": lambda: nn.Sequential(conv(3, 6), nn.GroupNorm(2, 6), nn.GELU(), conv(6, 8), nn.ELU(), *head(8)),
    "instance norm": lambda: nn.Sequential(
        conv(3, 6), nn.InstanceNorm2d(6, affine=True), nn.GELU(), conv(6, 8), nn.ELU(inplace=True), *head(8)
    ),
    "gates": lambda: nn.Sequential(conv(3, 6), nn.Hardswish(), Excited(6), Excited(6), *head(6)),
}


@pytest.mark.parametrize("gamma", [0, 0.25])
@pytest.mark.parametrize("make", CNNS.values(), ids=CNNS)
def test_without_biases_the_relevances_of_all_pixels_sum_to_the_score(make, gamma):
    relevance, scores = propagate(seeded(make), leaf_of(IMAGES), gamma)
    torch.testing.assert_close(relevance.sum((1, 2, 3)), scores, rtol=1e-10, atol=1e-12)


def test_without_the_gamma_rule_a_relu_networks_relevance_is_its_input_times_gradient():
    model, images = seeded(CNNS["max pooling"]), leaf_of(IMAGES)
    model[4] = nn.ReLU()
    relevance, scores = propagate(model, images, gamma=0)
    torch.testing.assert_close(relevance, images.detach() * torch.autograd.grad(scores.sum(), images)[0])


ALL = {
    "transformer": lambda: seeded(Transformer, biases=True),
    "checkpointed": lambda: seeded(Transformer, biases=True, checkpointed=True),
    **{name: partial(seeded, make) for name, make in CNNS.items()},
}


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_the_gradients_of_the_same_graph_are_not_changed(make):
    images = leaf_of(IMAGES)
    scores = make()(images)[range(2), LABELS]

    def gradient():
        return torch.autograd.grad(scores.sum(), images, retain_graph=True)[0]

    before = gradient()
    with lrp_rules(scores, images):
        first = gradient()
        second = gradient()  # a backward may be run again, on another scale for example
    assert torch.equal(gradient(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, before)


def test_the_rules_come_off_when_the_backward_fails():
    images = leaf_of(IMAGES)
    scores = seeded(Transformer)(images)[range(2), LABELS]
    before = torch.autograd.grad(scores.sum(), images, retain_graph=True)[0]
    with pytest.raises(RuntimeError, match="not have been used"), lrp_rules(scores, images):
        torch.autograd.grad(scores.sum(), [images, leaf_of(IMAGES)], retain_graph=True)
    assert torch.equal(torch.autograd.grad(scores.sum(), images)[0], before)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_a_frozen_model_has_the_same_relevances_and_no_model_is_touched(make):
    model = make()
    relevance, _ = propagate(model, leaf_of(IMAGES))
    assert all(parameter.grad is None for parameter in model.parameters())
    frozen, _ = propagate(model.requires_grad_(False), leaf_of(IMAGES))
    assert torch.equal(frozen, relevance)


def test_under_autocast_relevances_are_those_of_full_precision_up_to_its_rounding():
    model = seeded(Transformer).float()
    images = leaf_of(IMAGES.float())

    def under_autocast(images):
        with torch.autocast("cpu", torch.bfloat16):
            return model(images).float()

    expected, _ = propagate(model, images)
    found, _ = propagate(under_autocast, images)
    assert (found - expected).norm() < 0.1 * expected.norm()


def test_an_image_has_the_same_relevances_whatever_else_is_in_the_batch():
    model = seeded(Transformer, biases=True)
    both, _ = propagate(model, leaf_of(IMAGES))
    images = leaf_of(IMAGES[:1])
    score = model(images)[0, LABELS[0]]
    with lrp_rules(score, images):
        (gradient,) = torch.autograd.grad(score, images)
    torch.testing.assert_close(images * gradient, both[:1])


def test_where_the_score_depends_on_the_source_through_a_gate_alone_it_has_no_relevance():
    x = leaf_of(IMAGES)
    gate = x.sigmoid()
    score = (gate * torch.ones_like(gate, requires_grad=True).exp() + gate).sum()
    with lrp_rules(score, x):
        (gradient,) = torch.autograd.grad(score, x, allow_unused=True)
    assert gradient is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_on_a_gpu_the_relevances_are_those_of_the_cpu(make, memory_format):
    model = make()
    expected, _ = propagate(model, leaf_of(IMAGES))
    images = leaf_of(IMAGES.float().cuda().contiguous(memory_format=memory_format))
    found, _ = propagate(model.float().cuda(), images)
    assert (found.cpu() - expected).norm() < 0.01 * expected.norm()
