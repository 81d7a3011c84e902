"""What is in a batch: its images, its labels."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch

from lightning_saliency.data import find_images, find_labels

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
