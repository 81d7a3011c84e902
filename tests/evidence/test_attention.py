"""Attention is read off the backward: P and its gradient, however a model writes it, and nothing else changes."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tiny_vit import TinyViT, fused, fused_flat, multihead, written_out, written_out_flat
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from torchvision.models import VisionTransformer

from lightning_saliency.evidence import AttentionReader

IMAGES = torch.randn(3, 2, 8, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.tensor([2, 0, 1])
ALIKE = {"rtol": 1e-9, "atol": 1e-12}


def score(logits):
    return logits.gather(1, LABELS[:, None].to(logits.device)).sum()


def reduced(P, G):
    """Ā and P̄, `(N, L, S)`."""
    return (P * G).relu().mean(1), P.mean(1)


def defined(model, images=IMAGES):
    """Ā and P̄ of each attention by their definition: the model is written out, and autograd asked for P's gradient."""
    kept = []
    model.attend = partial(written_out, kept=kept)
    gradients = torch.autograd.grad(score(model(images)), kept)
    return [reduced(P.detach(), G) for P, G in zip(kept, gradients, strict=True)]


def read(model, images=IMAGES, num_tokens=frozenset({7}), **options):
    """The attentions that the reader finds, and the gradient of the image."""
    leaf = images.clone().requires_grad_()
    logits = model(leaf)
    with AttentionReader(len(images), num_tokens, **options) as reader:
        (gradient,) = torch.autograd.grad(score(logits), [leaf], allow_unused=True)
    return reader.attentions(), gradient


def assert_reads(attentions, expected, **tolerance):
    assert len(attentions) == len(expected)
    for attention, (relevance, weights) in zip(attentions, expected, strict=True):
        torch.testing.assert_close(attention.relevance, relevance, **(tolerance or ALIKE))
        torch.testing.assert_close(attention.weights, weights, **(tolerance or ALIKE))
        assert attention.query is None
        assert not attention.relevance.requires_grad
        assert not attention.weights.requires_grad


