"""An explanation shows itself: its words, its pictures, its files, and a heatmap over any image."""

import io
import sys
import tempfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close
from torchvision.transforms import v2

from lightning_saliency import Style, draw_heatmap, explain, tutorial_figure
from lightning_saliency.attribution import make_heatmaps
from lightning_saliency.visualization import Shading, overlay

IMAGES = torch.rand(3, 3, 48, 64, generator=torch.Generator().manual_seed(0))
NAMES = ["ant", "bee", "cat", "dog"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))


@pytest.fixture
def explanation():
    return explain(network(), (IMAGES, torch.tensor([0, 1, 2])), methods=["grad_cam", "saliency"], class_names=NAMES)


def test_its_words_are_three_lines(explanation):
    lines = repr(explanation).splitlines()
    assert len(lines) == 3
    (ant, bee, *_), (_, right, *_), (*_, other, cat, _) = explanation.probabilities.tolist()
    assert explanation.predictions.tolist() == [1, 1, 1]
    assert lines[0] == (
        f"Explanation of 3 images (3×48×64): predicted bee {bee:.0%}, explained ant {ant:.0%}; bee {right:.0%}; "
        f"predicted bee {other:.0%}, explained cat {cat:.0%}"
    )
    assert lines[1:] == ["methods: grad_cam, saliency", "layer: 1"]
    function = explain(network(), IMAGES[:1], methods="saliency", target=lambda logits: logits.sum(1))
    assert repr(function).splitlines() == [
        "Explanation of 1 image (3×48×64): a function",
        "methods: saliency",
        "layer: none",
    ]
    values = explain(network(), IMAGES, task="regression")
    assert "value 0; value 0; value 0\n" in repr(values)
    assert len(repr(explain(network(), IMAGES.repeat(20, 1, 1, 1)))) < 200
    assert "(3×48×64): class 0 not finite\n" in repr(explain(network(), IMAGES[:1] * torch.nan))


def test_a_heatmap_is_taken_by_any_spelling_of_its_method(explanation):
    expected = explanation.heatmaps()
    assert torch.equal(explanation.heatmap(), expected["grad_cam"])
    assert torch.equal(explanation.heatmap("Grad-CAM"), expected["grad_cam"])
    assert torch.equal(explanation.heatmap("vanilla_gradient"), expected["saliency"])
    assert explanation.heatmap("GradCAM", size=(5, 7)).shape == (3, 1, 5, 7)
    with pytest.raises(
        ValueError, match="`method` to be one of the explanation's methods grad_cam, saliency, got 'cam'"
    ):
        explanation.heatmap("cam")
    layers = explain(network(), IMAGES, layer=["0", "1"])
    assert torch.equal(layers.heatmap("Grad-CAM@1"), layers.heatmaps()["grad_cam@1"])
    assert torch.equal(layers.heatmap("GradCAM"), layers.heatmaps()["grad_cam@0"])


def test_an_overlay_is_the_image_under_its_heatmap(explanation):
    style = Style(mean=0.0, std=1.0, colormap="viridis", alpha=0.5, fade=False)
    pixels = (IMAGES * 255).round().to(torch.uint8)
    expected = overlay(pixels, explanation.heatmaps()["grad_cam"], Shading("viridis", 0.5, fade=False))
    assert torch.equal(explanation.overlay("grad_cam", style=style), expected)
    assert explanation[1].overlay().shape == (1, 3, 48, 64)


def test_the_normalization_of_the_transform_is_undone_in_pictures():
    pixels = np.full((48, 64, 3), 200, np.uint8)
    pixels[:24] = 40
    transform = v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.2, 0.4, 0.6], [0.3, 0.2, 0.1])]
    )
    explanation = explain(network(), pixels, transform=transform)
    plain = explanation.overlay(style=Style(alpha=0.0))[0].permute(1, 2, 0).numpy()
    assert np.abs(plain.astype(int) - pixels).max() <= 1


def test_a_notebook_shows_it_and_its_files_are_written(explanation, tmp_path):
    with Image.open(io.BytesIO(explanation._repr_png_())) as shown:
        assert shown.format == "PNG"
        assert shown.size == explanation.picture().size
    files = explanation.save(tmp_path / "new" / "folder")
    names = {
        f"{row}.{method}.{end}" for row in range(3) for method in ("grad_cam", "saliency") for end in ("npy", "png")
    }
    assert (
        {file.name for file in files}
        == {path.name for path in (tmp_path / "new/folder").iterdir()}
        == names | {"sheet.png"}
    )
    raw = np.load(tmp_path / "new/folder/1.grad_cam.npy")
    assert np.array_equal(raw, explanation.attributions["grad_cam"][1, 0].numpy())
    with Image.open(tmp_path / "new/folder/2.saliency.png") as picture:
        assert np.array_equal(np.asarray(picture), explanation.overlay("saliency")[2].permute(1, 2, 0).numpy())


