"""`ReportOutput`: writes the report of a run's record at the end of the training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_saliency.callbacks.history_output import HistoryOutput
from lightning_saliency.callbacks.outputs import Logged, Look, Output

_SUFFIX = ".html"


class ReportOutput(Output):
    """Writes all looks of a run as one HTML page beside its event file, and hands it to the loggers that take one.

    Args:
        history: What writes the record.
    """

    key = "report"

    def __init__(self, history: HistoryOutput) -> None:
        self._history = history

    def wants(self, look: Look) -> bool:
        """Whether a look is needed: none, the record has them."""
        return False

    def __call__(self, look: Look) -> Logged:
        """Return nothing."""
        return Logged()

    def end(self, loggers: Sequence[Any]) -> Logged:
        """Write the page."""
        record = self._history.record
        if record is None or not len(record):
            return Logged()
        content = record.report().html.encode()
        return Logged(pictures={"report": self._history.put(record, _SUFFIX, content)})
