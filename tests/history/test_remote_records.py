"""Folders that are not on this machine, as fsspec reaches them."""

import uuid

import pytest
from fsspec.core import url_to_fs
from recording import make_look, make_samples, make_writer, same

from lightning_saliency.history import Record, load_record


@pytest.fixture(params=["memory", "file"])
def address(request, tmp_path):
    if request.param == "file":
        yield f"file://{tmp_path}/run"
    else:
        root = f"memory://{uuid.uuid4().hex}"
        yield f"{root}/run"
        filesystem, path = url_to_fs(root)
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)


def test_a_remote_record_is_written_and_read(address):
    writer = make_writer(address)
    for epoch in (None, 0, 1):
        writer.write(make_look(epoch, 0 if epoch is None else 10 * epoch + 9, seed=1))
    record = load_record(address)
    assert (record.epochs, record.steps, record.problems) == ([None, 0, 1], [0, 9, 19], {})
    assert same(record[2], make_look(1, 19, seed=1))
    assert record.about(0).predictions == (1, 2, 3)
    assert record.samples.agrees_with(make_samples())
    assert load_record(writer.record.path).epochs == record.epochs
    writer.write(make_look(1, 19, seed=2))
    record.refresh()
    assert same(record[2], make_look(1, 19, seed=2))


def test_remote_runs_resume_and_keep_apart(address):
    with pytest.raises(FileNotFoundError, match="a run's folder that holds one"):
        load_record(address)
    first = make_writer(address)
    other = make_writer(address)
    for epoch in (0, 1, 2):
        first.write(make_look(epoch, epoch, seed=1))
    other.write(make_look(7, 7))
    assert other.record.path.endswith("saliency-2.record")
    resumed = make_writer(address, state=first.state_dict())
    resumed.write(make_look(1, 1, seed=2))
    record = Record(first.record.path)
    assert (record.epochs, record.superseded.epochs) == ([0, 1], [2])
    moved = make_writer(f"{address}-2", state=resumed.state_dict(), resumed_step=0)
    assert moved.record.epochs == [0]
    with pytest.raises(ValueError, match="a folder of 2"):
        load_record(address)


def test_a_remote_record_goes_and_comes(address):
    writer = make_writer(address)
    writer.write(make_look(0, 1))
    record = load_record(address)
    filesystem, path = url_to_fs(record.path)
    filesystem.pipe_file(f"{path}/notes.txt", b"a user's own")
    record.refresh()
    assert record.problems == {"notes.txt": "notes.txt is no file of a record"}
    filesystem.rm(path, recursive=True)
    record.refresh()
    assert (record.epochs, record.samples, record.problems) == ([], None, {})
    writer.write(make_look(1, 2))
    record.refresh()
    assert record.epochs == [1]


def test_a_resumed_run_that_moves_between_here_and_a_store_takes_its_looks_along(address, tmp_path):
    here = make_writer(tmp_path / "here")
    here.write(make_look(0, 1))
    there = make_writer(address, state=here.state_dict())
    there.write(make_look(1, 2))
    back = make_writer(tmp_path / "back", state=there.state_dict())
    assert back.record.epochs == [0, 1]
    assert same(back.record[0], make_look(0, 1))
