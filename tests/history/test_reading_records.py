"""What was written comes back: looks, samples, small parts, and what is passed over."""

import json
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from recording import SIZES, make_look, make_samples, make_writer, same

from lightning_saliency.history import Record, RecordedSamples, RecordError, load_record


def test_a_look_comes_back_with_all_that_is_known_of_it(tmp_path):
    written = make_look(
        2,
        25,
        scalars={"seconds": 0.25, "grad_cam/entropy": 0.1, "loss": float("nan"), "ratio": float("-inf")},
        layers=("layer4",),
        explained="true class",
    )
    make_writer(tmp_path).write(written)
    read = load_record(tmp_path)[0]
    assert repr(read.scalars) == repr(written.scalars)
    written, read = replace(written, scalars={}), replace(read, scalars={})
    assert same(written, read)
    assert read.time == written.time
    for method, maps in written.attributions.items():
        for mine, its in zip(maps, read.attributions[method], strict=True):
            assert its.dtype == np.float32
            assert (mine.max(), mine.min()) == (its.max(), its.min())


def test_samples_of_several_sizes_come_back_each_at_its_place(tmp_path):
    samples = make_samples(class_names=("cat", "dog", "gnu", "owl", "yak"))
    make_writer(tmp_path, samples=samples)
    read = load_record(tmp_path).samples
    assert (read.positions, read.labels, read.class_names) == ((0, 1, 2), (4, None, 2), samples.class_names)
    assert tuple(image.shape[1:] for image in read.images) == SIZES
    for mine, its in zip(samples.images, read.images, strict=True):
        np.testing.assert_array_equal(mine, its)


def test_names_that_are_no_text_are_written_as_text(tmp_path):
    names = (("tench", "Tinca tinca"), 1, "owl")
    writer = make_writer(tmp_path, samples=make_samples(class_names=names))
    writer.write(make_look(scalars={"seconds": np.float32(0.5)}, predictions=tuple(np.arange(3))))
    record = load_record(tmp_path)
    assert record.samples.class_names == tuple(map(str, names))
    assert (record[0].scalars, record[0].predictions) == ({"seconds": 0.5}, (0, 1, 2))


def test_looks_are_in_the_order_of_epochs_and_steps_with_the_initial_network_first(tmp_path):
    writer = make_writer(tmp_path)
    for epoch, step in ((10, 110), (0, 0), (None, 0), (2, 29), (2, 25)):
        writer.write(make_look(epoch, step))
    record = load_record(tmp_path)
    assert record.epochs == [None, 0, 2, 2, 10]
    assert record.steps == [0, 0, 25, 29, 110]
    assert [look.epoch for look in record] == record.epochs
    assert record.files == sorted(record.files)
    assert sorted(os.listdir(record.path)) == [*record.files, "samples.npz"]
    assert record[1:-1].steps == [0, 25, 29]
    assert record[1:-1][-1].step == 29
    with pytest.raises(IndexError):
        record[5]


def test_numpy_alone_opens_each_file(tmp_path):
    writer = make_writer(tmp_path)
    look = make_look(0, 3)
    writer.write(look)
    with np.load(f"{writer.record.path}/epoch=000000-step=0000000003.npz", allow_pickle=False) as arrays:
        assert {name: (array.dtype.name, array.shape) for name, array in arrays.items() if name != "about"} == {
            "maps/grad_cam/7x7": ("uint8", (2, 7, 7)),
            "maps/grad_cam/5x9": ("uint8", (1, 5, 9)),
            "ranges/grad_cam": ("float32", (3, 2)),
            "maps/saliency/16x16": ("uint8", (2, 16, 16)),
            "maps/saliency/12x20": ("uint8", (1, 12, 20)),
            "ranges/saliency": ("float32", (3, 2)),
            "logits": ("float32", (3, 10)),
        }
        np.testing.assert_array_equal(arrays["logits"], look.logits)
        assert json.loads(arrays["about"].tobytes())["predictions"] == [1, 2, 3]
    with np.load(f"{writer.record.path}/samples.npz", allow_pickle=False) as arrays:
        assert arrays["images/16x16"].shape == (2, 3, 16, 16)
        assert arrays["images/12x20"].shape == (1, 3, 12, 20)


