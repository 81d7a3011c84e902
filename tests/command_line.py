"""A module of a user's, and a run of the command line with it, for several test files."""

from pathlib import Path

import numpy as np
from PIL import Image

from lightning_saliency.cli import main

ERROR = "python -m lightning_saliency explain: error: "
OWN = """
import torch
from torch import nn

def make(num_classes=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes),
    )

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = make()

def needs(something):
    return make()

def number():
    return 3
"""


def save_photo(path, size=(50, 40), seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1] // 10, size[0] // 10, 3)).astype(np.uint8)
    photo = Image.fromarray(pixels).resize(size)
    photo.save(path, **options)
    return photo


def run(*arguments, model="own:make", images="photos", output="out", size=32):
    sizes = ["--size", str(size)] if size else []
    return main(["explain", "--model", model, "--images", *str(images).split(), "--output", str(output), *sizes,
                 *map(str, arguments)])  # fmt: skip


def written(folder="out"):
    return sorted(path.name for path in Path(folder).iterdir())
