"""What the numbers of images prove of their normalization, and what they do not."""

import numpy as np
import pytest
import torch

from lightning_saliency.data import PIXELS, find_own_normalization

GENERATOR = torch.Generator().manual_seed(0)
BYTES = torch.randint(30, 190, (4, 3, 16, 16), generator=GENERATOR)
FULL = torch.randint(0, 256, (4, 3, 32, 32), generator=GENERATOR)
FULL[0, :, 0, 0], FULL[1, :, 0, 0] = 0, 255
IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
OTHER = [0.31, 0.42, 0.53], [0.21, 0.32, 0.43]


def normalized(pixels, mean, std):
    mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (mean, std))
    return (pixels - mean) / std


def agrees(found, mean, std):
    return np.allclose(found.mean, mean, atol=1e-5) and np.allclose(found.std, std, atol=1e-5)


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.5]), IMAGENET, ([0.1307], [0.3081])])
def test_a_published_normalization_is_known_where_each_pixel_is_a_byte_with_it_undone(mean, std):
    images = normalized(BYTES / 255, mean, std)
    assert agrees(find_own_normalization([images[:2], images[2:, :, :9]]), mean, std)
    images[3, 1, 5, 5] += 0.001  # a single one that was none
    assert find_own_normalization([images]) is None


def test_it_is_known_too_where_resized_pixels_reach_from_black_to_white():
    resized = torch.nn.functional.interpolate(FULL / 255, scale_factor=1.3, mode="bilinear")
    resized[0, :, :2], resized[1, :, :2] = 0, 1
    assert agrees(find_own_normalization([normalized(resized, *IMAGENET)]), *IMAGENET)
    assert find_own_normalization([normalized(resized, *OTHER)]) is None


def test_any_normalization_is_known_where_each_channel_has_black_white_and_neighboring_shades():
    images = normalized(FULL / 255, *OTHER)
    assert agrees(find_own_normalization([images]), *OTHER)
    assert find_own_normalization([images.half()]) is None  # its rounding hides the shades
    assert find_own_normalization([normalized(BYTES / 255, *OTHER)]) is None  # which of 256 shades is black?
    assert find_own_normalization([normalized(FULL // 51 * 51 / 255, *OTHER)]) is None  # may be any six numbers
    assert agrees(find_own_normalization([(FULL - torch.tensor([9.0, 8.0, 7.0]).view(-1, 1, 1))]),
                  [9 / 255, 8 / 255, 7 / 255], [1 / 255])  # fmt: skip


def test_pixels_in_0_to_1_are_taken_as_they_are():
    floating = torch.rand(4, 3, 16, 16, generator=GENERATOR)
    assert find_own_normalization([floating]) == find_own_normalization([BYTES / 255]) == PIXELS
    assert find_own_normalization([floating * 1.08 - 0.04]) == PIXELS  # interpolation overshoots
    assert find_own_normalization([torch.zeros(2, 3, 8, 8)]) == PIXELS
    assert find_own_normalization([BYTES[:, :1] // 10 / 255]) == PIXELS  # dark ones, of bytes
    assert find_own_normalization([floating / 5]) is None  # dark ones, of any numbers
    assert find_own_normalization([torch.cat([floating, floating], 1)]) is None  # six channels are measurements


def test_what_is_no_picture_proves_nothing():
    noise = torch.randn(4, 3, 16, 16, generator=GENERATOR)
    assert find_own_normalization([noise]) is None
    assert find_own_normalization([torch.rand(4, 3, 16, 16, generator=GENERATOR) * 2 - 1]) is None
    assert find_own_normalization([torch.randint(0, 4, (4, 1, 16, 16), generator=GENERATOR).float()]) is None
    assert find_own_normalization([noise.fill_(torch.nan)]) is None
    assert find_own_normalization([torch.full((2, 3, 4, 4), 7.5)]) is None
    assert find_own_normalization([torch.zeros(2, 3, 4, 4, dtype=torch.long)]) is None
    assert find_own_normalization([torch.zeros(2, 1, 4, 4), torch.zeros(2, 3, 4, 4)]) is None
    assert find_own_normalization([]) is None
