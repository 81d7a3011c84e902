"""What a run has is kept: through validate and test, a second fit, checkpoints, copies, and other Trainers."""

import copy
import pickle

import pytest
import torch
from beside import texts
from looking import Keeps
from tiny import L, TensorBoardLogger, TinyClassifier, data, events, first, loader, trainer

from lightning_saliency import GradCAMCallback, SaliencyCallback, load_record
from lightning_saliency.callbacks import Execution, Metrics, Samples

pytestmark = pytest.mark.filterwarnings("ignore:.*sampler has shuffling enabled")

DRIFT = "xai_saliency/cam/rank_correlation_initial"
RAISES = Execution(on_error="raise", audit=True)


def callback(methods="cam", **options) -> SaliencyCallback:
    return SaliencyCallback(methods, **({"samples": first(4), "execution": RAISES} | options))


def shuffled():
    return loader(shuffle=True)


def fit(runner, module, *, epochs, val=None, **options) -> None:
    runner.fit_loop.max_epochs = epochs
    runner.fit(module, loader(), val or shuffled(), **options)


def passes(function):
    """A pass of some function of a trainer between two fits."""
    return lambda runner, module: getattr(runner, function)(module, shuffled(), verbose=False)


def another_module(runner, module):
    """A `test` of the best weights, as they are loaded into a module of their own, of another structure."""
    runner.test(OnlyItsPart(), loader(), verbose=False)


class OnlyItsPart(L.LightningModule):
    """Is explained by its part, unlike the one that is trained."""

    def __init__(self):
        super().__init__()
        self.net = TinyClassifier()

    def test_step(self, batch, batch_idx):
        self.net(batch[0])


class Classifier(TinyClassifier):
    def test_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)


BETWEEN = {
    "nothing": lambda runner, module: None,
    "validate": passes("validate"),
    "test": passes("test"),
    "test of another module": another_module,
    "save": lambda runner, module: runner.save_checkpoint(f"{runner.logger.log_dir}/between.ckpt"),
}


@pytest.mark.parametrize("between", BETWEEN.values(), ids=list(BETWEEN))
def test_a_second_fit_goes_on_with_the_first(tmp_path, between):
    L.seed_everything(1)
    keeps = Keeps()
    runner, module = trainer(tmp_path, callback(outputs=[keeps])), Classifier()
    fit(runner, module, epochs=2)
    images = keeps.images
    between(runner, module)
    fit(runner, module, epochs=4)
    assert torch.equal(keeps.images, images)
    record = load_record(tmp_path)
    assert record.epochs == [None, 0, 1, 2, 3]
    assert [DRIFT.removeprefix("xai_saliency/") in look.scalars for look in record] == [False, True, True, True, True]
    # compared with the maps of the look before, and with those of the initial network
    assert len(events(tmp_path).Scalars(DRIFT)) >= 4


@pytest.mark.parametrize("between", list(BETWEEN.values())[1:3], ids=list(BETWEEN)[1:3])
def test_a_checkpoint_after_another_function_holds_the_fit(tmp_path, between):
    L.seed_everything(1)
    first, rest = Keeps(), Keeps()
    runner, module = trainer(tmp_path, callback(outputs=[first])), Classifier()
    fit(runner, module, epochs=2)
    images = first.images
    between(runner, module)
    runner.save_checkpoint(tmp_path / "after.ckpt")
    resumed = trainer(tmp_path, callback(outputs=[rest]))
    fit(resumed, Classifier(), epochs=4, ckpt_path=str(tmp_path / "after.ckpt"))
    assert torch.equal(rest.images, images)
    assert load_record(tmp_path).epochs == [None, 0, 1, 2, 3]
    assert DRIFT in resumed.callback_metrics


def test_validate_and_test_show_the_data_that_they_pass(tmp_path):
    keeps = Keeps()
    runner, module = trainer(tmp_path, callback(outputs=[keeps])), Classifier()
    fit(runner, module, epochs=1)
    for function in ("validate", "test"):
        for start in (8, 16):
            others = torch.utils.data.Subset(data(), range(start, 24))
            getattr(runner, function)(module, loader(others), verbose=False)
            assert torch.equal(keeps.images, data()[start : start + 4][0])


def test_a_fit_of_another_module_or_trainer_begins_anew(tmp_path):
    keeps = Keeps()
    execution = Execution(on_error="raise", audit=True, log_initial=False)  # whose maps would be of the new run
    ours = callback(outputs=[keeps], metrics=True, execution=execution)
    runner = trainer(tmp_path / "one", ours)
    fit(runner, TinyClassifier(), epochs=1, val=loader())
    gray = data(channels=1)
    runner.fit_loop.max_epochs = 2
    runner.fit(TinyClassifier(1), loader(gray), loader(gray))
    assert torch.equal(keeps.images, gray[:4][0])
    other = trainer(tmp_path / "two", ours, num_sanity_val_steps=0)
    fit(other, TinyClassifier(), epochs=1, val=loader())
    assert torch.equal(keeps.images, data()[:4][0])
    assert DRIFT not in other.callback_metrics
    assert load_record(tmp_path / "two").epochs == [0]


