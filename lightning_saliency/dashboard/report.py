"""The report: what runs have shown, in one HTML file of a bounded size."""

from __future__ import annotations

import base64
import html
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from lightning_saliency.dashboard.page import make_page
from lightning_saliency.dashboard.payload import (
    deflated,
    describe_look,
    describe_methods,
    describe_record,
    describe_run,
    describe_samples,
    join_methods,
    look_key,
    map_bytes,
    pack_images,
    peaks_of,
    to_json_bytes,
)
from lightning_saliency.dashboard.reduction import FACTORS, Reduction
from lightning_saliency.history import Record, RecordError, stamp_of
from lightning_saliency.history.folders import open_folder

MAX_BYTES = 20_000_000
"""The most bytes of a report where nothing else is said."""


_MOST_NAMED = 3
"""The most runs in a title."""


@dataclass(frozen=True)
class Report:
    """A page that shows what runs have shown; a notebook shows it below its cell.

    Attributes:
        html: The page, which needs neither a server nor a network.
        note: What was left out so that it stays below its limit; empty where all is there.
    """

    html: str
    note: str = ""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file, whole or not at all, over one of this name.

        Args:
            path: Here or in a remote store; the folder is made where it is missing.
        """
        folder, name = os.path.split(os.fspath(path))
        open_folder(folder or ".").put(name, self.html.encode())

    def __repr__(self) -> str:
        return f"Report: {len(self.html) / 1e6:.1f} MB{f', {self.note}' if self.note else ''}"

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own, which nothing of the notebook can disturb."""
        style = "width:100%;height:720px;border:0"
        page = html.escape(self.html).encode("ascii", "xmlcharrefreplace").decode()  # whatever the page around is in
        return f'<iframe sandbox="allow-scripts" style="{style}" srcdoc="{page}"></iframe>'


def make_report(records: Mapping[str, Record], *, max_bytes: int = MAX_BYTES) -> Report:
    """Return the report of records.

    A page that would be larger than the limit has maps of fewer pixels, 2, 4, 8 or 16 times reduced in length by
    averaging, then fewer looks, evenly spread; it says so. Images are reduced only where they alone take more than
    half of the limit.

    Args:
        records: By the names of their runs.
        max_bytes: The most bytes of the page.

    Raises:
        ValueError: There is nothing to show, or the limit is too small even so.
    """
    shown = {name: _Shown(record) for name, record in records.items() if len(record)}
    if not shown:
        raise ValueError(f"Expected records with looks, got {', '.join(map(repr, records.values())) or 'none'}.")
    title = f"Saliency: {', '.join(list(shown)[:_MOST_NAMED])}{' …' if len(shown) > _MOST_NAMED else ''}"
    empty = len(make_page(title, b""))
    reduction = _plan(shown, max_bytes - empty)
    while True:
        note = _note(shown, reduction, max_bytes)
        page = make_page(title, _data(shown, reduction, note))
        if len(page) <= max_bytes:
            return Report(page, note)
        reduction = _smaller(reduction, shown, len(page), max_bytes, empty)


