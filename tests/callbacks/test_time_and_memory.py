"""What the callback takes: its time, which is logged and can be bounded, and memory, which does not grow."""

import gc
import os
import sys
import threading
import time
from collections import Counter

import pytest
import torch
from tiny import CSVLogger, L, TinyClassifier, data, events, loader, trainer

from lightning_saliency import CAMCallback, GradCAMCallback, SaliencyCallback
from lightning_saliency.callbacks import Execution, Logged, Output
from lightning_saliency.callbacks.budget import Budget

SHOWN = 5  # as many as no batch of the loaders has: so a pass of ours is known by its size


class Sleeps(Output):
    """Takes its time, and may fail after that."""

    def __init__(self, seconds: float, fails: bool = False):
        self.seconds = seconds
        self.fails = fails

    def __call__(self, look):
        time.sleep(self.seconds)
        if self.fails and not look.is_initial:
            raise OSError("full")
        return Logged()


def seconds_logged(folder) -> list[float]:
    return [event.value for event in events(folder).Scalars("xai_saliency/seconds")]


def test_its_seconds_are_logged_and_can_be_monitored(tmp_path):
    stopping = L.callbacks.EarlyStopping(
        "xai_saliency/seconds", patience=100, check_on_train_epoch_end=False, strict=True
    )
    saving = L.callbacks.ModelCheckpoint(tmp_path / "best", monitor="xai_saliency/seconds")
    ours = SaliencyCallback("cam", history=False, outputs=[Sleeps(0.1)])
    runner = trainer(tmp_path, ours, stopping, saving, enable_checkpointing=True)
    runner.fit(TinyClassifier(), loader(), loader())
    seconds = seconds_logged(tmp_path)
    assert len(seconds) == 2
    assert all(0.1 <= value < 30 for value in seconds)
    assert float(saving.best_model_score) == pytest.approx(min(seconds))


def test_the_time_of_what_fails_counts_too(tmp_path):
    ours = SaliencyCallback("cam", history=False, outputs=[Sleeps(0.1, fails=True)])
    with pytest.warns(UserWarning, match="OSError: full"):
        trainer(tmp_path, ours).fit(TinyClassifier(), loader(), loader())
    assert [value >= 0.1 for value in seconds_logged(tmp_path)] == [True, True]


def test_of_callbacks_that_share_a_name_the_time_of_all_is_logged(tmp_path):
    first = CAMCallback(samples=2, history=False, outputs=[Sleeps(0.2)])
    second = GradCAMCallback(samples=3, history=False, every_n_epochs=2, outputs=[Sleeps(0.2)])
    trainer(tmp_path, first, second, num_sanity_val_steps=0).fit(TinyClassifier(), loader(), loader())
    seconds = seconds_logged(tmp_path)
    assert [value >= 0.2 for value in seconds] == [True, True]
    assert seconds[1] >= 0.4


class Slow(TinyClassifier):
    """Each image of ours takes 20 ms, and a training step as long as it is said."""

    def __init__(self, step_seconds: float):
        super().__init__()
        self.step_seconds = step_seconds

    def forward(self, images):
        if not self.training and images.shape[0] <= SHOWN:
            time.sleep(0.02 * len(images))
        return super().forward(images)

    def training_step(self, batch, batch_idx):
        time.sleep(self.step_seconds)
        return super().training_step(batch, batch_idx)


def heights_shown(folder, max_fraction: float, step_seconds: float, epochs: int) -> list[int]:
    """Train, and return the height of each picture."""
    execution = Execution(max_fraction=max_fraction)
    ours = SaliencyCallback("saliency", samples=SHOWN, metrics=False, history=False, execution=execution)
    trainer(folder, ours, max_epochs=epochs).fit(Slow(step_seconds), loader(), loader())
    return [image.height for image in events(folder).Images("saliency/saliency")]


def test_a_callback_within_its_budget_shows_all(tmp_path):
    heights = heights_shown(tmp_path, 1.0, step_seconds=0.5, epochs=2)
    assert len(heights) == 3
    assert max(heights) - min(heights) < 100  # a line of words more or less, and not a row of samples


def test_a_callback_over_its_budget_shows_fewer_samples_then_fewer_epochs_and_says_so_once(tmp_path):
    with pytest.warns(UserWarning, match="would take more than 2% of the time") as caught:
        heights = heights_shown(tmp_path, 0.02, step_seconds=0.02, epochs=9)
    assert sum("would take more than" in str(warning.message) for warning in caught) == 1
    assert 2 <= len(heights) <= 8
    assert heights[-1] < heights[0]


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


def hooks_on(module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def test_objects_and_hooks_are_as_many_after_many_epochs_as_after_few(tmp_path):
    counts = []

    class Counts(L.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch in (20, 199):
                gc.collect()
                kinds = Counter(type(item).__name__ for item in gc.get_objects())
                counts.append((kinds["Tensor"], kinds["Parameter"], kinds["Evidence"], kinds["Image"]))
                counts[-1] += (kinds["Explanation"], kinds["Look"], hooks_on(pl_module))

    small = loader(data(4), batch_size=4)
    ours = SaliencyCallback(["cam", "grad_cam", "saliency"], samples=2)
    trainer(tmp_path, ours, Counts(), max_epochs=200, logger=CSVLogger(tmp_path)).fit(TinyClassifier(), small, small)
    assert len(counts) == 2
    assert counts[0] == counts[1]


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's own count of the memory")
@pytest.mark.parametrize("count", [1000, pytest.param(5000, marks=pytest.mark.nightly)])
def test_many_looks_leave_memory_hooks_threads_files_and_figures_as_they_were(tmp_path, count):
    notes = []

    def note(module):
        gc.collect()
        with open("/proc/self/statm") as statm:
            _, resident, *_, allocated, _ = map(int, statm.read().split())
        pyplot = sys.modules.get("matplotlib.pyplot")
        figures = len(pyplot.get_fignums()) if pyplot else 0
        tensors = sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())
        files = len(os.listdir("/proc/self/fd"))
        notes.append((resident, allocated, tensors, (hooks_on(module), threading.active_count(), files, figures)))

    class Repeats(L.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                for look in range(1, count + 1):
                    ours.on_validation_epoch_end(trainer, pl_module)
                    if look in (count // 5, count):
                        note(pl_module)

    ours = SaliencyCallback(["saliency"], samples=1)
    trainer(tmp_path, ours, Repeats(), max_epochs=1).fit(TinyClassifier(), loader(), loader())
    (early_resident, early_allocated, early_tensors, early), (_, late_allocated, late_tensors, late) = notes
    assert early == late
    assert late_tensors <= early_tensors  # what an earlier test has left may go meanwhile
    # what is allocated, for the system may take resident pages away, and give them back
    assert late_allocated - early_allocated <= 0.01 * early_resident
