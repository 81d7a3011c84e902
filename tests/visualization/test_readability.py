"""Sheets can be read in a card of TensorBoard: the size of words and photographs, samples in rows, themes."""

import io
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from drawing import BARE, FRAME, corners, flat, randn, uint8
from PIL import Image
from tiny import explained_samples
from torch import nn

from lightning_saliency.attribution import explain
from lightning_saliency.visualization import THEMES, Caption, Drawing, Shading, Style, draw_sheets, filmstrip, grid
from lightning_saliency.visualization.fonts import get_font

NARROW, WIDE = 350, 700  # pixels, of TensorBoard's cards
LEAST = 9  # pixels, of a font
NAMES = ["ant", "poodle", "cat", "dog", "eel"]  # the second as high as "explained:", from d to p
ONE, SEVERAL = ["grad_cam"], ["grad_cam", "hires_cam", "layer_cam", "saliency"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )


def drawn(count, size, methods, *, images=None, **style):
    """The first sheet of so many samples."""
    images = randn(count, 3, *size) if images is None else images
    looked = explained_samples(explain(network(), images, methods=methods, target=1), range(count), [1] * count)
    sheets = draw_sheets([looked], Style(class_names=NAMES, **style), title="epoch 1", explained="true class")
    return next(iter(sheets.values()))


