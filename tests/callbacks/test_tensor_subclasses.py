"""Batches of tensors of a subclass, with metadata that no slice can keep, are explained as plain ones."""

import pytest
import torch
import torch.nn.functional as F
from looking import Keeps
from tiny import TinyClassifier, data, first, trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_saliency import SaliencyCallback, explain
from lightning_saliency.callbacks import Execution
from lightning_saliency.data import make_call, plain_tensors


class Scan(torch.Tensor):
    """A tensor that knows where each of its images comes from, and refuses to be sliced where that differs."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("__getitem__", "index_select", "cat", "stack"):
            raise ValueError("Inconsistent metadata when slicing a batch")
        return super().__torch_function__(func, types, args, kwargs or {})


def scans(items):
    images = torch.stack([image for image, _ in items]).as_subclass(Scan)
    images.files = [f"{index}.nii" for index in range(len(items))]
    return {"image": images, "label": torch.tensor([int(label) for _, label in items]).as_subclass(Scan)}


class Scans(TinyClassifier):
    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch["image"]), batch["label"])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx), batch_size=8)


@pytest.mark.parametrize("fits", [True, False])
def test_samples_of_a_subclass_are_explained_with_their_labels(tmp_path, fits):
    keeps = Keeps()
    batches = DataLoader(data(), batch_size=8, collate_fn=scans)
    callback = SaliencyCallback(samples=first(4), outputs=[keeps], execution=Execution(on_error="raise", audit=True))
    runner = trainer(tmp_path, callback, max_epochs=1)
    if fits:
        runner.fit(Scans(), batches, batches)
    else:
        runner.validate(Scans(), batches, verbose=False)
    assert keeps.labels == [0, 1, 2, 0]
    assert torch.equal(keeps.images, data()[:4][0])
    assert type(keeps.looks[-1].samples.samples[0].call.leaf) is torch.Tensor


def test_a_checkpoint_holds_their_samples(tmp_path):
    batches = DataLoader(data(), batch_size=8, collate_fn=scans)
    callback = SaliencyCallback(samples=4, execution=Execution(on_error="raise"))
    runner = trainer(tmp_path, callback, max_epochs=1)
    runner.fit(Scans(), batches, batches)
    runner.save_checkpoint(tmp_path / "run.ckpt")
    (state,) = torch.load(tmp_path / "run.ckpt", weights_only=True)["lightning_saliency"].values()
    assert len(state["samples"]["samples"]) == 4


class ReadsFiles(Scans):
    def forward(self, images):
        assert images.files[0].endswith(".nii")
        return super().forward(images)


def test_a_model_that_needs_the_subclass_says_that_it_is_called_with_plain_tensors(tmp_path):
    batches = DataLoader(data(), batch_size=8, collate_fn=scans)
    with pytest.warns(UserWarning, match="could not show") as caught:
        trainer(tmp_path, SaliencyCallback(samples=4)).validate(ReadsFiles(), batches, verbose=False)
    (said,) = {str(warning.message) for warning in caught if "could not show" in str(warning.message)}
    assert "has no attribute 'files'" in said
    assert "In the step it was called with Scan: it is called again with plain tensors" in said


def test_given_images_of_a_subclass_are_explained():
    images = data()[:2][0].as_subclass(Scan)
    explanation = explain(TinyClassifier(), images, methods="saliency")
    assert explanation.attributions["saliency"].shape == (2, 1, 16, 16)


def test_only_tensors_whose_data_is_a_plain_tensors_are_replaced():
    jagged = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)
    tree = plain_tensors(
        {"scan": torch.ones(2).as_subclass(Scan), "jagged": jagged, "weight": nn.Parameter(torch.ones(1))}
    )
    assert type(tree["scan"]) is torch.Tensor
    assert tree["jagged"] is jagged
    assert type(tree["weight"]) is torch.Tensor
    shared = torch.zeros(2, 3, 4, 4)
    assert make_call(shared, {}).leaf is shared


def test_it_is_the_same_memory():
    scan = torch.zeros(2).as_subclass(Scan)
    plain_tensors([scan])[0][0] = 1
    assert scan.as_subclass(torch.Tensor).tolist() == [1, 0]
