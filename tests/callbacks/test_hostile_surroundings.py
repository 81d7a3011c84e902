"""What surrounds a run may do anything: warnings are errors, errors have no text, loggers draw, disks fill."""

import random
import resource
import shutil
import warnings

import numpy as np
import pytest
import torch
from beside import fit_beside, texts
from tiny import L, Logger, TinyClassifier, events, is_own, loader, sheets, trainer

from lightning_saliency import SaliencyCallback, load_record
from lightning_saliency.callbacks import Execution, Logged, Output, Samples, Style

SHOWN = 5
PICTURES = {"saliency/cam", "saliency/saliency", "saliency/Overview"}


def callback(on_error="warn", **options) -> SaliencyCallback:
    execution = Execution(audit=True, on_error=on_error)
    return SaliencyCallback(
        ["cam", "saliency"], **({"samples": SHOWN, "execution": execution, "style": Style(cards="all")} | options)
    )


class Raises(TinyClassifier):
    def forward(self, images):
        if len(images) == SHOWN and not self.trainer.sanity_checking:
            self.fail()
        return super().forward(images)

    def fail(self):
        raise RuntimeError("no look")


class NoTextError(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class RaisesWithoutText(Raises):
    def fail(self):
        raise NoTextError


def test_a_fault_where_warnings_are_errors_is_logged_and_ends_nothing(tmp_path, said):
    # as pytest has it here, and `python -W error`
    assert any(action == "error" for action, *_ in warnings.filters)
    fit_beside(tmp_path, Raises, callback())
    (text,) = said()
    assert "RuntimeError: no look" in text


def test_a_message_that_cannot_be_shown_is_logged(tmp_path, said, monkeypatch):
    def no_screen(message, *args, **kwargs):
        if "SaliencyCallback" in str(message):
            raise OSError("no screen")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", no_screen)
        runner = trainer(tmp_path, callback())
        runner.fit(Raises(), loader(), loader())
    assert len(said()) == 1
    assert runner.global_step == 6


class Probabilities(TinyClassifier):
    """Makes the pass warn, since it ends in a softmax."""

    def forward(self, images):
        return super().forward(images).softmax(1)


def test_a_warning_of_the_pass_is_shown_where_warnings_are_errors_and_no_look_is_lost(tmp_path):
    with pytest.warns(UserWarning, match="The model returns probabilities"):
        fit_beside(tmp_path, Probabilities, callback())
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "GPU available but not used")
        runner = trainer(tmp_path / "error", callback())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch")
            runner.fit(Probabilities(), loader(), loader())
    assert {str(warning.message).partition(",")[0] for warning in shown} == {"The model returns probabilities"}
    assert len(events(tmp_path / "error").Images("saliency/cam")) == 3


def test_an_error_whose_text_raises_is_one_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"NoTextError: \(its text raises RuntimeError\)") as caught:
        fit_beside(tmp_path, RaisesWithoutText, callback())
    assert len(texts(caught, "NoTextError")) == 1


class SubmoduleOutput(TinyClassifier):
    """Is recorded with a function that raises what has no text."""


def test_an_error_without_a_text_in_a_function_of_the_users_does_not_end_the_validation_step(tmp_path):
    def output_fn(output):
        raise NoTextError

    runner = trainer(tmp_path, SaliencyCallback(execution=Execution(output_fn=output_fn)), num_sanity_val_steps=0)
    with pytest.warns(UserWarning, match=r"`output_fn` raises NoTextError: \(its text raises RuntimeError\)"):
        runner.fit(SubmoduleOutput(), loader(), loader())
    assert runner.global_step == 6


class Bare(Logger):
    """Takes pictures, and has no folder."""

    name, version = "bare", 0

    def log_image(self, key, images, step=None):
        self.take(key)

    def take(self, key):
        pass

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass


class FailsAtEachCall(Bare):
    calls = 0

    def take(self, key):
        FailsAtEachCall.calls += 1
        raise ConnectionError(f"call {self.calls} failed")


def test_a_logger_that_fails_at_each_of_its_calls_is_one_warning(tmp_path):
    with pytest.warns(UserWarning, match="ConnectionError: call 1 failed") as caught:
        fit_beside(tmp_path, TinyClassifier, callback(history=False), logger=FailsAtEachCall())
    assert len(texts(caught, "ConnectionError")) == 1
    assert FailsAtEachCall.calls == 4


class NoFolder(Bare):
    """Raises where it is asked for its folder."""

    @property
    def log_dir(self):
        raise OSError("no folder")


def test_a_logger_whose_properties_raise_ends_nothing(tmp_path):
    with pytest.warns(UserWarning, match="OSError: no folder") as caught:
        fit_beside(tmp_path, TinyClassifier, callback(), logger=NoFolder())
    assert len(texts(caught, "OSError: no folder")) == 1


class Draws(Bare):
    """Moves on whatever it can reach in a process."""

    def take(self, key):
        torch.rand(3), np.random.rand(), random.random()
        torch.manual_seed(0)
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float64)
        torch.set_autocast_enabled("cpu", True)
        torch.use_deterministic_algorithms(not torch.are_deterministic_algorithms_enabled())


class DrawsToo(Output):
    """Does the same as an output."""

    def __call__(self, look):
        Draws().take("")
        return Logged()

    def end(self, loggers):
        Draws().take("")
        return Logged()


