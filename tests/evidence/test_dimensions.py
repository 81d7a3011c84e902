"""Signals and videos: which layers are read, and which of the tokens are patches."""

import pytest
import torch
from raised import raised
from states import assert_all_alike
from tiny_vit import TinyViT, fused, multihead
from torch import nn
from torchvision.models.video.mvit import MSBlockConfig, MViT

from lightning_saliency import explain
from lightning_saliency.attribution import describe_reading
from lightning_saliency.evidence import Layout, find_layers
from lightning_saliency.evidence.layout import grid_of, plain_layout
from lightning_saliency.evidence.tap import UnknownLayoutError

GENERATOR = torch.Generator().manual_seed(0)
SIGNALS = torch.randn(2, 2, 64, generator=GENERATOR, dtype=torch.float64)
VIDEOS = torch.randn(2, 2, 8, 16, 16, generator=GENERATOR, dtype=torch.float64)


class Transformer(TinyViT):
    """A `TinyViT` for other inputs than images, with as many patches as these have."""

    def __init__(self, embed, num_patches, **options):
        super().__init__(**options)
        torch.manual_seed(1)
        self.embed, self.positions = embed.double(), nn.Parameter(torch.randn(1, num_patches, 8).double())
        self.embed.reset_parameters()


def of_signals(**options):
    return Transformer(nn.Conv1d(2, 8, 4, 4), 16, **options)


def of_videos(**options):
    return Transformer(nn.Conv3d(2, 8, (2, 4, 4), (2, 4, 4)), 64, **options)


MODELS = [(of_signals, SIGNALS, (16,)), (of_videos, VIDEOS, (4, 4, 4))]
KINDS = [
    {"pool": "class", "prefix": 1},
    {"pool": "mean", "prefix": 0},
    {"pool": "mean", "prefix": 2, "suffix": 1},
    {"pool": "attention", "prefix": 0},
    {"pool": "class attention", "prefix": 0},
]


@pytest.mark.parametrize("attend", [fused, multihead(batch_first=False, need_weights=False)])
@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize(("make", "inputs", "grid"), MODELS)
def test_the_tokens_of_a_transformer_are_read_as_the_grid_of_its_patches(make, inputs, grid, options, attend):
    model = make(attend=attend, **options)
    layers = find_layers(model, inputs)
    assert layers.attentions is not None
    assert layers.target is not None
    layout = layers.target.layout
    prefix = options["prefix"] + (options["pool"] == "class attention")  # whose token comes in the last attention
    assert (layout.is_tokens, layout.prefix, layout.suffix) == (True, prefix, options.get("suffix", 0))
    found = explain(model, inputs, methods=["attention_relevance", "grad_cam", "summed_hires_cam", "lrp"])
    for maps in found.attributions.values():
        assert maps.shape == (2, 1, *grid)
        assert maps.isfinite().all()
        assert (maps.flatten(1).amax(1) > maps.flatten(1).amin(1)).all()
    assert f"{len(model.mlps) + options['pool'].count('attention')} attentions" in describe_reading(
        found, "attention_relevance"
    )
    assert "×".join(map(str, grid)) + " tokens" in describe_reading(found, "attention_relevance")


