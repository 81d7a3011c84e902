"""One scrubber for all looks: by hand, by keys, by itself, by a curve and by the filmstrip; and in the address."""

import re

WORDS = ["initial", *(f"epoch {epoch} · step {25 * (epoch + 1)}" for epoch in range(5))]


def slider(tab):
    return tab.frame.get_by_role("slider", name=re.compile("^(Look|Epoch)"))


def test_every_look_is_reached_with_the_slider(board, open_frame):
    tab = open_frame(board, run="long").until_drawn("epoch 49")
    assert slider(tab).get_attribute("max") == "50"
    for place in (0, 1, 17, 50, 33):
        slider(tab).fill(str(place))
        tab.until_drawn("initial" if place == 0 else f"epoch {place - 1} · step {25 * place}")
        assert slider(tab).get_attribute("aria-valuetext") == tab.words


def test_the_keys_step_through_all_looks(board, open_frame):
    tab = open_frame(board, run="plain").until_drawn(WORDS[-1])
    tab.page.keyboard.press("Home")
    seen = [tab.until_drawn("initial").words]
    for words in WORDS[1:]:
        tab.page.keyboard.press("ArrowRight")
        seen.append(tab.until_drawn(words).words)
    assert seen == WORDS
    tab.page.keyboard.press("ArrowRight")  # beyond the last one there is none
    tab.page.keyboard.press("ArrowLeft")
    tab.until_drawn(WORDS[-2])
    tab.page.keyboard.press("End")
    tab.until_drawn(WORDS[-1])


def test_the_keys_work_inside_of_tensorboard(board, open_tab):
    tab = open_tab(board, run="plain").until_drawn(WORDS[-1])
    tab.find(".sheet").focus()
    tab.page.keyboard.press("ArrowLeft")
    tab.until_drawn(WORDS[-2])
    tab.until_address(at="3-100")


def test_playing_goes_to_the_end_and_stops(board, open_frame):
    tab = open_frame(board, run="plain", at="initial", speed=16).until_drawn("initial")
    tab.role("button", "Play").click()
    tab.until_drawn(WORDS[-1])
    tab.role("button", "Play").wait_for()


def test_playing_can_be_paused(board, open_frame):
    tab = open_frame(board, run="long", at="initial", speed=8).until_drawn("initial")
    tab.find("body").press(" ")
    tab.until("() => document.querySelector('.look-words').textContent.startsWith('epoch')")
    tab.role("button", "Pause").click()
    words = tab.until_drawn().words
    tab.page.wait_for_timeout(500)
    assert tab.words == words


def test_playing_pauses_when_the_tab_is_hidden(board_beside_scalars, open_tab):
    tab = open_tab(board_beside_scalars, run="long", at="initial", speed=4)
    tab.until_drawn("initial")
    tab.role("button", "Play").click()
    tab.role("button", "Pause").wait_for()
    tab.page.get_by_role("tab", name=re.compile("scalars", re.IGNORECASE)).click()
    tab.until("() => document.querySelector(\"[aria-label='Play']\") !== null")
    words = tab.find(".look-words").text_content()
    tab.page.get_by_role("tab", name=re.compile("saliency", re.IGNORECASE)).click()
    tab.find(".look-words").wait_for()
    assert tab.words == words != "epoch 49 · step 1250"


def test_a_click_on_a_curve_goes_to_its_epoch(board, open_frame):
    tab = open_frame(board, run="plain").until_drawn(WORDS[-1])
    curve = tab.frame.get_by_role("button", name=re.compile("^loss"))
    place = curve.bounding_box()
    curve.click(position={"x": place["width"] * 2 / 5, "y": place["height"] / 2})
    tab.until_drawn(WORDS[2])


def test_a_cell_opens_with_the_filmstrip_of_all_looks(board, open_frame):
    tab = open_frame(board, run="plain", at="2-75").until_drawn(WORDS[3])
    tab.cell(1, "grad_cam").click()
    dialog = tab.frame.get_by_role("dialog")
    dialog.wait_for()
    assert "Grad-CAM" in dialog.inner_text()
    frames = dialog.locator(".frame")
    assert frames.count() == len(WORDS)
    assert [text.split("·")[0].strip() for text in frames.all_inner_texts()] == [w.split(" ·")[0] for w in WORDS]
    frames.nth(1).click()
    tab.until_drawn(WORDS[1])
    tab.page.keyboard.press("ArrowRight")
    tab.until_drawn(WORDS[2])
    tab.page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")


def test_a_link_shows_what_its_sender_saw(board, open_tab):
    tab = open_tab(board, run="four_methods").until_drawn()
    for _ in range(2):
        tab.page.keyboard.press("Tab")
    tab.find(".sheet").focus()
    tab.page.keyboard.press("Home")
    tab.page.keyboard.press("ArrowRight")
    tab.role("button", "Saliency").click()
    tab.choose("Show", "wrong")
    tab.choose("Colors", "viridis")
    tab.until_address(at="0-25", filter="wrong", colors="viridis")
    again = open_tab(board)
    again.page.goto(tab.page.url)
    again.page.reload()
    again.enter().until_drawn("epoch 0")
    assert again.state == tab.state
    assert again.find(".sheet .caption").all_inner_texts() == tab.find(".sheet .caption").all_inner_texts()
    assert again.find(".chip[aria-pressed=true][data-method]").all_inner_texts() == [
        "Grad-CAM",
        "Grad-CAM++",
        "LayerCAM",
    ]


def test_an_address_that_makes_no_sense_shows_the_default(board, open_frame):
    tab = open_frame(board, run="nowhere", at="99999-1-x", cell="NaN", colors="<b>", methods="none", large="7 8 9")
    tab.until_drawn()
    assert tab.find(".cell").count() > 0
