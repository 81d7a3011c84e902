"""Whole transformers, explained with no settings: what must be so whatever their weights are."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_vit import GRID, TinyViT
from torch import nn

from lightning_saliency import explain

IMAGES = torch.randn(2, 2, 8, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.tensor([2, 0])
TOKEN_METHODS = (
    "lrp", "attention_relevance", "attention_rollout", "summed_hires_cam", "hires_cam", "grad_cam", "layer_cam",
    "xgrad_cam", "saliency", "input_x_gradient",
)  # fmt: skip


class PooledViT(TinyViT):
    """The mean of the normed tokens is classified, which is global average pooling."""

    def __init__(self, **options):
        super().__init__(pool="mean", prefix=0, **options)

    def read(self, tokens):
        return self.head(self.norm(tokens).mean(1))


def explained(model, images, methods, labels=LABELS, **options):
    return explain(model, images, methods=methods, target=labels, **options).attributions


def permuted(maps, order):
    """The patches of `(N, C, H, W)` in another order, whatever the size of a patch."""
    height, width = maps.shape[2] // GRID[0], maps.shape[3] // GRID[1]
    patches = F.unfold(maps, (height, width), stride=(height, width))[:, :, order]
    return F.fold(patches, maps.shape[2:], (height, width), stride=(height, width))


@pytest.mark.parametrize(("build", "methods"), [(TinyViT, TOKEN_METHODS), (PooledViT, (*TOKEN_METHODS, "cam"))])
def test_without_position_embedding_permuted_patches_permute_every_map(build, methods):
    model, order = build(positions=False), [4, 2, 0, 5, 1, 3]
    maps, maps_of_permuted = (explained(model, images, methods) for images in (IMAGES, permuted(IMAGES, order)))
    assert maps.keys() == set(methods)
    for method in methods:
        assert maps[method].flatten(1).std(1).max() > 0, method
        torch.testing.assert_close(maps_of_permuted[method], permuted(maps[method], order), msg=method)


@pytest.mark.parametrize("depth", [1, 3])
def test_where_all_tokens_ask_for_all_alike_rollout_is_even(depth):
    """Each attention leaves half of r where it is, and spreads half over the class token and the six patches."""
    model = TinyViT(depth=depth)
    for attention in model.attentions:
        nn.init.zeros_(attention.in_proj_weight[:16])  # of Q and K
    maps = explained(model, IMAGES, "attention_rollout")["attention_rollout"]
    torch.testing.assert_close(maps, torch.full((2, 1, *GRID), (1 - 0.5**depth) / 7))


def test_grad_cam_of_the_pooled_tokens_is_cam_over_their_number():
    model = PooledViT()
    maps = explained(model, IMAGES, ["cam", "grad_cam"], layer="norm")
    torch.testing.assert_close(maps["grad_cam"], maps["cam"].relu() / math.prod(GRID))
    assert maps["cam"].max() > 0 > maps["cam"].min()


class Planted(nn.Module):
    """One attention, planted by hand: a class token asks patches of 4×4 pixels, and what it gets are two logits.

    The image's channels say of a patch how much it is evidence for class 0, for class 1, and how much a sink: evidence
    gets the attention e², and is its own value; a sink gets e⁴, and has the value 0.
    """

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 3, 4, 4, bias=False), nn.Identity()
        self.key, self.value, self.stream = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Identity()
        self.head = nn.Linear(3, 2, bias=False)
        self.class_token = nn.Parameter(torch.zeros(1, 1, 3))
        self.query = nn.Parameter(torch.tensor([2.0, 2.0, 4.0]))
        with torch.no_grad():
            self.embed.weight.copy_(torch.eye(3)[:, :, None, None] / 16)
            self.key.weight.copy_(torch.eye(3))
            self.value.weight.copy_(torch.diag(torch.tensor([1.0, 1.0, 0.0])))
            self.head.weight.copy_(torch.eye(2, 3))
        self.double()

    def forward(self, images):
        patches = self.embed(images).flatten(2).mT
        tokens = self.norm(torch.cat([self.class_token.expand(len(images), -1, -1), patches], 1))
        k, v = self.key(tokens), self.value(tokens)
        attended = F.scaled_dot_product_attention(self.query.expand_as(k), k, v, scale=1.0)
        return self.head(self.stream(tokens + attended)[:, 0])


EVIDENCE, SINK = {0: (0, 1), 1: (2, 2)}, (3, 0)


@pytest.fixture(scope="module")
def planted():
    """The maps of either class, `(2, 1, 4, 4)`, of an image with a patch of evidence for each and a sink."""
    image = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    for channel, (row, column) in enumerate((*EVIDENCE.values(), SINK)):
        image[:, channel, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1
    methods = ["attention_relevance", "attention_rollout"]
    return explained(Planted(), image.repeat(2, 1, 1, 1), methods, torch.tensor([0, 1]))


Z = math.exp(4) + 2 * math.exp(2) + 14  # 17 tokens


def test_relevance_is_on_the_evidence_of_the_class_alone(planted):
    for label, at in EVIDENCE.items():
        expected = torch.zeros(4, 4)
        expected[at] = math.exp(2) / Z
        torch.testing.assert_close(planted["attention_relevance"][label, 0], expected)


def test_rollout_is_on_the_sink_and_the_same_for_both_classes(planted):
    first, second = planted["attention_rollout"][:, 0]
    torch.testing.assert_close(first, second)
    assert first[EVIDENCE[0]].item() == pytest.approx(math.exp(2) / Z / 2)
    assert first[EVIDENCE[1]].item() == pytest.approx(math.exp(2) / Z / 2)
    assert first[SINK].item() == pytest.approx(math.exp(4) / Z / 2)
