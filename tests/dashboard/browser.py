"""A real TensorBoard, and pages of a real browser in which nothing may go wrong unseen."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote, unquote
from urllib.request import urlopen

import numpy as np
from PIL import Image

PLUGIN = "saliency"
PATIENCE = 60
"""How many seconds a loaded machine may take for anything, before a test fails."""

_SERVER = Path(__file__).parents[1] / "tab_server.py"
_ADDRESS = re.compile(r"http://\S+?:\d+/\S*")
_TWO_FRAMES = "() => new Promise((then) => requestAnimationFrame(() => requestAnimationFrame(then)))"
_IS_DRAWN = "() => document.querySelector('.sheet')?.getAttribute('aria-busy') === 'false'"
_NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    """The path of an installed Chromium, or None."""
    return next((path for path in map(shutil.which, _NAMES) if path), None)


class TensorBoard:
    """A TensorBoard of its own process on a free port.

    Args:
        log: The file that takes what it says.
        options: Those of its command line.
        env: What its environment has beside this one's.
    """

    def __init__(self, log: Path, *options: str, **env: str) -> None:
        command = [sys.executable, str(_SERVER), "--host", "127.0.0.1", "--port", "0", *options]
        self.log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command,
                stdout=file,
                stderr=file,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env},
                start_new_session=True,
            )
        self.address = self._wait_for_address()

    def _wait_for_address(self) -> str:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            found = _ADDRESS.search(self.said)
            if found:
                return found.group().rstrip("/") + "/"
            time.sleep(0.05)
        self.stop()
        raise AssertionError(f"TensorBoard did not start: {self.said}")

    @property
    def said(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def get(self, route: str) -> bytes:
        """What a route of the plugin answers."""
        with urlopen(f"{self.address}data/plugin/{PLUGIN}/{route}", timeout=PATIENCE) as answer:
            return answer.read()

    def tab(self, **state: object) -> str:
        """The address at which the tab shows a state."""
        return f"{self.address}#{PLUGIN}{_words(state)}"

    def frame(self, **state: object) -> str:
        """The address of the tab's frame alone, without TensorBoard around it."""
        return f"{self.address}data/plugin_entry.html?name={PLUGIN}#{_words(state)}"

    def stop(self) -> None:
        """End it, and the data server that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _words(state: dict[str, object]) -> str:
    return "".join(f"&p.{PLUGIN}.{name}={quote(str(of))}" for name, of in state.items())


class Tab:
    """Our page in the browser, inside of TensorBoard or alone, which keeps all that goes wrong.

    Attributes:
        page: Playwright's page.
        frame: The frame that is ours.
        faults: What went wrong, in words: errors, refusals of a policy, answers that are errors, dialogs.
        expects_refusals: Whether the server refuses something on purpose: what is damaged or gone.
    """

    def __init__(self, page) -> None:
        self.page = page
        self.frame = page.main_frame
        self.faults: list[str] = []
        self.expects_refusals = False
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("console", self._hear)
        page.on("response", self._answer)
        page.on("dialog", self._dialog)

    def enter(self, selector: str = f"iframe[src*='name={PLUGIN}'], iframe") -> Tab:
        """Go on inside of a frame of the page."""
        self.frame = self.page.wait_for_selector(selector, state="attached").content_frame()
        self.frame.wait_for_selector("main", state="attached")  # of its own document: a frame begins with an empty one
        return self

    def find(self, selector: str):
        """Elements of our page."""
        return self.frame.locator(selector)

    def role(self, role: str, name: str):
        """The element that a screen reader calls so."""
        return self.frame.get_by_role(role, name=name, exact=True)

    def until(self, condition: str, argument: object = None) -> None:
        """Wait until a function in JavaScript is true."""
        self.frame.wait_for_function(condition, arg=argument, timeout=PATIENCE * 1000)

    def until_drawn(self, words: str | None = None) -> Tab:
        """Wait until the maps of what is chosen are drawn, and a look of these words is shown."""
        self.frame.evaluate(_TWO_FRAMES)  # what was just done is drawn in the next one
        self.until(_IS_DRAWN)
        if words is not None:
            self.until("(words) => document.querySelector('.look-words').textContent.includes(words)", words)
            self.until(_IS_DRAWN)
        self.frame.evaluate(_TWO_FRAMES)
        return self

    def choose(self, label: str, value: str) -> None:
        """Choose an option of the list of this name, and wait until it is drawn."""
        self.frame.get_by_role("combobox", name=re.compile(f"^{label}")).select_option(value)
        self.until_drawn()

    @property
    def words(self) -> str:
        """Which look is shown."""
        return self.find(".look-words").inner_text()

    @property
    def state(self) -> dict[str, str]:
        """What the address says."""
        parts = [part.split("=", 1) for part in self.page.url.partition("#")[2].split("&") if part.startswith("p.")]
        return {name.rpartition(".")[2]: unquote(word) for name, word in parts}

    def until_address(self, **state: str) -> None:
        """Wait until the address says this."""
        for name, word in state.items():
            part = f"p.{PLUGIN}.{name}={quote(word)}"
            self.page.wait_for_url(lambda url, part=part: unquote(part) in unquote(url))

    def cell(self, position: int, method: str | None = None, run: int = 0):
        """The cell of a sample's map; without a method that of its image."""
        own = f"[aria-label='Sample {position}, enlarge']" if method is None else f"[data-method='{method}']"
        return self.find(f".cell[data-sample='{position}'][data-run='{run}']{own}")

    def cell_pixels(self, cell):
        """What is seen of a cell, uint8 (h, w, 3)."""
        return np.asarray(Image.open(io.BytesIO(cell.screenshot())).convert("RGB"))

    def page_pixels(self):
        """What is seen of the page, uint8 (h, w, 3)."""
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))

    def _hear(self, message) -> None:
        is_refusal = self.expects_refusals and message.text.startswith("Failed to load resource")
        is_ours = not is_refusal and not _is_of_tensorboard(message.location.get("url", ""))
        if message.type in ("error", "warning") and is_ours:
            self.faults.append(f"{message.type}: {message.text} ({message.location})")

    def _answer(self, response) -> None:
        if response.status >= 400 and f"/{PLUGIN}/" in response.url and not self.expects_refusals:
            self.faults.append(f"{response.status} for {response.url}")

    def _dialog(self, dialog) -> None:
        self.faults.append(f"a dialog: {dialog.message}")
        dialog.dismiss()


def _is_of_tensorboard(url: str) -> bool:
    """Whether something is said by TensorBoard's own page, not by ours."""
    return url.startswith("http") and f"/{PLUGIN}/" not in url and "plugin_entry" not in url
