"""What is logged where the user sets little: few cards and few scalars, in an order that one reads."""

import re

import pytest
import torch
import torch.nn.functional as F
from recipes import fit, squares
from tiny import L, TinyClassifier, events, loader, sheets, trainer

from lightning_saliency import SaliencyCallback, load_record
from lightning_saliency.attribution import METHODS as ALL
from lightning_saliency.callbacks import Execution, Metrics, Samples, Style
from lightning_saliency.metrics import METRICS
from lightning_saliency.visualization import ALL_METHODS

EarlyStopping, ModelCheckpoint = L.callbacks.EarlyStopping, L.callbacks.ModelCheckpoint
METHODS = ["grad_cam", "saliency"]
PLAIN, GROUPED = "saliency_grad_cam_entropy", "xai_saliency/grad_cam/entropy"


def callback(methods=METHODS, **options) -> SaliencyCallback:
    defaults = {"samples": 4, "execution": Execution(on_error="raise")}
    return SaliencyCallback(methods, **(defaults | options))


def scalars(folder) -> set[str]:
    """The scalars of the callback."""
    return {tag for tag in events(folder).Tags()["scalars"] if tag.startswith("xai_")}


def test_there_are_three_cards_and_that_of_all_methods_comes_first(tmp_path):
    fit(tmp_path, callback(["grad_cam", "grad_cam_plus_plus", "saliency"]))
    tags = events(tmp_path).Tags()["images"]
    assert sorted(tags) == ["saliency/Overview", "saliency/grad_cam/animation", "saliency/grad_cam/filmstrip"]


def test_the_cards_of_no_options_at_all_are_three(tmp_path):
    fit(tmp_path, SaliencyCallback())
    assert len(events(tmp_path).Tags()["images"]) == 3
    assert sheets(tmp_path) == {f"saliency/{ALL_METHODS}"}
    assert 1 <= len(scalars(tmp_path)) <= 4


def test_of_one_method_its_sheet_takes_the_place_of_that_of_all(tmp_path):
    fit(tmp_path, callback("grad_cam"))
    tags = events(tmp_path).Tags()["images"]
    assert sorted(tags) == ["saliency/grad_cam", "saliency/grad_cam/animation", "saliency/grad_cam/filmstrip"]


def test_all_cards_are_those_of_each_method_together_after_that_of_all_methods(tmp_path):
    fit(tmp_path, callback(style=Style(cards="all")))
    own = [f"saliency/{method}{card}" for method in METHODS for card in ("", "/animation", "/filmstrip")]
    assert sorted(events(tmp_path).Tags()["images"]) == ["saliency/Overview", *own]
    few, each = load_record(tmp_path)[-1].attributions, METHODS
    assert list(few) == each  # what is kept does not depend on what is drawn


def test_the_tag_of_all_methods_is_sorted_before_each_methods():
    assert [method for method in ALL if method < ALL_METHODS] == []


def test_the_record_holds_each_method_though_few_are_drawn(tmp_path):
    fit(tmp_path, callback())
    assert list(load_record(tmp_path)[-1].attributions) == METHODS