def test_a_logger_that_draws_random_numbers_and_switches_modes_changes_nothing(tmp_path):
    fit_beside(tmp_path, TinyClassifier, callback(history=False), logger=Draws())


def test_an_output_that_draws_random_numbers_and_switches_modes_changes_nothing(tmp_path):
    fit_beside(tmp_path, TinyClassifier, callback(outputs=[DrawsToo()]))
    assert sheets(tmp_path / "with") == PICTURES


def draws_labels(batch):
    Draws().take("")
    return batch[1]


def test_a_function_of_the_users_that_draws_random_numbers_changes_nothing(tmp_path):
    samples = Samples(num=SHOWN, labels=draws_labels, objects=lambda batch: Draws().take("") or torch.ones(8, 16, 16))
    fit_beside(tmp_path, TinyClassifier, callback(samples=samples))


class Folder(Logger):
    """Has a folder, into which it writes nothing itself."""

    name, version = "folder", 0

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    @property
    def log_dir(self):
        return str(self.folder)

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass


class FullDisk(L.Callback):
    """Fills the disk before the looks of some epochs, and frees it after: no file can grow."""

    def __init__(self, epochs):
        self.epochs, self.limits = epochs, resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_validation_start(self, trainer, pl_module, *args):
        if trainer.current_epoch in self.epochs:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, self.limits[1]))

    def on_validation_end(self, trainer, pl_module, *args):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)

    on_train_batch_start, on_train_batch_end = on_validation_start, on_validation_end
    on_exception = on_validation_end


@pytest.mark.filterwarnings("default:.* takes no pictures, so they are files")
@pytest.mark.parametrize(("epochs", "recorded"), [([1], [None, 0, 2, 3]), ([0, 1], [2, 3])])
def test_a_disk_that_fills_and_is_freed_loses_the_looks_in_between_alone(tmp_path, epochs, recorded):
    runner = trainer(tmp_path, callback(), FullDisk(epochs), logger=Folder(tmp_path), max_epochs=4)
    with pytest.warns(UserWarning, match="OSError.*File too large") as caught:
        runner.fit(TinyClassifier(), loader(), loader())
    assert len(texts(caught, "File too large")) <= 4  # of the samples, the looks and the pictures
    record = load_record(tmp_path)
    assert record.epochs == recorded
    assert record.problems == {}
    pictures = [path.name for path in sorted((tmp_path / "saliency/cam").glob("*.png")) if path.stat().st_size]
    assert pictures == [f"step={2 + 3 * epoch if epoch is not None else 0:07d}.png" for epoch in recorded]
    assert runner.global_step == 12


class Gone(L.Callback):
    """Deletes the run's folder after the first epoch."""

    def __init__(self, folder):
        self.folder = folder

    def on_validation_end(self, trainer, pl_module):
        if trainer.current_epoch == 0 and not trainer.sanity_checking:
            shutil.rmtree(self.folder)


def test_a_log_folder_that_vanishes_is_made_again(tmp_path):
    folder = tmp_path / "run"
    runner = trainer(tmp_path, callback(), Gone(folder), logger=Folder(folder), max_epochs=4)
    runner.fit(TinyClassifier(), loader(), loader())
    assert load_record(folder).epochs == [1, 2, 3]
    assert len(list((folder / "saliency/cam").glob("*.png"))) == 3


def test_objects_with_fewer_entries_than_samples_change_nothing(tmp_path):
    boxes = torch.tensor([[1.0, 1.0, 5.0, 5.0]])
    with pytest.warns(UserWarning, match="`samples.objects` has 1 entries for 5 samples") as caught:
        fit_beside(tmp_path, TinyClassifier, callback(samples=Samples(num=SHOWN, objects=boxes)))
    assert len(texts(caught, "SaliencyCallback")) == 1
    assert sheets(tmp_path / "with") == PICTURES


class LogsBadly(Output):
    """Returns what is no number, under a name of its own."""

    def __call__(self, look):
        return Logged(scalars={"odd": "many"})


def test_an_output_that_returns_no_number_is_one_warning_and_the_other_numbers_are_logged(tmp_path):
    with pytest.warns(UserWarning, match="could not convert string to float: 'many'") as caught:
        runner = fit_beside(tmp_path, TinyClassifier, callback(outputs=[LogsBadly()]))
    assert len(texts(caught, "'many'")) == 1
    assert "xai_saliency/cam/entropy" in runner.callback_metrics
    assert "xai_saliency/odd" not in runner.callback_metrics


class LogsTheSame(TinyClassifier):
    """Logs a scalar of ours itself, in another way."""

    def on_validation_epoch_end(self):
        self.log("xai_saliency/seconds", 1.0, prog_bar=True)


class RefusesToLog(TinyClassifier):
    def log(self, name, *args, **kwargs):
        if is_own(name):
            raise ValueError(f"no {name}")
        super().log(name, *args, **kwargs)


@pytest.mark.parametrize("module", [LogsTheSame, RefusesToLog])
@pytest.mark.filterwarnings("default:SaliencyCallback could not show")
def test_a_module_that_lets_us_log_nothing_trains_on(tmp_path, module):
    fit_beside(tmp_path, module, callback())
    assert sheets(tmp_path / "with") == PICTURES
