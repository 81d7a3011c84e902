"""The plugin of TensorBoard: its routes, which answer with JSON and bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboard.backend.http_util import Respond
from tensorboard.plugins.base_plugin import FrontendMetadata, TBPlugin
from werkzeug.wrappers import Request

from lightning_saliency.dashboard.page import STATIC
from lightning_saliency.dashboard.payload import describe_run, to_json_bytes
from lightning_saliency.dashboard.records import OpenRecords, RequestError
from lightning_saliency.dashboard.runs import Run, RunFinder, parse_log_folders
from lightning_saliency.history import RecordError

_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}
_JSON = "application/json"
_BYTES = "application/octet-stream"

logger = logging.getLogger(__name__)


class SaliencyTab(TBPlugin):
    """The Saliency tab.

    Args:
        context: TensorBoard's `TBContext`, of which only the options are read.
    """

    plugin_name = "saliency"

    def __init__(self, context: Any) -> None:
        flags = context.flags
        folders = parse_log_folders(getattr(flags, "logdir", None) or "", getattr(flags, "logdir_spec", None) or "")
        self._finder = RunFinder(folders)
        self._records = OpenRecords()

    def is_active(self) -> bool:
        """Whether there is a record; never waits for the search."""
        return self._finder.has_records()

    def frontend_metadata(self) -> Any:
        """Return what TensorBoard shows the tab by."""
        return FrontendMetadata(es_module_path="/index.js", tab_name="Saliency", disable_reload=False)

    def get_plugin_apps(self) -> dict[str, Any]:
        """Return what answers each route: the data, and each of the front end's files."""
        answers: dict[str, Callable[[Request], tuple[bytes, str]]] = {
            "/runs": self._answer_runs,
            "/about": self._answer_about,
            "/images": self._answer_images,
            "/peaks": self._answer_peaks,
            "/maps": self._answer_maps,
        }
        files = {f"/{path.name}": path for path in STATIC.iterdir() if path.suffix in _TYPES}
        return {route: _app(answer) for route, answer in answers.items()} | {
            route: _static_app(path) for route, path in files.items()
        }

    def _answer_runs(self, request: Request) -> tuple[bytes, str]:
        runs, is_scanning = self._finder.listing(self._records.is_open)
        described = [_describe_run(run) for run in runs]
        return to_json_bytes({"runs": described, "is_scanning": is_scanning, "problem": self._finder.problem}), _JSON

    def _answer_about(self, request: Request) -> tuple[bytes, str]:
        return self._records.about(request.args.get("id", ""), self._path(request)), _JSON

    def _answer_images(self, request: Request) -> tuple[bytes, str]:
        return self._records.images(self._path(request)), _BYTES

    def _answer_peaks(self, request: Request) -> tuple[bytes, str]:
        return self._records.peaks(self._path(request), request.args.get("method", "")), _JSON

    def _answer_maps(self, request: Request) -> tuple[bytes, str]:
        keys = [key for key in request.args.get("looks", "").split(",") if key]
        return self._records.maps(self._path(request), request.args.get("method", ""), keys), _BYTES

    def _path(self, request: Request) -> str:
        name = request.args.get("id", "")
        path = self._finder.path_of(name)
        if path is None:
            raise RequestError(404, f"There is no record of the run {name!r}.")
        return path


def _describe_run(run: Run) -> dict[str, Any]:
    summary = run.summary
    return describe_run(run.id, summary.num_looks, summary.num_samples, summary.stamp, summary.problem)


def _app(answer: Callable[[Request], tuple[bytes, str]]) -> Any:
    """Return the WSGI app of an answer, whose errors are JSON that the front end shows."""

    @Request.application
    def app(request: Request) -> Any:
        try:
            content, kind = answer(request)
        except RequestError as error:
            return _refuse(request, error.status, str(error))
        except (RecordError, OSError) as error:  # damaged, or gone, or not to be reached now
            return _refuse(request, 422, str(error))
        except Exception as error:  # of ours: the tab says so, and TensorBoard's log has where
            logger.exception("The Saliency tab could not answer %s", request.path)
            return _refuse(request, 500, f"{type(error).__name__}: {error}")
        return Respond(request, content, kind, content_encoding="deflate" if kind == _BYTES else None)

    return app


def _refuse(request: Request, status: int, text: str) -> Any:
    return Respond(request, to_json_bytes({"error": text}), _JSON, code=status)


def _static_app(path: Path) -> Any:
    @Request.application
    def app(request: Request) -> Any:
        return Respond(request, path.read_bytes(), _TYPES[path.suffix])

    return app
