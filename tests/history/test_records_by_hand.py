"""Records at a prompt: found from a folder above, and shown in a line."""

import re

import pytest
from recording import make_look, make_samples, make_writer

from lightning_saliency import filmstrip, load_record


def test_a_record_is_found_from_the_log_folder_above_its_run(tmp_path):
    run = tmp_path / "lightning_logs" / "version_3"
    run.mkdir(parents=True)
    (tmp_path / "lightning_logs" / "version_2" / "checkpoints").mkdir(parents=True)
    path = make_writer(run).record.path
    assert load_record(tmp_path / "lightning_logs").path == path
    assert load_record(tmp_path).path == path


def test_of_several_runs_the_message_names_each(tmp_path):
    for number in range(7):
        make_writer(tmp_path / "logs" / f"version_{number}")
    with pytest.raises(
        ValueError, match=r"a folder of 7: .*version_0.*version_1.*version_4.*…\. Pass one of these"
    ) as raised:
        load_record(tmp_path / "logs")
    assert "version_5" not in str(raised.value)


def test_a_folder_without_records_is_said_to_be_one(tmp_path):
    (tmp_path / "data" / "images").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"itself or up to 3 levels below, got .*data\.$"):
        load_record(tmp_path / "data")
    with pytest.raises(FileNotFoundError, match="which is empty or not there"):
        load_record(tmp_path / "nowhere")


def test_a_record_and_what_it_holds_are_each_a_line(tmp_path):
    writer = make_writer(tmp_path, samples=make_samples(class_names=("cat", "dog", "gnu", "owl", "yak")))
    record = load_record(tmp_path)
    assert repr(record) == f"Record({record.path!r}): 3 samples, 0 looks"
    for epoch, step in ((None, 0), (0, 5), (1, 9)):
        writer.write(make_look(epoch, step))
    record.refresh()
    (tmp_path / "saliency.record" / "notes.txt").write_text("not ours")
    record.refresh()
    assert repr(record).endswith("3 samples, 3 looks, initial to epoch 1, 1 file passed over")
    assert repr(record[1:2]) == "1 look, epoch 0"
    assert repr(record[0]) == "RecordedLook(initial, step 0): 3 samples, grad_cam, saliency"
    assert repr(record.samples) == "RecordedSamples: 3 samples, 3×16×16, 3×12×20, 5 classes"
    empty = load_record(tmp_path / "saliency.record")
    (tmp_path / "saliency.record" / "samples.npz").unlink()
    empty.refresh()
    assert repr(empty).endswith(": no samples yet")


def test_a_filmstrip_takes_the_path_of_a_run_and_any_spelling_of_the_method(tmp_path):
    writer = make_writer(tmp_path / "logs" / "version_0")
    writer.write(make_look(0, 5))
    expected = filmstrip(load_record(tmp_path), "grad_cam")
    for path in (tmp_path, str(tmp_path / "logs")):
        assert filmstrip(path, "Grad-CAM").equal(expected)
    with pytest.raises(
        ValueError, match=r"one that the record holds, grad_cam, saliency, got 'salency'\. Did you mean 'saliency'"
    ):
        filmstrip(tmp_path, "salency")
    with pytest.raises(ValueError, match=r"holds, grad_cam, saliency, got 'guided_backprop'\.$"):  # no misspelled one
        filmstrip(tmp_path, "guided_backprop")


def test_a_folder_beside_the_record_or_a_file_in_it_leads_to_the_folder_above(tmp_path):
    record = make_writer(tmp_path / "version_0").record.path
    (tmp_path / "version_0" / "checkpoints").mkdir()
    for below, above in (("checkpoints", tmp_path / "version_0"), ("saliency.record/samples.npz", record)):
        with pytest.raises(FileNotFoundError, match=rf"in the folder above: pass {re.escape(str(above))}\.$"):
            load_record(tmp_path / "version_0" / below)
    (tmp_path / "empty" / "below").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"which is empty or not there\.$"):
        load_record(tmp_path / "empty" / "below")
