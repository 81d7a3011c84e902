"""Shadows of modules with a rule of their own for copies, and of what cannot be copied."""

import copy
import threading
import warnings

import numpy as np
import pytest
import torch
from networks import Keeping
from torch import nn
from watching import is_shared

from lightning_saliency.evidence import Shadow

INPUTS = torch.ones(4, 2)


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


@pytest.mark.parametrize(
    "make", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm, nn.utils.weight_norm]
)
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
