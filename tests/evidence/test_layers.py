"""Which layers are read in transformers, hybrids and mixers: found from runs, by numbers, with no settings."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
import torchvision
from tiny_vit import TinyViT, fused, multihead, written_out
from torch import nn

from lightning_saliency import explain
from lightning_saliency.evidence import find_layers, find_target_layer

IMAGES = torch.randn(2, 2, 8, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    "attend", [fused, written_out, *(multihead(batch_first=b, need_weights=False) for b in (True, False))]
)
@pytest.mark.parametrize(
    ("pool", "prefix", "suffix", "target", "queries"),
    [
        ("class", 1, 0, "norms.2", [None] * 3),
        ("class", 3, 0, "norms.2", [None] * 3),
        ("mean", 0, 0, "norms.2", [None] * 3),
        ("mean", 1, 2, "norms.2", [None] * 3),
        ("class attention", 0, 0, "norms.3", [None] * 3 + [0]),
        ("attention", 0, 0, "norms.3", [None] * 4),
    ],
)
def test_a_transformer_is_read_at_the_input_of_its_last_attention(attend, pool, prefix, suffix, target, queries):
    layers = find_layers(TinyViT(attend, pool, prefix=prefix, suffix=suffix), IMAGES)
    assert layers.target.name == target
    assert (layers.target.layout.axes, layers.target.layout.suffix) == ("NLD", suffix)
    assert layers.target.layout.prefix == prefix + (pool == "class attention")
    assert [layer.name for layer in layers.attention_inputs] == [f"norms.{index}" for index in range(len(queries))]
    assert list(layers.attentions.queries) == queries
    assert not layers.is_convolutional
    assert layers.read_prefix == {"class": 1, "mean": prefix}.get(pool, layers.read_prefix)


class Encoder(nn.Module):
    """torch's own transformer, its sequences of either order, between a convolution and a mean."""

    def __init__(self, *, batch_first):
        super().__init__()
        torch.manual_seed(0)
        self.batch_first = batch_first
        self.embed = nn.Conv2d(2, 8, 2, 2)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=batch_first, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)
        self.double()

    def forward(self, images):
        tokens = self.embed(images).flatten(2).mT
        if self.batch_first:
            return self.head(self.encoder(tokens).mean(1))
        return self.head(self.encoder(tokens.transpose(0, 1)).mean(0))


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_sequence_may_have_the_batch_second(batch_first):
    model = Encoder(batch_first=batch_first)
    layers = find_layers(model, IMAGES)
    assert layers.target.name == "encoder.layers.1.norm1"
    assert layers.target.layout.axes == ("NLD" if batch_first else "LND")
    maps = explain(model, IMAGES, methods=["attention_relevance", "grad_cam", "ablation_cam"]).attributions
    assert {method: raw.shape for method, raw in maps.items()} == dict.fromkeys(maps, (2, 1, 4, 6))


def test_either_order_of_the_axes_gives_the_same_maps():
    methods = ["attention_relevance", "attention_rollout", "summed_hires_cam", "grad_cam", "score_cam", "ablation_cam"]
    first, second = (Encoder(batch_first=batch_first) for batch_first in (True, False))
    second.load_state_dict(first.state_dict())
    expected, maps = (explain(model, IMAGES, methods=methods, progress=False).attributions for model in (first, second))
    for method in methods:
        torch.testing.assert_close(maps[method], expected[method], msg=method)
        assert expected[method].std() > 0, method


