"""Segmentation of images, volumes and signals in a real Trainer: labels of every usual form, and their columns."""

import matplotlib
import pytest
import torch
import torch.nn.functional as F
from looking import Keeps
from tiny import L, events, loader, picture, trainer
from torch import nn
from torch.utils.data import TensorDataset

from lightning_saliency import SaliencyCallback, explain, load_record
from lightning_saliency.callbacks import Execution
from lightning_saliency.evidence import TASKS, read_as

SIZES = {"images": (16, 20), "volumes": (6, 8, 10), "signals": (40,)}
CONVOLUTIONS = {"images": nn.Conv2d, "volumes": nn.Conv3d, "signals": nn.Conv1d}
MODES = {"images": "bilinear", "volumes": "trilinear", "signals": "linear"}
RAISES = Execution(on_error="raise")
IGNORED = 255


class UNet(L.LightningModule):
    """One step down, one up, and a connection past them."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        convolution, self.mode = CONVOLUTIONS[kind], MODES[kind]
        self.first = nn.Sequential(convolution(1, 6, 3, padding=1), nn.ReLU())
        self.deep = nn.Sequential(convolution(6, 8, 3, 2, padding=1), nn.ReLU())
        self.last = nn.Sequential(convolution(14, 8, 3, padding=1), nn.ReLU())
        self.head = convolution(8, 3, 1)

    def forward(self, inputs):
        found = self.first(inputs)
        up = F.interpolate(self.deep(found), inputs.shape[2:], mode=self.mode)
        return self.head(self.last(torch.cat([found, up], 1)))

    def training_step(self, batch, batch_idx):
        labels = batch[1]
        if labels.dim() == batch[0].dim() and labels.shape[1] == 3:
            return F.cross_entropy(self(batch[0]), labels.clamp(0, 1).float())
        labels = labels[:, 0] if labels.dim() == batch[0].dim() else labels
        return F.cross_entropy(self(batch[0]), labels.long(), ignore_index=IGNORED)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def classes_of(kind, num=8):
    """Of each sample the last axis in two parts: of class 1, and of class 2; the border moves on."""
    size = SIZES[kind]
    border = 2 + torch.arange(num).view(num, *[1] * len(size))
    return (1 + (torch.arange(size[-1]).expand(num, *size) >= border).long()).contiguous()


def run(folder, kind, labels, module=None, **options):
    keeps = Keeps()
    inputs = torch.full((8, 1, *SIZES[kind]), 0.5)  # mid gray
    dataset = loader(TensorDataset(inputs, labels), batch_size=4)
    callback = SaliencyCallback(["grad_cam"], samples=6, outputs=[keeps], execution=RAISES, **options)
    trainer(folder, callback, max_epochs=1).fit(module or UNet(kind), dataset, dataset)
    return keeps.looks[-1].explained[0], load_record(folder)


def one_channel(classes):
    return classes[:, None].float()


def channels(classes):
    return F.one_hot(classes, 3).movedim(-1, 1)


def bools(classes):
    return channels(classes).bool()


def unsigned(classes):
    return classes.to(torch.uint16)


@pytest.mark.parametrize("form", [torch.clone, one_channel, channels, bools, unsigned])
@pytest.mark.parametrize("kind", SIZES)
def test_the_true_class_is_that_of_most_points_and_so_is_the_predicted_one(tmp_path, kind, form):
    classes = classes_of(kind)
    group, record = run(tmp_path, kind, form(classes))
    explanation = group.explanation
    most = [int(row.flatten().bincount(minlength=3).argmax()) for row in classes[:6]]
    assert record.samples.labels == tuple(most) == group.samples.truths
    assert explanation.task.name == "segmentation"
    for own, expected in zip(group.samples.pixel_labels, classes, strict=False):
        assert torch.equal(own, expected)
    assert explanation.masks.shape == (6, *SIZES[kind])
    predicted = [int(row.flatten().bincount(minlength=3).argmax()) for row in explanation.masks]
    assert record[-1].predictions == tuple(predicted)
    assert explanation.attributions["grad_cam"].shape == (6, 1, *SIZES[kind])


def color(index):
    return [round(255 * channel) for channel in matplotlib.colormaps["tab20"](index)[:3]]


def count(sheet, expected):
    """Return how many pixels have a color, but for the losses of the file."""
    difference = (sheet.int() - torch.tensor(expected)[:, None, None]).abs().amax(0)
    return int((difference <= 12).sum())


@pytest.mark.parametrize("kind", SIZES)
def test_the_sheet_shows_the_classes_where_it_shows_the_sample(tmp_path, kind):
    run(tmp_path / "two", kind, classes_of(kind))
    run(tmp_path / "one", kind, torch.ones_like(classes_of(kind)))
    two, one = (picture(events(tmp_path / name).Images("saliency/grad_cam")[0]) for name in ("two", "one"))
    colors = [color(index) for index in (1, 2)]
    # along a signal lies the color itself; over a picture, here mid gray, half of it
    laid = colors if kind == "signals" else [[(channel + 128) // 2 for channel in each] for each in colors]
    before = [count(one, each) for each in laid]
    after = [count(two, each) for each in laid]
    assert before[0] > after[0] + 100
    assert after[1] > before[1] + 100


class Coarse(UNet):
    """Has scores for each fourth row and column, which the loss compares with the whole labels."""

    def forward(self, inputs):
        return F.avg_pool2d(super().forward(inputs), 4)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(F.interpolate(self(batch[0]), batch[1].shape[1:], mode=self.mode), batch[1])


@pytest.mark.parametrize("task", [None, "segmentation"])
def test_scores_may_be_coarser_than_the_image_and_its_labels(tmp_path, task):
    execution = Execution(on_error="raise", task=task)
    keeps, classes, module = Keeps(), classes_of("images"), Coarse("images")
    data = loader(TensorDataset(torch.rand(8, 1, *SIZES["images"]), classes), batch_size=4)
    callback = SaliencyCallback(["grad_cam"], samples=6, outputs=[keeps], execution=execution)
    trainer(tmp_path, callback, max_epochs=1).fit(module, data, data)
    explanation = keeps.looks[-1].explained[0].explanation
    assert explanation.masks.shape == (6, 4, 5)
    assert explanation.heatmaps()["grad_cam"].shape == (6, 1, *SIZES["images"])
    most = tuple(int(row.flatten().bincount(minlength=3).argmax()) for row in classes[:6])
    assert load_record(tmp_path).samples.labels == most


def test_without_a_training_coarse_scores_are_refused_with_the_task_to_name():
    images = torch.rand(2, 1, *SIZES["images"])
    with pytest.raises(ValueError, match=r"If these are scores of pixels, name the task, `task='segmentation'`"):
        explain(Coarse("images"), images)
    assert explain(Coarse("images"), images, task="segmentation").masks.shape == (2, 4, 5)


def test_points_that_are_ignored_do_not_count(tmp_path):
    classes = classes_of("volumes")
    labels = torch.where(classes == 2, IGNORED, classes)
    _, record = run(tmp_path, "volumes", labels)
    assert record.samples.labels == (1,) * 6


class Unlabeled(UNet):
    """Has two sets of labels in one tensor, of which it takes the first."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1][:, 0])


def test_scores_of_each_point_in_time_are_told_by_the_loss_alone_where_no_label_fits(tmp_path):
    group, record = run(tmp_path, "signals", torch.stack([classes_of("signals")] * 2, 1), Unlabeled("signals"))
    assert group.explanation.task.name == "segmentation"
    assert record.samples.labels == (None,) * 6
    assert group.explanation.masks.shape == (6, 40)


@pytest.mark.parametrize("shape", [(2, 3, 40), (2, 40)])
def test_a_task_that_is_named_reads_signals_without_a_training(shape):
    reading = read_as(TASKS["segmentation"], torch.randn(shape), torch.zeros(2, 1, 40))
    assert reading.masks.shape == (2, 40)
    assert reading.logits.shape == (2, shape[1] if len(shape) == 3 else 1)
