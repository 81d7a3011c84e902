"""Mirrored images: the mean of both maps."""

import pytest
import torch
from networks import gap_net
from states import assert_alike, assert_all_alike
from torch import nn

from lightning_saliency.attribution import explain
from lightning_saliency.models import GAPHead

LABELS = [2, 0, 1]
IMAGES = torch.randn(3, 2, 10, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
RECTIFIED = ["guided_backprop", "deconvnet", "guided_grad_cam"]


@pytest.mark.parametrize("target", [None, LABELS, lambda logits: logits[:, 1] - logits[:, 0]])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_flip_shows_the_mean_of_the_map_and_the_mirrored_map_of_the_mirrored_image(target, chunk_size):
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(30, 3)
    ).double()
    methods = ["grad_cam", "eigen_cam", "ablation_cam", "saliency", "integrated_gradients", *RECTIFIED]
    images = torch.randn(6, 2, 10, 8, dtype=torch.float64)
    target = LABELS * 2 if target is LABELS else target
    options = {"methods": methods, "layer": "3", "chunk_size": chunk_size}
    found = explain(model, images, target=target, flip=True, **options)
    plain = explain(model, images, target=target, **options)
    mirror = images.flip(3)
    predicted, mirrored_class = plain.predictions, explain(model, mirror).predictions
    assert not torch.equal(predicted, mirrored_class)
    mirrored = explain(model, mirror, target=predicted if target is None else target, **options)
    for method in methods:
        one, other = plain.attributions[method], mirrored.attributions[method]
        expected = torch.zeros_like(one)
        for j in range(one.shape[3]):
            expected[..., j] = (one[..., j] + other[..., one.shape[3] - 1 - j]) / 2
        assert_alike(found.attributions[method], expected)
    for method in found.signed:
        assert_alike(found.signed[method], (plain.signed[method] + mirrored.signed[method].flip(3)) / 2)
    torch.testing.assert_close(found.logits, plain.logits)
    torch.testing.assert_close(found.scores, plain.scores)
    assert torch.equal(found.images, images)
    assert found.classes is None if plain.classes is None else torch.equal(found.classes, plain.classes)


def test_flip_makes_the_map_of_a_mirrored_image_the_mirrored_map():
    model, methods = gap_net(), ["grad_cam", "saliency", "occlusion", "input_x_gradient"]
    options = {"methods": methods, "target": LABELS, "layer": ["0", "2"], "fuse": "mean", "flip": True}
    one = explain(model, IMAGES, **options).attributions
    other = explain(model, IMAGES.flip(3), **options).attributions
    assert_all_alike({key: maps.flip(3) for key, maps in other.items()}, one)


def test_the_maps_of_the_classes_are_mirrored_as_cam_is():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), GAPHead(4, 3)).double()
    images = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    found = explain(model, images, methods="cam", target=[0, 2], flip=True)
    assert_alike(found.class_maps(torch.tensor([[0], [2]])), found.attributions["cam"])