class Mixer(nn.Module):
    """Mixes patches and channels by linear layers, with channels last, and no attention."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(2, 8, 2, 2)
        self.mix = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU())
        self.spread = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)
        self.double()

    def forward(self, images):
        maps = self.stem(images).permute(0, 2, 3, 1)
        maps = maps + self.mix(maps)
        maps = maps + self.spread(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        maps = maps + self.mix[1](maps)
        return self.head(self.norm(maps).mean((1, 2)))


def test_a_mixer_with_channels_last_is_read_at_its_last_map():
    model = Mixer()
    layers = find_layers(model, IMAGES)
    assert (layers.target.name, layers.target.layout.axes) == ("norm", "NHWC")
    assert (layers.attention_inputs, layers.attentions) == ((), None)
    explanation = explain(model, IMAGES, methods=["cam", "grad_cam"])
    cam, grad_cam = explanation.attributions.values()
    torch.testing.assert_close(
        cam.mean((1, 2, 3)) + model.head.bias[explanation.classes].float(), explanation.scores.float()
    )
    torch.testing.assert_close(grad_cam, cam.relu() / 24)


def swin():
    torch.manual_seed(0)
    return torchvision.models.SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=5).eval()


def test_a_windowed_transformer_is_read_at_its_trunk_and_its_attentions_inputs():
    model, images = swin(), torch.randn(2, 3, 64, 96)
    layers = find_layers(model, images)
    assert (layers.target.name, layers.target.layout.axes) == ("permute", "NCHW")
    assert [layer.name for layer in layers.attention_inputs] == [
        f"features.{i}.{j}.norm1" for i in (1, 3) for j in (0, 1)
    ]
    assert {layer.layout.axes for layer in layers.attention_inputs} == {"NHWC"}
    assert layers.attentions is None
    maps = explain(model, images, methods=["summed_hires_cam", "grad_cam"]).attributions
    assert [raw.shape for raw in maps.values()] == [(2, 1, 16, 24), (2, 1, 8, 12)]
    with pytest.raises(ValueError, match="over other tokens than all patches of the image"):
        explain(model, images, methods="attention_relevance")


def test_a_named_map_with_channels_last_is_read_as_one():
    model, images = swin(), torch.randn(2, 3, 64, 96)
    by_norm, by_permute = (
        explain(model, images, layer=layer).attributions["grad_cam"] for layer in ("norm", "permute")
    )
    torch.testing.assert_close(by_norm, by_permute)
    assert by_norm.shape == (2, 1, 8, 12)
    assert explain(model, images, layer="features.1").attributions["grad_cam"].shape == (2, 1, 16, 24)


def test_maps_of_parts_of_the_images_are_refused():
    """Attention within windows gets more of them than there are images."""
    with pytest.raises(ValueError, match=r"'attend' to return a feature map, .*, got \(12, 4, 8\)"):
        explain(Windows(), IMAGES.float(), layer="attend")


class Windows(nn.Module):
    """Cuts the map into windows of 2×2, for a linear layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.attend, self.head = nn.Conv2d(2, 8, 2, 2), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, images):
        windows = F.unfold(self.embed(images), 2, stride=2).unflatten(1, (8, 4)).permute(0, 3, 2, 1).flatten(0, 1)
        return self.head(self.attend(windows).unflatten(0, (len(images), -1)).mean((1, 2)))


@dataclass
class Output:
    last_hidden_state: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...]


