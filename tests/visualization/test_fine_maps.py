"""Maps of single pixels, as of saliency and guided backprop: on dark gray, and scaled so that they can be seen."""

import math
from dataclasses import replace

import pytest
import torch
from drawing import BARE, cells_of, flat, rand, randn, shaded, uint8
from tiny import explained_samples
from torch import nn
from torchvision.models import VisionTransformer

from lightning_saliency.attribution import METHODS, explain, is_fine, make_heatmaps
from lightning_saliency.visualization import (
    Shading,
    Style,
    draw_sheets,
    find_pixel_scale,
    fit_images,
    grid,
    overlay,
    signed_to_rgb,
    tiles,
    to_rgb,
    tutorial_figure,
)
from lightning_saliency.visualization.captions import reason_words
from lightning_saliency.visualization.cells import Drawing
from lightning_saliency.visualization.colors import darkened
from lightning_saliency.visualization.scaling import scale_words, to_percentile


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )


def draw(looked, **style):
    return draw_sheets([looked], Style(**style), title="epoch 1", explained="class 1")


def spiky(count=1, size=200):
    """Heatmaps such as gradients at a photograph are: of a thousand pixels one is above half of the largest."""
    heatmaps = rand(count, 1, size, size) * 0.1 + 0.02 * rand(count, 1, size, size, seed=1)
    few = torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(2))
    heatmaps = torch.where(few > 0.97, heatmaps * 3, heatmaps)
    heatmaps = torch.where(few > 0.999, 0.5 + 0.5 * rand(count, 1, size, size, seed=3), heatmaps)
    return heatmaps / heatmaps.amax((2, 3), keepdim=True)


def exceeding(heatmaps):
    """The share of pixels above half of the scale."""
    return float((heatmaps > 0.5).double().mean())


def test_fine_are_the_methods_of_the_input_alone_and_not_those_of_a_layer():
    fine = {key for key in METHODS if is_fine(key, (32, 32), (32, 32))}
    assert {"saliency", "guided_backprop", "guided_grad_cam", "integrated_gradients", "lrp"} <= fine
    assert not fine & {"cam", "grad_cam", "layer_cam", "occlusion", "attention_relevance", "score_cam"}
    assert not any(is_fine(f"{key}@layer4", (32, 32), (32, 32)) for key in METHODS if key not in fine)
    assert all(is_fine(f"{key}@layer4", (32, 32), (32, 32)) for key in fine)
    assert not any(is_fine(key, (8, 8), (32, 32)) for key in METHODS)
    assert not is_fine("a method of one's own", (32, 32), (32, 32))


def test_relevance_of_a_transformers_patches_is_laid_over_the_photograph_as_coarse_maps_are():
    torch.manual_seed(0)
    model = VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5)
    nn.init.normal_(model.heads.head.weight)
    explanation = explain(model, randn(2, 3, 32, 32), methods=["lrp", "input_x_gradient"], target=1)
    assert explanation.attributions["lrp"].shape == (2, 1, 4, 4)
    assert (explanation.attributions["lrp"] < 0).any()
    assert not explanation.is_fine("lrp")
    assert explanation.is_fine("input_x_gradient")
    pixels = find_pixel_scale([explanation.images], Style())(explanation.images)
    assert explanation.overlay("lrp").equal(overlay(pixels, explanation.heatmap("lrp")))
    sheet = draw(explained_samples(explanation, (0, 1), (0, 1)), cards="all")["lrp"]
    images = fit_images(pixels)  # as large as on a sheet
    expected = overlay(images, explanation.heatmap("lrp", images.shape[2:]))[0]
    _, cell, *_ = cells_of(sheet, *images.shape[2:])
    assert (cell.int() - expected.int()).abs().double().mean() < 2


def test_of_the_pixels_of_a_fine_map_ten_times_as_many_are_seen():
    heatmaps = spiky()
    assert exceeding(heatmaps) < 0.0015
    scaled, _ = to_percentile(heatmaps, torch.ones(1))
    assert exceeding(scaled) >= 0.01
    assert float(scaled.max()) == 1
    assert float(scaled.min()) >= 0


def test_fine_maps_are_divided_by_the_99th_percentile_of_what_is_positive():
    heatmaps, peaks = spiky(2), torch.tensor([2.0, 8.0])
    heatmaps[1, :, :100] = 0
    scaled, tops = to_percentile(heatmaps, peaks)
    for row in range(2):
        positive = heatmaps[row][heatmaps[row] > 0].sort().values
        percentile = positive[math.ceil(0.99 * len(positive)) - 1]
        assert torch.equal(scaled[row], (heatmaps[row] / percentile).clamp(max=1))
        assert float(tops[row]) == pytest.approx(float(peaks[row] * percentile))
    assert (heatmaps > scaled).sum() == 0


