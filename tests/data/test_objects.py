"""Boxes and masks of objects, as masks of pixels."""

import pytest
import torch

from lightning_saliency.data import boxes_to_masks, objects_to_masks

BOXES = torch.tensor([[1, 0, 3, 1], [0, 1, 4, 3]])
MASKS = torch.zeros(2, 1, 3, 4, dtype=torch.bool)
MASKS[0, 0, 0, 1:3] = True
MASKS[1, 0, 1:3, :] = True


@pytest.mark.parametrize(
    "objects",
    [
        BOXES,
        BOXES.float(),
        list(BOXES[:, None]),
        tuple(BOXES[:, None]),
        MASKS,
        MASKS[:, 0],
        MASKS.float() * 0.5,
        MASKS.to(torch.uint8) * 255,
        MASKS[:, 0].to(torch.int64) * 7,
    ],
)
def test_boxes_and_masks_mark_the_same_pixels(objects):
    found = objects_to_masks(objects, 2, (3, 4))
    assert found.dtype == torch.bool
    assert torch.equal(found, MASKS)


def test_an_image_may_have_several_boxes_or_none():
    several = [torch.tensor([[0, 0, 1, 1], [3, 2, 4, 3]]), torch.empty(0, 4)]
    found = objects_to_masks(several, 2, (3, 4))
    assert found[0, 0].nonzero().tolist() == [[0, 0], [2, 3]]
    assert not found[1].any()
    assert boxes_to_masks([], (3, 4)).shape == (0, 1, 3, 4)


def test_a_box_ends_before_its_right_and_lower_side_and_at_the_border_of_the_image():
    assert boxes_to_masks(torch.tensor([[-5, 1, 2, 99]]), (3, 4)).int().tolist() == [
        [[[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]]
    ]


@pytest.mark.parametrize(
    ("objects", "says"),
    [
        (BOXES[:1], r"a tensor of shape \(1, 4\)"),
        (torch.zeros(2, 5), r"a tensor of shape \(2, 5\)"),
        (MASKS[:, :, :2], r"a tensor of shape \(2, 1, 2, 4\)"),
        ([BOXES[:1]], "a list of {0: a tensor"),
        ([BOXES[:1], "none"], "a list of .*1: a str"),
        ("boxes", "a str"),
    ],
)
def test_other_objects_are_refused_and_described(objects, says):
    with pytest.raises(ValueError, match=rf"`objects` to be, for 2 images of 3×4, boxes \(2, 4\), .* got {says}"):
        objects_to_masks(objects, 2, (3, 4))
    with pytest.raises(ValueError, match=r"`boxes\[1\]` to be \(N, 4\), got shape \(2, 3\)"):
        boxes_to_masks([BOXES, torch.zeros(2, 3)], (3, 4))
