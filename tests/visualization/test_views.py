"""Slices of volumes, frames of videos, pieces of long images and curves of signals on a sheet."""

import numpy as np
import pytest
import torch
from drawing import BARE, GRAY, cells_of, ink, rand, shaded, uint8

from lightning_saliency.visualization import Caption, colorize, fit_images, grid, overlay, tiles, to_curves, to_rgb
from lightning_saliency.visualization.curves import draw_curves
from lightning_saliency.visualization.views import cut_images, frames_view, make_views, pieces_view, slices_view

GAP = 4


def enlarged(pixels, factor):
    """A gray or colored image `(C, h, w)` with each pixel as a square."""
    return np.kron(pixels.expand(3, *pixels.shape[1:]).numpy(), np.ones((1, factor, factor), np.uint8))


def differing_lines(found, expected):
    """In which rows and in which columns two pictures differ, all over."""
    differs = (found.numpy() != expected).any(0)
    return np.flatnonzero(differs.mean(1) > 0.5).tolist(), np.flatnonzero(differs.mean(0) > 0.5).tolist()


def test_a_volume_is_shown_as_the_three_slices_through_the_maximum_each_at_its_place():
    volume, heatmap = uint8(2, 1, 6, 16, 20), torch.zeros(2, 1, 6, 16, 20)
    heatmap[0, 0, 4, 3, 11] = 1.0
    heatmap[1, 0, 1, 12, 2] = 0.5
    sheet = grid(volume, {"m": heatmap}, drawing=BARE)
    factor = 256 // (20 + 6)
    height, width = (16 + 6) * factor + GAP, (20 + 6) * factor + GAP
    found = cells_of(sheet, height, width)
    assert len(found) == 4
    for row, (z, y, x) in enumerate([(4, 3, 11), (1, 12, 2)]):
        for cell in found[2 * row : 2 * row + 2]:  # the image and the overlay show the same slices
            parts = [
                (volume[row, :, z], (0, 0), (y, x)),
                (volume[row, :, :, y], (16 * factor + GAP, 0), (z, x)),
                (volume[row, :, :, :, x].mT, (0, 20 * factor + GAP), (y, z)),
            ]
            for part, (top, left), (down, across) in parts:
                expected = enlarged(part, factor)
                shown = cell[:, top : top + expected.shape[1], left : left + expected.shape[2]]
                lines = differing_lines(shown, expected)  # the cross
                assert lines == ([int((down + 0.5) * factor)], [int((across + 0.5) * factor)])
                others = np.delete(np.delete(shown.numpy(), lines[0], 1), lines[1], 2)
                assert np.array_equal(others, np.delete(np.delete(expected, lines[0], 1), lines[1], 2))
            corner = cell[:, 16 * factor + GAP :, 20 * factor + GAP :]
            assert (corner == 255).all()


def test_the_heatmap_of_a_slice_is_laid_over_it():
    volume, heatmap = torch.zeros(1, 1, 8, 32, 32, dtype=torch.uint8), rand(1, 1, 8, 32, 32)
    heatmap[0, 0, 5, 31, 31] = 1.5 / 1.5
    heatmap[heatmap > 0.99] = 0.99
    heatmap[0, 0, 5, 31, 31] = 1.0
    views = make_views(volume, [heatmap])
    assert views[0].panels[0].index[0] == 5
    factor = 256 // 40
    cell = cells_of(grid(volume, {"m": heatmap}, drawing=GRAY), 40 * factor + GAP, 40 * factor + GAP)[1]
    expected = torch.nn.functional.interpolate(heatmap[:, :, 5], size=(192, 192), mode="bilinear", align_corners=False)
    shown = cell[0, :185, :185].float()  # without the cross
    assert (shown - (expected[0, 0, :185, :185] * 256).floor().clamp(max=255)).abs().max() <= 1


def test_the_words_of_a_view_stand_below_its_image_and_below_a_label_in_a_line_of_their_own():
    volume, heatmap = uint8(1, 1, 8, 16, 16), torch.zeros(1, 1, 8, 16, 16)
    heatmap[..., 2, 3, 4] = 1
    (view,) = make_views(volume, [heatmap])
    assert view.words == "slice 3 of 8"
    bare = grid([volume[0, 0, 0].expand(3, 16, 16)], {})
    plain, labeled = grid(volume, {"m": heatmap}), grid(volume, {"m": heatmap}, labels={"": [Caption("true cat")]})
    assert plain.shape[1] > bare.shape[1]
    assert 8 < labeled.shape[1] - plain.shape[1] < 24
    frame, words = tiles(volume, heatmap), tiles(volume, heatmap, labels=[Caption("cat")])
    assert 8 < words.shape[1] - frame.shape[1] < 24
    assert len(ink(labeled, labeled.shape[1] - 60, None)[0]) > 0


