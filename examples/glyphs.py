"""Images with a planted glyph whose place is known, and small networks of several kinds that learn to read it.

Each image holds one of six glyphs, which is its class, two random glyphs like it, and noise. `planted_glyph.py` asks
every method where the networks see the glyph.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import SwinTransformer

SIDE, GLYPH, PATCH, CLASSES = 28, 8, 4, 6
STEP = 2  # glyphs stand at every second pixel: three of four are not on the grid of patches
NOISE = 0.2
BATCH = 64


def draw_glyphs(count: int, generator: torch.Generator) -> Tensor:
    """Draw random glyphs `(count, 8, 8)` of 0 and 1, whose right half mirrors the left, as of a small creature."""
    left = torch.randint(2, (count, GLYPH, GLYPH // 2), generator=generator)
    return torch.cat([left, left.flip(2)], 2)


CLASS_GLYPHS = draw_glyphs(CLASSES, torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Images:
    """Images with the class glyphs that they hold, one each or two.

    Attributes:
        pixels: `(N, 1, 28, 28)`.
        labels: The classes of the glyphs, `(N, k)`, k different ones.
        boxes: Where they are, `(N, k, 4)`, as (x1, y1, x2, y2).
    """

    pixels: Tensor
    labels: Tensor
    boxes: Tensor

    @classmethod
    def compose(cls, count: int, seed: int, objects: int = 1) -> Images:
        """Compose images of three glyphs that do not overlap, of which `objects` are of a class."""
        generator = torch.Generator().manual_seed(seed)
        labels = torch.rand(count, CLASSES, generator=generator).argsort(1)[:, :objects]
        others = draw_glyphs(count * (3 - objects), generator).unflatten(0, (count, 3 - objects))
        glyphs = torch.cat([CLASS_GLYPHS[labels], others], 1)
        corners = place_apart(count, 3, generator)
        rows, columns = (corners[..., None] + torch.arange(GLYPH)).unbind(2)
        pixels = NOISE * torch.randn(count, SIDE, SIDE, generator=generator)
        pixels[torch.arange(count)[:, None, None, None], rows[..., None], columns[:, :, None]] += glyphs
        x1_y1 = corners[:, :objects].flip(2)
        return cls(pixels[:, None], labels, torch.cat([x1_y1, x1_y1 + GLYPH], 2))

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Tensor | slice) -> Images:
        return Images(self.pixels[rows], self.labels[rows], self.boxes[rows])


def place_apart(count: int, glyphs: int, generator: torch.Generator) -> Tensor:
    """Return the upper left corners (y, x), `(count, glyphs, 2)`, of glyphs that do not overlap."""
    corners = torch.zeros(count, glyphs, 2, dtype=torch.int64)
    overlapping = torch.ones(count, dtype=torch.bool)
    first, second = torch.triu_indices(glyphs, glyphs, 1)
    while overlapping.any():
        shape = (int(overlapping.sum()), glyphs, 2)
        corners[overlapping] = STEP * torch.randint((SIDE - GLYPH) // STEP + 1, shape, generator=generator)
        distances = (corners[:, first] - corners[:, second]).abs().amax(2)
        overlapping = (distances < GLYPH).any(1)
    return corners


class Attention(nn.Module):
    """Self-attention of all tokens `(N, L, D)`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Let each token read all tokens."""
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(q, k, v)
        mixed: Tensor = self.project(read.transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = (
            nn.LayerNorm(width),
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix the tokens, then each one's channels."""
        tokens = tokens + self.attention(self.norm1(tokens))
        mixed: Tensor = tokens + self.mlp(self.norm2(tokens))
        return mixed


class VisionTransformer(nn.Module):
    """A small ViT of 7×7 patches.

    Args:
        prefix: The number of tokens before the patches: a class token, which is classified, and registers. With 0 the
            mean of the patches is classified.
    """

    def __init__(self, prefix: int, width: int = 48, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, PATCH, PATCH)
        self.prefix = nn.Parameter(0.02 * torch.randn(1, prefix, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, (SIDE // PATCH) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """`(N, 1, 28, 28)` -> `(N, 6)`."""
        patches = self.embed(images).flatten(2).mT + self.position
        tokens = self.norm(self.blocks(torch.cat([self.prefix.expand(len(images), -1, -1), patches], 1)))
        logits: Tensor = self.head(tokens[:, 0] if self.prefix.shape[1] else tokens.mean(1))
        return logits


def windowed() -> nn.Module:
    """Return a small Swin transformer: 14×14 tokens in windows of 7×7, then 7×7 tokens in one."""
    network: nn.Module = SwinTransformer(
        [2, 2], 32, depths=[2, 2], num_heads=[2, 4], window_size=[7, 7], mlp_ratio=2.0, stochastic_depth_prob=0.0,
        num_classes=CLASSES,
    )  # fmt: skip
    network.set_submodule("features.0.0", nn.Conv2d(1, 32, 2, 2))  # one channel
    return network


def convolutional() -> nn.Module:
    """Return a small CNN with global average pooling, whose last map is 14×14."""

    def block(channels: int, width: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]

    features = nn.Sequential(*block(1, 32), nn.MaxPool2d(2), *block(32, 48), *block(48, 64), *block(64, 64))
    pool, head = nn.AdaptiveAvgPool2d(1), nn.Linear(64, CLASSES)
    return nn.Sequential(OrderedDict(features=features, pool=pool, flatten=nn.Flatten(), head=head))


def train(network: nn.Module, steps: int, seed: int, learning_rate: float = 2e-3) -> None:
    """Train a network on images that are composed anew for each step."""
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=0.05, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    network.train()
    for step in range(steps):
        images = Images.compose(BATCH, seed=seed * 10**6 + step)
        loss = F.cross_entropy(network(images.pixels), images.labels[:, 0])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    network.eval()


def is_right(network: nn.Module, images: Images) -> Tensor:
    """Return whether the most probable class is that of the first glyph, `(N,)`."""
    with torch.no_grad():
        predicted: Tensor = network(images.pixels).argmax(1)
    return predicted == images.labels[:, 0]
