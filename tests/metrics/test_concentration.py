import math

import pytest
import torch

from lightning_saliency.metrics import area_above, center_of_mass, entropy, is_blank, raw_maximum


def maps(num=6, height=5, width=7, seed=0):
    return torch.rand(num, 1, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 2


def test_entropy_is_that_of_the_shares_and_does_not_see_the_scale():
    heatmaps = maps()
    for found, heatmap in zip(entropy(heatmaps), heatmaps, strict=True):
        shares = [float(value / heatmap.sum()) for value in heatmap.flatten()]
        expected = -sum(share * math.log(share) for share in shares) / math.log(35)
        assert float(found) == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(entropy(1e-6 * heatmaps), entropy(heatmaps))
    assert entropy(torch.ones(1, 1, 5, 7)).item() == pytest.approx(1)
    single = torch.zeros(1, 1, 5, 7)
    single[..., 2, 3] = 0.4
    assert entropy(single).item() == 0
    assert entropy(torch.zeros(1, 1, 5, 7)).isnan().all()


def test_the_area_above_a_share_of_the_maximum_is_counted():
    heatmaps = maps()
    for threshold in (0.0, 0.5, 0.9):
        for found, heatmap in zip(area_above(heatmaps, threshold), heatmaps[:, 0], strict=True):
            hot = sum(value > threshold * heatmap.max() for row in heatmap for value in row)
            assert float(found) == pytest.approx(float(hot) / 35)
    assert area_above(torch.zeros(1, 1, 2, 2)).isnan().all()


@pytest.mark.parametrize("function", [entropy, area_above, center_of_mass, is_blank])
def test_maps_of_another_shape_or_with_negative_values_are_refused(function):
    with pytest.raises(ValueError, match=r"`heatmaps` to be \(N, 1, H, W\), got shape \(2, 3, 4, 4\)"):
        function(torch.rand(2, 3, 4, 4))
    with pytest.raises(ValueError, match="`heatmaps` to be 0 or more everywhere, got -1"):
        function(torch.tensor([[[[-1.0, 0.5]]]]))


def test_a_map_without_a_positive_value_is_blank():
    heatmaps = maps(4)
    heatmaps[1], heatmaps[3] = 0, torch.nan
    assert is_blank(heatmaps).tolist() == [False, True, False, True]


def test_the_raw_maximum_is_signed_and_none_where_it_is_not_finite():
    raw = torch.tensor([[-3.0, -2.0], [1.0, 5.0], [1.0, torch.nan], [1.0, torch.inf]])[:, None, None]
    found = raw_maximum(raw).tolist()
    assert found[:2] == [-2, 5]
    assert [value != value for value in found[2:]] == [True, True]
    with pytest.raises(ValueError, match=r"`attributions` to be \(N, 1, H, W\), got shape \(4, 2\)"):
        raw_maximum(raw[:, 0, 0])
