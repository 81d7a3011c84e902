"""The names of the classes: in which forms data sets and models give them, and behind which wrappers."""

from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ChainDataset, ConcatDataset, Dataset, IterableDataset, StackDataset, Subset, TensorDataset
from torchvision.datasets import FakeData

from lightning_saliency.data import find_class_names

NAMES = ["cat", "dog", "cow"]
Class = namedtuple("Class", ["name", "index"])


class ClassLabel:
    """As in the `features` of a Hugging Face data set."""

    def __init__(self, names):
        self.names, self.num_classes = names, len(names)


class Listed:
    """A list of such, for several labels a sample."""

    def __init__(self, feature):
        self.feature = feature


def telling(**told):
    """A data set that tells something of itself."""
    dataset = TensorDataset(torch.zeros(4, 3, 8, 8))
    vars(dataset).update(told)
    return dataset


FORMS = {
    "a list": telling(classes=NAMES),
    "a tuple": telling(classes=tuple(NAMES)),
    "an array": telling(classes=np.array(NAMES)),
    "an array of objects": telling(classes=np.array(NAMES, dtype=object)),
    "synonyms": telling(classes=[("cat", "Felis catus"), ("dog",), ["cow", "ox"]]),
    "named tuples": telling(classes=[Class(name, index) for index, name in enumerate(NAMES)]),
    "dicts": telling(categories=[{"id": index, "name": name} for index, name in enumerate(NAMES)]),
    "categories": telling(categories=NAMES),
    "class_names": telling(class_names=NAMES),
    "label_names": telling(label_names=NAMES),
    "names by index": telling(classes=dict(enumerate(NAMES))),
    "indices by name": telling(classes={"cow": 2, "dog": 1, "cat": 0}),
    "class_to_idx": telling(class_to_idx={"cow": 2, "dog": 1, "cat": 0}),
    "indices by synonym": telling(class_to_idx={"cat": 0, "Felis catus": 0, "dog": np.int64(1), "cow": 2, "ox": 2}),
    "idx_to_class": telling(idx_to_class={2: "cow", 0: "cat", 1: "dog"}),
    "id2label": telling(id2label={"2": "cow", "0": "cat", "1": "dog"}),
    "label2id": telling(label2id={"cow": 2, "dog": 1, "cat": 0}),
    "features": telling(features={"image": None, "label": ClassLabel(NAMES)}),
    "features of another name": telling(features={"image": object(), "animal": ClassLabel(NAMES)}),
    "features of several labels": telling(features={"image": None, "animals": Listed(ClassLabel(NAMES))}),
    "info": telling(info={"task": "multi-class", "label": {"0": "cat", "1": "dog", "2": "cow"}}),
    "config": telling(config=SimpleNamespace(id2label=dict(enumerate(NAMES)))),
    "metainfo": telling(metainfo={"classes": tuple(NAMES)}),
}


@pytest.mark.parametrize("form", FORMS)
def test_names_are_read_in_any_form_in_the_order_of_the_classes(form):
    assert find_class_names(FORMS[form]) == NAMES
    assert find_class_names(FORMS[form], num_classes=3) == NAMES
    assert find_class_names(FORMS[form], num_classes=4) is None
    assert all(type(name) is str for name in find_class_names(FORMS[form]))


@pytest.mark.parametrize(
    "told",
    [
        {"classes": [0, 1, 2]},
        {"classes": np.arange(3)},
        {"classes": "cat dog cow"},
        {"classes": ["cat", None, "cow"]},
        {"classes": ["cat", 1, "cow"]},
        {"classes": [(), ("dog",)]},
        {"classes": ["cat"]},  # there is nothing to tell apart
        {"class_to_idx": {"cat": 1, "dog": 2}},  # of which class is 0?
        {"id2label": {0: "cat", 5: "dog"}},
        {"id2label": {"cat": "Felis catus", "dog": "Canis"}},
        {"id2label": {0: 0.5, 1: 0.25}},
        {"features": {"label": ClassLabel([1, 2])}},
        {"info": "cat, dog"},
    ],
)
def test_what_is_no_list_of_names_is_passed_over(told):
    assert find_class_names(telling(**told)) is None
    assert find_class_names(telling(**told, label_names=NAMES)) == NAMES


def test_a_single_logit_has_two_classes():
    binary = telling(classes=["healthy", "ill"])
    assert find_class_names(binary, num_classes=1) == find_class_names(binary, num_classes=2) == ["healthy", "ill"]
    assert find_class_names(telling(classes=NAMES), num_classes=1) is None


