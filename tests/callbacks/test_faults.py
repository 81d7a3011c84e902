"""What goes wrong once training has begun: it ends nothing, changes nothing, and is said once."""

import os
import shutil
import time

import pytest
import torch
from beside import fit_beside, texts
from looking import Keeps
from tiny import CSVLogger, L, Logger, TensorBoardLogger, TinyClassifier, data, events, first, loader, picture, trainer
from torch.utils.data import Dataset

from lightning_saliency import SaliencyCallback
from lightning_saliency.callbacks import Execution, Style
from lightning_saliency.callbacks.audit import changed, fingerprint

SHOWN = 5  # as many as no batch of the loaders has: so a pass of ours is known by its size


def is_ours(module, images) -> bool:
    """Whether this forward is the callback's, in training proper."""
    return len(images) in (SHOWN, 3) and not module.training and not module.trainer.sanity_checking


def callback(on_error="warn", **options) -> SaliencyCallback:
    execution = Execution(audit=True, on_error=on_error)
    defaults = {"samples": first(SHOWN), "history": False, "style": Style(cards="all")}
    return SaliencyCallback(["cam", "saliency"], execution=execution, **(defaults | options))


class Raises(TinyClassifier):
    def forward(self, images):
        if is_ours(self, images):
            raise RuntimeError(f"not at {time.perf_counter()}")  # another text in each epoch, one cause
        return super().forward(images)


class NotFinite(TinyClassifier):
    value = torch.nan

    def forward(self, images):
        scale = self.value if is_ours(self, images) else 1.0
        return self.head(self.backbone(images) * scale)


class Infinite(NotFinite):
    value = torch.inf


class FewerClasses(TinyClassifier):
    def forward(self, images):
        logits = super().forward(images)
        return logits[:, :2] if is_ours(self, images) else logits


class Hungry(TinyClassifier):
    """Really asks for more memory than there is when it gets more than `fits` images of ours."""

    fits = 2

    def forward(self, images):
        if not self.training and not self.trainer.sanity_checking and self.fits < len(images) <= SHOWN:
            torch.empty(2**50 * len(images))
        return super().forward(images)


class Starved(Hungry):
    fits = 0


def test_a_model_that_raises_is_one_warning(tmp_path):
    with pytest.warns(UserWarning, match="RuntimeError: not at") as caught:
        fit_beside(tmp_path, Raises, callback())
    assert len(texts(caught, "not at")) == 1
    assert len(events(tmp_path / "with").Images("saliency/cam")) == 1  # before training


def test_a_model_that_raises_ends_the_training_where_that_is_asked_for(tmp_path):
    runner = trainer(tmp_path, callback("raise"))
    with pytest.raises(RuntimeError, match="not at"):
        runner.fit(Raises(), loader(), loader())
    assert runner.global_step == 3


class RaisesInOneEpoch(TinyClassifier):
    def forward(self, images):
        if is_ours(self, images) and self.trainer.current_epoch == 1:
            raise RuntimeError("only now")
        return super().forward(images)


def test_after_a_fault_the_next_epoch_is_shown_again(tmp_path):
    with pytest.warns(UserWarning, match="RuntimeError: only now"):
        fit_beside(tmp_path, RaisesInOneEpoch, callback())
    assert [event.step for event in events(tmp_path / "with").Images("saliency/cam")] == [0, 2, 8]


@pytest.mark.parametrize("module", [NotFinite, Infinite])
def test_activations_that_are_not_finite_are_shown_as_such(tmp_path, module):
    fit_beside(tmp_path, module, callback())
    assert len(events(tmp_path / "with").Images("saliency/cam")) == 4


def test_a_class_count_that_changes_is_one_warning(tmp_path):
    with pytest.warns(UserWarning, match="below the model's 2 classes") as caught:
        fit_beside(tmp_path, FewerClasses, callback())
    assert len(texts(caught, "below the model's 2 classes")) == 1


def test_out_of_memory_is_retried_with_smaller_chunks(tmp_path):
    fit_beside(tmp_path / "hungry", Hungry, callback(), max_epochs=2)
    fit_beside(tmp_path / "fed", TinyClassifier, callback(), max_epochs=2)
    hungry, fed = (events(tmp_path / name / "with").Images("saliency/Overview") for name in ("hungry", "fed"))
    assert len(hungry) == len(fed) == 3
    difference = (picture(hungry[-1]).int() - picture(fed[-1]).int()).abs()  # what rounding may do to a color
    assert difference.max() <= 32
    assert difference.float().mean() < 0.01


