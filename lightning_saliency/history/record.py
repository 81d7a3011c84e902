"""Reading a record: the looks that hold, those that were superseded, and the files that are passed over."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import overload

import lightning_saliency
from lightning_saliency.history.archive import Archive, RecordError, record_errors
from lightning_saliency.history.files import (
    SAMPLES,
    LookHeader,
    SamplesHeader,
    is_look_name,
    read_levels,
    read_look,
    read_look_header,
    read_look_summary,
    read_samples,
    read_samples_header,
)
from lightning_saliency.history.folders import Entry, Folder, open_folder
from lightning_saliency.history.limits import Sizes
from lightning_saliency.history.looks import LookSummary, RecordedLevels, RecordedLook, RecordedSamples, counted

SUFFIX = ".record"

_NO_LOOK = (-2, -1)
"""Comes before each look in the order of steps."""


@dataclass(frozen=True)
class _File:
    """A look's file as it was listed, and what it holds or why it is passed over."""

    name: str
    entry: Entry
    header: LookHeader | None
    problem: str = ""


class Looks(Sequence[RecordedLook]):
    """Looks on disk in the order of their steps, each read when it is asked for, so that many take no memory.

    Attributes:
        epochs: Of each look its epoch, None for the initial network.
        steps: Of each look its step.
        files: Of each look its file's name.
    """

    def __init__(self, folder: Folder, looks: Sequence[tuple[str, LookHeader]], sizes: Sizes) -> None:
        self._folder = folder
        self._looks = list(looks)
        self._sizes = sizes

    def __repr__(self) -> str:
        epochs = ["initial" if epoch is None else f"epoch {epoch}" for epoch in self.epochs]
        span = f", {' to '.join(dict.fromkeys([epochs[0], epochs[-1]]))}" if epochs else ""
        return f"{counted(len(self), 'look')}{span}"

    @property
    def epochs(self) -> list[int | None]:
        """Of each look its epoch, None for the initial network."""
        return [header.epoch for _, header in self._looks]

    @property
    def steps(self) -> list[int]:
        """Of each look its step."""
        return [header.step for _, header in self._looks]

    @property
    def files(self) -> list[str]:
        """Of each look its file's name."""
        return [name for name, _ in self._looks]

    def about(self, index: int) -> LookSummary:
        """Return the small parts of a look without reading its maps.

        Raises:
            RecordError: The file cannot be read.
        """
        name, _ = self._looks[index]
        with opened(self._folder, name) as archive:
            return read_look_summary(archive, name, self._sizes)

    def levels(self, index: int, method: str) -> RecordedLevels | None:
        """Return the maps of one method at a look as they are stored; None where the look has none of it.

        Raises:
            RecordError: The file cannot be read.
        """
        name, _ = self._looks[index]
        with opened(self._folder, name) as archive:
            return read_levels(archive, name, self._sizes, method)

    def __len__(self) -> int:
        return len(self._looks)

    @overload
    def __getitem__(self, index: int) -> RecordedLook: ...
    @overload
    def __getitem__(self, index: slice) -> Looks: ...
    def __getitem__(self, index: int | slice) -> RecordedLook | Looks:
        if isinstance(index, slice):
            return Looks(self._folder, self._looks[index], self._sizes)
        name, _ = self._looks[index]
        with opened(self._folder, name) as archive:
            return read_look(archive, name, self._sizes)