class _Shown:
    """A record with its samples, and what it takes in a page."""

    def __init__(self, record: Record) -> None:
        samples = record.read_samples()
        if samples is None:
            raise RecordError(f"{record.path} has no samples")
        self.record, self.samples, self.looks = record, samples, record[:]

    def num_fixed(self, factor: int) -> int:
        """Return the bytes of the images in a page."""
        return _in_page(len(pack_images(Reduction(images=factor).samples(self.samples))))

    def num_of_looks(self, factor: int) -> int:
        """Estimate the bytes of all looks in a page by those of a few."""
        few = Reduction(most_looks=4).places(len(self.looks))
        parts = [part for part in (self._look(place, Reduction(maps=factor)) for place in few) if part is not None]
        texts = (to_json_bytes([part.described, part.maps, part.peaks]) for part in parts)
        return sum(map(len, texts)) * len(self.looks) // max(1, len(parts))

    def data(self, name: str, reduction: Reduction) -> dict[str, Any]:
        """Return what the front end reads of the record."""
        problems = dict(self.record.problems)
        places = reduction.places(len(self.looks))
        parts = [part for part in (self._look(place, reduction, problems) for place in places) if part is not None]
        samples = reduction.samples(self.samples)
        methods = join_methods(part.methods for part in parts)
        keys = [method["key"] for method in methods]
        described, stamp = describe_samples(samples), stamp_of(self.record.entries)
        head = describe_record(name, self.record, stamp, described, samples.class_names, methods, problems)
        return {
            "about": {**head, "looks": [part.described for part in parts]},
            "images": _text(pack_images(samples)),
            "peaks": {key: {part.key: part.peaks[key] for part in parts if key in part.peaks} for key in keys},
            "maps": {key: {part.key: part.maps[key] for part in parts if key in part.maps} for key in keys},
        }

    def _look(self, place: int, reduction: Reduction, problems: dict[str, str] | None = None) -> _Part | None:
        """Return what a page has of a look; None where it is damaged, which the problems then say."""
        file = self.looks.files[place]
        key = look_key(file)
        try:
            look = self.looks.about(place)
            found = {method: self.looks.levels(place, method) for method in look.shapes}
        except RecordError as error:
            if problems is not None:
                problems[file] = str(error)
            return None
        levels = {method: reduction.levels(own) for method, own in found.items() if own is not None}
        return _Part(
            key,
            describe_look(key, reduction.summary(look, self.samples.sizes)),
            describe_methods(look),
            {method: _text(deflated(map_bytes(own))) for method, own in levels.items()},
            {method: peaks_of(own) for method, own in levels.items()},
        )


class _Part(NamedTuple):
    """What a page has of a look."""

    key: str
    described: dict[str, Any]
    methods: list[dict[str, Any]]
    maps: dict[str, str]
    peaks: dict[str, list[tuple[float, float] | None]]


def _plan(shown: Mapping[str, _Shown], budget: int) -> Reduction:
    """Return the least reduction after which all may fit."""
    records = list(shown.values())
    for images in FACTORS:
        fixed = sum(own.num_fixed(images) for own in records)
        if 2 * fixed <= budget:
            break
    left = max(0, budget - fixed)
    for maps in FACTORS:
        needed = sum(own.num_of_looks(maps) for own in records)
        if needed <= left:
            return Reduction(maps, images)
    most = max(len(own.looks) for own in records)
    return Reduction(maps, images, max(2, most * left // needed))


def _smaller(reduction: Reduction, shown: Mapping[str, _Shown], page: int, most_bytes: int, empty: int) -> Reduction:
    """Return what shows fewer looks, after a page was larger than was estimated."""
    most = max(len(reduction.places(len(own.looks))) for own in shown.values())
    if most <= 2:
        raise ValueError(
            f"Expected `max_bytes` to be at least {page}, which two looks of each run take, got {most_bytes}. "
            "Raise it, or show fewer runs."
        )
    fraction = max(0.0, (most_bytes - empty) / (page - empty))
    return replace(reduction, most_looks=max(2, min(most - 1, int(most * fraction))))


def _note(shown: Mapping[str, _Shown], reduction: Reduction, max_bytes: int) -> str:
    """Say what is left out."""
    all_looks = sum(len(own.looks) for own in shown.values())
    kept = sum(len(reduction.places(len(own.looks))) for own in shown.values())
    maps = f"maps with many pixels are reduced to 1/{reduction.maps} in length, or to 16 pixels"
    images = f"images are reduced to 1/{reduction.images} in length, or to 48 pixels"
    parts = [
        maps if reduction.maps > 1 else "",
        images if reduction.images > 1 else "",
        f"{kept} of {all_looks} looks are shown" if kept < all_looks else "",
    ]
    text = "; ".join(filter(None, parts))
    return text and f"{text[0].upper()}{text[1:]}, so that this page has at most {max_bytes / 1e6:.3g} MB."


def _data(shown: Mapping[str, _Shown], reduction: Reduction, note: str) -> bytes:
    """Return the data of a page, as the front end reads it."""
    data = {name: own.data(name, reduction) for name, own in shown.items()}
    runs = [
        describe_run(name, len(own["about"]["looks"]), len(own["about"]["samples"]), own["about"]["stamp"], "")
        for name, own in data.items()
    ]
    parts = {part: {name: own[part] for name, own in data.items()} for part in ("about", "images", "peaks", "maps")}
    return to_json_bytes({"runs": {"runs": runs, "is_scanning": False, "note": note}, **parts})


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _in_page(num_bytes: int) -> int:
    return 4 * math.ceil(num_bytes / 3)
