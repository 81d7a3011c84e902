"""Which transforms are a normalization, by what they do, and whether it is that of given images."""

import functools
import random
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification, SemanticSegmentation, VideoClassification

from lightning_saliency.data import Normalization, find_normalizations, to_unit_range

MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
BYTES = [25.5, 51.0, 76.5], [102.0, 127.5, 153.0]


def column(numbers):
    return torch.as_tensor(numbers, dtype=torch.float32).view(-1, 1, 1)


class ArrayNormalize:
    """Takes a named array of pixels in [0, 255] and returns a dict, as albumentations' `Normalize` does."""

    def __init__(self, mean, std, max_pixel_value=255.0, per_image=False):
        self.mean, self.std, self.max_pixel_value, self.per_image = mean, std, max_pixel_value, per_image

    def __call__(self, *args, image):
        if args:
            raise KeyError("You have to pass data to augmentations as named arguments.")
        if self.per_image:
            return {"image": (image - image.mean()) / (image.std() + 1e-4)}
        mean, std = (self.max_pixel_value * np.array(numbers, np.float32) for numbers in (self.mean, self.std))
        return {"image": (image - mean) / std}


class BatchAugmentation(nn.Module):
    """Takes batches, and has its numbers in a dict, as kornia's augmentations do."""

    def __init__(self, mean, std):
        super().__init__()
        self.flags = {"mean": torch.tensor(mean), "std": torch.tensor(std)}

    def forward(self, images):
        assert images.dim() == 4
        return (images - self.flags["mean"].view(1, -1, 1, 1)) / self.flags["std"].view(1, -1, 1, 1)


class BufferNormalize(nn.Module):
    """A layer of one's own, for batches, with buffers of whatever shape."""

    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images):
        return (images - self.mean) / self.std


class ImageProcessor:
    """Rescales pixels in [0, 255] and returns a dict of lists, as Hugging Face's image processors do."""

    def __init__(self, mean, std):
        self.image_mean, self.image_std = mean, std

    def __call__(self, images):
        return {"pixel_values": [((images / 255 - column(self.image_mean)) / column(self.image_std)).numpy()]}


NORMALIZE = {
    "v1": v1.Normalize(MEAN, STD),
    "v2": v2.Normalize(MEAN, STD),
    "of pixels in [0, 255]": v2.Normalize(*BYTES),
    "in compositions": v1.Compose([v1.ToTensor(), v2.Compose([v2.RandomHorizontalFlip(), v2.Normalize(MEAN, STD)])]),
    "beside noise": v2.Compose([v2.Normalize(MEAN, STD), v2.GaussianNoise(0.0, 0.1)]),
    "preset": ImageClassification(crop_size=24, resize_size=32, mean=tuple(MEAN), std=tuple(STD)),
    "preset of masks": SemanticSegmentation(resize_size=32, mean=tuple(MEAN), std=tuple(STD)),
    "preset of videos": VideoClassification(crop_size=(8, 8), resize_size=(9, 9), mean=tuple(MEAN), std=tuple(STD)),
    "of arrays": ArrayNormalize(MEAN, STD),
    "of arrays in [0, 1]": ArrayNormalize(MEAN, STD, max_pixel_value=1.0),
    "of arrays of 16 bits": ArrayNormalize(MEAN, STD, max_pixel_value=65535.0),
    "of batches": BatchAugmentation(MEAN, STD),
    "of buffers": BufferNormalize(MEAN, STD),
    "processor": ImageProcessor(MEAN, STD),
    "a partial function": functools.partial(lambda transform, image: transform(image), v1.Normalize(MEAN, STD)),
    "a function": lambda image: [NORMALIZE["v1"](channel) for channel in image],
    "a method": v1.Compose([v1.Normalize(MEAN, STD)]).__call__,
}


def holding(transform, name="transform"):
    dataset = TensorDataset(torch.zeros(4, 3, 8, 8))
    setattr(dataset, name, transform)
    return dataset


def close_to(mean, std):
    return [(pytest.approx(mean), pytest.approx(std))]


