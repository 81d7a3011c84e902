"""What `explain` takes besides the model's own tensors: photographs in every form, and batches of a loader."""

import numpy as np
import pytest
import torch
from networks import gap_net
from PIL import Image
from states import assert_alike
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.transforms import v2

from lightning_saliency.attribution import explain
from lightning_saliency.data import read_image, to_photo

PIXELS = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
TRANSFORM = v2.Compose(
    [v2.ToImage(), v2.Resize((24, 36)), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
)


def network(num_classes=4):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes)
    )


def maps(images, **options):
    return explain(network(), images, methods="saliency", **options).attributions["saliency"]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(PIXELS).save(path)
    return path


@pytest.mark.parametrize(
    "form",
    [str, lambda path: path, Image.open, lambda path: PIXELS, lambda path: torch.from_numpy(PIXELS).permute(2, 0, 1),
     lambda path: [path], lambda path: Image.open(path).convert("RGBA")],
    ids=["text", "path", "pillow", "array", "tensor", "list", "transparent"],
)  # fmt: skip
def test_a_photograph_in_any_form_is_the_one_that_its_transform_makes(photo, form):
    expected = maps(TRANSFORM(Image.fromarray(PIXELS))[None])
    assert_alike(maps(form(photo), transform=TRANSFORM), expected)


def test_several_photographs_are_explained_together(photo):
    turned = Image.fromarray(PIXELS[:, ::-1])
    explanation = explain(network(), [photo, turned, PIXELS], transform=TRANSFORM)
    assert explanation.images.shape == (3, 3, 24, 36)
    assert torch.equal(explanation.images[0], explanation.images[2])
    assert not torch.equal(explanation.images[0], explanation.images[1])


def test_weights_bring_their_own_transform_and_names(photo):
    weights = ResNet18_Weights.DEFAULT
    torch.manual_seed(0)
    model = resnet18()
    explanation = explain(model, photo, weights=weights, methods="saliency", target="Tiger_cat")
    assert torch.equal(explanation.images[0], weights.transforms()(Image.open(photo)))
    assert explanation.class_names == tuple(weights.meta["categories"])
    assert explanation.classes.tolist() == [282]
    assert "tiger cat" in repr(explanation)
    tuned = explain(network(), photo, weights=weights)  # for other classes: the names are not its own
    assert tuned.class_names is None


def test_a_photo_of_a_turned_camera_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(np.asarray(to_photo(tmp_path / "turned.png")), PIXELS)
    assert np.array_equal(np.asarray(to_photo(Image.open(tmp_path / "turned.png"))), PIXELS)


def test_every_type_that_pillow_reads_by_itself_is_read(tmp_path):
    image = Image.fromarray(PIXELS)
    for name in ("a.jfif", "a.tga", "a.pcx", "a.sgi", "a.ico", "a.jp2", "a.dds", "a.qoi", "a.avif", "a.ppm", "a.xbm"):
        if name == "a.xbm":
            image.convert("1").save(tmp_path / name)
        else:
            image.save(tmp_path / name, **({"format": "JPEG"} if name == "a.jfif" else {}))
        found = read_image(tmp_path / name).image
        assert found.mode == "RGB"
        assert found.size == ((60, 40) if name != "a.ico" else found.size)


LABELS = torch.tensor([2, 0, 3])
IMAGES = torch.rand(3, 3, 24, 36, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "batch",
    [(IMAGES, LABELS), [IMAGES, LABELS], {"image": IMAGES, "label": LABELS}, (LABELS + 100, IMAGES, LABELS),
     (IMAGES, nn.functional.one_hot(LABELS).float())],
    ids=["tuple", "list", "dict", "indices", "one-hot"],
)  # fmt: skip
def test_of_a_batch_the_labels_are_explained_where_no_target_is_set(batch):
    explanation = explain(network(), batch, methods="saliency")
    assert explanation.classes.tolist() == explanation.labels.tolist() == LABELS.tolist()
    assert_alike(explanation.attributions["saliency"], maps(IMAGES, target=LABELS))
    assert explain(network(), batch, target="label").classes.tolist() == LABELS.tolist()
    predicted = explain(network(), batch, target="predicted")
    assert torch.equal(predicted.classes, predicted.predictions)
    assert explain(network(), batch, target=-1).classes.tolist() == [3, 3, 3]


