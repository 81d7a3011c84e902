"""What batches say of the objects of their images, in the forms that are certain."""

import pytest
import torch
from torchvision import tv_tensors

from lightning_saliency.data import find_object_boxes, find_truths

SIZES = [(40, 60), (40, 60)]
IMAGES = [torch.zeros(3, 40, 60), torch.zeros(3, 40, 60)]
CORNERS = [torch.tensor([[5.0, 10, 25, 30], [0, 0, 60, 40]]), torch.zeros(0, 4)]
CLASSES = [torch.tensor([3, 1]), torch.zeros(0, dtype=torch.long)]


def relative(corners):
    x1, y1, x2, y2 = (corners / torch.tensor([60.0, 40, 60, 40])).unbind(1)
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], 1)


def with_sizes(corners):
    return torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)


def objects_of(corners, classes):
    return [
        {"bbox": box, "category_id": index}
        for box, index in zip(with_sizes(corners).tolist(), classes.tolist(), strict=True)
    ]


def tv_boxes(corners):
    return tv_tensors.BoundingBoxes(with_sizes(corners), format="XYWH", canvas_size=(40, 60))


FORMS = {
    "torchvision": [{"boxes": box, "labels": index} for box, index in zip(CORNERS, CLASSES, strict=True)],
    "DETR": [{"boxes": relative(box), "class_labels": index} for box, index in zip(CORNERS, CLASSES, strict=True)],
    "columns": {"bbox_xyxy": CORNERS, "label": CLASSES},
    "COCO, lists": [objects_of(box, index) for box, index in zip(CORNERS, CLASSES, strict=True)],
    "COCO, annotations": [{"annotations": objects_of(box, index)} for box, index in zip(CORNERS, CLASSES, strict=True)],
    "tv_tensors": [{"boxes": tv_boxes(box), "labels": index} for box, index in zip(CORNERS, CLASSES, strict=True)],
}


@pytest.mark.parametrize("form", FORMS)
def test_boxes_are_found_in_their_usual_forms(form):
    targets = FORMS[form]
    batch = {"image": IMAGES, **targets} if isinstance(targets, dict) else (IMAGES, targets)
    found = find_object_boxes(batch, SIZES)
    for own, corners, classes in zip(found, CORNERS, CLASSES, strict=True):
        torch.testing.assert_close(own.corners, corners)
        assert own.classes.tolist() == classes.tolist()
    assert find_truths(batch, 2, 5, "detection_list").answers == ((1, 3), ())


@pytest.mark.parametrize(
    "change",
    [
        lambda boxes: with_sizes(boxes) * torch.tensor([1.0, 1, 0.1, 0.1]),  # no corners, whatever else
        lambda boxes: boxes * 2,  # of an image that is larger
    ],
)
def test_boxes_that_are_no_corners_in_the_image_are_not_taken_for_such(change):
    targets = [{"boxes": change(CORNERS[0]), "labels": CLASSES[0]}]
    assert find_object_boxes((IMAGES[:1], targets), SIZES[:1]) is None
    assert find_truths((IMAGES[:1], targets), 1, 5, "detection_list").answers == ((1, 3),)


def test_boxes_in_pixels_count_only_for_images_of_the_models_size():
    batch = (IMAGES, FORMS["torchvision"])
    assert find_object_boxes(batch, [(80, 120)] * 2) is None
    found = find_object_boxes((IMAGES, FORMS["DETR"]), [(80, 120)] * 2)  # these are relative
    torch.testing.assert_close(found[0].corners, 2 * CORNERS[0])


def test_one_class_for_each_image_is_no_object():
    assert find_object_boxes({"image": torch.zeros(2, 3, 8, 8), "label": torch.tensor([1, 2])}, [(8, 8)] * 2) is None