@pytest.mark.parametrize("kind", [kind for kind in NORMALIZE if kind != "a function"])
@pytest.mark.parametrize("name", ["transform", "transforms", "augmentations"])
def test_a_normalization_is_known_by_what_it_does_wherever_it_is_held(kind, name):
    for owner in (holding(NORMALIZE[kind], name), holding([NORMALIZE[kind]], name), holding({"a": NORMALIZE[kind]})):
        assert find_normalizations(Subset(owner, [0])) == close_to(MEAN, STD)


def test_what_a_function_uses_is_searched_too():
    normalize = v1.Normalize(MEAN, STD)

    def transform(rows):
        return [normalize(image) for image in rows["image"]]

    assert find_normalizations(holding(transform)) == close_to(MEAN, STD)
    assert find_normalizations(SimpleNamespace(_format_kwargs={"transform": transform})) == close_to(MEAN, STD)
    assert find_normalizations(holding(v2.Lambda(lambda image: normalize(image)))) == close_to(MEAN, STD)


@pytest.mark.parametrize("numbers", [([0.5], [0.25]), (0.5, 0.25), (torch.tensor(0.5), np.float32(0.25))])
def test_one_number_for_all_channels(numbers):
    class Gray:
        mean, std = numbers

        def __call__(self, image):
            return (image - 0.5) / 0.25

    assert find_normalizations(holding(Gray())) == [([0.5], [0.25])]
    assert find_normalizations(holding(v1.Normalize([0.5], [0.25]))) == [([0.5], [0.25])]


class Transform:
    mean, std = MEAN, STD

    def __init__(self, function):
        self.function = function

    def __call__(self, image):
        return self.function(image)


class Noise:
    """Of many tutorials."""

    def __init__(self, mean=0.0, std=1.0):
        self.mean, self.std = mean, std

    def __call__(self, tensor):
        return tensor + torch.randn(tensor.shape) * self.std + self.mean


def fail(image):
    raise RuntimeError("not this way")


OTHERS = {
    "noise": Noise(0.0, 0.1),
    "much noise": Noise(0.0, 1.0),
    "noise of one number": Transform(lambda image: image + torch.randn(1)),
    "little noise": Noise(0.0, 1e-4),
    "nothing": Transform(lambda image: image),
    "its inverse": Transform(lambda image: image * column(STD) + column(MEAN)),
    "half of it": Transform(lambda image: image - column(MEAN)),
    "of each image": ArrayNormalize(MEAN, STD, per_image=True),
    "something more": Transform(lambda image: 2 * (image - column(MEAN)) / column(STD)),
    "only of dark images": Transform(lambda image: ((image - column(MEAN)) / column(STD)).clamp(max=0)),
    "an error": Transform(fail),
    "no image": Transform(lambda image: "text"),
    "an empty image": Transform(lambda image: image[:, :0]),
    "a number": Transform(lambda image: 0.5),
    "not a number": Transform(lambda image: image * float("nan")),
    "one channel": Transform(lambda image: image[:1]),
    "itself": Transform(lambda image: Transform),
    "a list of nothing": Transform(lambda image: []),
    "numbers alone": SimpleNamespace(mean=MEAN, std=STD),
    "none to divide by": v1.Normalize(MEAN, [0.4, 0.0, 0.6]),
    "of two lengths": Transform(lambda image: image),
}
OTHERS["of two lengths"].mean = [0.1, 0.2]


@pytest.mark.parametrize("kind", OTHERS)
def test_what_does_something_else_is_no_normalization_whatever_it_is_called(kind):
    assert find_normalizations(holding(OTHERS[kind])) == []
    dataset = holding(v2.Compose([v1.Normalize(MEAN, STD), OTHERS[kind]]))
    assert find_normalizations(dataset) == close_to(MEAN, STD)


class Drawing:
    """A transform with random numbers of its own, those of the process, and a count of its calls."""

    mean, std = 0.0, 1.0

    def __init__(self):
        self.torch, self.numpy, self.python = torch.Generator(), np.random.default_rng(0), random.Random(0)
        self.calls = []

    def state(self):
        return self.torch.get_state().tolist(), str(self.numpy.bit_generator.state), self.python.getstate(), self.calls

    def __call__(self, image):
        self.calls.append(image)
        own = torch.rand(1, generator=self.torch) + self.numpy.random() + self.python.random()
        warnings.warn("of a transform", stacklevel=1)
        return image + own + torch.rand(1) + random.random() + np.random.rand()


