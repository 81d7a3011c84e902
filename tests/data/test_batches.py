from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch

from lightning_saliency.data import split_batch

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
    images, found = split_batch(batch)
    assert images is X
    assert found is None if labels is None else torch.equal(found, labels)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ("text", "a str"),
        ((X[0], 3), r"a tensor of shape \(3, 8, 8\)"),
        ({"x": (X * 255).to(torch.uint8)}, "uint8"),
    ],
)
def test_a_batch_without_images_is_an_error_that_shows_it_and_names_the_option(batch, message):
    with pytest.raises(ValueError, match=f"{message}.*input_fn"):
        split_batch(batch)


def test_input_fn_returns_images_or_images_and_labels():
    assert split_batch("any", lambda _: X)[1] is None
    assert torch.equal(split_batch("any", lambda _: (X, Y.to(torch.int16)))[1], Y)
    with pytest.raises(ValueError, match="`input_fn` to return images"):
        split_batch("any", lambda _: "any")
    with pytest.raises(ValueError, match=r"`input_fn` to return labels of shape \(4,\)"):
        split_batch("any", lambda _: (X, Y[:3]))
