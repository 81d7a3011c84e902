"""Files of weights for a named backbone, of torch and safetensors, for gap_model and CAMClassifier."""

from importlib.util import find_spec

import pytest
import torch
from tiny import data, loader, trainer
from torch import nn
from torch.utils.data import TensorDataset
from torchvision.models import resnet18, resnet34, squeezenet1_0, squeezenet1_1

from lightning_saliency.models import CAMClassifier, gap_model

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def trained(make=squeezenet1_1, **options):
    torch.manual_seed(5)
    return make(**options).eval()


def gap(weights, name="squeezenet1_1", **options):
    torch.manual_seed(6)
    return gap_model(name, 3, weights=weights, image_size=64, **({"hidden": 4} | options)).eval()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "squeezenet.pth"
    torch.save(trained().state_dict(), path)
    return path


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["text", "path"])
def test_a_file_gives_the_backbone_its_weights(kind, file, capsys):
    model = gap(kind(file))
    with torch.no_grad():
        assert torch.equal(model.backbone(IMAGES), trained().features(IMAGES))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "content",
    [
        lambda: {"epoch": 3, "state_dict": {f"net.{key}": value for key, value in trained().state_dict().items()}},
        lambda: trained().state_dict() | {"classifier.1.weight": torch.ones(7, 512, 1, 1)},
        lambda: {key: value for key, value in trained().state_dict().items() if key.startswith("features")},
        lambda: trained().state_dict() | {"classifier.1.0.weight": torch.ones(900, 900), "classifier.4": torch.ones(2)},
    ],
    ids=["a checkpoint", "other classes", "no classifier", "another classifier"],
)
def test_the_files_form_and_classifier_do_not_matter(content, tmp_path, capsys):
    torch.save(content(), tmp_path / "weights.pt")
    with torch.no_grad():
        assert torch.equal(gap(tmp_path / "weights.pt").backbone(IMAGES), trained().features(IMAGES))
    assert "classifier" not in capsys.readouterr().err


def test_half_precision_is_loaded_into_single(tmp_path):
    state = {key: value.half() for key, value in trained().state_dict().items()}
    torch.save(state, tmp_path / "half.pth")
    loaded = gap(tmp_path / "half.pth").backbone.state_dict()
    assert {value.dtype for value in loaded.values()} == {torch.float32}
    assert all(torch.equal(value, state[key].float()) for key, value in loaded.items())


@pytest.mark.skipif(find_spec("safetensors") is None, reason="safetensors is not installed")
def test_files_of_safetensors_are_read(tmp_path):
    from safetensors.torch import save_file

    save_file(trained().state_dict(), tmp_path / "weights.safetensors")
    with torch.no_grad():
        assert torch.equal(gap(tmp_path / "weights.safetensors").backbone(IMAGES), trained().features(IMAGES))


@pytest.mark.parametrize("channels", [1, 5])
def test_other_channels_see_what_the_files_filters_saw_in_gray(channels, file):
    gray = torch.randn(1, 1, 64, 64, dtype=torch.float64)
    model = gap(file, in_channels=channels).double()
    with torch.no_grad():
        expected = trained().double().features(gray.expand(-1, 3, -1, -1))
        torch.testing.assert_close(model.backbone(gray.expand(-1, channels, -1, -1)), expected, rtol=1e-5, atol=1e-6)


def test_an_earlier_cut_needs_no_more_of_the_file_than_it_keeps(tmp_path):
    state = trained(resnet18).state_dict()
    torch.save({key: value for key, value in state.items() if not key.startswith(("layer4", "fc"))}, tmp_path / "18.pt")
    model = gap(tmp_path / "18.pt", "resnet18", resolution=4)
    assert model.cut == "layer3"
    assert all(torch.equal(value, state[key]) for key, value in model.backbone.state_dict().items())


