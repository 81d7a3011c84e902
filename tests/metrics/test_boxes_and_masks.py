import pytest
import torch

from lightning_saliency.data import boxes_to_masks, masks_to_boxes


def test_the_pixels_of_several_boxes_are_those_of_any():
    several = [
        torch.tensor([[0, 0, 3, 2], [2, 1, 5, 4]]),
        torch.empty(0, 4),
        torch.tensor([[6.0, 4.0, 7.0, 5.0], [0.0, 0.0, 1.0, 1.0], [0.0, 4.0, 2.5, 5.0]]),
    ]
    masks = boxes_to_masks(several, (5, 7))
    assert masks.shape == (3, 1, 5, 7)
    assert masks.dtype == torch.bool
    for mask, boxes in zip(masks[:, 0], several, strict=True):
        for i in range(5):
            for j in range(7):
                assert bool(mask[i, j]) is any(x1 <= j < x2 and y1 <= i < y2 for x1, y1, x2, y2 in boxes.tolist())
    assert masks.sum((1, 2, 3)).tolist() == [14, 0, 5]
    one_each = torch.tensor([[0, 0, 3, 2], [2, 1, 5, 4]])
    assert torch.equal(boxes_to_masks(tuple(one_each[:, None]), (5, 7)), boxes_to_masks(one_each, (5, 7)))
    assert boxes_to_masks([], (5, 7)).shape == (0, 1, 5, 7)


def test_a_box_is_the_smallest_that_holds_the_mask():
    masks = torch.rand(20, 1, 6, 9, generator=torch.Generator().manual_seed(0)) > 0.93
    masks[3] = False
    masks[4] = True
    boxes = masks_to_boxes(masks)
    assert boxes.dtype == torch.float32
    for box, mask in zip(boxes.tolist(), masks[:, 0], strict=True):
        pixels = [(i, j) for i in range(6) for j in range(9) if mask[i, j]]
        xs, ys = [j for _, j in pixels], [i for i, _ in pixels]
        assert box == ([min(xs), min(ys), max(xs) + 1, max(ys) + 1] if pixels else [0, 0, 0, 0])
    wanted = torch.tensor([[2, 1, 5, 4], [0, 0, 9, 6], [8, 5, 9, 6]])
    assert torch.equal(masks_to_boxes(boxes_to_masks(wanted, (6, 9))), wanted.float())
    with pytest.raises(ValueError, match=r"`masks` to be of type bool, got torch\.float32"):
        masks_to_boxes(masks.float())
    with pytest.raises(ValueError, match=r"`masks` to be \(N, 1, H, W\), got shape \(20, 6, 9\)"):
        masks_to_boxes(masks[:, 0])


def test_boxes_of_another_shape_are_refused():
    boxes = torch.zeros(6, 4)
    with pytest.raises(ValueError, match=r"`boxes` to be \(N, 4\), got shape \(6, 3\)"):
        boxes_to_masks(boxes[:, :3], (5, 7))
    with pytest.raises(ValueError, match=r"`boxes\[1\]` to be \(N, 4\), got shape \(4,\)"):
        boxes_to_masks([boxes, boxes[0]], (5, 7))
