import math

import pytest
import torch
from drawing import randn, shaded, spoken
from tiny import explained_samples
from torch import nn

from lightning_saliency.attribution import blank_reasons, explain, to_heatmaps
from lightning_saliency.visualization import Caption, Style, draw_sheets, fit_images, grid, to_rgb
from lightning_saliency.visualization.captions import reason_words

SCALES = {
    "max": ("0", "each map's maximum"),
    "minmax": ("least", "each map's maximum"),
    "shared": ("0", "all maps' maximum"),
}
METHODS = ("cam", "grad_cam")
STRETCHED = " · each image stretched to its own range, as no normalization fits"


def network(classes=5, channels=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
    )


def explained(*size, labels=(0, 1), positions=None, methods=METHODS, channels=3):
    explanation = explain(network(channels=channels), randn(len(labels), channels, *size), methods=methods, target=1)
    positions = tuple(range(len(labels))) if positions is None else positions
    return explained_samples(explanation, positions, labels)


def draw(*looked, **options):
    return draw_sheets(looked, Style(**options), title="epoch 1", explained="class 1")


def captions(looked, names):
    predictions, probabilities = looked.explanation.predictions, looked.explanation.probabilities.amax(1)
    said = []
    for row, (label, prediction) in enumerate(zip(looked.samples.labels, predictions.tolist(), strict=True)):
        text, named = f"{spoken(names[prediction])} {probabilities[row]:.0%}", [names[prediction]]
        if label != prediction:
            text = f"predicted {text}"
            if label != 1:  # of class 1 is the map
                text, named = f"{text} · true {names[label]}", [*named, names[label]]
        if prediction != 1:
            of_map = "map of: true" if label == 1 else "map of:"
            text += f" · {of_map} {spoken(names[1])} {looked.explanation.probabilities[row, 1]:.0%}"
            named.append(names[1])
        said.append(Caption(text, label == prediction, names=tuple(map(str, named))))
    return said


def unlabeled_captions(explanation):
    """What is said where nothing is known of the truth, of maps of class 1."""
    said = []
    for prediction, probabilities in zip(explanation.predictions.tolist(), explanation.probabilities, strict=True):
        text, named = f"predicted class {prediction} {probabilities[prediction]:.0%}", [str(prediction)]
        if prediction != 1:
            text, named = f"{text} · map of: class 1 {probabilities[1]:.0%}", [*named, "1"]
        said.append(Caption(text, names=tuple(named)))
    return said


@pytest.mark.parametrize("normalize", ["max", "minmax"])
def test_there_is_one_sheet_of_all_methods(normalize):
    looked, names = explained(128, 128), ["ant", "bee", "cat", "dog", "eel"]
    sheets = draw(looked, class_names=names, normalize=normalize, colormap="viridis", alpha=0.4)
    assert list(sheets) == ["Overview"]
    raw, images = looked.explanation.attributions, to_rgb(looked.explanation.images)
    shown = {"CAM": "cam", "Grad-CAM": "grad_cam"}
    maps = {title: to_heatmaps(raw[key], (128, 128), normalize) for title, key in shown.items()}
    expected = grid(
        images,
        maps,
        title="epoch 1",
        captions=captions(looked, names),
        blanks={title: reason_words(blank_reasons(raw[key], normalize)) for title, key in shown.items()},
        note=f"explained: class 1 · read at layer 1{STRETCHED}",
        scale=SCALES[normalize],
        drawing=shaded("viridis", 0.4),
    )
    assert torch.equal(sheets["Overview"], expected)
    assert list(draw(explained(16, 16, methods="saliency"))) == ["saliency"]