WAYS = {
    "fused": fused,
    "written out": written_out,
    "written out, N·H": written_out_flat,
    "fused, N·H": fused_flat,
    **{
        f"nn.MultiheadAttention, {batch_first=}, {need_weights=}": multihead(
            batch_first=batch_first, need_weights=need_weights
        )
        for batch_first in (True, False)
        for need_weights in (True, False)
    },
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("num_images", [1, 3])
def test_attention_is_read_however_it_is_written_and_the_gradient_is_the_same_to_the_bit(way, num_images):
    images = IMAGES[:num_images]
    model = TinyViT(WAYS[way])
    leaf = images.clone().requires_grad_()

    def scores(logits):
        return logits[:, 1].sum()

    (alone,) = torch.autograd.grad(scores(model(leaf)), leaf)
    logits = model(leaf)
    with AttentionReader(num_images, {7}) as reader:
        (gradient,) = torch.autograd.grad(scores(logits), leaf)
    assert torch.equal(gradient, alone)
    kept = []
    model.attend = partial(written_out, kept=kept)
    gradients = torch.autograd.grad(scores(model(images)), kept)
    assert_reads(reader.attentions(), [reduced(P.detach(), G) for P, G in zip(kept, gradients, strict=True)])


@pytest.mark.parametrize("pool", ["attention", "class attention"])
@pytest.mark.parametrize("way", WAYS)
def test_one_query_that_asks_all_tokens_is_read(way, pool):
    model = TinyViT(WAYS[way], pool, prefix=0)
    attentions, _ = read(model, num_tokens={6, 7})
    assert [tuple(attention.weights.shape[1:]) for attention in attentions] == [
        *[(6, 6)] * 3,
        (1, 6 if pool == "attention" else 7),
    ]
    assert_reads(attentions, defined(model))


def heads(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OPTIONS = {
    "nothing": {},
    "a scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "causal and a scale": {"is_causal": True, "scale": 2.0},
    "a mask of all": {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril()},
    "a mask with a query that may ask nobody": {"attn_mask": torch.arange(25).reshape(1, 1, 5, 5) >= 5},
    "a mask of each image": {"attn_mask": heads(2, 1, 5, 5, seed=5) > -1},
    "a bias": {"attn_mask": heads(1, 4, 5, 5, seed=6)},
    "a learned bias": {"attn_mask": heads(4, 5, 5, seed=6).requires_grad_()},
    "fewer keys and values": {"enable_gqa": True},
    "fewer keys and values, causal": {"enable_gqa": True, "is_causal": True},
}


@pytest.mark.parametrize("backend", [None, SDPBackend.MATH])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_fused_attention_is_read(name, backend):
    options = OPTIONS[name]
    kv_heads = 2 if "enable_gqa" in options else 4
    q, k, v = heads(2, 4, 5, 6), heads(2, kv_heads, 5, 6, seed=1), heads(2, kv_heads, 5, 6, seed=2)
    for tensor in (q, k, v):
        tensor.requires_grad_()

    def scored(output):
        return (output.tanh() * heads(*output.shape, seed=3)).sum()

    with sdpa_kernel(backend or list(SDPBackend.__members__.values())):
        output = F.scaled_dot_product_attention(q, k, v, **options)
        with AttentionReader(2, {5}) as reader:
            torch.autograd.grad(scored(output), q)

    mask = options.get("attn_mask", torch.zeros(5, 5, dtype=torch.float64))
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -torch.inf)
    if "is_causal" in options:
        mask = torch.full((5, 5), -torch.inf, dtype=torch.float64).triu(1)
    k, v = (each.repeat_interleave(4 // kv_heads, 1) for each in (k, v))
    exponentials = (q @ k.mT * options.get("scale", 6**-0.5) + mask).exp()
    P = exponentials / exponentials.sum(-1, keepdim=True).clamp(min=1e-300)
    torch.testing.assert_close(P @ v, output)
    assert_reads(reader.attentions(), [reduced(P.detach(), torch.autograd.grad(scored(P @ v), P)[0])])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "width"), [(5, 3), (1, 6), (4, 6)])
def test_values_of_another_width_and_few_queries_are_read(queries, width, causal):
    q, k, v = heads(2, 4, queries, 6).requires_grad_(), heads(2, 4, 5, 6, seed=1), heads(2, 4, 5, width, seed=2)
    output = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    with AttentionReader(2, {5}) as reader:
        torch.autograd.grad(output.square().sum(), q)
    later = torch.ones(queries, 5, dtype=torch.bool).triu(1) & causal
    P = (q @ k.mT / 6**0.5).masked_fill(later, -torch.inf).softmax(-1)
    assert_reads(reader.attentions(), [reduced(P.detach(), torch.autograd.grad((P @ v).square().sum(), P)[0])])


def test_many_heads_of_long_sequences_are_read_a_few_at_a_time():
    q, k, v = (heads(1, 5, 700, 4, seed=seed).requires_grad_() for seed in range(3))
    P = (q @ k.mT / 2).softmax(-1)
    expected = reduced(P.detach(), torch.autograd.grad((P @ v).square().sum(), P)[0])
    for output in (F.scaled_dot_product_attention(q, k, v), (q @ k.mT / 2).softmax(-1) @ v):
        with AttentionReader(1, {700}, keeps_heads=True) as reader:
            torch.autograd.grad(output.square().sum(), q)
        assert_reads(reader.attentions(), [expected])
        torch.testing.assert_close(reader.attentions()[0].head_weights, P.detach(), **ALIKE)


def test_rows_sum_to_one_and_relevance_of_a_head_to_output_times_gradient():
    q, k, v = (heads(2, 4, 5, 6, seed=seed).requires_grad_() for seed in range(3))
    output = F.scaled_dot_product_attention(q, k, v)
    signed = []
    for sign in (1, -1):  # ReLU(x) - ReLU(-x) = x
        with AttentionReader(2, {5}, keeps_heads=True) as reader:
            (gradient,) = torch.autograd.grad(sign * output.sin().sum(), output, retain_graph=True)
            torch.autograd.grad(sign * output.sin().sum(), q, retain_graph=True)
        (attention,) = reader.attentions()
        signed.append(sign * attention.head_relevance)
        torch.testing.assert_close(attention.head_relevance.mean(1), attention.relevance, **ALIKE)
        torch.testing.assert_close(attention.head_weights.sum(-1), torch.ones(2, 4, 5).double(), **ALIKE)
    expected = -(output * gradient).sum(-1).detach()
    torch.testing.assert_close(sum(signed).sum(-1), expected, **ALIKE)
    assert expected.abs().max() > 0.1


def test_single_heads_are_kept_of_the_last_attention_alone_and_on_request():
    *others, last = read(TinyViT(), keeps_heads=True)[0]
    assert last.head_relevance.shape == last.head_weights.shape == (3, 2, 7, 7)
    for attention in (*others, *read(TinyViT())[0]):
        assert attention.head_relevance is None
        assert attention.head_weights is None


@pytest.mark.parametrize("wants", [{"relevance"}, {"weights"}])
@pytest.mark.parametrize("attend", [fused, written_out])
def test_only_what_is_wanted_is_kept(attend, wants):
    (want,) = wants
    both, _ = read(TinyViT(attend), keeps_heads=True)
    attentions, _ = read(TinyViT(attend), wants=wants, keeps_heads=True)
    for attention, complete in zip(attentions, both, strict=True):
        assert torch.equal(getattr(attention, want), getattr(complete, want))
    names = {name for name, value in vars(attentions[-1]).items() if value is not None}
    assert names == {want, f"head_{want}"}


@pytest.mark.parametrize("attend", [fused, written_out])
def test_the_factor_of_the_score_is_divided_out(attend):
    leaf = IMAGES.clone().requires_grad_()
    logits = TinyViT(attend)(leaf)
    with AttentionReader(3, {7}, score_factor=2.0**12) as reader:
        torch.autograd.grad(2.0**12 * score(logits), leaf)
    for attention, plain in zip(reader.attentions(), read(TinyViT(attend))[0], strict=True):
        assert torch.equal(attention.relevance, plain.relevance)
        assert torch.equal(attention.weights, plain.weights)


@pytest.mark.parametrize("attend", [fused, written_out])
def test_frozen_models_are_read(attend):
    model = TinyViT(attend)
    expected = defined(model)
    model.attend = attend
    assert_reads(read(model.requires_grad_(False))[0], expected)


@pytest.mark.parametrize("stops_early", [True, False])
@pytest.mark.parametrize("attend", [fused, written_out])
def test_checkpointed_blocks_are_read_once_each(attend, stops_early):
    class Checkpointed(TinyViT):
        def block(self, tokens, index):
            return checkpoint(super().block, tokens, index, use_reentrant=False)

    model = Checkpointed(attend)
    expected, (_, gradient) = defined(TinyViT()), read(TinyViT(attend))
    with set_checkpoint_early_stop(stops_early):
        attentions, checkpointed = read(model)
    assert_reads(attentions, expected)
    assert torch.equal(checkpointed, gradient)


@pytest.mark.parametrize("attend", [fused, written_out, multihead(batch_first=True, need_weights=False)])
def test_reduced_precision_is_read_in_float32(attend):
    model = TinyViT().float()
    expected = defined(model, IMAGES.float())
    model.attend = attend
    leaf = IMAGES.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(leaf)
        with AttentionReader(3, {7}) as reader:  # also where the backward runs under autocast
            torch.autograd.grad(score(logits), leaf)
    for attention, (relevance, weights) in zip(reader.attentions(), expected, strict=True):
        assert attention.weights.dtype == attention.relevance.dtype == torch.float32
        torch.testing.assert_close(attention.weights.sum(-1), torch.ones(3, 7), rtol=0, atol=2e-2)
        assert (attention.weights - weights).abs().max() < 0.1
        assert (attention.relevance - relevance).norm() < 0.2 * relevance.norm()


def test_what_is_computed_of_half_precision_is_computed_in_float32():
    q, k, v = (heads(2, 4, 5, 8, seed=seed).bfloat16() for seed in range(3))
    q.requires_grad_()
    output = F.scaled_dot_product_attention(q, k, v)
    for under_autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=under_autocast), AttentionReader(2, {5}) as reader:
            torch.autograd.grad(output.sum(), q, retain_graph=True)
        P = (q.detach().float() @ k.float().mT / 8**0.5).softmax(-1)
        G = torch.ones(2, 4, 5, 8) @ v.float().mT
        assert_reads(reader.attentions(), [reduced(P, G)], rtol=1e-4, atol=1e-5)


