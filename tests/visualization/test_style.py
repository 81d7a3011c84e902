from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from drawing import rand
from jsonargparse import ArgumentParser
from torch import nn
from torchvision.transforms import v2

from lightning_saliency.visualization import Style, find_names, find_pixel_scale, to_pictures, to_rgb


def test_what_is_given_as_a_list_or_an_array_cannot_change_later():
    names = ["cat", "dog"]
    style = Style(mean=[0.5, 0.4, 0.3], std=np.array([0.2, 0.2, 0.2]), class_names=names)
    names[0] = "cow"
    assert (style.mean, style.std, style.class_names) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2), ("cat", "dog"))
    assert Style(torch.tensor(0.5), 0.25) == Style(0.5, 0.25)
    assert hash(style)
    with pytest.raises(AttributeError):
        style.alpha = 0.2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mean": 0.5}, ValueError, r"`style\.mean` and `style\.std` both or neither, got 0.5 and None"),
        ({"mean": "0.5", "std": 1.0}, TypeError, r"`style\.mean` to be a finite number, got '0.5'"),
        ({"mean": [0.5, None], "std": 1.0}, TypeError, r"`style\.mean\[1\]` to be a finite number, got None"),
        ({"mean": [], "std": []}, ValueError, r"`style\.mean`"),
        ({"mean": 0.5, "std": float("nan")}, ValueError, r"`style\.std` to be a number above 0, got nan"),
        ({"mean": 0.5, "std": [1.0, 0.0]}, ValueError, r"`style\.std\[1\]` to be a number above 0, got 0.0"),
        ({"class_names": "cat"}, TypeError, r"`style\.class_names` to be a list of names, got 'cat'"),
        ({"colormap": "turbbo"}, ValueError, r"`style\.colormap`.*'turbbo'. Did you mean 'turbo'"),
        ({"alpha": 1.5}, ValueError, r"`style\.alpha` to be a number in \[0, 1\], got 1.5"),
        ({"alpha": "half"}, TypeError, r"`style\.alpha`"),
        ({"normalize": "all"}, ValueError, r"`style\.normalize` to be one of max, minmax, shared, got 'all'"),
        ({"channels": "last"}, ValueError, r"`style\.channels` to be one of first, mean, rgb, got 'last'"),
        ({"top_k": 0}, ValueError, r"`style\.top_k` to be a positive int, got 0"),
    ],
)
def test_a_wrong_option_is_named_with_its_group(options, error, message):
    with pytest.raises(error, match=message):
        Style(**options)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jsonargparse renames its methods
def test_it_is_written_in_yaml(tmp_path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--style", type=Style, default=Style())
    written = {"mean": [0.5], "std": 0.25, "class_names": ["cat", "dog"], "normalize": "shared", "top_k": 3}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"style": written}))
    parsed = parser.parse_args([f"--config={tmp_path / 'config.yaml'}", "--style.alpha=0.25"])
    style = parser.instantiate_classes(parsed).style
    assert style == Style([0.5], 0.25, ["cat", "dog"], normalize="shared", top_k=3, alpha=0.25)
    again = yaml.safe_load(parser.dump(parsed))["style"]
    assert {option: again[option] for option in written} == written
    with pytest.raises(Exception, match=r"(?s)style.*colormapp"):
        parser.parse_args(["--style.colormapp=viridis"])


MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
NORMALIZE = v2.Normalize(MEAN, STD)