class ReturnsObjects(nn.Module):
    """A block that returns a tuple, in a body that returns an object."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.blocks, self.norm = (
            nn.Conv2d(2, 8, 2, 2),
            nn.ModuleList(Block() for _ in range(2)),
            nn.LayerNorm(8),
        )

    def forward(self, images):
        hidden = [self.embed(images).flatten(2).mT]
        for block in self.blocks:
            hidden.append(block(hidden[-1])[0])
        return Output(self.norm(hidden[-1]), tuple(hidden))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.mix = nn.LayerNorm(8), nn.Linear(24, 24)

    def forward(self, tokens):
        return tokens + self.mix(self.norm1(tokens).mT).mT, None


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = ReturnsObjects(), nn.Linear(8, 3)
        self.double()

    def forward(self, images):
        return {"logits": self.head(self.body(images).last_hidden_state.mean(1))}


def test_layers_that_return_tuples_and_objects_are_read_and_replaced():
    model = Head()
    found = find_target_layer(model, IMAGES)
    assert (found.name, found.layout.axes) == ("body.norm", "NLD")
    maps = explain(model, IMAGES, methods=["cam", "grad_cam"]).attributions
    torch.testing.assert_close(maps["grad_cam"], maps["cam"].relu() / 24)
    for layer in ("body", "body.blocks.1"):
        raw = explain(model, IMAGES, layer=layer, methods=["grad_cam", "ablation_cam"], progress=False).attributions
        assert [values.shape for values in raw.values()] == [(2, 1, 4, 6)] * 2
        assert all(values.std() > 0 for values in raw.values())


def test_ablation_sets_a_channel_of_the_patches_to_zero_and_leaves_other_tokens():
    model = TinyViT(prefix=2, suffix=1)
    explanation = explain(model, IMAGES, methods="ablation_cam", target=0, progress=False)
    normed, weights = [], torch.zeros(2, 8, dtype=torch.float64)
    with torch.no_grad():
        handle = model.norms[2].register_forward_hook(lambda module, args, output: normed.append(output))
        scores = model(IMAGES)[:, 0]
        handle.remove()
        for channel in range(8):

            def ablate(module, args, output, channel=channel):
                output[:, 2:8, channel] = 0
                return output

            handle = model.norms[2].register_forward_hook(ablate)
            weights[:, channel] = (scores - model(IMAGES)[:, 0]) / scores.abs()
            handle.remove()
    expected = torch.einsum("nd,nld->nl", weights, normed[0][:, 2:8]).relu().reshape(2, 1, 2, 3)
    torch.testing.assert_close(explanation.attributions["ablation_cam"], expected.float())


def test_a_head_that_begins_at_zero_hides_nothing():
    model = TinyViT()
    nn.init.zeros_(model.head.weight)
    assert find_target_layer(model, IMAGES).name == "norms.2"
    assert not model.head.weight.any()


@pytest.mark.parametrize("size", [(8, 12), (8, 8), (12, 8)])
def test_a_layer_is_read_in_images_of_every_size(size):
    model = Encoder(batch_first=True)
    found = find_target_layer(model, IMAGES)
    images = torch.randn(1, 2, *size, dtype=torch.float64)
    maps = explain(model, images, layer=found).attributions["grad_cam"]
    assert maps.shape == (1, 1, size[0] // 2, size[1] // 2)


@pytest.mark.parametrize("classifier", ["identity", "linear"])
def test_features_that_are_taken_for_logits_are_no_class_scores(classifier):
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=512)
    if classifier == "identity":
        model.fc = nn.Identity()
    assert find_target_layer(model, torch.randn(1, 3, 64, 64)).name == "layer4"


def test_an_image_that_is_normalized_or_pooled_is_no_map_of_the_models():
    normalize = nn.BatchNorm2d(2)
    model = nn.Sequential(normalize, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 3)).double()
    layers = find_layers(model, IMAGES)
    assert layers.target is None
    assert "no map of more than one position" in layers.problem
    with pytest.raises(ValueError, match="no map of more than one position"):
        explain(model, IMAGES)


@pytest.mark.parametrize(
    ("pool", "prefix", "start"),
    [
        ("class", 1, [1.0, 0, 0, 0, 0, 0, 0]),
        ("mean", 0, [1 / 6] * 6),
        ("class attention", 0, [1.0, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_relevance_begins_where_the_score_reads_the_tokens(pool, prefix, start):
    """Held against R ← R + Ā R of the paper, in whole matrices, from the attentions of a forward with its graph."""
    kept = []
    model = TinyViT(lambda *given: written_out(*given, kept), pool, prefix=prefix)
    model.stream = nn.Identity()  # by which the last sequence has a name
    model.tokens = lambda images, tokens=model.tokens: model.stream(tokens(images))
    maps = explain(TinyViT(written_out, pool, prefix=prefix), IMAGES, methods="attention_relevance", target=1)
    named = explain(model, IMAGES, methods="attention_relevance", target=1)
    kept.clear()
    gradients = torch.autograd.grad(TinyViT.forward(model, IMAGES)[:, 1].sum(), kept)
    updates = [(P * G).relu().mean(1).detach() for P, G in zip(kept, gradients, strict=True)]
    length = updates[-1].shape[2]
    R = torch.eye(length, dtype=torch.float64).repeat(2, 1, 1)
    for update in updates:
        square = torch.zeros(2, length, length, dtype=torch.float64)
        square[:, : update.shape[1], length - update.shape[2] :] = update
        if update.shape[2] < length:  # before the class token was put in front
            square = F.pad(update, (1, 0, 1, 0))
        R = R + square @ R
    r0 = torch.tensor(start, dtype=torch.float64)
    expected = (r0 @ R - r0)[:, length - 6 :].reshape(2, 1, 2, 3)
    for explanation in (maps, named) if pool == "class attention" else (named,):
        torch.testing.assert_close(explanation.attributions["attention_relevance"], expected.float())


class Unfolded(nn.Module):
    """Cuts the image into patches by unfolding, channels before patches, for a mixer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.unfold = nn.Conv2d(2, 6, 3, padding=1), nn.Unfold(2, stride=2)
        self.mix, self.head = nn.Linear(24, 24), nn.Linear(24, 3)
        self.double()

    def forward(self, images):
        patches = self.unfold(self.stem(images))
        return self.head((patches + self.mix(patches)).mean(2))


