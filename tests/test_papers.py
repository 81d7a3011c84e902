"""The commands that remake the papers' tables, on made-up images and a tiny network."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples/papers"
NAMES = [path.stem for path in FOLDER.glob("*.py") if path.stem != "__main__"]
SIDE = 48

NETWORK = '''
import torch
from torch import nn


def tiny(num_classes=3):
    """Each class is one color: the network sees where it is."""
    conv, head = nn.Conv2d(3, 3, 1, bias=False), nn.Linear(3, 3)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(3)[:, :, None, None])
        head.weight.copy_(8 * torch.eye(3) - 2)
        head.bias.zero_()
    layers = nn.Sequential(nn.AvgPool2d(4), conv, nn.ReLU())
    return nn.Sequential(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
'''


@pytest.fixture
def papers(monkeypatch):
    """The modules of the folder, as `python examples/papers` imports them."""
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """A folder of photographs: a bright square of the class's color, in one of them two."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "network_of_colors.py").write_text(NETWORK, encoding="utf-8")
    generator = np.random.default_rng(0)
    entries = []
    for number in range(6):
        pixels = generator.integers(0, 25, (SIDE, SIDE, 3), dtype=np.uint8)
        boxes = [(8, 4, 24, 24)] + ([(28, 28, 44, 44)] if number == 5 else [])
        for x1, y1, x2, y2 in boxes:
            pixels[y1:y2, x1:x2, number % 3] = 255
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        entries.append({"file": f"{number}.png", "label": number % 3, "boxes": boxes})
    (tmp_path / "labels.json").write_text(json.dumps(entries), encoding="utf-8")
    return [
        "--model", "network_of_colors:tiny", "--images", str(tmp_path), "--labels", str(tmp_path / "labels.json"),
        "--size", str(SIDE), "--mean", "0", "0", "0", "--std", "1", "1", "1", "--batch-size", "4",
    ]  # fmt: skip


def run(papers, name, arguments):
    """The table's rows, each a mapping from title to figure; of several tables joined."""
    command = importlib.util.spec_from_file_location("papers_main", FOLDER / "__main__.py")
    module = importlib.util.module_from_spec(command)
    command.loader.exec_module(module)
    rows = {}
    for table in module.main([name, *arguments]).split("\n\n"):
        titles, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        for row, *cells in lines:
            rows.setdefault(row, {}).update(zip(titles[1:], cells, strict=True))
    return rows


def figure(cell):
    return float(cell.split(" (")[0].replace("−", "-"))


def test_localization_finds_the_squares_and_the_random_map_does_not(papers, arguments):
    rows = run(papers, "localization", [*arguments, "--methods", "cam", "grad_cam", "saliency"])
    assert {"CAM", "Grad-CAM", "Saliency", "random map", "centered blob"} <= rows.keys()
    grad_cam, noise = rows["Grad-CAM"], rows["random map"]
    assert figure(grad_cam["top-1 error at 20 % (Zhou 2016)"]) == 0
    assert figure(grad_cam["class-known error at 15 % (Selvaraju 2017)"]) == 0
    assert figure(grad_cam["MaxBoxAccV2"]) == figure(grad_cam["pointing game"]) == 100
    assert figure(grad_cam["of several objects lit"]) == 100
    assert figure(grad_cam["of the background beside them"]) < 20 < figure(noise["of the background beside them"])
    assert figure(noise["top-1 error at 20 % (Zhou 2016)"]) > 50
    assert figure(noise["energy in the box"]) < 30 < figure(grad_cam["energy in the box"])


def test_the_places_of_a_network_without_classes_are_those_of_its_embedding(papers, arguments, tmp_path):
    source = NETWORK + "\n\ndef embeds(num_classes=None):\n    return tiny()[:-1]\n"
    (tmp_path / "network_of_embeddings.py").write_text(source, encoding="utf-8")
    arguments[1] = "network_of_embeddings:embeds"
    rows = run(papers, "localization", [*arguments, "--task", "embedding", "--methods", "grad_cam", "saliency"])
    assert list(rows) == ["Grad-CAM", "Saliency", "random map", "centered blob"]
    grad_cam = rows["Grad-CAM"]
    assert "top-1 error at 20 % (Zhou 2016)" not in grad_cam
    assert figure(grad_cam["class-known error at 20 % (Zhou 2016)"]) == 0
    assert figure(grad_cam["energy in the box"]) > figure(rows["random map"]["energy in the box"]) + 30


def test_a_table_that_asks_for_classes_is_refused_for_embeddings(papers, arguments, capsys):
    with pytest.raises(SystemExit):
        run(papers, "average-drop", [*arguments, "--task", "embedding"])
    assert "--task embedding with localization, got average-drop" in capsys.readouterr().err


