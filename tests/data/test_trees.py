"""Trees of containers: looked into, rebuilt of the same kinds, described."""

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch

from lightning_saliency.data import children, describe
from lightning_saliency.data.trees import at_path, leaves, mapped

Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Record:
    image: object
    rest: object


@dataclass(frozen=True, slots=True)
class Frozen:
    image: object


TREES = [
    {"a": 1, "b": {"c": 2}},
    OrderedDict(b=1, a=2),
    defaultdict(list, a=[1], b=[2, 3]),
    UserDict({"a": 1}),
    [1, [2, 3]],
    (1, (2, [3])),
    Pair(1, [2]),
    Record(1, {"a": (2, 3)}),
    Frozen([1, 2]),
    [Record(Pair(1, 2), [Frozen(3)])],
    {},
    [],
    5,
]


@pytest.mark.parametrize("tree", TREES, ids=describe)
def test_a_tree_is_rebuilt_of_the_same_kinds_and_the_given_one_is_not_written_to(tree):
    before = repr(tree)
    assert mapped(tree, lambda path, value: value) == tree
    assert type(mapped(tree, lambda path, value: value)) is type(tree)
    changed = mapped(tree, lambda path, value: 10 * value if isinstance(value, int) else value)
    assert [value for _, value in leaves(changed) if isinstance(value, int)] == [
        10 * value for _, value in leaves(tree) if isinstance(value, int)
    ]
    assert repr(tree) == before
    for path, value in leaves(tree):
        assert at_path(tree, path) is value


@pytest.mark.parametrize("tree", [{}, [], {"a": []}, [{}], [[1], {"a": 2}]])
def test_what_is_done_to_a_rebuilt_tree_is_not_done_to_the_given_one(tree):
    before = repr(tree)
    rebuilt = mapped(tree, lambda path, value: value)
    for container in (rebuilt, *children(rebuilt).values()):
        if isinstance(container, dict):
            container["new"] = 1
        elif isinstance(container, list):
            container.append(1)
    assert repr(tree) == before


def test_a_mapping_that_cannot_be_written_to_becomes_a_dict():
    assert mapped(MappingProxyType({"a": 1}), lambda path, value: 2 * value) == {"a": 2}


def test_what_is_whole_is_not_looked_into():
    tree = {"names": ["a", "b"], "x": [1]}
    assert list(leaves(tree, {("names",)})) == [(("names",), ["a", "b"]), (("x", 0), 1)]
    assert mapped(tree, lambda path, value: len(path), {("names",)}) == {"names": 1, "x": [2]}


def test_a_long_list_is_described_by_its_first_entries():
    text = describe(["name"] * 300)
    assert text.startswith("a list of {0: a str, 1: a str, ")
    assert text.endswith("7: a str, … 300 in all}")
    assert describe((torch.zeros(2), Pair(1, 2))) == (
        "a tuple of {0: a tensor of shape (2,) and dtype torch.float32, 1: a Pair of {first: a int, second: a int}}"
    )
