"""Named arrays in one `.npz` file: written quickly, and read with the least trust.

A file is read from its table of contents on, one array at a time. The reader says beforehand which arrays there must
be, of which type and shape: what differs is refused before anything is unpacked, so that a small file cannot unpack to
gigabytes. The zip's own checksum of each array shows damage.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, BinaryIO, NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED

import numpy as np
from numpy.typing import NDArray

ABOUT = "about"
"""The array that describes the others: JSON in UTF-8, as uint8."""
MAX_ABOUT = 2**21
"""The most bytes of `ABOUT`, and of the table of contents."""

Shape = tuple[int, ...]
Layout = Mapping[str, tuple[str, Shape]]
"""The arrays of a file by name: NumPy's short name of the type, as `"<f4"`, and the shape."""

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_DOS_EPOCH = (0, 33)  # midnight, 1980-01-01: equal contents are equal bytes
_UTF_8 = 0x800
_TAIL = 2**13
"""How many bytes to read at the end of a file at once: most tables of contents, and the description before them."""
_DAMAGE = (
    zlib.error,
    struct.error,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    RuntimeError,
    ArithmeticError,
)


class RecordError(ValueError):
    """A file of a record that cannot be read; the message names the file and says why."""


@contextmanager
def record_errors(path: str) -> Iterator[None]:
    """Turn whatever reading a file raises that is gone, damaged or of another kind into an error that names it."""
    try:
        yield
    except _DAMAGE as error:
        raise RecordError(f"{path} cannot be read: {error or type(error).__name__}") from error


def pack(about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the bytes of an `.npz` file.

    `zipfile` cannot choose how to deflate, so the zip is put together here. Runs and Huffman codes alone take a third
    of the time of a search for repeats, which maps hardly have, and come out smaller.

    Args:
        about: What can be said in JSON without NaN; at most `MAX_ABOUT` bytes.
        arrays: The other arrays by name.
    """
    text = json.dumps(about, allow_nan=False, separators=(",", ":")).encode()
    if len(text) > MAX_ABOUT:
        raise ValueError(f"Expected at most {MAX_ABOUT} bytes of names and numbers in a file, got {len(text)}.")
    # what describes the file stands last, beside the table of contents: one read from a remote store fetches both
    members = [*arrays.items(), (ABOUT, np.frombuffer(text, np.uint8))]
    stream, contents = io.BytesIO(), b""
    for key, array in members:
        name, data = f"{key}.npy".encode(), _npy(array)
        deflated = _deflate(data, zlib.Z_DEFAULT_STRATEGY if key == ABOUT else zlib.Z_RLE)
        common = (20, _UTF_8, ZIP_DEFLATED, *_DOS_EPOCH, zlib.crc32(data), len(deflated), len(data), len(name), 0)
        contents += _CENTRAL.pack(b"PK\1\2", 20, *common, 0, 0, 0, 0, stream.tell()) + name
        stream.write(_LOCAL.pack(b"PK\3\4", *common) + name)
        stream.write(deflated)
    end = _END.pack(b"PK\5\6", 0, 0, len(members), len(members), len(contents), stream.tell(), 0)
    stream.write(contents + end)
    return stream.getvalue()


class Archive:
    """An open `.npz` file of which nothing is believed.

    Args:
        file: The file, which stays open as long as it is read from.

    Raises:
        ValueError: It is no zip archive, or one that holds no description.

    All that goes wrong while reading is to be met with `record_errors`.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._members = _read_contents(file)
        text = self._unpack(ABOUT, "|u1", None, MAX_ABOUT)
        about = json.loads(text)
        if not isinstance(about, dict):
            raise ValueError("its description is no JSON object")
        self.about: dict[str, Any] = about

    def check(self, layout: Layout) -> None:
        """Raise unless the file holds exactly these arrays beside the description, all of the sizes they must have."""
        expected = {f"{key}.npy" for key in (*layout, ABOUT)}
        if self._members.keys() != expected:
            message = f"it should hold {', '.join(sorted(expected))}, and holds {', '.join(sorted(self._members))}"
            raise ValueError(message[:500])
        for key, (dtype, shape) in layout.items():
            self._member(key, dtype, shape)

    def read(self, key: str, dtype: str, shape: Shape) -> NDArray[Any]:
        """Return an array, which must be of this type and shape."""
        data = self._unpack(key, dtype, shape, 0)
        return np.frombuffer(data, dtype).reshape(shape)

    def _unpack(self, key: str, dtype: str, shape: Shape | None, most: int) -> bytearray:
        """Return an array's bytes; without a `shape`, those of one axis of at most so many bytes."""
        data = _read_member(self._file, key, self._member(key, dtype, shape, most))
        header_length = 10 + int.from_bytes(data[8:10], "little")
        header, data = data[:header_length], data[header_length:]
        count = (len(data),) if shape is None else shape
        expected = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {count!r}, }}"
        if header[:8] != b"\x93NUMPY\1\0" or header[10:].decode("latin1").rstrip() != expected:
            raise ValueError(f"{key} should be an array with the header {expected}")
        if len(data) != _num_bytes(dtype, count):
            raise ValueError(f"{key} is cut off")
        return data

    def _member(self, key: str, dtype: str, shape: Shape | None, most: int = 0) -> _Member:
        """Return where an array is, if its size with its header is one that it can have."""
        member = self._members[f"{key}.npy"]
        if member.method not in (ZIP_STORED, ZIP_DEFLATED):
            raise ValueError(f"{key} is compressed in a way that NumPy does not write")
        least, most = (0, most) if shape is None else (_num_bytes(dtype, shape),) * 2
        if not least <= member.size <= most + 10 + 2**12:  # NumPy's header
            raise ValueError(f"{key} should take {most} bytes, and unpacks to {member.size}")
        return member