def test_slices_go_through_the_first_map_that_is_not_blank_and_else_through_the_middle():
    volume, blank, other = uint8(1, 1, 8, 9, 10), torch.zeros(1, 1, 8, 9, 10), torch.zeros(1, 1, 8, 9, 10)
    other[..., 7, 0, 9] = 1
    for columns, point in (
        ([blank, other], (7, 0, 9)),
        ([other, blank], (7, 0, 9)),
        ([blank], (4, 4, 5)),
        ([], (4, 4, 5)),
    ):
        (view,) = make_views(volume, columns)
        assert [panel.cross for panel in view.panels] == [point[1:], (point[0], point[2]), (point[1], point[0])]


@pytest.mark.parametrize(
    ("size", "places"),
    [
        ((1, 8, 8), [(0, 0)]),
        ((8, 1, 8), [(1, 0)]),
        ((8, 8, 1), [(0, 1)]),
        ((1, 1, 8), [(0, 0)]),
        ((1, 1, 1), [(0, 0)]),
        ((3, 200, 200), [(0, 0), (1, 0), (0, 1)]),
    ],
)
def test_slices_of_one_pixel_are_left_out_and_thin_ones_can_be_seen(size, places):
    view = slices_view(size, [0, 0, 0])
    assert [panel.place for panel in view.panels] == places
    sheet = grid(uint8(1, 1, *size), {"m": rand(1, 1, *size)}, blanks={"m": ["why"]})
    assert min(sheet.shape[1:]) > 60
    if size == (3, 200, 200):
        assert len(cells_of(sheet, 200 + GAP + 12, 200 + GAP + 12)) == 2


def test_a_video_is_shown_as_some_frames_with_that_of_the_maximum():
    video, heatmap = uint8(1, 3, 12, 20, 30), torch.zeros(1, 1, 12, 20, 30)
    heatmap[..., 7, 3, 3] = 1
    (view,) = make_views(video, [heatmap])
    assert view.words == "frames 3, 8, 11 of 12"
    factor = 384 // 90
    cell = cells_of(grid(video, {"m": heatmap}), 20 * factor, 90 * factor + 2 * GAP)[0]
    for number, frame in enumerate((2, 7, 10)):
        left = number * (30 * factor + GAP)
        assert np.array_equal(cell[:, :, left : left + 30 * factor].numpy(), enlarged(video[0, :, frame], factor))
    assert frames_view((2, 8, 8), 1).words == "frames 1, 2 of 2"
    assert frames_view((1, 8, 8)).words == "frame 1 of 1"


@pytest.mark.parametrize(
    ("channels", "volumes", "name"),
    [(1, "auto", "volume"), (3, "auto", "video"), (1, "frames", "video"), (3, "slices", "volume")],
)
def test_colors_tell_a_video_unless_the_style_says_what_it_is(channels, volumes, name):
    (view,) = make_views(uint8(1, channels, 8, 8, 8), volumes=volumes)
    assert view.name == name


@pytest.mark.parametrize("size", [(3000, 40), (40, 3000), (1, 784), (9, 1)])
def test_the_pieces_of_a_long_image_are_all_of_it_in_their_order_in_about_a_square(size):
    view, image = pieces_view(size), uint8(3, *size)
    parts = view.cut(image).parts
    axis = 1 if size[0] > size[1] else 2
    assert torch.equal(torch.cat(parts, axis), image)
    assert [panel.place[2 - axis] for panel in view.panels] == list(range(len(parts)))
    images = [image, uint8(3, 40, 40)]
    views = make_views(images)
    assert [view is None for view in views] == [False, True]
    maps = [rand(1, *size), rand(1, 40, 40)]
    sheet = grid(cut_images(images, views), {"m": cut_images(maps, views)}, blanks={"m": [None, "why"]})
    assert 300 < sheet.shape[1] < 900
    assert 300 < sheet.shape[2] < 900


def test_images_of_a_usual_aspect_have_no_view_and_are_drawn_as_ever():
    images = uint8(2, 3, 40, 300)
    assert make_views(images, [rand(2, 1, 40, 300)]) == [None, None]
    assert cut_images(images, [None, None]) is images


def test_a_blank_volume_is_dimmed_and_its_paper_is_not():
    volume = torch.full((1, 1, 16, 16, 16), 200, dtype=torch.uint8)
    cell = cells_of(grid(volume, {"m": torch.zeros(1, 1, 16, 16, 16)}, blanks={"m": ["constant 0"]}), 260, 260)[1]
    assert (cell[:, :40, 30:50] == 100).float().mean() > 0.9
    assert (cell[:, -40:, -40:] == 255).all()
    assert int(cell[:, 120:140].min()) < 40  # the reason's band


