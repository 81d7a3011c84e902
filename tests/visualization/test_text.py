import pytest
from PIL import Image, ImageDraw, ImageFont

from lightning_saliency.visualization.fonts import get_font
from lightning_saliency.visualization.text import cut_line, fit_lines, shorten, wrap_lines

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
    assert wrap_lines("SmoothGrad", font, int(0.9 * font.getlength("SmoothGrad"))) == ("Smooth", "Grad")
    assert wrap_lines("  two \n words ", font, 300) == ("two words",)


def test_a_cut_text_is_as_long_as_it_can_be():
    font = get_font(13)
    cut = cut_line(ENDLESS, font, 150)
    assert cut.endswith("…")
    longer = ENDLESS[: len(cut)] + "…"
    assert font.getlength(cut) <= 150 < font.getlength(longer)


def test_the_font_is_the_one_that_comes_with_matplotlib():
    font = get_font(13)
    assert isinstance(font.primary, ImageFont.FreeTypeFont)
    assert font.primary.getname() == ("DejaVu Sans", "Book")
    assert get_font(13, "-Bold").primary.getname() == ("DejaVu Sans", "Bold")
    assert get_font(13) is font


@pytest.mark.parametrize("width", [150, 200, 300, 500])
def test_long_names_are_shortened_in_their_middle_and_all_else_is_seen(width):
    font, name = get_font(13), "Rindfleischetikettierungsueberwachung"
    lines = fit_lines(f"✗ predicted {name} 97%", (name,), font, width)
    text = " ".join(lines)
    assert len(lines) <= 2
    assert all(font.getlength(line) <= width for line in lines)
    assert text.startswith("✗ predicted Rind")
    assert text.endswith("ung 97%")
    assert ("…" in text) != (name in "".join(lines))


def test_the_numbers_of_several_names_are_all_seen():
    font, names = get_font(13), ("a very long name of a kind of soup", "another very long name of a kind of soup")
    text = f"predicted {names[0]} 97% · map of: true {names[1]} 1%"
    lines = fit_lines(text, names, font, 250)
    assert "97%" in " ".join(lines)
    assert lines[-1].endswith("soup 1%")
    assert "another" in " ".join(lines)
    assert fit_lines(text, names, font, 2000) == (text,)


def test_names_are_cut_no_shorter_than_they_must_be():
    font, name = get_font(13), "Rindfleischetikettierungsueberwachung"
    broken = [fit_lines(f"predicted {name} 97%", (name,), font, width) for width in (120, 150, 200, 300, 500)]
    kept = [len("".join(lines).replace(" ", "")) for lines in broken]
    assert kept == sorted(kept)
    assert len(set(kept)) > 2


def test_a_shortened_name_keeps_its_begin_and_its_end():
    assert shorten("cat", 3) == "cat"
    short = shorten(ENDLESS, 20)
    assert len(short) == 20
    assert ENDLESS.startswith(short[:10])
    assert ENDLESS.endswith(short[11:])
    assert short[10] == "…"


@pytest.mark.parametrize("text", [ENDLESS, f"a · {ENDLESS}"])
def test_what_fits_even_with_short_names_in_no_way_is_cut_at_its_end(text):
    font = get_font(13)
    (line,) = fit_lines(text, (), font, 150, lines=1)
    assert line == cut_line(text, font, 150)


@pytest.mark.parametrize("name", ["قطة", "חתול גדול"])
def test_a_number_stays_behind_a_name_that_is_written_from_the_right(name):
    font = get_font(16)

    def written(*parts):
        page, x = Image.new("RGB", (300, 30), "white"), 5.0
        for part in parts:
            font.write(ImageDraw.Draw(page), x, 20, part, (0, 0, 0))
            x += font.getlength(part)
        return page.tobytes()

    assert written(f"predicted {name} 36% · map of: {name} 4%") == written(
        "predicted ", name, " 36% · map of: ", name, " 4%"
    )
