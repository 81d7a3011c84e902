import csv
import importlib.util
import json
import random
import re
import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from PIL import Image
from tiny import events, sheets, trainer
from torchvision.models import squeezenet1_1

from lightning_saliency import METHODS, CAMClassifier, SaliencyCallback, class_model_image, explain, fooling_image
from lightning_saliency.attribution import to_heatmaps
from lightning_saliency.callbacks import Execution
from lightning_saliency.callbacks.audit import digest

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
    assert sheets(Path(result.log_dir)) == {"saliency/Overview"}
    assert len(found.Images("saliency/Overview")) == 1 + 2  # before training, and two epochs
    assert {"saliency/cam/filmstrip", "saliency/cam/animation"} <= set(found.Tags()["images"])
    assert len(found.Scalars("xai_saliency/cam/energy_in_box")) == 2
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
    for callbacks in (
        [],
        [
            SaliencyCallback(
                ["cam", "grad_cam", "grad_cam_plus_plus", "saliency"], execution=Execution(on_error="raise")
            )
        ],
    ):
        L.seed_everything(0)
        model = demo.DigitClassifier()
        runner = trainer(tmp_path / str(len(callbacks)), *callbacks)
        runner.fit(model, datamodule=demo.ClutteredDigitsDataModule(600, 100))
        states = (model.state_dict(), runner.optimizers[0].state_dict(), torch.get_rng_state())
        endings.append(digest([*states, random.getstate(), np.random.get_state()]))
    assert endings[0] == endings[1]
    assert len(events(tmp_path / "1").Images("saliency/Overview")) == 3


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
    """JPEGs of several sizes, noise with a bright square in the color that is the class; returns the squares."""
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
    centered = 0
    for row in right:
        x1, y1, x2, y2 = (int(row[corner]) for corner in ("x1", "y1", "x2", "y2"))
        with Image.open(row["file"]) as photo:
            width, height = photo.size
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        left, top, end, bottom = squares[str(tmp_path / row["file"])]
        centered += left < (x1 + x2) / 2 < end and top < (y1 + y2) / 2 < bottom
    assert centered > 0.7 * len(right)  # in the photo's own pixels


def write_photos_with_boxes(folder):
    """Write photos to train and to validate with, and return the boxes of every other one of the latter."""
    write_photos(folder / "photos/train", 8)
    boxes = {}
    for path, (x1, y1, x2, y2) in list(write_photos(folder / "photos/val", 4, seed=1).items())[::2]:
        with Image.open(path) as photo:
            width, height = photo.size
        key = Path(path).relative_to(folder / "photos/val").as_posix()
        boxes[key] = [[x1 / width, y1 / height, x2 / width, y2 / height]]
    (folder / "boxes.json").write_text(json.dumps(boxes))
    return boxes


