"""The shadow of a module: whatever a forward changes in it is its own, and its tensors are shared until written."""

import copy
import functools
import itertools
import random
import threading
import types
import warnings
import weakref
from array import array
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency.evidence import Shadow

INPUTS = torch.ones(4, 2)


class Keeping(nn.Module):
    """A module that keeps something, and changes it in each forward."""

    def __init__(self, make, change=lambda module: None):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.kept = make(self)
        self.change = change

    def forward(self, inputs):
        self.change(self)
        return self.linear(inputs)


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
    "a nested list": (lambda module: [[0], 1], lambda module: module.kept[0].append(1), lambda module: str(module.kept)),
    "a list in itself": (lambda module: cyclic(), lambda module: module.kept[0].clear(), lambda module: str(module.kept)),
    "a list with an attribute": (
        lambda module: Named(), note, lambda module: (list(module.kept), module.kept.count)
    ),
    "a dict": (lambda module: {}, put(1, 2), lambda module: dict(module.kept)),
    "a default dict": (lambda module: defaultdict(list), lambda module: module.kept["a"].append(1), lambda module: str(module.kept)),
    "an ordered dict": (lambda module: OrderedDict(a=[]), lambda module: module.kept["a"].append(1), lambda module: str(module.kept)),
    "a counter": (lambda module: Counter(), lambda module: module.kept.update("a"), lambda module: str(module.kept)),
    "a deque": (lambda module: deque([1, 2], maxlen=2), append, lambda module: (list(module.kept), module.kept.maxlen)),
    "a set": (lambda module: {0}, lambda module: module.kept.add(1), lambda module: set(module.kept)),
    "a list in a tuple": (lambda module: ([], 1), lambda module: module.kept[0].append(1), lambda module: str(module.kept)),
    "a list in a named tuple": (lambda module: Pair([], 1), lambda module: module.kept.names.append(1), lambda module: str(module.kept)),
    "an array": (lambda module: array("d", [0.0]), append, lambda module: list(module.kept)),
    "a bytearray": (lambda module: bytearray(b"a"), append, lambda module: bytes(module.kept)),
    "an array of NumPy": (lambda module: np.zeros(3), put(1, 2), lambda module: module.kept.tolist()),
    "slots": (lambda module: Slotted(), note, lambda module: (module.kept.count, list(module.kept.names))),
    "slots and attributes": (
        lambda module: SlottedBelow(), note,
        lambda module: (module.kept.count, list(module.kept.names), module.kept.same is module.kept.names),
    ),
    "a namespace": (lambda module: types.SimpleNamespace(a=1), lambda module: setattr(module.kept, "a", 2), fields),
    "a generator of torch": (
        lambda module: torch.Generator().manual_seed(3), lambda module: torch.rand(1, generator=module.kept),
        lambda module: module.kept.get_state().tolist(),
    ),
    "a generator of NumPy": (
        lambda module: np.random.default_rng(3), lambda module: module.kept.random(),
        lambda module: str(module.kept.bit_generator.state),
    ),
    "an old generator of NumPy": (
        lambda module: np.random.RandomState(3), lambda module: module.kept.rand(),
        lambda module: str(module.kept.get_state()),
    ),
    "a generator of Python": (
        lambda module: random.Random(3), lambda module: module.kept.random(), lambda module: module.kept.getstate()
    ),
    "an iterator": (lambda module: iter([1, 2, 3]), lambda module: next(module.kept), lambda module: list(copy.copy(module.kept))),
    "a count": (lambda module: itertools.count(), lambda module: next(module.kept), lambda module: repr(module.kept)),
    "a closure": (lambda module: counting(), call, in_closure),
    "a list of closures": (
        lambda module: [counting()], lambda module: module.kept[0](),
        lambda module: [copy.copy(cell.cell_contents) for cell in module.kept[0].__closure__],
    ),
    "a default": (
        lambda module: counting_in_defaults(), call,
        lambda module: (str(module.kept.__defaults__), str(module.kept.__kwdefaults__)),
    ),
    "a bound method": (lambda module: Helper().note, call, lambda module: str(vars(module.kept.__self__))),
    "a bound method of a list": (lambda module: [].append, lambda module: module.kept(1), lambda module: str(module.kept.__self__)),
    "a partial": (
        lambda module: functools.partial(list.append, []), lambda module: module.kept(1),
        lambda module: str(module.kept.args),
    ),
    "a cached function": (
        lambda module: functools.lru_cache(2)(counting()), call,
        lambda module: [copy.copy(cell.cell_contents) for cell in module.kept.__wrapped__.__closure__],
    ),
    "a weak reference": (
        lambda module: weakref.ref(module.linear), lambda module: setattr(module.kept(), "noted", True),
        lambda module: sorted(vars(module.kept())),
    ),
    "a module in a list": (
        lambda module: [nn.BatchNorm1d(2)], lambda module: module.kept[0](INPUTS),
        lambda module: str(module.kept[0].state_dict()),
    ),
    "a module in a tuple in a dict": (
        lambda module: {"teacher": (nn.BatchNorm1d(2),)}, lambda module: module.kept["teacher"][0](INPUTS),
        lambda module: str(module.kept["teacher"][0].state_dict()),
    ),
    "a metric in a dict": (
        lambda module: {"mean": torchmetrics.MeanMetric()}, lambda module: module.kept["mean"].update(3.0),
        lambda module: (str(module.kept["mean"].metric_state), module.kept["mean"].update_count),
    ),
    "a parent": (
        lambda module: types.SimpleNamespace(parent=module), lambda module: setattr(module.kept.parent, "noted", True),
        lambda module: (sorted(vars(module)), module.kept.parent is module),
    ),
    "tensors in a list": (
        lambda module: [torch.zeros(2)], lambda module: module.kept[0].add_(1), lambda module: str(module.kept)
    ),
    "a tensor": (lambda module: torch.zeros(2), lambda module: module.kept.add_(1), lambda module: module.kept.tolist()),
    "a tensor's attribute": (
        lambda module: setattr(module.linear.weight, "seen", []), lambda module: module.linear.weight.seen.append(1),
        lambda module: list(module.linear.weight.seen),
    ),
    "a written parameter": (
        lambda module: None, lambda module: module.linear.weight.data.zero_(),
        lambda module: (module.linear.weight.tolist(), module.linear.weight._version),
    ),
    "a renewed parameter": (
        lambda module: None, lambda module: setattr(module.linear, "weight", nn.Parameter(torch.ones(2, 2))),
        lambda module: (module.linear.weight.tolist(), id(module.linear.weight) in map(id, module.parameters())),
    ),
    "a new submodule": (
        lambda module: None, lambda module: setattr(module, "late", nn.Linear(1, 1)),
        lambda module: [name for name, _ in module.named_modules()],
    ),
    "a lazy layer": (
        lambda module: setattr(module, "lazy", nn.LazyLinear(2)), lambda module: module.lazy(INPUTS),
        lambda module: (type(module.lazy), type(module.lazy.weight), len(module.lazy._forward_pre_hooks)),
    ),
    "flags": (
        lambda module: None, lambda module: module.requires_grad_(False).eval(),
        lambda module: (module.training, module.linear.training, module.linear.weight.requires_grad),
    ),
    "a gradient": (
        lambda module: None, lambda module: module.linear(INPUTS).sum().backward(),
        lambda module: None if module.linear.weight.grad is None else module.linear.weight.grad.tolist(),
    ),
}  # fmt: skip


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


