"""Attention as numbers in a real training: what is logged, of which samples, and who can monitor it."""

import time
import warnings

import pytest
import torch
from test_history import fit
from test_untouched import squares
from tiny import L, TinyClassifier, data, events, loader, trainer
from torch import nn

from lightning_saliency import SaliencyCallback, explain
from lightning_saliency.callbacks import Execution, Metrics
from lightning_saliency.data import objects_to_masks
from lightning_saliency.history import load_record
from lightning_saliency.metrics import Seen, drift, measure

METHODS = ["cam", "saliency"]
ALWAYS = {"entropy", "area_above_half", "blank_fraction", "raw_maximum", "agreement"}
DRIFT = {f"{metric}_{name}" for metric in ("rank_correlation", "center_shift") for name in ("previous", "untrained")}
ON_OBJECTS = {"pointing_game", "energy_in_box", "box_iou", "box_accuracy", "max_box_accuracy"}


def callback(**options):
    return SaliencyCallback(METHODS, **{"num_samples": 4, "on_error": "raise"} | options)


def logged(metrics, suffix=""):
    """The metrics of CAM."""
    own = {name.removesuffix(suffix) for name in metrics if name.startswith("saliency/cam/") and name.endswith(suffix)}
    return {name.removeprefix("saliency/cam/") for name in own}


def by_hand(model, num, **options):
    images, labels = data()[:num]
    return explain(model, images, methods=METHODS, target=labels, **options)


def test_each_epoch_has_its_numbers_and_the_last_are_those_of_the_trained_model(tmp_path):
    runner, model = fit(tmp_path, callback(), max_epochs=3)
    assert logged(runner.callback_metrics) == ALWAYS | DRIFT
    found = by_hand(model, 4)
    for name, value in measure(found, Seen.of(found, range(4))).items():
        assert float(runner.callback_metrics[f"saliency/{name}"]) == pytest.approx(value, abs=1e-5), name
    scalars = events(tmp_path)
    for metric in ALWAYS | DRIFT:
        assert [event.step for event in scalars.Scalars(f"saliency/cam/{metric}")] == [2, 5, 8], metric
    assert "cam/rank_correlation_previous" not in load_record(tmp_path)[0].scalars


