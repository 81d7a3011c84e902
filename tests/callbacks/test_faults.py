"""What goes wrong once training has begun: it ends nothing, changes nothing, and is said once."""

import os
import shutil
import threading
import time

import pytest
import torch
from tiny import CSVLogger, L, Logger, TensorBoardLogger, TinyClassifier, data, events, loader, picture, trainer
from torch.utils.data import Dataset

from lightning_saliency import SaliencyCallback
from lightning_saliency.callbacks import Execution
from lightning_saliency.callbacks.audit import changed, fingerprint
from lightning_saliency.callbacks.budget import Budget
from lightning_saliency.callbacks.guard import Guard

SHOWN = 5  # as many as no batch of the loaders has: so a pass of ours is known by its size


def is_ours(module, images) -> bool:
    """Whether this forward is the callback's, in training proper."""
    return len(images) in (SHOWN, 3) and not module.training and not module.trainer.sanity_checking


class Ending(L.Callback):
    def on_train_end(self, trainer, pl_module):
        self.fingerprint = fingerprint(trainer, pl_module)


def fit_beside(tmp_path, module, callback, **options):
    """Fit with the callback, and check that it ends like the fit without it; return the first trainer."""
    endings, runners = [], []
    for callbacks in ([callback], []):
        L.seed_everything(1)
        ending = Ending()
        folder = tmp_path / ("with" if callbacks else "without")
        runner = trainer(folder, *callbacks, ending, **({"max_epochs": 3} | options))
        runner.fit(module(), loader(shuffle=True), loader())
        endings.append(ending.fingerprint)
        runners.append(runner)
    assert changed(*endings) == []
    return runners[0]


def callback(**options) -> SaliencyCallback:
    return SaliencyCallback(["cam", "saliency"], samples=SHOWN, execution=Execution(audit=True), **options)


def texts(caught, part: str) -> list[str]:
    return [str(warning.message) for warning in caught if part in str(warning.message)]


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


@pytest.mark.parametrize("module", [NotFinite, Infinite])
def test_activations_that_are_not_finite_are_shown_as_such(tmp_path, module):
    fit_beside(tmp_path, module, callback())
    assert len(events(tmp_path / "with").Images("saliency/cam")) == 4


def test_a_class_count_that_changes_is_one_warning(tmp_path):
    with pytest.warns(UserWarning, match="below the model's 2 classes") as caught:
        fit_beside(tmp_path, FewerClasses, callback())
    assert len(texts(caught, "below the model's 2 classes")) == 1


def test_out_of_memory_is_retried_with_smaller_chunks(tmp_path):
    fit_beside(tmp_path / "hungry", Hungry, callback())
    fit_beside(tmp_path / "fed", TinyClassifier, callback())
    hungry, fed = (events(tmp_path / name / "with").Images("saliency/overview") for name in ("hungry", "fed"))
    assert len(hungry) == len(fed) == 4
    difference = (picture(hungry[-1]).int() - picture(fed[-1]).int()).abs()  # what rounding may do to a colour
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
def test_an_empty_validation_loader_is_told_at_the_end_and_a_short_one_shows_what_it_has(tmp_path):
    with pytest.warns(UserWarning, match="this run had none"):
        trainer(tmp_path / "empty", callback()).fit(TinyClassifier(), loader(), loader(Empty()))
    short = callback()
    trainer(tmp_path / "short", short).fit(TinyClassifier(), loader(), loader(data(4), batch_size=2))
    assert len(short.state_dict()["validate"]["images"]) == 4
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
    assert changed(states[1], states[2]) == ["torch's modes"]  # Lightning has left its own `no_grad` by then


def test_the_guard_counts_the_time_also_of_steps_that_fail():
    class Runner:
        sanity_checking, current_epoch = False, 0

    def slow():
        time.sleep(0.05)
        raise OSError("full")

    guard = Guard("Who", raises=False, audit=False)
    with pytest.warns(UserWarning, match="OSError: full"):
        assert guard.run(Runner(), None, slow) is False
    assert guard.seconds >= 0.05
    assert guard.run(Runner(), None, lambda: None) is True


# --- the time budget


