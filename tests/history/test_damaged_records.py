"""Damage and ill will: what is shown is what was written, and nothing unpacks to more than a look can be."""

import io
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from recording import make_look, make_samples, make_writer, same

from lightning_saliency.history import RecordedSamples, RecordError, load_record

TINY = {"a": ((2, 2), (1, 3)), "b": ((2, 2), (2, 2))}


def tiny_record(folder):
    """A record of one look and two samples, as small as can be."""
    samples = make_samples((0, 1), sizes=((2, 2), (3, 2)))
    writer = make_writer(folder, samples=samples)
    look = make_look(shapes=TINY, num_classes=2, scalars={"loss": 0.5}, layers=("layer4",))
    writer.write(look)
    return writer.record, look, samples


def flips(content):
    """The content with one bit changed, for each byte another bit."""
    for byte in range(len(content)):
        changed = bytearray(content)
        changed[byte] ^= 1 << (byte * 5 + byte // 8) % 8
        yield byte, changed


def attempt(read):
    """What is read, or None and the error's text."""
    try:
        return read(), ""
    except RecordError as error:
        return None, str(error)


def test_no_flipped_bit_of_a_look_is_shown(tmp_path):
    record, look, _ = tiny_record(tmp_path)
    expected = record[0]
    path = os.path.join(record.path, record.files[0])
    with open(path, "rb") as file:
        content = file.read()
    refused = 0
    for byte, changed in flips(content):
        with open(path, "wb") as file:
            file.write(changed)
        read, error = attempt(lambda: record[0])  # as a reader that has listed the file before
        if read is None:
            assert path in error
            refused += 1
            continue
        assert same(read, look), byte
        assert read.time == expected.time
        for method in TINY:
            for mine, its in zip(read.attributions[method], expected.attributions[method], strict=True):
                np.testing.assert_array_equal(mine, its)
    assert refused > 0.7 * len(content)  # the others are in what a zip archive holds and nobody reads


def test_no_flipped_bit_of_the_samples_is_shown(tmp_path):
    record, _, samples = tiny_record(tmp_path)
    path = os.path.join(record.path, "samples.npz")
    run = record.run
    with open(path, "rb") as file:
        content = file.read()
    for byte, changed in flips(content):
        with open(path, "wb") as file:
            file.write(changed)
        fresh = load_record(record.path)
        read, error = attempt(lambda fresh=fresh: fresh.samples)
        if read is None:
            assert path in (error or fresh.problems["samples.npz"])
        else:
            assert (fresh.run, read.positions, read.labels) == (run, samples.positions, samples.labels), byte
            assert read.agrees_with(samples), byte
        assert len(fresh) == 1


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_look_that_is_cut_off_is_passed_over(tmp_path, share):
    writer = make_writer(tmp_path)
    writer.write(make_look(0, 1))
    writer.write(make_look(1, 2))
    name = writer.record.files[1]
    with open(f"{writer.record.path}/{name}", "r+b") as file:
        file.truncate(int(share * os.path.getsize(file.name)))
    record = load_record(tmp_path)
    assert (record.steps, list(record.problems)) == ([1], [name])


def with_members(path, changes, compression=zipfile.ZIP_DEFLATED):
    """Write an archive anew with some of its members replaced."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in (members | changes).items():
            file.writestr(name, content)


def zeros(shape, dtype):
    """The bytes of an array file of zeros; too large ones as an iterator's sum."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)


def huge_look(path):
    """A look that says of itself that its maps are larger than any."""
    with np.load(path) as file:
        about = json.loads(file["about"].tobytes())
    about["methods"]["saliency"]["shapes"] = [[4000, 4000]] * 3
    text = json.dumps(about).encode()
    with_members(
        path,
        {
            "about.npy": zeros((len(text),), "u1")[: -len(text)] + text,
            "maps/saliency/4000x4000.npy": zeros((3, 4000, 4000), "u1"),
        },
    )


BOMBS = {
    "an array larger than it should be": lambda path: with_members(
        path, {"maps/saliency/16x16.npy": zeros((2, 5000, 5000), "u1")}
    ),
    "zeros after an array": lambda path: with_members(path, {"logits.npy": zeros((3, 10), "<f4") + bytes(50_000_000)}),
    "one array more": lambda path: with_members(path, {"more.npy": zeros((50_000_000,), "u1")}),
    "a large description": lambda path: with_members(path, {"about.npy": zeros((50_000_000,), "u1")}),
    "maps of impossible shapes": huge_look,
    "another compression": lambda path: with_members(
        path, {"logits.npy": zeros((3, 10), "<f4") + bytes(50_000_000)}, zipfile.ZIP_BZIP2
    ),
    "a description of nested lists": lambda path: with_members(
        path, {"about.npy": zeros((100_000,), "u1")[:-100_000] + b"[" * 100_000}
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_file_that_unpacks_to_much_is_refused_before_it_is_unpacked(tmp_path, bomb):
    writer = make_writer(tmp_path)
    writer.write(make_look(0, 1))
    writer.write(make_look(1, 2))
    record, name = writer.record, writer.record.files[0]
    path = os.path.join(record.path, name)
    BOMBS[bomb](path)
    assert os.path.getsize(path) < 200_000
    tracemalloc.start()
    try:
        fresh = load_record(tmp_path)
        with pytest.raises(RecordError, match=name):
            record[0]
        with pytest.raises(RecordError, match=name):
            record.about(0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
    assert (fresh.steps, list(fresh.problems)) == ([2], [name])


def test_a_table_of_contents_that_lies_unpacks_no_more_than_it_says(tmp_path):
    writer = make_writer(tmp_path)
    writer.write(make_look(0, 1))
    name = writer.record.files[0]
    path = os.path.join(writer.record.path, name)
    true = len(zeros((3, 10), "<f4"))
    with_members(path, {"logits.npy": zeros((3, 10), "<f4") + bytes(50_000_000)})
    with open(path, "rb") as file:
        content = bytearray(file.read())
    size = (true + 50_000_000).to_bytes(4, "little")
    assert content.count(size) == 2
    with open(path, "wb") as file:
        file.write(content.replace(size, true.to_bytes(4, "little")))
    record = load_record(tmp_path)
    assert len(record) == 1
    tracemalloc.start()
    try:
        with pytest.raises(RecordError, match="Bad CRC-32"):
            record[0]
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_samples_that_unpack_to_much_are_refused(tmp_path):
    record, _, _ = tiny_record(tmp_path)
    with_members(f"{record.path}/samples.npz", {"images/2x2.npy": zeros((1, 3, 5000, 5000), "u1")})
    tracemalloc.start()
    try:
        fresh = load_record(tmp_path)
        assert fresh.samples is None
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert "should take 12 bytes" in fresh.problems["samples.npz"]
    assert len(fresh) == 1  # its looks are shown


LIMITED = """
import os, resource, sys
from lightning_saliency.history import RecordError, load_record
record = load_record(sys.argv[1])
os.replace(sys.argv[2], sys.argv[3])
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 20_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    record[0]
except RecordError as error:
    print(error)
print(load_record(sys.argv[1]).problems)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory")
def test_a_process_that_has_no_room_for_what_a_small_file_unpacks_to_refuses_it(tmp_path):
    writer = make_writer(tmp_path)
    writer.write(make_look(0, 1))
    path, bomb = os.path.join(writer.record.path, writer.record.files[0]), tmp_path / "bomb"
    shutil.copy(path, bomb)
    with_members(bomb, {"logits.npy": zeros((3, 10), "<f4") + bytes(2**27)})
    assert bomb.stat().st_size < 500_000
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path, bomb, path],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert process.stdout.count("logits should take 120 bytes, and unpacks to 134217976") == 2


def test_a_writer_writes_no_look_that_a_reader_would_refuse(tmp_path):
    writer = make_writer(tmp_path)
    for shapes, message in (
        ({"cam": ((7, 7), (1025, 7), (7, 7))}, r"sample 1 to be at most \(1024, 1024\), since its image is \(16, 16\)"),
        ({f"{n}": ((1024, 1024),) * 3 for n in range(90)}, "at most 268435456 values in all"),
    ):
        maps = {method: tuple(np.broadcast_to(np.float32(0), shape) for shape in of) for method, of in shapes.items()}
        look = make_look(shapes={"cam": ((1, 1),) * 3})
        with pytest.raises(ValueError, match=message):
            writer.write(replaced(look, maps))
    with pytest.raises(ValueError, match="bytes of names and numbers"):
        writer.write(make_look(explained="x" * 2**23))
    image = np.broadcast_to(np.uint8(0), (3, 10_000, 10_000))
    with pytest.raises(ValueError, match="images of at most 268435456 values"):
        writer.write_samples(RecordedSamples((3,), (image,), (None,)))
    assert os.listdir(writer.record.path) == ["samples.npz"]


def replaced(look, maps):
    facts = {name: getattr(look, name) for name in ("epoch", "step", "positions", "predictions", "probabilities")}
    reasons = {method: (None,) * len(of) for method, of in maps.items()}
    return type(look)(**facts, classes=look.classes, reasons=reasons, attributions=maps, logits=look.logits)
