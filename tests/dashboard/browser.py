"""A real TensorBoard, and pages of a real browser in which nothing may go wrong unseen."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

TITLE = "Saliency"
PLUGIN = "saliency"
PATIENCE = 60
"""How many seconds a loaded machine may take for anything, before a test fails."""

_ADDRESS = re.compile(r"http://\S+?:\d+/\S*")
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
        command = [sys.executable, "-m", "tensorboard.main", "--host", "127.0.0.1", "--port", "0", *options]
        self.log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command, stdout=file, stderr=file, env=os.environ | env, start_new_session=True
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

    def stop(self) -> None:
        """End it, and the data server that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Watched:
    """A page of the browser that keeps each error, each refusal of its policy, and each answer that says an error.

    Attributes:
        page: Playwright's page.
        faults: What went wrong, in words.
    """

    def __init__(self, page) -> None:
        self.page = page
        self.faults: list[str] = []
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("console", self._hear)
        page.on("response", self._answer)
        page.on("dialog", self._dialog)

    def _hear(self, message) -> None:
        if message.type in ("error", "warning") and not _is_of_tensorboard(message.location.get("url", "")):
            self.faults.append(f"{message.type}: {message.text} ({message.location})")

    def _answer(self, response) -> None:
        if response.status >= 400 and f"/{PLUGIN}/" in response.url:
            self.faults.append(f"{response.status} for {response.url}")

    def _dialog(self, dialog) -> None:
        self.faults.append(f"a dialog: {dialog.message}")
        dialog.dismiss()


def _is_of_tensorboard(url: str) -> bool:
    """Whether something is said by TensorBoard's own page, not by ours."""
    return url.startswith("http") and f"/{PLUGIN}/" not in url and "plugin_entry" not in url
