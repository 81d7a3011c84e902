import csv
import importlib.util
import random
import re
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from PIL import Image
from tiny import events, sheets, trainer

from lightning_saliency import METHODS, SaliencyCallback, class_model_image, fooling_image
from lightning_saliency.audit import digest

pytestmark = pytest.mark.filterwarnings("default")


@contextmanager
def example(name):
    path = Path(__file__).parents[1] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]


@pytest.fixture(scope="module")
def demo():
    with example("cluttered_digits") as module:
        yield module


@pytest.fixture(scope="module")
def train_gap():
    with example("train_gap") as module:
        yield module


def test_the_demo_trains_logs_and_reports(demo, tmp_path, capsys):
    result = demo.main(["--small", "--output", str(tmp_path)])
    assert 0 < result.accuracy < 1
    assert result.num_correct == round(result.accuracy * 100)
    assert result.hits.keys() == result.untrained_hits.keys() == {"cam", "grad_cam"}
    assert all(0 <= rate <= 1 for rate in [*result.hits.values(), *result.untrained_hits.values()])
    found = events(Path(result.log_dir))
    expected = {f"saliency/{name}" for name in ("cam", "grad_cam", "grad_cam_plus_plus", "saliency", "overview")}
    assert sheets(Path(result.log_dir)) == expected
    assert len(found.Images("saliency/cam")) == 1 + 2  # before training, and two epochs
    assert {"saliency/cam/filmstrip", "saliency/cam/animation"} <= set(found.Tags()["images"])
    assert len(found.Scalars("saliency/cam/energy_in_box")) == 2
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


def test_the_demos_network_takes_its_own_class_images_for_what_they_show_and_is_fooled(demo, tmp_path):
    L.seed_everything(0)
    model, data = demo.DigitClassifier(), demo.ClutteredDigitsDataModule(2500, 50)
    trainer(tmp_path, max_epochs=5, logger=False, limit_val_batches=0).fit(model, datamodule=data)
    model.eval()
    made = class_model_image(model, range(10), (1, 64, 64))
    assert model(made.images).argmax(1).tolist() == list(range(10))
    assert (made.scores > made.start_scores).all()
    fooled = fooling_image(model, data.val_set.tensors[0], bounds=(0.0, 1.0))
    assert fooled.fooled.all()
    assert torch.equal(model(fooled.images).argmax(1), fooled.targets)


def test_the_demos_help_reads_well(demo, capsys):
    with pytest.raises(SystemExit, match="0"):
        demo.main(["--help"])
    printed = capsys.readouterr().out
    for option in ("--small", "--epochs", "--seed", "--output"):
        assert re.search(rf"{option}\b.*\n?.*\w+", printed)


# --- train_gap.py

SMALL = ["--data.num_workers=0", "--data.batch_size=12", "--trainer.logger.save_dir=logs"]


def write_photos(root, number, seed=0):
    """JPEGs of several sizes, noise with a bright square in the colour that is the class; returns the squares."""
    rng = np.random.default_rng(seed)
    squares = {}
    for channel, name in enumerate(("red", "green", "blue")):
        (root / name).mkdir(parents=True)
        for index in range(number):
            height, width = rng.integers(60, 120, 2)
            photo = rng.integers(40, 80, (height, width, 3)).astype(np.uint8)
            x, y = rng.integers(0, width - 30), rng.integers(0, height - 30)
            photo[y : y + 30, x : x + 30, channel] = 255
            path = root / name / f"{index}.jpg"
            Image.fromarray(photo).save(path)
            squares[str(path)] = (x, y, x + 30, y + 30)
    return squares


