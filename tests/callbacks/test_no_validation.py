"""A training without validation: said when it begins, and images that are given are shown after each epoch."""

import warnings

import pytest
import torch
from beside import fit_beside, texts
from looking import Keeps
from tiny import L, TinyClassifier, data, events, loader, trainer
from torch import nn
from torch.utils.data import TensorDataset

from lightning_saliency import SaliencyCallback, load_record
from lightning_saliency.callbacks import ClassModelCallback, Execution, FoolingCallback, Metrics, Samples

pytestmark = [
    pytest.mark.filterwarnings("default:You defined a `validation_step`"),
    pytest.mark.filterwarnings("default:You passed in a `val_dataloader`"),
    pytest.mark.filterwarnings("default:.*zero length", "default:.*zero in length", "default:Total length of"),
]
STRICT = Execution(on_error="raise", audit=True)
IMAGES, LABELS = data()[:4]
NEVER = "will have none"


class NeverValidates(TinyClassifier):
    validation_step = L.LightningModule.validation_step


WITHOUT = {
    "`validation_step`": (NeverValidates, lambda: loader(), {}),
    "`limit_val_batches`": (TinyClassifier, lambda: loader(), {"limit_val_batches": 0}),
    "no validation loader": (TinyClassifier, lambda: None, {}),
    "`check_val_every_n_epoch=3`": (TinyClassifier, lambda: loader(), {"check_val_every_n_epoch": 3}),
    "empty": (TinyClassifier, lambda: loader(TensorDataset(*data()[:0])), {}),
}


class Beginning(L.Callback):
    """Keeps what was said before the first step of the training."""

    def __init__(self, caught):
        self.caught = caught
        self.said = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.said = texts(self.caught, "works at the end") if self.said is None else self.said


def fit(folder, callback, *, module=TinyClassifier, val=None, **options):
    """Train without validation; return the trainer, and what was said at its beginning and in all."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        L.seed_everything(3)
        beginning = Beginning(caught)
        runner = trainer(folder, callback, beginning, **options)
        runner.fit(module(), loader(), val)
    return runner, beginning.said, texts(caught, "works at the end")


@pytest.mark.parametrize("reason", WITHOUT)
def test_it_is_said_once_before_the_first_step_with_what_to_do(tmp_path, reason):
    module, val, options = WITHOUT[reason]
    _, said, all_said = fit(tmp_path, SaliencyCallback(), module=module, val=val(), **options)
    (text,) = said
    assert all_said == said
    assert NEVER in text
    assert reason in text
    assert "`SaliencyCallback(samples=images)`" in text
    assert "\n" not in text


@pytest.mark.parametrize("options", [{"max_steps": 2}, {"check_val_every_n_epoch": 2, "max_steps": 5}])
def test_what_is_only_seen_at_the_end_is_said_there(tmp_path, options):
    _, said, all_said = fit(tmp_path, SaliencyCallback(), val=loader(), **({"max_epochs": 9} | options))
    assert said == []
    (text,) = all_said
    assert "this run had none" in text


@pytest.mark.parametrize("options", [{}, {"check_val_every_n_epoch": 2}, {"check_val_every_n_epoch": None}])
def test_nothing_is_said_where_there_are_validations(tmp_path, options):
    options = {"val_check_interval": 2} | options if "check_val_every_n_epoch" in options else options
    assert fit(tmp_path, SaliencyCallback("grad_cam"), val=loader(), **options)[1:] == ([], [])


def test_a_callback_that_takes_no_images_names_no_such_option(tmp_path):
    (text,) = fit(tmp_path, ClassModelCallback(steps=1), max_epochs=1)[2]
    assert NEVER in text
    assert "samples=" not in text


@pytest.mark.parametrize("reason", WITHOUT)
def test_given_images_are_shown_after_each_training_epoch(tmp_path, reason):
    module, val, options = WITHOUT[reason]
    keeps = Keeps()
    callback = SaliencyCallback(["grad_cam", "saliency"], samples=(IMAGES, LABELS), outputs=[keeps], execution=STRICT)
    runner, *said = fit(tmp_path, callback, module=module, val=val(), **options)
    assert said == [[], []]
    assert [look.epoch for look in keeps.looks] == [None, 0, 1]
    assert [look.step for look in keeps.looks] == [0, 2, 5]  # as Lightning's scalars of an epoch's end
    assert torch.equal(keeps.images, IMAGES)
    assert keeps.labels == LABELS.tolist()
    written = events(tmp_path)
    assert [event.step for event in written.Images("saliency/Overview")] == [0, 2, 5]
    assert [event.step for event in written.Scalars("xai_saliency/grad_cam/entropy")] == [2, 5]
    assert {"saliency/grad_cam/filmstrip", "saliency/Overview", "saliency/grad_cam/animation"} <= set(
        written.Tags()["images"]
    )
    assert load_record(tmp_path).epochs == [None, 0, 1]
    assert "xai_saliency/seconds" in runner.callback_metrics


def test_every_second_epoch_and_the_initial_network_only_where_it_is_wanted(tmp_path):
    keeps, execution = Keeps(), Execution(on_error="raise", log_initial=False)
    callback = SaliencyCallback("grad_cam", samples=IMAGES, every_n_epochs=2, outputs=[keeps], execution=execution)
    fit(tmp_path, callback, max_epochs=5)
    assert [look.epoch for look in keeps.looks if look.is_logged] == [1, 3]


class NoValidation(TinyClassifier):
    """Counts its calls; its layers and its queue change in training; it asks its trainer in which stage it is."""

    validation_step = L.LightningModule.validation_step

    def __init__(self):
        super().__init__()
        self.register_buffer("queue", torch.zeros(300, 300))
        self.norm = nn.utils.spectral_norm(nn.Conv2d(3, 3, 1))

    def forward(self, images):
        if self.training:
            self.queue.add_(1)
        logits = super().forward(self.norm(images) + self.queue[0, 0])
        return logits * 2 if self.trainer.training else logits


class Answers(L.Callback):
    """Keeps the model's own answers before training, and at the end of each epoch as a validation would."""

    def __init__(self):
        self.logits = []

    def answer(self, trainer, module):
        stage, trainer.state.stage = trainer.state.stage, "validate"
        module.eval()
        with torch.no_grad():
            self.logits.append(module(IMAGES))
        module.train()
        trainer.state.stage = stage

    on_train_start = answer
    on_train_epoch_end = answer