def test_a_classifier_begins_with_a_file_and_its_checkpoint_needs_none(file, tmp_path):
    model = CAMClassifier(3, "squeezenet1_1", weights=file, hidden=None, image_size=64)
    assert model.backbone_learning_rate == model.learning_rate / 10
    with torch.no_grad():
        assert torch.equal(model.eval().model.features(IMAGES), trained().features(IMAGES))
    runner = trainer(tmp_path, max_epochs=1)
    runner.fit(model.train(), loader(data(8, size=64)), loader(data(8, size=64)))
    runner.save_checkpoint(tmp_path / "end.ckpt")
    file.unlink()
    again = CAMClassifier.load_from_checkpoint(tmp_path / "end.ckpt").eval()
    assert torch.equal(again(IMAGES), model.eval()(IMAGES))
    # a checkpoint of a CAM model is a file of weights as well
    further = CAMClassifier(5, "squeezenet1_1", weights=tmp_path / "end.ckpt", hidden=None, image_size=64).eval()
    assert torch.equal(further.model.features(IMAGES), model.model.features(IMAGES))


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (
            "DEFALT",
            r"`weights` to be one of IMAGENET1K_V1, DEFAULT of squeezenet1_1, or an existing file, got 'DEFALT'",
        ),
        ("nowhere/a.pth", r"or an existing file, got 'nowhere/a.pth'"),
        (17, r"or an existing file, got 17"),
    ],
)
def test_what_is_neither_a_name_nor_a_file_is_refused(weights, says):
    with pytest.raises(ValueError, match=says):
        gap(weights)


@pytest.mark.parametrize(
    ("make", "name", "says"),
    [
        (squeezenet1_0, "squeezenet1_1", r"got in .*other sizes: features.0.weight is \(96, 3, 7, 7\) in the file"),
        (resnet18, "squeezenet1_1", r"got in .*missing: features"),
        (resnet18, "resnet34", r"got in .*missing: layer1.2.conv1.weight"),
        (lambda: resnet18(width_per_group=64, num_classes=2).layer1, "resnet18", r"got in .*missing: layer1"),
    ],
)
def test_a_file_of_another_model_is_refused_by_the_names_of_the_arguments(make, name, says, tmp_path):
    torch.save(trained(make).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"^Expected `weights` to fit `backbone`, {says}") as caught:
        gap(tmp_path / "other.pth", name)
    assert "--" not in str(caught.value)


def test_what_the_backbone_has_no_place_for_is_said(tmp_path, capsys):
    state = trained(resnet34).state_dict()
    torch.save(state, tmp_path / "34.pth")
    keys = resnet18().state_dict().keys()
    state = {key: value for key, value in state.items() if key in keys}
    model = gap(tmp_path / "34.pth", "resnet18", resolution=16)  # up to layer1
    assert "the model has no place for layer1.2.conv1.weight" in capsys.readouterr().err
    assert all(torch.equal(value, state[key]) for key, value in model.backbone.state_dict().items())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no tensors", r"`weights` to be a file of tensors"),
        (nn.Linear(2, 2), r"it holds .*If you trust it, load it with `torch.load\(\.\.\., weights_only=False\)`"),
        ({"epoch": 3}, r"`weights` to hold a state dict with tensors, got a dict"),
    ],
)
def test_a_file_without_weights_is_refused(content, says, tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=says) as caught:
        gap(path)
    assert "--" not in str(caught.value)


def test_behind_trained_features_all_classes_share_little_of_their_maps_after_a_short_training(file, tmp_path):
    images, labels = torch.randn(24, 3, 64, 64), torch.arange(24) % 3
    images += labels[:, None, None, None]
    module = CAMClassifier(3, "squeezenet1_1", weights=file, image_size=64, hidden=None, backbone_learning_rate=0)
    dataset = TensorDataset(images, labels)
    batches = loader(dataset, batch_size=8)
    trainer(tmp_path, max_epochs=10, logger=False).fit(module, batches, batches)
    with torch.no_grad():
        class_maps = module.eval().class_maps(images)
    shared, own = class_maps.mean(1, keepdim=True), class_maps - class_maps.mean(1, keepdim=True)
    assert shared.std() < 0.2 * own.std()


def test_without_trained_features_the_head_begins_as_torch_has_it():
    torch.manual_seed(0)
    weight = gap_model("squeezenet1_1", 3, image_size=64, hidden=None).head.linear.weight.detach()
    assert float(weight.std()) == pytest.approx(512**-0.5 / 3**0.5, rel=0.1)
