"""The numbers of a moment, held against the metrics' functions image by image."""

import pytest
import torch
from tiny import TinyClassifier, data

from lightning_saliency import Explanation, explain
from lightning_saliency.measures import Seen, drift, mean_of, measure
from lightning_saliency.metrics import (
    area_above,
    box_accuracy,
    box_iou,
    boxes_to_masks,
    center_shift,
    energy_inside,
    entropy,
    heatmaps_to_boxes,
    masks_to_boxes,
    max_box_accuracy,
    pointing_game,
    rank_correlation,
)


def explanation(*maps, side=64, keys=("cam", "saliency")):
    """Made of raw attributions (N, 1, h, w)."""
    num = len(maps[0])
    return Explanation(
        torch.zeros(num, 3, side, side),
        torch.zeros(num, 2),
        torch.zeros(num),
        None,
        dict(zip(keys, maps, strict=False)),
    )


def random_maps(seed, num=5, side=8):
    return torch.randn(num, 1, side, side, generator=torch.Generator().manual_seed(seed))


def test_maps_are_pooled_to_the_means_of_areas_at_most_32_wide_and_high():
    found = Seen.of(explanation(random_maps(0), side=64), range(5))
    heatmaps = explanation(random_maps(0)).heatmaps()["cam"]
    assert found.rows == [0, 1, 2, 3, 4]
    assert found.maps["cam"].shape == (5, 1, 32, 32)
    for i in range(0, 32, 5):
        for j in range(0, 32, 7):
            area = heatmaps[:, 0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2))
            torch.testing.assert_close(found.maps["cam"][:, 0, i, j], area)
    wide = Explanation(torch.zeros(1, 3, 50, 200), torch.zeros(1, 2), torch.zeros(1), None, {"cam": random_maps(0, 1)})
    assert Seen.of(wide, [0]).maps["cam"].shape == (1, 1, 8, 32)
    assert Seen.of(explanation(random_maps(0), side=16), range(5)).maps["cam"].shape == (5, 1, 16, 16)


def test_the_numbers_are_the_means_of_the_metrics():
    one, other = random_maps(0), random_maps(1)
    found = explanation(one, other)
    seen = Seen.of(found, range(5))
    masks = boxes_to_masks(
        torch.tensor([[0, 0, 32, 64], [10, 10, 20, 20], [0, 0, 64, 64], [50, 0, 64, 9], [0, 30, 9, 64]]), (64, 64)
    )
    numbers = measure(found, seen, masks)
    for key, raw in (("cam", one), ("saliency", other)):
        small, heatmaps = seen.maps[key], found.heatmaps()[key]
        expected = {
            "entropy": entropy(small).mean(),
            "area_above_half": area_above(small, 0.5).mean(),
            "blank_fraction": 0.0,
            "raw_maximum": raw.amax((1, 2, 3)).mean(),
            "agreement": rank_correlation(*seen.maps.values()).mean(),
            "pointing_game": pointing_game(heatmaps, masks).float().mean(),
            "energy_in_box": energy_inside(heatmaps, masks).mean(),
            "box_iou": box_iou(heatmaps_to_boxes(heatmaps)[0], masks_to_boxes(masks)).mean(),
            "box_accuracy": box_accuracy(heatmaps, masks_to_boxes(masks)).float().mean(),
            "max_box_accuracy": max_box_accuracy(heatmaps, masks_to_boxes(masks)),
        }
        for metric, value in expected.items():
            assert numbers[f"{key}/{metric}"] == pytest.approx(float(value), abs=1e-6), metric
    assert numbers.keys() == {f"{key}/{metric}" for key in ("cam", "saliency") for metric in expected}
    without = measure(found, seen)
    assert without == {key: value for key, value in numbers.items() if key in without}
    assert len(without) == 10
    alone = explanation(one, keys=["cam"])
    assert measure(alone, Seen.of(alone, range(5))).keys() == {
        f"cam/{metric}" for metric in ("entropy", "area_above_half", "blank_fraction", "raw_maximum")
    }


def test_the_boxes_of_a_map_that_marks_just_the_object_are_right():
    raw = torch.zeros(2, 1, 64, 64)
    raw[0, 0, 20:40, 10:50] = 3.0
    raw[1, 0, 0:8, 0:8] = 1.0
    found = explanation(raw, keys=["cam"])
    boxes = torch.tensor([[10, 20, 50, 40], [32, 32, 64, 64]])
    numbers = measure(found, Seen.of(found, range(2)), boxes_to_masks(boxes, (64, 64)))
    for metric, value in {"box_iou": 0.5, "box_accuracy": 0.5, "max_box_accuracy": 0.5, "pointing_game": 0.5}.items():
        assert numbers[f"cam/{metric}"] == pytest.approx(value), metric
    assert numbers["cam/energy_in_box"] == pytest.approx(0.5)