def test_a_batch_of_a_loader_and_an_entry_of_a_data_set():
    dataset = TensorDataset(IMAGES, LABELS)
    batch = explain(network(), next(iter(DataLoader(dataset, batch_size=2))))
    assert batch.classes.tolist() == [2, 0]
    image, label = dataset[1]
    for entry in ((image, label), (image, 0), (image, np.int64(0))):
        one = explain(network(), entry)
        assert (len(one), one.classes.tolist(), one.labels.tolist()) == (1, [0], [0])
    photograph = explain(network(), (Image.fromarray(PIXELS), 3), transform=TRANSFORM)
    assert photograph.classes.tolist() == [3]


def test_an_unknown_label_is_explained_by_the_predicted_class():
    explanation = explain(network(), (IMAGES, torch.tensor([2, -1, 3])))
    assert explanation.classes.tolist() == [2, int(explanation.predictions[1]), 3]


def test_the_names_of_the_classes_are_passed_or_the_models_own():
    names = ["ant", "bee", "Tiger_Cat", "dog"]
    model = network()
    model.class_names = names
    for explanation in (
        explain(network(), IMAGES, class_names=names, target="tiger cat"),
        explain(model, IMAGES, target=["tiger-cat", "TIGER CAT", 2]),
    ):
        assert explanation.classes.tolist() == [2, 2, 2]
        assert explanation.class_names == tuple(names)
        assert explanation[0].class_names == tuple(names)


