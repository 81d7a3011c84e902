import pytest
import torch

from lightning_saliency.data import boxes_to_masks, masks_to_boxes
from lightning_saliency.metrics import (
    area_above,
    box_accuracy,
    box_hits,
    box_iou,
    box_overlap,
    center_shift,
    energy_inside,
    entropy,
    heatmaps_to_boxes,
    max_box_accuracy,
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


def test_the_maximum_itself_is_above_any_threshold_also_where_float32_rounds_their_product_up_to_it():
    heatmaps = torch.zeros(2, 1, 4, 4)
    heatmaps[0, 0, 1, 2] = 1.0
    heatmaps[1, 0, 1, 2] = 1e-45  # the smallest number: 0.9 of it is itself
    for threshold in (0.9, 1 - 1e-12):
        boxes, found = heatmaps_to_boxes(heatmaps, threshold)
        assert found.all()
        assert boxes.tolist() == [[2, 1, 3, 2]] * 2


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"`heatmaps` to be \(N, 1, H, W\), got shape \(5, 5\)"):
        heatmaps_to_boxes(torch.zeros(5, 5))
    for threshold in (-0.1, 1.0):
        with pytest.raises(ValueError, match="`threshold`"):
            heatmaps_to_boxes(torch.zeros(1, 1, 5, 5), threshold)


