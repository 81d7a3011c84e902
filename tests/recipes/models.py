"""Modules made of parts that torch treats in a way of their own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tiny import NUM_CLASSES, TinyClassifier, data
from torch import nn
from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver
from torch.nn.utils import parametrizations, parametrize, prune
from torchvision.ops import DropBlock2d, StochasticDepth

from .recipe import Recipe

GRADIENTS = ("grad_cam", "saliency")  # where there are no class maps of a linear head


class Changed(TinyClassifier):
    """The tiny classifier after a function has changed it."""

    def __init__(self, change: Callable[[TinyClassifier], Any]):
        super().__init__()
        change(self)


class Lazy(TinyClassifier):
    """Has layers that learn their sizes from the first batch."""

    def __init__(self):
        super().__init__()
        self.backbone[0] = nn.LazyConv2d(8, 3, padding=1)
        self.backbone[1] = nn.LazyBatchNorm2d()
        self.backbone[5] = nn.LazyConv2d(12, 3, padding=1)

    def on_fit_start(self):
        with torch.no_grad():
            self(data()[:2][0].to(self.device))


class Quantized(TinyClassifier):
    """Fake-quantizes weights and features as training for quantization does; its observers move in eval mode too."""

    def __init__(self):
        super().__init__()
        quantize = partial(FakeQuantize, observer=MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
        self.quantize_features, self.quantize_images = quantize(), quantize()

    def forward(self, images):
        return self.head(self.quantize_features(self.backbone(self.quantize_images(images))))


class Symmetric(nn.Module):
    def forward(self, weight):
        return (weight + weight.flip(-1)) / 2


def make_symmetric(layer: nn.Module) -> None:
    parametrize.register_parametrization(layer, "weight", Symmetric())


class Tied(TinyClassifier):
    """Uses one weight in two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(12, 12, 1), nn.Conv2d(12, 12, 1)
        self.second.weight = self.first.weight

    def forward(self, images):
        return self.head(self.second(self.first(self.backbone(images))))


class Recurrent(TinyClassifier):
    """Reads the columns of its feature map with an LSTM."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(12, 8, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(16, NUM_CLASSES)

    def forward(self, images):
        columns = self.backbone(images).mean(2).transpose(1, 2)
        return self.linear(self.rnn(columns)[0].mean(1))


class Attends(TinyClassifier):
    """Lets the places of its feature map attend to each other."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True, dropout=0.1)
        self.norm = nn.LayerNorm(12)

    def forward(self, images):
        features = self.backbone(images)
        tokens = features.flatten(2).transpose(1, 2)
        tokens = self.norm(tokens + self.attention(tokens, tokens, tokens)[0])
        return self.head(tokens.transpose(1, 2).reshape(features.shape))


class ChannelsLast(TinyClassifier):
    def __init__(self):
        super().__init__()
        self.to(memory_format=torch.channels_last)

    def forward(self, images):
        return super().forward(images.contiguous(memory_format=torch.channels_last))


def changed(name: str, change: Callable[[Any], Any], **options: Any) -> Recipe:
    """Return the recipe of the tiny classifier after a function has changed it."""
    return Recipe(name, partial(Changed, change), **options)


def replaced(name: str, place: int, make: Callable[[nn.Module], nn.Module], **options: Any) -> Recipe:
    """Return the recipe of the tiny classifier with another layer at a place of its backbone."""

    def replace(module):
        module.backbone[place] = make(module.backbone[place])

    return changed(name, replace, **options)


def replace_backbone(make: Callable[[nn.Module], nn.Module]) -> Callable[[Any], None]:
    def replace(module):
        module.backbone = make(module.backbone)

    return replace


def in_place(function: Callable[..., Any], **options: Any) -> Callable[[Any], Any]:
    """Return what changes the explained convolution by a function of torch's."""
    return lambda module: function(module.backbone[5], **options)


def script_part(module: TinyClassifier) -> None:
    module.backbone = nn.Sequential(torch.jit.script(module.backbone[:2]), *module.backbone[2:])


def trace_part(module: TinyClassifier) -> None:
    traced = torch.jit.trace(module.backbone[:1], data()[:2][0])
    module.backbone = nn.Sequential(traced, *module.backbone[1:])


ROWS = [
    changed("a compiled part", replace_backbone(partial(torch.compile, backend="eager"))),
    changed("a part compiled in place", lambda module: module.backbone.compile(backend="eager")),
    Recipe("a module compiled before", lambda: torch.compile(TinyClassifier(), backend="eager"), daily=True),
    changed("a module compiled in place", lambda module: module.compile(backend="eager")),
    changed("a scripted part", script_part, daily=True),
    changed("a traced part", trace_part),
    changed("an fx GraphModule part", replace_backbone(torch.fx.symbolic_trace)),
    changed("spectral norm, old", in_place(nn.utils.spectral_norm)),
    changed("spectral norm, parametrization", in_place(parametrizations.spectral_norm), daily=True),
    changed("weight norm, old", in_place(nn.utils.weight_norm), daily=True),
    changed("weight norm, parametrization", in_place(parametrizations.weight_norm)),
    changed("orthogonal weights", lambda module: parametrizations.orthogonal(module.head.linear)),
    changed("a parametrization of its own", in_place(make_symmetric)),
    changed("pruned weights", in_place(prune.l1_unstructured, name="weight", amount=0.3)),
    changed("SyncBatchNorm on one process", replace_backbone(nn.SyncBatchNorm.convert_sync_batchnorm)),
    replaced("BatchNorm that averages over all batches", 1, lambda norm: nn.BatchNorm2d(8, momentum=None)),
    replaced("BatchNorm without statistics", 1, lambda norm: nn.BatchNorm2d(8, track_running_stats=False)),
    replaced(
        "InstanceNorm with statistics", 1, lambda norm: nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
    ),
    replaced("GroupNorm and PReLU", 1, lambda norm: nn.Sequential(nn.GroupNorm(2, 8), nn.PReLU())),
    replaced("RReLU, random in training", 2, lambda relu: nn.RReLU(inplace=True)),
    replaced("DropBlock", 3, lambda dropout: DropBlock2d(0.2, 3)),
    replaced("stochastic depth", 3, lambda dropout: StochasticDepth(0.3, "row")),
    Recipe("lazy layers", Lazy, daily=True),
    Recipe("fake quantization, whose observers move in eval mode", Quantized, daily=True),
    Recipe("tied weights", Tied),
    Recipe("a recurrent part", Recurrent, methods=GRADIENTS),
    Recipe("an attention part", Attends, methods=GRADIENTS),
    Recipe("channels last", ChannelsLast),
]
