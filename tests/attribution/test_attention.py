"""Attention relevance and rollout: closed forms, the papers' matrices, and what a class does to them."""

import math

import pytest
import torch
from tiny_vit import GRID, TinyViT, fused, written_out
from torch import nn

from lightning_saliency.attribution.attention import ROWS, attention_relevance, attention_rollout, prefix_relevance
from lightning_saliency.data import make_call
from lightning_saliency.evidence import Attention, AttentionReader, Evidence, Forward, Passes, TokenGrid

IMAGES = torch.randn(3, 2, 8, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.tensor([2, 0, 1])
EXACT = {"rtol": 1e-9, "atol": 1e-14}


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def evidence_of(attentions, r0, tokens):
    none = torch.zeros(len(r0))
    return Evidence(none, none, none, attentions=tuple(attentions), token_relevance=r0, tokens=tokens)


def one_hot(position, length, num_images=2):
    return torch.eye(length, dtype=torch.float64)[position].expand(num_images, -1)


def explained(model, images=IMAGES, labels=LABELS, *, tokens=None, query=None, **options):
    """The evidence that one forward and backward of a tiny transformer gives."""
    tokens = tokens or TokenGrid(model.prefix, model.extra.shape[1] - model.prefix, GRID)
    leaf = images.clone().requires_grad_()
    stream = model.tokens(leaf)
    scores = model.read(stream).gather(1, labels[:, None]).sum()
    with AttentionReader(len(images), {len(tokens), stream.shape[1]}, **options) as reader:
        _, gradient = torch.autograd.grad(scores, [leaf, stream])
    *blocks, last = reader.attentions()
    r0 = gradient.abs().sum(2)
    if query is not None:  # class attention is behind the stream: its own token is what the score reads
        r0 = one_hot(query, len(tokens), len(images))
    return evidence_of([*blocks, Attention(**vars(last) | {"query": query})], r0 / r0.sum(1, keepdim=True), tokens)


def grid_of(row, tokens):
    """The patches of a row over the tokens, one by one."""
    h, w = tokens.grid
    return torch.stack([torch.stack([row[:, tokens.prefix + i * w + j] for j in range(w)], 1) for i in range(h)], 1)


def assert_map(maps, row, tokens):
    torch.testing.assert_close(maps, grid_of(row, tokens)[:, None], **EXACT)


@pytest.mark.parametrize(("prefix", "suffix"), [(1, 0), (2, 0), (1, 3)])
def test_relevance_of_a_class_token_is_the_papers_row_of_the_full_matrix(prefix, suffix):
    tokens = TokenGrid(prefix, suffix, (2, 4))
    T = len(tokens)
    matrices = [random(2, T, T, seed=seed) for seed in range(3)]
    R = torch.zeros(2, T, T, dtype=torch.float64)
    for n in range(2):
        for i in range(T):
            R[n, i, i] = 1
        for A in matrices:  # from the first to the last: R <- R + A R
            R[n] = torch.tensor(
                [
                    [float(R[n, i, j] + sum(A[n, i, k] * R[n, k, j] for k in range(T))) for j in range(T)]
                    for i in range(T)
                ],
                dtype=torch.float64,
            )
    evidence = evidence_of(map(Attention, matrices), one_hot(0, T), tokens)
    assert_map(attention_relevance(evidence), R[:, 0], tokens)
    elsewhere = R[:, 0, 0] - 1 + R[:, 0, 1:prefix].sum(1) + R[:, 0, prefix + 8 :].sum(1)
    torch.testing.assert_close(prefix_relevance(evidence), elsewhere / (R[:, 0].sum(1) - 1), **EXACT)


def test_of_averaged_tokens_the_start_is_subtracted():
    tokens, matrices = TokenGrid(0, 0, (2, 3)), [random(2, 6, 6, seed=seed) for seed in range(2)]
    even = torch.full((2, 6), 1 / 6, dtype=torch.float64)
    first, last = matrices
    row = (even[:, None] @ (last + first + last @ first))[:, 0]
    evidence = evidence_of(map(Attention, matrices), even, tokens)
    assert_map(attention_relevance(evidence), row, tokens)
    assert prefix_relevance(evidence).tolist() == [0.0, 0.0]


def test_a_small_relevance_is_not_lost_beside_the_start():
    tokens, matrix = TokenGrid(0, 0, (2, 3)), random(2, 6, 6).float()
    even = torch.full((2, 6), 1 / 6)
    small, large = (attention_relevance(evidence_of([Attention(matrix * s)], even, tokens)) for s in (1e-12, 1))
    torch.testing.assert_close(small * 1e12, large, rtol=1e-4, atol=0)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("prefix", [1, 3])
def test_even_attention_has_its_closed_form(depth, prefix):
    tokens = TokenGrid(prefix, 0, (2, 3))
    T = len(tokens)
    even = torch.full((2, T, T), 1 / T, dtype=torch.float64)
    class_token = evidence_of([Attention(even, even)] * depth, one_hot(0, T), tokens)
    rollout = torch.full((2, 1, 2, 3), (1 - 2**-depth) / T, dtype=torch.float64)
    torch.testing.assert_close(attention_rollout(class_token), rollout, **EXACT)
    relevance = torch.full((2, 1, 2, 3), (2**depth - 1) / T, dtype=torch.float64)
    torch.testing.assert_close(attention_relevance(class_token), relevance, **EXACT)
    torch.testing.assert_close(
        prefix_relevance(class_token), torch.full((2,), prefix / T, dtype=torch.float64), **EXACT
    )
    averaged = evidence_of([Attention(even, even)] * depth, even[:, 0], tokens)
    torch.testing.assert_close(attention_rollout(averaged), even[:, :6, 0].reshape(2, 1, 2, 3), **EXACT)
    torch.testing.assert_close(attention_relevance(averaged), relevance, **EXACT)


def test_rollout_is_the_row_of_the_papers_product_and_sums_to_one():
    tokens = TokenGrid(1, 0, (2, 3))
    matrices = [random(2, 7, 7, seed=seed).softmax(2) for seed in range(3)]
    eye = torch.eye(7, dtype=torch.float64)
    product = eye
    for P in matrices:
        product = (P + eye) / 2 @ product
    evidence = evidence_of([Attention(weights=P) for P in matrices], one_hot(0, 7), tokens)
    assert_map(attention_rollout(evidence), product[:, 0], tokens)
    total = attention_rollout(evidence).sum((1, 2, 3)) + product[:, 0, 0]
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64), **EXACT)


