"""What is in a batch: its images, its labels."""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lightning_saliency.data import (
    find_images,
    find_label_columns,
    find_label_masks,
    find_label_rows,
    find_labels,
    find_values,
    read_classes,
)

X = torch.rand(4, 3, 8, 8)
Y = torch.tensor([2, 0, 1, 2])
Pair = namedtuple("Pair", ["picture", "target"])


@dataclass
class Record:
    index: torch.Tensor
    image: torch.Tensor
    label: torch.Tensor


@pytest.mark.parametrize(
    ("batch", "labels"),
    [
        (X, None),
        ((X, Y), Y),
        ([X, Y], Y),
        ([Y, X], Y),
        ((X, Y, torch.arange(4)), Y),
        (Pair(X, Y), Y),
        ({"image": X, "label": Y, "id": torch.arange(4)}, Y),
        ({"id": torch.arange(4), "x": X}, torch.arange(4)),  # the only candidate
        ({"id": torch.arange(4), "site": torch.arange(4), "x": X}, None),  # no telling which
        ({"depth": X + 1, "pixel_values": X, "labels": Y[:, None]}, Y),
        (Record(torch.arange(4), X, Y), Y),
        ({"a": (X, Y), "b": (X + 1, Y)}, Y),  # a CombinedLoader
        (({"image": X, "path": ["p"] * 4}, Y), Y),
        (((X, X + 1), Y), Y),  # two views
        ((X, Y.float()), None),  # a regression's target, not classes
        ((X, torch.tensor([0.0, 1.0, 1.0, 0.0])), torch.tensor([0, 1, 1, 0])),  # a binary loss wants floats
        ((X, torch.rand(4, 8, 8)), None),  # a mask
    ],
)
def test_images_and_labels_are_found_in_any_batch(batch, labels):
    assert find_images(batch) is X
    found = find_labels(batch, 4)
    assert found is None if labels is None else torch.equal(found, labels)


@pytest.mark.parametrize(
    ("batch", "labels"),
    [
        ((torch.arange(4) + 100, X, Y), Y),  # an index first
        ((torch.arange(4), X, Y), Y),  # though it would fit
        ((X, torch.arange(4) + 100, Y), Y),  # an index of more than the classes
        ((torch.arange(4) + 100, {"image": X, "label": Y}), Y),
        ({"id": torch.arange(4) + 100, "x": X, "category": Y}, Y),
        ({"target": torch.arange(4) + 100, "x": X, "y": Y}, Y),  # the first usual name whose classes there are
        ([torch.arange(4) + 100, (X, Y)], Y),
        ((X.byte(), Y), Y),  # images of any kind
        (([X[0], X[1], X[2], X[3]], Y), Y),  # also in a list
        ((torch.arange(4) + 100, [X[0], X[1], X[2], X[3]], Y), Y),
        ({"data": (X, Y), "other": (X, Y + 1)}, Y),
        ((Y, X), Y),  # labels first, where nothing stands behind the images
    ],
)
def test_labels_are_found_beside_an_index_and_in_each_other(batch, labels):
    assert torch.equal(find_labels(batch, 4, num_classes=3), labels)


def test_labels_that_do_not_fit_the_classes_are_given_back_where_there_are_no_others():
    unfit = torch.tensor([2, 0, 7, 2])
    assert torch.equal(find_labels((X, unfit), 4, num_classes=3), unfit)
    assert torch.equal(find_labels((X, unfit, Y), 4, num_classes=3), Y)
    binary = torch.tensor([0, 1, 1, 0])
    assert torch.equal(find_labels((X, binary.float()[:, None]), 4, num_classes=1), binary)
    for batch in (
        X,
        (X,),
        "text",
        (X, Y[:3]),
        (X, torch.rand(4)),
        {"x": X, "name": ["a"] * 4},
        (X, Y.to(torch.cfloat)),
    ):
        assert find_labels(batch, 4, num_classes=3) is None


ONE_HOT = F.one_hot(Y, 3)
SOFT = torch.tensor([[0.1, 0.2, 0.7], [0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4]])


