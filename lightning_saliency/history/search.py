"""Where records are: that of a run's folder, and all below a log folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from lightning_saliency.history.archive import RecordError
from lightning_saliency.history.files import SAMPLES, is_look_name, read_samples_header
from lightning_saliency.history.folders import Folder, open_folder
from lightning_saliency.history.record import SUFFIX, Record, opened, stamp_of

_LEVELS = 3
"""How many levels of folders are searched below the one that is named."""

_MOST_FOLDERS = 1000
"""The most folders of a level that are searched: it may hold all images of a data set."""

_MOST_NAMED = 5
"""The most records in a message."""


@dataclass(frozen=True)
class FoundRecord:
    """Where a record is.

    Attributes:
        path: The record's folder.
        run: The folder that it is in, relative to the one that was searched, `"."` for that itself: as TensorBoard
            names a run.
        name: The record's name in it, without its suffix.
    """

    path: str
    run: str
    name: str


@dataclass(frozen=True)
class RecordSummary:
    """What is known of a record without reading its looks.

    Attributes:
        num_looks: The number of its files of looks.
        num_samples: The number of its samples; 0 where they cannot be read.
        depth: How many folders below its run's folder it is, as a callback's name with slashes puts it; mostly none.
        stamp: Another text after the record has changed; `stamp_of` its files.
        problem: Why it cannot be shown; empty where it can.
    """

    num_looks: int
    num_samples: int
    stamp: str
    problem: str = ""
    depth: int = 0


def find_records(path: str | os.PathLike[str]) -> Iterator[FoundRecord]:
    """Find all records below a folder, at any depth, or the one that the folder is.

    Args:
        path: A path, or the address of a remote store. It need not exist.

    Example:
        >>> from pathlib import Path
        >>> folder = getfixture("tmp_path")
        >>> for run in ("a", "b/version_0"):
        ...     Path(folder, run, "saliency.record").mkdir(parents=True)
        >>> [(found.run, found.name) for found in find_records(folder)]
        [('a', 'saliency'), ('b/version_0', 'saliency')]
    """
    root = open_folder(path)
    for relative, folders, files in root.walk(SUFFIX):
        folder = root.child(relative) if relative else root
        if not relative and SAMPLES in files:
            yield FoundRecord(root.path, ".", _record_name(root.path.rpartition("/")[2]))
        for name in folders:
            if name.endswith(SUFFIX):
                yield FoundRecord(folder.child(name).path, relative or ".", _record_name(name))


def summarize_record(path: str | os.PathLike[str], before: RecordSummary | None = None) -> RecordSummary | None:
    """Return what is known of a record without reading its looks; None where there is none.

    Args:
        path: The record's folder.
        before: What was returned last time, and is now, where nothing has changed.
    """
    folder = open_folder(path)
    entries = folder.entries()
    stamp = stamp_of(entries)
    if before is not None and before.stamp == stamp:
        return before
    num_looks = sum(map(is_look_name, entries))
    if SAMPLES not in entries:
        return RecordSummary(num_looks, 0, stamp, f"{folder.path} has no {SAMPLES}") if num_looks else None
    try:
        with opened(folder, SAMPLES, entries[SAMPLES]) as archive:
            header = read_samples_header(archive)
            return RecordSummary(num_looks, len(header.sizes), stamp, depth=header.name.count("/"))
    except RecordError as error:
        return RecordSummary(num_looks, 0, stamp, str(error))


def _record_name(name: str) -> str:
    return name.removesuffix(SUFFIX) or name


def load_record(path: str | os.PathLike[str]) -> Record:
    """Open what a run has shown.

    Args:
        path: The record's folder, the run's folder that holds it, or up to three levels above a folder with one such
            run, `lightning_logs`; a path, or the address of a remote store.

    Returns:
        The record, whose looks are read when they are asked for; `refresh` takes in what is written later.

    Raises:
        FileNotFoundError: There is no record.
        OSError: The folder cannot be listed.
        ValueError: There are several; the message names them.

    Example:
        >>> import numpy as np
        >>> from lightning_saliency.history import RecordedLook, RecordedSamples, RecordWriter
        >>> folder = getfixture("tmp_path")
        >>> writer = RecordWriter(folder, RecordedSamples((0,), (np.zeros((3, 8, 8), np.uint8),), (4,)))
        >>> writer.write(RecordedLook(
        ...     epoch=0, step=25, positions=(0,), predictions=(4,), probabilities=(0.7,), classes=(4,),
        ...     attributions={"grad_cam": (np.array([[0.0, 1.0], [4.0, 5.0]]),)}, reasons={"grad_cam": (None,)},
        ...     logits=np.zeros((1, 10)), scalars={"seconds": 0.5},
        ... ))
        >>> record = load_record(folder)
        >>> record.epochs, record.samples.labels, record.about(-1).scalars
        ([0], (4,), {'seconds': 0.5})
        >>> repr(record).partition("): ")[2], record[-1]
        ('1 sample, 1 look, epoch 0', RecordedLook(epoch 0, step 25): 1 sample, grad_cam)
        >>> record[-1].attributions["grad_cam"][0].tolist()
        [[0.0, 1.0], [4.0, 5.0]]
        >>> record.report().save(folder / "report.html")
    """
    folder = open_folder(path)
    entries = folder.entries()
    if _is_record(folder):
        return Record(folder.path)
    found = record_paths(folder) or _paths_below(folder)
    if len(found) > 1:
        raise ValueError(
            f"Expected `path` to be one record, got a folder of {len(found)}: {', '.join(found[:_MOST_NAMED])}"
            f"{' …' if len(found) > _MOST_NAMED else ''}. Pass one of these."
        )
    if not found:
        above = folder.parent
        is_above = _is_record(above) or bool(record_paths(above))
        raise FileNotFoundError(
            f"Expected `path` to be a record's folder or a run's folder that holds one, itself or up to {_LEVELS} "
            f"levels below, got {folder.path}{'' if entries else ', which is empty or not there'}."
            f"{f' There is one in the folder above: pass {above.path}.' if is_above else ''}"
        )
    return Record(found[0])


def _is_record(folder: Folder) -> bool:
    """Whether a folder is a record: by its name, unless it is empty, or by the samples that it holds."""
    entries = folder.entries()
    return (folder.path.endswith(SUFFIX) and bool(entries)) or SAMPLES in entries


def record_paths(folder: Folder) -> list[str]:
    """Return the paths of the records in a run's folder: what has the suffix of one and holds samples."""
    children = (folder.child(name) for name in sorted(folder.entries()) if name.endswith(SUFFIX))
    samples = ((child.path, child.entry(SAMPLES)) for child in children)
    return [path for path, entry in samples if entry is not None and entry.kind == "file"]


def _paths_below(folder: Folder) -> list[str]:
    """Return the paths of the records below a folder of runs, such as `lightning_logs`, a few levels deep."""
    level = [folder]
    for _ in range(_LEVELS):
        level = [
            parent.child(name)
            for parent in level
            for name, entry in sorted(parent.entries().items())
            if entry.kind == "folder"
        ][:_MOST_FOLDERS]
        found = [path for child in level for path in record_paths(child)]
        if found:
            return found
    return []
