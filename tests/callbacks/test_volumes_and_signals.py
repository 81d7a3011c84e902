"""Volumes, videos and signals in a real Trainer: pictures, metrics, the record, filmstrips and animations."""

import io
import math

import pytest
import torch
import torch.nn.functional as F
from looking import Keeps
from PIL import Image
from tiny import L, events, first, loader, picture, trainer
from torch import nn
from torch.utils.data import TensorDataset

from lightning_saliency.callbacks import Execution, Metrics, SaliencyCallback, Samples, Style
from lightning_saliency.history import load_record
from lightning_saliency.visualization import animation, filmstrip

KINDS = {
    "volumes": (nn.Conv3d, nn.AdaptiveAvgPool3d, (1, 6, 10, 12)),
    "videos": (nn.Conv3d, nn.AdaptiveAvgPool3d, (3, 6, 10, 12)),
    "signals": (nn.Conv1d, nn.AdaptiveAvgPool1d, (2, 40)),
}
RAISES = Execution(on_error="raise")


class Tiny(L.LightningModule):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        convolution, pool, (channels, *_) = KINDS[kind]
        self.net = nn.Sequential(
            convolution(channels, 6, 3, padding=1), nn.ReLU(), convolution(6, 8, 3, 2, padding=1), nn.ReLU(), pool(1),
            nn.Flatten(), nn.Linear(8, 3),
        )  # fmt: skip

    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def data(kind, num=8):
    """Noise that is brighter where the class says."""
    size = KINDS[kind][2]
    inputs, labels = torch.randn(num, *size, generator=torch.Generator().manual_seed(0)), torch.arange(num) % 3
    for sample, label in zip(inputs, labels, strict=True):
        third = size[-1] // 3
        sample[..., int(label) * third : (int(label) + 1) * third] += 2
    return TensorDataset(inputs, labels)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_default_settings_shows_measures_and_records_its_samples(tmp_path, kind):
    dataset, module = data(kind), Tiny(kind)
    callback = SaliencyCallback(samples=first(8), style=Style(cards="all"), metrics=Metrics("all"), execution=RAISES)
    trainer(tmp_path, callback).fit(module, loader(dataset), loader(dataset))
    size = KINDS[kind][2][1:]
    log = events(tmp_path)
    methods = ("grad_cam", "grad_cam_plus_plus", "saliency")
    expected = {f"saliency/{method}{part}" for method in methods for part in ("", "/filmstrip", "/animation")}
    assert set(log.Tags()["images"]) == expected | {"saliency/Overview"}
    assert len(log.Images("saliency/Overview")) == 3  # initial, and two epochs
    for tag in log.Tags()["images"]:
        assert min(picture(log.Images(tag)[-1]).shape[1:]) > 100
    scalars = log.Tags()["scalars"]
    for metric in ("entropy", "area_above_half", "raw_maximum", "rank_correlation_initial", "center_shift_previous"):
        values = [event.value for event in log.Scalars(f"xai_saliency/grad_cam/{metric}")]
        assert values
        assert all(map(math.isfinite, values)), metric
    assert not any("box" in name for name in scalars)
    record = load_record(tmp_path)
    assert record.problems == {}
    assert record.samples.images[3].shape == KINDS[kind][2]
    assert record.samples.labels == tuple(dataset.tensors[1].tolist())
    for look in record:
        assert look.shapes["grad_cam"] == ((*(math.ceil(length / 2) for length in size),),) * 8
        assert look.shapes["saliency"] == (size,) * 8
        assert look.reasons["saliency"] == (None,) * 8
    assert filmstrip(record, "grad_cam", positions=[1, 5]).shape[0] == 3
    with Image.open(io.BytesIO(animation(record, "saliency"))) as film:
        assert film.n_frames == 3


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_record_holds_is_what_was_explained(tmp_path, kind):
    keeps, dataset = Keeps(), data(kind)
    callback = SaliencyCallback(["grad_cam", "saliency"], outputs=[keeps], execution=RAISES, samples=first(4))
    trainer(tmp_path, callback, max_epochs=1).fit(Tiny(kind), loader(dataset), loader(dataset))
    record = load_record(tmp_path)
    for seen, look in zip(keeps.looks, record, strict=True):
        (group,) = seen.explained
        assert torch.equal(group.explanation.images, dataset.tensors[0][:4])
        for key, raw in group.explanation.attributions.items():
            for row, recorded in enumerate(look.attributions[key]):
                map_range = float(raw[row].max() - raw[row].min())
                torch.testing.assert_close(torch.tensor(recorded), raw[row, 0], rtol=0, atol=map_range / 500 + 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_not_touched(tmp_path, kind):
    weights = []
    for callbacks in ([], [SaliencyCallback(execution=Execution(on_error="raise", audit=True))]):
        module = Tiny(kind)
        trainer(tmp_path / str(len(callbacks)), *callbacks).fit(module, loader(data(kind)), loader(data(kind)))
        weights.append(torch.cat([parameter.detach().flatten() for parameter in module.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_goes_on_with_its_samples_and_its_record(tmp_path, kind):
    dataset, L_checkpoint = data(kind), L.callbacks.ModelCheckpoint(dirpath=tmp_path / "checkpoints", save_last=True)
    options = {"enable_checkpointing": True}
    half = trainer(tmp_path, SaliencyCallback(execution=RAISES), L_checkpoint, max_epochs=1, **options)
    half.fit(Tiny(kind), loader(dataset), loader(dataset))
    second = trainer(tmp_path, SaliencyCallback(execution=RAISES), max_epochs=2)
    second.fit(Tiny(kind), loader(dataset), loader(dataset), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    record = load_record(tmp_path)
    assert (record.epochs, record.problems) == ([None, 0, 1], {})


def masks_of(batch):
    """The brighter third."""
    inputs, labels = batch
    masks = torch.zeros(len(inputs), 1, *inputs.shape[2:], dtype=torch.bool)
    third = inputs.shape[-1] // 3
    for mask, label in zip(masks, labels, strict=True):
        mask[..., int(label) * third : (int(label) + 1) * third] = True
    return masks


@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_masks_and_every_metric_has_a_value(tmp_path, kind):
    callback = SaliencyCallback(
        ["grad_cam", "saliency"],
        samples=Samples(num=3, objects=masks_of),
        metrics=Metrics("all", faithfulness=True, randomization_every_n_epochs=1),
        execution=RAISES,
    )
    dataset = data(kind)
    trainer(tmp_path, callback, max_epochs=1).fit(Tiny(kind), loader(dataset), loader(dataset))
    log = events(tmp_path)
    for metric in (
        "pointing_game", "energy_in_box", "average_drop", "deletion", "insertion", "rank_correlation_random_head",
    ):  # fmt: skip
        for method in ("grad_cam", "saliency"):
            assert all(math.isfinite(event.value) for event in log.Scalars(f"xai_saliency/{method}/{metric}"))
    assert "xai_saliency/grad_cam/box_iou" not in log.Tags()["scalars"]


def test_boxes_of_volumes_are_refused_before_training(tmp_path):
    boxes = Samples(num=3, objects=lambda batch: torch.zeros(len(batch[0]), 4))
    runner = trainer(tmp_path, SaliencyCallback("grad_cam", samples=boxes))
    with pytest.raises(ValueError, match=r"masks \(8, 1, 6, 10, 12\), got .* Boxes are for images \(N, C, H, W\) only"):
        runner.fit(Tiny("volumes"), loader(data("volumes")), loader(data("volumes")))
    assert runner.global_step == 0


@pytest.mark.parametrize("kind", KINDS)
def test_samples_may_be_given(tmp_path, kind):
    keeps, dataset = Keeps(), data(kind, 4)
    given = dataset.tensors if kind == "signals" else dataset.tensors[0]
    callback = SaliencyCallback("grad_cam", samples=given, outputs=[keeps], execution=RAISES)
    trainer(tmp_path, callback, max_epochs=1).fit(Tiny(kind), loader(data(kind)), loader(data(kind)))
    assert torch.equal(keeps.looks[0].explained[0].explanation.images, dataset.tensors[0])


@pytest.mark.parametrize(("volumes", "is_wide"), [("frames", True), ("slices", False), ("auto", False)])
def test_the_style_says_how_volumes_are_shown(tmp_path, volumes, is_wide):
    callback = SaliencyCallback("saliency", style=Style(volumes=volumes), samples=2, execution=RAISES)
    dataset = data("volumes")
    trainer(tmp_path, callback, max_epochs=1).fit(Tiny("volumes"), loader(dataset), loader(dataset))
    sheet = picture(events(tmp_path).Images("saliency/saliency")[-1])
    assert (sheet.shape[2] > sheet.shape[1]) == is_wide


class Features(Tiny):
    """Its step calls a network of signals and then a sequence's network, and has no forward of its own."""

    def __init__(self, is_first):
        super().__init__("signals")
        self.is_first = is_first
        self.embed = nn.Sequential(nn.Embedding(10, 2))

    forward = L.LightningModule.forward

    def training_step(self, batch, batch_idx):
        inputs = batch[0] if self.is_first else self.embed((batch[0][:, 0] > 0).long()).mT
        return F.cross_entropy(self.net(inputs), batch[1])


def test_a_sequence_of_features_is_no_signal(tmp_path):
    callback = SaliencyCallback("saliency", execution=RAISES)
    dataset = data("signals")
    trainer(tmp_path / "signals", callback, max_epochs=1).fit(Features(True), loader(dataset), loader(dataset))
    with pytest.raises(ValueError, match="to call what turns images into logits, which it does not"):
        trainer(tmp_path / "words", SaliencyCallback("saliency", execution=RAISES), max_epochs=1).fit(
            Features(False), loader(dataset), loader(dataset)
        )