@pytest.mark.parametrize(
    "labels",
    [
        Y.tolist(),
        tuple(Y.tolist()),
        Y.numpy(),
        Y.numpy()[:, None],
        Y.numpy().astype(">i2"),
        list(Y.numpy()),
        list(Y),  # of a collate function that stacks nothing
        Y.to(torch.uint8),
        Y.to(torch.int16)[:, None],
        ONE_HOT,
        ONE_HOT.float(),
        ONE_HOT.bool(),
        ONE_HOT.numpy(),
        ONE_HOT.half(),
        SOFT,
        SOFT.bfloat16(),
    ],
    ids=lambda labels: f"{type(labels).__name__} {getattr(labels, 'dtype', '')}",
)
def test_labels_are_read_in_any_form(labels):
    for batch in ((X, labels), {"image": X, "label": labels}, {"id": torch.arange(4) + 9, "x": X, "category": labels}):
        assert torch.equal(find_labels(batch, 4, num_classes=3), Y)
        assert find_labels(batch, 4, num_classes=3).dtype == torch.int64
    assert torch.equal(find_labels((X, labels), 4), Y)


@pytest.mark.parametrize(
    "values",
    [
        torch.rand(4, 3),
        torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]]),  # several classes an image, or none
        2 * ONE_HOT,
        torch.tensor([[2.0, -1.0, 0.0]] * 4),  # which sums to 1
        F.one_hot(Y, 5),  # of other classes
        ONE_HOT[:3],
        ["cat", "dog", "cow", "cat"],
        [10**30] * 4,
        [],
        np.array(["cat"] * 4),
        np.array([object()] * 4),
        torch.rand(4, 3).to_sparse(),
    ],
)
def test_what_is_no_class_of_each_image_is_none(values):
    assert find_labels((X, values), 4, num_classes=3) is None
    assert torch.equal(find_labels({"label": values, "y": Y, "x": X}, 4, num_classes=3), Y)


def test_one_hot_labels_of_a_single_logit_have_two_classes():
    binary = torch.tensor([0, 1, 1, 0])
    assert torch.equal(find_labels((X, F.one_hot(binary)), 4, num_classes=1), binary)
    assert find_labels((X, ONE_HOT), 4, num_classes=1) is None


@pytest.mark.parametrize("ignored", [-1, -100, 255, 3, 10])
def test_labels_some_of_which_mean_ignore_are_labels(ignored):
    some = torch.tensor([2, ignored, 1, 0])
    assert torch.equal(find_labels((X, some), 4, num_classes=3), some)
    assert torch.equal(find_labels((X, torch.arange(4) + 100, some), 4, num_classes=3), some)  # behind an index
    assert torch.equal(find_labels({"target": some, "y": Y}, 4, num_classes=3), Y)  # all classes are better


@pytest.mark.parametrize("ignored", [-1, -100, 255])
def test_labels_all_of_which_mean_ignore_are_labels(ignored):
    unlabeled = torch.full((4,), ignored)
    assert torch.equal(find_labels((X, torch.arange(4) + 400, unlabeled), 4, num_classes=3), unlabeled)


def test_all_that_may_be_labels_is_listed_by_its_path():
    def paths(batch):
        return list(find_label_columns(batch, lambda value: read_classes(value, 4)))

    heads = {"color": Y, "shape": Y + 1}
    assert paths((X, heads)) == [(1, "color"), (1, "shape")]
    assert paths({"image": X, **heads}) == [("color",), ("shape",)]
    assert paths({"image": X, **heads, "label": Y}) == [("label",), ("color",), ("shape",)]
    assert paths({"image": X, "labels": heads}) == [("labels", "color"), ("labels", "shape")]
    assert paths((torch.arange(4), X, Y, Y + 1)) == [(2,), (3,), (0,)]
    assert paths({"val": (X, Y), "other": {"x": X, "y": Y}}) == [("val", 1), ("other", "y")]
    assert find_label_columns((X, heads), lambda value: read_classes(value, 4))[1, "shape"] is not None
    assert find_labels((X, heads), 4) is None  # no telling which
    assert paths(X) == paths("text") == []


ROWS = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]])


@pytest.mark.parametrize("rows", [ROWS, ROWS.float(), ROWS.bool(), ROWS.numpy(), ROWS.half()])
def test_rows_of_a_multi_label_task(rows):
    for batch in ((X, rows), (X, Y, rows), {"image": X, "labels": rows}, ({"image": X}, {"attributes": rows})):
        found = find_label_rows(batch, 4, num_classes=3)
        assert torch.equal(found, ROWS)
        assert found.dtype == torch.int64
        assert find_label_rows(batch, 4, num_classes=4) is None
    assert find_label_rows((X, SOFT), 4, num_classes=3) is None
    assert torch.equal(find_label_rows((X, ONE_HOT), 4, num_classes=3), ONE_HOT)


