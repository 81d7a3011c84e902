from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from lightning_saliency.batches import split_batch
from lightning_saliency.datasets import find_class_names, find_dataset, find_normalization
from lightning_saliency.samples import FixedBatch, Samples

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


def collected(batch: FixedBatch, size: int = 3, num: int = 10, labels=None) -> FixedBatch:
    images = torch.arange(float(num)).view(-1, 1, 1, 1).expand(num, 3, 2, 2)
    labels = torch.arange(num) % 4 if labels is None else labels
    batch.begin()
    for start in range(0, num, size):
        batch.offer((images[start : start + size], labels[start : start + size]))
    batch.end(whole=True)
    return batch


def positions(samples: Samples | None) -> list[int]:
    return [int(image[0, 0, 0]) for image in samples.images]


def test_what_is_kept_of_a_stream():
    assert positions(collected(FixedBatch(4)).fixed) == [0, 1, 2, 3]
    assert positions(collected(FixedBatch(40)).fixed) == list(range(10))  # a short stream
    assert positions(collected(FixedBatch(indices=[7, 0, 7])).fixed) == [7, 0, 7]
    sorted_labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    per_class = collected(FixedBatch(5, choose="per_class"), labels=sorted_labels)
    assert positions(per_class.fixed) == [0, 6, 9, 1, 7]
    assert per_class.fixed.labels.tolist() == [0, 1, 2, 0, 1]


def test_what_is_complete_is_not_collected_again_and_what_is_not_is_collected_anew():
    batch = collected(FixedBatch(2))
    collected(batch, labels=torch.zeros(10, dtype=torch.long))
    assert batch.fixed.labels.tolist() == [0, 1]

    partial = FixedBatch(4)
    partial.begin()
    partial.offer((torch.full((2, 3, 2, 2), 99.0), torch.tensor([5, 5])))
    partial.end(whole=False)  # sanity checking has seen a part of the stream
    assert positions(partial.current()) == [99, 99]
    assert positions(collected(partial).fixed) == [0, 1, 2, 3]


def test_the_samples_are_copies_on_the_cpu():
    images = X.clone()
    batch = FixedBatch(2)
    with torch.inference_mode():
        batch.offer((images, Y))
    images.zero_()
    assert torch.equal(batch.fixed.images, X[:2])
    assert batch.fixed.images._base is None  # not a view that keeps the whole batch alive


def test_errors_of_a_stream():
    with pytest.raises(ValueError, match=r"positions in the stream, which held 10 images, got \[12\]"):
        collected(FixedBatch(indices=[1, 12]))
    batch = FixedBatch(8)
    batch.offer(X)
    with pytest.raises(ValueError, match=r"one size, got \(3, 8, 8\) and \(3, 9, 9\)"):
        batch.offer(torch.rand(1, 3, 9, 9))
    with pytest.raises(ValueError, match="choose='per_class'"):
        FixedBatch(choose="per_class").offer(X)


def test_the_state_survives_a_checkpoint_and_gives_way_to_given_samples(tmp_path):
    batch = collected(FixedBatch(2))
    torch.save(batch.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    fresh = FixedBatch(2)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.fixed.images, batch.fixed.images)
    given = FixedBatch(given=Samples(X))
    given.load_state_dict(state)
    assert given.fixed.images is X
    empty = FixedBatch()
    empty.load_state_dict(FixedBatch().state_dict())
    assert empty.fixed is None


MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]


@pytest.mark.parametrize(
    "transform",
    [
        v1.Normalize(MEAN, STD),
        v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD)]),
        v2.Compose([v2.ToImage(), v2.Compose([v2.Normalize(MEAN, STD)])]),
        ImageClassification(crop_size=224, mean=tuple(MEAN), std=tuple(STD)),
    ],
)
def test_the_normalisation_is_found_in_transforms_v1_and_v2_and_presets_through_wrappers(transform):
    dataset = TensorDataset(X)
    dataset.transform = transform
    for wrapped in (dataset, Subset(dataset, [0]), ConcatDataset([Subset(dataset, [0]), dataset])):
        assert find_normalization(wrapped) == (MEAN, STD)


def test_no_normalisation_and_no_classes():
    for dataset in (None, TensorDataset(X), SimpleNamespace(transform=v2.ToImage(), classes=3)):
        assert find_normalization(dataset) is None
        assert find_class_names(dataset) is None


def test_the_data_set_and_its_class_names_are_found_behind_any_loaders():
    dataset = TensorDataset(X, Y)
    dataset.classes = ["a", "b", "c"]
    other = TensorDataset(X, Y)
    loaders = [DataLoader(other), DataLoader(Subset(dataset, [0]))]
    for given in (loaders, dict(enumerate(loaders)), SimpleNamespace(flattened=loaders)):
        assert find_class_names(find_dataset(given, 1)) == ["a", "b", "c"]
        assert find_dataset(given, 0) is other
    assert find_dataset(loaders[0]) is other
    assert find_dataset(None) is None
    assert find_dataset(loaders, 7) is None


def test_a_guess_at_a_strange_data_set_fails_nothing_and_walks_no_data():
    class Listed(list):
        def __iter__(self):
            raise AssertionError("walked")

    strange = [
        SimpleNamespace(dataset=np.zeros((3, 2)), datasets=None),
        SimpleNamespace(dataset=torch.zeros(3), datasets=4),
        SimpleNamespace(mean=torch.tensor([0.5]).mean, std=3, transform=7),
        SimpleNamespace(dataset=Listed([("path", 1)])),
        SimpleNamespace(classes=np.arange(3)),
    ]
    for dataset in strange:
        assert find_normalization(dataset) is None
        assert find_class_names(dataset) is None
    arrays = SimpleNamespace(mean=np.array([0.5, 0.25]), std=torch.tensor([1.0, 2.0]))
    assert find_normalization(SimpleNamespace(transforms=[arrays])) == ([0.5, 0.25], [1.0, 2.0])
    scripted = torch.nn.Sequential(v1.Normalize(MEAN, STD))
    assert find_normalization(SimpleNamespace(transform=scripted)) == (MEAN, STD)
    scalar = SimpleNamespace(mean=torch.tensor(0.5), std=torch.tensor(0.25))
    assert find_normalization(SimpleNamespace(transform=scalar)) == ([0.5], [0.25])
