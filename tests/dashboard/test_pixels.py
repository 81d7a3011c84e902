"""The tab draws what the package's own sheets draw."""

import numpy as np
import pytest
from dashboard.expected import SIGNED, Cell, expected_cell

from lightning_saliency import load_record

SIDE = 96
MOST_OFF = 2
"""Levels of 255 by which a pixel may differ: the browser blends in 8 bits."""
MOST_PIXELS = 0.01
COLORS = ("plasma", "turbo", "viridis", "inferno", "gray", SIGNED)
AT = "2-75"
INDEX = 3
"""Of the look of epoch 2, after the initial one."""


def share_off(seen, expected):
    """The share of pixels that differ by more than a few levels."""
    assert seen.shape == expected.shape
    return float((np.abs(seen.astype(int) - expected).max(2) > MOST_OFF).mean())


def shown_cells(tab, positions, methods):
    """The pixels that are seen of each sample and method."""
    page = tab.page_pixels()
    cells = {}
    for position in positions:
        for method in (None, *methods):
            place = tab.cell(position, method).bounding_box()
            x, y, width, height = (round(place[name]) for name in ("x", "y", "width", "height"))
            cells[position, method] = page[y : y + height, x : x + width]
    return cells


def check_cells(tab, record, index, positions, methods, **look):
    shares = {}
    for (position, method), seen in shown_cells(tab, positions, methods).items():
        expected = expected_cell(record, index, position, Cell(method, seen.shape[:2], **look))
        shares[position, method] = share_off(seen, expected)
    assert max(shares.values()) <= MOST_PIXELS, (look, shares)


@pytest.mark.parametrize("scale", ["map", "sample", "shared"])
@pytest.mark.parametrize("run", ["plain", "signed"])
def test_each_scale_and_color_map_is_drawn_as_on_the_packages_sheets(board, kinds, open_frame, run, scale):
    tab = open_frame(board, run=run, scale=scale, cell=SIDE, at=AT).until_drawn("epoch 2")
    for colors in COLORS:
        tab.choose("Colors", colors)
        check_cells(
            tab, load_record(kinds / run), INDEX, range(4), ["grad_cam", "saliency"], scale=scale, colors=colors
        )


@pytest.mark.parametrize("colors", ["plasma", SIGNED])
@pytest.mark.parametrize("run", ["plain", "signed"])
def test_maps_before_training_that_are_the_strongest_are_not_cut(board, kinds, open_frame, run, colors):
    tab = open_frame(board, run=run, scale="sample", colors=colors, cell=SIDE, at="initial").until_drawn("initial")
    check_cells(tab, load_record(kinds / run), 0, range(4), ["grad_cam", "saliency"], scale="sample", colors=colors)


@pytest.mark.parametrize(("run", "method"), [("photographs", "saliency"), ("many_sizes", "grad_cam")])
def test_images_of_any_size_are_fitted_as_on_the_packages_sheets(board, kinds, open_frame, run, method):
    tab = open_frame(board, run=run, cell=SIDE, at=AT).until_drawn("epoch 2")
    check_cells(tab, load_record(kinds / run), INDEX, range(4), ["grad_cam", method])


def test_maps_lie_on_their_images_on_dense_screens(board, kinds, open_frame):
    tab = open_frame(board, run="plain", cell=SIDE, at=AT, options={"device_scale_factor": 2}).until_drawn("epoch 2")
    page = tab.page_pixels()
    place = tab.cell(1, "grad_cam").bounding_box()
    x, y, width, height = (round(2 * place[name]) for name in ("x", "y", "width", "height"))
    seen = page[y : y + height, x : x + width]
    expected = expected_cell(load_record(kinds / "plain"), INDEX, 1, Cell("grad_cam", (height, width)))
    assert share_off(seen, expected) <= MOST_PIXELS


def test_the_opacity_is_the_weight_of_the_color(board, kinds, open_frame):
    for alpha in (0, 0.4, 1):
        tab = open_frame(board, run="plain", cell=SIDE, at=AT, opacity=alpha).until_drawn("epoch 2")
        check_cells(tab, load_record(kinds / "plain"), INDEX, range(2), ["grad_cam"], alpha=alpha)


def test_blank_maps_are_dimmed_with_their_reason(board, kinds, open_frame):
    tab = open_frame(board, run="blank", cell=SIDE, at=AT, methods="grad_cam").until_drawn("epoch 2")
    assert "all 0: nothing speaks for it" in tab.cell(0, "grad_cam").inner_text()
    tab.frame.add_style_tag(content=".band { visibility: hidden }")
    check_cells(tab, load_record(kinds / "blank"), INDEX, range(2), ["grad_cam"])


def test_rows_further_down_are_drawn_in_their_places(board, kinds, open_frame):
    tab = open_frame(board, run="long", cell=SIDE, at=AT, options={"height": 600}).until_drawn("epoch 2")
    assert tab.cell(15, "grad_cam").count() == 0
    tab.find(".sheet").evaluate("(sheet) => sheet.scrollTo(0, sheet.scrollHeight)")
    tab.cell(15, "grad_cam").wait_for()
    tab.until_drawn()
    check_cells(tab, load_record(kinds / "long"), INDEX, range(13, 16), ["grad_cam"])


def test_the_large_view_draws_the_same(board, kinds, open_frame):
    tab = open_frame(board, run="plain", at=AT).until_drawn("epoch 2")
    tab.cell(2, "grad_cam").click()
    tab.frame.get_by_role("dialog").wait_for()
    figure = tab.find("dialog .figure")
    seen = tab.cell_pixels(figure)
    assert min(seen.shape[:2]) > 200
    expected = expected_cell(load_record(kinds / "plain"), INDEX, 2, Cell("grad_cam", seen.shape[:2]))
    assert share_off(seen, expected) <= MOST_PIXELS


def test_frames_of_the_filmstrip_are_the_maps_of_their_looks(board, kinds, open_frame):
    tab = open_frame(board, run="plain", at=AT).until_drawn("epoch 2")
    tab.cell(2, "grad_cam").click()
    frames = tab.find("dialog .frame canvas")
    record = load_record(kinds / "plain")
    tab.until("() => document.querySelectorAll('dialog .frame canvas').length === 6")
    tab.until_drawn()
    for index in range(len(record)):
        pixels, width = frames.nth(index).evaluate("""(canvas) => {
            const context = canvas.getContext("2d");
            return [[...context.getImageData(0, 0, canvas.width, canvas.height).data], canvas.width];
        }""")
        seen = np.array(pixels, np.uint8).reshape(-1, width, 4)[..., :3]
        expected = expected_cell(record, index, 2, Cell("grad_cam", seen.shape[:2]))
        assert share_off(seen, expected) <= MOST_PIXELS, index
