import inspect
import pickle

import pytest
import torch
import torchmetrics
from tiny import L
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection

from lightning_saliency import metrics
from lightning_saliency.data import boxes_to_masks
from lightning_saliency.metrics import (
    METRICS,
    AreaAbove,
    AreaUnderCurve,
    AverageDrop,
    BlankFraction,
    BoxAccuracy,
    BoxIoU,
    CenterShift,
    EnergyInside,
    HeatmapEntropy,
    IncreaseInConfidence,
    MaxBoxAccuracy,
    Metric,
    MetricOverImages,
    PointingGame,
    PrefixRelevance,
    RankCorrelation,
    RawMaximum,
    area_above,
    area_under_curve,
    average_drop,
    box_accuracy,
    box_iou,
    center_shift,
    energy_inside,
    entropy,
    heatmaps_to_boxes,
    increase_in_confidence,
    is_blank,
    max_box_accuracy,
    pointing_game,
    prefix_relevance,
    rank_correlation,
    raw_maximum,
    torchmetrics_class,
)

# Each shell, what it is given, the values per image whose mean it is, and whether higher is better.
SHELLS = [
    (HeatmapEntropy(), ["heatmaps"], entropy, False),
    (AreaAbove(), ["heatmaps"], area_above, False),
    (AreaAbove(0.8), ["heatmaps"], lambda heatmaps: area_above(heatmaps, 0.8), False),
    (BlankFraction(), ["heatmaps"], is_blank, False),
    (PrefixRelevance(), ["shares"], prefix_relevance, None),
    (RawMaximum(), ["heatmaps"], raw_maximum, None),
    (CenterShift(), ["heatmaps", "others"], center_shift, False),
    (RankCorrelation(), ["heatmaps", "others"], rank_correlation, None),
    (PointingGame(), ["heatmaps", "masks"], pointing_game, True),
    (EnergyInside(), ["heatmaps", "masks"], energy_inside, True),
    (BoxIoU(), ["heatmaps", "boxes"], lambda h, boxes: box_iou(heatmaps_to_boxes(h)[0], boxes), True),
    (BoxIoU(0.5), ["heatmaps", "boxes"], lambda h, boxes: box_iou(heatmaps_to_boxes(h, 0.5)[0], boxes), True),
    (BoxAccuracy(), ["heatmaps", "boxes"], box_accuracy, True),
    (BoxAccuracy(0.6, 0.3), ["heatmaps", "boxes"], lambda h, boxes: box_accuracy(h, boxes, 0.6, 0.3), True),
    (AverageDrop(), ["before", "after"], average_drop, False),
    (IncreaseInConfidence(), ["before", "after"], increase_in_confidence, True),
    (AreaUnderCurve(), ["curves"], area_under_curve, None),
]
ALL = [(shell, names) for shell, names, _, _ in SHELLS] + [(MaxBoxAccuracy(), ["heatmaps", "boxes"])]


def name_of(value):
    return type(value).__name__ if isinstance(value, torchmetrics.Metric) else ""


def batch(num, seed):
    """Everything that a shell may ask for; of 4 images or more, one has a blank heatmap and no confidence."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.rand(*shape, generator=generator)

    coarse = random(num, 1, 4, 5) ** 2
    heatmaps = nn.functional.interpolate(coarse, size=(17, 21), mode="bilinear")
    boxes = heatmaps_to_boxes(heatmaps, 0.3)[0]
    boxes[::2] += torch.tensor([-1, 2, 1, 0])
    boxes[::3] += torch.tensor([6, 0, 8, 0])
    before = random(num)
    if num >= 4:
        heatmaps[2], before[2] = 0, 0
    return {
        "heatmaps": heatmaps, "others": random(num, 1, 17, 21), "boxes": boxes,
        "masks": boxes_to_masks(boxes, (17, 21)), "before": before, "after": random(num), "curves": random(num, 6),
        "shares": random(num),
    }  # fmt: skip


BATCHES = [batch(5, 1), batch(2, 2), batch(7, 3)]


def given(names, numbers=(0, 1, 2)):
    """The arguments of the batches' `update`, and of all of them as one."""
    parts = [[BATCHES[number][name] for name in names] for number in numbers]
    return parts, [torch.cat(part) for part in zip(*parts, strict=True)]


