"""The colors of heatmaps are ordered in brightness, also to the color-blind, and leave the rest of the photograph."""

import numpy as np
import pytest
import torch
from drawing import corners, flat, rand, uint8

from lightning_saliency.visualization import THEMES, Drawing, Shading, Style, colorize, grid, overlay
from lightning_saliency.visualization.colors import darkened

# G. M. Machado, M. M. Oliveira and L. A. F. Fernandes, A Physiologically-based Model for Simulation of Color Vision
# Deficiency, IEEE Transactions on Visualization and Computer Graphics 15(6), 2009: severity 1.0, on linear RGB.
VISION = {
    "usual": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
STEPS = 64
VALUES = torch.linspace(0, 1, STEPS).view(1, 1, 1, STEPS)
DEFAULT = Style().drawing(256).shading


def luminance(colors, vision="usual"):
    """Relative luminance of sRGB colors `(N, 3)`, from 0 of black to 1 of white, as IEC 61966-2-1 and WCAG have it."""
    encoded = np.asarray(colors, dtype=np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(VISION[vision]).T, 0, 1)
    return seen @ np.array([0.2126, 0.7152, 0.0722])


def over(level, shading, values=VALUES):
    """The colors `(N, 3)` of values laid over an even gray."""
    gray = torch.full((1, 3, 1, values.shape[-1]), level, dtype=torch.uint8)
    return overlay(gray, values, shading)[0, :, 0].T.numpy()


@pytest.mark.parametrize("vision", VISION)
def test_the_default_colors_rise_in_brightness(vision):
    colors = colorize(VALUES, DEFAULT.colormap)[0, :, 0].T.numpy()
    assert (np.diff(luminance(colors, vision)) > 0).all()
    assert Shading() == DEFAULT
    assert torch.equal(colorize(VALUES), colorize(VALUES, DEFAULT.colormap))


@pytest.mark.parametrize("vision", VISION)
def test_over_black_a_larger_value_is_brighter(vision):
    brightness = luminance(over(0, DEFAULT), vision)
    assert (np.diff(brightness) > 0).all()
    assert brightness[0] == 0
    assert brightness[-1] > 0.5


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("level", [64, 96, 128])
def test_over_gray_the_colors_that_are_seen_as_bright_are_ordered_and_faint_ones_never_outshine_them(level, vision):
    brightness = luminance(over(level, DEFAULT), vision)
    begin = STEPS // 3  # below, the faint color may be darker than the photograph
    assert (np.diff(brightness[begin:]) > 0).all()
    assert brightness[:begin].max() < brightness[2 * begin]
    assert brightness[-1] > 3 * brightness[0]


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("level", [0, 64, 128])
def test_where_the_color_does_not_fade_a_larger_value_is_brighter_over_any_gray(level, vision):
    shading = Shading(DEFAULT.colormap, DEFAULT.alpha, fade=False)
    assert (np.diff(luminance(over(level, shading), vision)) > 0).all()


@pytest.mark.parametrize("level", range(0, 256, 15))
def test_over_any_gray_the_maximum_is_the_brightest_or_stands_out_by_its_color(level):
    colors = over(level, DEFAULT)
    brightness = luminance(colors)
    assert brightness[-1] >= brightness[:-1].max() or np.ptp(colors[-1].astype(int)) > 100
    if level <= 192:
        assert brightness[-1] > brightness[:-1].max()


@pytest.mark.parametrize("theme", THEMES)
def test_the_color_scale_of_a_sheet_rises_in_brightness_from_where_it_is_brighter_than_the_photograph(theme):
    drawing = Drawing(shading=DEFAULT, theme=THEMES[theme])
    images, maps = flat((9, 9, 9), size=(200, 200)), {"m": torch.zeros(1, 1, 200, 200)}
    sheet = grid(images, maps, drawing=drawing)
    below = sheet[:, -40:]
    last = torch.from_numpy(over(128, DEFAULT)[-1].copy()).view(3, 1, 1)
    rows, columns = (below == last).all(0).nonzero().T
    line = below[:, int(rows[len(rows) // 2])].T.numpy()
    begin = int((line == 128).all(1).nonzero()[0][0])
    bar = luminance(line[begin : int(columns.max()) + 1])
    assert len(bar) > 80
    brighter = bar[bar > bar[0]]
    assert len(brighter) > len(bar) / 3
    assert (np.diff(brighter) >= 0).all()
    assert bar[-1] == bar.max()


@pytest.mark.parametrize("shading", [Shading(), Shading("turbo"), Shading("viridis", alpha=1.0)])
def test_where_the_heatmap_is_0_the_overlay_is_the_photograph(shading):
    images, heatmaps = uint8(2, 3, 40, 50), rand(2, 1, 40, 50)
    heatmaps[:, :, :, 20:] = 0
    laid = overlay(images, heatmaps, shading)
    assert torch.equal(laid[..., 20:], images[..., 20:])
    assert not torch.equal(laid[..., :20], images[..., :20])
    veiled = overlay(images, heatmaps, Shading(shading.colormap, shading.alpha, fade=False))
    assert not torch.equal(veiled[..., 20:], images[..., 20:])


def test_the_weight_of_the_color_is_the_value():
    values = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert torch.equal(Shading(alpha=0.8).opacity(values), 0.8 * values)
    assert torch.equal(Shading(alpha=0.8, fade=False).opacity(values), torch.full((4,), 0.8))


def test_a_contour_is_a_white_line_around_what_is_above_it_and_nothing_else_changes():
    images, heatmaps = torch.full((1, 3, 40, 50), 90, dtype=torch.uint8), torch.zeros(1, 1, 40, 50)
    heatmaps[..., 10:21, 15:31] = 0.7
    heatmaps[..., 30:, 45:] = 0.7  # beyond the edge of the image there is no line
    heatmaps[..., 2, 2] = 0.4
    plain, lined = overlay(images, heatmaps), overlay(images, heatmaps, Shading(contour=0.5))
    white = (lined == 255).all(1)[0]
    expected = torch.zeros(40, 50, dtype=torch.bool)
    expected[10:21, 15:31] = True
    expected[11:20, 16:30] = False
    expected[30, 45:] = expected[30:, 45] = True
    assert torch.equal(white, expected)
    assert torch.equal(torch.where(expected, plain, lined), plain)
    assert torch.equal(overlay(images, heatmaps, Shading(contour=0.8)), plain)


def test_the_style_sets_the_shading():
    style = Style(colormap="viridis", alpha=0.25, fade=False, contour=0.5, theme="dark")
    assert style.drawing(144) == Drawing(144, Shading("viridis", 0.25, False, 0.5), THEMES["dark"])
    assert Style(cell=300).drawing(144).cell_side == 300


def test_dark_gray_images_keep_the_order_of_brightness_and_no_color():
    levels = torch.arange(0, 256, dtype=torch.uint8).view(1, 1, 1, 256).expand(1, 3, 1, 256).contiguous()
    dark = darkened(levels)
    assert torch.equal(dark[:, 0], dark[:, 1])
    assert torch.equal(dark[:, 0], dark[:, 2])
    assert (dark[0, 0, 0].int().diff() >= 0).all()
    assert dark[0, 0, 0, [0, -1]].tolist() == [0, 102]


def test_pictures_of_the_dark_theme_have_the_same_cells():
    images, maps = uint8(2, 3, 200, 200), {"m": rand(2, 1, 200, 200)}
    light, dark = (grid(images, maps, drawing=Drawing(theme=THEMES[name])) for name in ("light", "dark"))
    assert light.shape == dark.shape
    for top, left in corners(light, 200, 200):
        place = (slice(None), slice(top, top + 200), slice(left, left + 200))
        assert torch.equal(light[place], dark[place])
