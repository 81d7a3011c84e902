import io
import itertools
import math

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from lightning_saliency.render import Caption, colorize, encode, grid, overlay, shown_channels, to_rgb
from lightning_saliency.render.layout import _cut, font_of, wrap

FRAME, PAPER = 218, 255
GREEN, RED = (0, 114, 84), (184, 66, 0)
LONG = "true: golden retriever · predicted: labrador 93 %"
ENDLESS = "Rindfleischetikettierungsueberwachungsaufgaben" * 4


def uint8(*shape, seed=0):
    return torch.randint(0, 200, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def flat(*colours, size=(128, 128)):
    """One image of a single colour for each colour."""
    return torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, *size).contiguous()


def corners(sheet, height, width):
    """The (top, left) of each cell of that size, in reading order, found by the frames alone."""
    line = (sheet == FRAME).all(0).numpy()
    found = []
    for y, x in zip(*np.nonzero(line), strict=True):
        right, down = line[y, x : x + width + 2], line[y : y + height + 2, x]
        if right.sum() == width + 2 and down.sum() == height + 2 and line[y + height + 1, x + width + 1]:
            found.append((int(y) + 1, int(x) + 1))
    return found


def cells_of(sheet, height, width):
    return [sheet[:, y : y + height, x : x + width] for y, x in corners(sheet, height, width)]


def ink(sheet, top, bottom, left=0, right=None):
    """Rows and columns, from the sheet's corner, in which a region has anything but paper."""
    region = (sheet[:, top:bottom, left:right] != PAPER).any(0)
    return region.any(1).nonzero().flatten() + top, region.any(0).nonzero().flatten() + left


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
def test_a_constant_image_is_mid_grey(value, channels):
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


def test_one_channel_becomes_grey_and_three_stay_in_order():
    grey = to_rgb(rand(2, 1, 4, 4), 0.0, 1.0)
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert torch.equal(grey[:, 0], grey[:, 2])
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
        ({"channels": "last"}, r"`channels` to be \"first\" or \"mean\", got 'last'"),
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


@pytest.mark.parametrize("name", ["turbo", "viridis", "gray", "jet_r"])
def test_colours_are_those_of_matplotlib(name):
    maps = torch.cat([rand(1, 1, 9, 11), torch.linspace(0, 1, 99).view(1, 1, 9, 11)])
    expected = np.zeros((2, 3, 9, 11), np.uint8)
    for n, y, x in np.ndindex(2, 9, 11):
        expected[n, :, y, x] = matplotlib.colormaps[name](maps[n, 0, y, x].numpy(), bytes=True)[:3]
    out = colorize(maps, name)
    assert (out.dtype, out.shape) == (torch.uint8, (2, 3, 9, 11))
    assert np.array_equal(out.numpy(), expected)


def test_a_colour_map_of_few_colours_is_spread_over_the_whole_range():
    ends = colorize(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2), "tab10")[0, :, 0].T.tolist()
    assert ends == [list(matplotlib.colormaps["tab10"](i, bytes=True)[:3]) for i in (0, 9)]


def test_rounding_errors_at_the_ends_are_forgiven():
    ends = torch.tensor([-1e-5, 0.0, 1.0, 1 + 1e-5], dtype=torch.float64).view(1, 1, 1, 4)
    assert colorize(ends, "gray")[0, 0, 0].tolist() == [0, 0, 255, 255]
    assert colorize(ends.half(), "gray")[0, 0, 0].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.4, 0.5, 1.0])