class TakesList(nn.Module):
    """A model whose forward takes a list of images."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, images):
        assert isinstance(images, list)
        return self.net(torch.stack(images))


@pytest.mark.parametrize("model", [network(), TakesList()], ids=["batch", "list"])
@pytest.mark.parametrize(
    "form",
    [list, tuple, lambda images: (list(images), LABELS), lambda images: [tuple(images), LABELS.tolist()],
     lambda images: {"pixel_values": list(images), "labels": LABELS.numpy()}],
    ids=["list", "tuple", "labels", "tuples", "dict"],
)  # fmt: skip
def test_a_list_of_images_is_one_batch_of_them(model, form):
    explanation = explain(model, form(IMAGES), methods="saliency", target=LABELS)
    assert_alike(explanation.images, IMAGES)
    assert_alike(explanation.attributions["saliency"], maps(IMAGES, target=LABELS))


def test_one_image_in_a_list_is_one_image():
    assert_alike(maps([IMAGES[0]]), maps(IMAGES[:1]))
    assert_alike(maps([IMAGES]), maps(IMAGES))


def test_photographs_have_labels_too(photo):
    explanation = explain(network(), ([photo, PIXELS], np.array([2, 0])), transform=TRANSFORM)
    assert explanation.classes.tolist() == explanation.labels.tolist() == [2, 0]
    entry = explain(network(), {"image": Image.open(photo), "label": 3, "index": 7}, transform=TRANSFORM)
    assert (len(entry), entry.labels.tolist()) == (1, [3])


def test_no_methods_are_the_default():
    assert list(explain(network(), IMAGES, methods=None).attributions) == ["grad_cam"]


@pytest.mark.parametrize("target", [None, "label", 1], ids=str)
@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ((IMAGES[:2], LABELS), "3 labels for 2 images"),
        ((IMAGES[:2], LABELS.tolist()), "3 labels for 2 images"),
        ((IMAGES[:2], LABELS[:, None].numpy()), "3 labels for 2 images"),
        ((IMAGES[:2], nn.functional.one_hot(LABELS).float()), "3 labels for 2 images"),
        ({"x": IMAGES, "y": LABELS[:1]}, "1 label for 3 images"),
        (({"x": IMAGES}, LABELS[:1]), "1 label for 3 images"),
        ((IMAGES[:1], LABELS), "3 labels for 1 image"),
        ((list(IMAGES), LABELS[:2]), "2 labels for 3 images"),
        ((IMAGES[:2], LABELS.float()), "3 labels for 2 images"),
    ],
)
def test_another_number_of_labels_is_refused(batch, says, target):
    with pytest.raises(ValueError, match=rf"one label for each image, got {says}\. Pass the labels of these images"):
        explain(network(), batch, target=target)


@pytest.mark.parametrize("labels", [LABELS.float(), LABELS.double()[:, None], [0.5, 2.0, 1.0]])
def test_labels_that_are_no_classes_are_refused_but_of_values(labels):
    with pytest.raises(TypeError, match=r"labels are classes, integers, got labels \[.*Convert them"):
        explain(network(), (IMAGES, labels))
    assert explain(network(), (IMAGES, labels), task="regression").classes.tolist() == [0, 0, 0]


def test_labels_of_one_image_are_a_number_or_a_row():
    one_hot = nn.functional.one_hot(LABELS)[0]
    assert explain(network(), (IMAGES[0], one_hot)).classes.tolist() == [2]
    assert explain(network(), (IMAGES[0], [2])).classes.tolist() == [2]
    with pytest.raises(TypeError, match=r"integers, got labels \[2\.7"):
        explain(network(), (IMAGES[0], 2.7))


def test_what_is_no_label_is_passed_over():
    boxes = [{"boxes": torch.rand(5, 4), "labels": torch.ones(5, dtype=torch.long)} for _ in IMAGES]
    masks = torch.rand(3, 1, 24, 36).round()
    for batch in ((IMAGES, boxes), (IMAGES, masks), (IMAGES, ["a.png", "b.png", "c.png"]), {"x": IMAGES, "epoch": [3]}):
        assert explain(network(), batch).labels is None


@pytest.mark.parametrize(
    ("images", "options", "error", "says"),
    [
        (PIXELS, {}, ValueError, r"`transform` to be a function .*, got none\. Pass .* `weights=ResNet50"),
        (PIXELS / 255, {"transform": TRANSFORM}, ValueError, r"`images` to be an array \(H, W, C\) of uint8 .*float64"),
        (PIXELS[..., :2], {"transform": TRANSFORM}, ValueError, r"1, 3 or 4 channels, got \(40, 60, 2\) uint8"),
        ("nowhere.jpg", {"transform": TRANSFORM}, ValueError, r"`images` to be a file with an image, got nowhere.jpg"),
        (PIXELS, {"transform": lambda photo: photo}, ValueError, r"`transform` to be a function that returns a"),
        (PIXELS, {"transform": v2.PILToTensor()}, ValueError, r"returns a floating-point tensor .*got a tensor"),
        (PIXELS, {"transform": lambda photo: 1 / 0}, ValueError, r"`transform` to take an RGB .* ZeroDivisionError"),
        ([PIXELS, PIXELS[:20]], {"transform": v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32)])}, ValueError,
         r"`transform` to be one that makes all images of one size, got \[\(3, 20, 60\), \(3, 40, 60\)\]"),
        (PIXELS, {"weights": "DEFAULT"}, TypeError,
         r"`weights` to be an entry of one of torchvision's enums .*, got 'DEFAULT'\. A text"),
        ([IMAGES[0], IMAGES[1, :, :20]], {}, ValueError, r"`images` to be of one size.*\[explain\(model, image\) for"),
        ([IMAGES, IMAGES], {}, ValueError, r"`images` to be one batch of images, got a list .*torch\.cat\(images\)"),
        (([IMAGES, IMAGES], LABELS), {}, ValueError, r"`images` to be one batch of images, got a list"),
        (np.random.rand(3, 24, 36), {}, ValueError, r"got \(3, 24, 36\) float64\. .*torch\.from_numpy\(array\)"),
        (DataLoader([0, 1]), {}, TypeError, r"`images` to be .*DataLoader.*one batch, `next\(iter\(loader\)\)`"),
        (TensorDataset(IMAGES), {}, TypeError, r"`images` to be .*TensorDataset.*one entry, `dataset\[0\]`"),
        (IMAGES[:, :1], {}, RuntimeError, r"The model failed on images of shape \(3, 1, 24, 36\)\. RuntimeError: .*"
         r"to have 3 channels, but got 1 .* inside `0` \(Conv2d\) of Sequential.*Pass the images as in training"),
        (IMAGES, {"class_names": ["a"]}, ValueError, r"`class_names` to be the names of the model's 4 classes, got 1"),
        (IMAGES, {"target": "label"}, ValueError, r"`target` to be the labels themselves.*\(images, labels\)"),
        ({"label": LABELS}, {}, ValueError, r"`images` to be a tensor .*, got a dict of \{label: a tensor"),
    ],
)  # fmt: skip
def test_what_cannot_be_explained_is_named_with_what_to_do(tmp_path, monkeypatch, images, options, error, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says):
        explain(network(), images, **options)


def test_a_model_in_half_precision_or_on_another_input_is_called_as_before():
    assert explain(gap_net(), torch.rand(2, 10, 8).double()).images.shape == (1, 2, 10, 8)