def test_small_parts_are_read_without_the_maps(tmp_path):
    writer = make_writer(tmp_path)
    look = make_look(1, 7, scalars={"seconds": 0.5})
    writer.write(look)
    path = os.path.join(writer.record.path, writer.record.files[0])
    with open(path, "rb") as file:
        content = bytearray(file.read())
    at = content.index(b"maps/saliency/16x16.npy") + 60
    content[at : at + 20] = bytes(20)  # were the maps read, this would be damage
    with open(path, "wb") as file:
        file.write(content)
    record = load_record(tmp_path)
    about = record.about(0)
    for name in ("epoch", "step", "predictions", "probabilities", "classes", "reasons", "scalars", "shapes"):
        assert getattr(about, name) == getattr(look, name), name
    assert (about.num_classes, record.epochs, record.problems) == (10, [1], {})
    with pytest.raises(RecordError, match=r"epoch=000001-step=0000000007\.npz cannot be read"):
        record[0]


def test_an_open_record_takes_in_what_is_written_overwritten_and_deleted(tmp_path):
    writer = make_writer(tmp_path)
    writer.write(make_look(0, 1))
    record = load_record(tmp_path)
    writer.write(make_look(1, 2))
    writer.write(make_look(0, 1, explained="anew"))
    assert record.steps == [1]
    record.refresh()
    assert (record.steps, record[0].explained) == ([1, 2], "anew")
    os.remove(os.path.join(record.path, record.files[0]))
    with pytest.raises(RecordError, match="cannot be read"):
        record[0]
    record.refresh()
    assert record.steps == [2]


def test_a_record_that_does_not_exist_yet_comes_with_the_first_write(tmp_path):
    record = Record(tmp_path / "saliency.record")
    assert (len(record), record.samples, record.run, record.problems) == (0, None, None, {})
    make_writer(tmp_path).write(make_look())
    record.refresh()
    assert record.epochs == [0]


def test_a_record_is_found_by_its_own_folder_or_its_run_s(tmp_path):
    for missing in (tmp_path, tmp_path / "nowhere", tmp_path / "saliency.record"):
        with pytest.raises(FileNotFoundError, match="a record's folder or a run's folder that holds one"):
            load_record(missing)
    first = make_writer(tmp_path).record.path
    assert load_record(tmp_path).path == load_record(first).path == first
    second = make_writer(tmp_path).record.path
    with pytest.raises(ValueError, match=r"a folder of 2: .*saliency-2\.record, .*saliency\.record"):
        load_record(tmp_path)
    assert load_record(second).path == second
    (tmp_path / "elsewhere").mkdir()
    os.rename(second, tmp_path / "elsewhere" / "renamed")
    assert len(load_record(tmp_path / "elsewhere" / "renamed").samples) == 3


def test_other_files_are_passed_over_and_said(tmp_path):
    writer = make_writer(tmp_path)
    writer.write(make_look(0, 1))
    writer.write(make_look(1, 2))
    folder = tmp_path / "saliency.record"
    with open(folder / "epoch=000001-step=0000000002.npz", "rb") as file:
        content = file.read()

    def put(name, content):
        (folder / name).write_bytes(content)

    put("notes.txt", b"a user's own")
    put("epoch=000002-step=0000000003.npz", b"something else")
    put("epoch=000003-step=0000000003.npz", b"")
    put("epoch=000004-step=0000000003.npz", content)  # another name than it says
    np.savez(folder / "epoch=000005-step=0000000003.npz", objects=np.array([{}, None]))
    np.savez(folder / "epoch=000006-step=0000000003.npz", about=np.array([{}, None]))
    (folder / "epoch=000007-step=0000000003.npz").mkdir()
    os.mkfifo(folder / "epoch=000008-step=0000000003.npz")
    (folder / "epoch=000009-step=0000000003.npz").symlink_to(folder / "epoch=000009-step=0000000003.npz")
    (folder / ".DS_Store").write_bytes(b"a file manager's")
    record = load_record(tmp_path)
    assert (record.steps, record[0].step, record[1].step) == ([1, 2], 1, 2)
    said = {name.removesuffix("-step=0000000003.npz"): text for name, text in record.problems.items()}
    assert sorted(said) == [*(f"epoch={epoch:06}" for epoch in range(2, 10)), "notes.txt"]
    assert said["notes.txt"] == "notes.txt is no file of a record"
    assert "File is not a zip file" in said["epoch=000002"]
    assert "File is not a zip file" in said["epoch=000003"]
    assert "not what its name says" in said["epoch=000004"]
    assert "about" in said["epoch=000005"]
    assert "should be an array" in said["epoch=000006"]
    assert "it is no file" in said["epoch=000007"]
    assert "it is no file" in said["epoch=000008"]
    for name in ("epoch=000002", "epoch=000006", "epoch=000007"):
        assert str(folder / name) in said[name]