# tensors


def is_shared(tensor):
    return torch._C._is_cow_tensor(tensor)


def resident_megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's own count of the memory")
def test_a_large_buffer_is_copied_only_where_it_is_written():
    module = nn.BatchNorm1d(2)
    module.register_buffer("queue", torch.ones(100_000_000))  # 400 MB
    address, before = module.queue.data_ptr(), resident_megabytes()
    shadow = Shadow(module)
    shadow.module(INPUTS)
    assert shadow.module.queue.sum() == 1e8
    assert resident_megabytes() - before < 100
    assert is_shared(shadow.module.queue)
    shadow.release()
    assert not is_shared(module.queue)
    assert module.queue.data_ptr() == address
    shadow = Shadow(module)
    shadow.module.queue[0] = 2
    assert resident_megabytes() - before > 300
    assert (shadow.module.queue[0], module.queue[0]) == (2, 1)
    shadow.release()
    assert resident_megabytes() - before < 100
    assert module.queue.data_ptr() == address


@pytest.mark.parametrize("size", [4, 100_000])
def test_a_tensor_is_shared_until_either_side_writes_it(size):
    module = nn.ParameterList(torch.ones(size) for _ in range(2))
    shadow = Shadow(module)
    if size > 4:
        assert all(is_shared(tensor) for tensor in (*module, *shadow.module))
    versions = [tensor._version for tensor in module]
    shadow.module[0].data.add_(1)
    with torch.no_grad():
        shadow.module[0].mul_(2)
        module[1].add_(5)
    assert [float(tensor.detach()[0]) for tensor in module] == [1, 6]
    assert [float(tensor.detach()[0]) for tensor in shadow.module] == [4, 1]
    assert [tensor._version for tensor in module] == [versions[0], versions[1] + 1]
    assert all(tensor.requires_grad and tensor.is_leaf for tensor in shadow.module)