def test_values_of_a_regression():
    ages = torch.tensor([31.5, 2.0, 77.0, 44.25])
    for batch in (
        (X, ages),
        (torch.arange(4), X, ages[:, None]),
        (X, Y, ages),  # floating point before integers
        {"image": X, "age": ages},
        {"image": X, "target": ages.tolist(), "id": Y},
        (X, ages.double().numpy()),
    ):
        found = find_values(batch, 4)
        assert torch.equal(found.float(), ages[:, None])
        assert found.is_floating_point()
    assert torch.equal(find_values((X, Y), 4), Y[:, None].float())
    points = torch.rand(4, 2)
    assert torch.equal(find_values((X, points), 4, width=2), points)
    assert find_values((X, points), 4) is None
    assert find_values((X, ages), 4, width=2) is None
    assert find_values({"image": X, "left": ages, "right": ages}, 4) is None  # no telling which


MASKS = torch.arange(4 * 8 * 8).view(4, 8, 8) % 3
BINARY = (MASKS == 1).float()


@pytest.mark.parametrize("masks", [MASKS, MASKS[:, None], MASKS.to(torch.uint8), MASKS.numpy()])
def test_masks_of_a_segmentation(masks):
    gray = (X[:, :1] * 255).byte()
    for batch in (
        (X, masks),
        (gray, masks),
        {"image": X, "mask": masks},
        {"image": gray, "mask": masks},
        {"image": X, "label": Y, "mask": masks, "edges": masks + 1},
        ({"image": X}, {"annotation": masks}),
    ):
        found = find_label_masks(batch, 4, size=(8, 8))
        assert torch.equal(found, MASKS)
        assert found.dtype == torch.int64
        assert find_label_masks(batch, 4, size=(4, 4)) is None
    ignoring = torch.where(MASKS == 2, 255, MASKS)
    assert torch.equal(find_label_masks((X, ignoring), 4), ignoring)


def test_masks_of_two_classes_may_be_floats_and_images_are_no_masks():
    for masks in (BINARY, BINARY[:, None], BINARY.bool()):
        assert torch.equal(find_label_masks((X, masks), 4), BINARY.long())
    for batch in (X, (X, Y), (X, X[:, 0]), (X, MASKS[:3]), {"image": (X[:, :1] * 255).byte(), "label": Y}):
        assert find_label_masks(batch, 4) is None


VOXELS = torch.arange(4 * 5 * 6 * 7).view(4, 5, 6, 7) % 3
POINTS = torch.arange(4 * 30).view(4, 30) % 3


@pytest.mark.parametrize("masks", [MASKS, VOXELS, POINTS], ids=["images", "volumes", "signals"])
def test_masks_of_any_number_of_axes_and_with_one_channel_a_class(masks):
    inputs, num_axes = torch.rand(4, 1, *masks.shape[1:]), masks.dim() - 1

    def found(value, num_classes=3):
        return find_label_masks((inputs, value), 4, num_axes=num_axes, num_classes=num_classes)

    channels = torch.nn.functional.one_hot(masks, 3).movedim(-1, 1)
    for value in (masks, masks[:, None], masks.float(), masks[:, None].double(), channels, channels.float()):
        assert torch.equal(found(value), masks)
    assert torch.equal(found(channels, num_classes=None), masks)
    assert found(channels, num_classes=4) is None
    assert found(masks.float() + 0.5) is None
    assert found(masks.float(), num_classes=None) is None  # numbers of any kind
    assert found(channels[:, [0, 0, 2]]) is None  # classes that overlap
    assert find_label_masks((inputs, masks), 4, masks.shape[1:], num_axes=num_axes) is not None
    assert find_label_masks((inputs, masks), 4, (2,) * num_axes, num_axes=num_axes) is None


@pytest.mark.parametrize("ignored", [-1, 255])
def test_pixels_that_are_of_no_channel_or_ignored_have_no_class(ignored):
    channels = torch.nn.functional.one_hot(MASKS, 3).movedim(-1, 1)
    channels[0, :, :2] = 0
    channels[1, :, 3] = ignored
    expected = MASKS.clone()
    expected[0, :2] = expected[1, 3] = -1
    assert torch.equal(find_label_masks((X, channels), 4, num_classes=3), expected)
    assert find_label_masks((torch.zeros(4, 3, 8, 8), Y), 4) is None  # black images are no masks


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ("text", "a str"),
        ((X[0], 3), r"a tensor of shape \(3, 8, 8\)"),
        ({"x": (X * 255).to(torch.uint8)}, "uint8"),
    ],
)
def test_a_batch_without_images_is_an_error_that_shows_it(batch, message):
    with pytest.raises(ValueError, match=f"a floating-point tensor .*{message}"):
        find_images(batch)
