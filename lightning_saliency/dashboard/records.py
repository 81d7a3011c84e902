"""The records that are looked at, opened once, and what the front end asks of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_saliency.dashboard.cache import Cache
from lightning_saliency.dashboard.payload import (
    deflated,
    describe_look,
    describe_methods,
    describe_samples,
    image_bytes,
    map_bytes,
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

_LOOK_SUFFIX = ".npz"


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
class _Samples:
    """What is kept of samples: their JSON, the names of the classes, and their images, deflated."""

    described: list[dict[str, Any]]
    class_names: tuple[str, ...] | None
    images: bytes

    @property
    def num_bytes(self) -> int:
        return len(self.images) + 1000 * len(self.described)


class OpenRecords:
    """Answers what the front end asks of records; several threads may ask at once.

    What is kept in memory is bounded: the records that were asked for last, and so many bytes made of them. Maps are
    read when they are asked for.
    """

    def __init__(self) -> None:
        self._records: OrderedDict[str, tuple[Record, threading.Lock]] = OrderedDict()
        self._lock = threading.Lock()
        self._looks: Cache[_Look] = Cache(_MOST_CACHED // 2)
        self._samples: Cache[_Samples] = Cache(_MOST_CACHED // 2)

    def about(self, name: str, path: str) -> bytes:
        """Return all but images and maps, as JSON.

        Args:
            name: The record's id.
            path: Its folder.

        Raises:
            RequestError: There is no record now.
        """
        record, looks, entries = self._current(path)
        problems = list(record.problems.values())
        described, class_names = [], None
        try:
            samples = self._samples_of(record, entries)
            described, class_names = samples.described, samples.class_names
        except RecordError as error:
            problems.append(str(error))
        parts: list[_Look] = []
        for index, file in enumerate(looks.files):
            try:
                key = (path, file, entries[file].stamp)
                parts.append(self._looks.get(key, lambda index=index: _describe(looks, index)))
            except RecordError as error:  # overwritten or damaged since it was listed
                problems.append(str(error))
        methods = {method["key"]: method for part in reversed(parts) for method in part.methods}
        order = dict.fromkeys(method["key"] for part in parts for method in part.methods)
        head = {
            "id": name,
            "name": name,
            "stamp": stamp_of(entries),
            "run": record.run or "",
            "class_names": class_names,
            "problems": list(dict.fromkeys(problems)),
            "superseded": len(record.superseded),
            "samples": described,
            "methods": [methods[key] for key in order],
        }
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
        places = {file.removesuffix(_LOOK_SUFFIX): index for index, file in enumerate(looks.files)}
        gone = [key for key in keys if key not in places]
        if gone:
            raise RequestError(404, f"The look {gone[0]} is not in the record: it was superseded or deleted.")
        return deflated(_maps(looks, method, [places[key] for key in keys]))

    def _current(self, path: str) -> tuple[Record, Looks, dict[str, Any]]:
        """Return a record as its folder is now, the looks that it has, and its files."""
        with self._lock:
            record, lock = self._records.get(path) or (None, threading.Lock())
            if record is None:
                record = Record(path)
            self._records[path] = record, lock
            self._records.move_to_end(path)
            while len(self._records) > _MOST_OPEN:
                self._records.popitem(last=False)
        with lock:
            record.refresh()
            if not record.entries:
                raise RequestError(404, "There is no record now: it was deleted, and comes back with the next look.")
            return record, record[:], record.entries

    def _samples_of(self, record: Record, entries: dict[str, Any]) -> _Samples:
        if SAMPLES not in entries:
            raise RecordError(f"{record.path} has no {SAMPLES}")
        return self._samples.get((record.path, entries[SAMPLES].stamp), lambda: _describe_samples(record))


def _describe(looks: Looks, index: int) -> _Look:
    look = looks.about(index)
    key = looks.files[index].removesuffix(_LOOK_SUFFIX)
    return _Look(to_json_bytes(describe_look(key, look)), describe_methods(look))


def _describe_samples(record: Record) -> _Samples:
    samples = record.read_samples()
    if samples is None:
        raise RecordError(record.problems.get(SAMPLES, f"{record.path} has no {SAMPLES}"))
    return _Samples(describe_samples(samples), samples.class_names, deflated(image_bytes(samples)))


def _maps(looks: Looks, method: str, places: Sequence[int]) -> Iterator[bytes]:
    count = 0
    for place in places:
        levels = looks.levels(place, method)
        if levels is not None:
            count += sum(level.size for level in levels.maps)
            if count > MOST_MAPS and len(places) > 1:
                raise RequestError(413, f"Ask for fewer looks at once: their maps have more than {MOST_MAPS} bytes.")
            yield from map_bytes(levels)