@pytest.mark.parametrize("size", [0, 4, 100_000])
def test_tensors_can_be_resized_in_the_shadow_and_afterwards_in_the_module(size):
    module = nn.Module()
    module.register_buffer("minimum", torch.ones(size))
    shadow = Shadow(module)
    if size < 100_000:
        shadow.module.minimum.resize_(2 * size + 1).fill_(3)
    shadow.release()
    assert torch.equal(module.minimum, torch.ones(size))
    module.minimum.resize_(2 * size + 1).fill_(2)
    assert torch.equal(module.minimum, torch.full((2 * size + 1,), 2.0))


def test_nested_shadows_share_too_and_the_outer_one_keeps_what_it_shares():
    module = nn.Linear(300, 300)
    outer = Shadow(module)
    inner = Shadow(outer.module)
    beside = Shadow(module)
    for shadow in (inner, beside):
        assert is_shared(shadow.module.weight)
        shadow.module.weight.data.zero_()
        shadow.release()
    assert is_shared(module.weight)
    assert torch.equal(outer.module.weight, module.weight)
    assert module.weight.any()
    outer.release()
    assert not is_shared(module.weight)


@pytest.mark.parametrize("size", [2, 300])
def test_views_and_tied_parameters_stay_so(size):
    module = nn.Sequential(nn.Linear(size, size), nn.Linear(size, size))
    module[1].weight = module[0].weight
    flat = torch.zeros(2 * size)
    module.register_buffer("first", flat[:size])
    module.register_buffer("second", flat.view(2, size)[1])
    module.whole = flat
    shadow = Shadow(module).module
    assert shadow[0].weight is shadow[1].weight
    assert len(list(shadow.parameters())) == len(list(module.parameters()))
    shadow.whole.add_(1)
    assert shadow.first.sum() == shadow.second.sum() == size
    assert shadow.second.storage_offset() == size
    assert not flat.any()
    shadow.second.zero_()
    assert shadow.whole.sum() == size


def test_a_recurrent_layer_has_its_weights_once():
    module = nn.LSTM(200, 200)
    shadow = Shadow(module).module
    assert all(one is other for one, other in zip(shadow._flat_weights, shadow.parameters(), strict=True))
    shadow.weight_hh_l0.data.zero_()
    assert not torch.equal(shadow(torch.ones(3, 1, 200))[0], module(torch.ones(3, 1, 200))[0])


def non_leaf():
    return torch.ones(100_000, requires_grad=True) * 2


def inference():
    with torch.inference_mode():
        return torch.full((100_000,), 2.0)