def test_a_cam_model_is_trained_on_folders_of_jpegs_and_finds_its_boxes(train_gap, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos/train", 24)
    squares = write_photos(tmp_path / "photos/val", 8, seed=1)
    monkeypatch.setattr(sys, "argv", ["train_gap.py"])
    train_gap.main(
        ["fit", "--data.root=photos", *SMALL, "--model.image_size=64",
         "--model.backbone=resnet18", "--model.resolution=8", "--model.hidden=32",
         "--trainer.max_epochs=6", "--model.unfreeze_at_epoch=1", "--trainer.log_every_n_steps=1"]
    )  # fmt: skip
    logs = tmp_path / "logs/train_gap"
    found = events(logs / "version_0")
    assert found.Scalars("val_accuracy")[-1].value > 0.9
    assert len(found.Images("saliency/cam")) == 1 + 6
    checkpoint = logs / "version_0/checkpoints/best.ckpt"
    train_gap.main(["predict", "--data.root=photos", *SMALL, f"--ckpt_path={checkpoint}"])  # no option of the model
    written = capsys.readouterr().out.split("Boxes: ")[1].splitlines()[0]
    for subcommand in ("predict", "validate"):
        with pytest.raises(SystemExit, match="2"):
            train_gap.main([subcommand, "--data.root=photos", *SMALL])
        assert f"{subcommand} needs a trained network: --ckpt_path FILE" in capsys.readouterr().err
    with open(written) as file:
        rows = list(csv.DictReader(file))
    assert [str(tmp_path / row["file"]) for row in rows] == sorted(
        squares, key=lambda path: (path.split("/")[-2], path)
    )
    right = [row for row in rows if row["class"] == Path(row["file"]).parent.name]
    assert len(right) > 20
    centred = 0
    for row in right:
        x1, y1, x2, y2 = (int(row[corner]) for corner in ("x1", "y1", "x2", "y2"))
        with Image.open(row["file"]) as photo:
            width, height = photo.size
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        left, top, end, bottom = squares[str(tmp_path / row["file"])]
        centred += left < (x1 + x2) / 2 < end and top < (y1 + y2) / 2 < bottom
    assert centred > 0.7 * len(right)  # in the photo's own pixels


def test_a_folder_without_train_and_val_is_split_without_overlap(train_gap, tmp_path):
    write_photos(tmp_path / "photos", 10)
    module = train_gap.ImageFolders(str(tmp_path / "photos"), image_size=32, val_fraction=0.3)
    assert module.num_classes == 3
    assert len(module.train_set) == 21
    assert set(module.train_set.indices).isdisjoint(module.val_set.indices)
    assert train_gap.files_of(module.val_set) == train_gap.files_of(
        train_gap.ImageFolders(str(tmp_path / "photos"), val_fraction=0.3).val_set
    )
    assert train_gap.files_of(module.val_set) != train_gap.files_of(
        train_gap.ImageFolders(str(tmp_path / "photos"), val_fraction=0.3, seed=1).val_set
    )
    with pytest.raises(ValueError, match="`val_fraction` to leave images on both sides of 30"):
        train_gap.ImageFolders(str(tmp_path / "photos"), val_fraction=0.0)


def test_other_classes_for_validation_are_refused(train_gap, tmp_path):
    write_photos(tmp_path / "photos/train", 1)
    write_photos(tmp_path / "photos/val", 1)
    (tmp_path / "photos/val/red").rename(tmp_path / "photos/val/orange")
    with pytest.raises(
        ValueError, match=r"the same classes in .*train and .*val, but not in both: \['orange', 'red'\]"
    ):
        train_gap.ImageFolders(str(tmp_path / "photos"))


def test_a_root_with_one_part_or_one_class_is_refused(train_gap, tmp_path):
    write_photos(tmp_path / "photos/train", 1)
    with pytest.raises(ValueError, match="Expected both `train` and `val` in"):
        train_gap.ImageFolders(str(tmp_path / "photos"))
    write_photos(tmp_path / "single", 2)
    for other in ("green", "blue"):
        shutil.rmtree(tmp_path / "single" / other)
    with pytest.raises(ValueError, match=r"at least two classes, a folder each, in .*single, got \['red'\]"):
        train_gap.ImageFolders(str(tmp_path / "single"))


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help"]])
def test_the_help_of_train_gap_begins_with_what_a_person_sets(train_gap, arguments, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_gap.py"])
    with pytest.raises(SystemExit, match="0"):
        train_gap.main(arguments)
    printed = capsys.readouterr().out
    assert printed.startswith("usage: train_gap.py")
    if arguments == ["--help"]:
        assert "python examples/train_gap.py predict --data.root photos" in printed
        assert len(printed.splitlines()) < 45
    else:
        wanted = (
            "--data.root",
            "--model.backbone",
            "--cam.num_samples",
            "--checkpoint.monitor",
            "--trainer.max_epochs",
        )
        places = [re.search(rf"^  {option} ", printed, re.MULTILINE).start() for option in wanted]
        assert places == sorted(places)
        assert "torch.nn.Linear" not in printed  # every module of torch


# --- localisation_table.py


@pytest.fixture(scope="module")
def localisation(demo):
    with example("localisation_table") as module:  # imports the demo that is loaded already
        yield module


def test_the_table_has_a_row_for_each_network_and_map_and_its_figures_are_counted_by_hand(localisation, demo, tmp_path):
    data = demo.ClutteredDigitsDataModule(64, 12)
    data.setup("fit")
    images, labels, boxes = data.val_set.tensors
    run, models = {}, {}
    for head, methods in localisation.HEADS.items():
        models[head] = localisation.train(head, data, seed=0, epochs=1)
        run |= {
            (head, method): found for method, found in localisation.measure(models[head], methods, data.val_set).items()
        }
    table = localisation.table([run, run]).splitlines()
    assert len(table) == 2 + 6
    assert all(line.count("|") == table[0].count("|") for line in table)

    found = models["GAP"].eval().predict_step([images, labels], 0)  # its own way to the boxes, at 20 % as well
    correct = found.logits.argmax(1) == labels
    hits, errors = 0, 0
    for row, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        left, top, right, bottom = found.boxes[row].tolist()
        overlap = max(0, min(x2, right) - max(x1, left)) * max(0, min(y2, bottom) - max(y1, top))
        union = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - overlap
        errors += not (correct[row] and overlap / union >= 0.5)
        place = int(found.heatmaps[row].argmax())
        hits += bool(found.found[row]) and y1 <= place // 64 < y2 and x1 <= place % 64 < x2
    figures = run["GAP", "cam"]
    assert figures.localisation_error == pytest.approx(errors / 12)
    assert figures.hits == pytest.approx(hits / 12)
    assert figures.classification_error == pytest.approx(1 - correct.float().mean().item())
    assert figures.best_localisation_error <= figures.localisation_error
    localisation.draw(models, data.val_set, num_images=2).savefig(tmp_path / "boxes.png")
    with Image.open(tmp_path / "boxes.png") as picture:
        assert picture.width > picture.height


# --- method_costs.py


def test_the_costs_of_all_methods_are_measured():
    with example("method_costs") as module:
        found = module.costs("resnet18", batch=1, size=48, rounds=1)
    assert found.keys() == {"forward", *METHODS}
    assert found["forward"] == 1
    assert found["smooth_grad"] > found["saliency"] > 0
