"""The scalars of a look, held against the metrics' functions image by image."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny import TinyClassifier, data, explained_samples
from torch import nn

from lightning_saliency import Explanation, explain
from lightning_saliency.attribution import Settings
from lightning_saliency.data import boxes_to_masks, masks_to_boxes, plain_call
from lightning_saliency.evidence import Forward
from lightning_saliency.metrics import (
    METRICS,
    CoarseHeatmaps,
    Metric,
    area_above,
    box_accuracy,
    box_iou,
    center_shift,
    energy_inside,
    entropy,
    heatmaps_to_boxes,
    max_box_accuracy,
    measure,
    pointing_game,
    rank_correlation,
    similarity,
)

OF_EVERY_METHOD = METRICS.keys() - {"prefix_relevance"}


def samples(*maps, side=64, keys=("cam", "saliency"), masks=None, positions=None):
    """Made of raw attributions (N, 1, h, w)."""
    num = len(maps[0])
    size = side if isinstance(side, tuple) else (side, side)
    attributions = dict(zip(keys, maps, strict=False))
    images = torch.zeros(num, 3, *size)
    settings = Settings(Forward(nn.Identity()), {})
    explanation = Explanation(
        settings, plain_call(images), images, torch.zeros(num, 2), torch.zeros(num), None, attributions
    )
    return explained_samples(explanation, range(num) if positions is None else positions, masks=masks)


def looked(*groups):
    return [CoarseHeatmaps.from_samples(group) for group in groups]


def scalars(*groups, **others):
    return measure(groups, looked(*groups), **others)


def random_maps(seed, num=5, side=8):
    return torch.randn(num, 1, side, side, generator=torch.Generator().manual_seed(seed))


def test_what_is_remembered_are_coarse_heatmaps_and_their_ranks():
    group = samples(random_maps(0), random_maps(1), positions=(4, 2, 0, 1, 3))
    found = CoarseHeatmaps.from_samples(group)
    assert found.positions == (4, 2, 0, 1, 3)
    heatmaps = group.heatmaps("max")["cam"].maps
    torch.testing.assert_close(found.maps["cam"], F.avg_pool2d(heatmaps, 2))
    assert found.maps.keys() == found.ranks.keys() == {"cam", "saliency"}
    values = found.maps["saliency"][3].flatten().tolist()
    above = [sum(other < value for other in values) + sum(other == value for other in values) / 2 for value in values]
    assert found.ranks["saliency"][3].tolist() == [number + 0.5 for number in above]


def test_what_is_remembered_survives_a_checkpoint_of_tensors_in_half_precision():
    found = CoarseHeatmaps.from_samples(samples(random_maps(0), random_maps(1), positions=(4, 2, 0, 1, 3)))
    state = found.state_dict()
    assert all(maps.dtype == torch.half for maps in state["maps"].values())
    assert state["positions"].dtype == torch.int64
    again = CoarseHeatmaps.from_state_dict(state)
    assert again.positions == found.positions
    for key, maps in found.maps.items():
        assert again.maps[key].dtype == torch.float32
        torch.testing.assert_close(again.maps[key], maps, atol=1e-3, rtol=0)
        torch.testing.assert_close(rank_correlation(again.maps[key], maps), torch.ones(5), atol=1e-4, rtol=0)
    assert scalars(samples(random_maps(0)), previous=[again])["cam/rank_correlation_previous"] < 1


@pytest.mark.parametrize("num_methods", [1, 2, 3])
def test_the_scalars_are_the_means_of_the_metrics(num_methods):
    raw = dict(zip(["cam", "saliency", "third"], [random_maps(seed) for seed in range(num_methods)], strict=False))
    boxes = torch.tensor([[0, 0, 32, 64], [10, 10, 20, 20], [0, 0, 64, 64], [50, 0, 64, 9], [0, 30, 9, 64]])
    masks = boxes_to_masks(boxes, (64, 64))
    group = samples(*raw.values(), keys=list(raw), masks=masks)
    numbers = scalars(group)
    (seen,) = looked(group)
    for key, maps in raw.items():
        small, heatmaps = seen.maps[key], group.explanation.heatmaps()[key]
        expected = {
            "entropy": entropy(small).mean(),
            "area_above_half": area_above(small, 0.5).mean(),
            "blank_fraction": 0.0,
            "raw_maximum": maps.amax((1, 2, 3)).mean(),
            "pointing_game": pointing_game(heatmaps, masks).float().mean(),
            "energy_in_box": energy_inside(heatmaps, masks).mean(),
            "box_iou": box_iou(heatmaps_to_boxes(heatmaps)[0], masks_to_boxes(masks)).mean(),
            "box_accuracy": box_accuracy(heatmaps, masks_to_boxes(masks)).float().mean(),
            "max_box_accuracy": max_box_accuracy(heatmaps, masks_to_boxes(masks)),
        }
        others = [rank_correlation(small, seen.maps[other]).mean() for other in raw if other != key]
        if others:
            expected["agreement"] = sum(others) / len(others)
        for metric, value in expected.items():
            assert numbers[f"{key}/{metric}"] == pytest.approx(float(value), abs=1e-6), metric
    assert numbers.keys() == {f"{key}/{metric}" for key in raw for metric in expected}
    without = scalars(samples(*raw.values(), keys=list(raw)))
    assert without == {key: value for key, value in numbers.items() if key in without}
    assert len(without) == num_methods * (4 if num_methods == 1 else 5)


def test_the_boxes_of_a_map_that_marks_just_the_object_are_right():
    raw = torch.zeros(2, 1, 64, 64)
    raw[0, 0, 20:40, 10:50] = 3.0
    raw[1, 0, 0:8, 0:8] = 1.0
    boxes = torch.tensor([[10, 20, 50, 40], [32, 32, 64, 64]])
    numbers = scalars(samples(raw, masks=boxes_to_masks(boxes, (64, 64))))
    for metric in ("box_iou", "box_accuracy", "max_box_accuracy", "pointing_game", "energy_in_box"):
        assert numbers[f"cam/{metric}"] == pytest.approx(0.5), metric


def test_images_without_an_object_and_maps_without_a_signal_are_left_out_of_the_means():
    raw = random_maps(0)
    raw[1], raw[2, 0, 0, 0] = -1.0, torch.nan
    boxes = torch.tensor([[0, 0, 32, 64], [0, 0, 64, 64], [0, 0, 64, 64], [0, 0, 0, 0], [5, 5, 30, 60]])
    masks = boxes_to_masks(boxes, (64, 64))
    group = samples(raw, masks=masks)
    numbers = scalars(group)
    (seen,) = looked(group)
    assert numbers["cam/blank_fraction"] == pytest.approx(0.4)
    heatmaps = group.explanation.heatmaps()["cam"]
    inside = energy_inside(heatmaps, masks)
    assert numbers["cam/energy_in_box"] == pytest.approx(float(inside[[0, 4]].mean()), abs=1e-6)
    assert numbers["cam/pointing_game"] == pytest.approx(float(pointing_game(heatmaps, masks)[[0, 1, 2, 4]].sum()) / 4)
    assert numbers["cam/entropy"] == pytest.approx(float(entropy(seen.maps["cam"])[[0, 3, 4]].mean()), abs=1e-6)
    finite = raw.amax((1, 2, 3))[[0, 1, 3, 4]]
    assert numbers["cam/raw_maximum"] == pytest.approx(float(finite.mean()), abs=1e-6)


def test_where_nothing_has_a_value_the_worst_is_logged_since_nan_would_end_a_training():
    masks = boxes_to_masks(torch.tensor([[0, 0, 9, 9]] * 2), (64, 64))
    dead = -torch.ones(2, 1, 4, 4), torch.full((2, 1, 4, 4), torch.nan)
    nothing = {name: torch.tensor([torch.nan, torch.inf]) for name, row in METRICS.items() if not row.inputs}
    group = samples(*dead, masks=masks)
    numbers = scalars(
        group, previous=looked(group), initial=looked(group), measured=[{"cam": nothing, "saliency": nothing}]
    )
    assert numbers.keys() == {f"{key}/{name}" for key in ("cam", "saliency") for name in OF_EVERY_METHOD}
    assert numbers.pop("cam/raw_maximum") == -1
    for name, value in numbers.items():
        assert value == METRICS[name.partition("/")[2]].worst, name
    no_objects = samples(*dead, masks=torch.zeros(2, 1, 64, 64, dtype=torch.bool))
    assert scalars(no_objects).keys() == scalars(samples(*dead)).keys()


def test_what_a_method_notes_of_its_maps_is_a_scalar_where_a_metric_reads_it():
    group = samples(random_maps(0, 3), random_maps(1, 3))
    notes = {
        "cam/prefix_relevance": torch.tensor([0.25, torch.nan, 0.75]),
        "saliency/completeness_error": torch.ones(3),
    }
    numbers = scalars(replace(group, explanation=replace(group.explanation, notes=notes)))
    assert numbers["cam/prefix_relevance"] == 0.5
    assert not any("completeness" in name or name == "saliency/prefix_relevance" for name in numbers)


def test_a_dead_method_agrees_with_none_and_takes_its_part_in_the_agreement_of_the_others():
    one, other = random_maps(0), random_maps(1)
    numbers = scalars(samples(one, other, -torch.ones(5, 1, 4, 4), keys=["cam", "saliency", "dead"]))
    alone = scalars(samples(one, other))
    assert numbers["dead/agreement"] == 0
    assert numbers["cam/agreement"] == pytest.approx(alone["cam/agreement"] / 2)


def test_drift_is_that_of_the_images_that_both_looks_have():
    early, late = (samples(random_maps(seed), keys=["cam"]) for seed in (0, 1))
    (then,), (now,) = looked(early), looked(late)
    part = CoarseHeatmaps.from_maps([3, 9, 1], {"cam": then.maps["cam"][[3, 0, 1]]})
    found = {name: value for name, value in scalars(late, initial=[part]).items() if "initial" in name}
    pair = now.maps["cam"][[1, 3]], then.maps["cam"][[1, 3]]
    assert found == pytest.approx(
        {
            "cam/rank_correlation_initial": float(rank_correlation(*pair).mean()),
            "cam/center_shift_initial": float(center_shift(*pair).mean()),
        }
    )
    both = scalars(late, previous=[now], initial=[then])
    assert (both["cam/rank_correlation_previous"], both["cam/center_shift_previous"]) == pytest.approx((1, 0), abs=1e-6)
    assert both["cam/rank_correlation_initial"] < 0.9
    plain = scalars(late)
    for earlier in (
        CoarseHeatmaps.from_maps([9], {"cam": part.maps["cam"][:1]}),
        CoarseHeatmaps.from_maps([1], {"saliency": part.maps["cam"][:1]}),
        CoarseHeatmaps.from_maps([1], {"cam": part.maps["cam"][:1].flatten(2)[:, :, None]}),  # of another size
    ):
        assert scalars(late, previous=[earlier]) == plain


def test_samples_of_several_sizes_are_one_set():
    raw = random_maps(0, num=6)
    boxes = torch.tensor(
        [[0, 0, 32, 40], [10, 10, 20, 20], [5, 5, 40, 60], [0, 0, 9, 9], [0, 30, 9, 64], [8, 8, 30, 30]]
    )
    masks = boxes_to_masks(boxes, (64, 64))
    whole = samples(raw, masks=masks)
    parts = [
        samples(raw[rows], masks=masks[rows], positions=tuple(rows)) for rows in ([4, 0, 1, 5], [2, 3])
    ]  # as if they were of two sizes
    scores = {"cam": {"deletion": torch.rand(6, generator=torch.Generator().manual_seed(0))}}
    split = [{"cam": {"deletion": scores["cam"]["deletion"][rows]}} for rows in ([4, 0, 1, 5], [2, 3])]
    earlier = looked(samples(random_maps(1, num=6)))
    expected = scalars(whole, previous=earlier, measured=[scores])
    assert scalars(*parts, previous=earlier, measured=split) == pytest.approx(expected, abs=1e-6)
    assert scalars(*parts, measured=split, previous=looked(*parts[::-1]))["cam/center_shift_previous"] == 0
    heatmaps, truth = whole.explanation.heatmaps()["cam"], masks_to_boxes(masks)
    alone = [float(max_box_accuracy(heatmaps[rows], truth[rows])) for rows in ([4, 0, 1, 5], [2, 3])]
    assert expected["cam/max_box_accuracy"] <= (4 * alone[0] + 2 * alone[1]) / 6

    wide = samples(random_maps(2, num=3), side=(32, 96), positions=(6, 7, 8))
    found, first, second = scalars(whole, wide), scalars(whole), scalars(wide)
    for metric in ("entropy", "area_above_half", "blank_fraction", "raw_maximum"):
        mean = (6 * first[f"cam/{metric}"] + 3 * second[f"cam/{metric}"]) / 9
        assert found[f"cam/{metric}"] == pytest.approx(mean), metric
    assert found["cam/energy_in_box"] == first["cam/energy_in_box"]  # the others' objects are not known


def test_values_that_were_computed_elsewhere_are_joined_and_averaged_by_their_rows():
    values = {"average_drop": torch.tensor([0.25, torch.nan, 0.75]), "increase_in_confidence": torch.tensor([1, 0, 0])}
    likeness = {"cam": {"rank_correlation_random_head": torch.tensor([0.5, -0.5, torch.nan])}}
    numbers = scalars(samples(random_maps(0, num=3)), measured=[{"cam": values}, likeness, {"other": values}])
    assert {name: numbers[f"cam/{name}"] for name in (*values, "rank_correlation_random_head")} == pytest.approx(
        {"average_drop": 0.5, "increase_in_confidence": 1 / 3, "rank_correlation_random_head": 0}
    )
    assert numbers["other/average_drop"] == 0.5
    for wrong in ("averagedrop", "entropy"):
        with pytest.raises(ValueError, match=f"`measured` to be one of average_drop, .*, got '{wrong}'"):
            scalars(samples(random_maps(0)), measured=[{"cam": {wrong: torch.zeros(5)}}])


def test_heatmaps_are_made_once_and_each_map_is_ranked_once(monkeypatch):
    made, ranked = [], []
    interpolate, rankdata = F.interpolate, similarity.rankdata
    monkeypatch.setattr(F, "interpolate", lambda *args, **kwargs: made.append(1) or interpolate(*args, **kwargs))
    monkeypatch.setattr(similarity, "rankdata", lambda *args, **kwargs: ranked.append(1) or rankdata(*args, **kwargs))
    group = samples(random_maps(0), random_maps(1), masks=torch.ones(5, 1, 64, 64, dtype=torch.bool))
    group.heatmaps("max")
    look = looked(group)
    measure([group], look)
    measure([group], look, previous=look, initial=look)
    assert (len(made), len(ranked)) == (2, 2)


def test_a_row_of_ones_own_is_a_scalar(monkeypatch):
    def lost(heatmaps, others, power=2):
        return (heatmaps - others).relu().amax((1, 2, 3)) ** power

    monkeypatch.setitem(
        METRICS,
        "lost",
        Metric("lost", lost, "what is gone", ("initial_heatmaps", "coarse_heatmaps"), (0, 1), False, 1),
    )

    def hidden(masks, attributions):
        return attributions.amin((1, 2, 3)) * masks.float().mean((1, 2, 3))

    row = Metric("hidden", hidden, "on objects", ("masks", "attributions"), (-math.inf, math.inf), None, 0)
    monkeypatch.setitem(METRICS, "hidden", row)
    early, raw = looked(samples(random_maps(1), positions=(7, 1, 2, 3, 8))), random_maps(0)
    masks = torch.zeros(5, 1, 64, 64, dtype=torch.bool)
    masks[[1, 3], :, :32] = True
    group = samples(raw, masks=masks)
    numbers = scalars(group, initial=early)
    common = [1, 2, 3]
    gone = (early[0].maps["cam"][common] - looked(group)[0].maps["cam"][common]).relu().amax((1, 2, 3)) ** 2
    assert numbers["cam/lost"] == pytest.approx(float(gone.mean()))
    assert numbers["cam/hidden"] == pytest.approx(float(raw[[1, 3]].amin((1, 2, 3)).mean()) / 2)
    assert "cam/lost" not in scalars(group)
    assert "cam/hidden" not in scalars(samples(raw))

    def both(masks, ranks):
        return ranks.amax(1)

    row = Metric("both", both, "highest rank", ("masks", "initial_ranks"), (0, math.inf), None, 0)
    monkeypatch.setitem(METRICS, "both", row)
    elsewhere = looked(samples(raw, positions=(0, 7, 2, 8, 4)))
    highest = float(early[0].ranks["cam"][[1, 3]].amax(1).mean())
    assert scalars(group, initial=early)["cam/both"] == pytest.approx(highest)
    assert "cam/both" not in scalars(group, initial=elsewhere)  # no image has an object and an earlier map


def test_several_layers_and_a_real_network_are_measured_under_their_own_keys():
    torch.manual_seed(0)
    images, labels = data(6)[:]
    model = TinyClassifier()

    def of(**options):
        explanation = explain(model, images, target=labels, **options)
        return scalars(explained_samples(explanation, range(6)))

    numbers = of(methods=["cam", "grad_cam"], layer="backbone")
    # with a GAP head Grad-CAM is CAM without its negative part, up to a factor
    assert numbers["cam/entropy"] == pytest.approx(numbers["grad_cam/entropy"], abs=1e-5)
    assert numbers["cam/agreement"] > 0.999
    two = of(methods="grad_cam", layer=["backbone.2", "backbone"])
    assert {key.rpartition("/")[0] for key in two} == {"grad_cam@backbone.2", "grad_cam@backbone"}


@pytest.mark.parametrize("seed", range(3))
def test_scalars_are_in_their_ranges_whatever_the_maps(seed):
    generator = torch.Generator().manual_seed(seed)
    raw = [torch.randn(4, 1, 5, 7, generator=generator) ** power for power in (1, 3)]
    raw[0][0], raw[1][1] = 0, torch.inf
    masks = torch.rand(4, 1, 40, 56, generator=generator) > 0.7
    then = looked(samples(*(maps.flip(0) for maps in raw), side=(40, 56)))
    chance = {name: torch.rand(4, generator=generator) for name, row in METRICS.items() if not row.inputs}
    numbers = scalars(
        samples(*raw, side=(40, 56), masks=masks),
        previous=then,
        initial=then,
        measured=[{"cam": chance, "saliency": chance}],
    )
    assert numbers.keys() == {f"{key}/{name}" for key, name in itertools.product(("cam", "saliency"), OF_EVERY_METHOD)}
    for key, value in numbers.items():
        low, high = METRICS[key.partition("/")[2]].range
        assert low <= value <= high, key
        assert math.isfinite(value), key
