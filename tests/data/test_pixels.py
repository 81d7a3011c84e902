"""What lies between the pixels of a batch and the images that a model is called with, read off the numbers."""

import numpy as np
import pytest
import torch

from lightning_saliency.data import Normalization, common_normalization, find_step_normalization

PIXELS = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BYTES = (PIXELS * 255).byte()
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
LABELS = torch.arange(4)


def normalized(pixels):
    mean, std = (torch.tensor(numbers).to(pixels).view(-1, 1, 1) for numbers in (MEAN, STD))
    return (pixels - mean) / std


def agrees(found, mean=MEAN, std=STD, tolerance=1e-6):
    return np.allclose(found.mean, mean, atol=tolerance) and np.allclose(found.std, std, atol=tolerance)


@pytest.mark.parametrize(
    "batch",
    [
        (PIXELS, LABELS),
        {"image": PIXELS * 255, "label": LABELS},
        {"id": LABELS, "inputs": {"picture": PIXELS}},
        (PIXELS.movedim(1, -1), LABELS),
        (torch.zeros(4, 3, 8, 8), PIXELS),
    ],
    ids=["in [0, 1]", "in [0, 255]", "in a container", "channels last", "the second"],
)
def test_mean_and_deviation_are_read_off_the_batch(batch):
    assert agrees(find_step_normalization(batch, normalized(PIXELS)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 3e-3), (torch.bfloat16, 0.02)])
def test_of_bytes_in_any_precision(dtype, tolerance):
    images = normalized(BYTES / 255).to(dtype)
    assert agrees(find_step_normalization([BYTES], images), tolerance=tolerance)


def test_one_gray_channel_may_become_three_and_a_gray_image_have_no_axis_for_it():
    gray = BYTES[:, :1]
    images = normalized((gray / 255).double().expand(-1, 3, -1, -1))
    assert agrees(find_step_normalization([gray], images))
    assert agrees(find_step_normalization([gray[:, 0]], images))


def test_volumes():
    volumes = torch.rand(2, 1, 4, 5, 6, dtype=torch.float64)
    assert agrees(find_step_normalization([volumes], (volumes - 0.3) / 0.2), [0.3], [0.2])


def test_a_constant_channel_is_what_it_was():
    pixels = PIXELS.clone()
    pixels[:, 2] = 0.75
    found = find_step_normalization([pixels], normalized(pixels))
    undone = normalized(pixels) * torch.tensor(found.std).view(-1, 1, 1) + torch.tensor(found.mean).view(-1, 1, 1)
    assert torch.allclose(undone.double(), pixels, atol=1e-6)


@pytest.mark.parametrize(
    ("batch", "images"),
    [
        ([PIXELS], PIXELS),
        ([PIXELS], 1 - PIXELS),
        ([PIXELS], PIXELS**2),
        ([PIXELS], (PIXELS - PIXELS.mean((1, 2, 3), keepdim=True)) / PIXELS.std((1, 2, 3), keepdim=True)),
        ([PIXELS], normalized(PIXELS) + 0.01 * torch.randn_like(PIXELS)),
        ([PIXELS], normalized(PIXELS).flip(3)),
        ([PIXELS], normalized(PIXELS)[:, :, :4]),
        ([PIXELS * 4000], normalized(PIXELS)),
        ([PIXELS - 0.5], normalized(PIXELS)),
        ([torch.ones(4, 3, 8, 8)], normalized(PIXELS)),
        ([PIXELS[:, :, :2, :2][:1]], normalized(PIXELS)[:, :, :2, :2][:1]),
        ([PIXELS[:, 0]], normalized(PIXELS)[:, 0]),
        ([BYTES], BYTES),
        ([LABELS, "name", None], normalized(PIXELS)),
    ],
    ids=[
        *["pixels as they are", "inverted", "a power", "each by its own", "noise", "mirrored", "cropped"],
        *["numbers of any range", "below 0", "constant", "four pixels", "signals", "bytes", "no images"],
    ],
)
def test_nothing_else_is_taken_for_a_normalization(batch, images):
    assert find_step_normalization(batch, images) is None


def test_pixels_in_0_to_255_that_the_model_takes_as_they_are():
    assert agrees(find_step_normalization([BYTES.double()], BYTES.double()), [0.0] * 3, [1 / 255] * 3)


def test_the_images_that_are_shown_are_among_those_that_are_compared():
    large = torch.rand(4, 1, 2**11, 2**11)
    images = (large - 0.5) / 0.25
    assert find_step_normalization([large], images, rows=[3]) is not None
    images[3] += 0.1 * torch.rand(1, 2**11, 2**11)
    assert find_step_normalization([large], images, rows=[3]) is None


def test_several_batches_have_one_normalization_or_none():
    one, near, other = (Normalization([mean], [0.25]) for mean in (0.5, 0.5001, 0.6))
    assert common_normalization([None, one, near]) == one
    assert common_normalization([one, other]) is None
    assert common_normalization([None]) is None
    assert common_normalization([one, Normalization([0.5], [0.5])]) is None
