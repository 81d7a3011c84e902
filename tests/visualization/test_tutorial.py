import math

import pytest
import torch
from drawing import cells_of, randn, shaded, spoken
from torch import nn

from lightning_saliency import Style, explain
from lightning_saliency.attribution import to_heatmaps
from lightning_saliency.visualization import (
    TUTORIAL_PANELS,
    Caption,
    grid,
    overlay,
    signed_to_rgb,
    to_rgb,
    tutorial_figure,
)
from lightning_saliency.visualization.captions import reason_words

LONG = "Rindfleischetikettierungsueberwachungsaufgabenuebertragungsgesetz with $a$ formula_{x} in its name"
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
LAYER, SIGNED = "read at layer 3", "signed values: 0 is mid gray, positive is brighter"
STYLE = Style(MEAN, STD)


def network(channels=3, classes=5, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
    )  # fmt: skip


def explained(num=2, methods=TUTORIAL_PANELS[6], size=(160, 160), **options):
    return explain(network(), randn(num, 3, *size), methods=methods, **options)


def heatmaps(explanation, key):
    return to_heatmaps(explanation.attributions[key], explanation.images.shape[2:])


def signed(explanation, key):
    return signed_to_rgb(explanation.signed[key])


def captions(explanation, names=range(5)):
    predictions, probabilities = explanation.predictions.tolist(), explanation.probabilities
    return [
        Caption(f"predicted {spoken(names[index])} {probabilities[row, index]:.0%}", names=(str(names[index]),))
        for row, index in enumerate(predictions)
    ]


def figure(explanation, columns, note=f"{LAYER} · {SIGNED}", **options):
    options = {
        "captions": captions(explanation),
        "per_row": 1,
        "drawing": shaded(cell_side=300),
        "note": note,
    } | options
    return grid(to_rgb(explanation.images, MEAN, STD), columns, **options)


def test_four_panels_a_row_for_each_image_each_with_its_own_pixels():
    explanation = explained()
    drawn = tutorial_figure(explanation, 4, style=STYLE)
    columns = {
        "Grad-CAM": heatmaps(explanation, "grad_cam"),
        "Guided backprop": signed(explanation, "guided_backprop"),
        "Guided Grad-CAM": signed(explanation, "guided_grad_cam"),
    }
    assert torch.equal(drawn, figure(explanation, columns))
    images = to_rgb(explanation.images, MEAN, STD)
    panels = [images, overlay(images, columns["Grad-CAM"]), *list(columns.values())[1:]]
    cells = cells_of(drawn, 160, 160)
    assert len(cells) == 8
    assert all(torch.equal(cells[4 * row + column], panels[column][row]) for row in range(2) for column in range(4))


def test_six_panels_and_those_that_are_named_in_their_order():
    explanation = explained()
    columns = {
        "CAM": heatmaps(explanation, "cam"),
        "Grad-CAM": heatmaps(explanation, "grad_cam"),
        "Grad-CAM++": heatmaps(explanation, "grad_cam_plus_plus"),
        "Guided backprop": signed(explanation, "guided_backprop"),
        "Guided Grad-CAM": signed(explanation, "guided_grad_cam"),
    }
    assert torch.equal(tutorial_figure(explanation, 6, style=STYLE), figure(explanation, columns))
    two = {title: columns[title] for title in ("Guided backprop", "CAM")}
    assert torch.equal(tutorial_figure(explanation, ["guided_backprop", "cam"], style=STYLE), figure(explanation, two))
    one = figure(explanation, {"CAM": columns["CAM"]}, note=LAYER)
    assert torch.equal(tutorial_figure(explanation, "cam", style=STYLE), one)


def test_the_style_is_that_of_the_sheets():
    explanation = explained(methods="grad_cam")
    style = Style(MEAN, STD, colormap="viridis", alpha=0.25, normalize="minmax")
    maps = to_heatmaps(explanation.attributions["grad_cam"], (160, 160), "minmax")
    drawing = shaded("viridis", 0.25, cell_side=300)
    expected = figure(
        explanation, {"Grad-CAM": maps}, note=LAYER, drawing=drawing, scale=("least", "each map's maximum")
    )
    assert torch.equal(tutorial_figure(explanation, "grad_cam", style=style), expected)


def test_the_images_that_are_asked_for_look_as_they_do_among_the_others():
    explanation = explained(num=3)
    whole = cells_of(tutorial_figure(explanation, 4), 160, 160)
    for index, rows in ((1, [1]), ([2, 0], [2, 0])):
        cells = cells_of(tutorial_figure(explanation, 4, index=index), 160, 160)
        expected = [whole[4 * row + column] for row in rows for column in range(4)]
        assert all(torch.equal(cell, other) for cell, other in zip(cells, expected, strict=True))


def test_each_layer_that_was_read_has_a_panel():
    explanation = explained(methods=["grad_cam", "saliency"], layer=["1", "3"])
    columns = {
        "Grad-CAM · 1": heatmaps(explanation, "grad_cam@1"),
        "Grad-CAM · 3": heatmaps(explanation, "grad_cam@3"),
        "Saliency": signed(explanation, "saliency"),
    }
    drawn = tutorial_figure(explanation, ["grad_cam", "saliency"], style=STYLE)
    assert torch.equal(drawn, figure(explanation, columns, note=SIGNED))
    one = figure(explanation, {"Grad-CAM · 3": columns["Grad-CAM · 3"]}, note="")
    assert torch.equal(tutorial_figure(explanation, ["grad_cam@3"], style=STYLE), one)