def test_the_logits_are_those_that_a_validation_would_have(tmp_path):
    keeps, answers = Keeps(), Answers()
    callback = SaliencyCallback("grad_cam", samples=IMAGES, outputs=[keeps], execution=STRICT)
    runner = trainer(tmp_path, callback, answers, precision="32-true")
    L.seed_everything(1)
    runner.fit(NoValidation(), loader())
    assert len(keeps.looks) == len(answers.logits) == 3
    for look, logits in zip(keeps.looks, answers.logits, strict=True):
        (group,) = look.explained
        assert torch.allclose(group.explanation.logits, logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}])
def test_the_training_is_untouched(tmp_path, options):
    callback = SaliencyCallback(["grad_cam", "saliency"], samples=(IMAGES, LABELS), execution=STRICT)
    runner = fit_beside(tmp_path, NeverValidates, callback, **options)
    assert runner.global_step > 0
    assert len(events(tmp_path / "with").Images("saliency/Overview")) == 4


class ByItself(TinyClassifier):
    """Optimizes by itself, or not at all."""

    validation_step = L.LightningModule.validation_step

    def __init__(self, steps=True):
        super().__init__()
        self.automatic_optimization = False
        self.steps = steps

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        if self.steps:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize(("steps", "expected"), [(True, [None, 0, 1]), (False, [None, None])])
def test_with_manual_optimization(tmp_path, steps, expected):
    keeps = Keeps()
    callback = SaliencyCallback("grad_cam", samples=IMAGES, outputs=[keeps], execution=STRICT)
    fit(tmp_path, callback, module=lambda: ByItself(steps))
    assert len(keeps.looks) == len(expected)


def test_an_impossible_option_ends_the_run_before_its_first_step(tmp_path):
    module = NeverValidates()
    with pytest.raises(ValueError, match="below the model's 3 classes"):
        trainer(tmp_path, SaliencyCallback(samples=IMAGES, target=7)).fit(module, loader())
    assert module.trainer.global_step == 0


def test_a_second_fit_goes_on(tmp_path):
    keeps = Keeps()
    callback = SaliencyCallback("grad_cam", samples=IMAGES, outputs=[keeps], execution=STRICT)
    module = NeverValidates()
    runner = trainer(tmp_path, callback, max_epochs=1)
    runner.fit(module, loader())
    runner.fit_loop.max_epochs = 2
    runner.fit(module, loader())
    assert [look.epoch for look in keeps.looks if not look.is_rehearsal] == [None, 0, 1]
    assert [look.is_rehearsal for look in keeps.looks] == [False, False, True, False]


def test_what_monitors_a_scalar_finds_it(tmp_path):
    callback = SaliencyCallback("grad_cam", samples=IMAGES, execution=STRICT)
    monitor = L.callbacks.ModelCheckpoint(tmp_path / "best", monitor="xai_saliency/grad_cam/entropy")
    trainer(tmp_path, callback, monitor, enable_checkpointing=True).fit(NeverValidates(), loader())
    assert monitor.best_model_score.isfinite()
    assert monitor.best_model_score == min(
        event.value for event in events(tmp_path).Scalars("xai_saliency/grad_cam/entropy")
    )


def test_other_callbacks_show_given_images_too(tmp_path):
    fit(tmp_path, FoolingCallback(samples=(IMAGES, LABELS), max_steps=2, execution=STRICT), module=NeverValidates)
    assert len(events(tmp_path).Images("fooling/samples")) == 3


def test_metrics_of_samples_of_the_validation_are_left_out_and_it_is_said(tmp_path):
    callback = SaliencyCallback("grad_cam", samples=IMAGES, metrics=Metrics(samples=8), execution=STRICT)
    with pytest.warns(UserWarning, match="what MetricsOutput takes of the validation stream") as caught:
        trainer(tmp_path, callback).fit(NeverValidates(), loader())
    assert len(texts(caught, "of the validation stream")) == 1
    assert len(events(tmp_path).Images("saliency/grad_cam")) == 3


def test_class_names_and_normalization_are_those_of_the_training_data(tmp_path):
    dataset = data()
    dataset.classes = ["cat", "dog", "bird"]
    keeps = Keeps()
    callback = SaliencyCallback("grad_cam", samples=Samples(images=IMAGES), outputs=[keeps], execution=STRICT)
    trainer(tmp_path, callback, max_epochs=1).fit(NeverValidates(), loader(dataset))
    assert keeps.looks[-1].dataset is dataset
