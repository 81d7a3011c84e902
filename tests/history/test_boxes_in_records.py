"""The boxes of objects, and of what is detected, in a record."""

import numpy as np
import pytest
from recording import make_look, make_samples, make_writer

from lightning_saliency.history import RecordedSamples, load_record

BOXES = (
    np.array([[1, 2, 3, 4], [0, 0, 16, 16]], np.float32),
    np.zeros((0, 4), np.float32),
    np.ones((1, 4), np.float32),
)
CLASSES = ((3, 1), (), (2,))


def with_boxes(samples, places=(0, 1, 2)):
    boxes, classes = (tuple(of[place] for place in places) for of in (BOXES, CLASSES))
    return RecordedSamples(samples.positions, samples.images, samples.labels, None, boxes, classes)


def same_boxes(boxes, expected):
    return all(map(np.array_equal, boxes, expected))


def test_boxes_are_read_as_they_were_written(tmp_path):
    writer = make_writer(tmp_path, samples=with_boxes(make_samples()))
    writer.write(make_look(boxes=BOXES[::-1], box_classes=CLASSES[::-1]))
    record = load_record(tmp_path)
    assert same_boxes(record.samples.boxes, BOXES)
    assert record.samples.box_classes == CLASSES
    assert same_boxes(record[0].boxes, BOXES[::-1])
    assert record[0].box_classes == record.about(0).box_classes == CLASSES[::-1]
    with np.load(f"{record.path}/{record.files[0]}") as arrays:
        assert arrays["boxes"].shape == (3, 2, 4)
        assert np.isnan(arrays["boxes"][1]).all()


def test_of_other_tasks_there_is_no_array_of_boxes(tmp_path):
    writer = make_writer(tmp_path)
    writer.write(make_look())
    assert load_record(tmp_path)[0].boxes == load_record(tmp_path).samples.boxes == ()
    with np.load(f"{writer.record.path}/samples.npz") as arrays:
        assert "boxes" not in arrays.files


def test_samples_that_come_later_bring_their_boxes(tmp_path):
    whole = make_samples()
    first = RecordedSamples((0, 1), whole.images[:2], whole.labels[:2])
    writer = make_writer(tmp_path, samples=first)
    writer.write_samples(with_boxes(RecordedSamples((1, 2), whole.images[1:], whole.labels[1:]), (0, 2)))
    assert [len(own) for own in load_record(tmp_path).samples.boxes] == [0, 2, 1]


def test_boxes_must_have_a_class_each():
    with pytest.raises(ValueError, match=r"`boxes` to be \(1, 4\)"):
        make_look(boxes=BOXES, box_classes=((3,), (), (2,)))


def test_more_boxes_than_a_look_can_have_are_refused(tmp_path):
    many = [(0,) * 200_000, *[()] * 400]
    samples = RecordedSamples(
        tuple(range(401)), (np.zeros((3, 1, 1), np.uint8),) * 401, (None,) * 401, None,
        tuple(np.zeros((len(own), 4), np.float32) for own in many), tuple(many),
    )  # fmt: skip
    with pytest.raises(ValueError, match="boxes of at most"):
        make_writer(tmp_path, samples=samples)
