"""What a data set says of itself, behind any loaders, wrappers and transforms."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from lightning_saliency.data import find_class_names, find_dataset, find_normalization

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
        assert find_normalization(wrapped) == (MEAN, STD)


def test_no_normalization_and_no_classes():
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