@pytest.mark.parametrize(("make", "inputs", "grid"), MODELS)
def test_a_patch_that_alone_counts_is_the_one_that_is_marked(make, inputs, grid):
    """The head reads one token, and no attention passes anything on."""

    class ReadsOne(nn.Module):
        def __init__(self, net, place):
            super().__init__()
            self.net, self.place = net, place
            for attention in net.attentions:
                nn.init.zeros_(attention.out_proj.weight)

        def forward(self, inputs):
            return self.net.head(self.net.norm(self.net.tokens(inputs)[:, 1 + self.place]))

    for place in (0, 5, 11):
        model = ReadsOne(make(), place)
        found = explain(model, inputs, methods=["hires_cam", "saliency"], target=1, layer="net.norms.2")
        for key, maps in found.attributions.items():
            marked = (maps[0, 0] != 0).nonzero()
            scale = 1 if key == "hires_cam" else torch.tensor(inputs.shape[2:]) // torch.tensor(grid)
            patches = {tuple(at.tolist()) for at in marked // scale}
            index = torch.unravel_index(torch.tensor(place), grid)
            assert patches <= {tuple(int(i) for i in index)}, key
            assert key == "hires_cam" or patches


def test_one_axis_more_changes_no_map_of_a_transformer():
    net = TinyViT()
    net.embed = raised(nn.Sequential(net.embed))[0]
    images = torch.randn(2, 2, 8, 12, generator=GENERATOR, dtype=torch.float64)
    methods = ["attention_relevance", "attention_rollout", "grad_cam", "summed_hires_cam", "lrp", "score_cam"]
    flat = explain(TinyViT(), images, methods=methods)
    high = explain(net, images[:, :, None], methods=methods)
    assert_all_alike({key: maps.squeeze(2) for key, maps in high.attributions.items()}, flat.attributions)


class Torchs(nn.Module):
    """Torch's own transformer over the points in time of a signal, which come last or in the middle."""

    def __init__(self, is_last):
        super().__init__()
        torch.manual_seed(0)
        self.is_last, self.embed = is_last, nn.Linear(2, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)
        self.double()

    def forward(self, signals):
        return self.head(self.encoder(self.embed(signals.mT if self.is_last else signals)).mean(1))


@pytest.mark.parametrize("is_last", [True, False])
def test_a_sequence_that_is_no_convolutions_is_read_as_well(is_last):
    inputs = SIGNALS if is_last else SIGNALS.mT
    found = explain(Torchs(is_last), ((inputs,), {}), methods=["attention_relevance", "grad_cam", "saliency"])
    assert {maps.shape for maps in found.attributions.values()} == {(2, 1, 64)}


@pytest.mark.parametrize("module", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_network_is_read_at_its_sequence(module):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.rnn, self.head = module(2, 6, batch_first=True).double(), nn.Linear(6, 3).double()

        def forward(self, signals):
            return self.head(self.rnn(signals)[0].mean(1))

    found = explain(Recurrent(), ((SIGNALS.mT,), {}), methods=["grad_cam", "saliency"])
    assert found.layer == "rnn"
    assert {maps.shape for maps in found.attributions.values()} == {(2, 1, 64)}


class Frames(nn.Module):
    """A network of images for each frame, and a recurrent one over time."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.frame = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.rnn, self.head = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 3)
        self.double()

    def forward(self, videos):
        frames = self.frame(videos.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(videos), -1))
        return self.head(self.rnn(frames)[0].mean(1))


def test_maps_of_frames_one_by_one_are_a_map_of_the_whole():
    model = Frames()
    found = explain(model, VIDEOS, methods=["grad_cam", "saliency"])
    assert found.layer == "frame.1"
    assert found.attributions["grad_cam"].shape == (2, 1, 8, 14, 14)
    kept = []
    hook = model.frame[1].register_forward_hook(lambda module, args, output: kept.append(output) or output.clone())
    logits = model(VIDEOS)
    hook.remove()
    (gradient,) = torch.autograd.grad(logits.max(1).values.sum(), kept)
    frames = [value.detach().unflatten(0, (2, 8)).transpose(1, 2) for value in (kept[0], gradient)]
    expected = (frames[1].mean((2, 3, 4), keepdim=True) * frames[0]).sum(1, keepdim=True).relu()
    assert torch.allclose(found.attributions["grad_cam"].double(), expected, rtol=1e-4, atol=1e-9)


def test_frames_that_a_network_of_images_has_turned_into_features_are_read_as_times():
    found = explain(Frames(), VIDEOS, layer="rnn", methods=["grad_cam"])
    assert found.attributions["grad_cam"].shape == (2, 1, 8, 1, 1)
    with pytest.raises(UnknownLayoutError, match=r"'frame.3' to return a feature map"):
        explain(Frames(), VIDEOS, layer="frame.3")  # pooled


@pytest.mark.parametrize(
    ("count", "size", "depth_stride", "grid"),
    [
        (1568, (16, 224, 224), 2.0, (8, 14, 14)),
        (1568, (16, 224, 224), None, (2, 28, 28)),  # patches as long as they are wide
        (8 * 14 * 14, (8, 224, 224), 1.0, (8, 14, 14)),
        (24, (4, 64, 96), 4.0, (1, 4, 6)),
        (7, (4, 64, 64), None, (7, 1, 1)),
        (7, (3, 64, 64), None, None),
        (100, (1000,), None, (100,)),
        (3000, (1000,), None, None),
    ],
)
def test_the_grid_of_some_patches_fits_volumes_and_signals(count, size, depth_stride, grid):
    assert grid_of(count, size, depth_stride) == grid


@pytest.mark.parametrize(
    ("shape", "size", "axes"),
    [
        ((2, 768, 8, 7, 7), (16, 112, 112), "NCHW"),
        ((2, 8, 7, 7, 768), (16, 112, 112), "NHWC"),
        ((2, 8, 8, 8, 8), (64, 64, 64), None),
        ((2, 8, 7, 7), (16, 112, 112), None),
        ((2, 3000, 50), (1000,), "NCHW"),
        ((2, 12, 50), (1000,), None),
    ],
)
def test_a_shape_tells_the_layout_of_volumes_and_signals_where_one_reading_alone_fits(shape, size, axes):
    layout = plain_layout(shape, size)
    assert (layout and layout.axes) == axes


@pytest.mark.parametrize("size", [(6,), (4, 6), (3, 4, 6)])
def test_a_map_of_any_number_of_axes_is_read_and_another_one_written(size):
    maps = torch.randn(2, 5, *size, generator=GENERATOR)
    image_size = tuple(8 * length for length in size)
    tokens = torch.cat([torch.ones(2, 1, 5), maps.flatten(2).mT], 1)
    stride = 8.0 if len(size) == 3 else None
    for layout, tensor in (
        (Layout("NCHW"), maps),
        (Layout("NHWC"), maps.movedim(1, -1).contiguous()),
        (Layout("NLD", prefix=1, depth_stride=stride), tokens),
        (Layout("LND", prefix=1, depth_stride=stride), tokens.transpose(0, 1)),
    ):
        assert torch.equal(layout.read(tensor, image_size), maps)
        written = layout.write(tensor, 2 * maps, image_size)
        assert torch.equal(layout.read(written, image_size), 2 * maps)
        assert torch.equal(layout.read(tensor, image_size), maps)
        assert layout.sequence(tensor).shape == (2, maps[0, 0].numel() + layout.prefix, 5)


def test_maps_of_frames_in_another_order_are_refused_in_words():
    class TimesFirst(nn.Module):
        """The first frames of all videos, then the second ones."""

        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.head = nn.Linear(4, 3)
            self.double()

        def forward(self, videos):
            frames = self.net(videos.permute(2, 0, 1, 3, 4).flatten(0, 1))
            return self.head(frames.unflatten(0, (-1, len(videos))).mean(0))

    with pytest.raises(ValueError, match=r"shows only maps of slices or frames one by one, \(N·T, D, h, w\)"):
        explain(TimesFirst(), VIDEOS)
    assert explain(TimesFirst(), VIDEOS, methods="saliency").attributions["saliency"].shape == (2, 1, 8, 16, 16)


class Bags(nn.Module):
    """Bags of images `(N, T, C, H, W)`, of which attention pools the features."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.attention, self.head = nn.Linear(4, 1), nn.Linear(4, 2)

    def forward(self, bags):
        each = self.body(bags.flatten(0, 1)).unflatten(0, bags.shape[:2])
        return self.head((self.attention(each).softmax(1) * each).sum(1))


@pytest.mark.parametrize("count", [2, 4, 5])
@pytest.mark.parametrize("is_part", [False, True])
def test_bags_of_images_have_a_map_of_each_image(count, is_part):
    bags = torch.randn(3, count, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    methods = ["grad_cam", "grad_cam_plus_plus", "saliency"]
    model = nn.Sequential(nn.Identity(), Bags()) if is_part else Bags()
    found = explain(model, bags, methods=methods)
    assert found.layer == ("1.body.1" if is_part else "body.1")
    for key in methods[:2]:
        assert found.attributions[key].shape == (3, 1, count, 10, 8)
    alone = explain(model, bags[1:2], methods=methods, target=found.classes[1:2])
    for key in methods:
        assert torch.allclose(found.attributions[key][1:2], alone.attributions[key], rtol=1e-3, atol=1e-6)


def test_tokens_in_another_order_than_that_of_frames_are_not_taken_for_them():
    class TimesFirst(Transformer):
        def tokens(self, inputs):
            places = torch.arange(64).view(4, 4, 4).permute(1, 2, 0).flatten()  # height, width, time
            tokens = self.embed(inputs).flatten(2).mT[:, places] + self.positions
            for index in range(len(self.mlps)):
                tokens = self.block(tokens, index)
            return tokens

    model = TimesFirst(nn.Conv3d(2, 8, (2, 4, 4), (2, 4, 4)), 64, pool="mean", prefix=0)
    assert find_layers(model, VIDEOS).target.name == "embed"
    frames = of_videos(pool="mean", prefix=0)
    assert find_layers(frames, VIDEOS).target.name != "embed"


def test_a_pyramid_of_tokens_of_a_video_is_read_at_each_of_its_sizes():
    def block(heads, width, wider, stride, kept):
        return MSBlockConfig(heads, width, wider, [3, 3, 3] if stride else [], [3, 3, 3], stride, kept)

    torch.manual_seed(0)
    blocks = [block(1, 16, 32, [], [1, 4, 4]), block(2, 32, 32, [1, 2, 2], [1, 2, 2]), block(2, 32, 32, [], [1, 2, 2])]
    model = MViT(
        (64, 64), 8, blocks, residual_pool=True, residual_with_cls_embed=True, rel_pos_embed=True,
        proj_after_attn=True, num_classes=5,
    )  # fmt: skip
    found = explain(model, torch.randn(1, 3, 8, 64, 64), methods=["summed_hires_cam", "grad_cam"])
    assert describe_reading(found, "grad_cam") == "read at layer blocks.2.norm1 · 4×8×8 tokens after 1"
    assert found.attributions["summed_hires_cam"].shape == (1, 1, 4, 16, 16)
