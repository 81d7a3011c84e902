"""A network trained on ImageNet, on photographs that are no part of the project: run where their folder is named.

    REAL_PHOTOGRAPHS=folder python -m pytest tests/test_real_photographs.py

The folder has `photos/both.png`, of a dog and a cat, from the examples of github.com/jacobgil/pytorch-grad-cam, and
`squeezenet1_0.fp16.pth`, the weights of github.com/songhan/SqueezeNet-Deep-Compression for torchvision's model.
"""

import os
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from lightning_saliency import explain

FOLDER = Path(os.environ.get("REAL_PHOTOGRAPHS", "-"))
PHOTOGRAPH, WEIGHTS = FOLDER / "photos/both.png", FOLDER / "squeezenet1_0.fp16.pth"

pytestmark = pytest.mark.skipif(
    not (PHOTOGRAPH.is_file() and WEIGHTS.is_file()),
    reason="REAL_PHOTOGRAPHS names no folder with photos/both.png and squeezenet1_0.fp16.pth",
)

BULL_MASTIFF, TIGER_CAT = 243, 282
BOXES = {BULL_MASTIFF: (72, 12, 170, 140), TIGER_CAT: (45, 118, 202, 222)}  # x1, y1, x2, y2


@pytest.fixture(scope="module")
def dog_and_cat():
    """Explanations of both classes in one photograph."""
    model = torchvision.models.squeezenet1_0(weights=None)
    model.load_state_dict({name: value.float() for name, value in torch.load(WEIGHTS).items()})
    pixels = transforms.to_dtype(transforms.to_image(Image.open(PHOTOGRAPH).convert("RGB")), torch.float32, scale=True)
    image = transforms.normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])[None]
    methods = ["grad_cam", "hires_cam", "layer_cam", "guided_grad_cam"]
    return {target: explain(model, image, methods=methods, target=target).heatmaps() for target in BOXES}


def energy(heatmap, box):
    """The share of a heatmap that is in a box."""
    x1, y1, x2, y2 = box
    return float(heatmap[..., y1:y2, x1:x2].sum() / heatmap.sum())


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam", "layer_cam", "guided_grad_cam"])
def test_each_class_is_shown_on_its_own_animal(dog_and_cat, method):
    """Selvaraju et al. 2017, Figure 1."""
    for target, box in BOXES.items():
        (other,) = BOXES.keys() - {target}
        own_map, other_map = dog_and_cat[target][method], dog_and_cat[other][method]
        assert energy(own_map, box) > 0.5
        assert energy(own_map, box) > 1.2 * energy(other_map, box)
        row, column = divmod(int(own_map.argmax()), own_map.shape[-1])
        assert box[0] <= column < box[2]
        assert box[1] <= row < box[3]