def test_a_map_of_zeros_stays_as_it_is():
    zeros, peaks = torch.zeros(2, 1, 8, 8), torch.tensor([0.0, 3.0])
    scaled, tops = to_percentile(zeros, peaks)
    assert torch.equal(scaled, zeros)
    assert torch.equal(tops, peaks)


def test_the_image_under_a_fine_map_is_gray_and_darker_and_beside_it_is_as_it_was():
    images, heatmaps = uint8(1, 3, 200, 200), torch.zeros(1, 1, 200, 200)
    heatmaps[..., 100:] = 1.0
    coarse, fine = (cells_of(grid(images, {"m": heatmaps}, fine=names), 200, 200) for names in ([], ["m"]))
    assert torch.equal(fine[0], images[0])
    assert torch.equal(coarse[0], images[0])
    under = fine[1][:, :, :100]
    assert torch.equal(under[0], under[1])
    assert torch.equal(under[0], under[2])
    assert torch.equal(under, darkened(images)[0][:, :, :100])
    assert under.double().mean() < 0.5 * images.double().mean()
    assert torch.equal(coarse[1][:, :, :100], images[0][:, :, :100])


def test_single_pixels_stand_out_from_a_bright_photograph():
    images, heatmaps = flat((220, 220, 230), size=(200, 200)), torch.zeros(1, 1, 200, 200)
    heatmaps[..., 50, 60] = 1.0
    shown = overlay(darkened(images), heatmaps)[0].int()
    spot, around = shown[:, 50, 60], shown[:, 50, 61]
    assert int(spot.sum() - around.sum()) > 150


def test_tiles_take_fine_maps_too():
    images, heatmaps = uint8(2, 3, 200, 200), rand(2, 1, 200, 200)
    found = cells_of(tiles(images, heatmaps, is_fine=True), 200, 200)
    assert all(map(torch.equal, found, overlay(darkened(images), heatmaps)))


def test_the_sheets_show_fine_maps_so_and_coarse_ones_over_the_photograph():
    explanation = explain(network(), randn(2, 3, 128, 128), methods=["grad_cam", "saliency"], target=1)
    looked = explained_samples(explanation, (0, 1), (0, 1))
    sheet = draw(looked)["Overview"]
    made = {key: make_heatmaps(raw, (128, 128)) for key, raw in explanation.attributions.items()}
    scaled = to_percentile(made["saliency"].maps, made["saliency"].peaks)[0]
    images, cells = to_rgb(explanation.images), cells_of(sheet, 128, 128)
    expected = [images, overlay(images, made["grad_cam"].maps), overlay(darkened(images), scaled)]
    for row in range(2):
        reasons = [None, made["grad_cam"].reasons[row], made["saliency"].reasons[row]]
        for column in range(3):
            if reasons[column] is None:
                assert torch.equal(cells[3 * row + column], expected[column][row])
    assert made["saliency"].reasons == (None, None)
    assert exceeding(scaled) > exceeding(made["saliency"].maps)


def test_the_raw_maps_stay_as_they_are():
    explanation = explain(network(), randn(2, 3, 32, 32), methods="saliency", target=1)
    raw, looked = explanation.attributions["saliency"].clone(), explained_samples(explanation, (0, 1), (0, 1))
    kept = looked.heatmaps("max")["saliency"].maps.clone()
    draw(looked)
    assert torch.equal(explanation.attributions["saliency"], raw)
    assert torch.equal(looked.heatmaps("max")["saliency"].maps, kept)


def test_a_scale_that_is_shared_is_that_of_the_percentiles():
    explanation = explain(network(), randn(2, 3, 128, 128), methods="saliency", target=1)
    explanation.attributions["saliency"][1] *= 4
    made = make_heatmaps(explanation.attributions["saliency"], (128, 128))
    scaled, tops = to_percentile(made.maps, made.peaks)
    expected = scaled * (tops / tops.max()).view(2, 1, 1, 1)
    sheet = draw(explained_samples(explanation, (0, 1), (0, 1)), normalize="shared")["saliency"]
    shown = cells_of(sheet, 128, 128)
    images = to_rgb(explanation.images)
    for row in range(2):
        wanted = overlay(darkened(images), expected)[row]
        assert (shown[2 * row + 1].int() - wanted.int()).abs().max() <= 1


def test_the_tutorials_figure_shows_signed_maps_around_gray_and_others_as_the_sheets_do():
    explanation = explain(network(), randn(1, 3, 160, 160), methods=["saliency", "grad_cam"], target=1)
    assert "saliency" in explanation.signed
    (image, panel) = cells_of(tutorial_figure(explanation, "saliency"), 160, 160)
    assert torch.equal(image, to_rgb(explanation.images)[0])
    assert torch.equal(panel, signed_to_rgb(explanation.signed["saliency"])[0])