def test_out_of_memory_down_to_one_image_is_one_warning(tmp_path):
    with pytest.warns(UserWarning, match="memory") as caught:
        fit_beside(tmp_path, Starved, callback())
    assert len(texts(caught, "could not show its pictures")) == 1


class Failing(Logger):
    name, version = "failing", 0

    def log_image(self, key, images, step=None):
        if step:
            raise ConnectionError("no network")

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass


def test_a_logger_that_raises_is_one_warning_and_the_others_get_their_pictures(tmp_path):
    loggers = [Failing(), TensorBoardLogger(tmp_path, name="", version="")]
    with pytest.warns(UserWarning, match="ConnectionError: no network") as caught:
        trainer(tmp_path, callback(), logger=loggers).fit(TinyClassifier(), loader(), loader())
    assert len(texts(caught, "no network")) == 1
    assert len(events(tmp_path).Images("saliency/cam")) == 3


class After(L.Callback):
    """Does something to the disk after the first epoch."""

    def __init__(self, deed):
        self.deed = deed

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking and trainer.current_epoch == 0:
            self.deed()


@pytest.mark.filterwarnings("default:.* takes no pictures, so they are files")
def test_a_log_folder_that_is_gone_is_made_again_and_one_that_cannot_be_written_is_one_warning(tmp_path):
    logger = CSVLogger(tmp_path, name="gone", version=0)
    gone = tmp_path / "gone/version_0/saliency"
    trainer(tmp_path, callback(), After(lambda: shutil.rmtree(gone)), logger=logger).fit(
        TinyClassifier(), loader(), loader()
    )
    assert len(list((gone / "cam").glob("*.png"))) == 1  # of the last epoch

    logger = CSVLogger(tmp_path, name="full", version=0)
    full = tmp_path / "full/version_0/saliency/cam"

    def fill_the_disk():
        """Every write to /dev/full fails with "No space left on device"."""
        for step in range(20):
            (full / f"step={step:07d}.png").unlink(missing_ok=True)
            os.symlink("/dev/full", full / f"step={step:07d}.png")

    runner = trainer(tmp_path, callback(), After(fill_the_disk), logger=logger, max_epochs=4)
    with pytest.warns(UserWarning, match="No space left on device") as caught:
        runner.fit(TinyClassifier(), loader(), loader())
    assert len(texts(caught, "No space left")) == 1
    assert runner.global_step == 12


class Empty(Dataset):
    def __len__(self):
        return 0

    def __getitem__(self, index):
        raise IndexError(index)


@pytest.mark.filterwarnings("default:.*zero length", "default:.*zero in length", "default:Total length of")
def test_an_empty_validation_loader_is_told_and_a_short_one_shows_what_it_has(tmp_path):
    with pytest.warns(UserWarning, match="this run will have none: its loader is empty"):
        trainer(tmp_path / "empty", callback()).fit(TinyClassifier(), loader(), loader(Empty()))
    keeps = Keeps()
    trainer(tmp_path / "short", callback(outputs=[keeps])).fit(
        TinyClassifier(), loader(), loader(data(4), batch_size=2)
    )
    assert torch.equal(keeps.images, data(4)[:][0])
    assert len(events(tmp_path / "short").Images("saliency/cam")) == 3


class Interrupted(TinyClassifier):
    def forward(self, images):
        if is_ours(self, images):
            self.before = [module.training for module in self.modules()], torch.get_rng_state()
            raise KeyboardInterrupt
        return super().forward(images)


def test_ctrl_c_during_the_pass_goes_through_and_leaves_the_model_as_it_was(tmp_path):
    L.seed_everything(1)
    module, states = Interrupted(), []

    class Notes(L.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            states.append(fingerprint(trainer, pl_module))

        def on_exception(self, trainer, pl_module, exception):
            states.append(fingerprint(trainer, pl_module))
            self.exception = exception

    notes = Notes()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(tmp_path, notes, callback()).fit(module, loader(), loader())
    assert isinstance(notes.exception, KeyboardInterrupt)
    assert len(states) == 3  # in sanity checking, in the first epoch just before the pass, and when interrupted in it
    # Lightning has left its own hook and `no_grad` by then
    assert changed(states[1], states[2]) == ["the attribute _current_fx_name of the module", "torch's modes"]