def test_a_look_of_another_run_is_passed_over(tmp_path):
    one, other = make_writer(tmp_path), make_writer(tmp_path)
    one.write(make_look(0, 1))
    other.write(make_look(1, 2))
    name = other.record.files[0]
    os.rename(f"{other.record.path}/{name}", f"{one.record.path}/{name}")
    one.record.refresh()
    assert (one.record.steps, one.record.problems) == ([1], {name: f"{name} is of another run"})


def save_anew(path, **changes):
    """Write a file of a record anew by NumPy's own means, what it says of itself changed."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    about = json.loads(arrays["about"].tobytes()) | changes
    np.savez(path, **(arrays | {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}))


def test_a_file_that_numpy_itself_wrote_is_read_and_a_later_format_is_named(tmp_path):
    writer = make_writer(tmp_path)
    look = make_look()
    writer.write(look)
    files = [f"{writer.record.path}/{name}" for name in ("samples.npz", writer.record.files[0])]
    for path in files:
        save_anew(path)
    record = load_record(tmp_path)
    assert same(record[0], look)
    assert record.samples.agrees_with(make_samples())
    for path in files:
        save_anew(path, format=2)
    record.refresh()
    assert (len(record), record.samples) == (0, None)
    assert len(record.problems) == 2
    assert all("it has the format 2, and this version of" in text for text in record.problems.values())


@pytest.mark.parametrize(
    "change",
    [
        {"positions": ["0", "1", "2"]},
        {"positions": [0, 1]},
        {"predictions": [1, 2, True]},
        {"probabilities": [0.5, 0.5, "high"]},
        {"classes": {}},
        {"scalars": {"seconds": "soon"}},
        {"layers": None},
        {"methods": {}},
        {"methods": []},
        {"num_classes": -1},
        {"num_classes": 10_000},
        {"time": None},
        {"run": None},
        {"attempt": 0.5},
        {"epoch": 1},
    ],
    ids=str,
)
def test_a_look_that_says_of_itself_what_cannot_be_is_passed_over(tmp_path, change):
    writer = make_writer(tmp_path)
    writer.write(make_look())
    save_anew(f"{writer.record.path}/{writer.record.files[0]}", **change)
    record = load_record(tmp_path)
    assert (len(record), len(record.problems)) == (0, 1)
    assert "epoch=000000-step=0000000000.npz cannot be read" in next(iter(record.problems.values()))


def test_what_does_not_fit_together_is_refused_where_it_is_made():
    for wrong in (
        {"positions": (0, 0, 1)},
        {"predictions": (1,)},
        {"reasons": {"grad_cam": (None,) * 3}},
        {"reasons": {"grad_cam": (None,) * 3, "saliency": (None,)}},
        {"epoch": -1},
    ):
        with pytest.raises(ValueError, match=f"Expected `{next(iter(wrong))}"):
            make_look(**wrong)
    look = make_look()
    with pytest.raises(ValueError, match="Expected `logits`"):
        replace(look, logits=look.logits[:2])
    with pytest.raises(ValueError, match=r"`attributions\['cam'\]` to be maps"):
        replace(look, attributions={"cam": (np.zeros((1, 7, 7)),) * 3}, reasons={"cam": (None,) * 3})
    with pytest.raises(ValueError, match="printable names"):
        replace(look, attributions={"a\0b": (np.zeros((7, 7)),) * 3}, reasons={"a\0b": (None,) * 3})
    with pytest.raises(ValueError, match="Expected `images`"):
        RecordedSamples((0,), (np.zeros((3, 4, 4), np.float32),), (None,))


@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
def test_a_file_that_became_a_pipe_since_it_was_listed_is_not_waited_for(tmp_path):
    writer = make_writer(tmp_path)
    writer.write(make_look(0, 1))
    record = load_record(tmp_path)
    for name in (record.files[0], "samples.npz"):
        os.remove(f"{record.path}/{name}")
        os.mkfifo(f"{record.path}/{name}")
    for read in (lambda: record[0], lambda: record.about(0), lambda: record.samples):
        with pytest.raises(RecordError, match="it is no file"):
            read()
    record.refresh(record.files[0])
    assert (len(record), list(record.problems)) == (0, ["epoch=000000-step=0000000001.npz"])


@pytest.mark.skipif(sys.platform == "win32", reason="has no such links")
def test_a_folder_that_cannot_be_listed_is_an_os_error(tmp_path):
    (tmp_path / "own.record").symlink_to(tmp_path / "own.record")
    with pytest.raises(OSError, match=r"own\.record"):
        load_record(tmp_path / "own.record")
    with pytest.raises(FileNotFoundError, match="Expected `path` to be a record's folder"):
        load_record(tmp_path)