def test_two_trainers_one_after_the_other_have_each_their_own_run(tmp_path):
    ours = callback()
    for name in ("one", "two"):
        runner = trainer(tmp_path / name, ours)
        fit(runner, Classifier(), epochs=2, val=loader())
        runner.test(runner.lightning_module, loader(), verbose=False)
        assert load_record(tmp_path / name).epochs == [None, 0, 1]
        assert DRIFT in events(tmp_path / name).Tags()["scalars"]


def checkpoint(tmp_path, *callbacks, epochs=2, **options):
    """The path of a checkpoint after a fit."""
    runner = trainer(tmp_path / "half", *callbacks, **options)
    fit(runner, TinyClassifier(), epochs=epochs, val=loader())
    runner.save_checkpoint(tmp_path / "half.ckpt")
    return str(tmp_path / "half.ckpt")


def test_a_checkpoint_is_read_with_weights_only(tmp_path):
    saved = torch.load(checkpoint(tmp_path, callback(METHODS)), weights_only=True)
    (state,) = saved["lightning_saliency"].values()
    assert len(state["samples"]["samples"]) == 4
    assert state["scalars"].keys() >= {"cam/entropy", "seconds"}


METHODS = ["cam", "saliency"]


@pytest.mark.filterwarnings("error:Be aware that when using `ckpt_path`")
def test_a_checkpoint_with_the_callback_loads_without_it_and_the_other_way(tmp_path):
    path = checkpoint(tmp_path, callback(METHODS))
    runner = trainer(tmp_path / "without")
    fit(runner, TinyClassifier(), epochs=3, ckpt_path=path)
    assert runner.global_step == 9
    runner.save_checkpoint(tmp_path / "without.ckpt")
    with_it = trainer(tmp_path / "with", callback(METHODS))
    fit(with_it, TinyClassifier(), epochs=4, ckpt_path=str(tmp_path / "without.ckpt"))
    assert load_record(tmp_path / "with").epochs == [3]
    assert DRIFT not in with_it.callback_metrics  # from no look that was seen


def test_a_checkpoint_with_fewer_outputs_or_other_methods_loads(tmp_path):
    path = checkpoint(tmp_path, callback("cam", metrics=False, history=False))
    runner = trainer(tmp_path / "rest", callback(METHODS))
    fit(runner, TinyClassifier(), epochs=3, ckpt_path=path)
    assert load_record(tmp_path / "rest").epochs == [2]


class MidEpoch(L.Callback):
    """Saves a checkpoint after the first validation of the second epoch, and gives up."""

    def __init__(self, path):
        self.path = path

    def on_validation_end(self, trainer, pl_module):
        if trainer.global_step == 4:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


