"""What a data set says of itself, behind any loaders, wrappers and transforms."""

import pickle
from collections.abc import Sequence
from functools import partial
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset, random_split
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from lightning_saliency.data import find_class_names, find_dataset, find_normalizations

X = torch.rand(4, 3, 8, 8)
Y = torch.tensor([2, 0, 1, 2])
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
def test_the_normalization_is_found_in_transforms_v1_and_v2_and_presets_through_wrappers(transform):
    dataset = TensorDataset(X)
    dataset.transform = transform
    for wrapped in (dataset, Subset(dataset, [0]), ConcatDataset([Subset(dataset, [0]), dataset])):
        assert find_normalizations(wrapped) == [(MEAN, STD)]


def test_no_normalization_and_no_classes():
    for dataset in (None, TensorDataset(X), SimpleNamespace(transform=v2.ToImage(), classes=3)):
        assert find_normalizations(dataset) == []
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


class Subtracts:
    """One's own normalization of images `(C, H, W)`."""

    def __init__(self, mean, std):
        self.mean, self.std = mean, std

    def __call__(self, image):
        mean, std = (torch.as_tensor(numbers).view(-1, 1, 1) for numbers in (self.mean, self.std))
        return (image - mean) / std


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
        assert find_normalizations(dataset) == []
        assert find_class_names(dataset) is None
    arrays = Subtracts(np.array([0.5, 0.25]), torch.tensor([1.0, 2.0]))
    assert find_normalizations(SimpleNamespace(transforms=[arrays])) == [([0.5, 0.25], [1.0, 2.0])]
    scripted = torch.nn.Sequential(v1.Normalize(MEAN, STD))
    assert find_normalizations(SimpleNamespace(transform=scripted)) == [(MEAN, STD)]
    scalar = Subtracts(torch.tensor(0.5), torch.tensor(0.25))
    assert find_normalizations(SimpleNamespace(transform=scalar)) == [([0.5], [0.25])]


SPOKEN = (
    *("classes", "mean", "std", "transform", "transforms", "dataset", "datasets"),
    *("class_names", "categories", "names", "id2label", "class_to_idx", "features", "info", "config", "image_mean"),
)
WRAPPERS = {
    "itself": lambda dataset: dataset,
    "Subset": lambda dataset: Subset(dataset, [0]),
    "ConcatDataset": lambda dataset: ConcatDataset([dataset, dataset]),
    "random_split": lambda dataset: random_split(dataset, [2, 2])[0],
    "nested": lambda dataset: Subset(ConcatDataset([Subset(dataset, [0, 1])]), [1]),
}


class Speaking(Dataset):
    """A data set each of whose attributes runs a function."""

    def __init__(self, says):
        self.says = says

    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise AssertionError("read")

    def __call__(self, *args, **kwargs):
        return self.says()


for attribute in SPOKEN:
    setattr(Speaking, attribute, property(lambda self: self.says()))


class NoTextError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def raises(error):
    def say():
        raise error

    return say


class Lying(Sequence):
    """A sequence that has no end, or none of the length it says."""

    def __init__(self, length, entry="class"):
        self.length, self.entry = length, entry

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.entry


class Endless(list):
    def __iter__(self):
        return count()


class Raising:
    """A value every use of which raises."""

    def __getattribute__(self, name):
        raise NotImplementedError(name)


def deep():
    return deep()


ODD = {
    **{f"raises {type(error).__name__}": raises(error) for error in (NotImplementedError(), OSError(), NoTextError())},
    **{f"raises {error.__name__}": raises(error) for error in (AssertionError, KeyError, StopIteration, Warning)},
    "recursion": deep,
    "a method": lambda: print,
    "an iterator": count,
    "a generator": lambda: (name for name in "ab"),
    "a dict": lambda: {"a": 0},
    "a tensor": lambda: torch.zeros(3, 4),
    "a large tensor": lambda: torch.zeros(1, device="meta").expand(2**40),
    "an array of objects": lambda: np.array([object()]),
    "a huge range": lambda: range(10**30),
    "a huge sequence": lambda: Lying(10**15),
    "a list without an end": lambda: Endless([1]),
    "a sequence of a negative length": lambda: Lying(-1),
    "numbers that are none": lambda: [float("nan")],
    "a huge number": lambda: 10**400,
    "bytes": lambda: b"ab",
    "a class": lambda: Speaking,
    "a value that cannot be used": Raising,
    "a cycle of lists": lambda: [lambda: None, *[Speaking(ODD["a cycle of lists"]) for _ in range(30)]],
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("odd", ODD)
def test_whatever_a_data_set_says_of_itself_ends_nothing_and_is_not_known_where_it_is_unusable(odd, wrapper):
    dataset = WRAPPERS[wrapper](Speaking(ODD[odd]))
    assert find_normalizations(dataset) == []
    assert find_class_names(dataset) is None
    find_dataset(SimpleNamespace(flattened=[Speaking(ODD[odd])]), 0)


def test_a_sequence_without_an_end_is_read_as_far_as_its_length():
    assert find_class_names(SimpleNamespace(classes=Lying(3))) == ["class"] * 3


def test_what_one_attribute_says_is_known_where_another_raises():
    class Half(TensorDataset):
        classes = ("a", "b")

        @property
        def transform(self):
            raise RuntimeError("not set up")

        @property
        def transforms(self):
            return [v1.Normalize(MEAN, STD), Raising()]

    for wrapper in WRAPPERS.values():
        assert find_class_names(wrapper(Half(X))) == ["a", "b"]
        assert find_normalizations(wrapper(Half(X))) == [(MEAN, STD)]


def test_what_is_searched_is_pickled_as_before():
    held = [partial(v1.Normalize, MEAN), v1.Compose([v1.Normalize(MEAN, STD)]), partial(v1.Normalize(MEAN, STD))]
    before = [pickle.dumps(value) for value in held]
    dataset = SimpleNamespace(transforms=held, dataset=TensorDataset(X))
    assert find_normalizations(dataset) == [(MEAN, STD)]
    assert find_class_names(dataset) is None
    assert [pickle.dumps(value) for value in held] == before
