"""What cannot work is an error before the first training step, which says what to do."""

import os
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from beside import texts
from tiny import NUM_CLASSES, L, TinyClassifier, events, loader, sheets, trainer
from torch import nn

from lightning_saliency import CAMCallback, GradCAMCallback, SaliencyCallback
from lightning_saliency.callbacks import Execution, Samples, Style


class Flat(TinyClassifier):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Flatten(), nn.Linear(3 * 16 * 16, NUM_CLASSES)


class NotPooled(TinyClassifier):
    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(12 * 8 * 8, NUM_CLASSES))


class TwoParts(L.LightningModule):
    """Has no forward, and a validation step that calls nothing."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.head(self.backbone(batch[0]).mean((2, 3))), batch[1] % 2)

    def validation_step(self, batch, batch_idx):
        pass

    configure_optimizers = TinyClassifier.configure_optimizers


class NeverCalled(TinyClassifier):
    """Has a forward of two arguments, which its validation step does not call."""

    def forward(self, images, labels):
        return super().forward(images)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(*batch), batch[1])

    def validation_step(self, batch, batch_idx):
        pass


class Embeds(TinyClassifier):
    """Returns no logits."""

    def forward(self, images):
        return self.backbone(images)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.head(self(batch[0])), batch[1])

    def validation_step(self, batch, batch_idx):
        self(batch[0])


class TakesTokens(TinyClassifier):
    """Takes no images."""

    def forward(self, images):
        return super().forward(images.view(-1, 3, 16, 16))

    def validation_step(self, batch, batch_idx):
        self(batch[0].flatten(1))


@pytest.mark.parametrize(
    ("callback", "module", "message"),
    [
        (partial(GradCAMCallback, layer="backbon.0"), TinyClassifier, r"`layer`.*'backbon.0'.*Nearest: .*backbone\.0"),
        (
            partial(GradCAMCallback, layer=["backbone.2", "nowhere"]),
            TinyClassifier,
            "`layer` to name a module of TinyClassifier, got 'nowhere'",
        ),
        (partial(GradCAMCallback, model="bakcbone"), TinyClassifier, r"`model`.*'bakcbone'.*Nearest: .*backbone"),
        (partial(GradCAMCallback, layer="head"), TinyClassifier, r"'head' to return a feature map, .*got \(8, 3\)"),
        (GradCAMCallback, Flat, "no map of more than one position"),
        (CAMCallback, NotPooled, "global average pooling"),
        (partial(GradCAMCallback, target=7), TinyClassifier, "`target` to be below the model's 3 classes"),
        (
            GradCAMCallback,
            TwoParts,
            r"validation step of TwoParts to call what turns images into logits.*calls none of its submodules",
        ),
        (
            partial(GradCAMCallback, samples=torch.rand(2, 3, 16, 16)),
            TwoParts,
            r"defines no `forward`.*`model=...`, one of backbone, head",
        ),
        (GradCAMCallback, NeverCalled, r"validation step of NeverCalled to call.*calls none of its submodules"),
        (
            GradCAMCallback,
            Embeds,
            r"loss reads, of shape \(N, 3\), got output \(8, 12, 8, 8\)\. Name the submodule",
        ),
        (GradCAMCallback, TakesTokens, r"images, a floating-point or uint8 tensor \(N, C, H, W\), got 0: a tensor of"),
        (
            partial(GradCAMCallback, samples=Samples(image="pixels")),
            TinyClassifier,
            r"images named 'pixels'.*got 0: a tensor of shape \(8, 3, 16, 16\)",
        ),
        (
            partial(GradCAMCallback, style=Style(mean=[0.5, 0.5], std=[1.0, 1.0])),
            TinyClassifier,
            "one per channel, got 2",
        ),
    ],
    ids=[
        "layer",
        "one of several layers",
        "model",
        "no spatial layer",
        "no map",
        "cam without GAP",
        "class",
        "nothing is called",
        "no forward, and given images",
        "forward is not called",
        "no logits",
        "no images",
        "no argument of this name",
        "mean",
    ],
)
def test_what_cannot_work_is_an_error_before_the_first_training_step(tmp_path, callback, module, message):
    runner = trainer(tmp_path, callback())
    with pytest.raises((ValueError, TypeError), match=message):
        runner.fit(module(), loader(), loader())
    assert runner.global_step == 0


class Sharded(TinyClassifier):
    """Could be sharded when its layers are made."""

    def configure_model(self):
        pass


@pytest.fixture
def one_process(monkeypatch):
    """The environment of a strategy of several processes that has one, which is left afterwards."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("default:.*sync_dist=True")
