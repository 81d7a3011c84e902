"""Kept steps come back as they were, and take no more memory than they may."""

import pytest
import torch

from lightning_saliency.callbacks.kept_steps import KeptSteps
from lightning_saliency.data import plain_call
from lightning_saliency.evidence import RecordedCall


def recorded(images):
    return {"net": RecordedCall("net", plain_call(images), images.mean((2, 3)), None)}


def test_steps_come_back_in_their_order_as_they_were_and_once():
    steps, batches = KeptSteps(), [{"image": torch.rand(n, 3, 4, 4), "names": ["a"] * n} for n in (2, 3)]
    for batch in batches:
        steps.add(batch, recorded(batch["image"]) | {"spare": RecordedCall("spare", None, None, "no images")})
    assert steps.num_samples == 5
    expected = [batch["image"].clone() for batch in batches]
    for batch in batches:
        batch["image"].zero_()  # as a loader does that uses a batch's memory again
    for images, (batch, calls) in zip(expected, steps.take(), strict=True):
        assert torch.equal(batch["image"], images)
        assert torch.equal(calls["net"].call.images, images)
        assert batch["names"] == ["a"] * len(images)
        assert calls["spare"].problem == "no images"
    assert list(steps.take()) == []


@pytest.mark.parametrize(
    "value",
    [torch.eye(3).to_sparse(), torch.zeros(3).expand(4, 3), torch.ones(2, dtype=torch.bool), torch.rand(2).half()],
    ids=["sparse", "expanded", "bool", "half"],
)
def test_tensors_of_any_kind_are_kept(value):
    steps = KeptSteps()
    steps.add([value, None, "text"], {})
    ((batch, _),) = steps.take()
    assert torch.equal(batch[0].to_dense(), value.to_dense())
    assert batch[1:] == [None, "text"]


def test_they_are_full_when_they_take_a_gibibyte_but_not_with_the_two_steps_of_sanity_checking(monkeypatch):
    steps = KeptSteps()
    steps.add(torch.zeros(8, 2**20), {})
    assert not steps.is_full
    monkeypatch.setattr("lightning_saliency.callbacks.kept_steps._MOST_BYTES", 2**25)
    steps.add(torch.zeros(1), {})
    assert steps.is_full


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_steps_of_a_gpu_are_kept_on_the_cpu_and_come_back_to_it():
    images = torch.rand(4, 3, 256, 256, device="cuda")
    steps = KeptSteps()
    steps.add((images, torch.zeros(4)), recorded(images))
    expected = images.cpu()
    del images
    assert torch.cuda.memory_allocated() < 2**20
    ((batch, calls),) = steps.take()
    assert (batch[0].device.type, batch[1].device.type) == ("cuda", "cpu")
    assert torch.equal(calls["net"].call.images.cpu(), expected)
