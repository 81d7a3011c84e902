"""Writing a record: one run's looks, also when it is resumed, or when its folder belongs to another run already."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any

from lightning_saliency.history.archive import RecordError
from lightning_saliency.history.files import SAMPLES, look_name, pack_look, pack_samples
from lightning_saliency.history.folders import Folder, open_folder
from lightning_saliency.history.looks import RecordedLook, RecordedSamples
from lightning_saliency.history.record import SUFFIX, Record
from lightning_saliency.history.search import record_paths


class RecordWriter:
    """Writes what a run shows, look by look.

    A run begins a record of its own: `saliency.record`, or where that is another run's, `saliency-2.record` and so on.
    A resumed run, which is one that is given the `state_dict` of its earlier writer, goes on in its record. Where its
    folder has none, that record's looks up to `resumed_step` are copied into a new one first, if they can be found.

    Args:
        folder: The run's folder, a path or the address of a remote store; it is made.
        samples: What is looked at, as far as it is known.
        name: The record's name without its suffix.
        state: What `state_dict` returned before the run was interrupted; None for a new run.
        resumed_step: The step that the run is resumed from; None takes along all looks.

    Attributes:
        record: What has been written, to be read.

    Raises:
        OSError: The folder cannot be written to.

    Example:
        >>> import numpy as np
        >>> samples = RecordedSamples((0,), (np.zeros((3, 8, 8), np.uint8),), (4,))
        >>> for _ in range(2):
        ...     print(RecordWriter(getfixture("tmp_path"), samples).record.path.rpartition("/")[2])
        saliency.record
        saliency-2.record
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        samples: RecordedSamples,
        *,
        name: str = "saliency",
        state: Mapping[str, Any] | None = None,
        resumed_step: int | None = None,
    ) -> None:
        self._run_folder = open_folder(folder)
        self._name = name
        # drawn by the operating system, so that no random state of the training moves on
        self._run: str = uuid.uuid4().hex if state is None else state["run"]
        self._samples = samples
        found = None if state is None else self._find(state["path"])
        if found is None:
            self.record = self._claim()
            if state is not None:
                self._copy_looks(state["path"], resumed_step)
            self._put_samples()
        else:
            self.record, recorded = found
            self._samples = recorded
            self._folder.sweep()
            self.write_samples(samples)
        self._attempt = self.record.next_attempt

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run finds its record by."""
        return {"run": self._run, "path": self.record.path}

    def write_samples(self, samples: RecordedSamples) -> None:
        """Write those of the samples that the record does not have yet.

        Where it has others in their place, the looks that follow get a record of their own.

        Args:
            samples: All, or those that are known.
        """
        if not samples.agrees_with(self._samples):
            self._samples = samples
            self.record, self._attempt = self._claim(), 0
            self._put_samples()
            return
        merged = samples.merged_with(self._samples)
        if len(merged) > len(self._samples) or merged.class_names != self._samples.class_names:
            self._samples = merged
            self._put_samples()

    def write(self, look: RecordedLook) -> None:
        """Write a look, over that of the same epoch and step.

        Args:
            look: Of samples that were written before.

        Raises:
            ValueError: The look is of other samples, or its maps are too large.
            OSError: It cannot be written. What was written before is as it was.
        """
        unknown = sorted(set(look.positions) - set(self._samples.positions))
        if unknown:
            raise ValueError(f"Expected a look at samples that were written, {self._samples.positions}, got {unknown}.")
        self._keep_record()
        content = pack_look(look, self._run, self._attempt, self._samples.sizes)
        name = look_name(look.epoch, look.step)
        self._folder.put(name, content)
        self.record.refresh(name)

    @property
    def _folder(self) -> Folder:
        return open_folder(self.record.path)

    def _find(self, last_path: str) -> tuple[Record, RecordedSamples] | None:
        """Return this run's record in its folder, if there is one of the same samples; rather the one of last time."""
        for path in sorted(record_paths(self._run_folder), key=lambda path: path != last_path):
            found = self._open(path)
            if found is not None:
                return found
        return None

    def _open(self, path: str) -> tuple[Record, RecordedSamples] | None:
        """Return a record and its samples, if it is this run's and of the same samples."""
        try:
            record = Record(path)
            samples = record.samples if record.run == self._run else None
        except (RecordError, OSError):  # whether it is this run's, or whether the samples are the same, cannot be known
            return None
        return (record, samples) if samples is not None and samples.agrees_with(self._samples) else None

    def _claim(self) -> Record:
        """Return a new record, whose folder no other run has."""
        number, folder = 1, self._run_folder.child(f"{self._name}{SUFFIX}")
        while not folder.make():
            number += 1
            folder = self._run_folder.child(f"{self._name}-{number}{SUFFIX}")
        return Record(folder.path)

    def _copy_looks(self, path: str, resumed_step: int | None) -> None:
        """Take along what the run has shown elsewhere."""
        found = self._open(path)
        if found is None:
            return
        earlier, samples = found
        for name, step in zip(earlier.files, earlier.steps, strict=True):
            if resumed_step is None or step <= resumed_step:
                self._folder.put(name, open_folder(earlier.path).read(name))
        self._samples = self._samples.merged_with(samples)

    def _keep_record(self) -> None:
        """Write the samples again where the record was deleted; begin another one where another run has its place."""
        self.record.refresh(SAMPLES)
        if self.record.run == self._run:
            return
        if self.record.run is not None:
            self.record, self._attempt = self._claim(), 0
        self._put_samples()

    def _put_samples(self) -> None:
        """Put the samples, without which no record is this run's: after what was copied into it."""
        self._folder.put(SAMPLES, pack_samples(self._samples, self._run, self._name))
        self.record.refresh()