def test_it_begins_with_a_file_of_weights_and_measures_the_maps_in_boxes(train_gap, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    boxes = write_photos_with_boxes(tmp_path)
    whole = squeezenet1_1(num_classes=5)
    torch.save({key: value.half() for key, value in whole.state_dict().items()}, "weights.pth")
    monkeypatch.setattr(sys, "argv", ["train_gap.py"])
    options = ["--data.root=photos", "--data.boxes=boxes.json", *SMALL]
    train_gap.main(
        ["fit", *options, "--model.backbone=squeezenet1_1", "--model.weights=weights.pth", "--model.image_size=64",
         "--model.backbone_learning_rate=0", "--model.hidden=8", "--trainer.max_epochs=1",
         "--trainer.log_every_n_steps=1"]
    )  # fmt: skip
    printed = capsys.readouterr().out.split("After the last epoch: ")[1].splitlines()[0]
    measured = {name: float(value) for name, value in (figure.split() for figure in printed.split(", "))}
    areas = [(x2 - x1) * (y2 - y1) for [(x1, y1, x2, y2)] in boxes.values()]
    assert measured["val_area_of_box"] == pytest.approx(np.mean(areas), abs=0.01)  # whole pixels of 64
    checkpoint = "logs/train_gap/version_0/checkpoints/best.ckpt"
    model = CAMClassifier.load_from_checkpoint(checkpoint).eval()
    kept = model.backbone.state_dict()
    assert all(torch.equal(kept[key], whole.state_dict()[key].half().float()) for key in kept)
    images, masks = train_gap.ImageFolders("photos", image_size=64, boxes="boxes.json").val_set, []
    energies, hits = [], []
    for index, path in enumerate(images.paths):
        image, label, mask = images[index]
        masks.append(bool(mask.any()) == (path in boxes))
        if path in boxes:
            with torch.no_grad():
                heatmap = to_heatmaps(model.class_maps(image[None])[:, label, None], (64, 64))[0]
            energies.append(float(heatmap[mask].sum() / heatmap.sum().clamp(min=1e-12)))
            hits.append(bool(mask.flatten()[heatmap.argmax()]))
    assert all(masks)
    assert measured["val_energy_in_box"] == pytest.approx(np.mean(energies), abs=2e-3)
    assert measured["val_pointing_game"] == pytest.approx(np.mean(hits), abs=2e-3)
    Path("boxes.json").write_text(json.dumps({"elsewhere/1.jpg": [[0, 0, 1, 1]]}))
    with pytest.raises(ValueError, match=r"boxes of images in photos.val, got those of \['elsewhere/1.jpg'\]"):
        train_gap.ImageFolders("photos", boxes="boxes.json")


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
            "--cam.samples",
            "--checkpoint.monitor",
            "--trainer.max_epochs",
        )
        places = [re.search(rf"^  {option} ", printed, re.MULTILINE).start() for option in wanted]
        assert places == sorted(places)
        assert "torch.nn.Linear" not in printed  # every module of torch


# --- train_vit.py

TINY_VIT = """
from torchvision.models import VisionTransformer

def make(num_classes):
    return VisionTransformer(
        32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, dropout=0.1, num_classes=num_classes
    )
"""