class _Member(NamedTuple):
    """A file in an archive, as the table of contents has it."""

    method: int
    checksum: int
    packed_size: int
    size: int
    start: int


def _read_contents(file: BinaryIO) -> dict[str, _Member]:
    """Return what an archive holds by name, as the table of contents at its end says.

    `zipfile` takes twice as long, which a record of thousands of files shows, and reads a table of any length.
    """
    end = file.seek(0, os.SEEK_END) - _END.size
    start = max(0, end - _TAIL)
    file.seek(start)
    tail = file.read(_TAIL + _END.size)
    signature, *_, count, length, table_start, comment = _END.unpack(tail[-_END.size :].rjust(_END.size))
    if signature != b"PK\5\6" or comment or table_start + length != end:
        raise ValueError("File is not a zip file")
    if length > MAX_ABOUT:
        raise ValueError(f"its table of contents has {length} bytes")
    if table_start < start:
        file.seek(table_start)
        tail, start = file.read(length), table_start
    table, place, members = memoryview(tail)[table_start - start :], 0, {}
    for _ in range(count):
        signature, *fields = _CENTRAL.unpack_from(table, place)
        method, _, _, checksum, packed_size, size, *lengths, _, _, _, member_start = fields[3:]
        place += _CENTRAL.size
        members[str(table[place : place + lengths[0]], "utf-8")] = _Member(
            method, checksum, packed_size, size, member_start
        )
        place += sum(lengths)
        if signature != b"PK\1\2":
            raise ValueError("its table of contents is damaged")
    if place != length or len(members) != count:
        raise ValueError("its table of contents is damaged")
    return members


def _read_member(file: BinaryIO, key: str, member: _Member) -> bytearray:
    """Return the bytes of a file in an archive, which take no more room than the table of contents says."""
    file.seek(member.start)
    signature, *_, name_length, extra_length = _LOCAL.unpack(file.read(_LOCAL.size))
    if signature != b"PK\3\4":
        raise ValueError(f"{key} is not where the table of contents says")
    file.seek(name_length + extra_length, os.SEEK_CUR)
    data = file.read(min(member.packed_size, member.size + member.size // 64 + 64))  # what does not shrink hardly grows
    if member.method == ZIP_DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, max(1, member.size))  # 0 is no limit
    if len(data) != member.size or zlib.crc32(data) != member.checksum:
        raise ValueError(f"Bad CRC-32 for {key}")
    return bytearray(data)


def _num_bytes(dtype: str, shape: Shape) -> int:
    return _item_size(dtype) * math.prod(shape)


_item_size = cache(lambda dtype: np.dtype(dtype).itemsize)


def _npy(array: NDArray[Any]) -> memoryview:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return stream.getbuffer()


def _deflate(data: memoryview, strategy: int) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS, strategy=strategy)
    return compressor.compress(data) + compressor.flush()
