import importlib.util
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from tiny import events, trainer

from lightning_saliency import SaliencyCallback
from lightning_saliency.audit import digest

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def demo():
    path = Path(__file__).parents[1] / "examples/cluttered_digits.py"
    spec = importlib.util.spec_from_file_location("cluttered_digits", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_demo_trains_logs_and_reports(demo, tmp_path, capsys):
    result = demo.main(["--small", "--output", str(tmp_path)])
    assert 0 < result.accuracy < 1
    assert result.num_correct == round(result.accuracy * 100)
    assert result.hits.keys() == result.untrained_hits.keys() == {"cam", "grad_cam"}
    assert all(0 <= rate <= 1 for rate in [*result.hits.values(), *result.untrained_hits.values()])
    found = events(Path(result.log_dir))
    expected = {f"saliency/{name}" for name in ("cam", "grad_cam", "grad_cam_plus_plus", "saliency", "overview")}
    assert set(found.Tags()["images"]) == expected
    assert len(found.Images("saliency/cam")) == 1 + 2  # before training, and two epochs
    printed = capsys.readouterr().out
    assert f"Validation accuracy: {result.accuracy:.1%}" in printed
    assert f"tensorboard --logdir {tmp_path} --samples_per_plugin images=500" in printed


def test_the_demos_images_are_deterministic_with_disjoint_originals_and_the_box_holds_the_digit(demo):
    def composed(seed):
        torch.randn(3), np.random.rand(3), random.random()  # whatever else draws
        module = demo.ClutteredDigitsDataModule(num_train=40, num_val=30, seed=seed)
        module.setup("fit")
        return module

    first, again, other = composed(0), composed(0), composed(1)
    for name in ("train_set", "val_set"):
        same, different = getattr(again, name).tensors, getattr(other, name).tensors
        assert all(torch.equal(a, b) for a, b in zip(getattr(first, name).tensors, same, strict=True))
        assert not torch.equal(getattr(first, name).tensors[0], different[0])
    images, labels, boxes = first.val_set.tensors
    assert images.shape == (30, 1, 64, 64)
    assert images.min() >= 0
    assert images.max() <= 1
    assert set(labels.tolist()) <= set(range(10))
    for image, (x1, y1, x2, y2) in zip(images[:, 0], boxes.tolist(), strict=True):
        assert 0 <= x1 < x2 <= 64
        assert 0 <= y1 < y2 <= 64
        ink = image[y1:y2, x1:x2] > demo.INK
        assert ink[0].any()
        assert ink[-1].any()
        assert ink[:, 0].any()
        assert ink[:, -1].any()


def test_the_hits_are_counted_by_where_the_maximum_lies(demo):
    heatmaps = torch.zeros(6, 1, 64, 64)
    heatmaps[:5, 0, 10, 20] = 1.0  # y = 10, x = 20; the sixth is blank
    boxes = torch.tensor(
        [[20, 10, 21, 11], [21, 10, 30, 20], [10, 20, 11, 21], [15, 5, 20, 15], [15, 5, 21, 15], [0, 0, 64, 64]]
    )
    assert demo.points_at(boxes, heatmaps).tolist() == [True, False, False, False, True, False]


def test_the_demos_training_ends_bit_for_bit_the_same_with_and_without_the_callback(demo, tmp_path):
    endings = []
    for callbacks in ([], [SaliencyCallback(("cam", "grad_cam", "grad_cam_plus_plus", "saliency"), on_error="raise")]):
        L.seed_everything(0)
        model = demo.DigitClassifier()
        runner = trainer(tmp_path / str(len(callbacks)), *callbacks)
        runner.fit(model, datamodule=demo.ClutteredDigitsDataModule(600, 100))
        states = (model.state_dict(), runner.optimizers[0].state_dict(), torch.get_rng_state())
        endings.append(digest([*states, random.getstate(), np.random.get_state()]))
    assert endings[0] == endings[1]
    assert len(events(tmp_path / "1").Images("saliency/overview")) == 3


def test_the_demos_help_reads_well(demo, capsys):
    with pytest.raises(SystemExit, match="0"):
        demo.main(["--help"])
    printed = capsys.readouterr().out
    for option in ("--small", "--epochs", "--seed", "--output"):
        assert re.search(rf"{option}\b.*\n?.*\w+", printed)
