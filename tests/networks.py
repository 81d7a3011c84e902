"""Networks that several tests share: with meters, with all that a pass may disturb, with heads of many kinds."""

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from watching import SharedDict

from lightning_saliency.attribution import METHODS
from lightning_saliency.models import GAPHead

CNN_METHODS = [key for key, row in METHODS.items() if not row.reads_attentions]
"""The methods that work on a convolutional network."""

EVERY_METHOD = dict.fromkeys(CNN_METHODS) | {
    "smooth_grad": {"num_samples": 3},
    "smooth_grad_cam_plus_plus": {"num_samples": 3},
    "occlusion": {"size": 4},
}
"""All methods of a convolutional network, those of many passes with fewer, where a test does not ask how many."""


class Counted(torch.autograd.Function):
    """The identity, which counts its backward calls, and the forward calls that built a graph."""

    @staticmethod
    def forward(ctx, tensor, counts):
        ctx.counts = counts
        counts["graph"] += any(ctx.needs_input_grad)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, grad):
        ctx.counts["backward"] += 1
        return grad, None


class Meter(nn.Module):
    """The identity, which counts how often it runs forward, builds a graph, and runs backward."""

    def __init__(self):
        super().__init__()
        self.counts = SharedDict(forward=0, graph=0, backward=0)

    def forward(self, tensor):
        self.counts["forward"] += 1
        # a clone of a parameter-made tensor has a graph of its own: what is asked is whether one is being built
        return Counted.apply(tensor, self.counts)


def metered(classes=4):
    """A network with a meter before the convolution that is explained, and one behind it, in float64."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        Meter(),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        Meter(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    ).double()


class Disturbing(nn.Module):
    """Everything that a pass may disturb: dropout, batch norm, in-place ReLU, buffers, all three random states."""

    def __init__(self, fails=False):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(8, 4)
        self.fails = fails
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("moved", torch.zeros(2))
        self.register_buffer("resized", torch.zeros(0))
        self.register_buffer("hidden", torch.zeros(2))
        self.register_buffer("empty", None)
        self.double()

    def eval(self):
        raise AssertionError("a user's own eval() may do anything")

    def forward(self, images):
        self.calls += 1
        self.moved = self.moved + 1
        self.resized.resize_(4).fill_(1.0)  # as per-channel observers do
        self.hidden.data.add_(1)
        self.register_buffer("late", torch.ones(1))
        torch.rand(1), random.random(), np.random.rand()
        features = self.act(self.norm(self.conv(images)))
        if self.fails:
            raise RuntimeError("in the middle")
        return self.linear(self.dropout(features).mean((2, 3)))


class Keeping(nn.Module):
    """A module that keeps something, and changes it in each forward."""

    def __init__(self, make, change=lambda module: None):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.kept = make(self)
        self.change = change

    def forward(self, inputs):
        self.change(self)
        return self.linear(inputs)


class Headed(nn.Module):
    """A body, and what a test makes of its features."""

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.first, self.second = nn.Linear(8, 4), nn.Linear(8, 4)
        self.own = nn.Parameter(torch.randn(4, 8))
        self.scale = nn.Parameter(torch.ones(4))
        self.use = forward
        self.double()

    def forward(self, images):
        return self.use(self, self.body(images))


def called_later(model, features):
    logits = model.first(features)
    return {"logits": logits, "boxes": model.second(features)}


def normalized(model, features):
    return F.linear(F.normalize(features), F.normalize(model.own))


def under_no_grad(model, features):
    with torch.no_grad():
        return model.second(features)


HEADS = [
    (called_later, "first"),
    (normalized, ""),
    (under_no_grad, "second"),
    (lambda model, features: (model.second(features) + model.first(features)) / 2, "first"),
    (lambda model, features: model.scale * F.layer_norm(model.second(features), [4]), "second"),
    (lambda model, features: model.second(features).softmax(1), "second"),
    (lambda model, features: features @ model.first.weight.T, "first"),
]
"""What makes logits of features, and the name of the layer that does."""


def plain_net(activation=nn.ReLU):
    """Convolutions, max pooling, linear layers, in float64: piecewise linear with ReLUs."""
    torch.manual_seed(23)  # one by which no map is blank
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), activation(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2), activation(), nn.Flatten(),
        nn.Linear(30, 6), activation(), nn.Linear(6, 3),
    ).double().eval()  # fmt: skip


def gap_net(classes=3):
    """A network that every method works on, in float64."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2),
        nn.ReLU(inplace=True), nn.Dropout(), GAPHead(5, classes),
    ).double()  # fmt: skip


class Calling(nn.Module):
    """The same network with its ReLUs written in some way."""

    def __init__(self, activate):
        super().__init__()
        self.net, self.activate = plain_net(nn.Identity), activate

    def forward(self, images):
        for name, layer in self.net.named_children():
            images = layer(images) if not isinstance(layer, nn.Identity) else self.after(name, images)
        return images

    def after(self, name, images):
        return self.activate(images)


def as_statement(images):
    images.relu_()
    return images
