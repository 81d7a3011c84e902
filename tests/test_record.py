"""The record on disk: what is written comes back, whatever happened to the process that wrote it."""

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from lightning_saliency.record import Moment, Record, RecordWriter, load_record


def moment(step=0, *, epoch=0, num=3, seed=0, sizes=(("grad_cam", 7, 7), ("saliency", 32, 32)), **about):
    generator = torch.Generator().manual_seed(seed)
    maps = {
        key: torch.randn(num, 1, h, w, generator=generator) * 10 ** (at - 5) for at, (key, h, w) in enumerate(sizes)
    }
    logits = torch.randn(num, 10, generator=generator)
    return Moment(epoch, step, list(range(num)), maps, logits, torch.arange(num), **about)


def images(num=3, seed=0):
    return torch.randint(0, 256, (num, 3, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def writer(folder, name="saliency.record"):
    return RecordWriter(folder / name)


def test_a_moment_comes_back_with_its_maps_within_half_a_level_of_256(tmp_path):
    written = moment(
        25, epoch=2, scalars={"seconds": 0.25, "grad_cam/entropy": 0.1}, layers=["layer4"], explained="true class"
    )
    writer(tmp_path).write(written)
    read = load_record(tmp_path)[0]
    for key, maps in written.attributions.items():
        span = maps.amax((1, 2, 3), keepdim=True) - maps.amin((1, 2, 3), keepdim=True)
        assert ((read.attributions[key] - maps).abs() <= span / 509).all()
        assert torch.equal(read.attributions[key].amax((1, 2, 3)), maps.amax((1, 2, 3)))  # exactly
        assert torch.equal(read.attributions[key].amin((1, 2, 3)), maps.amin((1, 2, 3)))
        assert read.attributions[key].dtype == torch.float32
    assert torch.equal(read.logits, written.logits)
    assert torch.equal(read.classes, written.classes)
    for name in ("epoch", "step", "rows", "scalars", "layers", "explained", "time"):
        assert getattr(read, name) == getattr(written, name), name


def test_maps_without_a_range_come_back_as_what_they_are(tmp_path):
    maps = torch.zeros(5, 1, 2, 2)
    maps[1], maps[2, 0, 0, 0], maps[3, 0, 1, 1] = -3.5, torch.nan, torch.inf
    maps[4] = torch.tensor([[0.0, 1e-30], [0.0, 3e-30]])
    writer(tmp_path).write(Moment(0, 1, list(range(5)), {"cam": maps}, torch.zeros(5, 2)))
    read = load_record(tmp_path)[0]
    assert torch.equal(read.attributions["cam"][:2], maps[:2])
    assert read.attributions["cam"][2:4].isnan().all()
    assert (read.attributions["cam"][4, 0, :, 0] == 0).all()  # what a ReLU cut stays cut
    assert float(read.attributions["cam"][4].max()) == float(maps[4].max())
    assert read.classes is None


def test_the_samples_are_written_once_and_those_that_come_later_are_added(tmp_path):
    pictures = images(4)
    record = writer(tmp_path)
    record.write_samples(pictures[1:3], [7, None], rows=[1, 2], class_names=["a", "b"])
    record.write(moment(0, epoch=None))
    size = record.record.path.stat().st_size
    record.write_samples(pictures[1:3], [7, None], rows=[1, 2], class_names=["a", "b"])
    assert record.record.path.stat().st_size == size
    record.write_samples(pictures, [5, 7, None, 8], rows=[0, 1, 2, 3], class_names=["a", "b"])
    read = load_record(tmp_path)
    assert torch.equal(read.samples.images, pictures)
    assert (read.samples.rows, read.samples.labels, read.samples.class_names) == (
        [0, 1, 2, 3],
        [5, 7, None, 8],
        ["a", "b"],
    )
    assert read.epochs == [None]
    assert len(read.samples) == 4


@pytest.mark.parametrize("change", ["another image", "another label", "another size"])
def test_a_record_of_other_samples_begins_anew(tmp_path, change):
    record = writer(tmp_path)
    record.write_samples(images(), [0, 1, 2], rows=[0, 1, 2], class_names=None)
    record.write(moment(5))
    others = images(seed=int(change == "another image"))
    others = others[..., :8] if change == "another size" else others
    record.write_samples(others, [0, 1, 2 + (change == "another label")], rows=[0, 1, 2], class_names=None)
    assert len(record.record) == 0
    record.write(moment(9))
    read = load_record(tmp_path)
    assert read.steps == [9]
    assert torch.equal(read.samples.images, others)


def test_a_resumed_run_replaces_what_it_comes_to_again_and_what_came_after_it(tmp_path):
    first = writer(tmp_path)
    for epoch in range(5):
        first.write(moment(10 * epoch + 9, epoch=epoch, seed=epoch))
    resumed = writer(tmp_path)  # from the checkpoint after epoch 1
    resumed.write(moment(29, epoch=2, seed=77))
    read = load_record(tmp_path)
    assert (read.epochs, read.steps) == ([0, 1, 2], [9, 19, 29])
    torch.testing.assert_close(read[2].logits, moment(seed=77).logits)
    torch.testing.assert_close(read[1].logits, moment(seed=1).logits)
    resumed.write(moment(29, epoch=2, seed=78))
    assert load_record(tmp_path).steps == [9, 19, 29]


def test_an_open_record_takes_in_what_is_appended(tmp_path):
    record = writer(tmp_path)
    record.write(moment(1))
    read = load_record(tmp_path)
    record.write(moment(2))
    assert len(read) == 1
    read.refresh()
    assert [one.step for one in read] == [1, 2]
    assert read[-1].step == 2
    with pytest.raises(IndexError):
        read[2]


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_wherever_a_write_was_cut_off_the_rest_is_read_and_the_next_writer_goes_on(tmp_path, share):
    record = writer(tmp_path)
    record.write_samples(images(), [0, 1, 2], rows=[0, 1, 2], class_names=None)
    record.write(moment(1))
    path = record.record.path
    whole = path.stat().st_size
    record.write(moment(2))
    cut = path.read_bytes()[: whole + int(share * (path.stat().st_size - whole))]
    path.write_bytes(cut)
    assert load_record(path).steps == [1]
    again = writer(tmp_path)
    again.write(moment(3))
    assert load_record(path).steps == [1, 3]
    torch.testing.assert_close(load_record(path)[1].logits, moment(3).logits)


KILLED = """
import sys
from test_record import moment, writer
from pathlib import Path
record, step = writer(Path(sys.argv[1])), 0
while True:
    record.write(moment(step, sizes=[("saliency", 224, 224)]))
    step += 1
    print(step, flush=True)
"""


def test_a_killed_process_leaves_all_that_it_had_written(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, env=environment)
    for _ in range(7):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    written = [int(line) for line in process.communicate()[0].split()]
    read = load_record(tmp_path)
    assert len(read) >= max([7, *written])
    assert read.steps == list(range(len(read)))
    expected = moment(sizes=[("saliency", 224, 224)])
    for one in read:
        torch.testing.assert_close(one.logits, expected.logits)


def test_damage_is_named_rather_than_shown(tmp_path):
    record = writer(tmp_path)
    record.write(moment(1))
    record.write(moment(2))
    path = record.record.path
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 1  # inside the first payload
    path.write_bytes(content)
    read = load_record(path)
    assert torch.equal(read[1].logits, moment(2).logits)
    with pytest.raises(ValueError, match="damaged between the bytes"):
        read[0]
    second = read._blocks[0].end
    content[second] ^= 1  # the second header
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=f"damaged from byte {second} on"):
        assert load_record(path).steps == [1]


def test_what_is_no_record_or_of_another_version_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="a record or a run's folder that holds one"):
        load_record(tmp_path)
    other = tmp_path / "other.record"
    other.write_bytes(b"something else that is long enough for a header, and more")
    for refused in (load_record, RecordWriter):
        with pytest.raises(ValueError, match=r"other\.record is no record"):
            refused(other)
    record = writer(tmp_path)
    record.write(moment(1))
    with pytest.raises(ValueError, match="got a folder of 2"):
        load_record(tmp_path)
    content = bytearray(record.record.path.read_bytes())
    for version, whose in ((99, "a later"), (1, "an earlier")):
        content[4] = version
        record.record.path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"by {whose} lightning-saliency \(version {version} of the format"):
            load_record(record.record.path)