class LogsMuch(TinyClassifier):
    """Logs under the names that people use."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        logits = self(batch[0])
        self.log("val/acc", (logits.argmax(1) == batch[1]).float().mean())
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.log("validation/f1", 0.5)
        self.log("test", 0.5)


def test_the_scalars_are_few_and_their_group_is_sorted_last(tmp_path):
    fit(tmp_path, callback(samples=Samples(num=4, objects=squares)), model=LogsMuch())
    tags = events(tmp_path).Tags()["scalars"]
    own = {
        "xai_saliency/grad_cam/entropy",
        "xai_saliency/grad_cam/rank_correlation_initial",
        "xai_saliency/grad_cam/energy_in_box",
        "xai_saliency/seconds",
    }
    assert scalars(tmp_path) == own
    assert sorted(tags)[-len(own) :] == sorted(own)
    assert {"train_loss", "val/acc", "validation/f1", "test"} <= set(tags)
    fit(tmp_path / "plain", callback())
    assert scalars(tmp_path / "plain") == own - {"xai_saliency/grad_cam/energy_in_box"}


def test_all_scalars_are_those_of_each_row_and_method(tmp_path):
    fit(tmp_path, callback(metrics=Metrics("all")))
    own = {tag.removeprefix("xai_saliency/") for tag in scalars(tmp_path)} - {"seconds"}
    expected = {"entropy", "area_above_half", "blank_fraction", "raw_maximum", "agreement"}
    expected |= {f"{name}_{of}" for name in ("rank_correlation", "center_shift") for of in ("previous", "initial")}
    assert own == {f"{method}/{metric}" for method in METHODS for metric in expected}


@pytest.mark.parametrize("names", ["blank_fraction", ["blank_fraction"], ("blank_fraction", "raw_maximum")])
def test_scalars_that_are_named_are_those_of_each_method(tmp_path, names):
    fit(tmp_path, callback(metrics=Metrics(names)))
    named = [names] if isinstance(names, str) else names
    expected = {f"xai_saliency/{method}/{name}" for method in METHODS for name in named}
    assert scalars(tmp_path) == expected | {"xai_saliency/seconds"}


def test_what_is_asked_for_by_an_option_of_its_own_is_logged_too(tmp_path):
    fit(tmp_path, callback(metrics=Metrics(faithfulness=True, randomization_every_n_epochs=1)))
    asked = {"average_drop", "increase_in_confidence", "deletion", "insertion", "rank_correlation_random_head"}
    found = {tag.rpartition("/")[2] for tag in scalars(tmp_path)}
    assert found == asked | {"entropy", "rank_correlation_initial", "seconds"}


def test_in_validate_the_table_has_few_rows(tmp_path):
    (logged,) = trainer(tmp_path, callback()).validate(TinyClassifier(), loader(), verbose=False)
    assert set(logged) == {"val_loss", "xai_saliency/grad_cam/entropy"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("entropi", r"`metrics\.names` to be one of few, all, .*entropy.*, got 'entropi'"),
        (["entropy", "entropi"], r"`metrics\.names\[1\]` to be one of .*entropy.*, got 'entropi'"),
        ([], r"`metrics\.names`"),
        ("", r"`metrics\.names` to be one of few, all"),
    ],
)
def test_a_wrong_name_of_a_metric_is_named(names, message):
    with pytest.raises(ValueError, match=message):
        Metrics(names)


def test_a_checkpoint_that_formats_a_scalar_is_a_file_and_no_folder(tmp_path):
    saves = ModelCheckpoint(
        tmp_path / "ckpt", filename="{epoch}-{saliency_grad_cam_entropy:.2f}", monitor=PLAIN, mode="min", save_top_k=-1
    )
    runner, _ = fit(tmp_path, callback(), saves, enable_checkpointing=True)
    names = sorted(path.name for path in (tmp_path / "ckpt").iterdir())
    assert all((tmp_path / "ckpt" / name).is_file() for name in names)
    values = [event.value for event in events(tmp_path).Scalars(GROUPED)]
    assert names == [f"epoch={epoch}-{PLAIN}={value:.2f}.ckpt" for epoch, value in enumerate(values)]
    assert float(saves.best_model_score) == pytest.approx(min(values))
    assert float(runner.callback_metrics[PLAIN]) == float(runner.callback_metrics[GROUPED])


def test_a_scalar_that_is_only_in_a_file_name_is_logged_too(tmp_path):
    name = "{epoch}-{saliency_saliency_raw_maximum:.3g}"
    saves = ModelCheckpoint(tmp_path / "ckpt", filename=name, monitor="val_loss", save_top_k=-1)
    fit(tmp_path, callback(), saves, enable_checkpointing=True)
    values = [event.value for event in events(tmp_path).Scalars("xai_saliency/saliency/raw_maximum")]
    assert len(values) == 2
    found = sorted(path.name for path in (tmp_path / "ckpt").iterdir())
    assert len(found) == 2
    for epoch, (file, value) in enumerate(zip(found, values, strict=True)):
        match = re.fullmatch(rf"epoch={epoch}-saliency_saliency_raw_maximum=([\d.e+-]+)\.ckpt", file)
        assert float(match[1]) == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize("key", [PLAIN, GROUPED])
def test_a_training_can_stop_by_either_name(tmp_path, key):
    stops = EarlyStopping(key, mode="max", divergence_threshold=1.1, check_on_train_epoch_end=False)
    runner, _ = fit(tmp_path, callback(), stops, max_epochs=9)
    assert runner.current_epoch == 1  # no entropy can reach the threshold: it stops at once
    assert stops.stopped_epoch == 0


@pytest.mark.parametrize("key", ["saliency_saliency_area_above_half", "xai_saliency/saliency/area_above_half"])
def test_what_is_monitored_is_logged_though_it_is_not_among_the_few(tmp_path, key):
    runner, _ = fit(tmp_path, callback(), EarlyStopping(key, patience=9))
    assert scalars(tmp_path) == {
        "xai_saliency/grad_cam/entropy",
        "xai_saliency/grad_cam/rank_correlation_initial",
        "xai_saliency/saliency/area_above_half",
        "xai_saliency/seconds",
    }
    assert 0 <= float(runner.callback_metrics[key]) <= 1


@pytest.mark.parametrize("key", [PLAIN, "saliency_saliency_center_shift_previous", "saliency_seconds"])
def test_by_its_plain_name_the_worst_value_is_found_before_the_first_look(tmp_path, key):
    found = []

    class Sees(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            found.append(float(trainer.callback_metrics[key]))

    fit(tmp_path, callback(every_n_epochs=2), Sees(), EarlyStopping(key, patience=9), max_epochs=1)
    metric = key.removeprefix("saliency_").removeprefix("grad_cam_").removeprefix("saliency_")
    assert found == [METRICS[metric].worst if metric in METRICS else pytest.approx(found[0])]


class Plateau(TinyClassifier):
    """Lowers its learning rate by a scalar of ours, by its plain name."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=100)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": PLAIN}}


def test_a_scheduler_reads_the_plain_name(tmp_path):
    runner, _ = fit(tmp_path, callback(every_n_epochs=2), model=Plateau(), max_epochs=3)
    assert runner.global_step == 9


def test_the_names_of_layers_become_plain_too(tmp_path):
    layers, key = ["backbone.0", "backbone.5"], "saliency_grad_cam_backbone_5_entropy"
    runner, _ = fit(tmp_path, callback("grad_cam", layer=layers), EarlyStopping(key, patience=9))
    grouped = "xai_saliency/grad_cam@backbone.5/entropy"
    assert float(runner.callback_metrics[key]) == float(runner.callback_metrics[grouped])


@pytest.mark.parametrize("key", ["saliency/grad_cam/entropy", "saliency_grad_cam_entropi", "salience_grad_cam_entropy"])
def test_a_misspelled_key_is_lightnings_own_error(tmp_path, key):
    with pytest.raises(RuntimeError, match=f"conditioned on metric `{key}` which is not available"):
        fit(tmp_path, callback(), EarlyStopping(key))
