"""The shadow of a module: whatever a forward changes in it is its own, wherever that is kept."""

import copy
import functools
import itertools
import random
import types
import warnings
import weakref
from array import array
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import pytest
import torch
import torchmetrics
from networks import Keeping
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency.evidence import Shadow

INPUTS = torch.ones(4, 2)


def fields(module):
    return str(vars(module.kept))


# whatever holds it, what a forward changes is the shadow's own


class Helper:
    """An object of a program's own."""

    def __init__(self):
        self.count, self.names = 0, []

    def note(self):
        self.count += 1
        self.names.append(self.count)


class Slotted:
    __slots__ = ("count", "names")

    def __init__(self):
        self.count, self.names = 0, []

    note = Helper.note


class SlottedBelow(Slotted):
    """Has slots and attributes."""

    def __init__(self):
        super().__init__()
        self.same = self.names


class WithState(Helper):
    """Says itself how it is pickled."""

    def __getstate__(self):
        return {"pair": (self.count, self.names)}

    def __setstate__(self, state):
        self.count, self.names = state["pair"]


class WithRule(Helper):
    """Says itself how it is copied."""

    def __deepcopy__(self, memo):
        copied = WithRule()
        copied.count, copied.names = self.count, copy.deepcopy(self.names, memo)
        return copied


@dataclass
class Data:
    count: int = 0
    names: list = field(default_factory=list)

    note = Helper.note


@dataclass(frozen=True)
class Frozen:
    names: list = field(default_factory=list)

    def note(self):
        self.names.append(len(self.names))


class Named(list):
    """A list with an attribute."""

    count = 0

    def note(self):
        self.count += 1
        self.append(self.count)


class Mode(Enum):
    ON = 1


Pair = namedtuple("Pair", ["names", "count"])


def counting():
    """A function that counts in its closure."""
    count, names = 0, []

    def note():
        nonlocal count
        count += 1
        names.append(count)

    return note


def in_closure(module):
    return [copy.copy(cell.cell_contents) for cell in module.kept.__closure__]


def counting_in_defaults():
    def note(names, *, others):
        names.append(1)
        others[len(others)] = 1

    note.__defaults__, note.__kwdefaults__ = ([],), {"others": {}}
    return note


def cyclic():
    names = []
    names.append({"names": names})
    return names


def call(module):
    module.kept()


def note(module):
    module.kept.note()


def put(key, value):
    def change(module):
        module.kept[key] = value

    return change


def append(module):
    module.kept.append(1)