TENSORS = {
    "with a graph": non_leaf,
    "from inference mode": inference,
    "shared by processes": lambda: torch.full((100_000,), 2.0).share_memory_(),
    "from NumPy": lambda: torch.from_numpy(np.full(100_000, 2.0)),
    "expanded": lambda: torch.full((1,), 2.0).expand(5),
    "transposed": lambda: torch.full((400, 300), 2.0).T,
    "channels last": lambda: torch.full((2, 300, 9, 9), 2.0).to(memory_format=torch.channels_last),
    "complex": lambda: torch.full((100_000,), 2.0, dtype=torch.complex64),
    "conjugate": lambda: torch.full((100_000,), 2.0, dtype=torch.complex64).conj(),
    "half": lambda: torch.full((100_000,), 2.0, dtype=torch.bfloat16),
    "integer": lambda: torch.full((100_000,), 2),
    "empty": lambda: torch.ones(0, 3),
    "sparse": lambda: (torch.eye(300) * 2).to_sparse(),
    "jagged": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_a_tensor_of_any_kind_has_the_same_values_and_may_be_written(kind):
    module = nn.Module()
    module.kept = TENSORS[kind]()
    before = module.kept.detach().clone()
    shadow = Shadow(module)
    copied = shadow.module.kept
    assert type(copied) is type(module.kept)
    assert (copied.dtype, copied.layout, copied.shape) == (module.kept.dtype, module.kept.layout, module.kept.shape)
    assert not copied.is_inference()
    if copied.layout == torch.strided:
        assert copied.stride() == module.kept.stride()
        assert torch.equal(copied, before)
        copied[:1] = 7
        assert torch.equal(module.kept.detach(), before)
    elif copied.layout == torch.sparse_coo:
        assert torch.equal(copied.to_dense(), before.to_dense())
        copied.zero_()
        assert torch.equal(module.kept.to_dense(), before.to_dense())
    else:
        assert torch.equal(copied.values(), before.values())
        copied.values().zero_()
        assert torch.equal(module.kept.values(), before.values())
    shadow.release()
    assert module.kept.numel() == before.numel()


def test_release_lets_go_of_all_that_is_shared():
    model = nn.Sequential(nn.Linear(300, 300), nn.BatchNorm1d(300))
    model.kept = {"features": [torch.ones(100_000)]}
    addresses = [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers(), model.kept["features"][0])]
    shadow = Shadow(model)
    result = shadow.module(torch.ones(2, 300))
    expected = result.clone()
    kept = shadow.module.kept["features"][0]
    shadow.release()
    assert kept.numel() == 0
    assert not any(tensor.numel() for tensor in (*shadow.module.parameters(), *shadow.module.buffers()))
    assert torch.equal(result, expected)  # what it has computed stays
    tensors = (*model.parameters(), *model.buffers(), model.kept["features"][0])
    assert not any(is_shared(tensor) for tensor in tensors)
    assert [tensor.data_ptr() for tensor in tensors] == addresses
    shadow.release()  # a second time does nothing


# modules that know how they are copied


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "make",
    [
        torch.jit.script,
        lambda model: torch.jit.trace(model, torch.randn(4, 200), check_trace=False),
        torch.fx.symbolic_trace,
        lambda model: torch.compile(model, backend="eager"),
    ],
    ids=["scripted", "traced", "traced by fx", "compiled"],
)
def test_compiled_scripted_and_traced_parts_are_copied_and_their_weights_shared(make):
    part = make(nn.Sequential(nn.Linear(200, 200), nn.BatchNorm1d(200)))
    model = nn.Sequential(part)
    inputs = torch.randn(4, 200)
    part(inputs)  # which compiles what is to be compiled
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shadow = Shadow(model)
    assert not shadow.uncopied
    copied = shadow.module.state_dict()
    weight = next(name for name in copied if name.endswith("0.weight"))
    assert is_shared(copied[weight]) or isinstance(part, torch.jit.ScriptModule)  # which torch copies at once
    with torch.compiler.set_stance("force_eager"):
        shadow.module(inputs)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert any(not torch.equal(tensor, before[name]) for name, tensor in shadow.module.state_dict().items())
    shadow.release()
    assert not is_shared(model.state_dict()[weight])
    model(inputs)


@pytest.mark.parametrize("warm", [False, True])
def test_a_module_compiled_in_place_is_copied_uncompiled(warm):
    graphs = []

    def backend(graph, inputs):
        graphs.append(1)
        return graph.forward

    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].compile(backend=backend)
    model.kept = torch.compile(lambda inputs: inputs + model[1].running_mean, backend=backend)
    if warm:
        model(INPUTS)
        model.kept(INPUTS)
    count = len(graphs)
    shadow = Shadow(model)
    shadow.module(INPUTS)
    mean = shadow.module[1].running_mean
    torch.testing.assert_close(shadow.module.kept(INPUTS), INPUTS + mean)
    assert not torch.equal(mean, model[1].running_mean)
    assert len(graphs) == count
    model(INPUTS)
    assert graphs


