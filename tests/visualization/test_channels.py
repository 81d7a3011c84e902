"""Multispectral images: which three channels are shown, chosen by the user or by the data set."""

from types import SimpleNamespace

import pytest
import torch
from tiny import TinyClassifier, data, loader, trainer
from torch.utils.data import Subset, random_split

from lightning_saliency import SaliencyCallback
from lightning_saliency.data import find_rgb_bands
from lightning_saliency.visualization import Style, shown_channels, to_rgb
from lightning_saliency.visualization.style import find_pixel_scale, to_pictures

IMAGES = torch.rand(2, 6, 5, 7, generator=torch.Generator().manual_seed(0))
NAMES = ("B01", "B02", "B03", "B04", "B08", "B11")


def multispectral(num=24, channels=6, **attributes):
    """A data set that says of itself what torchgeo's say."""
    dataset = data(num, channels)
    vars(dataset).update({"rgb_bands": ("B04", "B03", "B02"), "bands": NAMES} | attributes)
    return dataset


@pytest.mark.parametrize("positions", [[3, 2, 1], (5, 0, 0), [2]])
@pytest.mark.parametrize("normalization", [(None, None), (0.5, 0.25)])
def test_positions_are_shown_in_their_order(positions, normalization):
    shown = to_rgb(IMAGES, *normalization, channels=positions)
    assert torch.equal(shown, to_rgb(IMAGES[:, positions], *normalization))
    assert torch.equal(to_pictures(IMAGES, Style(channels=positions)), to_rgb(IMAGES, channels=positions))


def test_positions_are_of_three_channels_too_and_of_volumes_and_signals():
    assert torch.equal(to_rgb(IMAGES[:, :3], channels=[2, 1, 0]), to_rgb(IMAGES[:, [2, 1, 0]]))
    volumes = IMAGES[:, :, None].expand(-1, -1, 4, -1, -1)
    assert to_rgb(volumes, channels=[3, 2, 1]).shape == (2, 3, 4, 5, 7)
    assert to_pictures(IMAGES.flatten(2), Style(channels=[5, 1])).shape == (2, 2, 35)


@pytest.mark.parametrize(
    ("channels", "expected"),
    [([3, 2, 1], "channels 4, 3, 2 of 6"), ([4], "channel 5 of 6"), ("first", "channels 1–3 of 6")],
)
def test_a_picture_says_which(channels, expected):
    assert shown_channels(6, channels) == expected
    assert find_pixel_scale([IMAGES], Style(channels=channels)).describe_channels(IMAGES) == expected


@pytest.mark.parametrize(
    "dataset",
    [
        multispectral(),
        multispectral(bands=None, all_bands=NAMES),
        multispectral(bands=None, all_band_names=list(NAMES)),
        multispectral(bands=NAMES[:5]),  # to which an index is appended
        multispectral(bands=("B02", "B08"), all_bands=NAMES),
        Subset(multispectral(), [0, 1]),
        random_split(Subset(multispectral(), range(8)), [4, 4])[1],
        SimpleNamespace(train_dataset=multispectral()),
    ],
)
@pytest.mark.parametrize("channels", [None, "rgb"])
def test_the_data_sets_red_green_and_blue_are_the_default(dataset, channels):
    scale = find_pixel_scale([IMAGES], Style(channels=channels), dataset)
    assert torch.equal(scale(IMAGES), to_rgb(IMAGES[:, [3, 2, 1]]))
    assert scale.describe_channels(IMAGES) == "bands B04, B03, B02"


def test_a_data_set_may_give_positions():
    scale = find_pixel_scale([IMAGES], Style(), multispectral(rgb_bands=[4, 1, 0]))
    assert torch.equal(scale(IMAGES), to_rgb(IMAGES[:, [4, 1, 0]]))
    assert scale.describe_channels(IMAGES) == "channels 5, 2, 1 of 6"


class Raises:
    @property
    def rgb_bands(self):
        raise RuntimeError("of the user's")


@pytest.mark.parametrize(
    "dataset",
    [
        None,
        data(),
        multispectral(rgb_bands=("B04", "B03", "B99")),
        multispectral(rgb_bands=("B04", "B03")),
        multispectral(rgb_bands=[4, 1, 6]),
        multispectral(rgb_bands=[True, 1, 2]),
        multispectral(rgb_bands="RGB"),
        multispectral(bands=(*NAMES, "B12")),
        Raises(),
    ],
)
def test_bands_that_do_not_fit_are_no_bands(dataset):
    assert find_rgb_bands(dataset, num_channels=6) is None
    assert torch.equal(to_pictures(IMAGES, Style(), dataset), to_rgb(IMAGES))
    with pytest.raises(ValueError, match=r"`style\.channels` is 'rgb', found none.*`Style\(channels=\[3, 2, 1\]\)`"):
        to_pictures(IMAGES, Style(channels="rgb"), dataset)


def test_what_the_user_sets_goes_before_the_data_set():
    for channels in ("first", "mean", [0, 4, 5]):
        assert torch.equal(
            to_pictures(IMAGES, Style(channels=channels), multispectral()), to_rgb(IMAGES, None, None, channels)
        )


@pytest.mark.parametrize(
    ("channels", "message"),
    [([3, 2, 6], "below the images' 6 channels, got \\[3, 2, 6\\]"), ([1, 2], "three positions, or one for gray")],
)
def test_positions_that_the_images_do_not_have_end_a_run_before_its_first_step(tmp_path, channels, message):
    batches, module = loader(multispectral()), TinyClassifier(6)
    callback = SaliencyCallback("grad_cam", samples=2, style=Style(channels=channels))
    with pytest.raises(ValueError, match=f"`style.channels` to .*{message}"):
        trainer(tmp_path, callback).fit(module, batches, batches)
    assert module.trainer.global_step == 0


@pytest.mark.parametrize(
    ("channels", "error"),
    [([-1, 0, 1], ValueError), ([0.5], TypeError), (3, TypeError), ("last", ValueError), ([], ValueError)],
)
def test_what_is_no_choice_of_channels_is_refused(channels, error):
    with pytest.raises(error, match=r"`style\.channels"):
        Style(channels=channels)
