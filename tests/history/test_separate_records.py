"""What one record is of: one run, and the same samples throughout."""

import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from recording import make_look, make_samples, make_writer, same

from lightning_saliency.history import RecordWriter, load_record
from lightning_saliency.history.archive import pack


def test_a_look_of_the_same_epoch_and_step_takes_the_place_of_the_earlier(tmp_path):
    writer = make_writer(tmp_path)
    for seed in (1, 2):
        writer.write(make_look(0, 9, seed=seed))
    assert load_record(tmp_path).steps == [9]
    assert same(load_record(tmp_path)[0], make_look(0, 9, seed=2))


def test_samples_that_are_seen_later_are_added(tmp_path):
    everything = make_samples(class_names=("a", "b"))
    writer = make_writer(tmp_path, samples=make_samples((1,)))
    writer.write(make_look(None, shapes={"cam": ((2, 2),)}, positions=(1,)))
    writer.write_samples(everything)
    writer.write(make_look(0, 2))
    writer.write_samples(make_samples((2, 0)))
    record = load_record(tmp_path)
    assert record.samples.positions == (0, 1, 2)
    assert record.samples.class_names == ("a", "b")
    assert record.samples.agrees_with(everything)
    assert [look.positions for look in record] == [(1,), (0, 1, 2)]
    with pytest.raises(ValueError, match=r"samples that were written, \(0, 1, 2\), got \[7\]"):
        writer.write(make_look(0, 2, positions=(0, 1, 7)))


def test_another_run_in_the_same_folder_gets_a_record_of_its_own(tmp_path):
    writers = [make_writer(tmp_path) for _ in range(3)]
    for epoch, writer in enumerate(writers):
        writer.write(make_look(epoch, 1))
    paths = [Path(writer.record.path) for writer in writers]
    assert [path.name for path in paths] == ["saliency.record", "saliency-2.record", "saliency-3.record"]
    assert [load_record(path).epochs for path in paths] == [[0], [1], [2]]
    assert len({writer.record.run for writer in writers}) == 3
    for writer, path in zip(writers, paths, strict=True):
        assert make_writer(tmp_path, state=writer.state_dict()).record.path == str(path)


def test_what_has_a_record_s_name_and_is_none_stays_as_it_is(tmp_path):
    (tmp_path / "saliency.record").write_bytes(b"of an earlier version")
    (tmp_path / "saliency-2.record").mkdir()
    writer = make_writer(tmp_path)
    writer.write(make_look())
    assert writer.record.path == str(tmp_path / "saliency-3.record")
    assert load_record(tmp_path).path == writer.record.path
    assert (tmp_path / "saliency.record").read_bytes() == b"of an earlier version"


def damage(path):
    Path(path, "samples.npz").write_bytes(b"damaged")


def of_a_later_version(path):
    Path(path, "samples.npz").write_bytes(pack({"format": 2}, {}))


def replace_by_a_link_to_itself(path):
    shutil.rmtree(path)
    Path(path).symlink_to(path)


def replace_by_a_link_to_nothing(path):
    shutil.rmtree(path)
    Path(path).symlink_to("/nothing/there")


def replace_by_a_pipe(path):
    shutil.rmtree(path)
    os.mkfifo(path)


def put_a_pipe_in_place_of_the_samples(path):
    os.remove(f"{path}/samples.npz")
    os.mkfifo(f"{path}/samples.npz")


OTHER_KINDS = [
    lambda path: None,
    shutil.rmtree,
    damage,
    of_a_later_version,
    replace_by_a_link_to_itself,
    replace_by_a_link_to_nothing,
    replace_by_a_pipe,
    put_a_pipe_in_place_of_the_samples,
]


def files(folder):
    """The bytes of the files below a folder, without opening links and pipes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
@pytest.mark.parametrize("is_resumed", [False, True])
@pytest.mark.parametrize("change", OTHER_KINDS)
def test_whatever_has_the_record_s_name_a_run_has_a_place_of_its_own_and_nothing_is_lost(tmp_path, change, is_resumed):
    other = make_writer(tmp_path)
    other.write(make_look(3, 3))
    change(other.record.path)
    elsewhere = make_writer(tmp_path / "elsewhere")
    elsewhere.write(make_look(0, 1))
    before, paths = files(tmp_path), set(tmp_path.rglob("*"))
    writer = make_writer(tmp_path, state=elsewhere.state_dict() if is_resumed else None)
    writer.write(make_look(1, 2))
    assert writer.record.epochs == ([0, 1] if is_resumed else [1])
    assert load_record(writer.record.path).problems == {}
    after = files(tmp_path)
    assert {path: after[path] for path in before} == before
    assert paths <= set(tmp_path.rglob("*"))
    again = make_writer(tmp_path, state=writer.state_dict())
    assert again.record.path == writer.record.path


@pytest.mark.parametrize(
    "others", [{"seed": 1}, {"labels": (4, None, 3)}, {"sizes": ((16, 16), (16, 16), (12, 21))}], ids=str
)
@pytest.mark.parametrize("when", ["resumed", "meanwhile", "another folder"])
def test_other_samples_get_a_record_of_their_own(tmp_path, others, when):
    writer = make_writer(tmp_path)
    writer.write(make_look(0, 1))
    first = writer.record.path
    if when == "meanwhile":
        writer.write_samples(make_samples(**others))
    else:
        folder = tmp_path / "elsewhere" if when == "another folder" else tmp_path
        writer = RecordWriter(folder, make_samples(**others), state=writer.state_dict())
    writer.write(make_look(1, 2))
    assert (load_record(first).epochs, load_record(writer.record.path).epochs) == ([0], [1])
    assert load_record(first).samples.agrees_with(make_samples())
    assert load_record(writer.record.path).samples.agrees_with(make_samples(**others))


def test_runs_are_told_apart_without_drawing_from_a_seeded_random_state(tmp_path):
    runs = []
    for _ in range(2):
        random.seed(0)
        np.random.seed(0)
        before = random.getstate(), np.random.get_state()[1].tolist()
        writer = make_writer(tmp_path)
        writer.write(make_look())
        assert (random.getstate(), np.random.get_state()[1].tolist()) == before
        runs.append(writer.record.run)
    assert runs[0] != runs[1]