def test_the_data_set_says_what_the_style_leaves_open():
    images = rand(2, 3, 8, 8)
    transform = v2.Normalize(mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    dataset = SimpleNamespace(transform=transform, classes=["cat", "dog"])
    assert torch.equal(to_pictures(images, Style(), dataset), to_rgb(images, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    assert torch.equal(to_pictures(images, Style(0.1, 0.9), dataset), to_rgb(images, 0.1, 0.9))
    assert torch.equal(to_pictures(images, Style()), to_rgb(images, 0.0, 1.0))
    many = rand(2, 5, 8, 8)  # the data set's numbers are of other images
    assert torch.equal(to_pictures(many, Style(channels="mean"), dataset), to_rgb(many, channels="mean"))
    assert find_names(Style(), dataset)[1] == "dog"
    assert find_names(Style(class_names=["cow", "pig"]), dataset)[1] == "pig"
    assert find_names(Style())[1] == "1"


def test_images_are_the_pixels_that_they_were_before_they_were_normalized():
    pixels = rand(2, 3, 8, 8)
    expected = to_rgb(pixels, 0.0, 1.0)
    for scale, transform in ((1, NORMALIZE), (255, v2.Normalize([127.5, 102.0, 76.5], [51.0, 76.5, 102.0]))):
        images = transform(pixels * scale)
        found = find_pixel_scale([images], Style(), SimpleNamespace(transform=transform))
        assert (found(images).int() - expected.int()).abs().max() <= 1
        assert found.note == ""
    of_bytes = to_pictures(NORMALIZE(pixels), Style([127.5, 102, 76.5], [51.0, 76.5, 102]))
    assert (of_bytes.int() - expected.int()).abs().max() <= 1


def test_a_normalization_that_does_not_explain_the_images_is_not_used_and_that_is_said():
    dataset = SimpleNamespace(transform=NORMALIZE)
    other = v2.Normalize([0.5], [0.05])(rand(2, 3, 8, 8))
    found = find_pixel_scale([other], Style(), dataset)
    assert "stretched" in found.note
    assert torch.equal(found(other), to_rgb(other))
    assert "stretched" in find_pixel_scale([other], Style()).note
    many = find_pixel_scale([rand(2, 5, 8, 8)], Style())  # measurements, which need not be shades
    assert (many.note, many.is_unknown) == ("each image stretched to its own range", False)
    fitting = NORMALIZE(rand(2, 3, 8, 8))
    assert "stretched" in find_pixel_scale([fitting, other], Style(), dataset).note  # one scale for all sizes
    assert find_pixel_scale([fitting, fitting[:, :, :4]], Style(), dataset).normalization == (MEAN, STD)


def test_a_scale_that_is_found_for_images_is_that_of_others_made_of_them():
    images = NORMALIZE(rand(2, 3, 8, 8))
    scale = find_pixel_scale([images], Style(), SimpleNamespace(transform=NORMALIZE))
    assert torch.equal(scale(images * 9), to_rgb(images * 9, MEAN, STD))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.normalize, self.net = NORMALIZE, nn.Conv2d(3, 2, 3)


def test_the_normalization_of_the_modules_counts_where_the_images_are_no_pixels_as_they_are():
    pixels = rand(2, 3, 8, 8)
    images = NORMALIZE(pixels)
    silent = SimpleNamespace()
    for modules in ((None, Net()), (SimpleNamespace(augmentation=NORMALIZE), None)):
        assert torch.equal(to_pictures(images, Style(), silent, modules), to_rgb(images, MEAN, STD))
        # else the model normalizes them itself
        assert torch.equal(to_pictures(pixels, Style(), silent, modules), to_rgb(pixels, 0.0, 1.0))
    # the data set's comes first
    dataset = SimpleNamespace(transform=v2.Normalize([0.6], [0.3]))
    assert find_pixel_scale([v2.Normalize([0.6], [0.3])(pixels)], Style(), dataset, [Net()]).normalization.mean == [0.6]
    assert find_pixel_scale([v2.Normalize([0.5], [0.05])(pixels)], Style(), silent, [Net()]).note


def test_names_that_are_found_fit_the_logits_and_those_of_the_user_stand():
    dataset = SimpleNamespace(classes=[("cat", "Felis catus"), ("dog", "Canis lupus")])
    net = Net()
    net.class_names = ["a", "b", "c"]
    assert find_names(Style(), dataset, [net], num_classes=2)[0] == "cat"
    assert find_names(Style(), dataset, [net], num_classes=3)[0] == "a"
    assert find_names(Style(), dataset, [net], num_classes=4)[0] == "0"
    assert find_names(Style(class_names=["cow"]), dataset, [net], num_classes=2)[0] == "cow"