def test_overlay_is_the_rounded_blend(alpha):
    images, maps = torch.randint(0, 256, (2, 3, 9, 11), dtype=torch.uint8), rand(2, 1, 9, 11)
    out = overlay(images, maps, "viridis", alpha)
    assert (out.dtype, out.shape) == (torch.uint8, (2, 3, 9, 11))
    for n, y, x in np.ndindex(2, 9, 11):
        colour = matplotlib.colormaps["viridis"](maps[n, 0, y, x].numpy(), bytes=True)
        for c in range(3):
            exact = (1 - alpha) * int(images[n, c, y, x]) + alpha * int(colour[c])
            assert abs(int(out[n, c, y, x]) - exact) <= 0.5 + 1e-4


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("value", [0, 255])
def test_extremes_neither_overflow_nor_drift(alpha, value):
    images = torch.full((1, 3, 4, 4), value, dtype=torch.uint8)
    assert torch.equal(overlay(images, torch.full((1, 1, 4, 4), value / 255), "gray", alpha), images)


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
        ({"alpha": 1.5}, r"`alpha` to be in \[0, 1\], got 1.5"),
        ({"alpha": math.nan}, r"`alpha`"),
        ({"colormap": "virdis"}, r"`colormap`.*'virdis'; did you mean 'viridis'"),
        ({"colormap": "1234567"}, r"`colormap` to be a name in `matplotlib.colormaps`, got '1234567'$"),
    ],
)
def test_overlay_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        overlay(**({"images": uint8(2, 3, 4, 4), "heatmaps": rand(2, 1, 4, 4)} | arguments))


def test_cells_hold_the_right_overlays_in_the_right_order():
    images = uint8(3, 3, 150, 140)
    maps = {name: rand(3, 1, 150, 140, seed=seed) for seed, name in enumerate("zab")}
    sheet = grid(images, maps, title="epoch 1", captions=[Caption("a"), Caption("b"), Caption("c")], alpha=0.4)
    assert (sheet.dtype, sheet.ndim, sheet.shape[0]) == (torch.uint8, 3, 3)
    found = cells_of(sheet, 150, 140)
    assert len(found) == 12
    for row in range(3):
        assert torch.equal(found[4 * row], images[row])
        for column, name in enumerate("zab", start=1):
            expected = overlay(images[row : row + 1], maps[name][row : row + 1], "turbo", 0.4)[0]
            assert torch.equal(found[4 * row + column], expected)


def test_cells_are_aligned_and_never_touch():
    at = corners(grid(uint8(3, 3, 130, 140), {"a": rand(3, 1, 130, 140), "b": rand(3, 1, 130, 140)}), 130, 140)
    tops, lefts = sorted({y for y, _ in at}), sorted({x for _, x in at})
    assert at == [(y, x) for y in tops for x in lefts]
    assert len({b - a for a, b in itertools.pairwise(tops)}) == 1
    assert tops[1] - tops[0] >= 130 + 8
    assert lefts[1] - lefts[0] >= 140 + 8


