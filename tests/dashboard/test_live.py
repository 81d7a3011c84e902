"""A record that changes while one looks at it: it grows, is resumed, damaged, deleted."""

import re
import shutil
from pathlib import Path

import pytest
from dashboard.records import Plan, begin, flip, make_look, tear, write_run

PLAN = Plan(epochs=4, samples=3)


@pytest.fixture
def live(tensorboards, tmp_path, open_frame):
    """Open the tab on a folder of one run."""

    def opened(writer, **state):
        return open_frame(tensorboards("--logdir", str(tmp_path)), **state).until_drawn(), Path(writer.record.path)

    return opened


def most(tab):
    return "(count) => Number(document.querySelector('.range').max) === count"


def test_a_run_that_is_still_writing_grows_while_one_looks(tmp_path, live):
    writer = begin(tmp_path / "run", PLAN)
    for epoch in (None, 0):
        writer.write(make_look(PLAN, epoch))
    tab, _ = live(writer)
    tab.until_drawn("epoch 0")
    writer.write(make_look(PLAN, 1))
    tab.until_drawn("epoch 1")  # who looks at the latest one goes on with it
    tab.page.keyboard.press("Home")
    tab.until_drawn("initial")
    writer.write(make_look(PLAN, 2))
    tab.until(most(tab), 3)
    assert tab.until_drawn().words == "initial"  # who looks at another one stays


def test_a_run_without_a_look_says_so_and_shows_the_first_one_that_comes(tmp_path, tensorboards, open_frame):
    writer = begin(tmp_path / "run", PLAN)
    tab = open_frame(tensorboards("--logdir", str(tmp_path)))
    tab.find(".notice").get_by_text("No look").wait_for()
    writer.write(make_look(PLAN, None))
    tab.until_drawn("initial")
    tab.cell(0, "grad_cam").wait_for()


def test_a_resumed_run_leaves_out_what_it_gave_up_and_says_so(tmp_path, live):
    first = write_run(tmp_path / "run", PLAN)
    tab, _ = live(first)
    tab.until(most(tab), 4)
    resumed = begin(tmp_path / "run", PLAN, state=first.state_dict())
    resumed.write(make_look(PLAN, 1))
    tab.find(".notice").get_by_text("2 looks are left out").wait_for()
    tab.until(most(tab), 2)
    tab.until_drawn("epoch 1")


def test_a_torn_and_a_foreign_file_are_named_and_passed_over(tmp_path, live):
    writer = write_run(tmp_path / "run", PLAN)
    tear(Path(writer.record.path) / writer.record.files[2])
    (Path(writer.record.path) / "notes<b>.txt").write_text("nothing of a record")
    tab, _ = live(writer)
    words = tab.find(".notice").inner_text()
    assert "epoch=000001-step=0000000050.npz" in words
    assert "notes<b>.txt is no file of a record" in words
    assert tab.frame.evaluate(most(tab), 3)


def test_a_look_with_damaged_maps_says_so_and_hides_no_other(tmp_path, tensorboards, open_frame):
    writer = write_run(tmp_path / "run", PLAN)
    flip(Path(writer.record.path) / writer.record.files[2])
    tab = open_frame(tensorboards("--logdir", str(tmp_path)))
    tab.expects_refusals = True
    tab.until_drawn("epoch 3")
    tab.page.keyboard.press("Home")
    for words in ("initial", "epoch 0", "epoch 1", "epoch 2"):
        tab.until_drawn(words)
        assert "✓" in tab.find("main").inner_text() or "✗" in tab.find("main").inner_text()
        tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("ArrowLeft")
    tab.page.keyboard.press("ArrowLeft")
    tab.until_drawn("epoch 1")
    tab.find(".cell").get_by_text("cannot be read").first.wait_for()
    said = [tab.cell(0, method).inner_text().strip() for method in ("grad_cam", "saliency")]
    assert sorted(said) == ["", "cannot be read"]


def test_a_record_that_is_deleted_goes_with_a_line_and_comes_back(tmp_path, live):
    writer = write_run(tmp_path / "run", PLAN)
    tab, record = live(writer)
    tab.expects_refusals = True
    shutil.rmtree(record)
    tab.until("() => document.querySelector('.notice')?.innerText.trim() !== ''")
    writer.write(make_look(PLAN, 3))
    tab.until(most(tab), 0)
    tab.until_drawn("epoch 3")


def test_nothing_is_asked_while_the_tab_is_hidden(board_beside_scalars, open_tab):
    tab = open_tab(board_beside_scalars, run="plain").until_drawn()
    tab.page.get_by_role("tab", name=re.compile("scalars", re.IGNORECASE)).click()
    tab.find("main").wait_for(state="hidden")
    asked = []
    tab.page.on("request", lambda request: asked.append(request.url))
    tab.page.wait_for_timeout(7000)
    assert [url for url in asked if "/plugin/saliency/" in url] == []
    tab.page.get_by_role("tab", name=re.compile("saliency", re.IGNORECASE)).click()
    with tab.page.expect_request(re.compile("/plugin/saliency/runs")):
        tab.find("main").wait_for()
