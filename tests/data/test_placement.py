"""Where the network's input lies on the photograph, whatever the transform is called."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.models import EfficientNet_B0_Weights, ResNet18_Weights
from torchvision.transforms import v2

from lightning_saliency.data import find_placement

END = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
SIZES = [(400, 300), (300, 400), (37, 50), (1200, 1999), (224, 224)]


def expected_of(resize, crop, size):
    """Of a resize of the shorter side and a crop of the center, as torchvision rounds them."""
    short = min(size)
    new = [int(resize * length / short) if length != short else resize for length in size]
    scale = [length / resized for length, resized in zip(size, new, strict=True)]
    return scale, [round((resized - crop) / 2.0) * step for resized, step in zip(new, scale, strict=True)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weights", [ResNet18_Weights.DEFAULT, EfficientNet_B0_Weights.DEFAULT])
def test_the_crop_and_the_resize_of_torchvisions_transforms_are_found(weights, size):
    transform = weights.transforms()
    found = find_placement(transform, size)
    scale, offset = expected_of(transform.resize_size[0], transform.crop_size[0], size)
    assert found.scale == pytest.approx(scale, rel=0.01)
    assert found.offset == pytest.approx(offset, abs=0.01 * max(size))
    assert (found.mean, found.std) == (tuple(transform.mean), tuple(transform.std))
    assert found.input_size == (224, 224)


def test_a_squash_a_flip_and_a_letterbox_of_a_function_are_found():
    def squash(photo):
        return v2.Compose(END)(photo.resize((64, 48)))

    assert find_placement(squash, (240, 200)).scale == pytest.approx((5.0, 3.125), rel=0.01)

    def flipped(photo):
        return squash(ImageOps.mirror(photo))

    found = find_placement(flipped, (240, 200))
    assert found.scale == pytest.approx((5.0, -3.125), rel=0.01)
    assert found.offset == pytest.approx((0.0, 200.0), abs=1)

    def letterbox(photo):
        return v2.Compose(END)(ImageOps.pad(photo, (64, 64), color=(90, 10, 200)))

    found = find_placement(letterbox, (128, 64))
    assert found.scale == pytest.approx((2.0, 2.0), rel=0.01)
    assert found.offset == pytest.approx((0.0, -32.0), abs=1)
    assert bool(found.seen.all())


def test_channels_in_another_order_and_other_scales_are_normalizations():
    def caffe(photo):
        return (
            v2.functional.pil_to_tensor(photo.resize((32, 32))).flip(0).float()
            - torch.tensor([103.0, 116, 123])[:, None, None]
        )

    found = find_placement(caffe, (64, 64))
    assert found.scale == pytest.approx((2.0, 2.0), rel=0.01)
    assert found.std == pytest.approx([1 / 255] * 3, abs=1e-5)


@pytest.mark.parametrize(
    "step",
    [
        v2.RandomResizedCrop(32),
        v2.RandomRotation((30, 30)),
        v2.RandomPerspective(p=1.0),
        v2.RandomErasing(p=1.0, scale=(0.9, 0.9)),
    ],
    ids=["random", "rotated", "distorted", "erased"],
)
def test_what_does_more_than_resize_and_crop_is_told(step):
    transform = v2.Compose([*END, step, v2.Resize((32, 32))])
    assert find_placement(transform, (64, 96)) is None
    assert find_placement(lambda photo: v2.Compose(END)(photo) ** 2, (64, 96)) is None
    assert find_placement(lambda photo: photo, (64, 96)) is None


@pytest.mark.parametrize("size", [(200, 300), (300, 200), (61, 47)])
def test_what_the_network_sees_comes_back_to_its_own_place_on_the_photograph(size):
    """A bright square of the photograph, seen through the transform, is laid back where it is."""
    photo = np.zeros((*size, 3), np.uint8)
    top, left, side = size[0] // 2 - 10, size[1] // 2 - 5, 20
    photo[top : top + side, left : left + side] = 255
    transform = v2.Compose([v2.Resize(72), v2.CenterCrop(64), *END])
    seen = transform(Image.fromarray(photo))[None, :1]
    placement = find_placement(transform, size)
    back = placement.on_photo(seen)[0, 0]
    assert back.shape == size
    rows, columns = torch.nonzero(back > 0.5, as_tuple=True)
    found = [rows.min(), rows.max() + 1, columns.min(), columns.max() + 1]
    assert [int(value) for value in found] == pytest.approx([top, top + side, left, left + side], abs=3)
    crop = 64 / 72 * min(size)
    assert float(placement.seen.float().sum()) == pytest.approx(crop**2, rel=0.05)
    assert not back[~placement.seen].any()
