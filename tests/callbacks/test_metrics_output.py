"""Attention as numbers in a real training: what is logged, of which samples, and who can monitor it."""

import time

import pytest
import torch
from looking import Keeps, images_of
from recipes import Sizes, fit, squares
from tiny import L, TinyClassifier, data, events, first, is_own, loader, trainer
from torch import nn

from lightning_saliency import SaliencyCallback, explain
from lightning_saliency.attribution import ExplainedSamples, HeatmapStage
from lightning_saliency.callbacks import Execution, Metrics, Samples
from lightning_saliency.data import SampleBatch, objects_to_masks
from lightning_saliency.history import load_record
from lightning_saliency.metrics import CoarseHeatmaps, measure, measure_faithfulness, measure_head_randomization

METHODS = ["cam", "saliency"]
ALWAYS = {"entropy", "area_above_half", "blank_fraction", "raw_maximum", "agreement"}
DRIFT = {f"{metric}_{name}" for metric in ("rank_correlation", "center_shift") for name in ("previous", "initial")}
ON_OBJECTS = {"pointing_game", "energy_in_box", "box_iou", "box_accuracy", "max_box_accuracy"}
FAITHFULNESS = {"average_drop", "increase_in_confidence", "deletion", "insertion"}
BOXES = squares(data()[:])


def callback(methods=METHODS, **options) -> SaliencyCallback:
    defaults = {
        "samples": first(4),
        "history": False,
        "metrics": Metrics("all"),
        "execution": Execution(on_error="raise"),
    }
    return SaliencyCallback(methods, **(defaults | options))


def with_objects(num: int = 4, objects=squares) -> Samples:
    return first(num, objects=objects)


def logged(metrics, suffix="") -> set[str]:
    """The metrics of CAM."""
    own = {
        name.removesuffix(suffix) for name in metrics if name.startswith("xai_saliency/cam/") and name.endswith(suffix)
    }
    return {name.removeprefix("xai_saliency/cam/") for name in own}


def by_hand(model, num: int, masks=None, **options) -> ExplainedSamples:
    """The first samples, explained without a callback."""
    images, labels = data()[:num]
    explanation = explain(model, images, methods=METHODS, target=labels, **options)
    samples = SampleBatch(explanation.call, tuple(labels.tolist()), tuple(range(num)), masks)
    return ExplainedSamples(samples, explanation, HeatmapStage(explanation))


def measured(group: ExplainedSamples, **earlier) -> dict[str, float]:
    return measure([group], [CoarseHeatmaps.from_samples(group)], **earlier)


def check(runner, expected: dict[str, float]):
    """The last scalars are these, but for the order in which floats were added."""
    assert expected
    for name, value in expected.items():
        assert float(runner.callback_metrics[f"xai_saliency/{name}"]) == pytest.approx(value, abs=1e-5), name


def test_each_epoch_has_its_numbers_and_the_last_are_those_of_the_trained_model(tmp_path):
    runner, model = fit(tmp_path, callback(history=True), max_epochs=3)
    assert logged(runner.callback_metrics) == ALWAYS | DRIFT
    check(runner, measured(by_hand(model, 4)))
    scalars = events(tmp_path)
    for metric in ALWAYS | DRIFT:
        assert [event.step for event in scalars.Scalars(f"xai_saliency/cam/{metric}")] == [2, 5, 8], metric
    assert "cam/rank_correlation_previous" not in load_record(tmp_path)[0].scalars