@pytest.mark.parametrize(("shell", "names", "function", "higher"), SHELLS, ids=name_of)
def test_a_shell_is_the_mean_over_all_images_that_have_a_value(shell, names, function, higher):
    parts, whole = given(names)
    values = [float(value) for value in function(*whole)]
    known = [value for value in values if value == value]
    metric = shell.clone()
    for arguments in parts:
        metric.update(*arguments)
    assert metric.compute().item() == pytest.approx(sum(known) / len(known), abs=1e-6)
    assert metric.compute().shape == ()
    of_batches = [float(function(*arguments).float().nanmean()) for arguments in parts]
    assert metric.compute().item() != pytest.approx(sum(of_batches) / 3, abs=1e-6)  # they are not of one size
    assert metric.higher_is_better is higher
    assert metric.is_differentiable is False
    assert metric.full_state_update is False


@pytest.mark.parametrize("iou", [0.5, 0.9])
def test_the_best_threshold_is_that_of_all_images_not_of_each_batch(iou):
    parts, whole = given(["heatmaps", "boxes"])
    thresholds = (0.1, 0.3, 0.5, 0.7, 0.9)
    metric = MaxBoxAccuracy(thresholds, iou=iou)
    for arguments in parts:
        metric.update(*arguments)
    assert metric.compute().item() == pytest.approx(max_box_accuracy(*whole, thresholds, iou).item())
    shares = [box_accuracy(*whole, threshold, iou).float().mean().item() for threshold in thresholds]
    assert metric.compute().item() == pytest.approx(max(shares))
    assert 0 < max(shares) < 1
    assert metric.higher_is_better is True


def test_hits_that_need_different_thresholds_do_not_add_up():
    heatmap = torch.tensor([[[[1.0, 0.6, 0.3, 0.0]]]])
    metric = MaxBoxAccuracy((0.2, 0.5), iou=0.9)
    metric.update(heatmap, torch.tensor([[0, 0, 3, 1]]))
    assert metric.compute() == 1
    metric.update(heatmap, torch.tensor([[0, 0, 2, 1]]))
    assert metric.compute() == 0.5


@pytest.mark.parametrize(("shell", "names"), ALL, ids=name_of)
def test_states_of_two_processes_add_up(shell, names):
    parts, whole = given(names)
    expected = shell.clone()
    expected.update(*whole)
    one, other = shell.clone(), shell.clone()
    one.update(*parts[0])
    for arguments in parts[1:]:
        other.update(*arguments)

    of_other = iter([state.clone() for state in other.metric_state.values()])  # gathered in this order
    synced = shell.clone()
    synced.dist_sync_fn = lambda state, group=None: [state, next(of_other)]
    synced.distributed_available_fn = lambda: True
    synced.update(*parts[0])
    torch.testing.assert_close(synced.compute(), expected.compute())

    assert not torch.isclose(one.clone().compute(), expected.compute())
    one.merge_state(other)
    torch.testing.assert_close(one.metric_state, expected.metric_state)
    torch.testing.assert_close(one.compute(), expected.compute())


@pytest.mark.parametrize(("shell", "names"), ALL, ids=name_of)
def test_a_shell_is_reset_copied_pickled_and_called(shell, names):
    parts, _ = given(names)
    metric = shell.clone()
    metric.update(*parts[0])
    first = metric.compute().clone()
    copies = [metric.clone(), pickle.loads(pickle.dumps(metric))]
    metric.update(*parts[2])
    both = metric.compute().clone()
    assert not torch.isclose(first, both)
    for copy in copies:
        torch.testing.assert_close(copy.compute(), first)
        copy.update(*parts[2])
        torch.testing.assert_close(copy.compute(), both)
    metric.reset()
    torch.testing.assert_close(metric(*parts[0]), first)  # called: the batch's own value
    of_batch = metric(*parts[2])
    torch.testing.assert_close(metric.compute(), both)
    assert not torch.isclose(of_batch, both)
    assert not metric.state_dict()


@pytest.mark.parametrize(("shell", "names"), ALL, ids=name_of)
def test_updates_in_and_out_of_inference_mode_are_of_one_sum(shell, names):
    parts, whole = given(names)
    metric, expected = shell.clone(), shell.clone()
    with torch.inference_mode():
        metric.reset()
        metric.update(*parts[0])
    metric.update(*parts[1])
    with torch.inference_mode():
        metric.update(*parts[2])
    expected.update(*whole)
    torch.testing.assert_close(metric.compute(), expected.compute())