def test_average_drop_puts_each_row_beside_grad_cam_plus_plus(papers, arguments):
    rows = run(papers, "average-drop", [*arguments, "--methods", "grad_cam", "grad_cam_plus_plus", "eigen_cam"])
    reference, random = rows["Grad-CAM++"], rows["random map"]
    assert reference["win % against Grad-CAM++"] == ""
    assert figure(random["average drop %"]) > figure(reference["average drop %"])
    assert figure(random["loss %"]) == 100
    difference = figure(random["average drop %"]) - figure(reference["average drop %"])
    assert figure(random["drop − that of Grad-CAM++"]) == pytest.approx(difference, abs=0.11)
    same = rows["Grad-CAM, showing as much as ++"]
    assert figure(same["shown of the image %"]) == pytest.approx(figure(reference["shown of the image %"]), abs=0.11)


def test_deletion_and_insertion_tell_a_map_from_noise(papers, arguments):
    rows = run(
        papers, "deletion-insertion", [*arguments, "--methods", "grad_cam", "grad_cam_plus_plus", "--steps", "6"]
    )
    deletion, insertion = "deletion (lower is better)", "insertion (higher is better)"
    assert figure(rows["Grad-CAM"][deletion]) < figure(rows["random map"][deletion])
    assert figure(rows["Grad-CAM"][insertion]) > figure(rows["random map"][insertion])


def test_randomization_goes_block_by_block_from_the_head(papers, arguments):
    rows = run(papers, "randomization", [*arguments, "--methods", "grad_cam", "eigen_cam"])
    columns = list(rows["Eigen-CAM"])
    assert columns == ["blank %", "noisy image", "other image", "two random networks", "3", "0.1"]
    assert figure(rows["Eigen-CAM"]["3"]) == 1  # it does not read the head
    assert figure(rows["Grad-CAM"]["3"]) < 0.9


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("captum", "pytorch_grad_cam", "torchcam")),
    reason="needs the extra `benchmarks`",
)
@pytest.mark.filterwarnings("default")
def test_the_libraries_grad_cam_is_ours(papers, arguments):
    rows = run(papers, "agreement", [*arguments, "--methods", "grad_cam"])
    assert list(rows) == ["Grad-CAM, grad-cam", "Grad-CAM, torchcam", "Grad-CAM, captum"]
    assert all(figure(row["mean correlation"]) == 1 for row in rows.values())


def test_a_measurement_that_was_cut_off_goes_on_where_it_stopped(papers, arguments, tmp_path):
    keep = tmp_path / "kept"
    command = [*arguments, "--methods", "grad_cam", "--keep", str(keep)]
    whole = run(papers, "localization", command)
    assert [file.name for file in sorted(keep.iterdir())] == ["0000.npz", "0001.npz"]
    (keep / "0001.npz").unlink()
    first = (keep / "0000.npz").stat().st_mtime_ns
    assert run(papers, "localization", command) == whole
    assert (keep / "0000.npz").stat().st_mtime_ns == first


def test_the_interval_is_that_of_the_mean_over_the_images(papers):
    tables = papers("tables")
    numbers = np.random.default_rng(0).normal(5, 2, 400)
    mean, low, high = tables.interval(tables.mean_of("x"), {"x": numbers})
    assert mean == numbers.mean()
    assert (high - low) / 2 == pytest.approx(1.96 * 2 / 20, rel=0.15)


def test_max_box_accuracy_v2_takes_the_best_of_all_marked_regions(papers):
    localization = papers("localization")
    heatmap = torch.zeros(40, 40)
    heatmap[:20, :20] = 1  # the largest region is not the object
    heatmap[24:34, 24:34] = 0.8
    boxes = torch.tensor([[24.0, 24.0, 34.0, 34.0]])
    overlaps = localization.best_overlaps(heatmap, boxes)
    thresholds = np.array(localization.THRESHOLDS)
    assert (overlaps[thresholds < 0.79] == 1).all()
    assert (overlaps[thresholds > 0.81] == 0).all()
    assert (localization.best_overlaps(torch.zeros(40, 40), boxes) == 0).all()
    values = {"box_hits": np.stack([overlaps, np.zeros_like(overlaps)])}
    assert localization.max_box_accuracy_v2(values) == 0.5


def test_the_cascade_keeps_the_values_of_each_parameter_and_never_touches_the_network(papers):
    randomization = papers("randomization")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = randomization.blocks(model, torch.randn(1, 3, 8, 8), 1)
    assert names == ["4", "0"]
    changed = [
        {name for name, value in stage.state_dict().items() if not torch.equal(value, before[name])}
        for stage in randomization.cascade(model, names)
    ]
    assert [{name.partition(".")[0] for name in names} for names in changed] == [{"4"}, {"4", "0"}]
    *_, last = randomization.cascade(model, names)
    assert all(torch.equal(value.flatten().sort()[0], before[name].flatten().sort()[0])
               for name, value in last.state_dict().items())  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