class Record(Looks):
    """What a run has shown: its samples, and its looks in the order of their steps.

    Opening one never fails for what the folder holds: what cannot be read is passed over and stands in `problems`.
    Reading a look whose maps are damaged raises a `RecordError`.

    Args:
        path: The record's folder, here or in a remote store. It need not exist yet.

    Attributes:
        path: The folder, as text.
        run: Which run it is of, a text that no other run has; None without samples.
        problems: The files that are passed over, by name, each with the reason.
        superseded: The looks of a part of the run that was given up when it was resumed from before them.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(open_folder(path), (), {})
        self.path = self._folder.path
        self.problems: dict[str, str] = {}
        self.superseded = Looks(self._folder, (), {})
        self._files: dict[str, _File] = {}
        self._samples_entry: Entry | None = None
        self._samples_header: SamplesHeader | None = None
        self._samples: RecordedSamples | None = None
        self._last, self._latest_attempt = _NO_LOOK, -1
        self.refresh()

    def __repr__(self) -> str:
        if self._samples_header is None:
            return f"Record({self.path!r}): no samples yet"
        problems = f", {counted(len(self.problems), 'file')} passed over" if self.problems else ""
        return f"Record({self.path!r}): {counted(len(self._sizes), 'sample')}, {super().__repr__()}{problems}"

    @property
    def run(self) -> str | None:
        """Which run it is of."""
        return None if self._samples_header is None else self._samples_header.run

    @property
    def samples(self) -> RecordedSamples | None:
        """What is looked at, read when it is asked for; None where the record has no samples that can be read.

        Raises:
            RecordError: The images are damaged.
        """
        if self._samples is None:
            self._samples = self.read_samples()
        return self._samples

    def read_samples(self) -> RecordedSamples | None:
        """Return what `samples` is, without keeping it in memory.

        Raises:
            RecordError: The images are damaged.
        """
        if self._samples_header is None:
            return None
        with opened(self._folder, SAMPLES) as archive:
            return read_samples(archive)

    @property
    def entries(self) -> dict[str, Entry]:
        """Its files as they were listed, by name; each has another stamp after it was overwritten."""
        own = {} if self._samples_entry is None else {SAMPLES: self._samples_entry}
        return own | {name: file.entry for name, file in self._files.items()}

    def report(
        self, path: str | os.PathLike[str] | None = None, *, max_bytes: int = 20_000_000
    ) -> lightning_saliency.dashboard.Report:
        """Return all looks as one HTML page, which a notebook shows below its cell.

        Args:
            path: The file that it is written to, if any.
            max_bytes: The most bytes of the page: beyond it maps with many pixels are reduced, then looks left out, and
                the page says so.

        Returns:
            The page, with `save(path)`.

        Raises:
            ValueError: There is no look yet, or the limit is too small.
        """
        name = self._folder.parent.path.replace(os.sep, "/").rpartition("/")[2]
        report = lightning_saliency.dashboard.make_report({name: self}, max_bytes=max_bytes)
        if path is not None:
            report.save(path)
        return report

    @property
    def next_attempt(self) -> int:
        """The number of the attempt that is begun when the run is resumed now."""
        return 1 + self._latest_attempt

    def refresh(self, name: str | None = None) -> None:
        """Take in what was written, overwritten or deleted since.

        Args:
            name: Look at the file of this name only, which takes no longer in a long record; None for all.

        Raises:
            OSError: The folder cannot be listed.
        """
        if name is None:
            self._take_folder()
        elif name != SAMPLES:
            self._take_look(name)
        elif self._samples_header is None or self._samples_entry != self._folder.entry(SAMPLES):
            self._take_folder()

    def _take_folder(self) -> None:
        entries = self._folder.entries()
        samples_entry, header_before = entries.pop(SAMPLES, None), self._samples_header
        if samples_entry != self._samples_entry or header_before is None:
            self._take_samples(samples_entry)
        known = self._files if self._samples_header == header_before else {}  # it tells which looks are of the record
        files = (self._file(name, entry, known.get(name)) for name, entry in sorted(entries.items()))
        self._files = {file.name: file for file in files if file is not None}
        samples_problem = {SAMPLES: self.problems[SAMPLES]} if SAMPLES in self.problems else {}
        self.problems = samples_problem | {file.name: file.problem for file in self._files.values() if file.problem}
        self._sort()

    def _take_look(self, name: str) -> None:
        entry, before = self._folder.entry(name), self._files.pop(name, None)
        file = None if entry is None else self._file(name, entry, before)
        self.problems.pop(name, None)
        if file is not None:
            self._files[name] = file
        if file is not None and file.problem:
            self.problems[name] = file.problem
        if before is None and file is not None and file.header is not None and file.header.when > self._last:
            self._append(name, file.header)
        else:
            self._sort()

    def _take_samples(self, entry: Entry | None) -> None:
        self._samples_entry, self._samples_header, self._samples = entry, None, None
        self.problems.pop(SAMPLES, None)
        if entry is not None:
            try:
                with opened(self._folder, SAMPLES, entry) as archive:
                    self._samples_header = read_samples_header(archive)
            except RecordError as error:
                if not _is_gone(error):
                    self.problems[SAMPLES] = str(error)
        self._sizes = {} if self._samples_header is None else self._samples_header.sizes

    def _file(self, name: str, entry: Entry, before: _File | None) -> _File | None:
        """What a file holds, read anew if it has changed; None where it is gone since it was listed."""
        if before is not None and before.header is not None and before.entry == entry:
            return before
        if not is_look_name(name):
            return _File(name, entry, None, f"{name} is no file of a record")
        try:
            with opened(self._folder, name, entry) as archive:
                header = read_look_header(archive, name, self._sizes)
        except RecordError as error:
            return None if _is_gone(error) else _File(name, entry, None, str(error))
        if self.run is not None and header.run != self.run:
            return _File(name, entry, None, f"{name} is of another run")
        return _File(name, entry, header)

    def _sort(self) -> None:
        """Put the looks in the order of their steps."""
        self._looks, self.superseded = [], Looks(self._folder, (), self._sizes)
        self._last, self._latest_attempt = _NO_LOOK, -1
        looks = [(file.name, file.header) for file in self._files.values() if file.header]
        for name, header in sorted(looks, key=lambda look: look[1].when):
            self._append(name, header)

    def _append(self, name: str, header: LookHeader) -> None:
        """Take the look after all others; a later attempt that had one before it superseded it."""
        looks = self._looks if header.attempt >= self._latest_attempt else self.superseded._looks
        looks.append((name, header))
        self._last, self._latest_attempt = header.when, max(self._latest_attempt, header.attempt)


def stamp_of(entries: Mapping[str, Entry]) -> str:
    """Return a text for what a folder holds, another one after any of it has changed."""
    listed = sorted((name, entry.kind, entry.stamp) for name, entry in entries.items())
    return hashlib.blake2s(repr(listed).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


@contextmanager
def opened(folder: Folder, name: str, entry: Entry | None = None) -> Iterator[Archive]:
    """Open a file of a record; whatever goes wrong while it is read becomes a `RecordError` that names it."""
    with record_errors(folder.file_path(name)):
        if entry is not None and entry.kind != "file":
            raise ValueError("it is no file")
        with folder.open(name) as file:
            yield Archive(file)


def _is_gone(error: RecordError) -> bool:
    return isinstance(error.__cause__, FileNotFoundError)