def test_drift_is_measured_from_the_last_look_and_from_the_initial_network(tmp_path):
    seen = []

    class Explains(L.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            seen.append(by_hand(pl_module, 4))

    runner, _ = fit(tmp_path, Explains(), callback(), max_epochs=3)
    initial, _, previous, last = seen
    earlier = {
        "previous": [CoarseHeatmaps.from_samples(previous)],
        "initial": [CoarseHeatmaps.from_samples(initial)],
    }
    drift = {name: value for name, value in measured(last, **earlier).items() if name.partition("/")[2] in DRIFT}
    assert len(drift) == 8
    check(runner, drift)
    assert drift["saliency/rank_correlation_initial"] < drift["saliency/rank_correlation_previous"]


def test_without_sanity_checking_drift_is_there_from_the_first_epoch_on(tmp_path):
    runner, _ = fit(tmp_path, callback(), max_epochs=2, num_sanity_val_steps=0)
    assert logged(runner.callback_metrics) == ALWAYS | DRIFT
    scalars = events(tmp_path)
    for metric in ("entropy", "rank_correlation_previous", "rank_correlation_initial"):
        assert [event.step for event in scalars.Scalars(f"xai_saliency/cam/{metric}")] == [2, 5], metric
    of_epoch_0 = [
        scalars.Scalars(f"xai_saliency/cam/rank_correlation_{other}")[0].value for other in ("previous", "initial")
    ]
    assert of_epoch_0[0] == of_epoch_0[1]  # the look before it is that of the initial network


def test_without_the_initial_network_drift_is_there_from_the_second_epoch_on(tmp_path):
    ours = callback(execution=Execution(on_error="raise", log_initial=False))
    runner, _ = fit(tmp_path, ours, max_epochs=2, num_sanity_val_steps=0)
    assert logged(runner.callback_metrics) == ALWAYS | {name for name in DRIFT if name.endswith("previous")}
    assert len(events(tmp_path).Scalars("xai_saliency/cam/rank_correlation_previous")) == 1
    assert len(events(tmp_path).Scalars("xai_saliency/cam/entropy")) == 2


def test_samples_of_several_sizes_are_measured_together(tmp_path):
    runner, _ = fit(tmp_path, callback(samples=6), val=loader(Sizes(), batch_size=1), max_epochs=2)
    assert logged(runner.callback_metrics) == ALWAYS | DRIFT
    assert all(bool(value.isfinite()) for value in runner.callback_metrics.values())


@pytest.mark.parametrize(
    "objects",
    [
        squares,
        lambda batch: [box[None] for box in squares(batch)],
        lambda batch: objects_to_masks(squares(batch), len(batch[0]), (16, 16))[:, 0],
        BOXES[:4],
        list(BOXES[:4, None]),
    ],
    ids=["boxes", "lists of boxes", "masks", "given", "given as a list"],
)
def test_objects_are_taken_from_the_batch_or_given(tmp_path, objects):
    runner, model = fit(tmp_path, callback(samples=with_objects(objects=objects)), max_epochs=1)
    assert logged(runner.callback_metrics) == ALWAYS | DRIFT | ON_OBJECTS
    check(runner, measured(by_hand(model, 4, objects_to_masks(BOXES[:4], 4, (16, 16)))))


def test_objects_of_given_samples(tmp_path):
    images, labels = data()[10:13]
    given = Samples(images=(images, labels), objects=squares((images, labels)))
    runner, model = fit(tmp_path, callback(samples=given), max_epochs=1)
    explanation = explain(model, images, methods=METHODS, target=labels)
    masks = objects_to_masks(squares((images, labels)), 3, (16, 16))
    samples = SampleBatch(explanation.call, tuple(labels.tolist()), (0, 1, 2), masks)
    check(runner, measured(ExplainedSamples(samples, explanation, HeatmapStage(explanation))))


def test_a_resumed_run_whose_checkpoint_knows_no_objects_finds_them(tmp_path):
    plain, _ = fit(tmp_path / "plain", callback())
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    ours = callback(samples=with_objects())
    resumed, _ = fit(tmp_path / "more", ours, max_epochs=3, ckpt_path=str(tmp_path / "plain.ckpt"))
    assert logged(resumed.callback_metrics) == ALWAYS | DRIFT | ON_OBJECTS


def test_the_first_samples_of_the_stream_are_measured_in_place_of_the_shown_ones(tmp_path):
    ours = callback(samples=with_objects(2), metrics=Metrics("all", samples=21), history=True)
    runner, model = fit(tmp_path, ours, max_epochs=2)
    check(runner, measured(by_hand(model, 21, objects_to_masks(BOXES[:21], 21, (16, 16)), chunk_size=5)))
    assert load_record(tmp_path)[-1].positions == (0, 1)


def test_evaluation_logs_them_too(tmp_path):
    model = TinyClassifier()
    ours = callback(samples=with_objects(), metrics=Metrics("all", faithfulness=True))
    (validated,) = trainer(tmp_path, ours).validate(model, loader(), verbose=False)
    assert logged(validated) == ALWAYS | ON_OBJECTS | FAITHFULNESS
    expected = measured(by_hand(model, 4))
    assert validated["xai_saliency/cam/entropy"] == pytest.approx(expected["cam/entropy"], abs=1e-5)
    (tested,) = trainer(tmp_path, ours).test(model, loader(), verbose=False)
    assert logged(tested, "/test") == logged(validated)
    assert not [name for name in tested if is_own(name) and not name.endswith("/test")]


def test_faithfulness_is_that_of_the_maps(tmp_path):
    runner, model = fit(tmp_path, callback(metrics=Metrics("all", faithfulness=True)), max_epochs=1)
    expected = measure_faithfulness(model, by_hand(model, 4).explanation)
    assert set(expected) == set(METHODS)
    check(
        runner,
        {
            f"{method}/{metric}": float(values.float().mean())
            for method, by_metric in expected.items()
            for metric, values in by_metric.items()
        },
    )
    assert set(expected["cam"]) == FAITHFULNESS


class ClassBlind(TinyClassifier):
    """Its backbone is frozen, so that a method that sees no class sees nothing that is learned."""

    def __init__(self):
        torch.manual_seed(5)  # not those of whichever test ran before
        super().__init__()
        self.backbone.requires_grad_(False)
        self.backbone[1] = nn.Identity()


def test_randomization_is_measured_every_so_many_epochs_and_says_which_maps_do_not_see_the_network(tmp_path):
    methods = ["eigen_cam", "cam"]
    ours = callback(methods, metrics=Metrics(randomization_every_n_epochs=2))
    with pytest.warns(UserWarning, match="eigen_cam: the map looks the same") as caught:
        _, model = fit(tmp_path, ours, model=ClassBlind(), max_epochs=5)
    texts = [str(warning.message) for warning in caught if "looks the same" in str(warning.message)]
    assert len(texts) == 2
    assert [text for text in texts if "of the initial network" in text]
    assert [text for text in texts if "with a randomized head" in text]
    assert not [text for text in texts if text.startswith("cam")]
    scalars = events(tmp_path).Scalars("xai_saliency/eigen_cam/rank_correlation_random_head")
    assert [event.step for event in scalars] == [5, 11]
    assert [event.value for event in scalars] == pytest.approx([1.0, 1.0])
    images, labels = data()[:4]
    explanation = explain(model, images, methods=methods, target=labels)
    assert float(measure_head_randomization(model, explanation)["cam"].nanmean()) < 0.9


def test_maps_that_only_resemble_those_with_a_randomized_head_are_named_too(tmp_path):
    model = ClassBlind()
    with torch.no_grad():
        model.head.linear.weight.uniform_(0, 1)  # whatever their order, a positive mixture of the same maps
    ours = callback(["cam"], metrics=Metrics(randomization_every_n_epochs=1))
    with pytest.warns(UserWarning, match="cam: the map looks the same") as caught:
        fit(tmp_path, ours, model=model, max_epochs=1)
    assert any("with a randomized head, or much like it" in str(warning.message) for warning in caught)
    (event,) = events(tmp_path).Scalars("xai_saliency/cam/rank_correlation_random_head")
    assert 0.6 < event.value < 0.9


def test_stopping_and_saving_can_go_by_them(tmp_path):
    stopping = L.callbacks.EarlyStopping(
        "xai_saliency/cam/energy_in_box",
        mode="max",
        divergence_threshold=1.1,
        check_on_train_epoch_end=False,
        strict=True,
    )  # which no fraction can reach: it stops at once
    saving = L.callbacks.ModelCheckpoint(tmp_path / "best", monitor="xai_saliency/saliency/rank_correlation_previous")
    ours = callback(samples=with_objects())
    runner, _ = fit(tmp_path, ours, stopping, saving, max_epochs=9, enable_checkpointing=True)
    assert runner.current_epoch == 1
    assert stopping.stopped_epoch == 0
    assert saving.best_model_score is not None


class Dead(TinyClassifier):
    """Its maps are blank from the first step on."""

    def on_train_batch_end(self, *_):
        nn.init.zeros_(self.head.linear.weight)


def test_maps_that_have_died_are_numbers_too_and_end_no_training(tmp_path):
    stopping = L.callbacks.EarlyStopping(
        "xai_saliency/cam/entropy", patience=99, check_on_train_epoch_end=False, strict=True
    )
    ours = callback(samples=with_objects(), metrics=Metrics("all", faithfulness=True))
    runner, _ = fit(tmp_path, ours, stopping, model=Dead(), max_epochs=3)
    assert runner.global_step == 9
    assert float(runner.callback_metrics["xai_saliency/cam/blank_fraction"]) == 1
    assert float(runner.callback_metrics["xai_saliency/cam/raw_maximum"]) == 0
    assert all(bool(value.isfinite()) for value in runner.callback_metrics.values())


def test_a_time_budget_thins_what_is_measured(tmp_path):
    counted = []

    class Slow(TinyClassifier):
        def forward(self, images):
            if not self.training and len(images) != 8:  # not those of validation
                counted.append(len(images))
                time.sleep(0.01 * len(images))
            return super().forward(images)

    ours = callback(metrics=Metrics(samples=20), execution=Execution(on_error="raise", max_fraction=0.3))
    with pytest.warns(UserWarning, match="would take more than 30%"):
        fit(tmp_path, ours, model=Slow(), max_epochs=6)
    assert max(counted) == 20
    assert max(counted[-2:]) < 10


@pytest.mark.parametrize(
    ("objects", "text"),
    [
        (
            lambda batch: batch[1],
            r"`objects` to be, for 8 images of 16×16, boxes \(8, 4\).*got a tensor of shape \(8,\)",
        ),
        (lambda batch: squares(batch)[:3], r"boxes \(8, 4\).*shape \(3, 4\)"),
        (torch.ones(4, 9, 9), r"`objects` to be, for 1 images of 16×16, boxes.*got a tensor of shape \(1, 9, 9\)"),
    ],
)
def test_objects_that_do_not_fit_are_named_before_the_training(tmp_path, objects, text):
    runner = trainer(tmp_path, callback(samples=with_objects(objects=objects)))
    with pytest.raises(ValueError, match=text):
        runner.fit(TinyClassifier(), loader(), loader())
    assert runner.global_step == 0


def test_a_list_of_which_one_entry_is_no_boxes_is_refused_when_it_is_made():
    with pytest.raises(TypeError, match=r"`samples\.objects` to be .*a list of tensors of boxes \(k, 4\).*got a list"):
        with_objects(objects=[BOXES, BOXES, BOXES[0], BOXES])


def test_samples_without_an_entry_have_no_object_and_that_is_said_once(tmp_path):
    keeps = Keeps()
    ours = callback(samples=with_objects(objects=BOXES[:2]), outputs=[keeps])
    with pytest.warns(UserWarning, match=r"`samples\.objects` has 2 entries for 4 samples") as caught:
        fit(tmp_path, ours, max_epochs=2)
    assert sum("2 entries" in str(warning.message) for warning in caught) == 1
    masks = [sample.mask.any().item() for sample in keeps.looks[-1].samples.samples]
    assert masks == [True, True, False, False]
    assert events(tmp_path).Scalars("xai_saliency/cam/pointing_game")


def test_masks_follow_the_samples_that_are_chosen(tmp_path):
    keeps = Keeps()
    fit(tmp_path, callback(samples=Samples(positions=[13, 2], objects=squares), outputs=[keeps]), max_epochs=1)
    assert torch.equal(images_of(keeps.looks[-1]), data()[[13, 2]][0])
    masks = torch.stack([sample.mask for sample in keeps.looks[-1].samples.samples])
    assert torch.equal(masks, objects_to_masks(BOXES[[13, 2]], 2, (16, 16)))
