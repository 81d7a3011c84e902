"""A tiny vision transformer whose parts are fused or written out, gated, in place, or checkpointed."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


class WrittenNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x):
        centered = x - x.mean(-1, keepdim=True)
        return self.weight * centered / torch.sqrt(centered.square().mean(-1, keepdim=True) + 1e-6)


class Attention(nn.Module):
    def __init__(self, width, written, biases):
        super().__init__()
        self.written = written
        self.qkv = nn.Linear(width, 3 * width, bias=biases)
        self.out = nn.Linear(width, width, bias=biases)

    def forward(self, x):
        N, L, D = x.shape
        q, k, v = self.qkv(x).reshape(N, L, 3, 2, D // 2).permute(2, 0, 3, 1, 4)
        if self.written:
            heads = (q @ k.transpose(-2, -1) * (D // 2) ** -0.5).softmax(-1) @ v
        else:
            heads = F.scaled_dot_product_attention(q, k, v)
        return self.out(heads.transpose(1, 2).reshape(N, L, D))


class MLP(nn.Module):
    def __init__(self, width, gated, biases):
        super().__init__()
        self.gated = gated
        self.up = nn.Linear(width, 4 * width, bias=biases)
        self.down = nn.Linear(2 * width if gated else 4 * width, width, bias=biases)

    def forward(self, x):
        x = self.up(x)
        if self.gated:
            gate, x = x.chunk(2, -1)
            return self.down(F.silu(gate) * x)
        return self.down(F.gelu(x))


class Block(nn.Module):
    def __init__(self, width, written, gated, in_place, biases):
        super().__init__()
        norm = WrittenNorm if written else partial(nn.LayerNorm, eps=1e-6, bias=biases)
        self.in_place = in_place
        self.norm1, self.attention = norm(width), Attention(width, written, biases)
        self.norm2, self.mlp = norm(width), MLP(width, gated, biases)
        self.scale = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x):
        for scale, layer, norm in [(self.scale, self.attention, self.norm1), (1, self.mlp, self.norm2)]:
            branch = scale * layer(norm(x))
            x = branch.add_(x) if self.in_place else branch + x
        return x


class Transformer(nn.Module):
    """Patches of 4×4, two blocks, and a head on the class token or on the mean."""

    def __init__(
        self, pool="class", written=False, gated=False, in_place=False, checkpointed=False, biases=False, width=8
    ):
        super().__init__()
        self.pool, self.checkpointed = pool, checkpointed
        self.patches = nn.Conv2d(3, width, 4, stride=4, bias=biases)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.blocks = nn.ModuleList(Block(width, written, gated, in_place, biases) for _ in range(2))
        self.norm = (WrittenNorm if written else partial(nn.LayerNorm, eps=1e-6, bias=biases))(width)
        self.head = nn.Linear(width, 4, bias=biases)

    def embed(self, images):
        patches = self.patches(images).flatten(2).mT
        return torch.cat([self.token.expand(len(patches), -1, -1), patches], 1)

    def behind(self, tokens):
        for block in self.blocks:
            tokens = checkpoint(block, tokens, use_reentrant=False) if self.checkpointed else block(tokens)
        tokens = self.norm(tokens)
        return self.head(tokens[:, 0] if self.pool == "class" else tokens[:, 1:].mean(1))

    def forward(self, images):
        return self.behind(self.embed(images))