class Planted(nn.Module):
    """One attention of a class token: patch a is evidence for class 0, b for class 1, and a sink that has no value.

    The class token's scores are 2 for a and b, 4 for the sink, and 0 for the other three patches and itself.
    """

    A, B, SINK = 0, 1, 5

    def forward(self, images):
        scores = torch.zeros(len(images), 1, 7, 7, dtype=torch.float64)
        scores[:, :, 0, 1 + self.A] = scores[:, :, 0, 1 + self.B] = 2.0
        scores[:, :, 0, 1 + self.SINK] = 4.0
        values = torch.zeros(len(images), 1, 7, 2, dtype=torch.float64)
        values[:, :, 1 + self.A, 0] = values[:, :, 1 + self.B, 1] = 1.0
        gate = images.sum((1, 2, 3))[:, None, None, None] * 0  # so that the image has a gradient
        P = (scores + gate).softmax(-1)
        return (P @ (values + gate))[:, 0, 0]


@pytest.mark.parametrize("label", [0, 1])
def test_relevance_is_on_the_evidence_of_the_class_and_rollout_on_the_sink(label):
    images = IMAGES[:2].clone().requires_grad_()
    scores = Planted()(images)[:, label]
    with AttentionReader(2, {7}) as reader:
        torch.autograd.grad(scores.sum(), images)
    evidence = evidence_of(reader.attentions(), one_hot(0, 7), TokenGrid(1, 0, (2, 3)))
    a_b = [Planted.A, Planted.B]
    Z = 2 * math.e**2 + math.e**4 + 4
    torch.testing.assert_close(scores, torch.full((2,), math.e**2 / Z, dtype=torch.float64), **EXACT)
    relevance = torch.zeros(2, 6, dtype=torch.float64)
    relevance[:, a_b[label]] = math.e**2 / Z
    torch.testing.assert_close(attention_relevance(evidence).flatten(1), relevance, **EXACT)
    rollout = torch.full((2, 6), 1 / Z, dtype=torch.float64)
    rollout[:, a_b] = math.e**2 / Z
    rollout[:, Planted.SINK] = math.e**4 / Z  # 7.4 times a, for both classes
    torch.testing.assert_close(attention_rollout(evidence).flatten(1), rollout / 2, **EXACT)