def windows(images):
    """Attention in two windows of each image, over channels, to half of the tokens; softmaxes over other dimensions."""
    x = images.flatten(1).unflatten(1, (2, 16, 6))  # (N, windows, 16, 6)
    within = x.flatten(0, 1).unflatten(2, (2, 3)).transpose(1, 2)  # (N·windows, H, 16, 3)
    x = x + F.scaled_dot_product_attention(within, within, within).transpose(1, 2).reshape(x.shape)
    within = x.unflatten(3, (2, 3)).permute(0, 3, 1, 2, 4)  # (N, H, windows, 16, 3), of five dimensions
    x = x + (within @ within.mT).softmax(-1).matmul(within).permute(0, 2, 3, 1, 4).reshape(x.shape)
    x = x + F.scaled_dot_product_attention(within, within, within).permute(0, 2, 3, 1, 4).reshape(x.shape)
    channels = x.flatten(1, 2).mT[:, None]  # (N, 1, 6, 32)
    x = x + F.scaled_dot_product_attention(channels, channels, channels)[:, 0].mT.reshape(x.shape)
    every = x.flatten(1, 2)[:, None]  # (N, 1, 32, 6)
    x = x + (every @ every.mT).softmax(-2).matmul(every)[:, 0].reshape(x.shape)
    half = every[:, :, ::2]  # fewer keys than queries
    x = x + F.scaled_dot_product_attention(every, half, half)[:, 0].reshape(x.shape)
    return x.sum((1, 2)).softmax(-1)[:, :3]


