import pytest
import torch

from lightning_saliency import heatmaps_to_boxes


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
