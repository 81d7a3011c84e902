"""The rows of the table of metrics, and what is made of them."""

import math
from pathlib import Path

import pytest
import torch

from lightning_saliency import metrics
from lightning_saliency.metrics import INPUTS, METRICS, Metric, metrics_table, torchmetrics_class

PAGE = (Path(__file__).parents[2] / "docs/metrics.md").read_text(encoding="utf-8")


def row(**changes):
    given = {"inputs": ("heatmaps",), "range": (0, 1), "higher_is_better": True, "worst": 0}
    return Metric("mine", lambda heatmaps, power=1: heatmaps.amax((1, 2, 3)), "says something", **(given | changes))


def test_the_page_has_the_table():
    assert f"\n\n{metrics_table()}\n" in PAGE


@pytest.mark.parametrize("name", METRICS)
def test_a_row_is_complete(name):
    metric = METRICS[name]
    assert metric.name == name
    assert metric.function.__doc__
    assert metric.description
    assert len(metric.inputs) in (0, len(metric.arguments))
    assert metric.checks.keys() <= metric.options.keys()
    assert metric.options.keys() == metric.checks.keys(), "an option without a check"
    if metric.higher_is_better is not None and name != "rank_correlation_random_head":  # see `worst`
        assert metric.worst == metric.range[not metric.higher_is_better]
    elif metric.higher_is_better is None:
        assert metric.worst == 0


def test_each_row_has_its_class_among_the_public_ones_or_shares_its_function_with_one():
    public = {kind.metric.function for kind in vars(metrics).values() if hasattr(kind, "metric")}
    shared = {metrics.similarity.correlation}  # of ranks that a look has: `RankCorrelation` of the maps
    assert {metric.function for metric in METRICS.values()} <= public | shared


def test_the_rows_stand_in_the_modules_of_their_functions_and_read_all_inputs():
    for module in (metrics.concentration, metrics.similarity, metrics.localization, metrics.faithfulness):
        for metric in module.ROWS:
            assert metric.function.__module__ == module.__name__
            assert vars(METRICS[metric.name]) | {"by_default": True} == vars(metric)
    assert {name for metric in METRICS.values() for name in metric.inputs} == INPUTS.keys()


def test_a_row_of_ones_own_is_in_the_documentation_and_a_class(monkeypatch):
    mine = row(paper="[Me 2024](https://example.org)", section="with `mine`", class_name="MyPeak", range=(-1, math.inf))
    monkeypatch.setitem(METRICS, "mine", mine)
    *_, heading, last = metrics_table().splitlines()
    assert heading == "| *with `mine`* | | | |"
    assert last == "| `mine` | says something ([Me 2024](https://example.org)) | higher | 0 |"
    metric = torchmetrics_class(mine)()
    metric.update(torch.tensor([[[[0.5]]], [[[1.0]]]]))
    assert metric.compute() == 0.75
    assert type(metric).__name__ == "MyPeak"
    assert type(metric).__doc__.startswith("Says something ([Me 2024](https://example.org)).")


def test_bounds_in_words():
    assert row(range=(-1, 1), higher_is_better=None).bounds == "−1 to 1"
    assert row(range=(0, math.sqrt(2)), higher_is_better=False).bounds == "0 to 1.41, lower"
    assert row(range=(-math.inf, math.inf), higher_is_better=None).bounds == ""


def test_the_value_of_a_set_is_the_mean_of_what_is_finite_or_of_columns_the_mean_or_the_best():
    nan, inf = torch.nan, torch.inf
    assert row().over_images(torch.tensor([1.0, nan, 3.0, inf])) == 2
    assert row(worst=1).over_images(torch.tensor([nan])) == 1
    assert row(worst=1).over_images(torch.empty(0)) == 1
    assert row().over_images(torch.tensor([True, False])) == 0.5
    columns = torch.tensor([[1.0, 0.0, nan], [0.0, nan, nan]])
    assert row(worst=1).over_images(columns) == pytest.approx((0.5 + 0 + 1) / 3)
    assert row(best_of="power").over_images(columns) == 0.5
    assert row(best_of="power", higher_is_better=False, worst=1).over_images(columns) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": ("heatmap",)}, "`inputs` to be one of attributions, heatmaps, .*, got 'heatmap'"),
        ({"inputs": ("heatmaps", "masks")}, "`inputs` to be one for each of heatmaps, got heatmaps, masks"),
        ({"worst": math.nan}, "`worst` to be a finite number from 0 to 1, got nan"),
        ({"worst": 2}, "`worst` to be a finite number from 0 to 1, got 2"),
        ({"best_of": "thresholds"}, "`best_of` to be one of None, power, got 'thresholds'"),
    ],
)
def test_a_row_that_cannot_work_is_refused_when_it_is_made(changes, message):
    with pytest.raises(ValueError, match=message):
        row(**changes)
