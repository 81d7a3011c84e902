"""Transformers, whose tokens and attentions the callback reads: by default, unless a row names methods."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from tiny import NUM_CLASSES, TinyClassifier
from tiny_transformer import Transformer
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import SwinTransformer, VisionTransformer
from torchvision.ops import StochasticDepth

from lightning_saliency import METHODS as EVERY_METHOD

from .recipe import Recipe, call_module

OF_TOKENS = ("attention_relevance", "grad_cam", "saliency")
OF_WINDOWS = ("summed_hires_cam", "grad_cam", "saliency")
READ_ATTENTION = tuple(key for key, method in EVERY_METHOD.items() if method.reads_attentions)


class Classifies(TinyClassifier):
    """Trains a network that turns images into logits."""

    def __init__(self, make: Callable[[], nn.Module]):
        super().__init__()
        del self.backbone, self.head
        self.net = make()

    def forward(self, images):
        return self.net(images)


class Recomputes(nn.Module):
    """Computes a block again in backward; the reentrant way cuts the graph of an explanation, if in eval mode too."""

    def __init__(self, block: nn.Module, *, use_reentrant: bool, in_eval: bool = True):
        super().__init__()
        self.block, self.use_reentrant, self.in_eval = block, use_reentrant, in_eval

    def forward(self, tokens):
        if self.training or self.in_eval:
            return checkpoint(self.block, tokens, use_reentrant=self.use_reentrant)
        return self.block(tokens)


class Centers(nn.Module):
    """Subtracts a running mean of its tokens, which moves in eval mode too."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))

    def forward(self, tokens):
        self.mean.lerp_(tokens.detach().mean((0, 1)), 0.1)
        return tokens - self.mean


class Encoder(nn.Module):
    """torch's own transformer on patches, with the batch first or second."""

    def __init__(self, *, batch_first: bool, norm_first: bool = True):
        super().__init__()
        self.batch_first = batch_first
        self.embed = nn.Conv2d(3, 16, 4, stride=4)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(16, NUM_CLASSES)

    def forward(self, images):
        tokens = self.embed(images).flatten(2).mT
        if self.batch_first:
            return self.head(self.encoder(tokens).mean(1))
        return self.head(self.encoder(tokens.transpose(0, 1)).mean(0))


def changed(change: Callable[[Transformer], Any], pool: str = "class") -> Transformer:
    """Return a ViT after a function has changed it."""
    vit = Transformer(pool)
    change(vit)
    return vit


def freeze_trunk(vit: Transformer) -> None:
    vit.requires_grad_(False)
    vit.head.requires_grad_(True)


def recompute(vit: Transformer, **options: bool) -> None:
    vit.blocks = nn.ModuleList(Recomputes(block, **options) for block in vit.blocks)


def grow_stem(vit: Transformer) -> None:
    """Let convolutions cut the patches."""
    vit.patches = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1)
    )


def frozen_encoder() -> Encoder:
    encoder = Encoder(batch_first=True)
    encoder.encoder.requires_grad_(False)
    return encoder


def center(vit: Transformer) -> None:
    vit.norm = nn.Sequential(Centers(8), vit.norm)


def torchvision_vit() -> VisionTransformer:
    """A ViT with dropout in attention and everywhere else, and blocks that are skipped at random."""
    vit = VisionTransformer(16, 4, 3, 2, 16, 32, dropout=0.1, attention_dropout=0.2, num_classes=NUM_CLASSES)
    for block in vit.encoder.layers:
        block.dropout = nn.Sequential(block.dropout, StochasticDepth(0.3, "row"))
        block.mlp = nn.Sequential(block.mlp, StochasticDepth(0.3, "row"))
    nn.init.normal_(vit.heads.head.weight)  # zeros at first, so that nothing is seen
    return vit


def swin() -> SwinTransformer:
    """Windows of 2×2 tokens, shifted in every second block, in maps whose channels are last."""
    return SwinTransformer(
        [2, 2], 16, [2, 2], [2, 2], [2, 2], attention_dropout=0.2, stochastic_depth_prob=0.3, num_classes=NUM_CLASSES
    )


def compiled(backend: str) -> nn.Module:
    return torch.compile(Classifies(Transformer), backend=backend)


def network(name: str, make: Callable[[], nn.Module], **options: Any) -> Recipe:
    """Return the recipe of a network that turns images into logits; its methods are those that the callback chooses."""
    return by_default(name, partial(Classifies, make), **options)


def by_default(name: str, module: Callable[[], Any], methods: Sequence[str] = OF_TOKENS, **options: Any) -> Recipe:
    """Return the recipe of a module for which the callback has to choose these methods."""
    return Recipe(name, module, methods=methods, options={"methods": None}, **options)


def vit(name: str, change: Callable[[Transformer], Any], **options: Any) -> Recipe:
    """Return the recipe of a ViT after a function has changed it."""
    return network(f"a ViT: {name}", partial(changed, change), **options)


ROWS = [
    network("a ViT: a class token, fused attention", Transformer, daily=True),
    Recipe(
        "a ViT: all methods that read attention, and LRP",
        partial(Classifies, Transformer),
        methods=(*READ_ATTENTION, "lrp"),
        daily=True,
    ),
    network("a ViT: the mean of its tokens, attention written out", partial(Transformer, "mean", written=True)),
    vit("a frozen trunk", freeze_trunk),
    vit("non-reentrant checkpointing", partial(recompute, use_reentrant=False), daily=True),
    vit("reentrant checkpointing in training", partial(recompute, use_reentrant=True, in_eval=False)),
    Recipe(
        "a ViT: reentrant checkpointing, explained behind it",
        partial(Classifies, partial(changed, partial(recompute, use_reentrant=True), "mean")),
        methods=("cam", "grad_cam"),
        options={"layer": "net.norm"},
    ),
    network("a ViT: precision='bf16-mixed'", Transformer, trainer={"precision": "bf16-mixed"}),
    network("a ViT: precision='bf16-true'", Transformer, trainer={"precision": "bf16-true"}),
    by_default("a ViT: compiled before", partial(compiled, "eager")),
    by_default("a ViT: compiled before, by AOTAutograd", partial(compiled, "aot_eager")),
    vit("a running mean that moves in eval mode", center, careless=call_module),
    vit("a convolutional stem with BatchNorm", grow_stem),
    network("a ViT of torchvision's: dropout in attention, stochastic depth", torchvision_vit),
    network("a Swin transformer: dropout in attention, stochastic depth", swin, methods=OF_WINDOWS, daily=True),
    network("nn.TransformerEncoder: the batch first, all of it frozen", frozen_encoder),
    network(
        "nn.TransformerEncoder: the batch second, the norm last", partial(Encoder, batch_first=False, norm_first=False)
    ),
]
