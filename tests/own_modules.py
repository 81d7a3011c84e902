"""Modules of one's own, each a few layers with a loss, and a training of one of them with the callback."""

import torch
import torch.nn.functional as F
from looking import Keeps
from tiny import L, first, loader, trainer
from torch import nn

from lightning_saliency import SaliencyCallback

N, SIZE = 8, 16
IMAGES = torch.randn(N, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(N) % 3


def features(width=8, *last):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        *last,
    )  # fmt: skip


def pooled(width=8, outputs=3):
    return features(width, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, outputs))


class Module(L.LightningModule):
    """What it returns, and its loss, are what differ."""

    outputs = 3

    def __init__(self):
        super().__init__()
        self.net = pooled(outputs=self.outputs)

    def forward(self, images):
        return self.net(images)

    def loss(self, output, labels):
        return F.cross_entropy(output, labels)

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Pairs(torch.utils.data.Dataset):
    """Images with labels of any form."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return N

    def __getitem__(self, index):
        if isinstance(self.labels, dict):
            return IMAGES[index], {name: labels[index] for name, labels in self.labels.items()}
        return IMAGES[index], self.labels[index]


def fitted(tmp_path, module, labels, **options):
    """Train for an epoch with the callback, and return its last look; None where it has none."""
    keeps, dataset = Keeps(), Pairs(labels)
    runner = trainer(tmp_path, SaliencyCallback(outputs=[keeps], samples=first(4), **options), max_epochs=1)
    runner.fit(module, loader(dataset, batch_size=4), loader(dataset, batch_size=4))
    return keeps.looks[-1] if keeps.looks else None


def answer(module, rows=slice(0, 4)):
    """Return what a module says of the first images."""
    with torch.no_grad():
        return module.eval()(IMAGES[rows])
