"""What a run has shown, on disk, and read back.

A record is a folder of plain files beside the event file, `saliency.record/`: `samples.npz`, and one file a look, which
`numpy.load(path, allow_pickle=False)` opens too. Needs NumPy alone, and fsspec where the folder is in a remote store.

In `samples.npz`: `images/<H>x<W>`, `(n, 3, H, W)` uint8, one array for each size. In a look's file:
`maps/<method>/<h>x<w>`, `(n, h, w)` uint8, one array for each shape; `ranges/<method>`, `(n, 2)` float32, what the
levels 0 and 255 stand for; `logits`, `(n, K)` float32. Volumes have three lengths in place of two, and one or three
channels; signals have one length, and as many channels as are shown. Where there are boxes, both have `boxes`,
`(n, m, 4)` float32, x1, y1, x2, y2 in pixels of the image, filled up with what is not a number: those of the true
objects in `samples.npz`, those of what is detected in a look's file, the explained class's first; `box_classes` in
`about` are their classes. In each file `about` holds all else as JSON in UTF-8, which of the samples has which size
among it. It is read without the others.

The rules:

- A file is written beside, under a hidden name, and put in place in one step (in a remote store: one upload). So a
  reader sees it whole or not at all, several may write in one folder at once, and what a killed process leaves is
  ignored, and removed when the run is resumed.
- A file is never changed. A look at the same epoch and step is put over the earlier one.
- Samples and maps may differ in size.
- A resumed run goes on in its record and deletes nothing. Each look has the number of its attempt; a look is superseded
  if a later attempt has one at the same or an earlier epoch and step. `Record` lists the others.
- A record is one run's, with the same samples throughout. Another run in the same folder gets one of its own,
  `saliency-2.record`, and so do other samples.
- A resumed run whose folder has no record of it copies the looks so far from where it was before.
- Damage is never shown: a file is read as it was written, or raises a `RecordError` that names it.
- Nothing is unpacked that is larger than a look can be, and nothing unpickled.
- What else is in the folder, or cannot be read, is passed over; `Record.problems` says why.
- A record that is deleted while the run goes on begins again; readers see it go and come.
"""

from lightning_saliency.history.archive import RecordError
from lightning_saliency.history.looks import LookFacts, LookSummary, RecordedLevels, RecordedLook, RecordedSamples
from lightning_saliency.history.record import SUFFIX, Looks, Record, stamp_of
from lightning_saliency.history.search import FoundRecord, RecordSummary, find_records, load_record, summarize_record
from lightning_saliency.history.writer import RecordWriter

__all__ = [
    "SUFFIX",
    "FoundRecord",
    "LookFacts",
    "LookSummary",
    "Looks",
    "Record",
    "RecordError",
    "RecordSummary",
    "RecordWriter",
    "RecordedLevels",
    "RecordedLook",
    "RecordedSamples",
    "find_records",
    "load_record",
    "stamp_of",
    "summarize_record",
]