@pytest.mark.parametrize("pool", ["class", "mean", "attention"])
def test_rollout_sees_no_class_and_relevance_does(pool):
    evidence = {label: explained(TinyViT(pool=pool), labels=torch.full((3,), label)) for label in (0, 1)}
    start = explained(TinyViT(pool=pool)).token_relevance
    rollouts = [
        attention_rollout(evidence_of(each.attentions, start, each.tokens)) for each in (evidence[0], evidence[1])
    ]
    assert torch.equal(*rollouts)
    assert not torch.allclose(attention_relevance(evidence[0]), attention_relevance(evidence[1]), rtol=0.1)


ORDER = torch.tensor([4, 2, 0, 5, 1, 3])


@pytest.mark.parametrize("attend", [fused, written_out])
@pytest.mark.parametrize("pool", ["class", "mean", "attention", "class attention"])
@pytest.mark.parametrize("method", [attention_relevance, attention_rollout])
def test_without_position_embedding_permuted_patches_permute_the_map(method, pool, attend):
    options = {"prefix": 0} if pool == "class attention" else {"prefix": 1, "suffix": 2}
    where = {"tokens": TokenGrid(1, 0, GRID), "query": 0} if pool == "class attention" else {}
    model = TinyViT(attend, pool, positions=False, **options)
    patches = IMAGES.reshape(3, 2, 2, 4, 3, 4).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # (N, 6, 2, 4, 4)
    permuted = patches[:, ORDER].unflatten(1, GRID).permute(0, 3, 1, 4, 2, 5).reshape(3, 2, 8, 12)
    maps = method(explained(model, **where))
    assert maps.shape == (3, 1, *GRID)
    assert maps.std() > 1e-3 * maps.abs().mean()
    found = method(explained(model, permuted, **where))
    torch.testing.assert_close(found.flatten(1), maps.flatten(1)[:, ORDER], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("position", [0, 6])
def test_class_attention_changes_the_row_of_its_token_alone_and_the_token_drops_out_below(position):
    blocks = [random(2, 6, 6, seed=seed).softmax(2) for seed in range(2)]
    rows = [random(2, 1, 7, seed=seed).softmax(2) for seed in (2, 3)]
    attentions = [*map(Attention, blocks, blocks), *(Attention(row, row, position) for row in rows)]
    tokens = TokenGrid(1, 0, (2, 3)) if position == 0 else TokenGrid(0, 1, (2, 3))
    evidence = evidence_of(attentions, one_hot(position, 7), tokens)
    eye = torch.eye(7, dtype=torch.float64)
    R, rollout = eye.expand(2, 7, 7), eye.expand(2, 7, 7)
    own, patches = position, [token for token in range(7) if token != position]
    for block in blocks:  # as matrices of all seven: the class token is not yet there, so that nothing reaches it
        A = torch.zeros(2, 7, 7, dtype=torch.float64)
        A[:, [[token] for token in patches], patches] = block
        R = R + A @ R
        keeps = A.clone()
        keeps[:, own, own] = 1
        rollout = (keeps + eye) / 2 @ rollout
    for row in rows:
        A = torch.zeros(2, 7, 7, dtype=torch.float64)
        A[:, own] = row[:, 0]
        R = R + A @ R
        keeps = eye.repeat(2, 1, 1)
        keeps[:, own] = row[:, 0]
        rollout = (keeps + eye) / 2 @ rollout
    assert_map(attention_relevance(evidence), R[:, own][:, patches], TokenGrid(0, 0, (2, 3)))
    assert_map(attention_rollout(evidence), rollout[:, own][:, patches], TokenGrid(0, 0, (2, 3)))
    assert prefix_relevance(evidence).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("queries", [1, 4])
def test_attention_pooling_starts_with_the_mean_of_its_rows_of_which_nothing_is_subtracted(queries):
    tokens = TokenGrid(1, 0, (2, 3))
    blocks = [random(2, 7, 7, seed=seed).softmax(2) for seed in range(2)]
    pool = random(2, queries, 7, seed=2).softmax(2)
    attentions = [*map(Attention, blocks, blocks), Attention(pool, pool)]
    evidence = evidence_of(attentions, torch.full((2, 7), torch.nan).double(), tokens)
    eye = torch.eye(7, dtype=torch.float64)
    row = pool.mean(1, keepdim=True) @ (eye + blocks[1]) @ (eye + blocks[0])
    assert_map(attention_relevance(evidence), row[:, 0], tokens)
    row = pool.mean(1, keepdim=True) @ (eye + blocks[1]) @ (eye + blocks[0]) / 4
    assert_map(attention_rollout(evidence), row[:, 0], tokens)


@pytest.mark.parametrize(("prefix", "suffix", "kept"), [(3, 0, slice(1, 3)), (0, 3, slice(0, 2)), (2, 3, slice(2, 2))])
def test_tokens_that_were_added_between_two_attentions_drop_out(prefix, suffix, kept):
    tokens = TokenGrid(prefix, suffix, (2, 3))
    T, patches = len(tokens), list(range(prefix, prefix + 6))
    extra = list(range(prefix))[kept] if suffix == 0 else list(range(prefix + 6, T))[kept]
    below = sorted([*extra, *patches])
    late, early = random(2, T, T), random(2, len(below), len(below), seed=1)
    start = random(2, T, seed=2)
    gained = (start[:, None] @ late)[:, 0][:, below]
    expected = gained + ((start[:, below] + gained)[:, None] @ early)[:, 0]
    evidence = evidence_of(map(Attention, (early, late)), start, tokens)
    at = [below.index(patch) for patch in patches]
    assert_map(attention_relevance(evidence), expected[:, at], TokenGrid(0, 0, (2, 3)))
    elsewhere = expected.sum(1) - expected[:, at].sum(1)
    torch.testing.assert_close(prefix_relevance(evidence), elsewhere / expected.sum(1), rtol=1e-9, atol=1e-12)


def test_tokens_that_were_left_out_before_the_last_attention_are_there_below_it():
    tokens, (early, pool) = TokenGrid(1, 0, (2, 3)), (random(2, 7, 7), random(2, 1, 6, seed=1))
    row = torch.cat([torch.zeros(2, 1, 1, dtype=torch.float64), pool], 2)
    expected = (row @ (torch.eye(7, dtype=torch.float64) + early))[:, 0]
    evidence = evidence_of(map(Attention, (early, pool)), one_hot(0, 7), tokens)
    assert_map(attention_relevance(evidence), expected, tokens)
    torch.testing.assert_close(prefix_relevance(evidence), expected[:, 0] / expected.sum(1), **EXACT)


@pytest.mark.parametrize("pool", ["class", "mean", "attention"])
@pytest.mark.parametrize("method", [attention_relevance, attention_rollout])
def test_the_mean_of_the_heads_maps_is_the_map_of_all(method, pool):
    evidence = explained(TinyViT(pool=pool), keeps_heads=True)
    maps = [method(evidence, head=head) for head in range(2)]
    torch.testing.assert_close(sum(maps) / 2, method(evidence), **EXACT)
    assert not torch.allclose(*maps, rtol=0.1)
    shares = [prefix_relevance(evidence, head=head) for head in range(2)]
    assert not torch.allclose(*shares, rtol=1e-3)
    with pytest.raises(ValueError, match=r"Expected `head` below 2, the heads of the last attention, got 2\."):
        method(evidence, head=2)
    with pytest.raises(ValueError, match="collect it with the `needs`"):
        method(explained(TinyViT(pool=pool)), head=0)


@pytest.mark.parametrize("method", [attention_relevance, attention_rollout])
def test_what_cannot_be_followed_is_refused(method):
    tokens = TokenGrid(1, 0, (2, 3))

    def refused(attentions, tokens, says):
        start = None if tokens is None else one_hot(0, len(tokens), 1)
        none = torch.zeros(1)
        with pytest.raises(ValueError, match=says):
            method(Evidence(none, none, none, attentions=tuple(attentions), token_relevance=start, tokens=tokens))

    def attention(queries, keys, query=None):
        matrix = random(1, queries, keys)
        return Attention(matrix, matrix, query)

    every = attention(7, 7)
    refused([], tokens, "attention over the tokens of its images")
    refused([every], None, "attention over the tokens of its images")
    refused([attention(9, 9), every], tokens, r"the 6 patches .* 1 tokens before and 0 after .* over 9 tokens")
    refused([attention(5, 5), every], tokens, "over 5 tokens, whose patches are not known")
    refused([every, attention(10, 10)], TokenGrid(2, 2, (2, 3)), "over 7 tokens, whose patches are not known")
    refused([attention(2, 7), every], tokens, r"pooling only as the last one, got a matrix \(1, 2, 7\)")
    refused([attention(7, 7, query=0), every], tokens, r"got a matrix \(1, 7, 7\) with `query` 0")
    refused([Attention(), every], tokens, "collect it with the `needs`")


def test_no_relevance_at_all_has_no_share_on_the_prefix_and_what_is_not_finite_none_that_is():
    tokens, nothing = TokenGrid(1, 0, (2, 3)), torch.zeros(2, 7, 7)
    assert prefix_relevance(evidence_of([Attention(nothing)], one_hot(0, 7).float(), tokens)).tolist() == [0.0, 0.0]
    assert prefix_relevance(evidence_of([Attention(nothing / 0)], one_hot(0, 7).float(), tokens)).isnan().all()


def test_a_row_reports_its_notes_and_needs_what_its_options_need():
    evidence = explained(TinyViT(), keeps_heads=True)
    passes = Passes(Forward(TinyViT()), make_call((IMAGES,), {}), LABELS)
    row = ROWS["attention_relevance"]
    for options in ({}, {"head": 1}):
        maps, signed = row.attribute(evidence, passes, options)
        torch.testing.assert_close(maps, attention_relevance(evidence, **options).float())
        assert signed is None
        torch.testing.assert_close(passes.notes["prefix_relevance"], prefix_relevance(evidence, **options))
    assert not ROWS["attention_rollout"].notes
    for row in ROWS.values():
        assert not row.reads_layer
        assert row.needs_with({}) == row.needs_with({"head": None}) == {"attention"}
        assert row.needs_with(row.parse_options("it", {"head": 0})) == {"attention", "attention_heads"}
        with pytest.raises(ValueError, match=r"\['head'\]` to be an int from 0, got -1"):
            row.parse_options("it", {"head": -1})
