"""Several runs side by side, dark and light, narrow and wide, and words that mean harm."""

import re

import pytest
from dashboard.records import HOSTILE_NAMES

from lightning_saliency import load_record


def test_two_runs_stand_side_by_side_by_epoch(board, kinds, open_frame):
    records = [load_record(kinds / name) for name in ("plain", "plain_again")]
    tab = open_frame(board, run="plain", beside="plain_again", at="2-75", cell=96).until_drawn("epoch 2")
    for run, record in enumerate(records):
        assert tab.cell(1, "grad_cam", run).count() == 1
        probability = record[3].probabilities[1]
        caption = tab.find(f".sheet .caption[data-run='{run}']").nth(1).inner_text()
        assert f"{probability:.0%}" in caption
    first, second = (tab.cell(1, "grad_cam", run).bounding_box() for run in (0, 1))
    assert first["y"] == second["y"]
    assert first["x"] + first["width"] < second["x"]
    assert tab.find(".sheet .headings .run").all_inner_texts()[:2] == ["plain", "plain_again"]
    tab.page.keyboard.press("End")
    tab.until_drawn("epoch 7")  # the longer one's last epoch, beside the shorter one's
    tab.choose("Aligned", "step")
    tab.until_drawn("step 200")


def test_two_runs_in_the_address(board, open_frame):
    tab = open_frame(board, run="plain").until_drawn()
    tab.choose("Beside it", "plain_again")
    tab.until_address(run="plain", beside="plain_again")
    tab.choose("Beside it", "long")
    tab.until_address(run="plain", beside="plain_again,long")
    assert tab.find(".sheet .headings .run").all_inner_texts()[:3] == ["plain", "plain_again", "long"]
    assert tab.find(".cell[data-sample='0'][data-run='2']").count() > 0
    tab.page.reload()
    assert tab.until_drawn().find(".cell[data-sample='0'][data-run='2']").count() > 0
    tab.role("button", "Take plain_again away").click()
    tab.until_address(run="plain", beside="long")
    assert tab.until_drawn().find(".sheet .headings .run").all_inner_texts()[:2] == ["plain", "long"]


def brightness(tab):
    return tab.page_pixels()[-60:].mean() / 255


def test_the_page_is_dark_when_tensorboard_is(board, open_tab):
    tab = open_tab(board, run="plain", options={"color_scheme": "light"}).until_drawn()
    assert tab.frame.evaluate("document.documentElement.dataset.theme") == "light"
    assert brightness(tab) > 0.8
    tab.page.get_by_role("button", name=re.compile("dark|theme|color", re.IGNORECASE)).first.click()
    tab.page.get_by_role("menuitem", name="Dark").click()
    tab.until("() => document.documentElement.dataset.theme === 'dark'")
    tab.page.get_by_role("menuitem").first.wait_for(state="hidden")
    assert brightness(tab) < 0.3


@pytest.mark.parametrize("width", [600, 900, 1280, 2500])
@pytest.mark.parametrize(("run", "beside"), [("four_methods", "plain"), ("hostile", "")])
def test_the_page_fits_its_width(board, open_frame, width, run, beside):
    tab = open_frame(board, run=run, beside=beside, options={"width": width, "height": 800}).until_drawn()
    overflow = tab.frame.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0
    cut = tab.frame.evaluate("""() => [...document.querySelectorAll('button, select, input, .look-words')]
        .filter((part) => part.offsetParent && !part.closest('.sheet, dialog'))
        .filter((part) => part.getBoundingClientRect().left < 0 || part.getBoundingClientRect().right > innerWidth)
        .map((part) => part.outerHTML.slice(0, 80))""")
    assert cut == []
    sheet = tab.find(".sheet").bounding_box()
    assert sheet["height"] > 150
    assert sheet["width"] > 0.5 * width


def test_hostile_names_are_text(board, kinds, open_frame):
    tab = open_frame(board, run="hostile").until_drawn()
    words = tab.find(".sheet").inner_text() + tab.frame.get_by_role("combobox", name=re.compile("^Class")).inner_text()
    for name in HOSTILE_NAMES[:5]:
        assert name in words
    assert tab.find("main img, main script, main b.x, main a, main iframe").count() == 0
    tab.cell(0, "grad_cam").hover()
    tab.cell(0, "grad_cam").click()
    dialog = tab.frame.get_by_role("dialog")
    assert HOSTILE_NAMES[0] in dialog.inner_text()
    assert dialog.locator("img, script").count() == 0


