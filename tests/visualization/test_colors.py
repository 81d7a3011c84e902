import math

import matplotlib
import numpy as np
import pytest
import torch
from drawing import rand, randn, uint8

from lightning_saliency.visualization import Shading, colorize, overlay, signed_to_rgb
from lightning_saliency.visualization.scaling import to_common_scale


@pytest.mark.parametrize("name", ["turbo", "viridis", "gray", "jet_r"])
def test_colors_are_those_of_matplotlib(name):
    maps = torch.cat([rand(1, 1, 9, 11), torch.linspace(0, 1, 99).view(1, 1, 9, 11)])
    expected = np.zeros((2, 3, 9, 11), np.uint8)
    for n, y, x in np.ndindex(2, 9, 11):
        expected[n, :, y, x] = matplotlib.colormaps[name](maps[n, 0, y, x].numpy(), bytes=True)[:3]
    out = colorize(maps, name)
    assert (out.dtype, out.shape) == (torch.uint8, (2, 3, 9, 11))
    assert np.array_equal(out.numpy(), expected)


def test_a_color_map_of_few_colors_is_spread_over_the_whole_range():
    ends = colorize(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2), "tab10")[0, :, 0].T.tolist()
    assert ends == [list(matplotlib.colormaps["tab10"](i, bytes=True)[:3]) for i in (0, 9)]


def test_rounding_errors_at_the_ends_are_forgiven():
    ends = torch.tensor([-1e-5, 0.0, 1.0, 1 + 1e-5], dtype=torch.float64).view(1, 1, 1, 4)
    assert colorize(ends, "gray")[0, 0, 0].tolist() == [0, 0, 255, 255]
    assert colorize(ends.half(), "gray")[0, 0, 0].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("fade", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.4, 0.5, 1.0])
def test_overlay_is_the_rounded_blend(alpha, fade):
    images, maps = torch.randint(0, 256, (2, 3, 9, 11), dtype=torch.uint8), rand(2, 1, 9, 11)
    out = overlay(images, maps, Shading("viridis", alpha, fade))
    assert (out.dtype, out.shape) == (torch.uint8, (2, 3, 9, 11))
    for n, y, x in np.ndindex(2, 9, 11):
        color = matplotlib.colormaps["viridis"](maps[n, 0, y, x].numpy(), bytes=True)
        weight = alpha * (float(maps[n, 0, y, x]) if fade else 1.0)
        for c in range(3):
            exact = (1 - weight) * int(images[n, c, y, x]) + weight * int(color[c])
            assert abs(int(out[n, c, y, x]) - exact) <= 0.5 + 1e-4


@pytest.mark.parametrize("fade", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("value", [0, 255])
def test_extremes_neither_overflow_nor_drift(alpha, value, fade):
    images = torch.full((1, 3, 4, 4), value, dtype=torch.uint8)
    shading = Shading("gray", alpha, fade)
    assert torch.equal(overlay(images, torch.full((1, 1, 4, 4), value / 255), shading), images)


def test_overlay_leaves_its_inputs_alone():
    images, maps = uint8(1, 3, 4, 4), rand(1, 1, 4, 4).requires_grad_()
    kept = images.clone(), maps.detach().clone()
    assert not overlay(images, maps).requires_grad
    assert torch.equal(images, kept[0])
    assert torch.equal(maps.detach(), kept[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": torch.zeros(2, 3, 4, 4)}, r"`images` to be .*torch.uint8.*got shape \(2, 3, 4, 4\), torch.float32"),
        ({"images": uint8(2, 1, 4, 4)}, r"`images`.*\(2, 1, 4, 4\)"),
        ({"heatmaps": rand(2, 4, 4)}, r"`heatmaps` to be a non-empty \(N, 1, H, W\).*\(2, 4, 4\)"),
        ({"heatmaps": rand(2, 3, 4, 4)}, r"`heatmaps`.*\(2, 3, 4, 4\)"),
        ({"heatmaps": uint8(2, 1, 4, 4)}, r"`heatmaps`.*floating-point.*uint8"),
        ({"heatmaps": rand(2, 1, 4, 5)}, r"`heatmaps` to match `images` \(2, 3, 4, 4\).*\(2, 1, 4, 5\)"),
        ({"heatmaps": rand(1, 1, 4, 4)}, r"`heatmaps` to match"),
        ({"heatmaps": torch.full((2, 1, 4, 4), 3.0)}, r"`heatmaps` to be in \[0, 1\], got values from 3 to 3"),
        ({"heatmaps": -rand(2, 1, 4, 4) - 1}, r"`heatmaps` to be in \[0, 1\]"),
        ({"heatmaps": torch.full((2, 1, 4, 4), math.nan)}, r"`heatmaps` to be in \[0, 1\], got values from nan"),
    ],
)
def test_overlay_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        overlay(**({"images": uint8(2, 3, 4, 4), "heatmaps": rand(2, 1, 4, 4)} | arguments))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alpha": 1.5}, ValueError, r"`alpha` to be a number in \[0, 1\], got 1.5"),
        ({"alpha": math.nan}, ValueError, r"`alpha`"),
        ({"alpha": -0.1}, ValueError, r"`alpha` to be a number in \[0, 1\], got -0.1"),
        ({"colormap": "virdis"}, ValueError, r"`colormap`.*'virdis'. Did you mean 'viridis'"),
        ({"colormap": "turbi"}, ValueError, r"`colormap`.*Did you mean.*'turbo'"),
        ({"colormap": "1234567"}, ValueError, r"`colormap` to be a name in `matplotlib.colormaps`, got '1234567'.$"),
        ({"contour": 1.0}, ValueError, r"`contour` to be a number in \(0, 1\), got 1.0"),
        ({"contour": 0}, ValueError, r"`contour` to be a number in \(0, 1\), got 0"),
        ({"fade": "yes"}, TypeError, r"`fade` to be .*got 'yes'"),
    ],
)
def test_a_shading_says_what_is_wrong(options, error, message):
    with pytest.raises(error, match=message):
        Shading(**options)


