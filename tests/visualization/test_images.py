import math

import numpy as np
import pytest
import torch
from drawing import rand

from lightning_saliency.visualization import shown_channels, to_rgb


def test_mean_and_std_restore_every_pixel_exactly():
    original = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    original[1] = original[1].flip(-1)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    inputs = torch.empty(original.shape)
    for c in range(3):
        inputs[:, c] = (original[:, c].float() / 255 - mean[c]) / std[c]
    assert torch.equal(to_rgb(inputs, mean, std), original)
    assert torch.equal(to_rgb(inputs.double(), torch.tensor(mean), torch.tensor(std)), original)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.25), ([0.5], [0.25]), ([0.5] * 3, 0.25)])
def test_one_number_serves_all_channels(mean, std):
    pixels = rand(2, 3, 4, 5)
    expected = (pixels * 255).round().to(torch.uint8)
    assert torch.equal(to_rgb((pixels - 0.5) / 0.25, mean, std), expected)


def test_restored_values_outside_the_range_are_clamped_not_wrapped():
    inputs = torch.tensor([-9.0, -0.01, 0.5, 1.01, 9.0, math.inf, -math.inf, math.nan]).view(1, 1, 1, 8)
    assert to_rgb(inputs, 0.0, 1.0)[0, 1, 0].tolist() == [0, 0, 128, 255, 255, 0, 0, 0]


def test_without_them_each_image_is_stretched_to_its_own_range():
    inputs = rand(3, 3, 4, 5) * torch.tensor([1.0, 100.0, 1e-3]).view(3, 1, 1, 1) - 7
    shown = to_rgb(inputs)
    for image, out in zip(inputs.numpy(), shown.numpy(), strict=True):
        expected = np.round((image - image.min()) / (image.max() - image.min()) * 255)
        assert np.abs(out - expected).max() <= 1
        assert (out.min(), out.max()) == (0, 255)
    assert torch.equal(to_rgb(inputs[1:2]), shown[1:2])


@pytest.mark.parametrize("value", [0.0, 1.0, -3.7, 1e30])
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_a_constant_image_is_mid_gray(value, channels):
    shown = to_rgb(torch.full((2, channels, 5, 7), value), channels="mean")
    assert shown.shape == (2, 3, 5, 7)
    assert (shown == 128).all()


def test_noise_in_the_last_bits_is_not_blown_up_to_a_picture():
    inputs = torch.full((1, 1, 2, 2), 0.1)
    inputs[0, 0, 0, 0] = torch.nextafter(inputs[0, 0, 0, 0], torch.tensor(1.0))
    assert (to_rgb(inputs) == 128).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_pixels_that_are_not_finite_are_shown_as_the_minimum(bad):
    inputs = torch.tensor([2.0, 3.0, bad, 4.0]).view(1, 1, 2, 2)
    assert to_rgb(inputs)[0, 0].flatten().tolist() == [0, 128, 0, 255]
    assert (to_rgb(torch.full((1, 3, 2, 2), bad)) == 128).all()
    assert to_rgb(torch.cat([inputs, inputs.nan_to_num(0, 0, 0)])).shape == (2, 3, 2, 2)


def test_one_channel_becomes_gray_and_three_stay_in_order():
    gray = to_rgb(rand(2, 1, 4, 4), 0.0, 1.0)
    assert torch.equal(gray[:, 0], gray[:, 1])
    assert torch.equal(gray[:, 0], gray[:, 2])
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    for channels in ("first", "mean"):
        assert to_rgb(red, 0.0, 1.0, channels).flatten().tolist() == [255, 0, 0]


def test_many_channels():
    inputs, mean, std = rand(2, 6, 4, 5), [0.1] * 5 + [0.3], [1, 2, 1, 1, 1, 3]
    restored = np.stack([inputs[:, c].numpy() * std[c] + mean[c] for c in range(6)], 1).clip(0, 1)
    first = np.round(restored[:, :3] * 255)
    assert np.abs(to_rgb(inputs, mean, std).numpy() - first).max() <= 1
    unclipped = np.stack([inputs[:, c].numpy() * std[c] + mean[c] for c in range(6)], 1)
    mean_of_all = np.round(unclipped.mean(1, keepdims=True).clip(0, 1) * 255).repeat(3, 1)
    assert np.abs(to_rgb(inputs, mean, std, channels="mean").numpy() - mean_of_all).max() <= 1
    inputs[:, 3:] *= 1000  # what is not shown does not darken what is
    assert torch.equal(to_rgb(inputs), to_rgb(inputs[:, :3]))
    assert torch.equal(to_rgb(inputs[:, :2]), to_rgb(inputs[:, :2].mean(1, keepdim=True)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8])
def test_any_dtype_and_the_input_is_left_alone(dtype):
    inputs = torch.tensor([0.0, 1.0, 2.0, 4.0]).to(dtype).view(1, 1, 2, 2)
    kept = inputs.clone()
    shown = to_rgb(inputs)
    assert (shown.dtype, shown.shape) == (torch.uint8, (1, 3, 2, 2))
    assert shown[0, 2].flatten().tolist() == [0, 64, 128, 255]
    assert torch.equal(inputs, kept)
    fine = (rand(2, 5, 9, 9) * 99).to(dtype)  # the arithmetic is float32's, whatever comes
    for options in ({}, {"mean": 0.1, "std": 0.01}):
        assert torch.equal(to_rgb(fine, **options), to_rgb(fine.float(), **options))


def test_inputs_may_require_grad_or_be_inference_tensors():
    expected = to_rgb(rand(1, 3, 4, 4))
    assert torch.equal(to_rgb(rand(1, 3, 4, 4).requires_grad_()), expected)
    with torch.inference_mode():
        inputs = rand(1, 3, 4, 4)
    assert torch.equal(to_rgb(inputs), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": torch.zeros(3, 4, 4)}, r"`images` to be a non-empty \(N, C, H, W\).*\(3, 4, 4\)"),
        ({"images": torch.zeros(0, 3, 4, 4)}, r"`images`.*\(0, 3, 4, 4\)"),
        ({"images": torch.zeros(1, 3, 4, 4, dtype=torch.complex64)}, r"`images`.*complex64"),
        ({"mean": 0.5}, r"`mean` and `std` together or neither, got mean=0.5, std=None"),
        ({"mean": [0.5, 0.5], "std": 1.0}, r"`mean` to hold 1 number or 3, one per channel, got 2"),
        ({"mean": 0.5, "std": [1.0] * 4}, r"`std` to hold 1 number or 3, one per channel, got 4"),
        ({"channels": "last"}, r"`channels` to be \"first\", \"mean\" or positions, got 'last'"),
    ],
)
def test_to_rgb_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        to_rgb(**({"images": torch.zeros(2, 3, 4, 4)} | arguments))


def test_shown_channels():
    assert [shown_channels(n) for n in (1, 2, 3, 4)] == ["", "mean of 2 channels", "", "channels 1–3 of 4"]
    assert [shown_channels(n, "mean") for n in (1, 3, 12)] == ["", "", "mean of 12 channels"]
    with pytest.raises(ValueError, match="`channels`"):
        shown_channels(4, "all")
    with pytest.raises(ValueError, match="`num_channels` to be at least 1, got 0"):
        shown_channels(0)
