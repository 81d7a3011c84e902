"""Heatmaps against their closed forms: rectified, upsampled, divided; blank ones with a reason."""

import math

import pytest
import torch
from closed_forms import loops_bilinear, relu
from torch import nn

from lightning_saliency.attribution import METHODS, blank_reasons, explain, to_heatmaps
from lightning_saliency.models import GAPHead


@pytest.mark.parametrize("size", [(9, 14), (7, 5), (3, 4), (2, 2)])
@pytest.mark.parametrize("normalize", ["max", "minmax", "shared"])
@pytest.mark.parametrize("scale", [1.0, 1e-36, 1e36])
def test_a_heatmap_is_rectified_then_upsampled_bilinearly_then_divided(size, normalize, scale):
    torch.manual_seed(11)
    raw = torch.randn(3, 1, 3, 4) * torch.tensor([1.0, 10.0, 0.1])[:, None, None, None]
    found = to_heatmaps(raw * scale, size, normalize)
    if normalize == "minmax":
        maps = [loops_bilinear(L[0] - L.min(), *size) for L in raw.double()]
    else:
        maps = [loops_bilinear(relu(L[0]), *size) for L in raw.double()]
    top = max(L.max() for L in maps)
    for heatmap, expected in zip(found, maps, strict=True):
        expected = expected / (top if normalize == "shared" else expected.max())
        torch.testing.assert_close(heatmap[0], expected.float(), rtol=1e-5, atol=1e-5)
    assert found.dtype == torch.float32
    assert found.min() >= 0
    tops = found.amax((1, 2, 3))
    assert (tops == 1).all() if normalize != "shared" else tops.max() == 1 > tops.min()


@pytest.mark.parametrize("normalize", ["max", "minmax", "shared"])
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([[math.nan, 1.0], [2.0, 3.0]], "not finite"),
        ([[math.inf, 1.0], [2.0, 3.0]], "not finite"),
        ([[-math.inf, 1.0], [2.0, 3.0]], "not finite"),
        ([[math.nan, math.nan], [math.nan, math.nan]], "not finite"),
        ([[0.0, 0.0], [0.0, 0.0]], "constant 0"),
        ([[5.0, 5.0], [5.0, 5.0]], "constant 5"),
        ([[-5.0, -5.0], [-5.0, -5.0]], "constant -5"),
        ([[-1.0, -2.0], [0.0, -3.0]], "all negative"),
    ],
)
def test_a_map_with_nothing_to_show_is_blank_with_its_reason_and_alone_in_that(bad, reason, normalize):
    good = torch.tensor([[[1.0, 2.0], [-4.0, 0.5]]])
    raw = torch.stack([good, torch.tensor([bad]), 2 * good])
    shows_negative = normalize == "minmax" and reason == "all negative"
    assert blank_reasons(raw, normalize) == [None, None if shows_negative else reason, None]
    found = to_heatmaps(raw, (5, 6), normalize)
    assert found.isfinite().all()
    assert bool(found[1].any()) is shows_negative
    assert torch.equal(found[[0, 2]], to_heatmaps(raw[[0, 2]], (5, 6), normalize))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 4), (2, 0), (2, 4), (1, 3)])
def test_a_heatmap_lies_on_its_image_the_right_way_round(row, column):
    images = torch.zeros(1, 1, 3 * 4, 5 * 4)
    images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1
    model = nn.Sequential(nn.Conv2d(1, 1, 4, stride=4), GAPHead(1, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0 if parameter.dim() > 1 else 0.0)
    # this model's gradient is the same everywhere, and it has no ReLU
    methods = [key for key, row in METHODS.items() if row.reads_layer and row.extra != "rectified"]
    for key, heatmap in explain(model, images, methods=methods, target=1, layer="0").heatmaps().items():
        at = divmod(int(heatmap.flatten().argmax()), images.shape[3])
        assert (at[0] // 4, at[1] // 4) == (row, column), key
        inside = heatmap[images == 1]
        assert heatmap.shape == images.shape
        assert inside.min() > 0.35, key