@pytest.mark.parametrize("num_images", [2, 3])
def test_what_is_no_attention_over_the_tokens_is_passed_over(num_images):
    images = heads(num_images, 2, 8, 12).requires_grad_()
    with AttentionReader(num_images, {16, 32}) as reader:
        torch.autograd.grad(windows(images)[:, 0].sum(), images)
    assert [tuple(attention.weights.shape) for attention in reader.attentions()] == [(num_images, 32, 16)]
    for num_tokens in ({16}, {32}):
        with AttentionReader(num_images, num_tokens) as reader:
            torch.autograd.grad(windows(images)[:, 0].sum(), images)
        assert reader.attentions() == ()


def test_torchvisions_vision_transformer_is_read():
    torch.manual_seed(0)
    model = VisionTransformer(12, 4, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=4).double().eval()
    nn.init.normal_(model.heads.head.weight)
    images = heads(3, 3, 12, 12)
    attentions, gradient = read(model, images, {10})
    kept, leaf = [], images.clone().requires_grad_()
    x = torch.cat([model.class_token.expand(3, -1, -1), model._process_input(leaf)], 1) + model.encoder.pos_embedding
    for block in model.encoder.layers:
        normed = block.ln_1(x)
        x = x + written_out(block.self_attention, normed, normed, kept)
        x = x + block.mlp(block.ln_2(x))
    *gradients, image_gradient = torch.autograd.grad(score(model.heads(model.encoder.ln(x)[:, 0])), [*kept, leaf])
    torch.testing.assert_close(gradient, image_gradient, **ALIKE)
    assert_reads(attentions, [reduced(P.detach(), G) for P, G in zip(kept, gradients, strict=True)])


def test_only_attentions_behind_the_tensor_whose_gradient_is_asked_for_are_read():
    model = TinyViT()
    with torch.no_grad():
        first = model.tokens(IMAGES)
    model.attentions = nn.ModuleList([*model.attentions[:2], model.attentions[-1]])
    leaf = first.requires_grad_()
    logits = model.read(model.block(model.block(leaf, 0), 1))
    with AttentionReader(3, {7}) as reader:
        torch.autograd.grad(score(logits), leaf)
    assert len(reader.attentions()) == 2


ON_GPU = {
    SDPBackend.FLASH_ATTENTION: [{}, {"is_causal": True, "scale": 0.3}],
    SDPBackend.CUDNN_ATTENTION: [{}, {"is_causal": True, "scale": 0.3}],
    SDPBackend.EFFICIENT_ATTENTION: [{}, {"is_causal": True, "scale": 0.3}, {"attn_mask": heads(2, 1, 64, 64) > -1}],
}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("backend", "options"), [(backend, each) for backend in ON_GPU for each in ON_GPU[backend]])
def test_the_fused_attentions_of_gpus_are_read(backend, options, precision):
    q, k, v = (heads(2, 4, 64, 64, seed=seed).cuda().to(precision).requires_grad_() for seed in range(3))
    options = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in options.items()}
    with sdpa_kernel(backend):
        output = F.scaled_dot_product_attention(q, k, v, **options)
        with AttentionReader(2, {64}) as reader:
            torch.autograd.grad(output.double().tanh().sum(), q)
    q, k, v = (tensor.detach().double() for tensor in (q, k, v))
    allowed = options.get("attn_mask", torch.ones(64, 64, dtype=torch.bool, device="cuda"))
    allowed = allowed.tril() if "is_causal" in options else allowed
    scores = q @ k.mT * options.get("scale", 64**-0.5)
    P = scores.masked_fill(~allowed, -torch.inf).softmax(-1).requires_grad_()
    relevance, weights = reduced(P.detach(), torch.autograd.grad((P @ v).tanh().sum(), P)[0])
    (attention,) = reader.attentions()
    assert attention.relevance.dtype == torch.float32
    assert (attention.weights - weights).abs().max() < 1e-4
    assert (attention.relevance - relevance).norm() < 0.05 * relevance.norm()


@pytest.mark.skipif(not hasattr(torch.ops.higher_order, "print"), reason="this torch has no such operation")
def test_operations_that_hold_functions_run_in_the_reader_as_without_it(capsys):
    with AttentionReader(1, {7}):  # torch refuses them in modes that do not say they take them
        torch.ops.higher_order.print("{number} attentions", number=7)
    assert capsys.readouterr().out.strip() == "7 attentions"
