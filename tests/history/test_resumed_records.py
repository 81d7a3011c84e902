"""A resumed run goes on in its record, wherever that is."""

import os
import shutil

from recording import contents, make_look, make_samples, make_writer, same

from lightning_saliency.history import load_record


def test_a_resumed_run_deletes_nothing_and_supersedes_what_it_gave_up(tmp_path):
    first = make_writer(tmp_path)
    for epoch in (None, 0, 1, 2, 3, 4):
        first.write(make_look(epoch, 0 if epoch is None else 10 * epoch + 9, seed=1))
    before = contents(first.record.path)
    resumed = make_writer(tmp_path, state=first.state_dict())  # from the checkpoint after epoch 1
    assert contents(first.record.path) == before
    assert resumed.record.epochs == [None, 0, 1, 2, 3, 4]  # until it shows something else
    resumed.write(make_look(2, 29, seed=2))
    after = contents(first.record.path)
    assert {name for name in before if after[name] != before[name]} == {"epoch=000002-step=0000000029.npz"}
    record = load_record(tmp_path)
    assert (record.epochs, record.steps) == ([None, 0, 1, 2], [0, 9, 19, 29])
    assert record.superseded.epochs == [3, 4]
    assert same(record.superseded[1], make_look(4, 49, seed=1))
    assert same(record[-1], make_look(2, 29, seed=2))
    resumed.write(make_look(3, 39, seed=2))
    record.refresh()
    assert (record.epochs, record.superseded.epochs) == ([None, 0, 1, 2, 3], [4])
    assert record.problems == {}


def test_a_run_that_is_resumed_again_and_again_shows_the_last_attempt(tmp_path):
    writer = make_writer(tmp_path)
    for attempt, epochs in enumerate((range(6), range(3, 5), range(1, 2), range(2, 3))):
        for epoch in epochs:
            writer.write(make_look(epoch, epoch, seed=attempt))
        writer = make_writer(tmp_path, state=writer.state_dict())
    record = load_record(tmp_path)
    assert record.epochs == [0, 1, 2]
    assert record.superseded.epochs == [3, 4, 5]
    for look, attempt in zip(record, (0, 2, 3), strict=True):
        assert same(look, make_look(look.epoch, look.step, seed=attempt))


def test_a_look_between_those_of_the_earlier_attempt_supersedes_what_follows_it(tmp_path):
    first = make_writer(tmp_path)
    for step in (10, 20, 30):
        first.write(make_look(0, step))
    make_writer(tmp_path, state=first.state_dict()).write(make_look(0, 15))
    record = load_record(tmp_path)
    assert (record.steps, record.superseded.steps) == ([10, 15], [20, 30])


def test_a_resumed_run_with_another_folder_takes_the_looks_so_far_along(tmp_path):
    first = make_writer(tmp_path / "first")
    for epoch in (0, 1, 2, 3):
        first.write(make_look(epoch, 10 * epoch + 9, seed=1))
    before = contents(first.record.path)
    second = make_writer(tmp_path / "second", state=first.state_dict(), resumed_step=20)
    second.write(make_look(2, 29, seed=2))
    record = load_record(tmp_path / "second")
    assert (record.run, record.epochs, record.superseded.epochs) == (first.record.run, [0, 1, 2], [])
    assert same(record[1], make_look(1, 19, seed=1))
    assert contents(first.record.path) == before
    again = make_writer(tmp_path / "second", state=first.state_dict(), resumed_step=20)  # from the same checkpoint
    assert again.record.path == second.record.path
    assert again.record.epochs == [0, 1, 2]


def test_a_kill_while_looks_are_taken_along_loses_none(tmp_path):
    first = make_writer(tmp_path / "first")
    for epoch in (0, 1):
        first.write(make_look(epoch, epoch))
    left = tmp_path / "second" / "saliency.record"  # the samples come last: without them it is not gone on with
    left.mkdir(parents=True)
    shutil.copy(f"{first.record.path}/{first.record.files[0]}", left)
    second = make_writer(tmp_path / "second", state=first.state_dict())
    assert second.record.epochs == [0, 1]
    assert load_record(tmp_path / "second").path == second.record.path


def test_only_looks_that_hold_are_taken_along(tmp_path):
    first = make_writer(tmp_path / "first")
    for epoch in (0, 1, 2):
        first.write(make_look(epoch, epoch))
    resumed = make_writer(tmp_path / "first", state=first.state_dict())
    resumed.write(make_look(1, 1))
    moved = make_writer(tmp_path / "second", state=resumed.state_dict())
    assert moved.record.epochs == [0, 1]
    assert len(moved.record.superseded) == 0


def test_a_resumed_run_whose_record_is_gone_begins_one(tmp_path):
    first = make_writer(tmp_path / "first")
    first.write(make_look(0, 9))
    shutil.rmtree(tmp_path / "first")
    for folder in ("first", "second"):
        resumed = make_writer(tmp_path / folder, state=first.state_dict())
        resumed.write(make_look(1, 19))
        assert load_record(tmp_path / folder).epochs == [1]
        assert resumed.record.run == first.state_dict()["run"]


def test_a_record_that_moved_with_its_folder_is_gone_on_with(tmp_path):
    first = make_writer(tmp_path / "first")
    first.write(make_look(0, 9))
    os.rename(tmp_path / "first", tmp_path / "second")
    resumed = make_writer(tmp_path / "second", state=first.state_dict())
    resumed.write(make_look(1, 19))
    assert load_record(tmp_path / "second").epochs == [0, 1]


def test_of_several_records_of_a_run_the_one_it_last_wrote_is_gone_on_with(tmp_path):
    writer = make_writer(tmp_path)
    writer.write(make_look(0, 1))
    state = make_writer(tmp_path, state=writer.state_dict(), samples=make_samples(seed=5)).state_dict()
    assert state["path"].endswith("saliency-2.record")
    assert make_writer(tmp_path, state=state, samples=make_samples(seed=5)).record.path == state["path"]
    assert make_writer(tmp_path, state=state).record.path == writer.record.path