def test_images_without_an_object_and_maps_without_a_signal_are_left_out_of_the_means():
    raw = random_maps(0)
    raw[1], raw[2, 0, 0, 0] = -1.0, torch.nan
    found = explanation(raw, keys=["cam"])
    boxes = torch.tensor([[0, 0, 32, 64], [0, 0, 64, 64], [0, 0, 64, 64], [0, 0, 0, 0], [5, 5, 30, 60]])
    masks = boxes_to_masks(boxes, (64, 64))
    seen = Seen.of(found, range(5))
    numbers = measure(found, seen, masks)
    assert numbers["cam/blank_fraction"] == pytest.approx(0.4)
    inside = energy_inside(found.heatmaps()["cam"], masks)
    assert numbers["cam/energy_in_box"] == pytest.approx(float(inside[[0, 4]].mean()), abs=1e-6)
    assert numbers["cam/entropy"] == pytest.approx(float(entropy(seen.maps["cam"])[[0, 3, 4]].mean()), abs=1e-6)
    finite = raw.amax((1, 2, 3))[[0, 1, 3, 4]]
    assert numbers["cam/raw_maximum"] == pytest.approx(float(finite.mean()), abs=1e-6)


def test_where_nothing_has_a_value_the_worst_is_logged_since_nan_would_end_a_training():
    found = explanation(-torch.ones(2, 1, 4, 4), torch.full((2, 1, 4, 4), torch.nan))
    seen = Seen.of(found, range(2))
    numbers = measure(found, seen, boxes_to_masks(torch.tensor([[0, 0, 9, 9]] * 2), (64, 64)))
    assert all(value == value for value in numbers.values())
    for key in ("cam", "saliency"):
        expected = {
            "entropy": 1,
            "area_above_half": 1,
            "blank_fraction": 1,
            "agreement": 0,
            "energy_in_box": 0,
            "box_iou": 0,
        }
        assert {metric: numbers[f"{key}/{metric}"] for metric in expected} == expected
    assert numbers["saliency/raw_maximum"] == 0
    assert set(drift(seen, seen, "previous").values()) == {0.0}
    assert measure(found, seen, torch.zeros(2, 1, 64, 64, dtype=torch.bool)).keys() == measure(found, seen).keys()
    assert mean_of(torch.tensor([1.0, torch.nan, 3.0, torch.inf]), 9.0) == 2.0
    assert mean_of(torch.tensor([torch.nan]), 9.0) == 9.0


def test_drift_is_that_of_the_images_that_both_moments_have():
    early, late = (Seen.of(explanation(random_maps(seed), keys=["cam"]), range(5)) for seen in [0] for seed in (0, 1))
    part = Seen([3, 1], {"cam": early.maps["cam"][[3, 1]]})
    found = drift(late, part, "untrained")
    pair = late.maps["cam"][[1, 3]], early.maps["cam"][[1, 3]]
    assert found == pytest.approx(
        {
            "cam/rank_correlation_untrained": float(rank_correlation(*pair).mean()),
            "cam/center_shift_untrained": float(center_shift(*pair).mean()),
        }
    )
    assert drift(late, late, "previous") == pytest.approx(
        {"cam/rank_correlation_previous": 1.0, "cam/center_shift_previous": 0.0}, abs=1e-6
    )
    assert drift(late, Seen([9], part.maps), "previous") == {}
    assert drift(late, Seen([1], {"saliency": part.maps["cam"][:1]}), "previous") == {}
    of_another_size = Seen([1], {"cam": part.maps["cam"][:1].flatten(2)[:, :, None]})
    assert drift(late, of_another_size, "previous") == {}


def test_what_was_seen_survives_a_checkpoint():
    seen = Seen.of(explanation(random_maps(0), random_maps(1)), [4, 2, 0, 1, 3])
    again = Seen.from_state_dict(seen.state_dict())
    assert again.rows == seen.rows
    for key, maps in seen.maps.items():
        assert again.maps[key].dtype == torch.float32
        torch.testing.assert_close(again.maps[key], maps, atol=1e-3, rtol=0)


def test_several_layers_and_a_real_network_are_measured_under_their_own_keys():
    torch.manual_seed(0)
    images, labels = data(6)[:]
    found = explain(TinyClassifier(), images, methods=["cam", "grad_cam"], target=labels, layer="backbone")
    numbers = measure(found, Seen.of(found, range(6)))
    # with a GAP head Grad-CAM is CAM without its negative part, up to a factor
    assert numbers["cam/entropy"] == pytest.approx(numbers["grad_cam/entropy"], abs=1e-5)
    assert numbers["cam/agreement"] > 0.999
    two = explain(TinyClassifier(), images, methods="grad_cam", layer=["backbone.2", "backbone"])
    assert {key.rpartition("/")[0] for key in measure(two, Seen.of(two, range(6)))} == {
        "grad_cam@backbone.2", "grad_cam@backbone"
    }  # fmt: skip