@pytest.mark.parametrize("size", [(28, 28), (224, 224), (512, 512), (200, 300)])
def test_a_bright_corner_stays_at_the_top_left(size):
    images, maps = torch.zeros(2, 3, *size, dtype=torch.uint8), torch.zeros(2, 1, *size)
    maps[1, :, : size[0] // 4, : size[1] // 4] = 1
    side = {28: 168, 224: 224, 512: 256, 200: 171}[size[0]], {28: 168, 224: 224, 512: 256, 300: 256}[size[1]]
    found = cells_of(grid(images, {"m": maps}, colormap="gray", alpha=1), *side)
    assert [int(cell.max()) for cell in found] == [0, 0, 0, 255]
    bright = (found[3][0] > 127).nonzero()
    assert bright.min(0).values.tolist() == [0, 0]
    low, right = (bright.max(0).values + 1).tolist()
    assert abs(low - side[0] / 4) <= 1
    assert abs(right - side[1] / 4) <= 1


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (28, 28), (64, 64), (96, 97), (127, 127)])
def test_small_images_are_enlarged_by_a_whole_factor_with_crisp_pixels(size):
    factor = next(k for k in (192 // max(size), 192 // max(size) + 1) if 128 <= k * max(size) <= 256)
    images = uint8(2, 3, *size)
    sheet = grid(images, {})
    found = cells_of(sheet, size[0] * factor, size[1] * factor)
    assert len(found) == 2
    for cell, image in zip(found, images, strict=True):
        assert np.array_equal(cell.numpy(), np.kron(image.numpy(), np.ones((1, factor, factor), np.uint8)))


def test_heatmaps_of_small_images_are_interpolated():
    images, maps = torch.zeros(1, 3, 28, 28, dtype=torch.uint8), torch.zeros(1, 1, 28, 28)
    maps[..., 14:] = 1
    cell = cells_of(grid(images, {"m": maps}, colormap="gray", alpha=1), 168, 168)[1]
    middle = cell[0, 80, 80:90].tolist()
    assert middle == sorted(middle)
    assert len(set(middle)) > 4


def test_maps_may_come_at_another_size():
    maps = rand(2, 1, 7, 7)
    expected = torch.nn.functional.interpolate(maps, size=(130, 140), mode="bilinear", align_corners=False)
    cell = cells_of(grid(uint8(2, 3, 130, 140), {"m": maps}, colormap="gray", alpha=1), 130, 140)[3]
    assert (cell[0].float() - (expected[1, 0] * 256).floor().clamp(max=255)).abs().max() <= 1


@pytest.mark.parametrize(
    ("size", "cell"),
    [
        ((128, 128), (128, 128)),
        ((224, 160), (224, 160)),
        ((256, 256), (256, 256)),
        ((257, 200), (256, 199)),
        ((512, 512), (256, 256)),
        ((200, 300), (171, 256)),
        ((16, 512), (8, 256)),
        ((2000, 3), (256, 1)),
    ],
)
def test_larger_images_are_kept_or_reduced_in_proportion(size, cell):
    images = flat((10, 20, 30), (30, 20, 10), size=size)
    found = cells_of(grid(images, {"m": torch.ones(2, 1, *size)}, alpha=0), *cell)
    assert len(found) == 4
    assert (found[0] == torch.tensor([10, 20, 30]).view(3, 1, 1)).all()
    assert (found[3] == torch.tensor([30, 20, 10]).view(3, 1, 1)).all()


def test_reducing_is_antialiased():
    images, maps = torch.zeros(1, 3, 1024, 1024, dtype=torch.uint8), torch.zeros(1, 1, 1024, 1024)
    images[..., ::4], maps[..., ::4] = 200, 0.8  # lines that lie between the points where plain sampling looks
    for cell in cells_of(grid(images, {"m": maps}, colormap="gray", alpha=1), 256, 256):
        inner = cell[:, 8:-8, 8:-8].float()
        assert inner.std() < 5
        assert abs(inner.mean() - 50) < 5


def test_a_blank_cell_shows_the_dimmed_image_and_no_colour():
    images = flat((200, 200, 200), (100, 100, 100))
    maps = {"a": torch.ones(2, 1, 128, 128), "b": torch.ones(2, 1, 128, 128)}
    sheet = grid(images, maps, blanks={"b": [None, "blank: all negative"]})
    coloured, blank = cells_of(sheet, 128, 128)[2], cells_of(sheet, 128, 128)[5]
    assert torch.equal(coloured, overlay(images[:1], maps["b"][:1])[0])
    assert (blank.float().std(0) < 3).all()  # grey, save the band's slight tint
    assert (blank[:, :40] == 50).all()
    assert (blank[:, -40:] == 50).all()
    band = blank[:, 54:74]
    assert (band == 255).any()  # the reason, in white
    assert int(band.min()) < 30  # on something dark
    others = [cells_of(sheet, 128, 128)[i] for i in (0, 1, 2, 3, 4)]
    plain = [cells_of(grid(images, maps), 128, 128)[i] for i in (0, 1, 2, 3, 4)]
    assert all(torch.equal(a, b) for a, b in zip(others, plain, strict=True))


@pytest.mark.parametrize("size", [(8, 512), (512, 8), (128, 128), (40, 60)])
@pytest.mark.parametrize("reason", ["", "blank", "blank: all negative " * 20, ENDLESS])
def test_a_reason_stays_within_its_own_place(size, reason):
    images, maps = flat((90, 90, 90), (60, 60, 60), size=size), {"a": rand(2, 1, *size), "b": rand(2, 1, *size)}
    with_reason, without = grid(images, maps, blanks={"a": [reason, None]}), grid(images, maps)
    rows, columns = ((with_reason != without).any(0)).nonzero().T
    assert with_reason.shape == without.shape
    scale = {8: 1, 512: 1, 128: 1, 60: 3, 40: 3}
    cell = tuple(round(s * min(1, 256 / max(size))) * scale[s] for s in size)
    at = corners(without, *cell)
    middle = at[1][0] + cell[0] / 2, at[1][1] + cell[1] / 2
    assert abs(rows - middle[0]).max() <= max(cell[0], 56) / 2 + 1
    assert abs(columns - middle[1]).max() <= max(cell[1], 128) / 2 + 1


@pytest.mark.parametrize("methods", [0, 1, 4])
@pytest.mark.parametrize("size", [(28, 28), (100, 128), (300, 200), (512, 512), (512, 4), (4, 512)])
@pytest.mark.parametrize("text", ["w", LONG, LONG * 9, ENDLESS])
def test_words_are_never_cut_off_and_never_leave_their_place(methods, size, text):
    images = flat((90, 90, 90), (60, 60, 60), size=size)
    maps = {f"{text} {i}": torch.zeros(2, 1, *size) for i in range(methods)}
    sheet = grid(images, maps, title=text, note=text, captions=[Caption(text, True), Caption(text, False)])
    rows, columns = ink(sheet, 0, None)
    assert rows[0] >= 16
    assert rows[-1] < sheet.shape[1] - 8
    assert columns[0] >= 24
    assert columns[-1] < sheet.shape[2] - 24
    cell = next(
        (h, w)
        for h, w in [(168, 168), (100, 128), (256, 171), (256, 256), (256, 2), (2, 256)]
        if len(corners(sheet, h, w)) == 2 * (methods + 1)
    )
    at = corners(sheet, *cell)
    bottom_of_first, top_of_second = at[0][0] + cell[0] + 1, at[-1][0] - 1
    rows, _ = ink(sheet, bottom_of_first, top_of_second)
    assert rows[0] > bottom_of_first  # paper between a cell and the next caption, and between it and its own cell
    assert rows[-1] < top_of_second - 1
    colours = sheet[:, bottom_of_first:top_of_second].flatten(1).T.unique(dim=0).tolist()
    assert list(RED) in colours
    assert list(GREEN) not in colours


def test_titles_stand_over_their_columns_without_touching():
    maps = {"grad_cam_plus_plus_of_a_long_name": rand(1, 1, 128, 128), ENDLESS: rand(1, 1, 128, 128)}
    sheet = grid(uint8(1, 3, 128, 128), maps)
    at = corners(sheet, 128, 128)
    top = at[0][0] - 1
    for (_, left), (_, following) in itertools.pairwise(at):
        assert len(ink(sheet, 0, top, left, left + 128)[0]) > 0
        assert len(ink(sheet, 0, top, left + 129, following - 1)[0]) == 0


def test_captions_say_right_and_wrong_by_colour_and_by_mark():
    sheets = [
        grid(flat((9, 9, 9)), {}, captions=[Caption("predicted: cat", correct)]) for correct in (True, False, None)
    ]
    strips = [sheet[:, : corners(sheet, 128, 128)[0][0] - 1] for sheet in sheets]
    strips = [strip[:, -24:] for strip in strips]
    has = [[list(c) in strip.flatten(1).T.tolist() for c in (GREEN, RED)] for strip in strips]
    assert has == [[True, False], [False, True], [False, False]]
    shapes = [(strip != PAPER).any(0) for strip in strips]
    assert not torch.equal(shapes[0], shapes[1])  # ✓ and ✗: readable without colour
    assert shapes[2].any()


def test_labels_stand_below_their_own_cells():
    images, maps = (
        torch.full((2, 3, 160, 160), 9, dtype=torch.uint8),
        {name: torch.zeros(2, 1, 160, 160) for name in "ab"},
    )
    labels = {"b": [Caption("cat · 83%", True), Caption(LONG, None)]}
    sheet, bare = grid(images, maps, alpha=0.0, labels=labels), grid(images, maps, alpha=0.0)
    is_cell = (sheet == 9).all(0)
    tops, bottoms = (
        (is_cell.any(1).int().diff() == 1).nonzero()[:, 0] + 1,
        (is_cell.any(1).int().diff() == -1).nonzero()[:, 0],
    )
    lefts, rights = (
        (is_cell.any(0).int().diff() == 1).nonzero()[:, 0] + 1,
        (is_cell.any(0).int().diff() == -1).nonzero()[:, 0],
    )
    assert len(tops) == 2
    assert len(lefts) == 3
    words = ((sheet != 255) & (sheet != 218)).any(0) & ~is_cell
    for row in range(2):
        below = words[bottoms[row] + 2 : bottoms[row] + 24]
        assert below.any()
        assert not below[-3:].any()  # with room to what follows
        columns = below.any(0).nonzero()
        assert lefts[2] <= columns.min()
        assert columns.max() <= rights[2]
    line = (sheet.shape[1] - bare.shape[1]) / 2
    assert 12 < line < 26
    assert sheet.shape[2] == bare.shape[2]
    green = (sheet[1].int() - sheet[0].int() > 60).nonzero()[:, 0]
    assert bottoms[0] < green.min() < green[green < bottoms[1]].max() < tops[1]  # below that are the colours' scale


def test_title_and_note_and_scale_stand_where_they_should():
    images, maps = flat((9, 9, 9), size=(200, 200)), {"m": torch.zeros(1, 1, 200, 200)}
    bare, full = grid(images, maps), grid(images, maps, title="epoch 12", note="channels 1–3 of 12")
    (bare_top, _), (full_top, _) = corners(bare, 200, 200)[0], corners(full, 200, 200)[0]
    assert full_top > bare_top + 12
    assert full.shape[2] == bare.shape[2]
    left, right = ink(full, full_top + 202, None, 0, 200)[1], ink(bare, bare_top + 202, None)[1]
    assert len(left) > 0  # the note, at the left
    assert right[0] > bare.shape[2] // 2  # the colours from low to high, at the right
    ends = bare[:, bare_top + 202 :].flatten(1).T.tolist()
    assert all(list(matplotlib.colormaps["turbo"](i, bytes=True)[:3]) in ends for i in (0, 255))


@pytest.mark.parametrize("words", range(1, 40, 3))
def test_note_and_scale_never_overlap(words):
    images, maps = flat((9, 9, 9), size=(200, 200)), {"m": torch.zeros(1, 1, 200, 200)}
    bare, full = grid(images, maps), grid(images, maps, note="word " * words)
    assert torch.equal(bare[:, -36:, -180:], full[:, -36:, -180:])
    for sheet in (bare, full):
        below = corners(sheet, 200, 200)[0][0] + 201
        assert ink(sheet, below, None)[0][0] >= below + 6


def test_no_captions_and_empty_ones_take_no_room():
    images, maps = uint8(2, 3, 130, 130), {"m": rand(2, 1, 130, 130)}
    bare = grid(images, maps)
    assert grid(images, maps, captions=[Caption(""), Caption("")]).shape[1] <= bare.shape[1] + 8
    assert grid(images, maps, captions=[Caption("a"), Caption("")]).shape[1] > bare.shape[1] + 8


def test_the_same_sheet_comes_out_twice_and_inputs_are_left_alone():
    images, maps = uint8(2, 3, 64, 64), rand(2, 1, 64, 64)
    kept = images.clone(), maps.clone()
    first = grid(images, {"m": maps}, title="t", captions=[Caption(LONG, True)] * 2, blanks={"m": ["no", None]})
    again = grid(images, {"m": maps}, title="t", captions=[Caption(LONG, True)] * 2, blanks={"m": ["no", None]})
    assert torch.equal(first, again)
    assert torch.equal(images, kept[0])
    assert torch.equal(maps, kept[1])


@pytest.mark.parametrize("text", ["\n\n", "a\x00b", "\ud83d", "犬 🐕", "\u200b", "e\u0301" * 300])
def test_odd_characters_do_not_stop_a_training(text):
    maps = {text: rand(1, 1, 32, 32)}
    grid(uint8(1, 3, 32, 32), maps, title=text, note=text, captions=[Caption(text)], blanks={text: [text]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": rand(2, 3, 8, 8)}, r"`images` to be .*torch.uint8"),
        ({"heatmaps": {"m": rand(3, 1, 8, 8)}}, r"`heatmaps\['m'\]` to hold 2 maps, one per image, got 3"),
        ({"heatmaps": {"m": rand(2, 1, 8, 8) + 5}}, r"`heatmaps\['m'\]` to be in \[0, 1\]"),
        ({"captions": [Caption("a")]}, r"`captions` to hold 2 captions, one per image, got 1"),
        ({"blanks": {"x": [None, None]}}, r"`blanks` to name columns among \['m'\], got 'x'"),
        ({"blanks": {"m": ["why"]}}, r"`blanks\['m'\]` to hold 2 reasons or None, got \['why'\]"),
        ({"blanks": {"m": "no"}}, r"`blanks\['m'\]` to hold 2 reasons"),
        ({"labels": {"x": []}}, r"`labels` to name columns among \['m'\], got 'x'"),
        ({"labels": {"m": [Caption("a")]}}, r"`labels\['m'\]` to hold 2 captions, one per image, got 1"),
        ({"colormap": "turbi"}, r"`colormap`.*did you mean.*'turbo'"),
        ({"alpha": -0.1}, r"`alpha` to be in \[0, 1\], got -0.1"),
    ],
)
def test_grid_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        grid(**({"images": uint8(2, 3, 8, 8), "heatmaps": {"m": rand(2, 1, 8, 8)}} | arguments))


@pytest.mark.parametrize("width", [60, 128, 300])
@pytest.mark.parametrize("lines", [1, 2, 3])
@pytest.mark.parametrize("text", ["", "w", LONG, LONG * 5, ENDLESS, "✗ " + ENDLESS, "a_" * 200, "W " * 99])
def test_broken_lines_fit_and_lose_nothing_silently(text, lines, width):
    font = font_of(13)
    broken = wrap(text, font, width, lines)
    assert len(broken) <= lines
    assert all(font.getlength(line) <= width for line in broken)
    kept = "".join("".join(broken).split())
    if not kept.endswith("…"):
        assert kept.replace("·", "") == "".join(text.split()).replace("·", "")
    else:
        whole = "".join(text.split()).replace("·", "")
        assert whole.startswith(kept[:-1].replace("·", ""))


def test_breaks_come_where_a_reader_expects_them():
    font = font_of(13)
    assert wrap(LONG, font, 600) == (LONG,)
    assert wrap(LONG, font, 250) == ("true: golden retriever", "predicted: labrador 93 %")
    assert wrap("grad_cam_plus_plus", font, 110) == ("grad_cam_plus_", "plus")
    assert wrap("  two \n words ", font, 300) == ("two words",)


def test_a_cut_text_is_as_long_as_it_can_be():
    font = font_of(13)
    cut = _cut(ENDLESS, font, 150)
    assert cut.endswith("…")
    longer = ENDLESS[: len(cut)] + "…"
    assert font.getlength(cut) <= 150 < font.getlength(longer)


def test_the_font_is_the_one_that_comes_with_matplotlib():
    font = font_of(13)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert font.getname() == ("DejaVu Sans", "Book")
    assert font_of(13) is font


def test_small_and_flat_pictures_are_png_and_photographs_jpeg():
    generator = torch.Generator().manual_seed(0)

    def opened(picture):
        content, form = encode(picture)
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == form
            return form, torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1), len(content)

    noise = torch.randint(0, 256, (3, 25, 25), generator=generator, dtype=torch.uint8)
    photo = torch.nn.functional.interpolate(noise[None].float(), size=(900, 900), mode="bicubic").clamp(0, 255)[0]
    photo = (photo + torch.randn(3, 900, 900, generator=generator) * 6).clamp(0, 255).to(torch.uint8)
    flat = torch.zeros(3, 900, 900, dtype=torch.uint8)
    flat[:, 100:300, 200:700] = torch.tensor([200, 30, 90], dtype=torch.uint8)[:, None, None]

    form, pixels, _ = opened(photo[:, :600, :600])
    assert form == "PNG"  # small
    assert torch.equal(pixels, photo[:, :600, :600])
    form, pixels, _ = opened(flat)
    assert form == "PNG"
    assert torch.equal(pixels, flat)
    form, pixels, size = opened(photo)
    assert form == "JPEG"
    assert (pixels.float() - photo.float()).abs().mean() < 6
    assert size < photo.numel() / 6
    with pytest.raises(ValueError, match="`images`"):
        encode(photo.float())
