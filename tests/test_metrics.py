import math

import pytest
import torch

from lightning_saliency.metrics import (
    area_above,
    boxes_to_masks,
    center_of_mass,
    energy_inside,
    entropy,
    heatmaps_to_boxes,
    pointing_game,
    rank_correlation,
)


def box_by_hand(heatmap, threshold):
    """The largest 8-connected component above the threshold, found by flooding, and its bounds."""
    height, width = heatmap.shape
    hot = {(y, x) for y in range(height) for x in range(width) if heatmap[y, x] > threshold * heatmap.max()}
    components = []
    while hot:
        waiting, component = [hot.pop()], set()
        while waiting:
            y, x = waiting.pop()
            component.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & hot
            hot -= near
            waiting += near
        components.append(component)
    largest = max(len(component) for component in components)
    ys, xs = zip(*min((c for c in components if len(c) == largest), key=min), strict=True)  # of equals the uppermost
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.9])
def test_a_box_is_that_of_the_largest_component_above_the_threshold(threshold):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(12, 1, 6, 8, generator=generator) ** 3 * torch.rand(12, 1, 1, 1, generator=generator)
    heatmaps = torch.nn.functional.interpolate(coarse, size=(19, 26), mode="bilinear")
    boxes, found = heatmaps_to_boxes(heatmaps, threshold)
    assert found.all()
    expected = [box_by_hand(heatmap, threshold) for heatmap in heatmaps[:, 0]]
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in expected]
    assert len(set(areas)) > 1 or threshold == 0
    assert boxes.tolist() == expected


def test_pixels_that_touch_at_a_corner_are_one_region_and_a_smaller_but_hotter_one_loses():
    heatmap = torch.zeros(1, 1, 8, 9)
    heatmap[..., 6, 7] = 1.0
    heatmap[..., 1, 1] = heatmap[..., 2, 2] = heatmap[..., 3, 1] = 0.5
    boxes, _ = heatmaps_to_boxes(heatmap)
    assert boxes.tolist() == [[1, 1, 3, 4]]


def test_a_blank_map_gives_no_box_and_says_so():
    heatmaps = torch.zeros(4, 1, 5, 5)
    heatmaps[1, 0, 2, 3] = 1e-20
    heatmaps[2] = -1
    heatmaps[3] = torch.nan
    boxes, found = heatmaps_to_boxes(heatmaps)
    assert found.tolist() == [False, True, False, False]
    assert boxes.tolist() == [[0, 0, 0, 0], [3, 2, 4, 3], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"`heatmaps` to be \(N, 1, H, W\), got shape \(5, 5\)"):
        heatmaps_to_boxes(torch.zeros(5, 5))
    for threshold in (-0.1, 1.0):
        with pytest.raises(ValueError, match="`threshold`"):
            heatmaps_to_boxes(torch.zeros(1, 1, 5, 5), threshold)


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


def test_pointing_and_energy_are_counted_on_the_objects_pixels():
    heatmaps = maps()
    boxes = torch.tensor([[0, 0, 7, 5], [2, 1, 5, 4], [0, 0, 1, 1], [6, 4, 7, 5], [3, 0, 4, 5], [1, 1, 1, 4]])
    masks = boxes_to_masks(boxes, (5, 7))
    hits, shares = pointing_game(heatmaps, masks), energy_inside(heatmaps, masks)
    for image, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        inside = [(i, j) for i in range(5) for j in range(7) if x1 <= j < x2 and y1 <= i < y2]
        assert masks[image].sum() == len(inside)
        top = max((float(heatmaps[image, 0, i, j]), i, j) for i in range(5) for j in range(7))
        assert bool(hits[image]) is (top[1:] in inside)
        energy = sum(float(heatmaps[image, 0, i, j]) for i, j in inside) / float(heatmaps[image].sum())
        assert float(shares[image]) == pytest.approx(energy)
    blank = torch.zeros(1, 1, 5, 7)
    assert not pointing_game(blank, masks[:1]).any()
    assert energy_inside(blank, masks[:1]).isnan().all()


@pytest.mark.parametrize("function", [entropy, area_above, center_of_mass])
def test_maps_of_another_shape_or_with_negative_values_are_refused(function):
    with pytest.raises(ValueError, match=r"`heatmaps` to be \(N, 1, H, W\), got shape \(2, 3, 4, 4\)"):
        function(torch.rand(2, 3, 4, 4))
    with pytest.raises(ValueError, match="`heatmaps` not to be negative, got -1"):
        function(torch.tensor([[[[-1.0, 0.5]]]]))


def test_masks_of_another_kind_are_refused():
    for masks in (torch.ones(6, 1, 5, 7), torch.ones(6, 5, 7, dtype=torch.bool)):
        for function in (pointing_game, energy_inside):
            with pytest.raises(ValueError, match=r"`masks` to be bool of shape \(6, 1, 5, 7\)"):
                function(maps(), masks)