def test_what_is_cut_is_drawn_as_what_is_not():
    volumes, maps = uint8(2, 1, 8, 9, 10), rand(2, 1, 8, 9, 10)
    views = make_views(volumes, [maps])
    cut = grid(cut_images(volumes, views), {"m": cut_images(maps, views)}, captions=[Caption("a"), Caption("b")])
    assert torch.equal(cut, grid(volumes, {"m": maps}, captions=[Caption("a"), Caption("b")]))
    assert torch.equal(cut, grid(list(volumes), {"m": list(maps)}, captions=[Caption("a"), Caption("b")]))
    assert fit_images(volumes) is volumes


def test_a_signal_is_a_curve_from_the_left_to_the_right_colored_where_the_map_is_large():
    signal = torch.tensor([[0] * 50 + [255] * 50], dtype=torch.uint8)
    heatmap = torch.zeros(1, 100)
    heatmap[0, 60:] = 1
    plain = draw_curves(signal, None, GRAY, is_blank=False).permute(2, 0, 1)
    assert plain.shape[2] == 384
    dark = (plain[0, :96] < 100).float()
    rows = torch.arange(96)[:, None]
    middle = (dark * rows).sum(0) / dark.sum(0)  # of the curve, in each column
    assert middle[:180].min() > 80
    assert middle[-180:].max() < 15
    drawing = shaded("turbo", 1.0)
    colored = draw_curves(signal, heatmap, drawing, is_blank=False).permute(2, 0, 1).int()
    spread = (colored.amax(0) - colored.amin(0))[:96].amax(0)
    red = colorize(torch.ones(1, 1, 1, 1), "turbo")[0, :, 0, 0].int()
    assert spread[:200].max() < 40
    assert spread[-100:].min() > 60
    assert ((colored[:, :96, -50:] - red[:, None, None]).abs().amax(0) < 3).any()
    faint = draw_curves(signal, heatmap, drawing, is_blank=True)
    assert int(faint[:96].min()) > 150


@pytest.mark.parametrize("length", [1, 2, 7, 1000, 100_000])
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_signals_of_any_length_are_drawn_in_the_same_room(length, channels):
    curves = to_curves(torch.randn(2, channels, length, generator=torch.Generator().manual_seed(0)))
    sheet = grid(curves, {"m": rand(2, 1, length)}, blanks={"m": [None, "constant 0"]}, captions=[Caption("a")] * 2)
    assert sheet.shape[2] == 384 * 2 + 11 + 66  # two cells, the gap, the margins
    assert sheet.shape == grid(uint8(2, channels, 50), {"m": rand(2, 1, 50)}, captions=[Caption("a")] * 2).shape


def test_curves_fill_their_height_each_channel_on_its_own():
    signals = torch.tensor([[[1e-3, 2e-3, 3e-3], [500.0, 100.0, 300.0], [7.0, 7.0, 7.0], [0.0, torch.nan, 1.0]]])
    assert to_curves(signals)[0].tolist() == [[0, 128, 255], [255, 0, 128], [128, 128, 128], [0, 0, 255]]
    assert to_curves(torch.rand(2, 12, 5)).shape == (2, 8, 5)
    assert to_curves(torch.rand(2, 12, 5), "mean").shape == (2, 1, 5)


def test_volumes_become_pictures_in_gray_or_in_color():
    volumes = rand(2, 3, 4, 5, 6)
    assert torch.equal(to_rgb(volumes, 0.0, 1.0), (volumes * 255).round().to(torch.uint8))
    flat = to_rgb(volumes[:, :, 0], [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    assert torch.equal(to_rgb(volumes, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])[:, :, 0], flat)
    assert to_rgb(volumes[:, :1]).shape == (2, 1, 4, 5, 6)
    four = rand(2, 4, 4, 5, 6)
    assert torch.equal(to_rgb(four), to_rgb(four[:, :1]))
    assert torch.equal(to_rgb(four, channels="mean"), to_rgb(four.mean(1, keepdim=True)))


def test_overlays_and_colors_of_volumes_are_those_of_their_slices():
    heatmaps = rand(2, 1, 3, 4, 5)
    colors = colorize(heatmaps)
    assert torch.equal(colors[:, :, 1], colorize(heatmaps[:, :, 1]))
    assert overlay(uint8(2, 3, 4, 5), heatmaps[:, :, 0]).shape == (2, 3, 4, 5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (uint8(2, 2, 4, 4, 4), r"`images` to be volumes .* got shape \(2, 2, 4, 4, 4\)"),
        (rand(2, 3, 8), r"`images` to be .* signals \(N, C, T\), of torch.uint8"),
        (uint8(2, 3, 4, 4, 4, 4), r"`images` to be .* got shape \(2, 3, 4, 4, 4, 4\)"),
    ],
)
def test_what_is_neither_images_nor_volumes_nor_signals_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        grid(images, {})
