"""What one record is of: one run, and the same samples throughout."""

import random
from pathlib import Path

import numpy as np
import pytest
from recording import make_look, make_samples, make_writer, same

from lightning_saliency.history import RecordWriter, load_record


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
