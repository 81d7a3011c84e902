"""What monitors a scalar of ours goes on where a look fails, is left out or did not happen yet."""

import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from beside import fit_beside
from looking import Keeps
from tiny import L, TinyClassifier, events, loader, trainer

from lightning_saliency import SaliencyCallback, load_record
from lightning_saliency.callbacks import Execution, Logged, Metrics, Output, Samples
from lightning_saliency.metrics import METRICS

EarlyStopping, ModelCheckpoint = L.callbacks.EarlyStopping, L.callbacks.ModelCheckpoint
SHOWN = 5
KEY = "xai_saliency/cam/entropy"


def callback(methods="cam", **options) -> SaliencyCallback:
    return SaliencyCallback(methods, **({"samples": SHOWN, "history": False} | options))


class Sees(L.Callback):
    """Keeps what a monitor finds at the end of each epoch."""

    def __init__(self, key=KEY):
        self.key, self.values = key, []

    def on_train_epoch_end(self, trainer, pl_module):
        self.values.append(float(trainer.callback_metrics[self.key]))


class Fails(TinyClassifier):
    """Cannot be explained in some epochs."""

    epochs = (0, 1, 2)

    def forward(self, images):
        if len(images) == SHOWN and not self.trainer.sanity_checking and self.trainer.current_epoch in self.epochs:
            raise RuntimeError("not now")
        return super().forward(images)


class FailsAtFirst(Fails):
    epochs = (0,)


class FailsLater(Fails):
    epochs = (1, 2)