def test_the_captions_say_the_prediction_and_what_is_explained():
    explanation = explained(target=torch.tensor([0, 1]), methods="saliency")
    names, probabilities, predictions = (
        ["ant", "bee", "cat", "dog", "eel"],
        explanation.probabilities,
        explanation.predictions,
    )
    words = []
    for row, (target, predicted) in enumerate(zip((0, 1), predictions.tolist(), strict=True)):
        text, named = f"predicted {names[predicted]} {probabilities[row, predicted]:.0%}", [names[predicted]]
        if predicted != target:
            text += f" · map of: {names[target]} {probabilities[row, target]:.0%}"
            named.append(names[target])
        words.append(Caption(text, names=tuple(named)))
    assert any("map of" in caption.text for caption in words)
    columns = {"Saliency": signed(explanation, "saliency")}
    expected = figure(explanation, columns, note=SIGNED, captions=words)
    assert torch.equal(tutorial_figure(explanation, "saliency", style=Style(MEAN, STD, names)), expected)
    chosen = explained(target=lambda logits: logits[:, 0], methods="cam")
    expected = figure(chosen, {"CAM": heatmaps(chosen, "cam")}, note=LAYER)
    assert torch.equal(tutorial_figure(chosen, "cam", style=STYLE), expected)


def test_a_blank_panel_is_the_dimmed_image_with_the_reason_on_it():
    explanation = explained()
    explanation.attributions["grad_cam"][0] = -1.0
    explanation.attributions["grad_cam"][0, 0, 0, 0] = -2.0
    explanation.signed["guided_backprop"][1] = 0.0
    explanation.signed["guided_grad_cam"][0] = -explanation.signed["guided_grad_cam"][0].abs()  # all negative, and seen
    explanation.signed["guided_grad_cam"][1, 0, 0, 0] = math.nan
    drawn = tutorial_figure(explanation, 4, style=STYLE)
    columns = {
        "Grad-CAM": heatmaps(explanation, "grad_cam"),
        "Guided backprop": signed(explanation, "guided_backprop"),
        "Guided Grad-CAM": signed(explanation, "guided_grad_cam"),
    }
    reasons = [["all negative", None], [None, "constant 0"], [None, "not finite"]]
    expected = figure(explanation, columns, blanks=dict(zip(columns, map(reason_words, reasons), strict=True)))
    assert torch.equal(drawn, expected)
    dimmed = (to_rgb(explanation.images, MEAN, STD) * 0.5).round().to(torch.uint8)
    cells = cells_of(drawn, 160, 160)
    for place, row in ((1, 0), (6, 1), (7, 1)):
        assert torch.equal(cells[place][:, :20], dimmed[row][:, :20])


@pytest.mark.parametrize("size", [(24, 24), (60, 20), (20, 60), (8, 200), (200, 8)])
@pytest.mark.parametrize("panels", [6, "grad_cam", ["grad_cam", "saliency"]])
def test_long_words_stay_inside_the_margins_of_small_and_odd_images(size, panels):
    several = {"methods": panels, "layer": ["1", "3"]} if isinstance(panels, list) else {}
    explanation = explained(size=size, target=torch.tensor([0, 1]), **several)
    for raw in (*explanation.attributions.values(), *explanation.signed.values()):
        raw[0] = math.nan
    drawn = tutorial_figure(explanation, panels, style=Style(class_names=[LONG] * 5))
    paper = (drawn == 255).all(0)
    assert all(edge.all() for edge in (paper[:8], paper[-8:], paper[:, :18], paper[:, -18:]))


def test_images_of_other_channels_and_models_of_one_logit():
    explanation = explain(network(5, classes=1), randn(1, 5, 160, 160), methods="cam")
    expected = grid(
        to_rgb(explanation.images),
        {"CAM": heatmaps(explanation, "cam")},
        captions=captions(explanation, names=["no", "yes"]),
        note=f"{LAYER} · channels 1–3 of 5",
        drawing=shaded(cell_side=300),
    )
    assert torch.equal(tutorial_figure(explanation, "cam", style=Style(class_names=["no", "yes"])), expected)
    gray = explain(network(1), randn(1, 1, 16, 16), methods=TUTORIAL_PANELS[4])
    assert tutorial_figure(gray, style=Style(0.5, 0.5)).dtype == torch.uint8


@pytest.mark.parametrize(
    ("panels", "options", "message"),
    [
        (5, {}, r"`panels` to be 4, 6 or the keys of methods, got 5"),
        (4, {}, r"methods cam, saliency, got 'grad_cam'\. Explain with `methods=\('grad_cam', "),
        (["saliency", "gradcam"], {}, r"got 'gradcam'"),
        ("cam", {"index": 2}, r"`index` to name images from 0 to 1, got 2"),
        ("cam", {"index": [0, -1]}, r"got \[0, -1\]"),
        ("cam", {"index": []}, r"got \[\]"),
        ("cam", {"style": Style([0.5, 0.5], [1.0, 1.0])}, r"`std` to hold 1 number or 3, one per channel, got 2"),
    ],
)
def test_what_is_not_there_is_refused_by_name(panels, options, message):
    with pytest.raises(ValueError, match=message):
        tutorial_figure(explained(methods=["cam", "saliency"], size=(16, 16)), panels, **options)
