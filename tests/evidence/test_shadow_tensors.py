"""The tensors of a shadow: shared with the module until one side writes them, of any kind, and let go after a pass."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from watching import is_shared

from lightning_saliency.evidence import Shadow

INPUTS = torch.ones(4, 2)


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


class Named(torch.Tensor):
    """A tensor of a class of its own."""


@pytest.mark.parametrize("kind", [torch.Tensor, Named])
@pytest.mark.parametrize("size", [2, 300])
def test_what_a_training_step_keeps_with_its_graph_is_copied_without_it_and_the_backward_goes_on(kind, size):
    module = nn.Linear(2, size).double()
    expected = torch.autograd.grad(module(INPUTS.double()).exp().sum(), list(module.parameters()))
    outputs = module(INPUTS.double())
    module.last, module.part = outputs.exp().as_subclass(kind), outputs[1:]
    module.all, module.loss = [outputs, {"last": module.last}], module.last.sum()
    module.node, module.handle = outputs.grad_fn, module.loss.register_hook(lambda gradient: gradient)
    values = outputs.detach().clone()
    shadow = Shadow(module)  # without a warning, which would be an error here
    copied = shadow.module
    assert type(copied.last) is kind
    assert copied.all[1]["last"] is copied.last
    for tensor in (copied.last, copied.part, copied.loss, *copied.all[:1]):
        assert not tensor.requires_grad
        tensor.zero_()
    assert copied.part.eq(copied.all[0][1:]).all()
    assert copied.node is module.node
    assert torch.equal(outputs, values)
    shadow.release()
    module.loss.backward()
    for parameter, gradient in zip(module.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)