@pytest.mark.parametrize(("shell", "names"), ALL, ids=name_of)
def test_without_any_image_the_mean_is_nan(shell, names):
    metric = shell.clone()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute().isnan()
    metric.update(*(BATCHES[0][name][:0] for name in names))
    assert metric.compute().isnan()


def test_blank_heatmaps_alone_have_no_mean_but_miss_the_object():
    blank, masks, boxes = torch.zeros(2, 1, 5, 7), torch.ones(2, 1, 5, 7).bool(), torch.tensor([[0, 0, 7, 5]] * 2)
    for metric, arguments in [
        (HeatmapEntropy(), []), (AreaAbove(), []), (CenterShift(), [blank]), (RankCorrelation(), [blank]),
        (EnergyInside(), [masks]),
    ]:  # fmt: skip
        metric.update(blank, *arguments)
        assert metric.compute().isnan()
    for metric, truth in [
        (PointingGame(), masks),
        (BoxIoU(), boxes),
        (BoxAccuracy(), boxes),
        (MaxBoxAccuracy(), boxes),
    ]:
        metric.update(blank, truth)
        assert metric.compute() == 0


def test_a_collection_gives_each_what_it_names_and_keeps_apart_what_was_equal_by_chance():
    # the first batch: each heatmap is its object, so that all of these are 1 after it
    masks = boxes_to_masks(torch.tensor([[1, 1, 4, 3], [2, 0, 7, 5]]), (5, 7))
    perfect = {"heatmaps": masks.float(), "masks": masks, "boxes": torch.tensor([[1, 1, 4, 3], [2, 0, 7, 5]])}
    members = {
        "pointing": PointingGame(), "energy": EnergyInside(), "iou": BoxIoU(),
        "iou_at_half": BoxIoU(0.5), "found": BoxAccuracy(), "found_well": BoxAccuracy(iou=0.9),
        "best": MaxBoxAccuracy(), "best_well": MaxBoxAccuracy(iou=0.9), "area": AreaAbove(0.2), "core": AreaAbove(0.9),
        "found_again": BoxAccuracy(),
    }  # fmt: skip
    alone = {name: metric.clone() for name, metric in members.items()}
    collection = MetricCollection(members)
    for arguments in (perfect, BATCHES[0], BATCHES[2]):
        collection.update(**arguments)
        for metric in alone.values():
            metric.update(**metric._filter_kwargs(**arguments))
        found = collection.compute()
        assert found == {name: pytest.approx(metric.compute().item()) for name, metric in alone.items()}
    assert len(set(found.values())) > 7
    shared = [group for group in collection.compute_groups.values() if len(group) > 1]
    assert shared == [["found", "found_again"]]


