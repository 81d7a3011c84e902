"""What the command line writes of photographs: targets by name, maps on the photograph, other people's models."""

from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ERROR, run, save_photo, written
from PIL import Image
from torchvision.transforms import v2

from lightning_saliency import explain
from lightning_saliency.cli import main
from lightning_saliency.cli.writing import ImageWriter, NamedPhoto
from lightning_saliency.data import image_extensions

NAMES = "ant\nTiger_Cat\nbee\n"
NORMALIZE = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def seen(path, size=32):
    steps = [v2.Resize(size), v2.CenterCrop(size), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), NORMALIZE]
    return v2.Compose(steps)(Image.open(path).convert("RGB"))[None]


def test_several_targets_are_a_row_each_by_index_name_or_the_predicted_one(own, capsys):
    save_photo(Path("photos/one.png"))
    Path("names.txt").write_text(NAMES)
    assert run("--target", "predicted", "tiger cat", -1, "--class-names", "names.txt") == 0
    model, image = own.make(), seen("photos/one.png")
    predicted = int(explain(model, image).predictions[0])
    for name, target in (("predicted", predicted), ("Tiger_Cat", 1), ("bee", 2)):
        raw = explain(model, image, target=target).attributions["grad_cam"][0, 0].numpy()
        found = np.load(f"out/one.{name}.grad_cam.npy")
        assert np.allclose(found, raw, rtol=1e-4, atol=1e-5 * abs(raw).max())
    assert len(written()) == 3 * 2 + 1
    probabilities = explain(model, image).probabilities[0]
    err = capsys.readouterr().err
    assert "one.png: predicted " in err
    assert f"Tiger_Cat {probabilities[1]:.0%}, bee {probabilities[2]:.0%}, from the top" in err
    with Image.open("out/one.sheet.png") as three:
        assert run("--class-names", "names.txt", output="single") == 0
        with Image.open("single/one.sheet.png") as single:
            assert three.height > 1.5 * single.height


def test_without_a_target_the_line_says_the_predicted_class(own, capsys):
    save_photo(Path("photos/one.png"))
    Path("names.txt").write_text(NAMES)
    assert run("--class-names", "names.txt") == 0
    explanation = explain(own.make(), seen("photos/one.png"))
    name = NAMES.split()[int(explanation.predictions[0])]
    assert f"one.png: predicted {name} {explanation.confidences[0]:.0%}\n" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(300, 200), (90, 210), (64, 64)])
def test_the_overlay_is_on_the_photograph_where_the_network_sees_it_and_dark_elsewhere(own, size):
    photo = np.full((size[1], size[0], 3), 200, np.uint8)
    photo[size[1] // 2 - 10 : size[1] // 2 + 10, size[0] // 2 - 10 : size[0] // 2 + 10] = 20
    Path("photos").mkdir()
    Image.fromarray(photo).save("photos/one.png")
    assert run("--methods", "occlusion") == 0
    with Image.open("out/one.occlusion.overlay.jpg") as overlay:
        assert overlay.size == size
        pixels = np.asarray(overlay).astype(int)
    side, (left, top) = min(size), ((size[0] - min(size)) // 2, (size[1] - min(size)) // 2)
    outside = np.ones(size[::-1], bool)
    outside[max(top - 3, 0) : top + side + 3, max(left - 3, 0) : left + side + 3] = False
    assert np.abs(pixels[outside] - 80).max(initial=0) < 12  # 0.4 of 200
    inside = pixels[top + 8 : top + side - 8, left + 8 : left + side - 8]
    assert inside.mean() > 100


def test_a_transform_that_does_more_is_said_and_the_map_shown_on_what_the_network_sees(own, capsys):
    photo = save_photo(Path("one.png"), size=(60, 40))
    steps = [v2.Resize((32, 32)), v2.ToImage(), v2.RandomRotation((30, 30)), v2.ToDtype(torch.float32, scale=True)]
    options = Namespace(target=None, layer=None, fuse=None, figure=None, batch_size=1, output=Path("out"))
    writer = ImageWriter(own.make(), ["grad_cam"], options, v2.Compose(steps))
    assert len(list(writer.write([NamedPhoto("one", "one.png", photo)]))) == 1
    assert "The transform does more than resize, crop and flip" in capsys.readouterr().err
    with Image.open("out/one.grad_cam.overlay.jpg") as overlay:
        assert overlay.size == (32, 32)


def test_every_type_of_images_is_explained_and_other_files_are_named(own, capsys):
    photo = save_photo(Path("photos/one.png"))
    photo.save("photos/two.jfif", format="JPEG")
    photo.save("photos/three.tga")
    for name in ("notes.txt", "labels.csv", "archive.zip", "x.eps", "y.md", "z.json", ".hidden"):
        Path("photos", name).write_text("no image")
    assert run() == 0
    out, err = capsys.readouterr()
    assert "Explained 3 of 3 images" in out
    (line,) = [line for line in err.splitlines() if line.startswith("Not of a type of images")]
    assert line.count("photos/") == 5
    assert line.endswith("and 1 more")
    assert ".hidden" not in err
    assert {".jfif", ".avif", ".jp2", ".psd"} <= image_extensions()


def test_imagenets_names_are_taken_for_as_many_classes_and_that_is_said_once(own, capsys):
    save_photo(Path("photos/one.png"))
    save_photo(Path("photos/two.png"), seed=1)
    assert run("--num-classes", 1000, "--target", "tiger cat", "--batch-size", 1) == 0
    err = capsys.readouterr().err
    assert err.count("Class names: ImageNet's") == 1
    assert "explained: class tiger cat" in err


def test_the_models_own_names_come_before_imagenets(own, capsys):
    save_photo(Path("photos/one.png"))

    def made():
        model = own.make()
        model.class_names = ["one", "two", "three"]
        return model

    own.made = made
    assert run("--target", "three", model="own:made") == 0
    assert "explained: class three" in capsys.readouterr().err


def classes_of(folder="out"):
    return np.load(f"{folder}/one.grad_cam.npy")


def test_a_classifier_of_another_size_makes_the_model_with_as_many_classes(own, capsys):
    save_photo(Path("photos/one.png"))
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in own.make(5, seed=3).state_dict().items()}}, "five.pt"
    )
    assert run("--weights", "five.pt", "--target", 4) == 0
    assert "Classes: 5, as the classifier in five.pt has." in capsys.readouterr().err
    expected = explain(own.make(5, seed=3), seen("photos/one.png"), target=4).attributions["grad_cam"][0, 0].numpy()
    assert np.allclose(classes_of(), expected, rtol=1e-4, atol=1e-5 * abs(expected).max())