def test_hostile_run_names_are_text(board, open_frame):
    tab = open_frame(board, run="<b>hostile name & #1?").until_drawn()
    assert tab.find("main b:text('hostile')").count() == 0
    assert tab.state["run"] == "<b>hostile name & #1?"


def test_every_control_has_a_name_and_is_reached_with_the_keyboard(board, open_frame):
    tab = open_frame(board, run="plain", beside="plain_again").until_drawn()
    nameless = tab.frame.evaluate("""() => [...document.querySelectorAll('button, select, input')]
        .filter((part) => !(part.getAttribute('aria-label') || part.labels?.length || part.textContent.trim()))
        .map((part) => part.outerHTML.slice(0, 80))""")
    assert nameless == []
    assert tab.frame.evaluate("[document.title, document.documentElement.lang]") == ["Saliency", "en"]
    reached = set()
    for _ in range(60):
        tab.page.keyboard.press("Tab")
        reached.add(tab.frame.evaluate("() => document.activeElement.outerHTML.slice(0, 60)"))
    controls = tab.frame.evaluate("""() => [...document.querySelectorAll(
        '.bar button, .bar select, .bar input, .player button, .scrubber input, .scrubber select')]
        .filter((part) => part.offsetParent && !part.disabled)
        .map((part) => part.outerHTML.slice(0, 60))""")
    assert set(controls) <= reached


@pytest.mark.parametrize(
    ("width", "state"),
    [
        (1280, {"run": "plain", "beside": "plain_again"}),
        (1280, {"run": "plain", "beside": "plain_again", "methods": "grad_cam", "cell": 128, "at": "0-25"}),
        (900, {"run": "signals"}),
    ],
)
def test_captions_are_not_cut(board, open_frame, width, state):
    tab = open_frame(board, **state, options={"width": width, "height": 800}).until_drawn()
    cut = tab.frame.evaluate("""() => [...document.querySelectorAll('.sheet .caption, .sheet .caption .words')]
        .filter((part) => part.scrollWidth > part.clientWidth + 1 || part.scrollHeight > part.clientHeight + 4)
        .filter((part) => getComputedStyle(part).display !== 'inline')
        .map((part) => part.textContent)""")
    assert cut == []


def test_a_name_that_is_written_from_right_to_left_turns_nothing_else(board, open_frame):
    tab = open_frame(board, run="hostile").until_drawn()
    lefts = (
        tab.find(".sheet .caption .words")
        .nth(3)
        .evaluate("""(words) => {
        const text = words.firstChild;
        const end = text.data.indexOf('%');
        return [end - 1, end].map((place) => {
            const range = document.createRange();
            range.setStart(text, place);
            range.setEnd(text, place + 1);
            return range.getBoundingClientRect().left;
        });
    }""")
    )
    assert lefts[0] < lefts[1]


def test_long_names_are_shortened_in_their_middle_and_the_number_is_kept(board, kinds, open_frame):
    tab = open_frame(board, run="hostile", cell=96).until_drawn()
    look = load_record(kinds / "hostile")[-1]
    longest = HOSTILE_NAMES.index(max(HOSTILE_NAMES, key=len))
    row = next(row for row, answer in enumerate(look.predictions) if answer == longest)
    words = tab.find(".sheet .caption .words").nth(row)
    said = words.inner_text()
    assert re.search(r"\u2068a ve.*….*\u2069", said), said
    assert f"{look.probabilities[row]:.0%}" in said
    assert HOSTILE_NAMES[longest].strip() in words.get_attribute("title")


@pytest.mark.parametrize("width", [700, 1280, 2000])
def test_cells_are_as_large_as_fit_where_no_size_is_asked_for(board, open_frame, width):
    tab = open_frame(board, run="one_sample", curves="false", options={"width": width, "height": 800}).until_drawn()
    cells = [place.bounding_box() for place in tab.find(".sheet .cell").all()]
    room = (width - 40) / len(cells) - 6
    size = max(cells[0]["width"], cells[0]["height"])
    assert min(192, room - 16) <= size <= 192
    assert max(place["x"] + place["width"] for place in cells) <= width
    assert tab.find("input[aria-label=Size]").input_value() == f"{size:.0f}"
    assert "cell" not in tab.state