class Watched(L.LightningModule):
    """Takes the batch's own images for heatmaps, and logs what the metrics say of them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.focus = HeatmapEntropy()
        self.val_metrics = MetricCollection([PointingGame(), EnergyInside()], prefix="val_")

    def training_step(self, batch, batch_idx):
        self.focus(batch[0])
        self.log("focus", self.focus, on_step=False, on_epoch=True)
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        self.val_metrics.update(*batch)
        self.log_dict(self.val_metrics)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_module_logs_shells_by_self_log_epoch_after_epoch(tmp_path):
    _, (heatmaps, masks) = given(["heatmaps", "masks"])
    batches = DataLoader(TensorDataset(heatmaps, masks), batch_size=5)
    trainer = L.Trainer(
        default_root_dir=tmp_path, max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Watched(), batches, batches)
    assert {name: value.item() for name, value in trainer.callback_metrics.items()} == pytest.approx({
        "focus": entropy(heatmaps).nanmean().item(),
        "val_PointingGame": pointing_game(heatmaps, masks).float().mean().item(),
        "val_EnergyInside": energy_inside(heatmaps, masks).nanmean().item(),
    })  # fmt: skip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AreaAbove(1.0), r"`threshold` to be a number in \[0, 1\), got 1\.0"),
        (lambda: BoxIoU(-0.1), r"`threshold` to be a number in \[0, 1\), got -0\.1"),
        (lambda: BoxAccuracy(threshold=2), r"`threshold` to be a number in \[0, 1\), got 2"),
        (lambda: BoxAccuracy(iou=0), r"`iou` to be a number in \(0, 1\], got 0"),
        (lambda: MaxBoxAccuracy(iou=1.5), r"`iou` to be a number in \(0, 1\], got 1\.5"),
        (lambda: MaxBoxAccuracy(()), r"`thresholds` to be one or more numbers in \[0, 1\), got \(\)"),
        (lambda: MaxBoxAccuracy((0.5, 1.0)), r"`thresholds\[1\]` to be a number in \[0, 1\), got 1\.0"),
        (lambda: PointingGame(threshold=0.5), "threshold"),
    ],
)
def test_options_out_of_range_are_named_when_the_shell_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_each_public_class_is_held_here_against_its_function():
    public = {name for name in metrics.__all__ if isinstance(getattr(metrics, name), type)}
    classes = {name for name in public if issubclass(getattr(metrics, name), torchmetrics.Metric)}
    assert classes - {"MetricOverImages"} == {type(shell).__name__ for shell, _ in ALL}
    assert sorted(metrics.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name)) == metrics.__all__


def test_options_are_those_of_the_function_and_misspelled_or_too_many_are_refused():
    assert str(inspect.signature(BoxAccuracy)) == "(threshold=0.2, iou=0.5, **kwargs)"
    assert (BoxAccuracy(0.3, iou=0.4).threshold, BoxAccuracy(0.3, iou=0.4).iou) == (0.3, 0.4)
    assert MaxBoxAccuracy(thresholds=[0.5]).thresholds == (0.5,)
    with pytest.raises(ValueError, match="treshold"):
        AreaAbove(treshold=0.5)
    for wrong in (lambda: AreaAbove(0.5, 0.6), lambda: AreaAbove(0.5, threshold=0.6), lambda: HeatmapEntropy(0.5)):
        with pytest.raises(TypeError, match=r"too many positional arguments|multiple values"):
            wrong()
    assert AreaAbove(0.5, sync_on_compute=False).sync_on_compute is False


def test_a_docstring_says_what_the_row_and_the_function_say():
    text = MaxBoxAccuracy.__doc__
    metric = METRICS["max_box_accuracy"]
    assert text.splitlines()[0] == f"{metric.description} ({metric.paper})."
    for part in (
        "0 to 1, higher",
        "`update(heatmaps, boxes)`",
        "    thresholds: τ, T fractions of each map's maximum, in [0, 1).",
        "    iou: δ, the overlap that counts, in (0, 1].",
        "    boxes: `(N, 4)`, each image's true box.",
    ):
        assert part in text
    assert HeatmapEntropy.__doc__.startswith("Entropy of the map over that of an even one")
    for shell, _ in ALL:
        assert "As the function reads it" not in type(shell).__doc__
        assert "An option of the function" not in type(shell).__doc__


def darkest(heatmaps, floor=0.0):
    """The least value of each heatmap, of this file's own metric; the best of two in `Darkest`."""
    return heatmaps.amin((1, 2, 3)).clamp(min=floor)


def above(heatmaps, levels=(0.1, 0.9)):
    return torch.stack([(heatmaps.amin((1, 2, 3)) < level).float() for level in levels], dim=1)


Darkest = torchmetrics_class(Metric("darkest", darkest, "least value", ("heatmaps",), (0, 1), False, 1), __name__)
FewAbove = torchmetrics_class(
    Metric("few_above", above, "few above", ("heatmaps",), (0, 1), False, 1, best_of="levels"), __name__
)


def test_a_class_of_an_own_row_pickles_and_takes_its_options_and_its_best_may_be_the_least():
    heatmaps = torch.tensor([[[[0.5, 0.2]]], [[[0.7, 0.05]]]])
    metric = Darkest(floor=0.1)
    metric.update(heatmaps)
    again = pickle.loads(pickle.dumps(metric))
    assert type(again) is Darkest
    assert again.compute().item() == pytest.approx(0.15)
    assert again.higher_is_better is False
    best = FewAbove()
    best.update(heatmaps)
    assert best.compute() == 0.5
    collection = MetricCollection([Darkest(), FewAbove(), HeatmapEntropy()])
    collection.update(heatmaps=heatmaps, masks=None)
    assert collection.compute()["Darkest"].item() == pytest.approx(0.125)
    assert isinstance(metric, MetricOverImages)