@pytest.mark.parametrize("normalize", ["max", "minmax"])
def test_where_all_cards_are_wanted_each_method_has_a_sheet_of_its_own_after_that_of_all(normalize):
    looked, names = explained(128, 128), ["ant", "bee", "cat", "dog", "eel"]
    sheets = draw(looked, class_names=names, normalize=normalize, cards="all")
    assert list(sheets) == ["Overview", "cam", "grad_cam"]
    assert sorted(sheets) == list(sheets)
    raw = looked.explanation.attributions
    for title, key in {"CAM": "cam", "Grad-CAM": "grad_cam"}.items():
        expected = grid(
            to_rgb(looked.explanation.images),
            {title: to_heatmaps(raw[key], (128, 128), normalize)},
            title="epoch 1",
            captions=captions(looked, names),
            blanks={title: reason_words(blank_reasons(raw[key], normalize))},
            note=f"explained: class 1 · read at layer 1{STRETCHED}",
            scale=SCALES[normalize],
        )
        assert torch.equal(sheets[key], expected)
    alone = draw(explained(128, 128, methods="cam"), class_names=names, normalize=normalize)
    assert torch.equal(alone["cam"], sheets["cam"])


def test_heatmaps_that_the_look_has_are_not_changed():
    looked = explained(16, 16)
    kept = {key: heatmaps.maps.clone() for key, heatmaps in looked.heatmaps("max").items()}
    draw(looked, normalize="shared", top_k=2)
    assert all(torch.equal(looked.heatmaps("max")[key].maps, maps) for key, maps in kept.items())


def test_a_shared_scale_is_shared_by_samples_of_all_sizes():
    small, large = explained(128, 128, methods="cam"), explained(160, 128, positions=(2, 3), methods="cam")
    raw = [looked.explanation.attributions["cam"] for looked in (small, large)]
    raw[1] *= 3
    largest = max(float(maps.max()) for maps in raw)
    heatmaps = []
    for looked, maps in zip((small, large), raw, strict=True):
        strength = maps.amax((1, 2, 3), keepdim=True).relu() / largest
        heatmaps += list(to_heatmaps(maps, looked.explanation.images.shape[2:]) * strength)
    expected = grid(
        [*to_rgb(small.explanation.images), *to_rgb(large.explanation.images)],
        {"CAM": heatmaps},
        title="epoch 1",
        captions=captions(small, range(5)) + captions(large, range(5)),
        blanks={"CAM": reason_words(blank_reasons(raw[0]) + blank_reasons(raw[1]))},
        note=f"explained: class 1 · read at layer 1{STRETCHED}",
        scale=SCALES["shared"],
        drawing=shaded(cell_side=250),
    )
    assert torch.equal(draw(small, large, normalize="shared")["cam"], expected)


def test_rows_stand_in_the_order_of_the_positions_whatever_their_sizes():
    first = explained(128, 128, labels=(0, 1), positions=(0, 2), methods="grad_cam")
    second = explained(160, 130, labels=(2,), positions=(1,), methods="grad_cam")
    order = [(first, 0), (second, 0), (first, 1)]
    expected = grid(
        [to_rgb(looked.explanation.images)[row] for looked, row in order],
        {"Grad-CAM": [looked.heatmaps("max")["grad_cam"].maps[row] for looked, row in order]},
        title="epoch 1",
        captions=[captions(looked, range(5))[row] for looked, row in order],
        blanks={"Grad-CAM": reason_words([looked.heatmaps("max")["grad_cam"].reasons[row] for looked, row in order])},
        note=f"explained: class 1 · read at layer 1{STRETCHED}",
    )
    assert torch.equal(draw(first, second)["grad_cam"], expected)
    assert torch.equal(draw(second, first)["grad_cam"], expected)
    turned = explained(128, 128, labels=(0, 1), positions=(1, 0), methods="grad_cam")
    straight = draw(explained(128, 128, labels=(0, 1), methods="grad_cam"))["grad_cam"]
    assert not torch.equal(draw(turned)["grad_cam"], straight)


