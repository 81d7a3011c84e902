import math

import pytest
import torch

from lightning_saliency.metrics import center_of_mass, center_shift, rank_correlation
from lightning_saliency.metrics.similarity import coarse, correlation, ranks


def maps(num=6, height=5, width=7, seed=0):
    return torch.rand(num, 1, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 2


def test_the_center_of_mass_is_the_weighted_mean_of_the_pixels_centers():
    heatmaps = maps()
    for found, heatmap in zip(center_of_mass(heatmaps), heatmaps[:, 0], strict=True):
        x = sum(float(heatmap[i, j]) * (j + 0.5) / 7 for i in range(5) for j in range(7)) / float(heatmap.sum())
        y = sum(float(heatmap[i, j]) * (i + 0.5) / 5 for i in range(5) for j in range(7)) / float(heatmap.sum())
        assert found.tolist() == pytest.approx([x, y])
    mirrored = center_of_mass(heatmaps.flip(3))
    torch.testing.assert_close(mirrored[:, 0], 1 - center_of_mass(heatmaps)[:, 0])
    assert center_of_mass(torch.zeros(1, 1, 2, 2)).isnan().all()


def test_the_rank_correlation_is_spearmans_with_ties_and_sees_the_order_only():
    one, other = maps(seed=1), maps(seed=2)
    one[:, :, :2] = 0.0  # ties
    for found, first, second in zip(rank_correlation(one, other), one, other, strict=True):

        def rank(values):
            values = values.flatten().tolist()
            return [sum(o < v for o in values) + (sum(o == v for o in values) - 1) / 2 for v in values]

        a, b = torch.tensor(rank(first)), torch.tensor(rank(second))
        expected = torch.corrcoef(torch.stack([a, b]))[0, 1]
        assert float(found) == pytest.approx(float(expected), abs=1e-6)
    torch.testing.assert_close(rank_correlation(one, one**3), torch.ones(6))
    torch.testing.assert_close(rank_correlation(other, -other), -torch.ones(6))
    assert rank_correlation(torch.ones(1, 1, 2, 2), maps(1, 2, 2)).isnan().all()
    with pytest.raises(ValueError, match=r"`others` to be \(6, 1, 5, 7\) as `heatmaps`"):
        rank_correlation(one, other[:3])


def test_the_shift_is_the_distance_of_the_centers_whatever_the_sizes():
    one, other = maps(seed=1), maps(height=4, width=3, seed=2)
    centers = zip(center_of_mass(one).tolist(), center_of_mass(other).tolist(), strict=True)
    expected = [math.hypot(x - u, y - v) for (x, y), (u, v) in centers]
    assert min(expected) > 0
    assert center_shift(one, other).tolist() == pytest.approx(expected)
    assert center_shift(one, one).tolist() == [0] * 6
    corners = torch.zeros(2, 1, 50, 40)
    corners[0, 0, 0, 0] = corners[1, 0, -1, -1] = 0.3
    assert center_shift(corners[:1], corners[1:]).item() == pytest.approx(math.hypot(0.975, 0.98))
    blank = torch.zeros(1, 1, 2, 2)
    assert center_shift(blank, one[:1]).isnan().all()
    assert center_shift(one[:1], blank).isnan().all()
    with pytest.raises(
        ValueError, match=r"`others` to be \(6, 1, H, W\) as many as `heatmaps`, got shape \(3, 1, 4, 3\)"
    ):
        center_shift(one, other[:3])
    with pytest.raises(ValueError, match=r"`others` to be \(N, 1, H, W\), got shape \(6, 4, 3\)"):
        center_shift(one, other[:, 0])
    with pytest.raises(ValueError, match="`others` to be 0 or more everywhere"):
        center_shift(one, -other)


def test_ranks_are_compared_as_their_maps_are_also_with_several_rows_at_once():
    one, others = maps(seed=1), [maps(seed=seed) for seed in (2, 3, 4)]
    several = correlation(ranks(one), torch.stack([ranks(other) for other in others], dim=1))
    assert several.shape == (6, 3)
    for column, other in zip(several.T, others, strict=True):
        torch.testing.assert_close(column, rank_correlation(one, other))


def test_coarse_maps_are_the_means_of_areas_at_most_32_wide_and_high():
    heatmaps = torch.rand(5, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    small = coarse(heatmaps)
    assert small.shape == (5, 1, 32, 32)
    for i in range(0, 32, 5):
        for j in range(0, 32, 7):
            torch.testing.assert_close(
                small[:, 0, i, j], heatmaps[:, 0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2))
            )
    assert coarse(torch.zeros(1, 1, 50, 200)).shape == (1, 1, 8, 32)
    assert coarse(torch.zeros(1, 1, 3, 200)).shape == (1, 1, 1, 32)
    assert torch.equal(coarse(heatmaps[..., :16, :16]), heatmaps[..., :16, :16])