def test_reasons_stand_on_blank_fine_maps():
    images, blank = flat((200, 200, 200), size=(200, 200)), torch.zeros(1, 1, 200, 200)
    words = {"m": reason_words(["constant 0"])}
    cell = cells_of(grid(images, {"m": blank}, blanks=words, fine=["m"]), 200, 200)[1]
    assert (cell[:, :40] == 100).all()
    assert (cell[:, 80:120] == 255).any()


def test_the_style_draws_a_contour_in_the_sheets():
    explanation = explain(network(), randn(1, 3, 128, 128), methods="grad_cam", target=1)
    looked = explained_samples(explanation, (0,), (1,))
    heatmaps = make_heatmaps(explanation.attributions["grad_cam"], (128, 128))
    assert heatmaps.reasons == (None,)
    cell = cells_of(draw(looked, contour=0.5)["grad_cam"], 128, 128)[1]
    assert torch.equal(cell, overlay(to_rgb(explanation.images), heatmaps.maps, Shading(contour=0.5))[0])
    assert (cell == 255).all(0).sum() > 20


def test_shadings_of_no_weight_show_the_dark_image_alone():
    images = uint8(1, 3, 200, 200)
    found = cells_of(grid(images, {"m": rand(1, 1, 200, 200)}, fine=["m"], drawing=BARE), 200, 200)
    assert torch.equal(found[1], darkened(images)[0])
    full = cells_of(grid(images, {"m": torch.ones(1, 1, 200, 200)}, fine=["m"], drawing=shaded(alpha=1.0)), 200, 200)
    assert len(full[1].flatten(1).T.unique(dim=0)) == 1


def test_the_tutorials_figure_keeps_a_scale_that_is_shared():
    explanation = explain(network(), randn(2, 3, 160, 160), methods="saliency", target=1)
    explanation.attributions["saliency"][1] /= 4
    figure = tutorial_figure(replace(explanation, signed={}), style=Style(normalize="shared"))
    strong, weak = (cell.double().mean() for cell in cells_of(figure, 160, 160)[1::2])
    assert strong > weak + 5


@pytest.mark.parametrize(
    ("normalize", "fine", "words"),
    [
        ("max", [], ("0", "each map's maximum")),
        ("max", [True, False], ("0", "each map's maximum")),
        ("max", [True, True], ("0", "each map's 99th percentile")),
        ("minmax", [False], ("least", "each map's maximum")),
        ("shared", [True], ("0", "all maps' 99th percentile")),
    ],
)
def test_the_scale_says_what_its_upper_end_is(normalize, fine, words):
    assert scale_words(normalize, fine) == words


def test_no_contour_is_drawn_around_single_pixels():
    images, heatmaps = uint8(1, 3, 200, 200), rand(1, 1, 200, 200)
    plain, outlined = (
        grid(images, {"m": heatmaps}, fine=["m"], drawing=Drawing(shading=Shading(contour=contour)))
        for contour in (None, 0.5)
    )
    assert torch.equal(plain, outlined)


def test_the_scale_of_fine_maps_is_as_dark_at_its_beginning_as_the_images_are():
    images, heatmaps = flat((128, 128, 128), size=(200, 200)), rand(1, 1, 200, 200)
    dark = darkened(torch.full((1, 3, 1, 1), 128, dtype=torch.uint8))[0]
    for fine, begins in ([], 128), (["m"], int(dark[0])):
        foot = grid(images, {"m": heatmaps}, fine=fine)[:, -40:]
        assert (foot == begins).all(0).any(), fine


def test_signed_maps_are_shown_around_mid_gray_in_the_sheets_and_others_as_before():
    options = {"saliency": {"reduce": "signed"}, "input_x_gradient": {}, "grad_cam": {}}
    explanation = explain(network(), randn(2, 3, 160, 160), methods=options, target=1)
    raw = {key: maps for key, maps in explanation.attributions.items() if key != "grad_cam"}
    assert all(float(maps.min()) < 0 < float(maps.max()) for maps in raw.values())
    cells = cells_of(draw(explained_samples(explanation, (0, 1), (0, 1)))["Overview"], 160, 160)
    for row in range(2):
        for column, maps in enumerate(raw.values(), start=1):
            assert torch.equal(cells[4 * row + column], signed_to_rgb(maps)[row])
    bare = draw(explained_samples(replace(explanation, attributions=raw), (0, 1), (0, 1)))["Overview"]
    assert (bare == torch.tensor([253, 231, 37]).view(3, 1, 1)).all(0).sum() == 0  # no color, and no scale of colors