@pytest.mark.parametrize(("num", "classes", "side"), [(1, 2, 7), (8, 10, 14), (8, 1000, 224)])
def test_a_moment_takes_no_more_than_is_said(tmp_path, num, classes, side):
    generator = torch.Generator().manual_seed(0)
    maps = {f"method_{at}": torch.rand(num, 1, side, side, generator=generator) for at in range(3)}  # incompressible
    record = writer(tmp_path)
    logits = torch.randn(num, classes, generator=generator)
    scalars = {f"method_{at}/some_metric_{of}": float(at + of) / 7 for at in range(3) for of in range(12)}
    sizes = [0]
    for step in range(3):
        record.write(Moment(step, step, list(range(num)), maps, logits, torch.zeros(num), scalars, ["layer4"]))
        sizes.append(record.record.path.stat().st_size)
    said = 3 * num * (side**2 + 8) + 4 * num * classes + 4096
    for before, after in pairwise(sizes):
        assert after - before <= said


def test_a_record_that_is_long_is_not_held_in_memory(tmp_path):
    record = writer(tmp_path)
    for step in range(20):
        record.write(moment(step, sizes=[("saliency", 64, 64)]))
    held = [value for value in vars(record.record).values() if not isinstance(value, (Path, int, type(None)))]
    assert all(len(block.__dict__) == 6 for block in record.record._blocks)
    assert held == [record.record._blocks]
    assert isinstance(record.record, Record)