@pytest.mark.parametrize("normalize", ["max", "minmax", "shared"])
def test_the_maps_of_the_most_probable_classes_stand_side_by_side(normalize):
    looked = explained(128, 128, methods="cam")
    probabilities, classes = looked.explanation.probabilities.topk(2)
    raw = looked.explanation.class_maps(classes)
    peaks = raw.amax((2, 3)).relu()
    largest = {"max": peaks.amax(1, keepdim=True), "shared": peaks.amax(), "minmax": peaks}[normalize]
    strength = torch.where(largest > 0, peaks / largest, 0.0) if normalize != "minmax" else torch.ones(2, 2)
    own_scale = "minmax" if normalize == "minmax" else "max"
    columns = {
        f"top {rank + 1}": to_heatmaps(raw[:, rank, None], (128, 128), own_scale) * strength[:, rank, None, None, None]
        for rank in (0, 1)
    }
    scale = ("0", "the sample's maximum of these classes") if normalize == "max" else SCALES[normalize]
    expected = grid(
        to_rgb(looked.explanation.images),
        columns,
        title="epoch 1",
        captions=captions(looked, range(5)),
        blanks={f"top {rank + 1}": reason_words(blank_reasons(raw[:, rank, None], own_scale)) for rank in (0, 1)},
        labels={
            f"top {rank + 1}": [
                Caption(f"class {index} {probability:.0%}", True if index == label else None, names=(str(index),))
                for index, probability, label in zip(
                    classes[:, rank].tolist(), probabilities[:, rank].tolist(), (0, 1), strict=True
                )
            ]
            for rank in (0, 1)
        },
        note=f"explained: the 2 most probable classes · read at layer 1{STRETCHED}",
        scale=scale,
    )
    sheet = draw(looked, normalize=normalize, top_k=2)["class_maps"]
    assert (sheet.int() - expected.int()).abs().max() <= 1
    assert "class_maps" in draw(explained(16, 16), explained(16, 24, positions=(2, 3)), top_k=9)
    with pytest.raises(ValueError, match="`cam` among the methods"):
        draw(explained(16, 16, methods="grad_cam"), top_k=2)


def test_labels_may_be_unknown_and_images_of_many_channels_say_what_is_shown():
    looked = explained(128, 128, methods="grad_cam", channels=5)
    unlabeled = explained_samples(looked.explanation, looked.samples.positions)
    expected = grid(
        fit_images(to_rgb(looked.explanation.images), 250),
        {"Grad-CAM": looked.heatmaps("max")["grad_cam"].maps},
        title="epoch 1",
        captions=unlabeled_captions(looked.explanation),
        blanks={"Grad-CAM": reason_words(looked.heatmaps("max")["grad_cam"].reasons)},
        note=f"explained: class 1 · read at layer 1 · channels 1–3 of 5{STRETCHED}",
        drawing=shaded(cell_side=250),
    )
    assert torch.equal(draw(unlabeled)["grad_cam"], expected)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="`looked` to hold at least one entry"):
        draw()


@pytest.mark.parametrize(
    ("count", "side", "shown", "per_row"),
    [
        (1, 300, 256, 1),
        (4, 300, 212, 1),
        (10, 300, 134, 2),
        (20, 300, 130, 2),
        (10, 64, 128, 2),
        (1, 32, 192, 1),
        (10, 32, 96, 1),
    ],
)
def test_the_more_cells_a_sheet_has_the_smaller_they_are_down_to_what_can_be_read(count, side, shown, per_row):
    images = torch.zeros(count, 3, side, side)
    images[:, 0] = 1
    explanation = explain(network(), images, methods=["grad_cam", "hires_cam", "layer_cam", "saliency"])
    looked = explained_samples(explanation, range(count))
    sheet = draw(looked, mean=0.0, std=1.0, alpha=0.0)["Overview"]
    red = (sheet == torch.tensor([255, 0, 0]).view(3, 1, 1)).all(0)
    first = red[:, red.any(0).nonzero()[0].item()]  # the left edge of the images that stand below each other
    assert first.sum() == math.ceil(count / per_row) * shown
