"""Modules whose forward writes parameters, makes submodules, trains, or keeps an average of itself."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tiny import TinyClassifier
from torch import nn

from .python_state import count_in, fraction, module, tilted
from .recipe import Recipe


class WritesAParameter(TinyClassifier):
    """Tilts its images by a parameter, which each forward changes before it is used."""

    def __init__(self, write: Callable[["WritesAParameter"], Any]):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.write = write

    def forward(self, images):
        self.write(self)
        return super().forward(tilted(images, self.scale))


def renew(module: WritesAParameter) -> None:
    module.scale = nn.Parameter(module.scale.detach() * 0.95)


def write_in_place(module: WritesAParameter) -> None:
    with torch.no_grad():
        module.scale.mul_(0.95)


def write_data(module: WritesAParameter) -> None:
    module.scale.data.mul_(0.95)


def replace_data(module: WritesAParameter) -> None:
    module.scale.data = module.scale.data * 0.95


def copy_in(module: WritesAParameter) -> None:
    with torch.no_grad():
        module.scale.copy_(module.scale * 0.95)


def decay_weights(module: WritesAParameter) -> None:
    """Write on a weight that the explained layer uses."""
    with torch.no_grad():
        torch._foreach_mul_(list(module.backbone.parameters()), 0.99)


def write_by_numpy(module: WritesAParameter) -> None:
    array = module.scale.detach().numpy()
    array *= 0.95


class WritesABuffer(TinyClassifier):
    """Tilts its images by a buffer, which each forward changes."""

    def __init__(self, write: Callable[[Any], Any]):
        super().__init__()
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("momentum", torch.full((1,), 0.95), persistent=False)
        self.write = write

    def forward(self, images):
        self.write(self)
        return super().forward(tilted(images, self.scale))


def renew_buffer(module: WritesABuffer) -> None:
    module.scale = module.scale * module.momentum


class GrowsBySize(TinyClassifier):
    """Makes an adapter for each size of a batch that it has not seen."""

    def __init__(self):
        super().__init__()
        self.adapters = nn.ModuleDict()

    def forward(self, images):
        key = str(len(images))
        if key not in self.adapters:
            self.adapters[key] = nn.Conv2d(3, 3, 1).to(images)
        return super().forward(self.adapters[key](images))


class RenewsASubmodule(TinyClassifier):
    """Replaces a part by a fresh one in each forward, scaled by how many there have been."""

    def __init__(self):
        super().__init__()
        self.part = nn.Identity()
        self.part.made = 0

    def forward(self, images):
        made = self.part.made + 1
        self.part = nn.Identity()
        self.part.made = made
        return super().forward(self.part(tilted(images, fraction(made))))


class AveragesItself(TinyClassifier):
    """Keeps an average of its head by hand, moved in each forward, and tilts its images by it."""

    def __init__(self):
        super().__init__()
        self.average = copy.deepcopy(self.head).requires_grad_(False)

    def forward(self, images):
        with torch.no_grad():
            for mean, parameter in zip(self.average.parameters(), self.head.parameters(), strict=True):
                mean.lerp_(parameter, 0.1)
        return super().forward(tilted(images, self.average.linear.weight.sum()))


class TrainsAPart(TinyClassifier):
    """Adapts a slope to each batch in forward, by an inner step of an optimizer of its own."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))
        self.inner = torch.optim.SGD([self.slope], lr=0.1, momentum=0.5)

    def forward(self, images):
        with torch.enable_grad():
            tilted(images, self.slope - 1).pow(2).mean().backward(inputs=[self.slope])
        self.inner.step()
        self.inner.zero_grad()
        return super().forward(tilted(images, self.slope.detach()))

    def configure_optimizers(self):
        return torch.optim.Adam([*self.backbone.parameters(), *self.head.parameters()], lr=1e-2)


class TrainsItself(TrainsAPart):
    """Adapts to each batch by the entropy of its logits, whose backward reaches all weights."""

    def __init__(self):
        super().__init__()
        self.inner = torch.optim.Adam([self.slope], lr=0.1)

    def forward(self, images):
        with torch.enable_grad():
            logs = TinyClassifier.forward(self, tilted(images, self.slope)).log_softmax(1)
            (-(logs.exp() * logs).sum(1).mean()).backward()
        self.inner.step()
        self.zero_grad()
        return TinyClassifier.forward(self, tilted(images, self.slope.detach()))


class SwitchesByGrad(TinyClassifier):
    """Takes `torch.is_grad_enabled()` for the switch between training and validation."""

    def __init__(self):
        super().__init__()
        self.counts = {"training": 0}

    def forward(self, images):
        slope = count_in(self.counts, "training") if torch.is_grad_enabled() else 0
        return super().forward(tilted(images, slope))


def parameter(how: str, write: Callable[[WritesAParameter], Any], **options: Any) -> Recipe:
    return module(f"a parameter {how}", partial(WritesAParameter, write), **options)


WITH_GRAD = {"inference_mode": False}  # in validation

ROWS = [
    parameter("renewed in forward", renew, daily=True),
    parameter("written in place in forward, under no_grad", write_in_place, daily=True),
    parameter("written through .data", write_data),
    parameter("whose .data is replaced", replace_data),
    parameter("copied into", copy_in),
    parameter("written through NumPy", write_by_numpy, on_gpu=False),
    module("all weights decayed in forward, at once", partial(WritesAParameter, decay_weights)),
    module("a buffer renewed in forward", partial(WritesABuffer, renew_buffer)),
    module("a buffer written through .data", partial(WritesABuffer, write_data)),
    module("a submodule made in forward, for each size of batch", GrowsBySize, daily=True),
    module("a submodule renewed in forward", RenewsASubmodule),
    module("an average of its head, kept by hand in forward", AveragesItself),
    module("a backward inside forward, of a part", TrainsAPart, trainer=WITH_GRAD, daily=True),
    module("a backward inside forward, of all", TrainsItself, trainer=WITH_GRAD, methods=("saliency",)),
    module("is_grad_enabled as the switch between training and validation", SwitchesByGrad, daily=True),
]
