import pytest
from PIL import ImageFont

from lightning_saliency.visualization.text import cut_label, cut_line, get_font, wrap_lines

LONG = "true: golden retriever · predicted: labrador 93 %"
ENDLESS = "Rindfleischetikettierungsueberwachungsaufgaben" * 4


@pytest.mark.parametrize("width", [60, 128, 300])
@pytest.mark.parametrize("lines", [1, 2, 3])
@pytest.mark.parametrize("text", ["", "w", LONG, LONG * 5, ENDLESS, "✗ " + ENDLESS, "a_" * 200, "W " * 99])
def test_broken_lines_fit_and_lose_nothing_silently(text, lines, width):
    font = get_font(13)
    broken = wrap_lines(text, font, width, lines)
    assert len(broken) <= lines
    assert all(font.getlength(line) <= width for line in broken)
    kept = "".join("".join(broken).split())
    if not kept.endswith("…"):
        assert kept.replace("·", "") == "".join(text.split()).replace("·", "")
    else:
        whole = "".join(text.split()).replace("·", "")
        assert whole.startswith(kept[:-1].replace("·", ""))


def test_breaks_come_where_a_reader_expects_them():
    font = get_font(13)
    assert wrap_lines(LONG, font, 600) == (LONG,)
    assert wrap_lines(LONG, font, 250) == ("true: golden retriever", "predicted: labrador 93 %")
    readings = "explained: true class · 3 attentions · 12×12 tokens; layer: norm1 · 12×12 tokens"
    assert wrap_lines(readings, font, 500) == tuple(part.strip() for part in readings.replace("; ", ";|").split("|"))
    assert wrap_lines("grad_cam_plus_plus", font, 110) == ("grad_cam_plus_", "plus")
    assert wrap_lines("  two \n words ", font, 300) == ("two words",)


def test_a_cut_text_is_as_long_as_it_can_be():
    font = get_font(13)
    cut = cut_line(ENDLESS, font, 150)
    assert cut.endswith("…")
    longer = ENDLESS[: len(cut)] + "…"
    assert font.getlength(cut) <= 150 < font.getlength(longer)


def test_the_font_is_the_one_that_comes_with_matplotlib():
    font = get_font(13)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert font.getname() == ("DejaVu Sans", "Book")
    assert get_font(13) is font


def test_a_cut_label_keeps_its_last_part():
    font = get_font(13)
    cut = cut_label("✓ Rindfleischetikettierungsueberwachung · 24%", font, 150)
    assert cut.startswith("✓ Rindfleisch")
    assert cut.endswith("… · 24%")
    assert font.getlength(cut) <= 150
    assert cut_label("cat · 24%", font, 150) == "cat · 24%"
    for text in (ENDLESS, f"a · {ENDLESS}"):
        assert cut_label(text, font, 150) == cut_line(text, font, 150)