def test_a_transformer_is_trained_head_first_and_each_methods_maps_are_measured(
    train_gap, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("tiny_vision_transformer.py").write_text(TINY_VIT)
    boxes = write_photos_with_boxes(tmp_path)
    L.seed_everything(5)
    module = importlib.import_module("tiny_vision_transformer")
    backbone = {key: value for key, value in module.make(3).state_dict().items() if not key.startswith("heads.")}
    torch.save(backbone, "backbone.pt")
    trained = []
    with example("train_vit") as train_vit:  # which imports the train_gap that is loaded already
        measure = train_vit.measure

        def measured(model, *options):
            trained.append({key: value.clone() for key, value in model.state_dict().items()})
            return measure(model, *options)

        monkeypatch.setattr(train_vit, "measure", measured)
        stages = train_vit.main(
            ["--model=tiny_vision_transformer:make", "--weights=backbone.pt", "--data=photos", "--boxes=boxes.json",
             "--size=32", "--head-epochs=1", "--epochs=1", "--learning-rate=0.001",
             "--methods", "attention_relevance", "grad_cam"]
        )  # fmt: skip
    head_alone, whole = trained
    assert all(torch.equal(head_alone[key], value) for key, value in backbone.items())
    assert not any(torch.equal(whole[key], value) for key, value in backbone.items())
    area = np.mean([(x2 - x1) * (y2 - y1) for [(x1, y1, x2, y2)] in boxes.values()])
    rows = ["area of the boxes", "attention_relevance", "grad_cam", "random map", "centered blob"]
    assert list(stages) == ["new head", "whole network"]
    for figures in stages.values():
        assert sorted(figures) == sorted(rows)
        assert figures["area of the boxes"].energy_in_box == pytest.approx(area, abs=0.02)  # whole pixels of 32
        assert figures["random map"].energy_in_box == pytest.approx(area, abs=0.08)
        assert all(0 <= value <= 1 for row in figures.values() for value in (row.energy_in_box, row.pointing_game))
    blobs = [figures["centered blob"] for figures in stages.values()]
    assert blobs[0] == blobs[1]
    printed = capsys.readouterr().out
    figure = stages["whole network"]["grad_cam"]
    (line,) = (line for line in printed.splitlines() if line.startswith("| `grad_cam`"))
    assert [line.split(" | ")[2], line.split(" | ")[4][:4]] == [
        f"{figure.energy_in_box:.2f}", f"{figure.pointing_game:.2f}",
    ]  # fmt: skip
    for stage in stages:
        assert len(events(tmp_path / f"logs/train_vit/seed 0, {stage}").Images("saliency/Overview")) == 1 + 1


# --- localization_table.py


@pytest.fixture(scope="module")
def localization(demo):
    with example("localization_table") as module:  # imports the demo that is loaded already
        yield module


def test_the_table_has_a_row_for_each_network_and_map_and_its_figures_are_counted_by_hand(localization, demo, tmp_path):
    data = demo.ClutteredDigitsDataModule(64, 12)
    data.setup("fit")
    images, labels, boxes = data.val_set.tensors
    run, models = {}, {}
    for head, methods in localization.HEADS.items():
        models[head] = localization.train(head, data, seed=0, epochs=1)
        measured = localization.measure(models[head], methods, data.val_set)
        run |= {(head, method): figures for method, figures in measured.items()}
    table = localization.table([run, run]).splitlines()
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
    assert figures.localization_error == pytest.approx(errors / 12)
    assert figures.hits == pytest.approx(hits / 12)
    assert figures.classification_error == pytest.approx(1 - correct.float().mean().item())
    assert figures.best_localization_error <= figures.localization_error
    localization.draw(models, data.val_set, num_images=2).savefig(tmp_path / "boxes.png")
    with Image.open(tmp_path / "boxes.png") as picture:
        assert picture.width > picture.height


# --- shortcut.py


@pytest.fixture(scope="module")
def shortcut(demo):
    with example("shortcut") as module:  # imports the demo that is loaded already
        yield module


@pytest.fixture(scope="module")
def digits(demo):
    module = demo.ClutteredDigitsDataModule(num_train=8, num_val=1000)
    module.setup("fit")
    return module.val_set


@pytest.fixture(scope="module")
def tried(shortcut, tmp_path_factory):
    """What `--small` finds and writes: its trial and the folders of its page and its logs."""
    docs, logs = (tmp_path_factory.mktemp(name) for name in ("docs", "logs"))
    (trial,) = shortcut.main(["--small", "--docs", str(docs / "new"), "--output", str(logs)])
    return trial, docs / "new", logs


def squares(images, gray):
    """Where the squares are, `(N, H, W)`: no channel of a gray pixel differs from the others."""
    return (images != gray).any(1)


def colors_of(images, gray, table):
    """Which of the table's colors each square has; -1 for none of them."""
    found = []
    for image, where in zip(images, squares(images, gray), strict=True):
        same = (table[:, :, None] == image[:, where]).all(1).all(1)
        found.append(int(same.nonzero()) if same.sum() == 1 else -1)
    return torch.tensor(found)


def test_the_square_keeps_its_distance_from_the_digit_and_leaves_all_else_as_it_was(shortcut, digits):
    gray, _, boxes = digits.tensors
    images, _, same_boxes = shortcut.PatchedDigits(digits, 0.5, seed=0).tensors
    assert images.shape == (1000, 3, 64, 64)
    assert torch.equal(boxes, same_boxes)
    distances = []
    for where, (x1, y1, x2, y2) in zip(squares(images, gray), boxes.tolist(), strict=True):
        rows, columns = where.any(1).nonzero().flatten().tolist(), where.any(0).nonzero().flatten().tolist()
        assert len(rows) == len(columns) == 6
        assert where.sum() == 36
        distances.append(max(x1 - columns[-1] - 1, columns[0] - x2, y1 - rows[-1] - 1, rows[0] - y2))
    assert min(distances) == 2
    assert max(distances) > 20  # anywhere, not only beside it
    assert squares(images, gray).any(0).float().mean() > 0.95


@pytest.mark.parametrize("probability", [0.0, 0.5, 0.95, 1.0])
def test_the_color_goes_with_the_class_as_often_as_was_asked_for(shortcut, digits, probability):
    gray, labels, _ = digits.tensors
    images, same_labels, _ = shortcut.PatchedDigits(digits, probability, seed=0).tensors
    assert torch.equal(labels, same_labels)
    colors = colors_of(images, gray, shortcut.COLORS)
    assert set(colors.tolist()) == set(range(10))
    expected = probability + (1 - probability) / 10  # any of the ten may be the class's by chance
    tolerance = 3 * (expected * (1 - expected) / 1000) ** 0.5
    assert (colors == labels).float().mean().item() == pytest.approx(expected, abs=tolerance)
    others = torch.bincount((colors - labels)[colors != labels] % 10, minlength=10)[1:]
    assert others.max() <= 6 + 2 * (1 - probability) * 100  # no other color is preferred


def test_the_ten_colors_differ_clearly_and_none_is_a_gray(shortcut):
    colors = shortcut.COLORS
    assert torch.cdist(colors, colors)[~torch.eye(10, dtype=torch.bool)].min() > 0.4
    assert (colors.amax(1) - colors.amin(1)).min() > 0.4


def test_the_two_validation_sets_and_the_runs_differ_in_nothing_but_colors(shortcut):
    good, bad = (shortcut.Data.compose(probability, 60, 50, seed=0) for probability in (0.0, 0.95))
    for one, other in (
        (good.with_shortcut, good.clean),
        (good.with_shortcut, bad.with_shortcut),
        (good.clean, bad.clean),
        (good.train, bad.train),
    ):
        differing = (one.tensors[0] != other.tensors[0]).any(1).flatten(1).sum(1)
        assert set(differing.tolist()) <= {0, 36}
        assert all(torch.equal(a, b) for a, b in zip(one.tensors[1:], other.tensors[1:], strict=True))
    assert torch.equal(good.with_shortcut.tensors[0], bad.with_shortcut.tensors[0])
    assert torch.equal(good.clean.tensors[0], bad.clean.tensors[0])
    assert not torch.equal(good.with_shortcut.tensors[0], good.clean.tensors[0])
    assert not torch.equal(good.train.tensors[0], bad.train.tensors[0])
    areas = [(x2 - x1) * (y2 - y1) / 64**2 for x1, y1, x2, y2 in good.with_shortcut.tensors[2].tolist()]
    assert good.even == pytest.approx(sum(areas) / 50)


def test_the_alarm_stops_a_run_as_soon_as_its_eye_is_off_the_digit_and_looks_at_no_clean_image(shortcut, tried):
    trial, _, logs = tried
    threshold = 2 * shortcut.Data.compose(0.0, 8, 100, seed=0).even
    assert trial.threshold == pytest.approx(threshold)
    assert trial.caught.stopped
    assert trial.caught.epochs == 1
    assert trial.caught.curves[shortcut.ENERGY][0] < threshold
    assert not trial.good.stopped
    assert min(trial.good.curves[shortcut.ENERGY]) > threshold
    assert not trial.bad.stopped
    assert min(trial.bad.curves[shortcut.ENERGY]) < threshold
    assert trial.good.epochs == trial.bad.epochs == 2
    assert trial.caught.starts_like(trial.bad)
    assert not trial.caught.starts_like(trial.good)
    for run in (trial.good, trial.caught, trial.bad):
        shown = run.record.samples
        assert len(set(shown.labels)) == len(shown) == 4
        assert run.record.epochs == [None, *range(run.epochs)]
        for image, label in zip(shown.images, shown.labels, strict=True):
            color = (shortcut.COLORS[label] * 255).round().to(torch.uint8)
            assert (image == color[:, None, None]).all(0).sum() >= 36
        folder = Path(run.record.path).parent
        assert logs in folder.parents
        scalars = [event.value for event in events(folder).Scalars("xai_saliency/grad_cam/energy_in_box")]
        assert scalars == pytest.approx(run.curves[shortcut.ENERGY])
        assert len(events(folder).Images("saliency/grad_cam/filmstrip")) >= 1


def test_the_page_has_the_figures_of_its_runs_and_two_pictures(shortcut, tried):
    trial, docs, _ = tried
    page = (docs / "shortcut.md").read_text(encoding="utf-8")
    assert "\npython examples/shortcut.py --docs docs --small\n" in page
    assert shortcut.table([trial]) in page
    assert str(docs) not in page
    assert all(len(line) <= 120 or line[0] == "|" for line in page.splitlines() if line)
    for name in re.findall(r"!\[.+?\]\((.+?)\)", page):
        with Image.open(docs / name) as picture:
            assert 500 < picture.width <= 1500
            assert picture.height > 500
    assert sorted(path.name for path in docs.iterdir()) == [
        "shortcut.md",
        "shortcut_curves.png",
        "shortcut_filmstrip.jpg",
    ]


def test_the_table_says_what_each_run_came_to_and_what_its_alarm_did(shortcut, tried):
    def curves(run, accuracies, cleans, energies, hits):
        values = {
            shortcut.WITH_SHORTCUT: accuracies,
            shortcut.CLEAN: cleans,
            shortcut.ENERGY: energies,
            shortcut.POINTING: hits,
        }
        return replace(run, curves=values, stopped=False)

    trial = tried[0]
    good = curves(trial.good, [0.5, 0.75], [0.25, 0.625], [0.4375, 0.5], [0.5, 1.0])
    bad = curves(trial.bad, [0.5, 1.0], [0.125, 0.375], [0.0625, 0.25], [0.0, 0.375])
    caught = replace(curves(trial.caught, [0.5], [0.125], [0.0625], [0.0]), stopped=True)
    assert caught.starts_like(bad)
    assert not caught.starts_like(good)
    *_, first, second, third = shortcut.table([replace(trial, seed=7, good=good, caught=caught, bad=bad)]).splitlines()
    assert first == "| 7 | p=0 | 2 | 75.0 % | 62.5 % | 0.500 | 0.438 | 100.0 % | never |"
    assert second == "| 7 | p=0.95 | 1 | 50.0 % | 12.5 % | 0.062 | 0.062 | 0.0 % | epoch 0 |"
    assert third == "| 7 | p=0.95 | 2 | 100.0 % | 37.5 % | 0.250 | 0.062 | 37.5 % | off |"


# --- method_costs.py


def test_the_costs_of_all_methods_are_measured():
    with example("method_costs") as module:
        found = module.all_costs("resnet18", "vit_b_32", batch=1, size=64, rounds=1)
    assert found.keys() == {"forward", *METHODS}
    assert found["forward"] == 1
    assert found["smooth_grad"] > found["saliency"] > 0


# --- planted_glyph.py


@pytest.fixture(scope="module")
def glyphs():
    with example("glyphs") as module:
        yield module


@pytest.fixture(scope="module")
def planted(glyphs):
    with example("planted_glyph") as module:  # imports the images and networks that are loaded already
        yield module


@pytest.fixture(scope="module")
def planted_trials(planted, tmp_path_factory):
    """What `--small` measures, and the folder of its page."""
    docs = tmp_path_factory.mktemp("docs") / "new"
    return planted.main(["--small", "--seeds", "1", "--docs", str(docs)]), docs


@pytest.mark.parametrize("objects", [1, 2])
def test_three_glyphs_stand_apart_and_those_of_a_class_are_where_the_boxes_say(glyphs, objects, monkeypatch):
    monkeypatch.setattr(glyphs, "NOISE", 0.0)
    images = glyphs.Images.compose(300, seed=0, objects=objects)
    assert images.pixels.shape == (300, 1, 28, 28)
    assert set(images.labels.flatten().tolist()) == set(range(6))
    for pixels, labels, boxes in zip(images.pixels[:, 0], images.labels, images.boxes, strict=True):
        assert len(set(labels.tolist())) == objects
        left = pixels.clone()
        for label, (x1, y1, x2, y2) in zip(labels, boxes.tolist(), strict=True):
            assert torch.equal(pixels[y1:y2, x1:x2], glyphs.CLASS_GLYPHS[label].float())
            left[y1:y2, x1:x2] = 0
        assert set(pixels.unique().tolist()) == {0.0, 1.0}  # nothing overlaps
        assert left.any()
    corners = images.boxes[..., :2]
    assert corners.unique().tolist() == list(range(0, 21, 2))
    assert (corners % 4 == 0).all(-1).float().mean().item() == pytest.approx(
        36 / 121, abs=0.1
    )  # on the grid of patches


def test_the_class_glyphs_differ_from_one_another_and_other_seeds_give_other_images(glyphs):
    flat = glyphs.CLASS_GLYPHS.flatten(1).float()
    assert torch.cdist(flat, flat, p=0)[~torch.eye(6, dtype=torch.bool)].min() >= 16  # pixels of 64
    first, again, other = (glyphs.Images.compose(20, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.pixels, again.pixels)
    assert not torch.equal(first.pixels, other.pixels)


def test_the_same_seed_trains_the_same_network(planted, glyphs):
    def trained(seed):
        torch.manual_seed(0)
        network = planted.KINDS[0].build()
        glyphs.train(network, 2, seed)
        return network

    first, again, other = (trained(seed).head.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_a_network_is_said_to_be_without_is_refused(planted, glyphs):
    images = glyphs.Images.compose(2, seed=0)
    for kind in planted.KINDS:
        for method in kind.without:
            with pytest.raises(ValueError, match=r"attention|pooling"):
                explain(kind.build().eval(), images.pixels, methods=method, target=images.labels[:, 0])


def test_the_figures_of_a_method_are_counted_by_hand(planted, glyphs):
    torch.manual_seed(0)
    network = planted.KINDS[4].build().eval()
    single, double = planted.validation_images(9), planted.validation_images(6, objects=2)
    figures = planted.measure(network, ["saliency"], single, double)["saliency"]

    def maps_of(images, glyph):
        target = images.labels[:, glyph]
        return explain(network, images.pixels, methods="saliency", target=target).heatmaps()["saliency"][:, 0]

    def inside(box, place):
        x1, y1, x2, y2 = box.tolist()
        return y1 <= place // 28 < y2 and x1 <= place % 28 < x2

    hits = [inside(box, int(one.argmax())) for one, box in zip(maps_of(single, 0), single.boxes[:, 0], strict=True)]
    assert figures.hits == pytest.approx(sum(hits) / 9)
    shares = [
        one[y1:y2, x1:x2].sum().item() / one.sum().item()
        for one, (x1, y1, x2, y2) in zip(maps_of(single, 0), single.boxes[:, 0].tolist(), strict=True)
    ]
    assert figures.energy == pytest.approx(sum(shares) / 9)
    asked = other = 0
    for glyph in (0, 1):
        for one, boxes in zip(maps_of(double, glyph), double.boxes, strict=True):
            asked += inside(boxes[glyph], int(one.argmax()))
            other += inside(boxes[1 - glyph], int(one.argmax()))
    assert figures.asked == pytest.approx(asked / 12)
    assert figures.other == pytest.approx(other / 12)


def test_the_page_of_the_glyph_has_the_figures_of_its_networks_and_two_pictures(planted, planted_trials):
    trials, docs = planted_trials
    assert [trial.kind for trial in trials] == list(planted.KINDS)
    page = (docs / "planted_glyph.md").read_text(encoding="utf-8")
    assert "\npython examples/planted_glyph.py --docs docs --small --seeds 1\n" in page
    assert str(docs) not in page
    assert planted.pointing_table(trials) in page
    assert page.count("| LRP |") == 4
    for row in re.findall(r"^\| CAM \|.*", page, re.MULTILINE):
        assert [cell.strip() == "–" for cell in row.split("|")[2:-1]] == [True, True, False, False, False]
    assert "`blocks.3.norm1 · 7×7 tokens after 1+4`" in page
    assert all(len(line) <= 120 or line[0] == "|" for line in page.splitlines() if line)
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", page)
    for name in pictures:
        with Image.open(docs / name) as picture:
            assert 500 < picture.width <= 1500
            assert picture.height > 500
    assert sorted(path.name for path in docs.iterdir()) == sorted(["planted_glyph.md", *pictures])
