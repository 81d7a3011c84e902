"""The tab is there wherever a run has a record, however TensorBoard is started."""

import re
import time

import pytest
from dashboard.browser import PATIENCE
from dashboard.records import Plan, write_run
from torch.utils.tensorboard import SummaryWriter

SMALL = Plan(epochs=2, samples=2)


def listed_runs(tab):
    """The names of the runs that can be chosen."""
    tab.until_drawn()
    options = tab.frame.get_by_role("combobox", name=re.compile("^Run")).locator("option")
    return options.evaluate_all("(all) => all.map((option) => option.value)")


def tabs_in_sight(tab):
    """The names of TensorBoard's tabs."""
    return [name.strip().upper() for name in tab.page.locator("[role=tab]:visible").all_inner_texts()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs, one of them with scalars of its own, and one below another."""
    folder = tmp_path_factory.mktemp("listed")
    for name in ("a", "b/version_0", "b/version_10", "b/version_2"):
        write_run(folder / name, SMALL)
    with SummaryWriter(folder / "a") as writer:
        writer.add_scalar("loss", 1.0, 0)
    with SummaryWriter(folder / "without") as writer:
        writer.add_scalar("loss", 1.0, 0)
    return folder


NAMES = ["a", "b/version_0", "b/version_2", "b/version_10"]


@pytest.mark.parametrize("loader", ["true", "false"])
def test_both_loaders_show_all_records(tensorboards, runs, open_tab, loader):
    board = tensorboards("--logdir", str(runs), f"--load_fast={loader}")
    tab = open_tab(board, run="a")
    assert listed_runs(tab) == NAMES
    assert {"SALIENCY", "SCALARS"} <= set(tabs_in_sight(tab))


def test_a_log_folder_that_is_an_address(tensorboards, runs, open_tab):
    """Of which TensorBoard's own search knows less than fsspec's."""
    tab = open_tab(tensorboards("--logdir", f"file://{runs}"), run="b/version_2")
    assert listed_runs(tab) == NAMES
    assert tab.find(".cell[data-method=grad_cam]").count() == 2


def test_behind_a_path_prefix(tensorboards, runs, open_tab):
    tab = open_tab(tensorboards("--logdir", str(runs), "--path_prefix=/some/where"), run="b/version_2")
    assert listed_runs(tab) == NAMES
    assert "/some/where/" in tab.frame.url


def test_several_folders_with_names(tensorboards, runs, open_tab):
    """Named as TensorBoard names runs there."""
    tab = open_tab(tensorboards("--logdir_spec", f"first:{runs / 'a'},second:{runs / 'b'}"))
    assert listed_runs(tab) == ["first/.", "second/version_0", "second/version_2", "second/version_10"]


def test_it_is_the_only_tab_where_records_are_the_only_data(board, open_page):
    tab = open_page(board.address).enter()
    tab.until_drawn()
    assert tabs_in_sight(tab) == ["SALIENCY"]


def test_two_records_of_a_run_have_names_of_their_own(board, open_frame):
    names = listed_runs(open_frame(board))
    assert "twice" in names
    assert [name for name in names if name.startswith("twice#")] == ["twice#saliency-2"]


def test_a_record_that_comes_later_is_found(tensorboards, tmp_path, open_page):
    tab = open_page(tensorboards("--logdir", str(tmp_path)).address)
    tab.page.get_by_text("No dashboards are active").wait_for()
    write_run(tmp_path / "late", SMALL)
    end = time.monotonic() + PATIENCE
    while "SALIENCY" not in tabs_in_sight(tab) and time.monotonic() < end:
        tab.page.reload()
        tab.page.locator("[role=tab]:visible, :text('No dashboards are active')").first.wait_for()
    assert listed_runs(tab.enter()) == ["late"]


def test_a_run_that_comes_while_one_looks_is_listed(tensorboards, tmp_path, open_frame):
    write_run(tmp_path / "early", SMALL)
    tab = open_frame(tensorboards("--logdir", str(tmp_path)))
    assert listed_runs(tab) == ["early"]
    write_run(tmp_path / "late", SMALL)
    tab.until("() => [...document.querySelectorAll('option')].some(({ value }) => value === 'late')")
