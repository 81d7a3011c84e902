"""Usual forms of classifiers: what goes in and what comes out."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from client_kinds import (
    CLASSES,
    Case,
    Oracle,
    Step,
    batches,
    by_position,
    classes,
    client,
    dict_batches,
    features,
    image_batches,
    images,
    small_net,
)
from torch import Tensor, nn

_FORM = "usual forms"


@client(_FORM, "batch is a dict; `self(batch['image'])`")
def dict_batch() -> Case:
    class Module(Step):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch["image"]), batch["label"])

    train, val = (dict_batches({"image": images(seed=seed), "label": classes()}) for seed in (0, 1))
    oracle = Oracle("classes", lambda module, batch: module(batch["image"]), lambda batch: batch["label"])
    return Case(Module(), oracle, train, val)
