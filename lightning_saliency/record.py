"""What a run has shown so far, on disk: appended moment by moment, readable at any time, also after a kill.

A record is one file of blocks. A block is a header (a mark, the version, the kind, epoch, step, the payload's length
and a checksum of all of it) and a payload, a zip archive of NumPy arrays (`.npy`), each deflated. Blocks are only ever
appended. A block that a killed process left unfinished is the last one: readers pass over it, and the next writer cuts
it off. A moment that a resumed run comes to again supersedes those of the same and of later epochs and steps.

Attributions are stored at their native resolution with 8 bits a value, from each map's minimum to its maximum, which
are stored in float32: within 1/510 of that range. Before compression a moment takes `h·w + 8` bytes for each map, `4·K`
for each sample's K logits, and at most 4 KiB for the rest.
"""

from __future__ import annotations

import io
import json
import struct
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from zipfile import ZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

VERSION = 2
SUFFIX = ".record"

_MARK = b"LSAL"
_HEADER = struct.Struct("<4sHHqqQI")  # mark, version, kind, epoch, step, length, checksum
_KINDS: tuple[Literal["samples", "moment"], ...] = ("samples", "moment")
_UNTRAINED = -1  # in the place of an epoch

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Moment:
    """What was seen at one moment of a run.

    Attributes:
        epoch: From 0; None for the untrained network.
        step: As on the axis of Lightning's scalars.
        rows: Which of the record's samples these are: all, but where sanity checking or a time budget saw a part.
        attributions: The raw maps by method, `(n, 1, h, w)` float32, to 8 bits of its range.
        logits: `(n, K)` float32.
        classes: The explained classes `(n,)`, or None where the target was a callable.
        scalars: What was logged at this moment.
        layers: The target layers' names.
        explained: In words, which class is explained.
        time: Seconds since the epoch of Unix.
    """

    epoch: int | None
    step: int
    rows: list[int]
    attributions: dict[str, Tensor]
    logits: Tensor
    classes: Tensor | None = None
    scalars: dict[str, float] = field(default_factory=dict)
    layers: list[str] = field(default_factory=list)
    explained: str = ""
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class RecordedSamples:
    """The samples as they are shown.

    Attributes:
        rows: Their places among all samples: 0 to N − 1, unless some have not been seen yet.
        images: `(N, 3, H, W)` uint8.
        labels: The true class of each, or None where there is none.
        class_names: What classes are called, or None.
    """

    rows: list[int]
    images: Tensor
    labels: list[int | None]
    class_names: list[str] | None = None

    def __len__(self) -> int:
        return len(self.rows)


class Record:
    """What a run has shown: its samples, and its moments in the order of their steps.

    A sequence of `Moment`, each read from the file when it is asked for, so that a long record takes no memory.

    Attributes:
        path: The file.
        samples: What was looked at; None before the first.
        epochs: Of each moment its epoch, None for the untrained network.
        steps: Of each moment its step.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.samples: RecordedSamples | None = None
        self._blocks: list[_Block] = []
        self._end = 0
        self.refresh()

    @property
    def epochs(self) -> list[int | None]:
        """Of each moment its epoch, None for the untrained network."""
        return [None if block.epoch == _UNTRAINED else block.epoch for block in self._blocks]

    @property
    def steps(self) -> list[int]:
        """Of each moment its step."""
        return [block.step for block in self._blocks]

    def refresh(self) -> None:
        """Take in what was appended since.

        Raises:
            ValueError: The file is no record, or one of another version.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for block in _blocks(file, self._end):
                self._take(block, file)
                self._end = block.end

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> Moment:
        block = self._blocks[index]
        with self.path.open("rb") as file:
            return block.moment(file)

    def __iter__(self) -> Iterator[Moment]:
        return (self[index] for index in range(len(self)))

    def _take(self, block: _Block, file: io.BufferedReader) -> None:
        if block.kind == "moment":
            self._blocks = [earlier for earlier in self._blocks if earlier.when < block.when]
            self._blocks.append(block)
        elif block.kind == "samples":
            about, arrays = block.read(file)
            if about["anew"]:
                self._blocks, self.samples = [], None
            self.samples = _merged(self.samples, about, arrays)


