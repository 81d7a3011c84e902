"""The fixed samples: collected once from a stream, kept on the CPU, put together by size, saved in a checkpoint."""

import gc
import io
import math
from dataclasses import dataclass
from enum import Enum

import pytest
import torch
import torch.nn.functional as F

from lightning_saliency.data import (
    CHOOSERS,
    FixedSamples,
    Positions,
    SampleCollector,
    given_samples,
    make_call,
    objects_to_masks,
    plain_call,
)

X = torch.rand(4, 3, 8, 8)
Y = torch.tensor([2, 0, 1, 2])
NUM = 10


@dataclass
class Meta:
    scale: torch.Tensor


def batches(size=3, labels=None, num=NUM):
    """A stream whose images hold their positions."""
    images = torch.arange(float(num)).view(-1, 1, 1, 1).expand(num, 3, 2, 2)
    labels = torch.arange(num) % 4 if labels is None else labels
    for start in range(0, num, size):
        yield images[start : start + size], labels[start : start + size]


def first(num, **options):
    return SampleCollector(CHOOSERS["first"](num), **options)


def collected(collector, stream=None, logits=None):
    """Offer a whole stream."""
    collector.begin()
    for images, labels in batches() if stream is None else stream:
        collector.offer((images, labels), plain_call(images), None if logits is None else logits(images))
    collector.end(whole=True)
    return collector


def positions(samples: FixedSamples) -> list[int]:
    return [int(sample.call.images[0, 0, 0, 0]) for sample in samples.samples]


def test_what_is_kept_of_a_stream():
    assert positions(collected(first(4)).fixed) == [0, 1, 2, 3]
    assert positions(collected(first(40)).fixed) == list(range(10))  # a short stream
    assert positions(collected(SampleCollector(Positions(3, (7, 0, 7)))).fixed) == [7, 0, 7]
    in_order = torch.tensor([0] * 6 + [1] * 3 + [2])
    per_class = collected(SampleCollector(CHOOSERS["per_class"](5)), batches(labels=in_order)).fixed
    assert positions(per_class) == [0, 6, 9, 1, 7]
    assert [sample.label for sample in per_class.samples] == [0, 1, 2, 0, 1]
    assert per_class.positions == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("num_classes", [4, 1])