def test_drift_is_measured_from_the_last_look_and_from_the_untrained_network(tmp_path):
    seen = []

    class Explains(L.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            seen.append(Seen.of(by_hand(pl_module, 4), range(4)))

    runner, _ = fit(tmp_path, Explains(), callback(), max_epochs=3)
    expected = drift(seen[3], seen[2], "previous") | drift(seen[3], seen[0], "untrained")
    assert len(expected) == 8
    for name, value in expected.items():
        assert float(runner.callback_metrics[f"saliency/{name}"]) == pytest.approx(value, abs=1e-5), name
    assert expected["saliency/rank_correlation_untrained"] < expected["saliency/rank_correlation_previous"]


def test_without_sanity_checking_drift_is_there_from_the_second_epoch_on(tmp_path):
    runner, _ = fit(tmp_path, callback(), max_epochs=2, num_sanity_val_steps=0)
    assert logged(runner.callback_metrics) == ALWAYS | {name for name in DRIFT if name.endswith("previous")}
    assert len(events(tmp_path).Scalars("saliency/cam/rank_correlation_previous")) == 1
    assert len(events(tmp_path).Scalars("saliency/cam/entropy")) == 2


GIVEN = squares(data()[:])


@pytest.mark.parametrize(
    "objects",
    [
        squares,
        lambda batch: [box[None] for box in squares(batch)],
        lambda batch: objects_to_masks(squares(batch), batch[0])[:, 0],
        GIVEN[:4],
        list(GIVEN[:4, None]),
    ],
    ids=["boxes", "lists of boxes", "masks", "given", "given as a list"],
)
def test_objects_are_taken_from_the_batch_or_given(tmp_path, objects):
    runner, model = fit(tmp_path, callback(objects=objects), max_epochs=1)
    assert logged(runner.callback_metrics) == ALWAYS | DRIFT | ON_OBJECTS
    found = by_hand(model, 4)
    expected = measure(found, Seen.of(found, range(4)), objects_to_masks(GIVEN[:4], data()[:4][0]))
    for name, value in expected.items():
        assert float(runner.callback_metrics[f"saliency/{name}"]) == pytest.approx(value, abs=1e-5), name


def test_objects_of_given_samples_and_of_those_of_a_checkpoint(tmp_path):
    images, labels = data()[10:13]
    given = callback(samples=(images, labels), objects=squares((images, labels)))
    runner, model = fit(tmp_path, given, max_epochs=1)
    found = explain(model, images, methods=METHODS, target=labels)
    expected = measure(found, Seen.of(found, range(3)), objects_to_masks(squares((images, labels)), images))
    assert float(runner.callback_metrics["saliency/cam/energy_in_box"]) == pytest.approx(
        expected["cam/energy_in_box"], abs=1e-5
    )

    plain, _ = fit(tmp_path / "plain", callback())
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    resumed, model = fit(
        tmp_path / "more", callback(objects=squares), max_epochs=3, ckpt_path=str(tmp_path / "plain.ckpt")
    )
    assert resumed.callback_metrics.keys() >= {f"saliency/cam/{metric}" for metric in ON_OBJECTS}


def test_the_first_samples_of_the_stream_are_measured_in_place_of_the_shown_ones(tmp_path):
    runner, model = fit(tmp_path, callback(num_samples=2, metrics_samples=21, objects=squares), max_epochs=2)
    found = by_hand(model, 21, chunk_size=5)
    expected = measure(found, Seen.of(found, range(21)), objects_to_masks(GIVEN[:21], data()[:21][0]))
    for name, value in expected.items():
        assert float(runner.callback_metrics[f"saliency/{name}"]) == pytest.approx(value, abs=1e-5), name
    assert load_record(tmp_path)[-1].rows == [0, 1]


def test_evaluation_logs_them_too(tmp_path):
    model = TinyClassifier()
    ours = callback(objects=squares, faithfulness=True)
    (validated,) = trainer(tmp_path, ours).validate(model, loader(), verbose=False)
    assert logged(validated) == ALWAYS | ON_OBJECTS | {
        "average_drop",
        "increase_in_confidence",
        "deletion",
        "insertion",
    }
    found = by_hand(model, 4)
    assert validated["saliency/cam/entropy"] == pytest.approx(
        measure(found, Seen.of(found, range(4)))["cam/entropy"], abs=1e-5
    )
    (tested,) = trainer(tmp_path, ours).test(model, loader(), verbose=False)
    assert logged(tested, "/test") == logged(validated)
    assert not [name for name in tested if name.startswith("saliency") and not name.endswith("/test")]


def test_faithfulness_is_that_of_the_maps(tmp_path):
    runner, model = fit(tmp_path, callback(faithfulness=True), max_epochs=1)
    expected = faithfulness(model, by_hand(model, 4))
    for method in METHODS:
        for metric in ("average_drop", "increase_in_confidence", "deletion", "insertion"):
            value = float(runner.callback_metrics[f"saliency/{method}/{metric}"])
            assert value == pytest.approx(float(expected[method][metric].float().mean()), abs=1e-5), metric


def test_sanity_is_measured_every_so_many_epochs_and_says_which_maps_do_not_see_the_network(tmp_path):
    class ClassBlind(TinyClassifier):
        """Its backbone is frozen, so that a method that sees no class sees nothing that is learned."""

        def __init__(self):
            super().__init__()
            self.backbone.requires_grad_(False)
            self.backbone[1] = nn.Identity()

    ours = SaliencyCallback(
        ["eigen_cam", "cam"],
        samples=4,
        execution=Execution(on_error="raise"),
        metrics=Metrics(randomization_every_n_epochs=2),
    )
    with pytest.warns(UserWarning, match="eigen_cam: the map looks the same") as caught:
        _, model = fit(tmp_path, ours, model=ClassBlind(), max_epochs=5)
    texts = [str(warning.message) for warning in caught if "looks the same" in str(warning.message)]
    assert len(texts) == 2
    assert {text for text in texts if "of the untrained network" in text}
    assert {text for text in texts if "with a randomised head" in text}
    assert not [text for text in texts if text.startswith("cam")]
    scalars = events(tmp_path).Scalars("saliency/eigen_cam/rank_correlation_random_head")
    assert [event.step for event in scalars] == [5, 11]
    assert [event.value for event in scalars] == pytest.approx([1.0, 1.0])
    images, labels = data()[:4]
    found = explain(model, images, methods=["eigen_cam", "cam"], target=labels)
    assert float(head_similarity(model, found)["cam"].nanmean()) < 0.9


def test_stopping_and_saving_can_go_by_them(tmp_path):
    stopping = L.callbacks.EarlyStopping(
        "saliency/cam/energy_in_box", mode="max", divergence_threshold=1.1, check_on_train_epoch_end=False, strict=True
    )  # which no share can reach: it stops at once
    saving = L.callbacks.ModelCheckpoint(tmp_path / "best", monitor="saliency/saliency/rank_correlation_previous")
    runner, _ = fit(tmp_path, callback(objects=squares), stopping, saving, max_epochs=9, enable_checkpointing=True)
    assert runner.current_epoch == 1
    assert stopping.stopped_epoch == 0
    assert saving.best_model_score is not None


class Dead(TinyClassifier):
    """Its maps are blank from the first step on."""

    def on_train_batch_end(self, *_):
        nn.init.zeros_(self.head.linear.weight)


def test_maps_that_have_died_are_numbers_too_and_end_no_training(tmp_path):
    stopping = L.callbacks.EarlyStopping(
        "saliency/cam/entropy", patience=99, check_on_train_epoch_end=False, strict=True
    )
    runner, _ = fit(tmp_path, callback(objects=squares, faithfulness=True), stopping, model=Dead(), max_epochs=3)
    assert runner.global_step == 9
    assert float(runner.callback_metrics["saliency/cam/blank_fraction"]) == 1
    assert float(runner.callback_metrics["saliency/cam/raw_maximum"]) == 0
    assert all(bool(value.isfinite()) for value in runner.callback_metrics.values())


def test_a_time_budget_thins_what_is_measured(tmp_path):
    counted = []

    class Slow(TinyClassifier):
        def forward(self, images):
            if not self.training and len(images) != 8:  # not those of validation
                counted.append(len(images))
                time.sleep(0.01 * len(images))
            return super().forward(images)

    ours = callback(metrics_samples=20, max_fraction=0.3, record=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, ours, model=Slow(), max_epochs=6)
    assert [text for text in map(str, (warning.message for warning in caught)) if "would take more than 30%" in text]
    assert max(counted) == 20
    assert max(counted[-2:]) < 10


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"metrics_samples": 0}, ValueError, "`metrics_samples` to be a positive int, got 0"),
        ({"sanity_every_n_epochs": -1}, ValueError, "`sanity_every_n_epochs` to be a positive int, got -1"),
        ({"animation_every_n_epochs": 1.5}, ValueError, "`animation_every_n_epochs` to be a positive int, got 1.5"),
        ({"metrics_samples": 9, "target": [1, 2, 0, 1]}, ValueError, "`target` not to be one class per sample"),
        ({"faithfulness": True, "target": torch.sum}, ValueError, "`target` to be a class, whose probability"),
        ({"metrics_samples": 9, "objects": GIVEN[:4]}, TypeError, "`objects` to be a function of the batch"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(options, error, text):
    with pytest.raises(error, match=text):
        callback(**options)


@pytest.mark.parametrize(
    ("objects", "text"),
    [
        (
            lambda batch: batch[1],
            r"`objects` to be, for 8 images of 16×16, boxes \(8, 4\).*got a tensor of shape \(8,\)",
        ),
        (lambda batch: squares(batch)[:3], r"boxes \(8, 4\).*shape \(3, 4\)"),
        (GIVEN[:2], "`objects` to hold one entry for each sample, got 2 for the sample 3"),
    ],
)
def test_objects_that_do_not_fit_are_named_before_the_training(tmp_path, objects, text):
    with pytest.raises(ValueError, match=text):
        fit(tmp_path, callback(objects=objects))


def test_masks_follow_the_samples_that_are_chosen(tmp_path):
    ours = callback(samples=[13, 2], objects=squares)
    fit(tmp_path, ours, max_epochs=1)
    kept = ours._batches["validate"].fixed
    assert torch.equal(kept.masks, objects_to_masks(GIVEN[[13, 2]], kept.images))
    assert torch.equal(kept.images, data()[[13, 2]][0])