class RecordWriter:
    """Appends to a record; one writer a file.

    Args:
        path: The file, which is made, with its folders, when something is written. One that is there is gone on with.

    Raises:
        ValueError: The file is no record, or one of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.record = Record(path)

    def write_samples(
        self,
        images: Tensor,
        labels: Sequence[int | None],
        rows: Sequence[int],
        class_names: Sequence[str] | None,
        *,
        anew: bool = False,
    ) -> None:
        """Write those of the samples that the record does not have yet.

        Where it has other ones in their place, it begins anew: what it holds was another batch's.

        Args:
            images: `(n, 3, H, W)` uint8.
            labels: Their classes.
            rows: Their places among all samples.
            class_names: What the classes are called.
            anew: Whether the record begins anew in any case: another run has the same folder.
        """
        known = self.record.samples
        at = {} if known is None else {row: place for place, row in enumerate(known.rows)}
        anew = known is not None and (
            anew
            or not all(
                torch.equal(known.images[at[row]], image) and known.labels[at[row]] == label
                for row, image, label in zip(rows, images, labels, strict=True)
                if row in at
            )
        )
        new = [place for place, row in enumerate(rows) if anew or row not in at]
        if not new:
            return
        about = {
            "anew": anew,
            "rows": [rows[place] for place in new],
            "labels": [labels[place] for place in new],
            "class_names": None if class_names is None else list(class_names),
        }
        self._append("samples", 0, 0, about, {"images": images[new].numpy()})

    def write(self, moment: Moment) -> None:
        """Write a moment, which supersedes itself and all later ones."""
        arrays: dict[str, NDArray[Any]] = {"logits": moment.logits.detach().cpu().float().numpy()}
        for key, maps in moment.attributions.items():
            arrays[f"map/{key}"], arrays[f"range/{key}"] = _quantized(maps)
        about = {
            "rows": list(moment.rows),
            "classes": None if moment.classes is None else moment.classes.tolist(),
            "scalars": moment.scalars,
            "layers": list(moment.layers),
            "explained": moment.explained,
            "time": moment.time,
        }
        epoch = _UNTRAINED if moment.epoch is None else moment.epoch
        self._append("moment", epoch, moment.step, about, arrays)

    def _append(self, kind: Literal["samples", "moment"], epoch: int, step: int, about: Any, arrays: Arrays) -> None:
        text = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
        block = _packed(kind, epoch, step, _archive({"about": text, **arrays}))
        self.record.path.parent.mkdir(parents=True, exist_ok=True)
        with self.record.path.open("ab") as file:
            if file.tell() > self.record._end:  # what a killed process left unfinished
                file.truncate(self.record._end)
            file.write(block)
        self.record.refresh()


def load_record(path: str | Path) -> Record:
    """Open what a run has shown.

    Args:
        path: The record, or the run's folder that holds it.

    Returns:
        The record, whose moments are read when they are asked for; `refresh` takes in what is appended later.

    Raises:
        FileNotFoundError: There is no record.
        ValueError: The folder holds several, or the file is no record, or one of another version.

    Example:
        >>> writer = RecordWriter(getfixture("tmp_path") / "saliency.record")
        >>> writer.write_samples(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), [4], rows=[0], class_names=None)
        >>> maps = torch.tensor([[[[0.0, 1.0], [2.0, 4.0]]]])
        >>> writer.write(Moment(0, 25, [0], {"grad_cam": maps}, logits=torch.zeros(1, 10), scalars={"seconds": 0.5}))
        >>> record = load_record(writer.record.path.parent)
        >>> len(record), record.epochs, record.samples.labels, record[-1].scalars
        (1, [0], [4], {'seconds': 0.5})
        >>> (record[-1].attributions["grad_cam"] - maps).abs().max() < 4 / 500
        tensor(True)
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob(f"*{SUFFIX}"))
        if len(found) > 1:
            raise ValueError(
                f"Expected `path` to be one record, got a folder of {len(found)}: {', '.join(map(str, found))}."
            )
        path = found[0] if found else path / f"saliency{SUFFIX}"
    if not path.exists():
        raise FileNotFoundError(f"Expected `path` to be a record or a run's folder that holds one, got {path}.")
    return Record(path)


@dataclass(frozen=True)
class _Block:
    """Where a block is in its file, and what its header says."""

    kind: str
    epoch: int
    step: int
    start: int
    length: int
    checksum: int

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def when(self) -> tuple[int, int]:
        """The untrained network comes before the first step, which may have the same number."""
        return self.epoch, self.step

    def read(self, file: io.BufferedReader) -> tuple[Any, Arrays]:
        """What the payload says, and its arrays, which are unpacked when they are asked for."""
        file.seek(self.start)
        payload = file.read(self.length)
        if _checksum(self.kind, self.epoch, self.step, payload) != self.checksum:
            raise ValueError(f"{file.name} is damaged between the bytes {self.start} and {self.end}.")
        arrays = _Archive(payload)
        return json.loads(arrays["about"].tobytes()), arrays

    def moment(self, file: io.BufferedReader) -> Moment:
        about, arrays = self.read(file)
        classes = about.pop("classes")
        keys = [name.removeprefix("map/") for name in arrays if name.startswith("map/")]
        return Moment(
            epoch=None if self.epoch == _UNTRAINED else self.epoch,
            step=self.step,
            attributions={key: _restored(arrays[f"map/{key}"], arrays[f"range/{key}"]) for key in keys},
            logits=torch.from_numpy(arrays["logits"]),
            classes=None if classes is None else torch.tensor(classes),
            **about,
        )