def test_the_hardest_are_those_that_the_model_was_most_wrong_about(num_classes):
    table = torch.randn(NUM, num_classes, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(NUM) % max(num_classes, 2)
    losses = (
        F.binary_cross_entropy_with_logits(table[:, 0], labels.float(), reduction="none")
        if num_classes == 1
        else F.cross_entropy(table, labels, reduction="none")
    )
    collector = SampleCollector(CHOOSERS["hardest"](3))
    collected(collector, batches(labels=labels), lambda images: table[images[:, 0, 0, 0].long()])
    assert positions(collector.fixed) == losses.argsort(descending=True)[:3].tolist()
    for sample, position in zip(collector.fixed.samples, positions(collector.fixed), strict=True):
        assert torch.equal(sample.logits, table[position])


def test_the_hardest_so_far_are_shown_while_the_stream_runs():
    collector = SampleCollector(CHOOSERS["hardest"](2))
    for images, labels in batches(size=2, num=6):
        collector.offer(
            (images, labels), plain_call(images), -images[:, 0, 0, 0, None].expand(-1, 4) * F.one_hot(labels, 4)
        )
        assert len(collector.current()) == 2
    assert collector.fixed is None
    assert positions(collector.current()) == [5, 4]


def test_what_is_complete_is_not_collected_again_and_what_is_not_is_collected_anew():
    collector = collected(first(2))
    collected(collector, batches(labels=torch.zeros(10, dtype=torch.long)))
    assert [sample.label for sample in collector.fixed.samples] == [0, 1]

    partial = first(4)
    partial.begin()
    images = torch.full((2, 3, 2, 2), 99.0)
    partial.offer((images, torch.tensor([5, 5])), plain_call(images), None)
    partial.end(whole=False)  # sanity checking has seen a part of the stream
    assert positions(partial.current()) == [99, 99]
    assert partial.fixed is None
    assert positions(collected(partial).fixed) == [0, 1, 2, 3]
    partial.reset()
    assert partial.current() is None


def test_the_places_of_samples_that_have_not_all_come_are_those_in_the_whole_selection():
    collector = SampleCollector(Positions(3, (7, 0, 4)))
    stream = batches()
    for _ in range(2):
        images, labels = next(stream)
        collector.offer((images, labels), plain_call(images), None)
    assert positions(collector.current()) == [0, 4]
    assert collector.current().positions == (1, 2)
    assert collector.current().first(1).positions == (1,)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_samples_are_copies_on_the_cpu(context):
    with context():
        images, scale, boxes = X.clone(), torch.ones(4, 1), [torch.zeros(1, 4) for _ in range(4)]
        collector = first(2)
        call = make_call([images, {"boxes": boxes}], {"meta": Meta(scale)})
        collector.offer((images, Y), call, torch.zeros(4, 3))
        for tensor in (images, scale, *boxes):
            tensor.fill_(7)
    for row, sample in enumerate(collector.fixed.samples):
        assert torch.equal(sample.call.images, X[row : row + 1])
        tensors = [sample.call.images, sample.call.kwargs["meta"].scale, sample.call.args[1]["boxes"][0]]
        assert [float(tensor.amax()) for tensor in tensors[1:]] == [1, 0]
        for tensor in tensors:
            assert tensor._base is None  # not a view that keeps the whole batch alive
            assert not tensor.is_inference()


def num_alive(shape):
    """How many tensors of a shape there are in the process."""
    return sum(type(value) is torch.Tensor and value.shape == shape for value in gc.get_objects())


@pytest.mark.parametrize("name", ["per_class", "hardest"])
def test_no_more_samples_are_alive_than_can_be_shown(name):
    labels = torch.arange(900) // 300  # sorted by class, as folders are
    collector = SampleCollector(CHOOSERS[name](5))
    for start in range(0, 900, 30):
        images, rising = torch.zeros(30, 3, 11, 7), torch.zeros(30, 3)
        rising[range(30), labels[start : start + 30]] = -torch.arange(start, start + 30.0)
        collector.offer((images, labels[start : start + 30]), plain_call(images), rising)
        if start % 290 < 30:  # the count walks through all objects
            assert num_alive((1, 3, 11, 7)) == len(collector.current()) == 5
    collector.end(whole=True)
    found = [sample.label for sample in collector.fixed.samples]
    assert found == ([0, 1, 2, 0, 1] if name == "per_class" else [2] * 5)


def test_what_is_the_same_for_a_whole_batch_is_kept_once():
    table = torch.rand(1000)
    collector = first(4)
    collector.offer((X, Y), make_call([X], {"table": table}), None)
    kept = [sample.call.kwargs["table"] for sample in collector.fixed.samples]
    assert len({tensor.data_ptr() for tensor in kept}) == 1
    assert kept[0].data_ptr() != table.data_ptr()
    file = io.BytesIO()
    torch.save(collector.state_dict(), file)
    assert len(file.getvalue()) < 4 * (3 * 8 * 8 * 4) + 1000 * 4 + 10_000


def test_a_checkpoint_does_not_hold_the_images_that_were_passed():
    images = torch.zeros(1000, 3, 8, 8)[:2]  # a part, which would be saved with the whole
    collector = first(2, given=given_samples(images))
    assert len(collector.fixed) == 2
    assert collector.state_dict() == {}


def test_the_samples_of_one_size_are_put_together_and_keep_their_places():
    collector = first(7)
    for size, count in ((8, 2), (6, 1), (8, 3), (5, 1)):
        images = torch.full((count, 3, size, 8), float(size))
        collector.offer((images, torch.arange(count)), plain_call(images), None)
    sizes = [(tuple(batch.call.images.shape), batch.positions, batch.labels) for batch in collector.fixed.batches()]
    assert sizes == [
        ((5, 3, 8, 8), (0, 1, 3, 4, 5), (0, 1, 0, 1, 2)),
        ((1, 3, 6, 8), (2,), (0,)),
        ((1, 3, 5, 8), (6,), (0,)),
    ]
    assert [len(batch) for batch in collector.fixed.first(3).batches()] == [2, 1]


def test_what_is_the_same_for_a_whole_batch_keeps_samples_of_others_apart():
    collector = first(6)
    for temperature in (1.0, 2.0, 1.0):
        call = make_call([X[:2]], {"temperature": torch.tensor(temperature), "mode": "any"})
        collector.offer((X[:2], Y[:2]), call, None)
    found = [(batch.positions, float(batch.call.kwargs["temperature"])) for batch in collector.fixed.batches()]
    assert found == [((0, 1, 4, 5), 1.0), ((2, 3), 2.0)]


@pytest.mark.parametrize(
    ("batch", "num_classes", "labels", "unfit"),
    [
        ((X, Y), 3, [2, 0, 1, 2], None),
        ((X, Y), None, [2, 0, 1, 2], None),
        ((X, Y), 2, [None, 0, 1, None], "labels from 0 to 2, where the model has 2 logits"),
        ((X, Y - 1), 3, [1, None, 0, 1], None),  # −1 means "ignore"
        ((X, Y - 4), 3, [None] * 4, "labels from -4 to -2, where the model has 3 logits"),
        ((torch.arange(4) + 50, X, Y), 3, [2, 0, 1, 2], None),
        ((X, torch.rand(4)), 3, [None] * 4, None),
        (X, 3, [None] * 4, None),
        ((X, Y[:3]), 3, [None] * 4, None),
    ],
)
def test_labels_that_do_not_fit_are_none_and_a_note_says_why(batch, num_classes, labels, unfit):
    collector = first(4)
    collector.offer(batch, plain_call(X), None if num_classes is None else torch.zeros(4, num_classes))
    assert [sample.label for sample in collector.fixed.samples] == labels
    assert collector.unfit_labels == unfit
    known = collector.fixed.batches()[0].known_labels
    assert known is None if labels == [None] * 4 else known.tolist() == [-1 if x is None else x for x in labels]


def test_labels_are_taken_out_of_a_batch_by_a_function():
    collector = first(4, label_fn=lambda batch: batch["mine"][:, 0])
    collector.offer({"x": X, "y": Y * 0, "mine": Y[:, None]}, plain_call(X), None)
    assert [sample.label for sample in collector.fixed.samples] == Y.tolist()
    none = first(4, label_fn=lambda batch: None)
    none.offer((X, Y), plain_call(X), None)
    assert [sample.label for sample in none.fixed.samples] == [None] * 4
    with pytest.raises(ValueError, match=r"`labels` to return one class for each of the 4 images, got a tensor of"):
        first(4, label_fn=lambda batch: Y[:3]).offer((X, Y), plain_call(X), None)


def test_errors_of_a_stream():
    with pytest.raises(ValueError, match=r"positions in the stream, which held 10 images, got \[12\]"):
        collected(SampleCollector(Positions(2, (1, 12))))
    for name in ("per_class", "hardest"):
        with pytest.raises(ValueError, match=rf"integer labels .* \({CHOOSERS[name].__name__}\) needs"):
            SampleCollector(CHOOSERS[name](4)).offer(X, plain_call(X), None)
    with pytest.raises(ValueError, match=r"`objects` to be, for 4 images of 8×8, boxes .* got a list of"):
        first(4, objects=lambda batch: [1, 2]).offer((X, Y), plain_call(X), None)


BOXES = torch.tensor([[0, 0, 2, 2], [1, 1, 3, 3], [4, 4, 8, 8], [0, 0, 8, 1]])


def test_objects_are_taken_out_of_a_batch_or_given_for_each_sample():
    expected = objects_to_masks(BOXES, 4, (8, 8))
    taken = first(3, objects=lambda batch: batch[2])
    taken.offer((X, Y, BOXES), plain_call(X), None)
    for objects in (BOXES, list(BOXES[:, None]), expected, expected[:, 0]):
        given = first(3, objects=objects)
        given.offer((X, Y), plain_call(X), None)
        for collector in (taken, given):
            assert torch.equal(collector.fixed.batches()[0].masks, expected[:3])
    assert first(4, given=given_samples(X, Y), objects=BOXES).fixed.batches()[0].masks.shape == (4, 1, 8, 8)


@pytest.mark.parametrize("objects", [BOXES[:2], list(BOXES[:2, None]), objects_to_masks(BOXES, 4, (8, 8))[:2]])
@pytest.mark.parametrize("is_given", [True, False])
def test_samples_without_an_entry_in_the_objects_have_no_object(objects, is_given):
    collector = first(4, objects=objects, given=given_samples(X, Y) if is_given else None)
    collector.offer((X, Y), plain_call(X), None)
    (batch,) = collector.fixed.batches()
    assert torch.equal(batch.masks[:2], objects_to_masks(BOXES, 4, (8, 8))[:2])
    assert not batch.masks[2:].any()
    assert not first(4, objects=[], given=given_samples(X, Y)).fixed.batches()[0].masks.any()


def full_call(num=4):
    return make_call(
        ({"image": X[:num], "names": list("abcd")[:num], "size": (8, 8), "flag": True, "none": None},),
        {"prior": torch.ones(7, dtype=torch.bfloat16), "scale": [1.5, {"deep": (X[:num] * 255).byte()}]},
    )


def test_the_state_survives_a_checkpoint(tmp_path):
    collector = first(3, objects=BOXES)
    collector.offer((X, Y), full_call(), torch.arange(12.0).view(4, 3))
    torch.save(collector.state_dict(), tmp_path / "state.pt")
    fresh = first(3)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for sample, expected in zip(fresh.fixed.samples, collector.fixed.samples, strict=True):
        assert (sample.label, sample.call.image) == (expected.label, expected.call.image)
        assert sample.call.per_sample == expected.call.per_sample
        assert sample.call.signature == expected.call.signature
        assert torch.equal(sample.logits, expected.logits)
        assert torch.equal(sample.mask, expected.mask)
    (batch,), (expected,) = fresh.fixed.batches(), collector.fixed.batches()
    assert batch.call.args[0]["names"] == ["a", "b", "c"]
    assert batch.call.args[0]["size"] == (8, 8)
    assert torch.equal(batch.call.images, X[:3])
    assert torch.equal(batch.masks, expected.masks)
    assert batch.positions == (0, 1, 2)


PLAIN = {
    "numbers": [1, -(2**70), 0.5, math.inf, True, None],
    "texts": ("name", "", b"\x00bytes"),
    "empty": [{}, [], ()],
    "nested": {"a": [{"b": (torch.ones(4), {0: 1})}]},
    "types": [
        torch.zeros(4, dtype=dtype) for dtype in (torch.bool, torch.bfloat16, torch.complex64, torch.int8, torch.half)
    ],
}


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_values_of_all_kinds_are_loaded_without_running_code(kind):
    collector = first(2)
    collector.offer((X, Y), make_call((X,), {"other": PLAIN[kind]}), None)
    file = io.BytesIO()
    torch.save(collector.state_dict(), file)
    file.seek(0)
    fresh = first(2)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for sample, expected in zip(fresh.fixed.samples, collector.fixed.samples, strict=True):
        assert str(sample.call.kwargs) == str(expected.call.kwargs)


class Custom:
    pass


class Kind(Enum):
    ONE = 1


@pytest.mark.parametrize(
    "value", [Custom(), Meta(torch.ones(4)), {"deep": [Custom()]}, {Kind.ONE: 1}, {1, 2}, math.sqrt]
)
def test_arguments_that_no_checkpoint_can_hold_give_an_empty_state(value):
    collector = first(2)
    collector.offer((X, Y), make_call((X,), {"other": value}), None)
    assert len(collector.fixed) == 2
    assert collector.state_dict() == {}
    fresh = first(2)
    fresh.load_state_dict(collector.state_dict())
    assert fresh.fixed is None


def test_a_state_gives_way_to_given_samples_and_to_objects_that_it_does_not_know():
    collector = collected(first(2))
    state = collector.state_dict()
    given = first(2, given=given_samples(X))
    given.load_state_dict(state)
    assert torch.equal(given.fixed.batches()[0].call.images, X)
    asked = first(2, objects=lambda batch: batch[2])
    asked.load_state_dict(state)
    assert asked.fixed is None
    empty = first(2)
    empty.load_state_dict(first(2).state_dict())
    assert empty.fixed is None


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (X[0], None, r"`samples` to hold images: .* got a tensor of shape \(3, 8, 8\)"),
        (X.byte(), None, r"`samples` to hold images: floating point, .* torch.uint8"),
        ("folder", None, r"`samples` to hold images: .* got a str"),
        (X, Y[:2], r"one integer class for each of the 4 images, got a tensor of shape \(2,\)"),
        (X, Y.float(), r"one integer class for each of the 4 images, got .* torch.float32"),
        (X, [2, 0, 1, 2], r"one integer class for each of the 4 images, got a list"),
    ],
)
def test_given_samples_that_are_none_are_refused(images, labels, says):
    with pytest.raises(ValueError, match=says):
        given_samples(images, labels)


def test_given_samples_need_no_stream():
    samples = given_samples(X.clone().requires_grad_(), Y[:, None])
    assert [sample.label for sample in samples.samples] == Y.tolist()
    assert not samples.samples[0].call.images.requires_grad
    collector = first(2, given=samples)
    collected(collector)
    collector.reset()
    assert collector.fixed.batches()[0].known_labels.tolist() == Y.tolist()