def test_under_a_sharded_strategy_the_callback_is_left_out_with_a_warning(tmp_path, one_process):
    strategy = L.strategies.ModelParallelStrategy()
    monitors = L.callbacks.EarlyStopping("xai_saliency/saliency/entropy")
    callback = SaliencyCallback()
    runner = trainer(tmp_path, callback, monitors, strategy=strategy)
    with pytest.warns(UserWarning, match=r"ModelParallelStrategy does not keep.*goes on without it") as caught:
        runner.fit(Sharded(), loader(), loader())
    assert len(texts(caught, "SaliencyCallback")) == 1
    assert runner.global_step == 6
    assert sheets(tmp_path) == set()
    with pytest.raises(ValueError, match="ModelParallelStrategy does not keep"):
        SaliencyCallback(execution=Execution(on_error="raise")).setup(runner, Sharded(), "fit")


@pytest.mark.filterwarnings("default:You are trying to")
def test_with_bare_bones_the_callback_is_left_out_with_a_warning(tmp_path):
    bare = {"logger": None, "log_every_n_steps": None, "enable_checkpointing": None, "enable_progress_bar": None}
    runner = trainer(tmp_path, SaliencyCallback(), barebones=True, enable_model_summary=None, **bare)
    with pytest.warns(UserWarning, match=r"barebones=True.*goes on without it") as caught:
        runner.fit(Sharded(), loader(), loader())
    assert len(texts(caught, "SaliencyCallback")) == 1
    assert runner.global_step == 6


def raises(*args):
    raise KeyError("nothing of this name")


def returns_text(*args):
    return "nonsense"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": Samples(labels=raises)}, "function for `samples.labels` raises KeyError: 'nothing of this name'"),
        ({"samples": Samples(labels=returns_text)}, "function for `labels` to return one class for each"),
        ({"samples": Samples(objects=raises)}, "function for `samples.objects` raises KeyError"),
        ({"samples": Samples(objects=returns_text)}, "`objects` to be, for 8 images.*got a str"),
        ({"target": raises}, "function for `target` raises KeyError"),
        ({"target": returns_text}, "callable `target` to turn logits.*got str"),
        ({"execution": Execution(output_fn=raises)}, "function for `output_fn` raises KeyError"),
        ({"execution": Execution(output_fn=returns_text)}, "`output_fn` to return logits of shape.*got a str"),
        ({"samples": Samples(choose="per_class", labels=lambda batch: None)}, r"integer labels \(N,\)"),
        ({"samples": Samples(dataloader_idx=3)}, "below the number of loaders, 1, got 3"),
        ({"model": "spare"}, "Expected `model`, 'spare', to be called in the validation step"),
        ({"target": 7}, "below the model's 3 classes"),
        ({"samples": Samples(image="pixels")}, "images named 'pixels'"),
        ({"style": Style(mean=[0.5, 0.5], std=[1.0, 1.0])}, "one per channel, got 2"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_an_option_that_is_impossible_ends_the_run_with_default_methods_too(tmp_path, options, message):
    runner = trainer(tmp_path, SaliencyCallback(**options))
    with pytest.raises(ValueError, match=message):
        runner.fit(HasSpare(), loader(), loader())
    assert runner.global_step == 0


class HasSpare(TinyClassifier):
    """Has a part that it does not call."""

    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(2, 2)


def test_layers_that_are_made_in_configure_model_are_checked_once_they_are_there(tmp_path):
    class MakesItsLayersLate(TinyClassifier):
        def __init__(self):
            super().__init__()
            self.backbone = None

        def configure_model(self):
            self.backbone = TinyClassifier().backbone

    trainer(tmp_path, GradCAMCallback(layer="backbone.2")).validate(MakesItsLayersLate(), loader(), verbose=False)
    assert events(tmp_path).Images("saliency/grad_cam")
    with pytest.raises(ValueError, match="`layer` to name a module of MakesItsLayersLate, got 'backbon'"):
        trainer(tmp_path, GradCAMCallback(layer="backbon")).fit(MakesItsLayersLate(), loader(), loader())


def test_a_module_without_forward_is_explained_by_its_only_part_with_parameters(tmp_path):
    class OnePart(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.loss = TinyClassifier(), nn.CrossEntropyLoss()

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.loss(self.net(batch[0]), batch[1]))

    trainer(tmp_path, GradCAMCallback()).validate(OnePart(), loader(), verbose=False)
    assert events(tmp_path).Images("saliency/grad_cam")
