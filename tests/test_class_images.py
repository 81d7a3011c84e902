"""Class images of small networks that know glyphs: a second, independent network sees the class in them, too."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_saliency import class_model_image

GLYPHS = torch.tensor(
    [
        [[float(pixel == "#") for pixel in row] for row in glyph.split()]
        for glyph in (
            "####### ####### ...#... ...#... ...#... ...#... ...#...",
            "##..... ##..... ##..... ##..... ##..... ####### #######",
            ".#####. ##...## #.....# #.....# #.....# ##...## .#####.",
            "#.....# .#...#. ..#.#.. ...#... ..#.#.. .#...#. #.....#",
        )
    ],
    dtype=torch.float64,
)


def glyphs(count, seed):
    """Images of noise with a glyph, somewhere, faint or strong: T, L, O, X, T, …"""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    images = 0.3 * torch.randn(count, 1, 20, 20, generator=generator, dtype=torch.float64)
    corners = torch.randint(0, 14, (count, 2), generator=generator).tolist()
    strengths = 0.5 + 2 * torch.rand(count, generator=generator)
    for image, label, (top, left), strength in zip(images, labels, corners, strengths, strict=True):
        image[0, top : top + 7, left : left + 7] += GLYPHS[label] * strength
    return images, labels


def trained(model, seed):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(120):
        images, labels = glyphs(48, 1000 * seed + step)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    images, labels = glyphs(200, 999_999)
    assert (model.eval()(images).argmax(1) == labels).float().mean() > 0.95
    return model


@pytest.fixture(scope="module")
def networks():
    """Two networks that have nothing in common but what they know."""
    torch.manual_seed(1)
    first = nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    ).double()  # fmt: skip
    torch.manual_seed(10)
    second = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.GELU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.GELU(),
        nn.Conv2d(24, 24, 3, padding=1), nn.GELU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(24, 4),
    ).double()  # fmt: skip
    return [trained(first, seed=1), trained(second, seed=10)]


@pytest.mark.parametrize("bounds", [None, (-0.5, 2.5)])
def test_a_second_network_sees_the_class_in_the_class_images_of_the_first(networks, bounds):
    recognized = []
    for network in networks:
        images = class_model_image(network, range(4), (1, 20, 20), bounds=bounds).images
        assert network(images).argmax(1).tolist() == [0, 1, 2, 3]
        recognized += [(other(images).argmax(1) == torch.arange(4)) for other in networks if other is not network]
    assert torch.cat(recognized).sum() >= 7  # of 8


def test_the_class_images_show_the_glyph_itself(networks):
    """Somewhere the image is more like the class's glyph, in shape alone, than anywhere like another."""
    shapes = GLYPHS - GLYPHS.mean((1, 2), keepdim=True)
    shapes /= shapes.flatten(1).norm(dim=1)[:, None, None]
    alike = []
    for network in networks:
        images = class_model_image(network, range(4), (1, 20, 20)).images
        alike.append(F.conv2d(images, shapes[:, None]).amax((2, 3)).argmax(1) == torch.arange(4))
    assert torch.cat(alike).sum() >= 7  # of 8