def test_a_lazy_layer_is_initialized_in_the_shadow_alone():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())
    shadow = Shadow(model).module
    assert shadow(torch.ones(2, 3, 8, 8)).shape == (2, 4, 6, 6)
    assert all(isinstance(parameter, nn.UninitializedParameter) for parameter in model.parameters())
    assert isinstance(shadow[0], nn.Conv2d)
    assert isinstance(model[0], nn.LazyConv2d)
    assert model(torch.ones(2, 5, 8, 8)).shape == (2, 4, 6, 6)


@pytest.mark.parametrize("make", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*is deprecated.*:FutureWarning")
def test_normed_weights_are_made_anew_in_the_shadow(make):
    model = make(nn.Linear(2, 2)).train()
    model(INPUTS)
    before = copy.deepcopy(model.state_dict())
    shadow = Shadow(model).module
    for tensor in shadow.parameters():
        tensor.data.mul_(2)
    shadow(INPUTS)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    expected = Shadow(model).module(INPUTS)
    torch.testing.assert_close(model(INPUTS), expected)


# what cannot be copied


class Uncopied:
    """An object that cannot be copied, and says why."""

    def __init__(self, text="it is one of a kind"):
        self.text, self.count = text, 0

    def __reduce_ex__(self, protocol):
        raise TypeError(self.text)


def test_an_attribute_that_cannot_be_copied_is_shared_and_that_is_said_once(tmp_path):
    with (tmp_path / "log").open("w") as file:
        module = Keeping(lambda module: file)
        module.later = [1]
        with pytest.warns(UserWarning, match=r"Keeping\.kept \(TextIOWrapper\) cannot be copied .*training sees that"):
            shadow = Shadow(module)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = Shadow(module)
    for copied in (shadow, again):
        assert copied.module.kept is file
        assert copied.module.later is not module.later
        assert not copied.uncopied
        assert copied.module.linear is not module.linear


def test_a_fault_in_a_module_of_a_list_is_contained_in_its_attribute():
    inner = Keeping(lambda module: Uncopied("in a list"))
    module = Keeping(lambda module: {"teachers": [nn.BatchNorm1d(2), inner], "count": [0]})
    with pytest.warns(UserWarning, match=r"Keeping\.kept \(Uncopied\) cannot be copied \(TypeError: in a list\)"):
        shadow = Shadow(module).module
    assert shadow.kept["count"] is not module.kept["count"]
    assert shadow.kept["teachers"][0] is not module.kept["teachers"][0]
    copied = shadow.kept["teachers"][1]
    assert copied is not inner
    assert copied.linear is not inner.linear
    assert copied.kept is inner.kept


def test_a_fault_in_a_closure_is_contained_in_its_cell():
    shared, names = Uncopied("in a closure"), []
    module = Keeping(lambda module: lambda: (shared, names.append(1)))
    with pytest.warns(UserWarning, match=r"shared \(Uncopied\) cannot be copied \(TypeError: in a closure\)"):
        shadow = Shadow(module).module
    assert shadow.kept()[0] is shared
    assert names == []


def test_half_a_copy_is_not_kept():
    names = []
    module = Keeping(lambda module: {"names": names, "file": Uncopied("half a copy")})
    module.names = names
    with pytest.warns(UserWarning, match="half a copy"):
        shadow = Shadow(module).module
    assert shadow.kept is module.kept  # all of it or nothing: an object may rely on both being of one kind
    assert shadow.names is not names


def test_a_lock_a_thread_and_a_module_of_python_are_shared_without_a_word():
    lock, thread = threading.Lock(), threading.RLock()
    module = Keeping(lambda module: [lock, thread, np, torch.float32, slice(3), range(2)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shadow = Shadow(module).module
    assert shadow.kept == module.kept
    assert shadow.kept is not module.kept


class Sharded(nn.Linear):
    """Cannot be copied as a whole."""

    def __deepcopy__(self, memo):
        raise RuntimeError("its weights lie on other machines")


def test_a_module_that_cannot_be_copied_is_shared_and_named():
    model = nn.Sequential(nn.Linear(2, 2), Sharded(2, 2))
    with pytest.warns(UserWarning, match=r"Sharded \(Sharded\) cannot be copied \(RuntimeError: its weights lie on"):
        shadow = Shadow(model)
    assert shadow.uncopied == (model[1],)
    assert shadow.module[1] is model[1]
    assert shadow.module[0] is not model[0]
    shadow.release()
    assert model[1].weight.shape == (2, 2)
    assert model(INPUTS).shape == (4, 2)