class Plateau(TinyClassifier):
    """Lowers its learning rate by a scalar of ours."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=100)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": KEY}}


class PlateauFails(Plateau, Fails):
    pass


def stopping():
    return EarlyStopping(KEY, patience=100)


def fit_monitored(tmp_path, module, *callbacks, ours=None, **options):
    """Fit with ours and with callbacks that monitor it."""
    runner = trainer(tmp_path, ours or callback(), *callbacks, **({"max_epochs": 3} | options))
    runner.fit(module(), loader(), loader())
    return runner


def test_a_stopper_goes_on_where_each_look_fails_and_finds_the_worst_value(tmp_path):
    sees = Sees()
    with pytest.warns(UserWarning, match="RuntimeError: not now"):
        runner = fit_monitored(tmp_path, Fails, sees, stopping())
    assert runner.global_step == 9
    assert sees.values == [METRICS["entropy"].worst] * 3
    assert KEY not in events(tmp_path).Tags()["scalars"]  # nothing is logged that was not measured


def test_the_order_of_the_callbacks_does_not_matter(tmp_path):
    runner = trainer(tmp_path, stopping(), callback(every_n_epochs=2), max_epochs=2)
    runner.fit(TinyClassifier(), loader(), loader())
    assert runner.global_step == 6


@pytest.mark.parametrize("on_train_epoch_end", [True, False])
def test_a_stopper_goes_on_where_looks_are_rare(tmp_path, on_train_epoch_end):
    sees = Sees()
    stops = EarlyStopping(KEY, patience=100, check_on_train_epoch_end=on_train_epoch_end)
    fit_monitored(tmp_path, TinyClassifier, sees, stops, ours=callback(every_n_epochs=2), max_epochs=5)
    worst, first, again, second, last = sees.values
    assert worst == 1
    assert first == again != second == last


def test_the_last_value_is_found_where_a_later_look_fails(tmp_path):
    sees = Sees()
    with pytest.warns(UserWarning, match="RuntimeError: not now"):
        fit_monitored(tmp_path, FailsLater, sees, stopping())
    assert len(set(sees.values)) == 1 != sees.values[0]


def test_a_checkpoint_is_kept_by_a_scalar_that_comes_late(tmp_path):
    keeps = ModelCheckpoint(tmp_path / "ckpt", monitor=KEY, mode="min", save_top_k=1)
    with pytest.warns(UserWarning, match="RuntimeError: not now"):
        fit_monitored(tmp_path, FailsAtFirst, keeps, enable_checkpointing=True)
    assert "epoch=0" not in Path(keeps.best_model_path).name
    assert keeps.best_model_score < 1


@pytest.mark.parametrize("module", [Plateau, PlateauFails])
@pytest.mark.parametrize("options", [{}, {"check_val_every_n_epoch": 2}, {"num_sanity_val_steps": 0}])
@pytest.mark.filterwarnings("default:SaliencyCallback could not show")
def test_a_scheduler_that_reads_it_goes_on(tmp_path, module, options):
    runner = fit_monitored(tmp_path, module, max_epochs=4, **options)
    assert runner.global_step == 12


@pytest.mark.parametrize(
    "key", ["xai_saliency/cam/entropi", "xai_saliency/grad_cam/entropy", "salience/cam/entropy", "cam"]
)
def test_a_misspelled_key_is_lightnings_own_error(tmp_path, key):
    with pytest.raises(RuntimeError, match=f"conditioned on metric `{key}` which is not available"):
        fit_monitored(tmp_path, TinyClassifier, EarlyStopping(key))


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("xai_saliency/cam/energy_in_box", {}),
        ("xai_saliency/cam/deletion", {}),
        ("xai_saliency/cam/agreement", {}),
        ("xai_saliency/cam/rank_correlation_random_head", {}),
        ("xai_saliency/cam/entropy", {"metrics": False}),
    ],
)
def test_a_metric_that_the_options_leave_out_is_lightnings_own_error(tmp_path, key, options):
    with pytest.raises(RuntimeError, match=f"conditioned on metric `{key}` which is not available"):
        fit_monitored(tmp_path, TinyClassifier, EarlyStopping(key), ours=callback(**options))


@pytest.mark.parametrize("metric", METRICS)
def test_each_metric_has_a_worst_value_that_is_found_first(tmp_path, metric):
    sees = Sees(f"xai_saliency/cam/{metric}")
    boxes = Samples(num=SHOWN, objects=lambda batch: torch.tensor([[1.0, 1.0, 5.0, 5.0]]).expand(len(batch[0]), 4))
    ours = callback(
        ["cam", "saliency"],
        samples=boxes,
        every_n_epochs=2,
        metrics=Metrics(faithfulness=True, randomization_every_n_epochs=1),
    )
    fit_monitored(tmp_path, TinyClassifier, sees, EarlyStopping(sees.key), ours=ours, max_epochs=1)
    assert sees.values == [METRICS[metric].worst]
    assert math.isfinite(sees.values[0])


def test_the_maps_of_several_layers_are_found_by_their_names(tmp_path):
    layers = ["backbone.0", "backbone.5"]
    sees = Sees("xai_saliency/grad_cam@backbone.5/entropy")
    ours = SaliencyCallback("grad_cam", layer=layers, samples=SHOWN, every_n_epochs=2)
    fit_monitored(tmp_path, TinyClassifier, sees, EarlyStopping(sees.key), ours=ours, max_epochs=2)
    assert sees.values[0] == 1 != sees.values[1]
    with pytest.raises(RuntimeError, match=r"grad_cam@backbone.4/entropy` which is not available"):
        fit_monitored(
            tmp_path,
            TinyClassifier,
            EarlyStopping("xai_saliency/grad_cam@backbone.4/entropy"),
            ours=SaliencyCallback("grad_cam", layer=layers, samples=SHOWN),
        )


class Brightness(Output):
    """Logs a number of its own, and knows the worst."""

    def worst(self):
        return {"brightness": -1.0}

    def __call__(self, look):
        return Logged(scalars={"brightness": torch.tensor(0.5)})


def test_an_output_of_ones_own_says_its_worst_value(tmp_path):
    sees = Sees("xai_saliency/brightness")
    ours = callback(outputs=[Brightness()], every_n_epochs=2)
    fit_monitored(tmp_path, TinyClassifier, sees, EarlyStopping(sees.key), ours=ours, max_epochs=2)
    assert sees.values == [-1, 0.5]


def test_a_resumed_run_and_a_second_fit_find_the_last_value(tmp_path):
    sees, later, again = Sees(), Sees(), Sees()
    half = fit_monitored(tmp_path, TinyClassifier, sees, stopping(), max_epochs=2, ours=callback(every_n_epochs=2))
    half.save_checkpoint(tmp_path / "half.ckpt")
    rest = trainer(tmp_path, callback(every_n_epochs=2), later, stopping(), max_epochs=3)
    rest.fit(TinyClassifier(), loader(), loader(), ckpt_path=str(tmp_path / "half.ckpt"))
    assert later.values == sees.values[1:] != [1]
    half.callbacks[1:2] = [again]
    half.fit_loop.max_epochs = 3
    half.fit(half.lightning_module, loader(), loader())
    assert again.values == sees.values[1:]


def test_without_a_logger_numbers_are_the_same_and_can_be_monitored(tmp_path):
    metrics = {}
    for name, logger in (("with", {}), ("without", {"logger": False})):
        L.seed_everything(1)
        stops = EarlyStopping("xai_saliency/saliency/entropy", patience=100, check_on_train_epoch_end=False)
        keeps = Keeps()
        ours = SaliencyCallback(samples=4, outputs=[keeps], metrics=Metrics("all"))
        runner = trainer(tmp_path / name, ours, stops, **logger)
        if name == "without":
            with pytest.warns(UserWarning, match="no logger to write pictures to"):
                runner.fit(TinyClassifier(), loader(), loader())
        else:
            runner.fit(TinyClassifier(), loader(), loader())
        metrics[name] = {key: float(value) for key, value in runner.callback_metrics.items() if "seconds" not in key}
        assert [look.is_logged for look in keeps.looks] == [True] * 3
        assert load_record(tmp_path / name).epochs == [None, 0, 1]  # without a logger in the trainer's default folder
    assert metrics["with"] == metrics["without"]
    assert "xai_saliency/saliency/agreement" in metrics["with"]


def test_without_a_logger_training_is_the_same(tmp_path):
    with pytest.warns(UserWarning, match="no logger to write pictures to"):
        fit_beside(tmp_path, TinyClassifier, callback(execution=Execution(audit=True)), logger=False)


class TakesDicts(TinyClassifier):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch["image"]), batch["label"])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx), batch_size=len(batch["label"]))


def with_boxes(items):
    images, labels = (torch.stack(part) for part in zip(*items, strict=True))
    return {"image": images, "label": labels, "boxes": torch.tensor([[1.0, 1.0, 5.0, 5.0]]).expand(len(items), 4)}


def test_the_readmes_example_runs_without_a_logger(tmp_path):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n([^`]*EarlyStopping\([^`]*)```", readme)
    namespace: dict = {}
    exec(code, namespace)
    runner = trainer(tmp_path, *namespace["callbacks"], logger=False, max_epochs=3)
    with pytest.warns(UserWarning, match="no logger to write pictures to"):
        runner.fit(TakesDicts(), loader(collate_fn=with_boxes), loader(collate_fn=with_boxes))
    assert runner.current_epoch == 3
    (stops,) = (one for one in namespace["callbacks"] if isinstance(one, EarlyStopping))
    assert stops.monitor.endswith("grad_cam/energy_in_box") or stops.monitor.endswith("grad_cam_energy_in_box")
    assert 0 < runner.callback_metrics[stops.monitor] < 1