def _blocks(file: io.BufferedReader, start: int) -> Iterator[_Block]:
    """The blocks from a byte on, up to one that is unfinished."""
    size = file.seek(0, io.SEEK_END)
    while size - start >= _HEADER.size:
        file.seek(start)
        mark, version, kind, epoch, step, length, checksum = _HEADER.unpack(file.read(_HEADER.size))
        if mark != _MARK:
            if not start:
                raise ValueError(f"{file.name} is no record of lightning-saliency.")
            warnings.warn(f"{file.name} is damaged from byte {start} on; what follows is left out.", stacklevel=2)
            return
        if version != VERSION:
            raise ValueError(
                f"{file.name} was written by {'a later' if version > VERSION else 'an earlier'} lightning-saliency "
                f"(version {version} of the format, this one knows {VERSION}): read it with that one."
            )
        start += _HEADER.size
        if start + length > size:
            return
        # a kind that a later version adds is passed over
        yield _Block(_KINDS[kind] if kind < len(_KINDS) else "", epoch, step, start, length, checksum)
        start += length


class _Archive(Mapping[str, NDArray[Any]]):
    """What `_archive` made, each array unpacked when it is asked for."""

    def __init__(self, payload: bytes) -> None:
        self._members = ZipFile(io.BytesIO(payload))

    def __getitem__(self, name: str) -> NDArray[Any]:
        array: NDArray[Any] = np.lib.format.read_array(
            io.BytesIO(zlib.decompress(self._members.read(name))), allow_pickle=False
        )
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._members.namelist())

    def __len__(self) -> int:
        return len(self._members.namelist())


def _archive(arrays: Arrays) -> bytes:
    stream = io.BytesIO()
    with ZipFile(stream, "w") as members:  # which are deflated already
        for name, array in arrays.items():
            members.writestr(name, _deflated(array))
    return stream.getvalue()


def _deflated(array: NDArray[Any]) -> bytes:
    """By runs and Huffman codes alone: a third of the time of a search for repeats, which maps hardly have."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    compressor = zlib.compressobj(strategy=zlib.Z_RLE)
    return compressor.compress(stream.getbuffer()) + compressor.flush()


def _packed(kind: Literal["samples", "moment"], epoch: int, step: int, payload: bytes) -> bytes:
    checksum = _checksum(kind, epoch, step, payload)
    return _HEADER.pack(_MARK, VERSION, _KINDS.index(kind), epoch, step, len(payload), checksum) + payload


def _checksum(kind: str, epoch: int, step: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(f"{kind} {epoch} {step}".encode()))


def _quantized(maps: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Each map from its minimum to its maximum in 8 bits; one that is not finite has no range."""
    values = maps.detach().cpu().float()
    low, high = (bound[:, None] for bound in values.flatten(1).aminmax(dim=1))
    finite = low.isfinite() & high.isfinite()
    span = torch.where(finite & (high > low), high - low, 1.0)
    shares = (values.flatten(1) - low).div_(span).nan_to_num_(0.0, 0.0, 0.0)
    levels = (shares * 255).round_().clamp_(0, 255).to(torch.uint8).view(values.shape)
    bounds = torch.cat([low, high], dim=1).masked_fill(~finite, torch.nan)
    return levels.numpy(), bounds.numpy()


def _restored(levels: NDArray[np.uint8], bounds: NDArray[np.float32]) -> Tensor:
    low, high = torch.from_numpy(bounds).view(-1, 2, 1, 1, 1).unbind(1)
    shares = torch.from_numpy(levels).float() / 255
    return torch.where(shares == 1, high, low + shares * (high - low))


def _merged(known: RecordedSamples | None, about: Any, arrays: Arrays) -> RecordedSamples:
    images, labels, rows = torch.from_numpy(arrays["images"]), about["labels"], about["rows"]
    if known is not None:
        images, labels, rows = torch.cat([known.images, images]), [*known.labels, *labels], [*known.rows, *rows]
    order = sorted(range(len(rows)), key=rows.__getitem__)
    return RecordedSamples(
        [rows[place] for place in order],
        images[order],
        [labels[place] for place in order],
        about["class_names"] or (known.class_names if known else None),
    )