def test_signed_values_are_brought_around_mid_gray_by_the_99th_percentile_of_what_is_not_0():
    signed = randn(2, 3, 20, 20)
    signed[:, :, :10] = 0
    signed[1] *= 1e-6
    expected = []
    for image in signed.double().numpy():
        magnitudes = np.sort(np.abs(image[image != 0]))
        scaled = np.clip(image / magnitudes[math.ceil(0.99 * len(magnitudes)) - 1], -1, 1)
        expected.append(np.rint(scaled * 127.5 + 127.5))
    rgb = signed_to_rgb(signed)
    assert rgb.dtype == torch.uint8
    assert np.abs(rgb.numpy() - np.stack(expected)).max() <= 1  # a float32's last bit
    assert (rgb[:, :, :10] == 128).all()
    assert rgb.min() == 0
    assert rgb.max() == 255


def test_a_few_extreme_pixels_do_not_gray_out_the_rest_and_each_image_has_its_own_scale():
    signed = randn(2, 3, 30, 30)
    plain = signed_to_rgb(signed)
    extreme = signed.clone()
    extreme[0, 0, 0, 0], extreme[0, 1, 0, 0] = 1e6, -1e6
    rgb = signed_to_rgb(extreme)
    assert rgb[0, :2, 0, 0].tolist() == [255, 0]
    assert (rgb[0, :, 1:].int() - plain[0, :, 1:].int()).abs().max() <= 3
    assert torch.equal(rgb[1], plain[1])
    assert torch.equal(signed_to_rgb(signed * 1024), plain)  # a power of two: exact


def test_the_sign_is_seen_and_negating_mirrors_the_colors():
    signed = randn(1, 3, 8, 8)
    rgb = signed_to_rgb(signed).int()
    assert ((rgb > 128)[signed > 0.1]).all()
    assert ((rgb < 127)[signed < -0.1]).all()
    assert (rgb + signed_to_rgb(-signed).int() - 255).abs().max() <= 1  # halves are rounded to even


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])])
def test_signed_values_of_other_channels(channels, shown):
    signed = randn(2, channels, 6, 7)
    rgb = signed_to_rgb(signed)
    assert rgb.shape == (2, 3, 6, 7)
    assert torch.equal(rgb, signed_to_rgb(signed[:, shown]))


def test_signed_values_that_are_blank_or_not_finite_are_mid_gray_and_the_input_stays_as_it_was():
    signed = randn(2, 3, 6, 6)
    signed[0] = 0
    signed[1, 0, 0, 0], signed[1, 1, 0, 0] = math.nan, math.inf
    before = signed.clone()
    rgb = signed_to_rgb(signed)
    assert (rgb[0] == 128).all()
    assert rgb[1, :2, 0, 0].tolist() == [128, 128]
    assert (rgb[1] != 128).any()
    assert torch.equal(signed.nan_to_num(), before.nan_to_num())


@pytest.mark.parametrize("wrong", [torch.zeros(3, 4, 4), torch.zeros(1, 3, 4, 4).int(), torch.zeros(0, 3, 1, 1)])
def test_signed_values_of_another_shape_or_kind_are_refused(wrong):
    with pytest.raises(ValueError, match=r"`signed` to be a non-empty \(N, C, H, W\)"):
        signed_to_rgb(wrong)


def test_heatmaps_on_their_own_scales_are_brought_to_one():
    heatmaps = rand(3, 1, 4, 5)
    kept, peaks = heatmaps.clone(), torch.tensor([1.0, 0.0, 8.0])
    shared = to_common_scale(heatmaps, peaks, torch.tensor(8.0))
    assert torch.equal(shared, torch.stack([heatmaps[0] / 8, torch.zeros(1, 4, 5), heatmaps[2]]))
    by_row = to_common_scale(heatmaps, peaks, torch.tensor([2.0, 0.0, 8.0]))
    assert torch.equal(by_row, torch.stack([heatmaps[0] / 2, torch.zeros(1, 4, 5), heatmaps[2]]))
    assert torch.equal(heatmaps, kept)
