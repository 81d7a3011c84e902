"""The report opens from a file, in a frame that allows scripts alone, and under a policy that allows nothing else."""

import http.server
import threading

import pytest
from dashboard.expected import Cell, expected_cell

from lightning_saliency import load_record
from lightning_saliency.dashboard.report import make_report

WORDS = "epoch 2"
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; connect-src 'none'"
)


@pytest.fixture(scope="module")
def report(kinds, tmp_path_factory):
    """A report of a few runs, one of them with words that mean harm."""
    names = ("plain", "plain_again", "hostile", "damaged")
    path = tmp_path_factory.mktemp("report") / "saliency.html"
    make_report({name: load_record(kinds / name) for name in names}).save(path)
    return path


@pytest.fixture(scope="module")
def served(report):
    """The address of a server of pages, each with the policy that its name asks for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            frame = '<iframe sandbox="allow-scripts" style="width:1200px;height:800px;border:0" src="/page"></iframe>'
            content = frame.encode() if self.path == "/sandbox" else report.read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            if self.path == "/policy":
                self.send_header("Content-Security-Policy", POLICY)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def check_page(tab, kinds):
    """It shows its first run, goes through all looks, and draws what the tab draws."""
    tab.until_drawn("epoch 4")
    tab.find(".sheet").press("Home")
    tab.until_drawn("initial")
    for epoch in range(3):
        tab.find(".sheet").press("ArrowRight")
        tab.until_drawn(f"epoch {epoch}")
    record = load_record(kinds / "plain")
    cell = tab.cell(1, "grad_cam")
    seen = tab.cell_pixels(cell)
    expected = expected_cell(record, 3, 1, Cell("grad_cam", seen.shape[:2]))
    assert (abs(seen.astype(int) - expected).max(2) > 2).mean() <= 0.01


def test_it_opens_from_a_file(report, kinds, open_page):
    tab = open_page(report.as_uri())
    requests = []
    tab.page.on("request", lambda request: requests.append(request.url))
    check_page(tab, kinds)
    assert [url for url in requests if url.startswith("http")] == []


def test_it_opens_in_a_frame_that_allows_scripts_alone(served, kinds, open_page):
    check_page(open_page(f"{served}/sandbox").enter(), kinds)


def test_it_opens_under_a_policy_that_allows_what_is_inline_alone(served, kinds, open_page):
    check_page(open_page(f"{served}/policy"), kinds)


def test_it_opens_in_a_notebooks_frame(report, kinds, open_page, tmp_path):
    shown = make_report({"plain": load_record(kinds / "plain")})._repr_html_()
    page = tmp_path / "notebook.html"
    page.write_text(f"<!doctype html><body style='width:1200px'>{shown}</body>")
    check_page(open_page(page.as_uri()).enter(), kinds)


def test_all_runs_are_in_it_and_their_words_are_text(report, open_page):
    tab = open_page(f"{report.as_uri()}#p.saliency.run=hostile").until_drawn()
    assert tab.find("main img").count() == 0
    tab.choose("Run", "damaged")
    tab.find(".notice").get_by_text("notes <b>of mine<b>.txt").wait_for()
    tab.choose("Run", "plain")
    tab.choose("Beside it", "plain_again")
    tab.page.keyboard.press("End")
    tab.until_drawn("epoch 7")
