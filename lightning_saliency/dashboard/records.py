"""The records that are looked at, opened once, and what the front end asks of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightning_saliency.dashboard.cache import Cache
from lightning_saliency.dashboard.payload import (
    deflated,
    describe_look,
    describe_methods,
    describe_record,
    describe_samples,
    join_methods,
    look_key,
    map_bytes,
    pack_images,
    peaks_of,
    to_json_bytes,
)
from lightning_saliency.history import Looks, Record, RecordError, stamp_of
from lightning_saliency.history.files import SAMPLES

_MOST_OPEN = 16
"""The most records that are kept open: the places of all their looks are in memory."""

_MOST_CACHED = 2**26
"""The most bytes of what is kept of records, images and looks together."""

MOST_MAPS = 2**26
"""The most bytes of maps in an answer, unless a single look has more."""


class RequestError(Exception):
    """What cannot be answered, with the text that a person reads.

    Args:
        status: Of HTTP.
        text: What is wrong.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class _Look:
    """What is kept of a look: its JSON, and its methods."""

    text: bytes
    methods: list[dict[str, Any]]

    @property
    def num_bytes(self) -> int:
        return 2 * len(self.text)


@dataclass(frozen=True)
class _Text:
    """What is kept as JSON."""

    text: bytes

    @property
    def num_bytes(self) -> int:
        return 500 + len(self.text)


@dataclass(frozen=True)
class _Samples:
    """What is kept of samples: their JSON, the names of the classes, and their images, deflated."""

    described: list[dict[str, Any]]
    class_names: tuple[str, ...] | None
    images: bytes

    @property
    def num_bytes(self) -> int:
        return len(self.images) + 1000 * len(self.described)


_NO_SAMPLES = _Samples([], None, b"")


class _Opened:
    """A record that is kept open, and the lock of the thread that brings it up to date."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._record: Record | None = None

    def refreshed(self, path: str) -> Record:
        if self._record is None:
            self._record = Record(path)
        else:
            self._record.refresh()
        return self._record


class OpenRecords:
    """Answers what the front end asks of records; several threads may ask at once.

    What is kept in memory is bounded: the records that were asked for last, and so many bytes made of them. Maps are
    read when they are asked for.
    """

    def __init__(self) -> None:
        self._records: OrderedDict[str, _Opened] = OrderedDict()
        self._lock = threading.Lock()
        self._looks: Cache[_Look] = Cache(_MOST_CACHED // 2)
        self._samples: Cache[_Samples] = Cache(_MOST_CACHED // 2)
        self._peaks: Cache[_Text] = Cache(_MOST_CACHED // 8)

    def about(self, name: str, path: str) -> bytes:
        """Return all but images and maps, as JSON.

        Args:
            name: The record's id.
            path: Its folder.

        Raises:
            RequestError: There is no record now.
        """
        record, looks, entries = self._current(path)
        problems, samples = dict(record.problems), _NO_SAMPLES
        try:
            samples = self._samples_of(record, entries)
        except RecordError as error:
            problems[SAMPLES] = str(error)
        parts: list[_Look] = []
        for index, file in enumerate(looks.files):
            try:
                key = (path, file, entries[file].stamp)
                parts.append(self._looks.get(key, partial(_describe, looks, index)))
            except RecordError as error:  # overwritten or damaged since it was listed
                problems[file] = str(error)
        methods = join_methods(part.methods for part in parts)
        head = describe_record(
            name, record, stamp_of(entries), samples.described, samples.class_names, methods, problems
        )
        return b'%s,"looks":[%s]}' % (to_json_bytes(head)[:-1], b",".join(part.text for part in parts))

    def images(self, path: str) -> bytes:
        """Return the images of all samples, deflated.

        Raises:
            RequestError: There is no record now.
            RecordError: The images are damaged.
        """
        record, _, entries = self._current(path)
        return self._samples_of(record, entries).images

    def maps(self, path: str, method: str, keys: Sequence[str]) -> bytes:
        """Return the maps of a method at some looks, one after the other, deflated; nothing of a look without it.

        Args:
            path: The record's folder.
            method: The method.
            keys: Of looks, in any order.

        Raises:
            RequestError: A look is not there, or they are too many at once.
            RecordError: The maps are damaged.
        """
        _, looks, _ = self._current(path)
        places = {look_key(file): index for index, file in enumerate(looks.files)}
        gone = [key for key in keys if key not in places]
        if gone:
            raise RequestError(404, f"The look {gone[0]} is not in the record: it was superseded or deleted.")
        return deflated(_maps(looks, method, [places[key] for key in keys]))

    def peaks(self, path: str, method: str) -> bytes:
        """Return of each look that has a method what stands for 1 of its maps, as JSON; see `peaks_of`.

        Args:
            path: The record's folder.
            method: The method.

        Raises:
            RequestError: There is no record now.
        """
        _, looks, entries = self._current(path)
        parts = []
        for index, file in enumerate(looks.files):
            with suppress(RecordError):  # `about` says so
                key = (path, file, entries[file].stamp, method)
                parts.append(self._peaks.get(key, partial(_peaks, looks, index, method)).text)
        return b'{"peaks":{%s}}' % b",".join(filter(None, parts))

    def is_open(self, path: str) -> bool:
        """Whether a record was asked for lately."""
        return path in self._records

    def _current(self, path: str) -> tuple[Record, Looks, dict[str, Any]]:
        """Return a record as its folder is now, the looks that it has, and its files."""
        with self._lock:
            opened = self._records.setdefault(path, _Opened())
            self._records.move_to_end(path)
            while len(self._records) > _MOST_OPEN:
                self._records.popitem(last=False)
        with opened.lock:
            record = opened.refreshed(path)
            if not record.entries:
                raise RequestError(404, "There is no record now: it was deleted, and comes back with the next look.")
            return record, record[:], record.entries

    def _samples_of(self, record: Record, entries: dict[str, Any]) -> _Samples:
        if SAMPLES not in entries:
            raise RecordError(f"{record.path} has no {SAMPLES}")
        return self._samples.get((record.path, entries[SAMPLES].stamp), partial(_describe_samples, record))


def _describe(looks: Looks, index: int) -> _Look:
    look = looks.about(index)
    return _Look(to_json_bytes(describe_look(look_key(looks.files[index]), look)), describe_methods(look))


def _peaks(looks: Looks, index: int, method: str) -> _Text:
    levels = looks.levels(index, method)
    key = to_json_bytes(look_key(looks.files[index]))
    return _Text(b"" if levels is None else key + b":" + to_json_bytes(peaks_of(levels)))


def _describe_samples(record: Record) -> _Samples:
    samples = record.read_samples()
    if samples is None:
        raise RecordError(record.problems.get(SAMPLES, f"{record.path} has no {SAMPLES}"))
    return _Samples(describe_samples(samples), samples.class_names, pack_images(samples))


def _maps(looks: Looks, method: str, places: Sequence[int]) -> Iterator[bytes]:
    count = 0
    for place in places:
        levels = looks.levels(place, method)
        if levels is not None:
            count += sum(level.size for level in levels.maps)
            if count > MOST_MAPS and len(places) > 1:
                raise RequestError(413, f"Ask for fewer looks at once: their maps have more than {MOST_MAPS} bytes.")
            yield from map_bytes(levels)
