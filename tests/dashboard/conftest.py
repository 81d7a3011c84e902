"""A browser for all tests of the tab, a TensorBoard for one log folder, and pages."""

import pytest
from dashboard.browser import Tab, TensorBoard, find_browser
from dashboard.records import KINDS, write_kinds
from torch.utils.tensorboard import SummaryWriter


@pytest.fixture(scope="session")
def chromium():
    """The path of Chromium; the tests that need one are skipped where it or Playwright is not installed."""
    pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    path = find_browser()
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    return path


@pytest.fixture(scope="module")  # not longer: Playwright's event loop is in the way of what runs one of its own
def browser(chromium):
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright  # not installed with the other tests' libraries

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser):
    """Open a page; at the end nothing on it may have gone wrong."""
    contexts, pages = [], []

    def opened(address, *, width=1280, height=900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        tab = Tab(context.new_page())
        contexts.append(context)
        pages.append(tab)
        tab.page.goto(address)
        return tab

    yield opened
    faults = [fault for tab in pages for fault in tab.faults]
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def open_tab(open_page):
    """Open the tab in TensorBoard at a state."""

    def opened(board, *, options=None, **state):
        return open_page(board.tab(**state), **(options or {})).enter()

    return opened


@pytest.fixture
def open_frame(open_page):
    """Open what is inside of the tab, without TensorBoard's own page around it, which takes seconds to load."""

    def opened(board, *, options=None, **state):
        return open_page(board.frame(**state), **(options or {}))

    return opened


@pytest.fixture(scope="session")
def tensorboards(chromium, tmp_path_factory):
    """Start a TensorBoard with options, or return the one that has them."""
    started = {}

    def start(*options, **env):
        key = (options, tuple(sorted(env.items())))
        if key not in started:
            started[key] = TensorBoard(tmp_path_factory.mktemp("tensorboard") / "log.txt", *options, **env)
        return started[key]

    yield start
    for board in started.values():
        board.stop()


@pytest.fixture(scope="session")
def kinds(tmp_path_factory):
    """A log folder with a run of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    write_kinds(folder)
    return folder


@pytest.fixture(scope="session")
def board(tensorboards, kinds):
    """A TensorBoard of all kinds of runs."""
    return tensorboards("--logdir", str(kinds))


@pytest.fixture(scope="session")
def board_beside_scalars(tensorboards, tmp_path_factory):
    """A TensorBoard of two runs that has another tab, too."""
    folder = tmp_path_factory.mktemp("beside_scalars")
    for name in ("plain", "long"):
        KINDS[name](folder / name)
    with SummaryWriter(folder / "plain") as writer:
        writer.add_scalar("loss", 1.0, 0)
    return tensorboards("--logdir", str(folder))
