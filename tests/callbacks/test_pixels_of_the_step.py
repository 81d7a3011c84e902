"""Images that are normalized between the batch and the model: the sheet shows the pixels; what is stretched is said."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import L, TinyClassifier, first, loader, trainer
from torch.utils.data import TensorDataset

from lightning_saliency import GradCAMCallback, load_record
from lightning_saliency.callbacks import Execution

PIXELS = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2
BYTES = (PIXELS * 255).byte()
LABELS = torch.arange(12) % 3
MEAN, STD = torch.tensor([0.5, 0.4, 0.3]).view(-1, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(-1, 1, 1)


class InTheStep(TinyClassifier):
    """Normalizes by hand, so that nothing but the numbers tells it."""

    def images_of(self, batch):
        return (batch[0] - MEAN) / STD

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(self.images_of(batch)), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self(self.images_of(batch)), batch[1]))


class OfNumbers(InTheStep):
    def images_of(self, batch):
        return (batch[0] - 120.0) / 60.0


class OfBytes(InTheStep):
    def images_of(self, batch):
        return (batch[0].permute(0, 3, 1, 2) / 255.0 - MEAN) / STD


class EachByItsOwn(InTheStep):
    """Takes the mean and the deviation of each image."""

    def images_of(self, batch):
        std, mean = torch.std_mean(batch[0], (1, 2, 3), keepdim=True)
        return (batch[0] - mean) / std


class InForward(TinyClassifier):
    def forward(self, images):
        return super().forward((images - MEAN) / STD)


class InABackbone(L.LightningModule):
    """Has no `forward`: what is explained is a part, which is called with normalized images."""

    def __init__(self):
        super().__init__()
        self.net = TinyClassifier()

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net((batch[0] - MEAN) / STD), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-2)


class AfterTransfer(TinyClassifier):
    """Counts the batches that it has normalized, and augments those of training."""

    def __init__(self, **options):
        super().__init__(**options)
        self.num_calls = 0
        self.register_buffer("num_images", torch.zeros(()))

    def normalized(self, images):
        return (images - MEAN) / STD

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.num_calls += 1
        self.num_images += len(batch[0])
        images = self.normalized(batch[0])
        if self.trainer.training:
            images = images + 0.1 * torch.randn_like(images)
        return images, batch[1]


class BytesAfterTransfer(AfterTransfer):
    """Takes no other numbers than bytes for pixels of 0 to 255."""

    def normalized(self, images):
        return super().normalized(images / 255 if images.dtype == torch.uint8 else images)


class NumbersBeforeTransfer(TinyClassifier):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        return (batch[0] / 255 - MEAN) / STD, batch[1]


class CurvedAfterTransfer(AfterTransfer):
    """Does what is no normalization."""

    def normalized(self, images):
        return super().normalized(images**2)


def fit(folder, module, inputs, **options):
    callback = GradCAMCallback(samples=first(6), execution=Execution(on_error="raise"))
    data = loader(TensorDataset(inputs, LABELS), batch_size=4)
    run = trainer(folder, callback, **({"max_epochs": 1} | options))
    run.fit(module, data, data)
    return run, torch.from_numpy(np.stack(load_record(folder).samples.images)).float() / 255


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (InTheStep, PIXELS),
        (OfNumbers, PIXELS * 255),
        (OfBytes, BYTES.movedim(1, -1)),
        (InABackbone, PIXELS),
        (AfterTransfer, PIXELS),
        (BytesAfterTransfer, BYTES),
        (NumbersBeforeTransfer, PIXELS * 255),
    ],
)
def test_the_pixels_are_those_of_the_batch(tmp_path, caplog, module, inputs):
    with caplog.at_level(logging.INFO):
        _, shown = fit(tmp_path, module(), inputs)
    assert (shown - PIXELS[:6]).abs().max() < 0.01
    assert "shown stretched" not in caplog.text


def test_what_the_model_itself_normalizes_is_shown_as_it_was_given(tmp_path):
    _, shown = fit(tmp_path, InForward(), PIXELS)
    assert (shown - PIXELS[:6]).abs().max() < 0.01


def test_what_was_normalized_by_hand_before_it_came_into_a_data_set_is_shown_in_its_colors(tmp_path, caplog):
    mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with caplog.at_level(logging.INFO):
        _, shown = fit(tmp_path, TinyClassifier(), (BYTES / 255 - mean) / std)
    assert (shown * 255).round().equal(BYTES[:6].float())
    assert "shown stretched" not in caplog.text


def test_what_a_transfer_does_else_is_not_undone(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        fit(tmp_path, CurvedAfterTransfer(), PIXELS)
    assert "shown stretched" in caplog.text


def test_trying_the_transfer_leaves_the_training_as_it_is(tmp_path):
    def trained(*callbacks):
        L.seed_everything(0)
        module = AfterTransfer()
        data = loader(TensorDataset(PIXELS, LABELS), batch_size=4)
        trainer(tmp_path, *callbacks, max_epochs=2).fit(module, data, data)
        return module.num_calls, [*module.state_dict().values(), torch.get_rng_state()]

    plain, with_callback = trained(), trained(GradCAMCallback(execution=Execution(on_error="raise", audit=True)))
    assert plain[0] == with_callback[0]
    assert all(torch.equal(*pair) for pair in zip(plain[1], with_callback[1], strict=True))


def test_a_resumed_run_knows_it_too(tmp_path):
    run, _ = fit(tmp_path / "first", InTheStep(), PIXELS)
    run.save_checkpoint(tmp_path / "run.ckpt")
    callback = GradCAMCallback(samples=first(6), execution=Execution(on_error="raise"))
    data = loader(TensorDataset(PIXELS, LABELS), batch_size=4)
    resumed = trainer(tmp_path / "second", callback, max_epochs=2)
    resumed.fit(InTheStep(), data, data, ckpt_path=tmp_path / "run.ckpt", weights_only=False)
    shown = torch.from_numpy(np.stack(load_record(tmp_path / "second").samples.images)).float() / 255
    assert (shown - PIXELS[:6]).abs().max() < 0.01


def test_what_is_stretched_is_said_once_with_what_to_do(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        _, shown = fit(tmp_path, EachByItsOwn(), PIXELS, max_epochs=2)
    assert shown.amax((1, 2, 3)).tolist() == [1.0] * 6
    said = [record.getMessage() for record in caplog.records if "shown stretched" in record.getMessage()]
    assert len(said) == 1
    assert "`style=Style(mean=[...], std=[...])`" in said[0]