def size_of_note(sheet):
    """The size in pixels of the font of the first line below the cells, from its height.

    That is the note, whose words are the smallest of a sheet; of a filmstrip it is the true class.
    """
    _, top, _, bottom = get_font(200).primary.getbbox("explained:")
    frames = (sheet == FRAME).all(0)
    last = int((frames.sum(1) > 60).nonzero()[-1])  # the lower edge of the last cell
    inked = (sheet[:, last + 1 :, : sheet.shape[2] // 5] != 255).any(0).any(1).int()
    begin = int(inked.nonzero()[0])
    return 200 * int((inked[begin:] == 0).nonzero()[0]) / (bottom - top)


def in_card(size, sheet, width):
    """The size of something where the sheet is shown so wide; nothing is enlarged."""
    return size * min(1, width / sheet.shape[2])


def test_the_size_of_a_note_can_be_measured():
    images = flat((9, 9, 9), (9, 9, 9), size=(200, 200))
    sheet = grid(images, {}, note="explained: true class", drawing=BARE, per_row=1)
    assert abs(size_of_note(sheet) - 11) < 1.5
    wide = grid(flat(*[(9, 9, 9)] * 4, size=(256, 256)), {}, note="explained: true class", per_row=4)
    assert size_of_note(wide) > 18


@pytest.mark.parametrize("size", [(28, 28), (224, 224)])
@pytest.mark.parametrize("methods", [ONE, SEVERAL])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_smallest_words_have_nine_pixels_in_a_narrow_card(count, methods, size):
    sheet = drawn(count, size, methods)
    assert in_card(size_of_note(sheet), sheet, NARROW) >= LEAST - 0.5


@pytest.mark.parametrize("size", [(28, 28), (224, 224), (512, 512)])
@pytest.mark.parametrize("methods", [ONE, SEVERAL[:2], SEVERAL])
@pytest.mark.parametrize("count", [1, 4, 8])
def test_the_smallest_words_have_nine_pixels_in_a_wide_card(count, methods, size):
    sheet = drawn(count, size, methods)
    assert in_card(size_of_note(sheet), sheet, WIDE) >= LEAST


@dataclass(frozen=True)
class Samples:
    positions: tuple
    images: tuple
    labels: tuple
    class_names: tuple | None = None
    boxes: tuple = ()
    box_classes: tuple = ()


@dataclass(frozen=True)
class Look:
    epoch: int | None
    step: int
    positions: tuple
    attributions: dict
    reasons: dict
    predictions: tuple
    layers: tuple = ("layer4",)
    fine: frozenset = frozenset()
    explained: str = "true class"
    classes: tuple = ()
    boxes: tuple = ()
    box_classes: tuple = ()
    task: str = "multiclass"


class Run(list):
    """Looks in their order, and the samples of all."""

    samples = None


def run(looks, side):
    record = Run(
        Look(
            epoch if epoch >= 0 else None, epoch + 1, tuple(range(8)),
            {"grad_cam": tuple(np.random.default_rng(epoch + 1).random((8, 7, 7), dtype=np.float32))},
            {"grad_cam": (None,) * 8}, (1,) * 8,
        )
        for epoch in range(-1, looks - 1)
    )  # fmt: skip
    record.samples = Samples(tuple(range(8)), tuple(uint8(8, 3, side, side).numpy()), (1,) * 8, tuple(NAMES))
    return record


@pytest.mark.parametrize("side", [28, 224])
@pytest.mark.parametrize("looks", [3, 8, 12])
def test_the_words_of_a_filmstrip_have_nine_pixels_in_a_wide_card(looks, side):
    strip = filmstrip(run(looks, side), "grad_cam")
    assert in_card(size_of_note(strip), strip, WIDE) >= LEAST - 0.5


@pytest.mark.parametrize("side", [28, 224, 512])
@pytest.mark.parametrize("count", [4, 8])
def test_of_one_method_two_samples_stand_in_a_row(count, side):
    sheet = drawn(count, (side, side), ONE, alpha=0.0, mean=0.0, std=1.0)
    cell = {28: 168, 224: 224, 512: 237 if count == 8 else 256}[side]
    at = corners(sheet, cell, cell)
    assert len(at) == 2 * count
    assert len({x for _, x in at}) == 4
    assert len({y for y, _ in at}) == count // 2
    assert sheet.shape[1] < 2 * sheet.shape[2]


@pytest.mark.parametrize("methods", [ONE, SEVERAL[:2], SEVERAL])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_a_sheet_is_no_strip(count, methods):
    sheet = drawn(count, (224, 224), methods)
    assert sheet.shape[1] < 2.5 * sheet.shape[2]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_photographs_of_512_pixels_have_224_or_more_in_a_sheet_of_one_method(count):
    sheet = drawn(count, (512, 512), ONE)
    sides = [side for side in range(224, 513) if len(corners(sheet, side, side)) == 2 * count]
    assert len(sides) == 1


@pytest.mark.parametrize(("cell", "side", "shown"), [(512, 512, 512), (300, 512, 300), (64, 512, 64), (300, 28, 224)])
def test_the_style_sets_the_size_of_a_cell(cell, side, shown):
    sheet = drawn(2, (side, side), ONE, cell=cell)
    assert len(corners(sheet, shown, shown)) == 4


@pytest.mark.parametrize("size", [(100, 400), (400, 100), (60, 240)])
def test_wide_and_high_images_keep_their_aspect_and_their_words(size):
    sheet = drawn(4, size, ONE)
    scale = min(1.0, 256 / max(size))
    cell = tuple(round(side * scale) for side in size)
    assert len(corners(sheet, *cell)) == 8


def test_a_small_images_caption_begins_at_its_left_edge():
    images = flat((90, 90, 90), (60, 60, 60), size=(28, 28))
    sheet = grid(images, {"m": torch.zeros(2, 1, 28, 28)}, captions=[Caption("HHH", True)] * 2, drawing=BARE, per_row=1)
    for top, left in corners(sheet, 168, 168)[::2]:
        words = (sheet[:, top - 24 : top - 1] != 255).any(0).any(0).nonzero()
        assert abs(int(words[0]) - left) <= 3


def luminance(color):
    """Relative luminance, as WCAG 2.2 defines it."""
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    """The contrast ratio of WCAG 2.2, from 1 to 21."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", THEMES)
@pytest.mark.parametrize("words", ["ink", "faint", "right", "wrong"])
def test_all_words_stand_out_from_the_paper(name, words):
    theme = THEMES[name]
    assert contrast(getattr(theme, words), theme.paper) >= 4.5


def test_dark_paper_is_dark_and_its_words_are_light():
    light, dark = THEMES["light"], THEMES["dark"]
    assert luminance(dark.paper) < 0.02
    assert luminance(light.paper) == pytest.approx(1)
    for words in ("ink", "faint", "right", "wrong"):
        assert luminance(getattr(dark, words)) > 0.3 > luminance(getattr(light, words))


def paper_share(sheet, theme):
    return float((sheet == torch.tensor(THEMES[theme].paper, dtype=torch.uint8).view(3, 1, 1)).all(0).double().mean())


def test_the_style_turns_sheets_dark():
    light, dark = (drawn(4, (64, 64), SEVERAL, theme=theme) for theme in ("light", "dark"))
    assert light.shape == dark.shape
    for sheet, theme, other in ((light, "light", "dark"), (dark, "dark", "light")):
        assert paper_share(sheet, theme) > 0.25
        assert paper_share(sheet, other) < 0.02
        assert all((sheet[:, y, x] == sheet[:, 0, 0]).all() for y in (0, -1) for x in (0, -1))
    ink = torch.tensor(THEMES["dark"].ink, dtype=torch.uint8).view(3, 1, 1)
    assert (dark == ink).all(0).any()


def test_filmstrips_reasons_and_signals_are_dark_too():
    record = run(3, 28)
    strip = filmstrip(record, "grad_cam", style=Style(theme="dark"))
    assert paper_share(strip, "dark") > 0.2
    assert paper_share(strip, "light") < 0.02
    curves = uint8(2, 3, 100)
    sheet = grid(curves, {"m": torch.rand(2, 1, 100)}, drawing=Drawing(theme=THEMES["dark"]))
    assert paper_share(sheet, "dark") > 0.3
    assert paper_share(sheet, "light") < 0.02
    volumes = uint8(1, 1, 8, 16, 16)
    sheet = grid(volumes, {"m": torch.rand(1, 1, 8, 16, 16)}, drawing=Drawing(theme=THEMES["dark"]))
    assert paper_share(sheet, "light") < 0.02


def test_a_prediction_that_is_wrong_is_so_in_the_themes_color():
    for name, theme in THEMES.items():
        words = [Caption("predicted dog", correct) for correct in (True, False)]
        images = flat((9, 9, 9), (9, 9, 9), size=(200, 200))
        sheet = grid(images, {}, captions=words, drawing=Drawing(shading=Shading(), theme=THEMES[name]))
        colors = sheet.flatten(1).T.unique(dim=0).tolist()
        assert list(theme.right) in colors
        assert list(theme.wrong) in colors


def test_a_dark_sheet_is_a_small_file():
    sheet = drawn(4, (28, 28), ONE, theme="dark")
    content = io.BytesIO()
    Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy()).save(content, "PNG")
    assert len(content.getvalue()) < 1_000_000