def test_names_of_another_number_of_classes_are_passed_over_for_the_next_that_fit():
    coarse_and_fine = {"fine": ClassLabel([str(x) for x in range(9)]), "label": ClassLabel(NAMES)}
    assert find_class_names(telling(features=coarse_and_fine)) == NAMES  # named like a label
    assert len(find_class_names(telling(features=coarse_and_fine), num_classes=9)) == 9
    assert find_class_names(telling(classes=["animal", "plant"], categories=NAMES), num_classes=3) == NAMES
    outer = telling(dataset=telling(classes=NAMES), classes=["animal", "plant"])
    assert find_class_names(outer) == ["animal", "plant"]
    assert find_class_names(outer, num_classes=3) == NAMES


class Wrapper:
    """A data set of one's own around another."""

    def __init__(self, name, inner):
        setattr(self, name, inner)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise AssertionError("read")


class Stream(IterableDataset):
    classes = NAMES

    def __iter__(self):
        raise AssertionError("read")


class Splits(dict):
    """As a Hugging Face `DatasetDict`."""


WRAPPERS = {
    "Subset": lambda dataset: Subset(dataset, [0]),
    "ConcatDataset": lambda dataset: ConcatDataset([TensorDataset(torch.zeros(4)), dataset]),
    "StackDataset": lambda dataset: StackDataset(TensorDataset(torch.zeros(4)), dataset),
    "StackDataset by name": lambda dataset: StackDataset(image=dataset),
    **{name: lambda dataset, name=name: Wrapper(name, dataset) for name in ("ds", "data", "base", "subset", "_hidden")},
    "splits": lambda dataset: Splits(train=TensorDataset(torch.zeros(4)), test=dataset),
    "its splits": lambda dataset: Wrapper("splits", Splits(test=dataset)),
    "a list": lambda dataset: Wrapper("parts", [dataset]),
    "nested": lambda dataset: Subset(Wrapper("ds", ConcatDataset([Subset(Wrapper("base", dataset), [0])])), [0]),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("dataset", [telling(classes=NAMES), FORMS["features"]], ids=["classes", "features"])
def test_names_are_found_through_any_wrapper(wrapper, dataset):
    assert find_class_names(WRAPPERS[wrapper](dataset), num_classes=3) == NAMES
    assert find_class_names(WRAPPERS[wrapper](TensorDataset(torch.zeros(4))), num_classes=3) is None


def test_names_are_found_in_streams_and_through_attributes_of_any_class_with_samples():
    assert find_class_names(ChainDataset([Stream()])) == NAMES
    inner = Wrapper("classes", NAMES)  # without a base class
    assert find_class_names(Wrapper("anything", inner)) == NAMES
    assert find_class_names(Wrapper("anything", [("cat", 0)] * 4)) is None


def test_no_sample_is_read_and_data_sets_that_hold_each_other_end():
    first, second = Wrapper("classes", None), Wrapper("classes", None)
    first.other, second.other = second, first
    assert find_class_names(first) is None
    second.categories = NAMES
    assert find_class_names(first) == NAMES
    assert find_class_names(FakeData(size=4)) is None


class Network(nn.Module):
    def __init__(self, **told):
        super().__init__()
        self.net = nn.Linear(4, 3)
        vars(self.net).update(told)


def test_what_the_data_set_does_not_say_the_data_module_and_the_model_may():
    silent = TensorDataset(torch.zeros(4))
    named = Network(config=SimpleNamespace(id2label={0: "CAT", 1: "DOG", 2: "COW"}))
    assert find_class_names(silent, named, num_classes=3) == ["CAT", "DOG", "COW"]
    assert find_class_names(telling(classes=NAMES), named, num_classes=3) == NAMES
    assert find_class_names(telling(classes=["animal", "plant"]), named, num_classes=3) == ["CAT", "DOG", "COW"]
    assert find_class_names(silent, Network(pretrained_cfg={"label_names": NAMES}), num_classes=3) == NAMES
    data_module = SimpleNamespace(train=None, val=telling(classes=NAMES))
    assert find_class_names(silent, data_module, Network(), num_classes=3) == NAMES
    module = Network()
    module._hparams = {"class_names": NAMES}
    assert find_class_names(silent, None, module, num_classes=3) == NAMES
    assert find_class_names(silent, None, Network(), num_classes=3) is None


class Delegating(Dataset):
    """A wrapper that hands on what it does not have."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(object.__getattribute__(self, "inner"), name)

    def __getitem__(self, index):
        raise AssertionError("read")


def test_a_wrapper_that_delegates_says_what_its_data_set_says():
    assert find_class_names(Delegating(Delegating(telling(classes=NAMES)))) == NAMES