@pytest.mark.filterwarnings("default:You're resuming from a checkpoint that ended before the epoch")
def test_a_run_that_is_resumed_in_mid_epoch_has_each_look_once(tmp_path):
    L.seed_everything(1)
    keeps, rest = Keeps(), Keeps()
    options = {"val_check_interval": 1, "max_epochs": 3}
    runner = trainer(tmp_path, callback(outputs=[keeps]), MidEpoch(tmp_path / "mid.ckpt"), **options)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        runner.fit(TinyClassifier(), loader(), shuffled())
    resumed = trainer(tmp_path, callback(outputs=[rest]), **options)
    resumed.fit(TinyClassifier(), loader(), shuffled(), ckpt_path=str(tmp_path / "mid.ckpt"))
    assert torch.equal(rest.images, keeps.images)
    record = load_record(tmp_path)
    assert record.steps == [0, *range(9)]
    assert record.epochs == [None, 0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("epochs", [2, 3, 4])
def test_a_resumed_run_looks_in_the_same_epochs(tmp_path, epochs):
    whole = trainer(tmp_path / "whole", callback(every_n_epochs=3), max_epochs=8)
    fit(whole, TinyClassifier(), epochs=8, val=loader())
    path = checkpoint(tmp_path, callback(every_n_epochs=3), epochs=epochs)
    rest = trainer(tmp_path / "half", callback(every_n_epochs=3))
    fit(rest, TinyClassifier(), epochs=8, val=loader(), ckpt_path=path)
    assert load_record(tmp_path / "half").epochs == load_record(tmp_path / "whole").epochs == [None, 2, 5]


def test_a_resumed_run_goes_on_in_another_version_folder(tmp_path):
    path = checkpoint(tmp_path, callback(METHODS))
    logger = TensorBoardLogger(tmp_path, name="run")
    runner = trainer(tmp_path, callback(METHODS), logger=logger)
    fit(runner, TinyClassifier(), epochs=3, ckpt_path=path)
    assert load_record(logger.log_dir).epochs == [None, 0, 1, 2]
    assert load_record(tmp_path / "half").epochs == [None, 0, 1]


def test_measured_samples_that_another_order_has_changed_are_not_compared(tmp_path):
    backwards = loader(torch.utils.data.Subset(data(), range(23, -1, -1)))
    measured = {"metrics": Metrics("all", samples=10), "history": False}
    path = checkpoint(tmp_path, callback(**measured))
    same = trainer(tmp_path / "same", callback(**measured))
    fit(same, TinyClassifier(), epochs=3, val=loader(), ckpt_path=path)
    assert DRIFT in same.callback_metrics
    other = trainer(tmp_path / "other", callback(**measured))
    fit(other, TinyClassifier(), epochs=3, val=backwards, ckpt_path=path)
    assert DRIFT not in other.callback_metrics
    assert "xai_saliency/cam/rank_correlation_previous" not in other.callback_metrics
    fit(other, other.lightning_module, epochs=4)
    assert "xai_saliency/cam/rank_correlation_previous" in other.callback_metrics


def test_a_checkpoint_does_not_grow_with_the_samples_that_are_measured(tmp_path):
    sizes = []
    for count in (150, 300):
        ours = callback(metrics=Metrics(samples=count), history=False)
        runner = trainer(tmp_path, ours, max_epochs=1)
        runner.fit(TinyClassifier(), loader(), loader(data(300), batch_size=50))
        runner.save_checkpoint(tmp_path / f"{count}.ckpt")
        sizes.append((tmp_path / f"{count}.ckpt").stat().st_size)
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_a_damaged_state_is_one_warning_and_the_run_begins_anew(tmp_path):
    path = checkpoint(tmp_path, callback())
    saved = torch.load(path, weights_only=True)
    (state,) = saved["lightning_saliency"].values()
    state["samples"] = {"samples": [{"image": 3}]}
    torch.save(saved, path)
    runner = trainer(tmp_path / "rest", callback(execution=Execution()))
    with pytest.warns(UserWarning, match="could not show its pictures") as caught:
        fit(runner, TinyClassifier(), epochs=3, ckpt_path=path)
    assert len(texts(caught, "SaliencyCallback")) == 1
    assert load_record(tmp_path / "rest").epochs == [2]


def test_a_part_that_the_resumed_module_does_not_have_is_found_again(tmp_path):
    path = checkpoint(tmp_path, callback())
    saved = torch.load(path, weights_only=True)
    (state,) = saved["lightning_saliency"].values()
    state["choices"]["part"] = {"name": "no.such.part"}
    torch.save(saved, path)
    runner = trainer(tmp_path / "rest", callback())
    fit(runner, TinyClassifier(), epochs=3, ckpt_path=path)
    assert load_record(tmp_path / "rest").epochs[-1] == 2


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda ours: pickle.loads(pickle.dumps(ours))])
@pytest.mark.parametrize("is_fitted", [False, True])
def test_a_callback_is_copied_and_pickled_also_after_a_fit(tmp_path, copied, is_fitted):
    ours = SaliencyCallback(samples=4, metrics=Metrics(samples=6), execution=RAISES)
    if is_fitted:
        runner = trainer(tmp_path / "original", ours)
        fit(runner, TinyClassifier(), epochs=1)
    also = copied(ours)
    fit(trainer(tmp_path / "copy", also), TinyClassifier(), epochs=1, val=loader())
    assert load_record(tmp_path / "copy").epochs == [None, 0]
    if is_fitted:  # which goes on as if nothing had happened
        fit(runner, runner.lightning_module, epochs=2)
        assert load_record(tmp_path / "original").epochs == [None, 0, 1]


def test_a_second_callback_of_the_same_name_is_refused_by_a_text_of_ours(tmp_path):
    runner = trainer(tmp_path, SaliencyCallback(), SaliencyCallback())
    with pytest.raises(ValueError, match=r"log under different tags, got 'saliency/Overview' twice.*`name=...`"):
        runner.fit(TinyClassifier(), loader(), loader())
    assert runner.global_step == 0


def test_callbacks_that_share_a_name_and_samples_have_each_their_state(tmp_path):
    def both():
        return [callback("cam", outputs=[Keeps()]), callback("saliency", outputs=[Keeps()])]

    path = checkpoint(tmp_path, *both())
    states = torch.load(path, weights_only=True)["lightning_saliency"]
    assert [list(state["outputs"]["metrics"]["initial"][0]["maps"]) for state in states.values()] == [
        ["cam"],
        ["saliency"],
    ]
    runner = trainer(tmp_path / "rest", *both())
    fit(runner, TinyClassifier(), epochs=3, ckpt_path=path)
    for method in METHODS:
        assert f"xai_saliency/{method}/rank_correlation_initial" in runner.callback_metrics
    assert load_record(tmp_path / "rest/saliency.record").epochs == [None, 0, 1, 2]
    assert load_record(tmp_path / "rest/saliency.1.record").epochs == [None, 0, 1, 2]


def test_the_state_key_does_not_depend_on_the_process(tmp_path):
    ours = GradCAMCallback(samples=Samples(positions=[3, 1], dataloader_idx=1), name="early")
    assert ours.checkpoint_key == "early (2, 'spread', [3, 1], 1)"