def test_without_a_display_one_line_says_where_the_sheet_was_written(explanation, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    explanation.show()
    (file,) = tmp_path.glob("*/sheet.png")
    printed = capfd.readouterr()
    assert printed.out == (
        f"No display here: the sheet is {file}. `explanation.save(folder)` writes it where you want it.\n"
    )
    assert not printed.err
    with Image.open(file) as sheet:
        assert np.array_equal(sheet, explanation.picture())


def test_of_many_images_a_notebook_shows_the_first():
    many = explain(network(), IMAGES.repeat(9, 1, 1, 1))
    with Image.open(io.BytesIO(many._repr_png_())) as shown, Image.open(io.BytesIO(many[:8]._repr_png_())) as first:
        assert shown.size == first.size


def test_signals_and_volumes_have_a_sheet_and_no_bare_overlay(tmp_path):
    net = nn.Sequential(nn.Conv1d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 4))
    signals = explain(net, ((torch.rand(2, 3, 50),), {}), methods="saliency")
    assert signals.picture().width > 50
    assert [file.suffix for file in signals.save(tmp_path)] == [".png", ".npy", ".npy"]
    with pytest.raises(ValueError, match=r"of images \(N, C, H, W\) for bare overlays, got shape \(2, 3, 50\)"):
        signals.overlay()


def test_the_figure_is_of_all_methods_of_any_explanation(explanation):
    assert torch.equal(tutorial_figure(explanation), tutorial_figure(explanation, ["grad_cam", "saliency"]))
    assert torch.equal(tutorial_figure(explanation, "Grad-CAM"), tutorial_figure(explanation, "grad_cam"))


@pytest.mark.parametrize("target", [None, "label"])
def test_where_the_true_class_is_not_predicted_the_map_of_the_prediction_stands_beside_it(target):
    batch = (IMAGES, torch.tensor([0, 1, 2]))
    shown, predicted = explain(network(), batch, target=target), explain(network(), IMAGES, target="predicted")
    assert predicted.classes.tolist() == [1, 1, 1]
    assert_close(shown.predicted_attributions["grad_cam"], predicted.attributions["grad_cam"])
    alone = explain(network(), batch, target=target, flip=True)  # for which there is no such map
    assert not alone.predicted_attributions
    assert shown.picture().size != alone.picture().size
    assert not explain(network(), IMAGES, target=[0, 1, 2]).predicted_attributions  # chosen, not true


def test_the_footer_and_the_figure_name_the_classes():
    by_name, by_index = (
        explain(network(), IMAGES, class_names=NAMES, target="cat"),
        explain(network(), IMAGES, target=2),
    )
    of = by_name.settings.target.describe
    assert (of(names=by_name.class_names), of()) == ("class cat", "class 2")
    named, unnamed = Style(class_names=NAMES), Style()
    assert np.array_equal(by_name.picture(), by_index.picture(style=named))
    assert not np.array_equal(by_name.picture(), by_index.picture(style=unnamed))
    assert torch.equal(tutorial_figure(by_name), tutorial_figure(by_index, style=named))
    assert not torch.equal(tutorial_figure(by_name), tutorial_figure(by_index))


FORMS = {
    "array": lambda pixels, path: pixels,
    "pillow": lambda pixels, path: Image.fromarray(pixels),
    "path": lambda pixels, path: path,
    "uint8": lambda pixels, path: torch.from_numpy(pixels).permute(2, 0, 1),
    "float": lambda pixels, path: torch.from_numpy(pixels).permute(2, 0, 1) / 255,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_heatmap_is_drawn_over_any_image_at_its_size(form, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (30, 50, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    raw = torch.rand(7, 7)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    expected = overlay(images, make_heatmaps(raw[None, None], (30, 50)).maps)[0].permute(1, 2, 0).numpy()
    for heatmap in (raw, raw.numpy(), raw[None]):
        drawn = draw_heatmap(form(pixels, tmp_path / "a.png"), heatmap)
        assert np.array_equal(np.asarray(drawn), expected)


@pytest.mark.parametrize(
    ("image", "heatmap", "says"),
    [
        (torch.full((3, 8, 8), 2.0), torch.rand(4, 4), r"`image` to be a tensor .*in \[0, 1\], got values from 2 to 2"),
        (torch.zeros(1, 3, 8, 8), torch.rand(4, 4), r"`image` to be a path, .*got Tensor"),
        (np.zeros((8, 8, 3), np.uint8), torch.rand(2, 4, 4), r"`heatmap` to be one map .*got shape \(2, 4, 4\)"),
        ("nowhere.png", torch.rand(4, 4), r"`image` to be a file with an image, got nowhere.png"),
    ],
)
def test_what_cannot_be_drawn_is_named(image, heatmap, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=says):
        draw_heatmap(image, heatmap)


def test_a_class_with_an_empty_name_is_called_by_its_number():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    explanation = explain(model, torch.rand(1, 3, 8, 8), methods="saliency", target=1)
    assert "class 1 " in repr(replace(explanation, class_names=("", "")))  # of a data set
