import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ERROR, run, save_photo, written
from PIL import Image
from sklearn.datasets import load_sample_images
from tiny import L, TinyClassifier, trainer
from torchvision.models import SqueezeNet1_1_Weights, resnet18, squeezenet1_1
from torchvision.transforms import v2

from lightning_saliency import CAMClassifier, Style, explain
from lightning_saliency.attribution import ExplainedSamples, HeatmapStage
from lightning_saliency.cli import main
from lightning_saliency.cli.image_files import find_images, output_names
from lightning_saliency.data import SampleBatch, read_image
from lightning_saliency.models.weight_files import WeightFile
from lightning_saliency.visualization import draw_sheets

ENDS = ("grad_cam.npy", "grad_cam.overlay.jpg", "sheet.png")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def model_input(*paths, size=224, mean=MEAN, std=STD):
    """The photos as the command line is to bring them to the model, by torchvision's older functions."""
    to_tensor = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor()])
    pixels = torch.stack([to_tensor(Image.open(path).convert("RGB")) for path in paths])
    return (pixels / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


def pixels_of(path):
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


def same_picture(path, expected):
    """Equal but for a rounding of the images, which may move a pixel to the next color."""
    difference = (pixels_of(path).int() - expected.int()).abs()
    return difference.max() <= 4 and (difference > 0).float().mean() < 0.001


def drawn(explanation, style, explained="predicted class"):
    """The sheets that the callback draws of one unlabeled image."""
    samples = SampleBatch(explanation.call, truths=(None,), positions=(0,))
    looked = [ExplainedSamples(samples, explanation, HeatmapStage(explanation))]
    return draw_sheets(looked, style, title="one.png", explained=explained)


def close(path, expected):
    return np.allclose(np.load(path), expected.numpy(), rtol=1e-4, atol=1e-5 * expected.abs().max().item())


# --- what it writes


def test_two_photos_a_text_among_them_with_a_torchvision_model(tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        Image.fromarray(pixels).save(photos / f"{name}.jpg")
    (photos / "letter.jpg").write_text("Dear all,")
    (photos / "notes.txt").write_text("no image, and it does not look like one")
    torch.manual_seed(0)
    methods = ["grad_cam", "saliency"]
    status = run(
        "--methods", *methods, "--figure", 4, model="torchvision:resnet18", images=photos, output=tmp_path / "out",
        size=None,
    )  # fmt: skip
    assert status == 1
    out, err = capsys.readouterr()
    assert "Explained 2 of 3 images" in out
    assert f"Skipped {photos / 'letter.jpg'}: cannot identify image file" in err
    assert "Without --weights the network is untrained" in err
    assert f"Not of a type of images: {photos / 'notes.txt'}\n" in err
    assert "Class names: ImageNet's, as there are 1000" in err
    maps = [f"{method}.{end}" for method in methods for end in ("npy", "overlay.jpg")]
    ends = ("figure.png", *maps, "sheet.png")
    assert written(tmp_path / "out") == [f"{name}.{end}" for name in ("china", "flower") for end in ends]

    torch.manual_seed(0)
    images = model_input(photos / "china.jpg", photos / "flower.jpg")
    expected = explain(resnet18(), images, methods=methods)
    for row, name in enumerate(("china", "flower")):
        for method in methods:
            found = np.load(tmp_path / "out" / f"{name}.{method}.npy")
            raw = expected.attributions[method][row, 0].numpy()
            assert found.dtype == np.float32
            assert found.shape == raw.shape == ((7, 7) if method == "grad_cam" else (224, 224))
            assert np.corrcoef(found.ravel(), raw.ravel())[0, 1] > 0.999
        with Image.open(tmp_path / "out" / f"{name}.figure.png") as figure:
            assert figure.width > 4 * 224 > figure.height  # four panels in a row


def test_the_sheet_is_the_callbacks_with_names_and_the_target(own):
    save_photo(Path("photos/one.png"))
    Path("names.txt").write_text("ant\nbee\nGürteltier\n", encoding="utf-8")
    methods = ["grad_cam", "saliency", "cam"]
    assert run("--methods", *methods, "--class-names", "names.txt", "--target", 2, "--mean", 0.5, "--std", 0.25) == 0
    images = model_input("photos/one.png", size=32, mean=[0.5] * 3, std=[0.25] * 3)
    expected = explain(own.make(), images, methods=methods, target=2)
    style = Style(mean=[0.5] * 3, std=[0.25] * 3, class_names=["ant", "bee", "Gürteltier"])
    explained = f"class Gürteltier {expected.probabilities[0, 2]:.0%}"
    assert same_picture("out/one.sheet.png", next(iter(drawn(expected, style, explained).values())))
    for method in methods:
        assert close(f"out/one.{method}.npy", expected.attributions[method][0, 0])

    assert run("--methods", "saliency", output="single") == 0
    plain = explain(own.make(), model_input("photos/one.png", size=32), methods=["saliency"])
    assert same_picture("single/one.sheet.png", drawn(plain, Style(mean=MEAN, std=STD))["saliency"])
    assert written("single") == ["one.saliency.npy", "one.saliency.overlay.jpg", "one.sheet.png"]


def test_several_layers_and_fused_ones(own):
    save_photo(Path("photos/one.png"))
    assert run("--layer", 0, 3, "--methods", "grad_cam", "--figure", 4) == 0
    maps = [f"one.grad_cam@{layer}.{end}" for layer in (0, 3) for end in ("npy", "overlay.jpg")]
    assert written() == ["one.figure.png", *maps, "one.sheet.png"]
    assert run("--layer", 0, 3, "--fuse", "max", output="fused") == 0
    assert written("fused") == ["one.grad_cam.npy", "one.grad_cam.overlay.jpg", "one.sheet.png"]
    images = model_input("photos/one.png", size=32)
    fused = explain(own.make(), images, layer=["0", "3"], fuse="max")
    assert close("fused/one.grad_cam.npy", fused.attributions["grad_cam"][0, 0])


def test_the_batch_size_changes_nothing_and_a_broken_file_within_a_batch_neither(own, capsys):
    for index in range(4):
        save_photo(Path(f"photos/{index}.png"), size=(50 + 10 * index, 40), seed=index)
    whole = Path("photos/3.png").read_bytes()
    Path("photos/1_broken.png").write_bytes(whole[: len(whole) // 2])
    for size in (1, 2, 8):
        assert run("--batch-size", size, "--methods", "grad_cam", "saliency", output=f"out{size}") == 1
        assert "Skipped photos/1_broken.png" in capsys.readouterr().err
        assert len(written(f"out{size}")) == 4 * 5
        for name in written("out1"):
            if name.endswith(".npy"):
                assert close(f"out{size}/{name}", torch.from_numpy(np.load(f"out1/{name}")))


def test_only_files_that_are_no_images(own, capsys):
    Path("a.jpg").write_text("no")
    assert run(images="a.jpg") == 1
    assert "Explained 0 of 1 images" in capsys.readouterr().out


def test_a_photo_of_a_turned_camera_is_upright_and_other_kinds_are_read(own):
    photo = save_photo(Path("photos/up.png"), size=(60, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270° to show it
    photo.transpose(Image.Transpose.ROTATE_90).save("photos/turned.png", exif=exif)
    photo.convert("L").save("photos/gray.png")
    photo.convert("P").save("photos/palette.png")
    photo.convert("RGBA").save("photos/alpha.webp", lossless=True)
    photo.convert("CMYK").save("photos/press.tif")
    assert run("--methods", "saliency") == 0
    up = torch.from_numpy(np.load("out/up.saliency.npy"))
    assert close("out/turned.saliency.npy", up)
    assert close("out/alpha.saliency.npy", up)
    assert len(written()) == 3 * 6


# --- names of files


def test_files_of_the_same_stem_do_not_overwrite_each_other(own):
    paths = ["photos/a/x.png", "photos/b/x.png", "photos/b/x.jpg", "photos/b/y.png", "photos/b/X.png", "photos/b_y.png"]
    for seed, path in enumerate(paths):
        save_photo(Path(path), seed=seed)
    assert run() == 0
    assert len(written()) == 3 * len(paths)
    found = find_images(["photos"]).paths
    names = dict(zip(found, output_names(found), strict=True))
    assert [names[Path(path)] for path in paths] == ["a_x", "b_x_png", "b_x_jpg", "y", "b_X", "b_y"]
    assert written() == sorted(f"{name}.{end}" for name in names.values() for end in ENDS)
    found = torch.from_numpy(np.load("out/b_x_jpg.grad_cam.npy"))
    assert run(images="photos/b/x.jpg", output="alone") == 0
    assert close("alone/x.grad_cam.npy", found)


@pytest.mark.parametrize("seed", range(5))
def test_output_names_are_different_whatever_the_paths(seed):
    random = np.random.default_rng(seed)
    parts = ["a", "b", "a_b", "A", "a_2", "a_png"]
    paths = {Path(*random.choice(parts, 3), random.choice(parts) + random.choice([".png", ".jpg"])) for _ in range(200)}
    names = output_names(sorted(paths))
    assert len({name.lower() for name in names}) == len(paths)


def test_a_second_run_into_the_photos_own_folder_reads_the_photos_only(own):
    save_photo(Path("photos/one.png"))
    before = Path("photos/one.png").read_bytes()
    for _ in range(2):
        assert run("--figure", 4, output="photos") == 0
        assert written("photos") == ["one.figure.png", *(f"one.{end}" for end in ENDS[:2]), "one.png", "one.sheet.png"]
    assert Path("photos/one.png").read_bytes() == before


def test_each_file_is_explained_once_in_the_order_given(tmp_path):
    for name in ("b/1.PNG", "a.png", "c/2.jpg"):
        save_photo(tmp_path / name)
    found = find_images([str(tmp_path / "c/2.jpg"), str(tmp_path), str(tmp_path / "c" / ".." / "a.png")]).paths
    expected = [tmp_path / name for name in ("c/2.jpg", "a.png", "b/1.PNG")]
    assert [path.resolve() for path in found] == [path.resolve() for path in expected]


# --- weights


def test_weights_are_loaded_from_whatever_holds_them(own, capsys):
    save_photo(Path("photos/one.png"))
    model = own.make(seed=7)
    state = model.state_dict()
    images = model_input("photos/one.png", size=32)
    expected, other = (explain(net, images).attributions["grad_cam"][0, 0] for net in (model, own.make()))
    under = {f"model.{key}": value for key, value in state.items()}
    files = {
        "bare.pt": state,
        "checkpoint.ckpt": {"state_dict": under, "epoch": 3, "hyper_parameters": {"lr": 0.1}},
        "tutorial.pt": {"epoch": 3, "model_state_dict": state},
        "net.pt": {f"net.{key}": value for key, value in state.items()},
        "compiled.pt": {"loss.weight": torch.ones(3), **{f"model._orig_mod.{key}": state[key] for key in state}},
    }
    for name, content in files.items():
        torch.save(content, name)
        assert run("--weights", name, output=name + ".out") == 0
        assert close(f"{name}.out/one.grad_cam.npy", expected), name
    assert "Weights: those under 'model._orig_mod.' in compiled.pt." in capsys.readouterr().err
    assert not close("bare.pt.out/one.grad_cam.npy", other)


def test_weights_of_what_a_model_holds_are_loaded_into_it(tmp_path):
    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))

    given, model = Wrapped(), Wrapped()
    state = given.net.state_dict()
    for name, content in {"bare": state, "other": {f"module.{key}": value for key, value in state.items()}}.items():
        torch.save(content, tmp_path / name)
        torch.nn.init.zeros_(model.net[0].weight)
        WeightFile.open(tmp_path / name).load_into(model)
        assert all(torch.equal(value, model.net.state_dict()[key]) for key, value in state.items()), name


def test_a_checkpoint_of_a_trainer_and_a_torchvision_model_of_other_classes(own, capsys):
    save_photo(Path("photos/one.png"))

    class Lit(TinyClassifier):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters({"lr": 0.1, "names": ["a", "b"]})
            self.head = torch.nn.Identity()
            self.backbone = resnet18(num_classes=4)

    lit = Lit()
    runner = trainer(Path("logs"), max_epochs=0)
    runner.strategy.connect(lit)
    runner.save_checkpoint("last.ckpt")
    options = ["--weights", "last.ckpt", "--num-classes", 4, "--layer", "layer2"]
    assert run(*options, model="torchvision:resnet18") == 0
    images = model_input("photos/one.png", size=32)
    expected = explain(lit.backbone, images, layer="layer2").attributions["grad_cam"][0, 0]
    assert close("out/one.grad_cam.npy", expected)
    assert "untrained" not in capsys.readouterr().err


def test_named_weights_bring_their_own_preprocessing_and_names(own, monkeypatch):
    """Of torchvision's file a random one of the same name stands in the cache, so that nothing is downloaded."""
    save_photo(Path("photos/one.png"), size=(300, 280))
    weights = SqueezeNet1_1_Weights.DEFAULT
    monkeypatch.setenv("TORCH_HOME", "cache")
    cached = Path("cache/hub/checkpoints", weights.url.rsplit("/", 1)[1])
    cached.parent.mkdir(parents=True)
    torch.manual_seed(0)
    model = squeezenet1_1()
    torch.save(model.state_dict(), cached)
    for name, size in (("DEFAULT", None), ("IMAGENET1K_V1", 64)):
        assert run("--weights", name, "--methods", "saliency", model="torchvision:squeezenet1_1", size=size) == 0
        changed = {"crop_size": size, "resize_size": size} if size else {}
        images = weights.transforms(**changed)(Image.open("photos/one.png"))[None]
        expected = explain(model, images, methods=["saliency"])
        assert close("out/one.saliency.npy", expected.attributions["saliency"][0, 0])
        style = Style(mean=MEAN, std=STD, class_names=weights.meta["categories"])
        assert torch.equal(pixels_of("out/one.sheet.png"), drawn(expected, style)["saliency"])


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--methods gradcma", "--methods: Expected `methods` out of cam, .*, got 'gradcma'. Did you mean 'grad_cam'?"),
        ("--size 0", "argument --size: expected a whole number from 1 to 8192, got '0'"),
        ("--batch-size many", "argument --batch-size: expected a whole number from 1, got 'many'"),
        ("--target -4", "Expected `target` to be one of the model's 3 classes (0 to 2, or -3 to -1), got -4."),
        ("--target zebra", "Expected `target` to be label, predicted or a class's index, as the classes have no names"),
        ("--target zebra --class-names three.txt", "one of the 3 classes by name or index, got 'zebra'."),
        ("--target be --class-names three.txt", "got 'be'. Nearest: bee."),
        ("--target 3", "Expected `target` to be below the model's 3 classes (0 to 2), got 3."),
        ("--layer layer9", "Expected `layer` to name a module of .*, got 'layer9'"),
        ("--fuse sum", "argument --fuse: invalid choice: 'sum' .*mean.*max"),
        ("--figure 5", "argument --figure: invalid choice: 5 .*4.*6"),
        ("--device gpu", "argument --device: expected a device such as cpu or cuda:0, got 'gpu'"),
        ("--mean 0.5", "Expected --mean and --std together or neither"),
        ("--mean 0.5 0.5 --std 1 1", "Expected --mean to be one number or three, got 0.5 0.5."),
        ("--mean 0.5 --std 0", "Expected --std to be one positive number or three, got 0.0."),
        ("--class-names none.txt", "Expected --class-names to be a text file in UTF-8, got none.txt: it is no file."),
        ("--class-names two.txt", "Expected --class-names to name the model's 3 classes, one a line, got 2."),
        ("--class-names empty.txt", "Expected --class-names to name the classes, one a line, got none in empty.txt."),
        ("--weights none.pt", "Expected --weights to be an existing file, got 'none.pt'."),
        ("--weights two.txt", "Expected --weights to be a file of tensors, .*, got two.txt: "),
        ("--weights whole.pt",
         "Expected --weights to be a file of tensors, .*, got whole.pt: UnpicklingError: it holds .* --unsafe-weights"),
        ("--weights tensor.pt", "Expected --weights to hold a state dict with tensors, got a Tensor in tensor.pt."),
        ("--weights other.pt",
         "Expected --weights to fit --model .*, got in other.pt missing: 0.weight, 0.bias, 2.weight and 3 "
         "more; unexpected: a, b, c and 1 more."),
        ("--weights wide.pt",
         "Expected --weights to fit --model (and --num-classes), got in wide.pt other sizes: 0.weight is (9, "
         "3, 3, 3) in the file and (4, 3, 3, 3) in the model"),
        ("--images none.jpg", "Expected --images to be existing files and folders, got none.jpg."),
        ("--images empty", "Expected --images to be folders with images, got none in empty."),
        ("--output two.txt", "Expected --output to be a folder, got two.txt: File exists."),
        ("--model own",
         "Expected --model as torchvision:NAME, timm:NAME, hf:NAME or package.module:callable, got 'own'."),
        ("--model none:make", "Expected --model to be make of none, got ModuleNotFoundError"),
        ("--model own:none", "Expected --model to be none of own, got AttributeError"),
        ("--model own:needs", "Expected --model to be called as needs() of own, got TypeError"),
        ("--model own:number", "Expected --model own:number to return a model, got int."),
        ("--model own:number --num-classes 3", "called as number(num_classes=3) of own, got TypeError"),
        ("--model torchvision:resnet1",
         "Expected --model to name a classification model of torchvision, got 'resnet1'. Nearest: .*resnet18"),
        ("--model torchvision:resnet18 --weights BEST",
         "Expected --weights to be one of IMAGENET1K_V1, DEFAULT, or an existing file, got 'BEST'."),
        ("--model torchvision:resnet18 --weights DEFAULT --num-classes 3",
         "for --weights DEFAULT, got ValueError: .*num_classes.*"),
        ("--model torchvision:resnet18 --weights DEFAULT",
         "Expected torchvision's weights ResNet18_Weights.IMAGENET1K_V1 for --weights DEFAULT, got URLError"),
        ("--model torchvision:vit_b_32",
         "Expected --model to take images (1, 3, 32, 32), got AssertionError: Wrong image"),
        ("--model torchvision:vgg11 --methods cam", "The method `cam` needs a model whose head is global average"),
        ("--nonsense 1", "unrecognized arguments: --nonsense 1"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_told_in_one_line(own, capsys, monkeypatch, arguments, message):
    save_photo(Path("photos/one.png"))
    Path("two.txt").write_text("ant\nbee\n")
    Path("empty.txt").touch()
    Path("empty").mkdir()
    torch.save(own.make(), "whole.pt")
    torch.save(torch.zeros(3), "tensor.pt")
    torch.save(dict.fromkeys("abcd", torch.zeros(1)), "other.pt")
    Path("three.txt").write_text("ant\nbee\nzebu\n")
    torch.save(
        {**own.make().state_dict(), "0.weight": torch.zeros(9, 3, 3, 3), "2.weight": torch.zeros(6, 9, 3, 3)}, "wide.pt"
    )
    monkeypatch.setenv("TORCH_HOME", "cache")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing is downloaded
    with pytest.raises(SystemExit) as end:
        run(*arguments.split())
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert all(line.startswith("Downloading: ") for line in out.splitlines())  # torch's own
    assert err.endswith("\n")
    last = err.splitlines()[-1]
    assert last.startswith((ERROR, "python -m lightning_saliency: error: "))
    pattern = message.replace("(", r"\(").replace(")", r"\)")
    assert re.search(pattern, last), last
    assert "Traceback" not in err
    assert "usage:" not in err


@pytest.mark.parametrize("raised", [KeyError("key"), SystemExit(3), ZeroDivisionError(), OSError(28, "Full")])
def test_an_error_of_the_users_own_code_is_told_with_its_place(own, capsys, raised):
    save_photo(Path("photos/one.png"))

    def broken():
        raise raised

    own.broken = broken
    with pytest.raises(SystemExit, match="2"):
        run(model="own:broken")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"{ERROR}Expected --model to be called as broken() of own, got {type(raised).__name__}")
    assert re.search(r" \(test_cli.py, line \d+\)\.$", last)


# --- the command itself


@pytest.mark.parametrize("arguments", [["--help"], ["explain", "--help"]])
def test_the_help_reads_well(arguments, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    printed = capsys.readouterr().out
    assert printed.startswith("usage: python -m lightning_saliency")
    if len(arguments) > 1:
        groups = [line for line in printed.splitlines() if line.endswith(":") and not line.startswith(" ")]
        assert groups == ["options:", "model:", "images:", "explanation:", "output:", "examples:"]
        assert "--images photos/ --methods grad_cam saliency" in printed
        assert all(len(line) <= 120 for line in printed.splitlines())


def test_the_examples_of_the_help_are_valid_arguments(capsys):
    with pytest.raises(SystemExit):
        main(["explain", "--help"])
    examples = capsys.readouterr().out.split("examples:")[1].replace("\\\n", "").splitlines()
    commands = [line.split()[3:] for line in examples if line.strip().startswith("python -m lightning_saliency")]
    assert len(commands) == 3
    for command in commands:
        with pytest.raises(SystemExit, match="2"):
            main(command)
        assert "Expected --images to be existing files and folders" in capsys.readouterr().err  # it came that far


def test_it_runs_as_a_module(tmp_path):
    command = [sys.executable, "-m", "lightning_saliency"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr == "python -m lightning_saliency: error: the following arguments are required: {explain,report}\n"
    )


def test_a_photo_of_16_bits_is_not_cut_off(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    photo = np.asarray(read_image(tmp_path / "ramp.png").image)
    assert photo.shape == (64, 64, 3)
    np.testing.assert_allclose(photo[..., 0], ramp / 257, atol=0.5)


def test_a_lightning_checkpoint_is_loaded_as_it_was_made(tmp_path):
    model = CAMClassifier(4, "squeezenet1_1", hidden=8, image_size=64, resolution=7)
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", max_epochs=0)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 70, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    given = ["--model", "lightning_saliency:CAMClassifier", "--weights", str(tmp_path / "best.ckpt")]
    where = ["--images", str(tmp_path / "a.png"), "--output", str(tmp_path)]
    assert main(["explain", *given, *where, "--size", "64", "--methods", "cam"]) == 0
    assert np.load(tmp_path / "a.cam.npy").shape == (7, 7)