def test_channels_before_patches_are_read_where_the_patches_answer():
    model = Unfolded()
    unfolded = explain(model, IMAGES, layer="unfold").attributions["grad_cam"]
    activations = model.unfold(model.stem(IMAGES)).detach().requires_grad_()
    score = model.head((activations + model.mix(activations)).mean(2)).amax(1).sum()
    gradient = torch.autograd.grad(score, activations)[0]
    expected = torch.einsum("nd,ndl->nl", gradient.mean(2), activations.detach()).relu().reshape(2, 1, 4, 6)
    torch.testing.assert_close(unfolded, expected.float())


class PaddedAttention(nn.Module):
    """Attention over a map `(N, D, h, w)`, whose queries, keys and values come from a padded map."""

    def __init__(self, width):
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.project = nn.Conv2d(width, 3 * width, 2)

    def forward(self, x):
        query, key, value = self.project(self.pad(x)).flatten(2).mT.chunk(3, -1)
        return x + F.scaled_dot_product_attention(query, key, value).mT.unflatten(2, x.shape[2:])


def test_a_padded_map_is_no_input_of_an_attention():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), PaddedAttention(8), nn.Flatten(2), nn.AdaptiveAvgPool1d(1))
    model = nn.Sequential(*model, nn.Flatten(), nn.Linear(8, 5)).eval()
    assert [layer.name for layer in find_layers(model, torch.randn(1, 3, 16, 16)).attention_inputs] == ["0"]


class SortedTokens(nn.Module):
    """A transformer without position embeddings whose first block works on its tokens in another order."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(2, 8, 2, stride=2)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
        self.project = nn.ModuleList(nn.Linear(8, 24) for _ in range(2))
        self.head = nn.Linear(8, 3)
        self.order = torch.randperm(24)
        self.double()

    def block(self, index, tokens):
        query, key, value = self.project[index](self.norms[index](tokens)).chunk(3, -1)
        return tokens + F.scaled_dot_product_attention(query, key, value)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).mT
        tokens = self.block(0, tokens[:, self.order])[:, self.order.argsort()]
        tokens = self.block(1, tokens)
        return self.head(tokens.mean(1))


def test_a_sequence_in_another_order_than_the_images_is_no_map():
    layers = find_layers(SortedTokens(), IMAGES)
    assert [layer.name for layer in layers.attention_inputs] == ["norms.1"]
    assert layers.attentions is None
