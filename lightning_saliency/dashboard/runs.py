"""Which runs under the log folders have a record, found in a thread of its own, so that nobody waits for it."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from lightning_saliency.history import FoundRecord, Record, RecordSummary, find_records, summarize_record

_URI = re.compile(r"[a-zA-Z][0-9a-zA-Z.]*://.*")
_FIRST = "saliency"
"""The record that has its run's name alone, as the callback calls it where nobody chooses a name."""

_PAUSE = 5.0
"""Seconds between two searches while nobody asks and nothing is found yet."""

_NEWS = 0.5
"""Seconds after which a first search that is still on shows what it has found."""

_LOAD = 20
"""A search is followed by a pause of so many times its own length, while somebody asks."""

_IDLE_LOAD = 100
"""The same while nobody asks and nothing is found yet: other people's log folders are searched, too."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LogFolder:
    """A folder of runs.

    Attributes:
        path: The folder, or the address of a remote store.
        name: What the names of its runs begin with, as `--logdir_spec` gives it; empty for none.
    """

    path: str
    name: str = ""


@dataclass(frozen=True)
class Run:
    """A run's record.

    Attributes:
        id: The run's name in TensorBoard; of a further record of the same run with `#` and the record's name.
        path: The record's folder.
        summary: What is known of it without reading its looks.
    """

    id: str
    path: str
    summary: RecordSummary


def parse_log_folders(logdir: str, spec: str) -> tuple[LogFolder, ...]:
    """Return the folders that TensorBoard reads.

    Args:
        logdir: The option `--logdir`; empty for none.
        spec: The option `--logdir_spec`, `name:path,name:path`, which counts where there is no `logdir`.

    Example:
        >>> parse_log_folders("", "a:/runs/a,/runs/b:c,gs://bucket/d")[0]
        LogFolder(path='/runs/a', name='a')
        >>> [folder.path for folder in parse_log_folders("", "a:/runs/a,/runs/b:c,gs://bucket/d")]
        ['/runs/a', '/runs/b:c', 'gs://bucket/d']
    """
    if logdir:
        return (LogFolder(os.path.expanduser(logdir)),)
    return tuple(_parse_part(part) for part in spec.split(",") if part)


def name_runs(found: Iterable[tuple[LogFolder, FoundRecord, RecordSummary]]) -> dict[str, Run]:
    """Return the records by their names, in the order that a person expects: 2 before 10."""
    by_run: dict[str, list[tuple[str, str, RecordSummary]]] = {}
    for folder, record, summary in found:
        below, name = _split_run(record, summary.depth)
        run = os.path.join(folder.name, below) if folder.name else below
        by_run.setdefault(run, []).append((name, record.path, summary))
    runs: dict[str, Run] = {}
    for run in sorted(by_run, key=_natural):
        for name, path, summary in sorted(by_run[run], key=lambda record: (record[0] != _FIRST, _natural(record[0]))):
            ids = (run, f"{run}#{name}", f"{run}#{path}")  # two folders of a spec may have runs of the same name
            own = next(candidate for candidate in ids if candidate not in runs)
            runs[own] = Run(own, path, summary)
    return runs


def open_records(paths: Sequence[str]) -> dict[str, Record]:
    """Open all records below folders.

    Args:
        paths: Folders of runs, folders above runs, or records; paths or addresses of remote stores.

    Returns:
        The records by the names of their runs, relative to the one folder, or with it where there are several.

    Raises:
        FileNotFoundError: There is no record below a folder.
    """
    found: list[tuple[LogFolder, FoundRecord, RecordSummary]] = []
    for path in paths:
        folder = LogFolder(path, path.rstrip("/") if len(paths) > 1 else "")
        own = [(folder, record, summarize_record(record.path)) for record in find_records(path)]
        own_records = [(folder, record, summary) for folder, record, summary in own if summary is not None]
        if not own_records:
            raise FileNotFoundError(f"Expected a folder with a run's record in it or below it, got {path}.")
        found += own_records
    single = os.path.basename(os.path.abspath(paths[0])) if len(paths) == 1 else ""
    return {_without_dot(run.id, single): Record(run.path) for run in name_runs(found).values()}


class RunFinder:
    """Searches log folders for records, again and again, in a thread of its own.

    Until there is a record it searches by itself, so that the tab shows once there is one; then as it is asked.

    Args:
        folders: Where.

    Attributes:
        problem: Why a folder cannot be searched; empty where all can.
    """

    def __init__(self, folders: Sequence[LogFolder]) -> None:
        self._folders = tuple(folders)
        self.problem = ""
        self._runs: dict[str, Run] = {}
        self._found: dict[LogFolder, list[tuple[FoundRecord, RecordSummary]]] = {}
        self._is_scanning = True
        self._not_before = 0.0
        self._wanted = threading.Event()
        threading.Thread(target=self._search_on, name="saliency-runs", daemon=True).start()

    def has_records(self) -> bool:
        """Whether there is any, as far as is known now; never waits."""
        self._ask()
        return bool(self._runs)

    def listing(self, is_open: Callable[[str], bool]) -> tuple[list[Run], bool]:
        """Return the records that are known now, and whether the search for more is on; never waits for that.

        Args:
            is_open: Whether a record, by its folder, is being looked at: of these it is looked up now what they hold.
        """
        self._ask()
        listed = [_current(run) if is_open(run.path) else run for run in self._runs.values()]
        return listed, self._is_scanning

    def path_of(self, name: str) -> str | None:
        """Return the folder of a record by its id, None where it is not known."""
        run = self._runs.get(name)
        return None if run is None else run.path

    def _ask(self) -> None:
        if time.monotonic() >= self._not_before:
            self._wanted.set()

    def _search_on(self) -> None:
        while True:
            self._is_scanning = True
            start = time.monotonic()
            self.problem = "; ".join(filter(None, map(self._search, self._folders)))
            seconds = time.monotonic() - start
            self._not_before = time.monotonic() + max(1.0, _LOAD * seconds)
            self._is_scanning = False
            self._wanted.clear()
            self._wanted.wait(None if self._runs else max(_PAUSE, _IDLE_LOAD * seconds))

    def _search(self, folder: LogFolder) -> str:
        """Search a folder; return why that failed, where what was found before still holds."""
        before = {record.path: summary for record, summary in self._found.get(folder, ())}
        found: list[tuple[FoundRecord, RecordSummary]] = []
        published = time.monotonic()
        try:
            for record in find_records(folder.path):
                summary = _summarize(record.path, before.get(record.path))
                if summary is not None:
                    found.append((record, summary))
                if not before and time.monotonic() > published + _NEWS:
                    self._publish(folder, found)
                    published = time.monotonic()
        except Exception as error:  # each kind of store has errors of its own, and may answer later
            problem = f"{folder.path} cannot be searched: {error or type(error).__name__}"
            logger.warning("%s", problem)
            return problem
        self._publish(folder, found)
        return ""

    def _publish(self, folder: LogFolder, found: Sequence[tuple[FoundRecord, RecordSummary]]) -> None:
        self._found[folder] = list(found)
        self._runs = name_runs((where, *record) for where, records in self._found.items() for record in records)


def _split_run(record: FoundRecord, depth: int) -> tuple[str, str]:
    """Return a run's path, and its record's name in it, which may be some folders below."""
    parts = [] if record.run == "." else record.run.split("/")
    start = max(0, len(parts) - depth)
    return "/".join(parts[:start]) or ".", "/".join([*parts[start:], record.name])


def _without_dot(name: str, single: str) -> str:
    """Return a run's name with that of the folder in place of the dot for the folder itself."""
    run, sharp, record = name.partition("#")
    run = single if run == "." else run.removesuffix("/.")
    return f"{run}{sharp}{record}"


def _summarize(path: str, before: RecordSummary | None) -> RecordSummary | None:
    """Return what is known of a record, or why it cannot be read, so that the others are listed all the same."""
    try:
        return summarize_record(path, before)
    except Exception as error:  # each kind of store has errors of its own
        return RecordSummary(0, 0, "", f"{path} cannot be read: {error or type(error).__name__}")


def _current(run: Run) -> Run:
    summary = _summarize(run.path, run.summary)
    if summary is None:
        summary = RecordSummary(0, 0, "", "There is no record now: it was deleted, and comes back with the next look.")
    return replace(run, summary=summary)


def _parse_part(part: str) -> LogFolder:
    """Return a folder of `--logdir_spec`: a name before the first colon, unless that belongs to the path."""
    is_path = _URI.match(part) or part.startswith("/") or os.path.splitdrive(part)[0]
    name, colon, path = ("", ":", part) if is_path else part.partition(":")
    name, path = (name, path) if colon else ("", part)
    return LogFolder(path if _URI.match(path) else os.path.realpath(os.path.expanduser(path)), name)


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]
