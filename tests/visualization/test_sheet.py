import itertools
import re

import matplotlib
import numpy as np
import pytest
import torch
from drawing import BARE, GRAY, PAPER, cells_of, corners, flat, ink, rand, shaded, uint8

from lightning_saliency import METHODS
from lightning_saliency.visualization import THEMES, Caption, Drawing, Shading, fit_images, grid, overlay, tiles
from lightning_saliency.visualization.fonts import get_font
from lightning_saliency.visualization.layout import Words, plan

GREEN, RED = (THEMES["light"].mark(correct)[1] for correct in (True, False))
LONG = "true: golden retriever · predicted: labrador 93 %"
ENDLESS = "Rindfleischetikettierungsueberwachungsaufgaben" * 4


def scale_line(sheet, top, left, ends):
    """The pixels of the color scale `(3, w)`, from its first to its last color, in the row that has most of them."""
    below = sheet[:, top:, left:]
    rows = [(below == torch.tensor(end).view(3, 1, 1)).all(0) for end in ends]
    both = (rows[0].any(1) & rows[1].any(1)).nonzero().flatten()
    row = int(both[len(both) // 2])
    first, last = int(rows[0][row].nonzero()[0]), int(rows[1][row].nonzero()[-1])
    return below[:, row, first : last + 1]


def test_cells_hold_the_right_overlays_in_the_right_order():
    images = uint8(3, 3, 150, 140)
    maps = {name: rand(3, 1, 150, 140, seed=seed) for seed, name in enumerate("zab")}
    sheet = grid(
        images, maps, title="epoch 1", captions=[Caption("a"), Caption("b"), Caption("c")], drawing=shaded("turbo", 0.4)
    )
    assert (sheet.dtype, sheet.ndim, sheet.shape[0]) == (torch.uint8, 3, 3)
    found = cells_of(sheet, 150, 140)
    assert len(found) == 12
    for row in range(3):
        assert torch.equal(found[4 * row], images[row])
        for column, name in enumerate("zab", start=1):
            expected = overlay(images[row : row + 1], maps[name][row : row + 1], Shading("turbo", 0.4))[0]
            assert torch.equal(found[4 * row + column], expected)


def test_cells_are_aligned_and_never_touch():
    at = corners(grid(uint8(3, 3, 130, 140), {"a": rand(3, 1, 130, 140), "b": rand(3, 1, 130, 140)}), 130, 140)
    tops, lefts = sorted({y for y, _ in at}), sorted({x for _, x in at})
    assert at == [(y, x) for y in tops for x in lefts]
    assert len({b - a for a, b in itertools.pairwise(tops)}) == 1
    assert tops[1] - tops[0] >= 130 + 8
    assert lefts[1] - lefts[0] >= 140 + 6


@pytest.mark.parametrize(
    ("count", "methods", "per_row"), [(8, 1, 2), (4, 0, 2), (9, 0, 4), (5, 1, 2), (3, 2, 1), (8, 2, 2)]
)
def test_samples_stand_in_blocks_several_in_a_row_and_aligned(count, methods, per_row):
    images = uint8(count, 3, 130, 140)
    maps = {name: rand(count, 1, 130, 140, seed=seed) for seed, name in enumerate("abc"[:methods])}
    sheet = grid(images, maps, captions=[Caption(f"sample {index}") for index in range(count)])
    at, found = corners(sheet, 130, 140), cells_of(sheet, 130, 140)
    tops, lefts = sorted({y for y, _ in at}), sorted({x for _, x in at})
    columns = 1 + methods
    assert len(at) == count * columns
    assert len(lefts) == per_row * columns
    assert at == [(y, x) for y in tops for x in lefts][: len(at)]
    for index in range(count):
        block = found[index * columns : (index + 1) * columns]
        expected = [images[index], *(overlay(images[index][None], maps[name][index][None])[0] for name in maps)]
        assert all(map(torch.equal, block, expected))
    gaps = [right - left - 140 for left, right in itertools.pairwise(lefts)]
    within = [gap for place, gap in enumerate(gaps, start=1) if place % columns]
    between = [gap for place, gap in enumerate(gaps, start=1) if place % columns == 0]
    assert len({*within}) <= 1
    assert len({*between}) <= 1
    if within and between:
        assert min(between) >= 2 * max(within)  # a sample's cells are seen to belong together


def test_each_samples_words_stand_above_its_own_block():
    images, maps = flat((90, 90, 90), (60, 60, 60), size=(200, 200)), {"m": torch.zeros(2, 1, 200, 200)}
    for texts in (("cat", "dog"), (LONG, ENDLESS)):
        right, wrong = (Caption(text, correct) for text, correct in zip(texts, (True, False), strict=True))
        sheet = grid(images, maps, captions=[right, wrong], labels={"m": [right, wrong]}, per_row=2)
        at = corners(sheet, 200, 200)
        assert len({y for y, _ in at}) == 1
        middle = (at[1][1] + 200 + at[2][1]) // 2
        half = (at[2][1] - at[1][1] - 200) // 2
        halves = sheet[:, :, :middle], sheet[:, :, middle:]
        for part, color, other in zip(halves, (GREEN, RED), (RED, GREEN), strict=True):
            above, below = part[:, : at[0][0] - 1], part[:, at[0][0] + 201 :]
            for strip in (above, below):
                colors = strip.flatten(1).T.unique(dim=0).tolist()
                assert list(color) in colors
                assert list(other) not in colors
        between = (sheet[:, : at[0][0] - 1, middle - half + 4 : middle + half - 4] == PAPER).all()
        assert between  # nothing stands between the blocks


def test_headings_stand_above_each_block_of_the_first_row():
    images, maps = uint8(4, 3, 150, 150), {"m": rand(4, 1, 150, 150)}
    sheet = grid(images, maps, per_row=2)
    at = corners(sheet, 150, 150)
    top, lefts = at[0][0] - 1, sorted({x for _, x in at})
    strips = [sheet[:, :top, left : left + 150] for left in lefts]
    assert all((strip != PAPER).any() for strip in strips)
    assert torch.equal(strips[0], strips[2])
    assert torch.equal(strips[1], strips[3])
    assert not torch.equal(strips[0], strips[1])


@pytest.mark.parametrize("size", [(28, 28), (224, 224), (512, 512), (200, 300)])
def test_a_bright_corner_stays_at_the_top_left(size):
    images, maps = torch.zeros(2, 3, *size, dtype=torch.uint8), torch.zeros(2, 1, *size)
    maps[1, :, : size[0] // 4, : size[1] // 4] = 1
    side = {28: 168, 224: 224, 512: 256, 200: 171}[size[0]], {28: 168, 224: 224, 512: 256, 300: 256}[size[1]]
    found = cells_of(grid(images, {"m": maps}, drawing=GRAY), *side)
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
    cell = cells_of(grid(images, {"m": maps}, drawing=GRAY), 168, 168)[1]
    middle = cell[0, 80, 80:90].tolist()
    assert middle == sorted(middle)
    assert len(set(middle)) > 4


def test_maps_may_come_at_another_size():
    maps = rand(2, 1, 7, 7)
    expected = torch.nn.functional.interpolate(maps, size=(130, 140), mode="bilinear", align_corners=False)
    cell = cells_of(grid(uint8(2, 3, 130, 140), {"m": maps}, drawing=GRAY), 130, 140)[3]
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
    found = cells_of(grid(images, {"m": torch.ones(2, 1, *size)}, drawing=BARE), *cell)
    assert len(found) == 4
    assert (found[0] == torch.tensor([10, 20, 30]).view(3, 1, 1)).all()
    assert (found[3] == torch.tensor([30, 20, 10]).view(3, 1, 1)).all()


def test_reducing_is_antialiased():
    images, maps = torch.zeros(1, 3, 1024, 1024, dtype=torch.uint8), torch.zeros(1, 1, 1024, 1024)
    images[..., ::4], maps[..., ::4] = 200, 0.8  # lines that lie between the points where plain sampling looks
    for cell in cells_of(grid(images, {"m": maps}, drawing=GRAY), 256, 256):
        inner = cell[:, 8:-8, 8:-8].float()
        assert inner.std() < 5
        assert abs(inner.mean() - 50) < 5


def test_a_blank_cell_shows_the_dimmed_image_and_no_color():
    images = flat((200, 200, 200), (100, 100, 100))
    maps = {"a": torch.ones(2, 1, 128, 128), "b": torch.ones(2, 1, 128, 128)}
    sheet = grid(images, maps, blanks={"b": [None, "blank: all negative"]})
    colored, blank = cells_of(sheet, 128, 128)[2], cells_of(sheet, 128, 128)[5]
    assert torch.equal(colored, overlay(images[:1], maps["b"][:1])[0])
    assert (blank.float().std(0) < 3).all()  # gray, save the band's slight tint
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
    captions = [Caption(text, True), Caption(text, False)]
    sheet = grid(images, maps, title=text, note=text, captions=captions, per_row=1)
    rows, columns = ink(sheet, 0, None)
    assert rows[0] >= 16
    assert rows[-1] < sheet.shape[1] - 8
    assert columns[0] >= 18
    assert columns[-1] < sheet.shape[2] - 18
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
    colors = sheet[:, bottom_of_first:top_of_second].flatten(1).T.unique(dim=0).tolist()
    assert list(RED) in colors
    assert list(GREEN) not in colors


def test_titles_stand_over_their_columns_without_touching():
    maps = {"grad_cam_plus_plus_of_a_long_name": rand(1, 1, 128, 128), ENDLESS: rand(1, 1, 128, 128)}
    sheet = grid(uint8(1, 3, 128, 128), maps)
    at = corners(sheet, 128, 128)
    top = at[0][0] - 1
    for (_, left), (_, following) in itertools.pairwise(at):
        assert len(ink(sheet, 0, top, left, left + 128)[0]) > 0
        assert len(ink(sheet, 0, top, left + 129, following - 1)[0]) == 0


def parts_of(text):
    """The words of a text, and the parts of those that have a hyphen or capital letters inside."""
    return re.split(r"[ -]|(?<=[a-z])(?=[A-Z])", text)


@pytest.mark.parametrize("count", [1, 8, 12])
def test_the_methods_names_are_broken_between_words_however_many_columns_there_are(count):
    titles = [method.title for method in METHODS.values()]
    for start in range(0, len(titles), count):
        headings = titles[start : start + count]
        cells = [[torch.zeros(130, 130, 3, dtype=torch.uint8) for _ in headings] for _ in range(8)]
        words = Words(headings, [Caption("ants")] * 8, [], "epoch 0", "read at layer net", ("0", "1"))
        _, blocks = plan(cells, words, THEMES["light"])
        written = {word for block in blocks for line in block.lines for word in parts_of(line)}
        assert written.issuperset(word for heading in headings for word in parts_of(heading))


def test_a_heading_stands_above_cells_only():
    cell, none = torch.zeros(130, 130, 3, dtype=torch.uint8), torch.zeros(0, 0, 3, dtype=torch.uint8)
    cells = [[cell, cell], [cell, none], [cell, none], [cell, none]]
    words = Words(["image", "predicted"], [], [], "epoch 0", "", None)
    layout, blocks = plan(cells, words, THEMES["light"], per_row=2)
    lefts = {name: [block.x for block in blocks if block.lines == (name,)] for name in ("image", "predicted")}
    middles = [[layout.slot(place, column)[1] + layout.slot_width // 2 for place in (0, 1)] for column in (0, 1)]
    assert lefts == {"image": middles[0], "predicted": middles[1][:1]}


def test_captions_say_right_and_wrong_by_color_and_by_mark():
    sheets = [
        grid(flat((9, 9, 9)), {}, captions=[Caption("predicted: cat", correct)]) for correct in (True, False, None)
    ]
    strips = [sheet[:, : corners(sheet, 128, 128)[0][0] - 1] for sheet in sheets]
    strips = [strip[:, -24:] for strip in strips]
    has = [[list(c) in strip.flatten(1).T.tolist() for c in (GREEN, RED)] for strip in strips]
    assert has == [[True, False], [False, True], [False, False]]
    shapes = [(strip != PAPER).any(0) for strip in strips]
    assert not torch.equal(shapes[0], shapes[1])  # ✓ and ✗: readable without color
    assert shapes[2].any()


def test_labels_stand_below_their_own_cells():
    images, maps = (
        torch.full((2, 3, 160, 160), 9, dtype=torch.uint8),
        {name: torch.zeros(2, 1, 160, 160) for name in "ab"},
    )
    labels = {"b": [Caption("cat · 83%", True), Caption(LONG, None)]}
    sheet, bare = grid(images, maps, drawing=BARE, labels=labels), grid(images, maps, drawing=BARE)
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
        below = words[bottoms[row] + 2 : bottoms[row] + tops[1] - bottoms[0] - 1]
        assert below.any()
        assert not below[-3:].any()  # with room to what follows
        columns = below.any(0).nonzero()
        assert lefts[2] <= columns.min()
        assert columns.max() <= rights[2]
    lines = (sheet.shape[1] - bare.shape[1]) / 2
    assert 24 < lines < 52  # the long one takes two
    assert sheet.shape[2] == bare.shape[2]
    green = (sheet[1].int() - sheet[0].int() > 60).nonzero()[:, 0]
    assert bottoms[0] < green.min() < green[green < bottoms[1]].max() < tops[1]  # below that are the colors' scale


def test_title_and_note_and_scale_stand_where_they_should():
    images, maps = flat((9, 9, 9), size=(200, 200)), {"m": torch.zeros(1, 1, 200, 200)}
    bare, full = grid(images, maps), grid(images, maps, title="epoch 12", note="channels 1–3 of 12")
    (bare_top, _), (full_top, _) = corners(bare, 200, 200)[0], corners(full, 200, 200)[0]
    assert full_top > bare_top + 12
    assert full.shape[2] == bare.shape[2]
    left, right = ink(full, full_top + 202, None, 0, 200)[1], ink(bare, bare_top + 202, None)[1]
    assert len(left) > 0  # the note, at the left
    assert right[0] > bare.shape[2] // 3  # the colors from low to high, at the right
    assert right[-1] > bare.shape[2] - 24


@pytest.mark.parametrize("shading", [Shading(), Shading("turbo", 0.5, fade=False), Shading("viridis", 1.0)])
def test_the_color_scale_shows_the_colors_as_they_are_in_the_picture(shading):
    sheet = grid(flat((9, 9, 9), size=(200, 200)), {"m": torch.zeros(1, 1, 200, 200)}, drawing=Drawing(shading=shading))
    gray, values = torch.full((1, 3, 1, 999), 128, dtype=torch.uint8), torch.linspace(0, 1, 999).view(1, 1, 1, -1)
    expected = overlay(gray, values, shading)[0, :, 0].T
    line = scale_line(sheet, *corners(sheet, 200, 200)[0], expected[[0, -1]].tolist())
    assert line.shape[1] > 80
    nearest = torch.cdist(line.T.double(), expected.double())
    assert nearest.min(1).values.max() <= 8
    assert (nearest.argmin(1).diff() >= 0).all()


@pytest.mark.parametrize(("least", "most"), [("0", "each map's maximum"), ("least", "the maximum of all"), ("0", "1")])
def test_the_ends_of_the_color_scale_say_what_they_stand_for(least, most):
    images, maps = flat((9, 9, 9), size=(200, 200)), {"m": torch.zeros(1, 1, 200, 200)}
    drawing, font = shaded("turbo", 1.0, fade=False), get_font(11)
    sheet, other = (grid(images, maps, scale=ends, drawing=drawing) for ends in ((least, most), ("2", most)))
    top = corners(sheet, 200, 200)[0][0] + 202
    columns = ink(sheet, top, None)[1]
    line = scale_line(sheet, top, 0, [matplotlib.colormaps["turbo"](end, bytes=True)[:3] for end in (0, 255)])
    width = int(columns[-1] - columns[0])
    assert abs(width - (font.getlength(least) + font.getlength(most) + line.shape[1] + 13)) < 8
    assert not torch.equal(sheet, other)


@pytest.mark.parametrize("words", range(1, 40, 3))
def test_note_and_scale_never_overlap(words):
    images, maps = flat((9, 9, 9), size=(200, 200)), {"m": torch.zeros(1, 1, 200, 200)}
    bare, full = grid(images, maps), grid(images, maps, note="word " * words)
    left = int(ink(bare, corners(bare, 200, 200)[0][0] + 202, None)[1][0])  # where the scale begins
    assert torch.equal(bare[:, -36:, left:], full[:, -36:, left:])
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


@pytest.mark.filterwarnings("ignore:No font of this system")
@pytest.mark.parametrize("text", ["\n\n", "a\x00b", "\ud83d", "犬 🐕", "\u200b", "e\u0301" * 300])
def test_odd_characters_do_not_stop_a_training(text):
    maps = {text: rand(1, 1, 32, 32)}
    grid(uint8(1, 3, 32, 32), maps, title=text, note=text, captions=[Caption(text)], blanks={text: [text]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": rand(2, 3, 8, 8)}, r"`images` to be .*torch.uint8"),
        ({"images": []}, r"`images` to hold at least one image, got list of 0"),
        ({"images": [uint8(3, 8, 8), uint8(1, 8, 8)]}, r"`images` to be .*got shape \(1, 1, 8, 8\)"),
        ({"columns": {"m": rand(3, 1, 8, 8)}}, r"`columns\['m'\]` to hold 2 entries, one per image, got Tensor of 3"),
        ({"columns": {"m": rand(2, 1, 8, 8) + 5}}, r"`columns\['m'\]` to be in \[0, 1\]"),
        ({"columns": {"m": [rand(1, 8, 8), rand(3, 8, 8)]}}, r"`columns\['m'\]` .*got shape \(1, 3, 8, 8\)"),
        ({"captions": [Caption("a")]}, r"`captions` to hold 2 entries, one per image, got list of 1"),
        ({"blanks": {"x": [None, None]}}, r"`blanks` to name columns among \['m'\], got 'x'"),
        ({"blanks": {"m": ["why"]}}, r"`blanks\['m'\]` to hold 2 entries, one per image, got list of 1"),
        ({"blanks": {"m": "no"}}, r"`blanks\['m'\]` to hold 2 entries, one per image, got str"),
        ({"labels": {"x": []}}, r"`labels` to name columns among \['', 'm'\], got 'x'"),
        ({"labels": {"m": [Caption("a")]}}, r"`labels\['m'\]` to hold 2 entries, one per image, got list of 1"),
        ({"fine": ["x"]}, r"`fine` to name columns among \['m'\], got 'x'"),
    ],
)
def test_grid_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        grid(**({"images": uint8(2, 3, 8, 8), "columns": {"m": rand(2, 1, 8, 8)}} | arguments))


@pytest.mark.parametrize(
    ("count", "columns"), [(1, 1), (2, 2), (3, 3), (4, 2), (7, 4), (8, 4), (10, 5), (12, 4), (16, 4)]
)
def test_tiles_stand_in_few_rows_without_gaps_where_that_can_be(count, columns):
    images = torch.zeros(count, 3, 128, 128, dtype=torch.uint8)
    sheet = tiles(images, torch.zeros(count, 1, 128, 128), drawing=shaded(alpha=0.0, cell_side=128))
    black = (sheet == 0).all(0)
    assert sum(int(column) for column in (black.sum(0) > 100).int().diff() == 1) == columns
    assert sum(int(row) for row in (black.sum(1) > 100).int().diff() == 1) == -(-count // columns)
    rows = -(-count // columns)
    assert abs(int(black.sum()) - count * 128**2) < 0.02 * rows * columns * 128**2


def test_a_progress_bar_shows_its_share_and_changes_nothing_else():
    images, heatmaps = torch.zeros(4, 3, 64, 64, dtype=torch.uint8), torch.rand(4, 1, 64, 64)
    plain = tiles(images, heatmaps)
    widths = []
    for share in (0.0, 0.25, 1.0):
        with_bar = tiles(images, heatmaps, progress=share)
        assert torch.equal(with_bar[:, 6:], plain[:, 6:])
        widths.append(int((with_bar[0, 2] < 150).sum()))
    width = plain.shape[2]
    assert widths[0] == 0
    assert abs(widths[1] - 0.25 * width) <= 1
    assert widths[2] == width


def test_images_of_several_sizes_share_a_sheet_each_at_its_own_size():
    sizes = [(128, 200), (200, 128), (128, 200), (150, 150)]
    images = [uint8(3, *size, seed=seed) for seed, size in enumerate(sizes)]
    maps = [rand(1, *size, seed=seed) for seed, size in enumerate(sizes)]
    sheet = grid(images, {"a": maps}, captions=[Caption(LONG)] * 4, per_row=1, drawing=Drawing(cell_side=200))
    places = []
    for row, size in enumerate(sizes):
        (height, width), possible = size, corners(sheet, *size)
        for picture in (images[row], overlay(images[row][None], maps[row][None])[0]):
            places += [(y, x) for y, x in possible if torch.equal(sheet[:, y : y + height, x : x + width], picture)]
    assert len(places) == 8
    tops = [top for top, _ in places[::2]]
    assert [top for top, _ in places[1::2]] == tops == sorted(tops)
    middles = [[left + width / 2 for (_, left), (_, width) in zip(places[c::2], sizes, strict=True)] for c in (0, 1)]
    assert all(max(column) - min(column) <= 0.5 for column in middles)  # centered in their columns
    gaps = [below - top - height for (top, below), (height, _) in zip(itertools.pairwise(tops), sizes, strict=False)]
    assert len(set(gaps)) == 1  # a row is as high as its own image


def test_images_of_several_sizes_stand_in_the_middle_of_their_rows():
    sizes = [(128, 200), (200, 128), (128, 200), (150, 150)]
    images = [uint8(3, *size, seed=seed) for seed, size in enumerate(sizes)]
    maps = [rand(1, *size, seed=seed) for seed, size in enumerate(sizes)]
    sheet = grid(images, {"a": maps}, captions=[Caption("a")] * 4, per_row=2, drawing=Drawing(cell_side=200))
    middles = []
    for index, (height, width) in enumerate(sizes):
        pictures = images[index], overlay(images[index][None], maps[index][None])[0]
        for picture in pictures:
            (place,) = [
                (y, x)
                for y, x in corners(sheet, height, width)
                if torch.equal(sheet[:, y : y + height, x : x + width], picture)
            ]
            middles.append((place[0] + height / 2, place[1] + width / 2))
    rows, columns = [y for y, _ in middles], [x for _, x in middles]
    assert all(max(row) - min(row) <= 0.5 for row in (rows[:4], rows[4:]))
    assert all(abs(upper - lower) <= 0.5 for upper, lower in zip(columns[:4], columns[4:], strict=True))
    assert rows[4] - rows[0] > 100 + 75


def test_a_list_of_images_of_one_size_is_drawn_as_a_batch_is():
    images, maps = uint8(3, 3, 60, 80), rand(3, 1, 60, 80)
    options = {"blanks": {"a": [None, "no", None]}, "title": "t"}
    batch = grid(images, {"a": maps}, **options)
    assert torch.equal(grid(list(images), {"a": list(maps)}, **options), batch)
    assert torch.equal(grid(images, {"a": list(maps)}, **options), batch)
    assert torch.equal(grid(fit_images(list(images)), {"a": maps}, **options), batch)
    assert torch.equal(tiles(list(images), list(maps)), tiles(images, maps))


def test_tiles_of_several_sizes_each_keep_their_aspect():
    images = [torch.zeros(3, 64, 128, dtype=torch.uint8), torch.zeros(3, 128, 64, dtype=torch.uint8)]
    frame = tiles(
        images, [torch.zeros(1, *image.shape[1:]) for image in images], drawing=shaded(alpha=0.0, cell_side=128)
    )
    black = (frame == 0).all(0)
    assert abs(int(black.sum()) - 2 * 64 * 128) < 300


def test_pictures_are_shown_as_they_are_or_dimmed_with_a_reason_and_left_alone():
    images, pictures = flat((200, 200, 200), (100, 100, 100)), flat((10, 20, 30), (30, 20, 10))
    kept = pictures.clone()
    shown = cells_of(grid(images, {"p": pictures}, blanks={"p": [None, "constant 0"]}), 128, 128)
    assert torch.equal(shown[1], pictures[0])
    assert (shown[3][:, :40] == 50).all()
    assert torch.equal(pictures, kept)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (224, 224), (224, 60)])
def test_a_caption_begins_where_its_image_does(height, width):
    images, maps = flat((90, 90, 90), size=(height, width)), {"m": torch.zeros(1, 1, height, width)}
    sheet = grid(images, maps, captions=[Caption("I")])
    frame = int((sheet == 90).all(0).any(0).nonzero()[0])
    top = int((sheet == 90).all(0).any(1).nonzero()[0])
    _, columns = ink(sheet, top - 24, top - 4)
    assert abs(int(columns[0]) - frame) <= 4