class Slow(TinyClassifier):
    """Each image of ours takes 20 ms, each training step 300 ms."""

    def forward(self, images):
        if not self.training and images.shape[0] <= SHOWN:
            time.sleep(0.02 * len(images))
        return super().forward(images)

    def training_step(self, batch, batch_idx):
        time.sleep(0.3)
        return super().training_step(batch, batch_idx)


def test_a_callback_over_its_budget_shows_fewer_samples_then_fewer_epochs_and_says_so_once(tmp_path):
    roomy = SaliencyCallback(["saliency"], samples=SHOWN, execution=Execution(max_fraction=1.0))
    trainer(tmp_path / "roomy", roomy, max_epochs=4).fit(Slow(), loader(), loader())
    heights = [image.height for image in events(tmp_path / "roomy").Images("saliency/saliency")]
    assert len(heights) == 5
    assert len(set(heights)) == 1

    tight = SaliencyCallback(["saliency"], samples=SHOWN, execution=Execution(max_fraction=0.02))
    with pytest.warns(UserWarning, match="would take more than 2% of the time") as caught:
        trainer(tmp_path / "tight", tight, max_epochs=12).fit(Slow(), loader(), loader())
    assert len(texts(caught, "would take more than")) == 1
    shown = events(tmp_path / "tight").Images("saliency/saliency")
    assert 2 <= len(shown) <= 8
    assert shown[-1].height < shown[0].height


def test_the_budget_in_numbers():
    budget = Budget(0.5)
    assert [budget.plan(8, rest=1.0) for _ in range(3)] == [8, 8, 8]  # nothing measured yet
    budget.record(seconds=4.0, num_samples=8)
    assert budget.plan(8, rest=8.0) == 8  # 4 s of 8 s are allowed
    assert not budget.is_thinned
    assert budget.plan(8, rest=2.0) == 2  # 1 s is allowed, one sample takes 0.5 s
    assert budget.is_thinned
    assert budget.plan(8, rest=100.0) == 2  # never loosened again
    assert [budget.plan(8, rest=0.25) for _ in range(9)] == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    unlimited = Budget(None)
    unlimited.record(1e9, 1)
    assert unlimited.plan(8, rest=0.0) == 8


def test_its_seconds_are_logged_and_can_be_monitored(tmp_path):
    stopping = L.callbacks.EarlyStopping("saliency/seconds", patience=100, check_on_train_epoch_end=False, strict=True)
    saving = L.callbacks.ModelCheckpoint(tmp_path / "best", monitor="saliency/seconds")
    runner = trainer(tmp_path, callback(), stopping, saving, enable_checkpointing=True)
    runner.fit(TinyClassifier(), loader(), loader())
    seconds = [event.value for event in events(tmp_path).Scalars("saliency/seconds")]
    assert len(seconds) == 2
    assert all(0 < value < 30 for value in seconds)
    assert float(saving.best_model_score) == pytest.approx(min(seconds))


@pytest.mark.parametrize("value", [0, -0.1, 1.5])
def test_a_wrong_budget_is_named(value):
    with pytest.raises(ValueError, match="`max_fraction`"):
        SaliencyCallback(execution=Execution(max_fraction=value))


# --- endurance


def test_a_thousand_calls_leave_memory_hooks_threads_files_and_figures_as_they_were(tmp_path):
    import gc

    notes = []

    def note(module):
        gc.collect()
        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[1])
        pyplot = __import__("sys").modules.get("matplotlib.pyplot")
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())
        figures = len(pyplot.get_fignums()) if pyplot else 0
        tensors = sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())
        notes.append((pages, tensors, (hooks, threading.active_count(), len(os.listdir("/proc/self/fd")), figures)))

    class Repeats(L.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                for call in range(1, 1001):
                    ours.on_validation_epoch_end(trainer, pl_module)
                    if call in (200, 1000):
                        note(pl_module)

    ours = SaliencyCallback(["saliency"], samples=1)
    trainer(tmp_path, ours, Repeats(), max_epochs=1).fit(TinyClassifier(), loader(), loader())
    (early_pages, early_tensors, early), (late_pages, late_tensors, late) = notes
    assert early == late
    assert late_tensors <= early_tensors  # what an earlier test has left may go meanwhile
    assert late_pages <= 1.01 * early_pages
