"""An error inside the user's forward: the warning says which call met it, where, and what to set."""

import warnings

import pytest
import torch
from beside import fit_beside, texts
from tiny import L, TinyClassifier, data, loader, trainer
from torch import nn
from torch.utils.data import TensorDataset

from lightning_saliency import SaliencyCallback, explain
from lightning_saliency.callbacks import Execution


class Twice(TinyClassifier):
    """Its step prepares what `forward` takes."""

    prepared = None

    def forward(self, image, table):
        return super().forward(image) + self.prepared["table"].mean()

    def training_step(self, batch, batch_idx):
        self.prepared = {"table": batch[1]}
        loss = nn.functional.cross_entropy(self(batch[0], batch[1]), batch[2])
        self.prepared = {}
        return loss

    def validation_step(self, batch, batch_idx):
        self.prepared = {"table": batch[1]}
        self(batch[0], batch[1])
        self.prepared = {}


def with_tables():
    images, labels = data()[:]
    return loader(TensorDataset(images, torch.ones(len(images), 5), labels))


def fit(folder, module, callback, batches):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runner = trainer(folder, callback, max_epochs=3)
        runner.fit(module, batches, batches)
    assert runner.global_step == 9
    return texts(caught, "SaliencyCallback")


@pytest.mark.parametrize("methods", [None, "grad_cam"])
def test_it_is_our_call_with_its_shapes_and_what_to_set_and_training_goes_on(tmp_path, methods):
    (text,) = fit(tmp_path, Twice(), SaliencyCallback(methods), with_tables())
    assert "KeyError: 'table'" in text
    assert "raised inside Twice, which lightning-saliency called again, in eval mode, with" in text
    assert "image: a tensor of shape (1, 3, 16, 16) and dtype torch.float32" in text
    assert "table: a tensor of shape (1, 5)" in text
    assert "`model=...`, one of backbone, head, or the argument that holds the images: `Samples(image=...)`" in text
    assert "\n" not in text


class BatchesOfEight(TinyClassifier):
    """Has a layer that takes whole batches only."""

    def forward(self, images):
        return self.head(self.backbone(images))


class Mixes(nn.Module):
    def forward(self, features):
        return features + features.view(8, 12, 8, 8).mean(0)


def of_eight():
    module = BatchesOfEight()
    module.backbone.append(Mixes())
    return module


def test_the_innermost_module_is_named(tmp_path):
    (text,) = fit(tmp_path, of_eight(), SaliencyCallback(samples=4), loader())
    assert "inside `backbone.7` (Mixes) of BatchesOfEight" in text
    assert "images: a tensor of shape (1, 3, 16, 16)" in text
    assert "shape '[8, 12, 8, 8]' is invalid" in text


class Wordy(TinyClassifier):
    """Raises an error that holds its whole `repr`, in our call alone."""

    def forward(self, images):
        if not self.trainer.sanity_checking and len(images) < 8:
            raise RuntimeError(f"no use: {self!r} " + "x" * 2000)
        return super().forward(images)


def test_a_long_text_is_cut(tmp_path):
    (text,) = fit(tmp_path, Wordy(), SaliencyCallback(samples=4, execution=Execution(log_initial=False)), loader())
    assert "RuntimeError: no use: Wordy( (backbone)" in text
    assert "xxx" not in text
    assert len(text) < 1100
    assert "called again" in text


class TakesTwo(TinyClassifier):
    def forward(self, images, scale):
        return super().forward(images) * scale

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0], 1.0), batch[1])

    def validation_step(self, batch, batch_idx):
        self(batch[0], 1.0)


def test_of_given_images_it_is_said_that_the_step_calls_otherwise(tmp_path):
    (text,) = fit(tmp_path, TakesTwo(), SaliencyCallback(samples=data()[:2][0]), loader())
    assert "missing 1 required positional argument: 'scale'" in text
    assert "images: a tensor of shape (2, 3, 16, 16)" in text or "images: a tensor of shape (1, 3, 16, 16)" in text
    assert "Leave out `samples=images`" in text


def test_each_cause_is_told_once(tmp_path):
    class TwoCauses(TinyClassifier):
        def forward(self, images):
            if len(images) < 8 and not self.trainer.sanity_checking:
                if self.trainer.current_epoch == 0:
                    raise ValueError(f"first, at {self.trainer.global_step}")
                raise ValueError(f"second, at {self.trainer.global_step}")
            return super().forward(images)

    execution = Execution(log_initial=False)
    first, second = fit(tmp_path, TwoCauses(), SaliencyCallback(samples=4, execution=execution), loader())
    assert "first, at" in first
    assert "second, at 6" in second


def test_the_training_is_untouched(tmp_path):
    with pytest.warns(UserWarning, match="called again"):
        fit_beside(tmp_path, of_eight, SaliencyCallback(samples=4, execution=Execution(audit=True)), max_epochs=1)


def test_where_errors_are_raised_it_is_the_models_own_with_a_note(tmp_path):
    L.seed_everything(1)
    runner = trainer(tmp_path, SaliencyCallback(samples=4, execution=Execution(on_error="raise")))
    with pytest.raises(RuntimeError, match=r"shape '\[8, 12, 8, 8\]' is invalid") as caught:
        runner.fit(of_eight(), loader(), loader())
    assert "backbone.7" in caught.value.__notes__[0]


def test_explain_says_that_the_model_failed_with_its_own_error_as_the_cause():
    said = r"^The model failed on images of shape \(2, 3, 16, 16\)\. RuntimeError: shape '\[8, 12, 8, 8\]' is invalid"
    with pytest.raises(RuntimeError, match=said) as caught:
        explain(of_eight(), torch.rand(2, 3, 16, 16), layer="backbone.5")
    assert "of BatchesOfEight" in str(caught.value)
    assert "of BatchesOfEight" in caught.value.__cause__.__notes__[0]
