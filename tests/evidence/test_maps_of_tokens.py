"""Maps inside transformers: what a head reshapes its tokens to, convolves, upsamples or pools."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_saliency import explain
from lightning_saliency.evidence import find_layers

GRID, WIDTH, CLASSES = (3, 4), 8, 5
IMAGES = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LAST = "trunk.blocks.1.norm1"


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        nn.init.normal_(self.attention.in_proj_weight)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))

    def forward(self, tokens):
        normed = self.norm1(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        return tokens + self.mlp(self.norm2(tokens))


class Trunk(nn.Module):
    """Patches of 4×4 behind other tokens; the sequences behind both blocks."""

    def __init__(self, prefix):
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, 4, 4)
        self.extra = nn.Parameter(torch.randn(1, prefix, WIDTH))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, images):
        patches = self.embed(images).flatten(2).mT
        first = self.blocks[0](torch.cat([self.extra.expand(len(images), -1, -1), patches], 1))
        return first, self.norm(self.blocks[1](first))


class Net(nn.Module):
    """A transformer and what `read(self, maps, tokens)` does with its maps, `(N, D, h, w)`, and its tokens."""

    def __init__(self, read, *, prefix=1, to_map=None, pooled=WIDTH, **modules):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.read, self.prefix = Trunk(prefix), read, prefix
        self.to_map = to_map or (lambda tokens: tokens.mT.unflatten(2, GRID))
        for name, module in modules.items():
            self.add_module(name, module)
        self.fc = nn.Linear(pooled, CLASSES)
        generator = torch.Generator().manual_seed(1)  # those of equal networks are equal, whatever else they have
        for parameter in self.fc.parameters():
            nn.init.normal_(parameter, generator=generator)
        self.double().eval()

    def forward(self, images):
        sequences = self.trunk(images)
        return self.read(self, [self.to_map(tokens[:, self.prefix :]) for tokens in sequences], sequences[-1])


class ToMap(nn.Module):
    def __init__(self, *, channels_last=False):
        super().__init__()
        self.channels_last = channels_last

    def forward(self, tokens):
        maps = tokens.mT.unflatten(2, GRID)
        return maps.movedim(1, -1) if self.channels_last else maps


class Fusion(nn.Module):
    """A stage of DPT (Ranftl 2021): the map of an earlier block is added to that of a later one, and upsampled."""

    def __init__(self):
        super().__init__()
        self.residual, self.out = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, maps, earlier=0):
        maps = maps + earlier
        maps = maps + self.residual(maps.relu())
        return self.out(F.interpolate(maps, scale_factor=2, mode="bilinear"))


def gap(maps):
    return maps.mean((2, 3))


def dpt(net, maps, tokens):
    small, whole = net.small(maps[1]), net.whole(maps[0])
    return net.head(net.fuse2(F.interpolate(net.fuse1(small), GRID), whole))


def convolution(channels=6, kernel=3, padding=1):
    return nn.Sequential(nn.Conv2d(WIDTH, channels, kernel, padding=padding), nn.ReLU())


def of_dpt():
    parts = {"small": nn.Conv2d(WIDTH, WIDTH, 3, 2, 1), "whole": nn.Conv2d(WIDTH, WIDTH, 1)}
    return {**parts, "fuse1": Fusion(), "fuse2": Fusion(), "head": convolution()}


CLASS_MAPS = nn.Conv2d(WIDTH, CLASSES, 1)
HEADS = {  # the network, the layer that is read, its size
    "convolution, mean": (
        lambda: Net(lambda net, maps, _: net.fc(gap(net.head(maps[-1]))), pooled=6, head=convolution()),
        "head",
        GRID,
    ),
    "convolution, registers": (
        lambda: Net(lambda net, maps, _: net.fc(gap(net.head(maps[-1]))), pooled=6, prefix=3, head=convolution()),
        "head",
        GRID,
    ),
    "convolution, no other tokens": (
        lambda: Net(lambda net, maps, _: net.fc(gap(net.head(maps[-1]))), pooled=6, prefix=0, head=convolution()),
        "head",
        GRID,
    ),
    "functional activation": (
        lambda: Net(
            lambda net, maps, _: net.fc(gap(net.conv(maps[-1]).relu())), conv=nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        ),
        "conv:activated",
        GRID,
    ),
    "unpadded": (
        lambda: Net(
            lambda net, maps, _: net.fc(gap(net.head(maps[-1]))), pooled=6, head=convolution(kernel=2, padding=0)
        ),
        "head",
        (2, 3),
    ),
    "transposed convolution": (
        lambda: Net(
            lambda net, maps, _: net.fc(gap(net.head(maps[-1]).relu())), head=nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2)
        ),
        "head:activated",
        (6, 8),
    ),
    "class token beside": (
        lambda: Net(
            lambda net, maps, tokens: net.fc(torch.cat([tokens[:, 0], gap(net.head(maps[-1]))], 1)),
            pooled=14,
            head=convolution(),
        ),
        "head",
        GRID,
    ),
    "class token joined to each patch": (
        lambda: Net(
            lambda net, maps, tokens: net.fc(gap(net.head(maps[-1] + net.project(tokens[:, 0])[..., None, None]))),
            pooled=6,
            head=convolution(),
            project=nn.Linear(WIDTH, WIDTH),
        ),
        "head",
        GRID,
    ),
    "convolution to class maps": (
        lambda: Net(
            lambda net, maps, _: gap(net.classes(net.head(maps[-1]))), head=convolution(WIDTH), classes=CLASS_MAPS
        ),
        "head",
        GRID,
    ),
    "SETR": (
        lambda: Net(
            lambda net, maps, _: F.interpolate(net.classes(net.head(maps[-1])), scale_factor=4),
            head=convolution(WIDTH),
            classes=CLASS_MAPS,
        ),
        "head",
        GRID,
    ),
    "DPT": (lambda: Net(lambda net, maps, _: net.fc(gap(dpt(net, maps, _))), pooled=6, **of_dpt()), "head", (6, 8)),
    "class maps": (lambda: Net(lambda net, maps, _: gap(net.classes(maps[-1])), classes=CLASS_MAPS), LAST, GRID),
    "class scores of patches": (lambda: Net(lambda net, _, tokens: net.fc(tokens[:, 1:]).mean(1)), LAST, GRID),
    "linear segmentation": (
        lambda: Net(lambda net, maps, _: F.interpolate(net.classes(maps[-1]), scale_factor=4), classes=CLASS_MAPS),
        LAST,
        GRID,
    ),
    "features beside the class token's logits": (
        lambda: Net(lambda net, maps, tokens: {"logits": net.fc(tokens[:, 0]), "features": maps[-1]}, to_map=ToMap()),
        LAST,
        GRID,
    ),
}


@pytest.mark.parametrize("head", HEADS)
def test_a_map_that_a_head_computes_of_tokens_is_read_and_so_are_the_attentions(head):
    build, layer, size = HEADS[head]
    model = build()
    found = find_layers(model, IMAGES)
    assert (str(found.target), len(found.attentions.sizes)) == (layer, 2)
    assert [read.name for read in found.attention_inputs] == ["trunk.blocks.0.norm1", LAST]
    methods = ["grad_cam", "attention_relevance", "attention_rollout"]
    explanation = explain(model, IMAGES, methods=methods)
    assert explanation.layer == layer
    assert [tuple(maps.shape[2:]) for maps in explanation.attributions.values()] == [size, GRID, GRID]
    assert all(bool((explanation.attributions[method].amax((1, 2, 3)) > 0).all()) for method in methods[1:])


RESHAPED = {
    "outside any module": {},
    "by a module": {"to_map": ToMap()},
    "and pooled by one": {"to_map": ToMap(), "pool": nn.AdaptiveAvgPool2d(1)},
    "by a module of torch": {"to_map": nn.Sequential(nn.Flatten(1), nn.Unflatten(1, (12, WIDTH)), ToMap())},
}


@pytest.mark.parametrize("way", RESHAPED)
def test_tokens_that_are_only_reshaped_have_the_maps_of_tokens(way):
    """The same function has the same maps, whatever its parts are called."""
    parts = RESHAPED[way]
    read = (lambda net, maps, _: net.fc(net.pool(maps[-1]).flatten(1))) if "pool" in parts else None
    model = Net(read or (lambda net, maps, _: net.fc(gap(maps[-1]))), **parts)
    plain = Net(lambda net, _, tokens: net.fc(tokens[:, 1:].mean(1)))
    methods = ["grad_cam", "hires_cam", "attention_relevance", "attention_rollout", "cam"]
    found, expected = (explain(net, IMAGES, methods=methods) for net in (model, plain))
    assert find_layers(model, IMAGES).target.name == LAST
    for method in methods:
        torch.testing.assert_close(found.attributions[method], expected.attributions[method], msg=method)


def test_relevance_begins_at_the_tokens_behind_which_a_head_convolves():
    """A convolution that changes nothing changes no map, though it returns the patches without the class token."""
    identity = nn.Conv2d(WIDTH, WIDTH, 1, bias=False)
    nn.init.dirac_(identity.weight)
    model = Net(lambda net, maps, _: net.fc(gap(net.conv(maps[-1]))), conv=identity)
    plain = Net(lambda net, _, tokens: net.fc(tokens[:, 1:].mean(1)))
    maps, expected = (explain(net, IMAGES, methods="attention_relevance").attributions for net in (model, plain))
    torch.testing.assert_close(maps["attention_relevance"], expected["attention_relevance"])
    assert find_layers(model, IMAGES).attentions.stream.name == "trunk.norm"


class Masks(nn.Module):
    """Segmenter (Strudel 2021): tokens of the classes join the patches, and their products are the class scores."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.block = Trunk(1), Block()
        self.classes, self.norm = nn.Parameter(torch.randn(1, CLASSES, WIDTH)), nn.LayerNorm(CLASSES)
        self.double().eval()

    def forward(self, images):
        patches = self.trunk(images)[-1][:, 1:]
        tokens = self.block(torch.cat([patches, self.classes.expand(len(images), -1, -1)], 1))
        masks = self.norm(tokens[:, :-CLASSES] @ tokens[:, -CLASSES:].mT)
        return F.interpolate(masks.mT.unflatten(2, GRID), scale_factor=4)


def test_class_scores_as_products_of_tokens_are_no_features():
    found = find_layers(Masks(), IMAGES)
    assert (found.target.name, found.target.layout.suffix) == ("block.norm1", CLASSES)
    assert found.attentions is None  # no sequence has both the class token of the one and the classes of the other
    maps = explain(Masks(), IMAGES, methods=["grad_cam", "summed_hires_cam"]).attributions
    assert [tuple(raw.shape[2:]) for raw in maps.values()] == [GRID, GRID]