OF_OBJECTS = {
    name: (lambda module, make=make: make(), note, fields)
    for name, make in {
        "an object": Helper,
        "an object with a state of its own": WithState,
        "an object with a rule of its own": WithRule,
        "a dataclass": Data,
        "a frozen dataclass": Frozen,
    }.items()
}
KINDS = OF_OBJECTS | {
    # what is kept, what a forward does to it, and what of it is compared
    "a number": (lambda module: 0, lambda module: setattr(module, "kept", module.kept + 1), lambda module: module.kept),
    "a list": (lambda module: [], append, lambda module: list(module.kept)),
    "a nested list": (
        lambda module: [[0], 1],
        lambda module: module.kept[0].append(1),
        lambda module: str(module.kept),
    ),
    "a list in itself": (
        lambda module: cyclic(),
        lambda module: module.kept[0].clear(),
        lambda module: str(module.kept),
    ),
    "a list with an attribute": (lambda module: Named(), note, lambda module: (list(module.kept), module.kept.count)),
    "a dict": (lambda module: {}, put(1, 2), lambda module: dict(module.kept)),
    "a default dict": (
        lambda module: defaultdict(list),
        lambda module: module.kept["a"].append(1),
        lambda module: str(module.kept),
    ),
    "an ordered dict": (
        lambda module: OrderedDict(a=[]),
        lambda module: module.kept["a"].append(1),
        lambda module: str(module.kept),
    ),
    "a counter": (lambda module: Counter(), lambda module: module.kept.update("a"), lambda module: str(module.kept)),
    "a deque": (lambda module: deque([1, 2], maxlen=2), append, lambda module: (list(module.kept), module.kept.maxlen)),
    "a set": (lambda module: {0}, lambda module: module.kept.add(1), lambda module: set(module.kept)),
    "a list in a tuple": (
        lambda module: ([], 1),
        lambda module: module.kept[0].append(1),
        lambda module: str(module.kept),
    ),
    "a list in a named tuple": (
        lambda module: Pair([], 1),
        lambda module: module.kept.names.append(1),
        lambda module: str(module.kept),
    ),
    "an array": (lambda module: array("d", [0.0]), append, lambda module: list(module.kept)),
    "a bytearray": (lambda module: bytearray(b"a"), append, lambda module: bytes(module.kept)),
    "an array of NumPy": (lambda module: np.zeros(3), put(1, 2), lambda module: module.kept.tolist()),
    "slots": (lambda module: Slotted(), note, lambda module: (module.kept.count, list(module.kept.names))),
    "slots and attributes": (
        lambda module: SlottedBelow(),
        note,
        lambda module: (module.kept.count, list(module.kept.names), module.kept.same is module.kept.names),
    ),
    "a namespace": (lambda module: types.SimpleNamespace(a=1), lambda module: setattr(module.kept, "a", 2), fields),
    "a generator of torch": (
        lambda module: torch.Generator().manual_seed(3),
        lambda module: torch.rand(1, generator=module.kept),
        lambda module: module.kept.get_state().tolist(),
    ),
    "a generator of NumPy": (
        lambda module: np.random.default_rng(3),
        lambda module: module.kept.random(),
        lambda module: str(module.kept.bit_generator.state),
    ),
    "an old generator of NumPy": (
        lambda module: np.random.RandomState(3),
        lambda module: module.kept.rand(),
        lambda module: str(module.kept.get_state()),
    ),
    "a generator of Python": (
        lambda module: random.Random(3),
        lambda module: module.kept.random(),
        lambda module: module.kept.getstate(),
    ),
    "an iterator": (
        lambda module: iter([1, 2, 3]),
        lambda module: next(module.kept),
        lambda module: list(copy.copy(module.kept)),
    ),
    "a count": (lambda module: itertools.count(), lambda module: next(module.kept), lambda module: repr(module.kept)),
    "a closure": (lambda module: counting(), call, in_closure),
    "a list of closures": (
        lambda module: [counting()],
        lambda module: module.kept[0](),
        lambda module: [copy.copy(cell.cell_contents) for cell in module.kept[0].__closure__],
    ),
    "a default": (
        lambda module: counting_in_defaults(),
        call,
        lambda module: (str(module.kept.__defaults__), str(module.kept.__kwdefaults__)),
    ),
    "a bound method": (lambda module: Helper().note, call, lambda module: str(vars(module.kept.__self__))),
    "a bound method of a list": (
        lambda module: [].append,
        lambda module: module.kept(1),
        lambda module: str(module.kept.__self__),
    ),
    "a partial": (
        lambda module: functools.partial(list.append, []),
        lambda module: module.kept(1),
        lambda module: str(module.kept.args),
    ),
    "a cached function": (
        lambda module: functools.lru_cache(2)(counting()),
        call,
        lambda module: [copy.copy(cell.cell_contents) for cell in module.kept.__wrapped__.__closure__],
    ),
    "a weak reference": (
        lambda module: weakref.ref(module.linear),
        lambda module: setattr(module.kept(), "noted", True),
        lambda module: sorted(vars(module.kept())),
    ),
    "a module in a list": (
        lambda module: [nn.BatchNorm1d(2)],
        lambda module: module.kept[0](INPUTS),
        lambda module: str(module.kept[0].state_dict()),
    ),
    "a module in a tuple in a dict": (
        lambda module: {"teacher": (nn.BatchNorm1d(2),)},
        lambda module: module.kept["teacher"][0](INPUTS),
        lambda module: str(module.kept["teacher"][0].state_dict()),
    ),
    "a metric in a dict": (
        lambda module: {"mean": torchmetrics.MeanMetric()},
        lambda module: module.kept["mean"].update(3.0),
        lambda module: (str(module.kept["mean"].metric_state), module.kept["mean"].update_count),
    ),
    "a parent": (
        lambda module: types.SimpleNamespace(parent=module),
        lambda module: setattr(module.kept.parent, "noted", True),
        lambda module: (sorted(vars(module)), module.kept.parent is module),
    ),
    "tensors in a list": (
        lambda module: [torch.zeros(2)],
        lambda module: module.kept[0].add_(1),
        lambda module: str(module.kept),
    ),
    "a tensor": (
        lambda module: torch.zeros(2),
        lambda module: module.kept.add_(1),
        lambda module: module.kept.tolist(),
    ),
    "a tensor's attribute": (
        lambda module: setattr(module.linear.weight, "seen", []),
        lambda module: module.linear.weight.seen.append(1),
        lambda module: list(module.linear.weight.seen),
    ),
    "a written parameter": (
        lambda module: None,
        lambda module: module.linear.weight.data.zero_(),
        lambda module: (module.linear.weight.tolist(), module.linear.weight._version),
    ),
    "a renewed parameter": (
        lambda module: None,
        lambda module: setattr(module.linear, "weight", nn.Parameter(torch.ones(2, 2))),
        lambda module: (module.linear.weight.tolist(), id(module.linear.weight) in map(id, module.parameters())),
    ),
    "a new submodule": (
        lambda module: None,
        lambda module: setattr(module, "late", nn.Linear(1, 1)),
        lambda module: [name for name, _ in module.named_modules()],
    ),
    "a lazy layer": (
        lambda module: setattr(module, "lazy", nn.LazyLinear(2)),
        lambda module: module.lazy(INPUTS),
        lambda module: (type(module.lazy), type(module.lazy.weight), len(module.lazy._forward_pre_hooks)),
    ),
    "flags": (
        lambda module: None,
        lambda module: module.requires_grad_(False).eval(),
        lambda module: (module.training, module.linear.training, module.linear.weight.requires_grad),
    ),
    "a gradient": (
        lambda module: None,
        lambda module: module.linear(INPUTS).sum().backward(),
        lambda module: None if module.linear.weight.grad is None else module.linear.weight.grad.tolist(),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_forward_changes_is_the_shadows_own(kind):
    make, change, read = KINDS[kind]
    module = Keeping(make, change)
    before, outputs = read(module), module.linear(INPUTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing in it cannot be copied
        shadow = Shadow(module)
    assert read(shadow.module) == before
    torch.testing.assert_close(shadow.module.linear(INPUTS), outputs, rtol=0, atol=0)
    shadow.module(INPUTS)
    assert read(shadow.module) != before  # it does what the module would
    assert read(module) == before
    shadow.release()
    assert read(module) == before
    module(INPUTS)
    assert read(module) != before


# hooks, methods, references


class Whole(nn.Module):
    """Counts the calls of its part, by hooks on it; one of them is removed in the first forward."""

    def __init__(self):
        super().__init__()
        self.part, self.count = nn.Linear(2, 2), 0
        self.features, self.removed = [], []
        self.part.register_forward_hook(self.note)
        self.part.register_forward_hook(lambda module, args, output: self.features.append(output.detach()))
        self.handle = self.part.register_forward_pre_hook(lambda *_: self.handle.remove() or self.removed.append(1))

    def note(self, module, args, output):
        self.count += 1

    def forward(self, inputs):
        return self.part(inputs)


def test_hooks_of_a_part_reach_the_shadow_of_the_whole():
    whole = Whole()
    shadow = Shadow(whole)
    part = shadow.of(whole.part)
    assert part is shadow.module.part
    part(INPUTS)
    part(INPUTS)
    assert (shadow.module.count, len(shadow.module.features), shadow.module.removed) == (2, 2, [1])
    assert not part._forward_pre_hooks
    assert (whole.count, whole.features, whole.removed) == (0, [], [])
    assert list(whole.part._forward_pre_hooks) == [whole.handle.id]
    whole(INPUTS)
    assert (whole.count, len(whole.features), whole.removed) == (1, 1, [1])


def test_a_method_replaced_on_the_module_is_the_shadows_own():
    module = nn.Linear(2, 2)
    module.count = 0

    def forward(self, inputs):
        self.count += 1
        return inputs

    module.forward = types.MethodType(forward, module)
    shadow = Shadow(module).module
    assert shadow(INPUTS) is INPUTS
    assert shadow.forward.__self__ is shadow
    assert (module.count, shadow.count) == (0, 1)


def test_a_function_that_keeps_nothing_of_its_own_is_the_same_function():
    module = Keeping(lambda module: [torch.relu, nn.functional.relu, len, Helper.note, dict.fromkeys, Mode.ON, Helper])
    module.change = functools.cache(len)
    shadow = Shadow(module).module
    assert all(one is other or one == other for one, other in zip(shadow.kept, module.kept, strict=True))
    assert shadow.change is module.change
    assert shadow.kept[-1] is Helper
    assert shadow.kept[1] is nn.functional.relu


def test_what_the_module_refers_to_can_be_stood_in_for():
    trainer, quiet = Helper(), Helper()
    module = Keeping(lambda module: {"trainer": trainer})
    shadow = Shadow(module, [(trainer, quiet)])
    assert shadow.module.kept["trainer"] is shadow.of(trainer) is quiet
    assert module.kept["trainer"] is trainer
    assert shadow.of(quiet) is quiet  # no part of the module


def test_data_sets_and_loaders_are_shared():
    data = TensorDataset(torch.zeros(4, 2))
    module = Keeping(lambda module: {"data": data, "loaders": [DataLoader(data)]})
    shadow = Shadow(module).module
    assert shadow.kept["data"] is data
    assert shadow.kept["loaders"][0] is module.kept["loaders"][0]
    assert shadow.kept["loaders"] is not module.kept["loaders"]