def test_trying_a_transform_leaves_no_trace():
    transform, hooked = Drawing(), v2.Normalize(MEAN, STD)
    seen = []
    hooked.register_forward_hook(lambda *_: seen.append("called"))

    def states():
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()), transform.state()

    before = states()
    assert find_normalizations(holding([transform, hooked])) == close_to(MEAN, STD)
    assert states() == before
    assert seen == []


class Uncopied(Transform):
    def __deepcopy__(self, memo):
        raise RuntimeError("holds a file")


def test_what_cannot_be_copied_is_not_called():
    called = []
    assert find_normalizations(holding(Uncopied(called.append))) == []
    assert called == []


class Network(nn.Module):
    """A model that has numbers of its own, and is never called nor copied as a whole."""

    mean, std = MEAN, STD

    def __init__(self, **held):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, images):
        raise AssertionError("called")

    def __deepcopy__(self, memo):
        raise AssertionError("copied")


@pytest.mark.parametrize("kind", ["v2", "in compositions", "of batches", "of buffers"])
def test_the_normalization_of_a_model_is_found_as_a_submodule_or_an_attribute(kind):
    for held in (NORMALIZE[kind], nn.Sequential(nn.Identity(), nn.Sequential(v2.Identity(), v2.Normalize(MEAN, STD)))):
        assert find_normalizations(None, Network(preprocess=held)) == close_to(MEAN, STD)
    assert find_normalizations(Network()) == []
    assert find_normalizations(SimpleNamespace(val_aug=NORMALIZE[kind])) == close_to(MEAN, STD)  # a data module


def test_of_several_each_is_there_once_in_the_order_of_the_owners():
    other = v1.Normalize([0.5], [0.25])
    found = find_normalizations(holding(v1.Compose([v1.Normalize(*BYTES), v1.Normalize(MEAN, STD)])), holding(other))
    assert found == [*close_to(MEAN, STD), ([0.5], [0.25])]


def pixels(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (4, 3, 4, 8, 8), (4, 3, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_normalization_fits_the_images_that_are_pixels_without_it(shape, dtype):
    images, own = pixels(*shape).to(dtype), Normalization(MEAN, STD)
    mean, std = (torch.tensor(numbers, dtype=dtype).view(-1, *[1] * (len(shape) - 2)) for numbers in (MEAN, STD))
    normalized = (images - mean) / std
    assert own.fits([normalized])
    assert own.fits([normalized, normalized[:1]])
    assert own.fits([(images * 1.15 - 0.05 - mean) / std])  # what interpolation overshoots
    assert not own.fits([normalized * 2])
    assert not own.fits([normalized, normalized * 2])
    assert not Normalization([0.0], [1.0]).fits([normalized])
    assert not Normalization([0.5, 0.5], [0.5, 0.5]).fits([normalized])  # of other channels


def test_a_few_pixels_may_be_beyond_and_those_that_are_not_finite_do_not_count():
    images = torch.full((1, 1, 100, 100), 0.5)
    images[..., 0, :] = 100.0
    assert Normalization([0.0], [1.0]).fits([images])
    images[..., 1, 0] = -100.0
    assert not Normalization([0.0], [1.0]).fits([images])
    images[..., :2, :] = torch.inf
    images[..., 0, :] = torch.nan
    assert Normalization([0.0], [1.0]).fits([images])


def test_numbers_of_pixels_in_0_to_255_are_brought_to_0_to_1():
    assert to_unit_range(*BYTES) == (pytest.approx(MEAN), pytest.approx(STD))
    assert to_unit_range([0.0], [255.0]) == ([0.0], [1.0])
    assert to_unit_range(MEAN, STD) == (MEAN, STD)
    assert to_unit_range([0.0], [1.0]) == ([0.0], [1.0])
    assert to_unit_range([-1.0], [2.0]) == ([-1.0], [2.0])
