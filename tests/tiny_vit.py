"""A tiny vision transformer in float64, whose attention is written in any of the ways in which models write it."""

import torch
import torch.nn.functional as F
from torch import nn

GRID = (2, 3)


def projected(attention, asking, tokens):
    """Q of the tokens that ask, K and V of all, `(N, H, L, d)`, of an `nn.MultiheadAttention`."""
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    return [
        F.linear(inputs, weight, bias).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
        for inputs, weight, bias in zip((asking, tokens, tokens), weights, biases, strict=True)
    ]


def merged(attention, heads):
    return attention.out_proj(heads.transpose(1, 2).flatten(2))


def fused(attention, asking, tokens):
    return merged(attention, F.scaled_dot_product_attention(*projected(attention, asking, tokens)))


def written_out(attention, asking, tokens, kept=None):
    """The definition; `kept` gets P."""
    q, k, v = projected(attention, asking, tokens)
    P = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    if kept is not None:
        kept.append(P)
    return merged(attention, P @ v)


def written_out_flat(attention, asking, tokens):
    """Images and heads are one dimension."""
    q, k, v = (heads.flatten(0, 1) for heads in projected(attention, asking, tokens))
    P = torch.softmax(torch.bmm(q * q.shape[-1] ** -0.5, k.mT), dim=2)
    return merged(attention, torch.bmm(P, v).unflatten(0, (len(tokens), -1)))


def fused_flat(attention, asking, tokens):
    q, k, v = (heads.flatten(0, 1) for heads in projected(attention, asking, tokens))
    return merged(attention, F.scaled_dot_product_attention(q, k, v).unflatten(0, (len(tokens), -1)))


def multihead(*, batch_first, need_weights):
    """The module of torch as it is."""

    def attend(attention, asking, tokens):
        attention.batch_first = batch_first
        if batch_first:
            return attention(asking, tokens, tokens, need_weights=need_weights)[0]
        asking, tokens = asking.transpose(0, 1), tokens.transpose(0, 1)
        return attention(asking, tokens, tokens, need_weights=need_weights)[0].transpose(0, 1)

    return attend


class TinyViT(nn.Module):
    """A vision transformer for images `(N, 2, 8, 12)`: 2×3 patches, pre-norm blocks, three classes.

    Args:
        attend: How attention is written.
        pool: How the score reads the tokens: `"class"` (the first token), `"mean"`, `"attention"` (a learned query
            asks them), `"class attention"` (a class token that comes after the blocks and asks in one of its own).
        prefix: Tokens before the patches.
        suffix: Tokens after them.
        positions: Whether patches have a position embedding.
    """

    def __init__(self, attend=fused, pool="class", *, prefix=1, suffix=0, depth=3, positions=True):
        super().__init__()
        torch.manual_seed(0)
        self.attend, self.pool, self.prefix = attend, pool, prefix
        self.embed = nn.Conv2d(2, 8, 4, 4)
        self.positions = nn.Parameter(torch.randn(1, 6, 8) * positions)
        self.extra = nn.Parameter(torch.randn(1, prefix + suffix, 8))
        self.query = nn.Parameter(torch.randn(1, 1, 8))
        # larger than as usual, so that no attention is nearly even
        self.attentions = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(depth + 1))
        for attention in self.attentions:
            nn.init.normal_(attention.in_proj_weight)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(depth + 1))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)
        self.double().eval()

    def block(self, tokens, index):
        normed = self.norms[index](tokens)
        tokens = tokens + self.attend(self.attentions[index], normed, normed)
        return tokens + self.mlps[index](tokens)

    def tokens(self, images):
        """The last sequence, `(N, T, 8)`, which the score reads."""
        patches = self.embed(images).flatten(2).mT + self.positions
        extra = self.extra.expand(len(images), -1, -1)
        tokens = torch.cat([extra[:, : self.prefix], patches, extra[:, self.prefix :]], 1)
        for index in range(len(self.mlps)):
            tokens = self.block(tokens, index)
        return tokens

    def read(self, tokens):
        """The logits, of the last sequence."""
        query = self.query.expand(len(tokens), -1, -1)
        if self.pool == "attention":
            pooled = self.attend(self.attentions[-1], query, self.norms[-1](tokens))[:, 0]
        elif self.pool == "class attention":
            normed = self.norms[-1](torch.cat([query, tokens], 1))
            pooled = (query + self.attend(self.attentions[-1], normed[:, :1], normed))[:, 0]
        else:
            pooled = tokens[:, 0] if self.pool == "class" else tokens.mean(1)
        return self.head(self.norm(pooled))

    def forward(self, images):
        return self.read(self.tokens(images))