def test_where_the_user_sets_the_classes_the_files_classifier_is_left_out_and_that_is_said(own, capsys):
    save_photo(Path("photos/one.png"))
    torch.save(own.make(5, seed=3).state_dict(), "five.pt")
    assert run("--weights", "five.pt", "--num-classes", 3, "--target", 2) == 0
    err = capsys.readouterr().err
    assert "Weights: the classifier in five.pt is left out" in err
    assert "6.weight is (5, 6) in the file and (3, 6) in the model" in err
    assert "untrained" in err
    model = own.make(3)
    model[:6].load_state_dict(own.make(5, seed=3)[:6].state_dict())
    expected = explain(model, seen("photos/one.png"), target=2).attributions["grad_cam"][0, 0].numpy()
    assert np.allclose(classes_of(), expected, rtol=1e-4, atol=1e-5 * abs(expected).max())


def test_half_precision_and_what_the_model_has_no_place_for(own, capsys):
    save_photo(Path("photos/one.png"))
    state = {key: value.half() for key, value in own.make(seed=3).state_dict().items()}
    torch.save({**state, "total_ops": torch.ones(1), "teacher.weight": torch.ones(2)}, "half.pt")
    assert run("--weights", "half.pt") == 0
    assert "Weights: of half.pt the model has no place for total_ops, teacher.weight." in capsys.readouterr().err
    expected = explain(own.make(seed=3).half().float(), seen("photos/one.png")).attributions["grad_cam"][0, 0].numpy()
    assert np.allclose(classes_of(), expected, rtol=1e-4, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize(("model", "package"), [("timm:resnet18", "timm"), ("hf:vit", "transformers")])
def test_a_library_that_is_not_installed_is_named(own, capsys, model, package):
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    save_photo(Path("photos/one.png"))
    with pytest.raises(SystemExit, match="2"):
        run(model=model)
    assert f"{ERROR}Expected the package {package} to be installed for --model {model}" in capsys.readouterr().err


def test_models_of_timm_with_its_transform_and_a_checkpoint_of_its_training(own, capsys):
    timm = pytest.importorskip("timm")
    save_photo(Path("photos/one.png"), size=(300, 250))
    torch.manual_seed(1)
    model = timm.create_model("resnet10t", num_classes=4)
    torch.save(
        {"arch": "resnet10t", "state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}},
        "last.pth.tar",
    )
    assert run("--weights", "last.pth.tar", model="timm:resnet10t", size=None) == 0
    assert "Classes: 4, as the classifier in last.pth.tar has." in capsys.readouterr().err
    config = timm.data.resolve_model_data_config(model)
    image = timm.data.create_transform(**config)(Image.open("photos/one.png"))[None]
    expected = explain(model, image).attributions["grad_cam"][0, 0].numpy()
    assert np.allclose(classes_of(), expected, rtol=1e-3, atol=1e-4 * abs(expected).max())
    with Image.open("out/one.grad_cam.overlay.jpg") as overlay:
        assert overlay.size == (300, 250)
    with pytest.raises(SystemExit):
        run(model="timm:resnt18")
    assert "to name a model of timm, got 'resnt18'. Nearest: resnet18" in capsys.readouterr().err


def test_a_transformer_of_timm_takes_images_of_another_size_than_its_own(own, capsys):
    timm = pytest.importorskip("timm")
    save_photo(Path("photos/one.png"), size=(300, 250))
    torch.save(timm.create_model("test_vit", num_classes=4).state_dict(), "weights.pt")
    assert run("--weights", "weights.pt", "--methods", "attention_relevance", model="timm:test_vit", size=96) == 0
    assert np.load("out/one.attention_relevance.npy").shape == (6, 6)  # patches of 16 pixels; its own size is 160


def test_a_folder_of_hugging_face_with_its_processor_and_names(own, capsys):
    transformers = pytest.importorskip("transformers")
    save_photo(Path("photos/one.png"), size=(80, 64))
    names = {0: "ant", 1: "bee", 2: "tiger cat"}
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=8,
        id2label=names, label2id={name: index for index, name in names.items()},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained("vit")
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained("vit")
    assert run("--target", "tiger cat", "--methods", "saliency", model="hf:vit", size=None) == 0
    assert "explained: class tiger cat" in capsys.readouterr().err
    assert np.load("out/one.saliency.npy").shape == (64, 64)
    with Image.open("out/one.saliency.overlay.jpg") as overlay:
        assert overlay.size == (80, 64)


def test_the_help_names_what_is_taken(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["explain", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("timm:NAME", "hf:NAME", "safetensors", "predicted", ".overlay.jpg"):
        assert words in printed