def maps(num=6, height=5, width=7, seed=0):
    return torch.rand(num, 1, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 2


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


def test_no_maps_give_no_numbers():
    none = torch.zeros(0, 1, 5, 7)
    masks = none.bool()
    found = [entropy(none), area_above(none), rank_correlation(none, none), center_shift(none, none)]
    found += [pointing_game(none, masks), energy_inside(none, masks), box_accuracy(none, torch.zeros(0, 4))]
    assert [tuple(numbers.shape) for numbers in found] == [(0,)] * 7
    assert masks_to_boxes(masks).shape == (0, 4)
    assert max_box_accuracy(none, torch.zeros(0, 4)).isnan()


def iou_by_hand(one, other):
    """Of boxes with whole corners: counted on pixels."""
    pixels = [
        {(x, y) for x in range(int(x1), int(x2)) for y in range(int(y1), int(y2))} for x1, y1, x2, y2 in (one, other)
    ]
    union = len(pixels[0] | pixels[1])
    return len(pixels[0] & pixels[1]) / union if union else 0.0


def test_the_iou_is_counted_on_the_boxes_pixels_row_by_row():
    boxes = torch.tensor(
        [[0, 0, 4, 2], [1, 1, 3, 3], [0, 0, 2, 2], [2, 2, 2, 5], [0, 0, 0, 0], [5, 5, 3, 3], [0, 0, 9, 9]]
    )
    others = torch.tensor(
        [[2, 0, 6, 2], [1, 1, 3, 3], [2, 0, 4, 2], [0, 0, 4, 6], [0, 0, 0, 0], [3, 3, 5, 5], [1, 2, 4, 7]]
    )
    expected = [iou_by_hand(one, other) for one, other in zip(boxes.tolist(), others.tolist(), strict=True)]
    assert expected == [1 / 3, 1, 0, 0, 0, 0, 15 / 81]
    for kind in (torch.int64, torch.float32, torch.float64, torch.float16):
        assert box_iou(boxes.to(kind), others.to(kind)).tolist() == pytest.approx(expected)
    torch.testing.assert_close(box_iou(others, boxes), box_iou(boxes, others))
    assert box_iou(torch.tensor([[0.25, 0.0, 1.0, 1.0]]), torch.tensor([[0.0, 0.0, 0.5, 1.0]])).item() == 0.25
    with pytest.raises(ValueError, match=r"`others` to be \(7, 4\) as `boxes`, got shape \(3, 4\)"):
        box_iou(boxes, others[:3])


def blobs(num=16):
    """Smooth maps, and true boxes some of which their boxes find at some thresholds."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(num, 1, 4, 5, generator=generator) ** 2
    heatmaps = torch.nn.functional.interpolate(coarse, size=(17, 21), mode="bilinear")
    boxes = heatmaps_to_boxes(heatmaps, 0.55)[0]
    boxes[1::4] = heatmaps_to_boxes(heatmaps, 0.3)[0][1::4]
    boxes[::2] += torch.randint(-2, 3, (num // 2, 4), generator=generator)
    return heatmaps, boxes.clamp(min=0)


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.7, 1.0])
def test_a_box_is_found_whose_overlap_suffices_and_the_best_threshold_is_one_for_all_images(iou):
    heatmaps, boxes = blobs()
    thresholds = [step / 20 for step in range(1, 20)]
    expected = [
        [
            iou_by_hand(box_by_hand(heatmap, threshold), box) >= iou
            for heatmap, box in zip(heatmaps[:, 0], boxes.tolist(), strict=True)
        ]
        for threshold in thresholds
    ]
    hits = box_hits(heatmaps, boxes, thresholds, iou)
    assert hits.dtype == torch.bool
    assert hits.T.tolist() == expected
    shares = [sum(row) / 16 for row in expected]
    assert len(set(shares)) > 1
    assert max_box_accuracy(heatmaps, boxes, iou=iou).item() == pytest.approx(max(shares))
    each_at_its_own = sum(any(row[image] for row in expected) for image in range(16)) / 16
    assert max(shares) < each_at_its_own
    for level in (3, 10):
        assert box_accuracy(heatmaps, boxes, thresholds[level], iou).tolist() == expected[level]
    assert max_box_accuracy(heatmaps, boxes, thresholds[:2], iou).item() == pytest.approx(max(shares[:2]))


def test_the_usual_localization_is_at_a_fifth_of_the_maximum_and_half_of_the_union():
    heatmap = torch.tensor([[[[1.0, 0.25, 0.15, 0.0, 0.0]]]])
    for width, found in ((1, True), (2, True), (4, True), (5, False)):
        assert box_accuracy(heatmap, torch.tensor([[0, 0, width, 1]])).tolist() == [found]


def test_blank_maps_and_empty_boxes_are_never_hits():
    heatmaps, boxes = blobs(4)
    heatmaps[0], heatmaps[1] = 0, torch.nan
    boxes[0], boxes[2] = 0, 0
    boxes[3] = heatmaps_to_boxes(heatmaps[3:], 0.3)[0][0]
    assert box_hits(heatmaps, boxes, (0.1, 0.3), iou=0.01)[:3].any().item() is False
    assert max_box_accuracy(heatmaps, boxes).item() == 0.25


def test_wrong_boxes_and_options_are_named():
    heatmaps, boxes = blobs(6)
    for wrong in (boxes[:4], boxes[:, :3], boxes[0]):
        for function in (box_accuracy, box_hits, max_box_accuracy):
            with pytest.raises(ValueError, match=r"`boxes` to be \(6, 4\) as many as `heatmaps`, got shape"):
                function(heatmaps, wrong)
    for function in (box_accuracy, box_hits, max_box_accuracy):
        with pytest.raises(ValueError, match=r"`heatmaps` to be \(N, 1, H, W\), got shape \(6, 17, 21\)"):
            function(heatmaps[:, 0], boxes)
        for iou in (0, 1.1):
            with pytest.raises(ValueError, match=r"`iou` to be a number in \(0, 1\], got"):
                function(heatmaps, boxes, iou=iou)
    for thresholds in ((), (0.5, 1.0), (-0.1,), torch.tensor([0.5, torch.nan])):
        with pytest.raises(ValueError, match=r"`thresholds(\[1\])?` to be (one or more|a) numbers? in \[0, 1\), got"):
            max_box_accuracy(heatmaps, boxes, thresholds)
    for function in (
        lambda threshold: box_accuracy(heatmaps, boxes, threshold),
        lambda threshold: area_above(heatmaps, threshold),
    ):
        with pytest.raises(ValueError, match=r"`threshold` to be a number in \[0, 1\), got 1\.0"):
            function(1.0)


def test_masks_of_another_kind_are_refused():
    for masks, message in (
        (torch.ones(6, 1, 5, 7), r"`masks` to be of type bool, got torch\.float32\. For boxes: `boxes_to_masks"),
        (torch.ones(6, 5, 7, dtype=torch.bool), r"`masks` to be \(6, 1, 5, 7\) as `heatmaps`, got shape \(6, 5, 7\)"),
    ):
        for function in (pointing_game, energy_inside):
            with pytest.raises(ValueError, match=message):
                function(maps(), masks)


@pytest.mark.parametrize("thresholds", [(0.2, 0.5, 0.9), (0.9, 0.2, 0.5, 0.2), (0.0,)])
def test_the_overlap_at_several_thresholds_is_that_at_each_in_any_order(thresholds):
    heatmaps, boxes = blobs()
    heatmaps[3] = torch.rand(17, 21, generator=torch.Generator().manual_seed(1))  # many small regions
    overlaps = box_overlap(heatmaps, boxes, thresholds)
    assert overlaps.shape == (16, len(thresholds))
    for column, threshold in zip(overlaps.T, thresholds, strict=True):
        drawn = [box_by_hand(heatmap, threshold) for heatmap in heatmaps[:, 0]]
        expected = [iou_by_hand(one, box) for one, box in zip(drawn, boxes.tolist(), strict=True)]
        assert column.tolist() == pytest.approx(expected)
        assert torch.equal(box_overlap(heatmaps, boxes, threshold), column)
        assert torch.equal(box_iou(heatmaps_to_boxes(heatmaps, threshold)[0], boxes), column)
