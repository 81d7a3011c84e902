"""What the command line is given that does not fit: each time one line, an exit status, and never a traceback."""

import os
import pickle
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ERROR, run, save_photo, written
from PIL import Image
from torch import nn
from torchvision.models import SqueezeNet1_1_Weights

from lightning_saliency.cli.image_files import find_images, output_names
from lightning_saliency.data import NoImageError, read_image
from lightning_saliency.models.sources import load_model

posix = pytest.mark.skipif(os.name != "posix", reason="pipes, links and users are others there")


class RunsCode:
    """Unpickled, it makes a folder of the name `ran`."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def refused(capsys, *arguments, **options):
    """The one line that wrong arguments are told in, without its beginning."""
    with pytest.raises(SystemExit, match="2"):
        run(*arguments, **options)
    err = capsys.readouterr().err
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith((ERROR, "python -m lightning_saliency: error: "))
    return last.partition("error: ")[2]


@contextmanager
def as_nobody():
    """As a user for whom permissions hold."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# --- weights


def test_weights_that_would_run_code_are_refused_until_it_is_asked_for(own, capsys):
    save_photo(Path("photos/one.png"))
    state = own.make(seed=7).state_dict()
    torch.save(state, "good.pt")
    torch.save({"state_dict": state, "extra": RunsCode()}, "zip.pt")
    torch.save({"state_dict": state, "hyper_parameters": {"lr": RunsCode()}}, "last.ckpt")
    torch.save({"state_dict": state, "extra": RunsCode()}, "old.pt", _use_new_zipfile_serialization=False)
    assert run("--weights", "good.pt", output="good") == 0
    for name in ("zip.pt", "last.ckpt", "old.pt"):
        told = refused(capsys, "--weights", name)
        assert "--unsafe-weights loads it all, and runs the code in it" in told
        assert "mkdir" in told
        assert not Path("ran").exists()
        assert run("--weights", name, "--unsafe-weights", output=name + ".out") == 0
        assert np.array_equal(np.load(name + ".out/one.grad_cam.npy"), np.load("good/one.grad_cam.npy"))
        Path("ran").rmdir()  # for it did run
    Path("pickle.pt").write_bytes(pickle.dumps(RunsCode()))
    assert "--unsafe-weights" in refused(capsys, "--weights", "pickle.pt")
    assert not Path("ran").exists()


def test_a_whole_model_is_a_file_of_weights_where_code_is_allowed(own, capsys):
    save_photo(Path("photos/one.png"))
    model = nn.Sequential(*own.make(seed=7))
    torch.save(model, "whole.pt")
    torch.save(model.state_dict(), "state.pt")
    assert "it holds torch.nn" in refused(capsys, "--weights", "whole.pt")
    assert run("--weights", "whole.pt", "--unsafe-weights", output="whole") == 0
    assert run("--weights", "state.pt", output="state") == 0
    assert np.array_equal(np.load("whole/one.grad_cam.npy"), np.load("state/one.grad_cam.npy"))


def test_the_cached_weights_of_torchvision_are_read_as_tensors_alone(own, capsys, monkeypatch):
    """A file in the cache is not checked by its hash again."""
    save_photo(Path("photos/one.png"))
    weights = SqueezeNet1_1_Weights.DEFAULT
    monkeypatch.setenv("TORCH_HOME", "cache")
    cached = Path("cache/hub/checkpoints", weights.url.rsplit("/", 1)[1])
    cached.parent.mkdir(parents=True)
    torch.save({"state_dict": RunsCode()}, cached)
    told = refused(capsys, "--weights", "DEFAULT", model="torchvision:squeezenet1_1")
    assert "got UnpicklingError" in told
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"a": 1, "b": "x"}, "to hold a state dict with tensors, got a dict"),
        ({}, "to hold a state dict with tensors, got a dict"),
        ({3: torch.zeros(1)}, "to hold a state dict with tensors, got a dict"),
        ([torch.zeros(1)], "to hold a state dict with tensors, got a list"),
        (
            {"0.weight": 3, "a": torch.zeros(1)},
            "to fit --model (and --num-classes), got in file.pt no tensors: 0.weight",
        ),
        ({"state_dict": {"epoch": 3}}, "to hold a state dict with tensors, got a dict"),
        ({"model": {"a": torch.zeros(2)}}, "to fit --model (and --num-classes), got in file.pt missing: 0.weight"),
    ],
)
def test_what_holds_no_weights_of_the_model_is_named(own, capsys, content, says):
    save_photo(Path("photos/one.png"))
    torch.save(content, "file.pt")
    assert f"Expected --weights {says}" in refused(capsys, "--weights", "file.pt")


def test_the_file_of_a_backbone_needs_the_number_of_classes(own, capsys):
    save_photo(Path("photos/one.png"))
    whole = own.make(seed=4).state_dict()
    torch.save({key: value for key, value in whole.items() if not key.startswith("6.")}, "backbone.pt")
    missing = "got in backbone.pt missing: 6.weight, 6.bias"
    assert missing in refused(capsys, "--weights", "backbone.pt")
    assert run("--weights", "backbone.pt", "--num-classes", 5) == 0
    says = "Weights: backbone.pt has no classifier (6.weight, 6.bias). The model's own is untrained"
    assert says in capsys.readouterr().err
    loaded = load_model("own:make", "backbone.pt", 5).model.state_dict()
    assert all(torch.equal(loaded[key], whole[key]) for key in whole if not key.startswith("6."))
    torch.save({key: value for key, value in whole.items() if not key.startswith(("6.", "2."))}, "part.pt")
    assert "got in part.pt missing: 2.weight, 2.bias, 6.weight" in refused(
        capsys, "--weights", "part.pt", "--num-classes", 5
    )


def test_a_damaged_file_of_weights_is_named(own, capsys):
    save_photo(Path("photos/one.png"))
    torch.save(own.make().state_dict(), "good.pt")
    whole = Path("good.pt").read_bytes()
    for content in (
        b"",
        b"\0" * 100,
        whole[:300],
        whole[:-300],
        b"PK\3\4",
        b"\x80\x04]\x94.",
        np.random.default_rng(0).bytes(999),
    ):
        Path("bad.pt").write_bytes(content)
        assert "Expected --weights to " in refused(capsys, "--weights", "bad.pt")
    Path("folder.pt").mkdir()
    for name in ("folder.pt", "/dev/null", "no\0name"):
        assert "to be an existing file" in refused(capsys, "--weights", name)


# --- the model


@pytest.mark.parametrize(
    ("text", "raised"),
    [
        ("def make(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(5)", "SystemExit: 5"),
        ("raise SystemExit", "SystemExit"),
        ("raise BaseExceptionGroup('several', [ValueError()])" if sys.version_info >= (3, 11) else "{}['key']", ""),
        ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "E"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise ValueError('two\\nlines')", "ValueError: two"),
    ],
)
def test_a_module_that_does_not_import_is_named_with_what_it_raises(own, capsys, text, raised):
    save_photo(Path("photos/one.png"))
    Path("broken_module.py").write_text(text)
    sys.modules.pop("broken_module", None)
    told = refused(capsys, model="broken_module:make")
    assert told.startswith(f"Expected --model to be make of broken_module, got {raised}")


@pytest.mark.parametrize("name", [".own:make", "own.:make", "own..x:make", "a b:make", "own:make.", "own:.", "o\0:x"])
def test_an_import_path_that_is_none_is_named(own, capsys, name):
    save_photo(Path("photos/one.png"))
    assert refused(capsys, model=name).startswith("Expected --model to be ")


class Raises(nn.Module):
    """Raises where it is told to."""

    def __init__(self, where, error):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.where, self.error = where, error

    def __getattribute__(self, name):
        if name not in ("where", "error", "__dict__") and self.__dict__.get("where") == name:
            raise self.__dict__["error"]
        return super().__getattribute__(name)

    def forward(self, images):
        if self.where == "inside":
            raise self.error
        return self.net(images)


@pytest.mark.parametrize("where", ["inside", "to", "state_dict", "load_state_dict"])
@pytest.mark.parametrize(
    "error", [KeyError("k"), SystemExit(0), RuntimeError("r"), NotImplementedError(), OSError(5, "e")]
)
def test_a_model_that_raises_is_named_with_what_it_raises(own, capsys, where, error):
    save_photo(Path("photos/one.png"))
    torch.save(Raises("", None).state_dict(), "state.pt")
    own.raises = lambda: Raises(where, error)
    arguments = ["--weights", "state.pt"] if "state" in where else []
    assert type(error).__name__ in refused(capsys, *arguments, model="own:raises")


def test_a_model_whose_output_is_none_of_logits_is_named(own, capsys):
    save_photo(Path("photos/one.png"))
    for wrong in (None, 3, "x", {}, torch.zeros(7, 7, 7), torch.zeros(0)):
        own.wrong = lambda wrong=wrong: type("Wrong", (nn.Module,), {"forward": lambda self, images: wrong})()
        assert refused(capsys, model="own:wrong")
    own.lazy = lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.save(own.make().state_dict(), "state.pt")
    assert "unexpected: " in refused(capsys, "--weights", "state.pt", model="own:lazy")


@pytest.mark.parametrize("device", ["meta", "cuda:99", "xla", "cpu:x", "", "no\0device"])
def test_a_device_that_cannot_be_used_is_named(own, capsys, device):
    assert "argument --device: expected a device" in refused(capsys, "--device", device)


# --- files of images


@posix
def test_each_odd_file_of_a_folder_is_named_in_one_line_and_the_others_are_explained(own, capsys):
    photos = Path("photos")
    save_photo(photos / "good.JPG", format="JPEG")
    save_photo(photos / "really_a_png.jpg", format="PNG")
    save_photo(photos / ("ä" * 125 + ".png"))  # 254 bytes
    save_photo(photos / "two\nlines.png")
    save_photo(photos / "-dash.png")
    save_photo(photos / "folder.jpg" / "inner.png")
    save_photo(Path(os.fsdecode(b"photos/not_utf8_\xff.png")))
    whole = (photos / "good.JPG").read_bytes()
    (photos / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.png").touch()
    (photos / "text.webp").write_text("no image")
    (photos / "script.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    os.mkfifo(photos / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("photos/socket.jpg")
        (photos / "device.jpg").symlink_to("/dev/zero")
        (photos / "itself.jpg").symlink_to("itself.jpg")
        (photos / "circle_a.jpg").symlink_to("circle_b.jpg")
        (photos / "circle_b.jpg").symlink_to("circle_a.jpg")
        (photos / "gone.jpg").symlink_to("no_such_file.jpg")
        (photos / "again.jpg").symlink_to("good.JPG")  # the same file, explained once
        (photos / "folder.jpg" / "up").symlink_to("..")
        (photos / "around").symlink_to(".")
        assert run() == 1
    out, err = capsys.readouterr()
    assert "Explained 7 of 18 images" in out
    skipped = dict(
        line.removeprefix("Skipped photos/").split(": ", 1) for line in err.splitlines() if line.startswith("Skipped")
    )
    assert skipped.keys() == {
        "truncated.jpg", "empty.png", "text.webp", "script.jpg", "pipe.jpg", "socket.jpg", "device.jpg", "itself.jpg",
        "circle_a.jpg", "circle_b.jpg", "gone.jpg",
    }  # fmt: skip
    assert skipped["pipe.jpg"] == "it is a pipe"
    assert skipped["socket.jpg"] == "it is a socket"
    assert skipped["device.jpg"] == "it is a device"
    assert skipped["gone.jpg"] == "No such file or directory"
    assert skipped["itself.jpg"] == "Too many levels of symbolic links"
    assert len(written()) == 3 * 7
    assert all(len(os.fsencode(name)) <= 200 and name.isprintable() for name in written())


@posix
def test_a_file_that_is_named_itself_is_read_or_named(own, capsys):
    save_photo(Path("-dash.png"))
    os.mkfifo("pipe.jpg")
    Path("link.jpg").symlink_to("link.jpg")
    assert run(images="./-dash.png") == 0
    assert run(images="pipe.jpg") == 1
    assert "Skipped pipe.jpg: it is a pipe\n" in capsys.readouterr().err
    for name in ("link.jpg", "x" * 300, "/".join("x" * 99 for _ in range(99)), "no\0file", ""):
        with pytest.raises(SystemExit, match="2"):
            run("--images", name)
        err = capsys.readouterr().err
        assert "Expected --images to be existing files and folders" in err
        assert err.count("\n") == 1


@posix
def test_a_folder_that_cannot_be_read_is_named(own, capsys):
    Path.cwd().chmod(0o755)
    for name in ("photos/one.png", "photos/closed/two.png", "photos/file.png"):
        save_photo(Path(name))
    Path("photos/closed").chmod(0)
    with as_nobody():
        found = find_images(["photos"])
        with pytest.raises(ValueError, match="got none in photos/closed: Permission denied"):
            find_images(["photos/closed"])
    Path("photos/closed").chmod(0o755)
    assert [path.name for path in found.paths] == ["file.png", "one.png"]
    assert found.unreadable == {Path("photos/closed"): "Permission denied"}


def test_long_and_odd_names_of_files_give_names_of_results_that_differ_and_fit():
    odd = ["ü" * 126, "ü" * 125 + "x", "a\nb", "a\rb", "a b", "con", "..", ".hidden", "a:b", "a*b", "\udcff", " ", "x."]
    paths = [Path("photos") / f"{stem}.png" for stem in odd]
    names = output_names(paths)
    assert len({name.lower() for name in names}) == len(odd)
    assert all(len(name.encode()) <= 120 and name.isprintable() and name[0] != "." for name in names)
    assert names[4] == "a b"


@pytest.mark.parametrize(
    ("mode", "name", "options"),
    [
        ("RGB", "a.png", {}), ("RGB", "a.bmp", {}), ("RGB", "a.PPM", {}), ("RGB", "a.tif", {"compression": "tiff_lzw"}),
        ("RGBA", "a.png", {}), ("RGBA", "a.webp", {"lossless": True, "exact": True}), ("CMYK", "a.tif", {}),
        ("L", "a.png", {}), ("LA", "a.png", {}), ("1", "a.png", {}), ("1", "a.pbm", {}), ("P", "a.png", {}),
        ("P", "a.gif", {"transparency": 0}), ("P", "a.png", {"transparency": 0}), ("I;16", "a.png", {}),
        ("I;16", "a.tif", {}), ("I", "a.tif", {}),
    ],
)  # fmt: skip
def test_each_kind_of_pixels_is_read_as_the_colors_that_are_stored(tmp_path, mode, name, options):
    """Also below transparent pixels, as the data sets of torchvision read them."""
    rng = np.random.default_rng(0)
    color = rng.integers(0, 255, (12, 10, 3)).astype(np.uint8)
    image, expected = Image.fromarray(color), color
    if mode.startswith("I"):
        gray = color[..., 0].astype(np.uint16 if mode == "I;16" else np.int32) * 257
        image, expected = Image.fromarray(gray), np.repeat(color[..., :1], 3, axis=2)
    elif mode == "RGBA":
        image.putalpha(Image.fromarray(rng.integers(0, 255, (12, 10)).astype(np.uint8)))
    else:
        image = image.convert("L").convert("LA") if mode == "LA" else image.convert(mode)
        expected = np.asarray(image.convert("RGB"))
        if mode == "LA":
            image.putalpha(Image.fromarray(rng.integers(0, 255, (12, 10)).astype(np.uint8)))
    image.save(tmp_path / name, **options)
    photo, is_first_frame = read_image(tmp_path / name)
    assert not is_first_frame
    assert photo.mode == "RGB"
    assert np.abs(np.asarray(photo).astype(int) - expected).max() <= (1 if mode == "CMYK" else 0)


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_photo_is_upright_however_the_camera_was_turned(tmp_path, turn):
    color = np.zeros((40, 60, 3), np.uint8)
    color[:20, :30], color[20:, 30:] = (200, 40, 40), (40, 40, 200)
    upright = Image.fromarray(color)
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = upright if turn == 1 else upright.transpose(Image.Transpose[undo[turn]])
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png").image), color)


def test_of_an_animation_the_first_frame_is_explained_and_that_is_said(own, capsys):
    frames = [Image.fromarray(np.full((30, 30, 3), value, np.uint8)) for value in (50, 150, 250)]
    for name, options in (("a.gif", {}), ("b.png", {}), ("c.webp", {"lossless": True}), ("d.tif", {})):
        Path("photos").mkdir(exist_ok=True)
        frames[0].save(f"photos/{name}", save_all=True, append_images=frames[1:], **options)
        photo, is_first_frame = read_image(Path("photos", name))
        assert is_first_frame
        assert np.abs(np.asarray(photo).astype(int) - 50).max() <= 1
    assert run() == 0
    err = capsys.readouterr().err
    assert [line for line in err.splitlines() if "frame" in line] == [
        f"Of photos/{name} the first frame is explained." for name in ("a.gif", "b.png", "c.webp", "d.tif")
    ]


def test_what_is_too_large_or_of_no_known_range_is_refused(tmp_path):
    def reason(name, size=224):
        with pytest.raises(NoImageError) as caught:
            read_image(tmp_path / name, size)
        return str(caught.value)

    header = b"P6\n20000 20000\n255\n"  # of 1.2 GB
    (tmp_path / "bomb.ppm").write_bytes(header + bytes(100))
    assert "could be decompression bomb" in reason("bomb.ppm")
    Image.new("RGB", (9000, 1)).save(tmp_path / "line.png")
    assert reason("line.png") == "it is too long for its width, 9000×1"
    assert read_image(tmp_path / "line.png", 32).image.size == (9000, 1)
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    assert "floating-point" in reason("float.tif")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "deep.tif")
    assert "32 bits" in reason("deep.tif")


def test_a_file_cut_at_any_byte_or_with_any_byte_changed_is_read_or_named(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.png", "a.jpg", "a.gif", "a.webp", "a.tif", "a.bmp"):
        save_photo(tmp_path / name, size=(40, 30), seed=1)
        whole = (tmp_path / name).read_bytes()
        for _ in range(60):
            content = bytearray(whole[: rng.integers(len(whole))] if rng.random() < 0.3 else whole)
            for _ in range(rng.integers(4)):
                if content:
                    content[rng.integers(min(len(content), 200))] = rng.integers(256)
            (tmp_path / name).write_bytes(content)
            mode, reason = None, ""
            try:
                mode = read_image(tmp_path / name).image.mode
            except NoImageError as error:
                reason = str(error)
            assert mode == "RGB" or (reason and reason.isprintable())


# --- names of classes


@pytest.mark.parametrize(
    "content",
    [
        "ant\nbee\nGürteltier\n".encode(), b"ant\r\nbee\r\nG\xc3\xbcrteltier", "ant\rbee\rGürteltier\n\n".encode(),
        "ant\nbee\nGürteltier\n".encode("utf-8-sig"), "ant\nbee\nGürteltier".encode("utf-16"),
        "ant\nbee\nGürteltier".encode("utf-32"), b"a\x0bb\nb\x1cc\n\x00c\x7f", b"\nb\nc", b"x\nx\nx" * 1,
        "a\u2028b\nb\x85\nc".encode(),
    ],
)  # fmt: skip
def test_names_of_classes_are_read_whatever_they_hold(own, content):
    save_photo(Path("photos/one.png"))
    Path("names.txt").write_bytes(content)
    assert run("--class-names", "names.txt", "--target", 2, "--methods", "grad_cam", "saliency") == 0


@posix
def test_names_of_classes_in_no_known_encoding_or_no_file_are_named(own, capsys):
    save_photo(Path("photos/one.png"))
    Path("latin.txt").write_bytes("Gürteltier\n".encode("latin-1"))
    Path("half.txt").write_bytes("ant\n".encode("utf-16")[:-1])
    os.mkfifo("pipe.txt")
    for name in ("latin.txt", "half.txt", "pipe.txt", ".", "/dev/zero", "no\0file"):
        assert "Expected --class-names to be a text file in UTF-8" in refused(capsys, "--class-names", name)


# --- the output


@posix
def test_an_output_folder_that_cannot_be_made_is_named(own, capsys):
    save_photo(Path("photos/one.png"))
    Path("loop").symlink_to("loop")
    for name in ("/dev/full", "/dev/full/x", "/proc/none", "own.py", "loop", "loop/x", "x" * 300, "no\0folder"):
        told = refused(capsys, output=name)
        assert told.startswith("Expected --output to be a folder")


@posix
def test_a_read_only_output_folder_is_named(own, capsys):
    Path.cwd().chmod(0o755)
    save_photo(Path("photos/one.png"))
    Path("closed").mkdir(mode=0o555)
    with as_nobody():
        told = refused(capsys, output="closed")
    assert told == (
        "Expected --output to be a folder that can be written to, got closed: Permission denied, for one.sheet.png."
    )


@posix
def test_a_full_disk_is_named_and_leaves_no_part_of_a_file(own, capsys):
    import resource

    save_photo(Path("photos/one.png"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        told = refused(capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told.startswith("Expected --output to be a folder that can be written to, got out: ")
    assert os.listdir("out") == []


def test_a_result_whose_place_is_taken_by_a_folder_is_named(own, capsys):
    save_photo(Path("photos/one.png"))
    Path("out/one.grad_cam.npy").mkdir(parents=True)
    assert "for one.grad_cam.npy." in refused(capsys)


def test_the_names_of_layers_do_not_leave_the_output_folder(own):
    save_photo(Path("photos/one.png"))

    def make():
        model = nn.Sequential()
        for name, layer in zip(("up/up", "a:b", "x" * 300), own.make()[:3], strict=True):
            model.add_module(name, layer)
        return model.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten())

    own.odd = make
    before = sorted(Path().rglob("*"))
    assert run("--layer", "up/up", "x" * 300, model="own:odd", output="deep/out") == 0
    assert sorted(path for path in Path().rglob("*") if path not in before and "deep" not in path.parts) == []
    assert len(written("deep/out")) == 5
    assert written("deep/out")[0].startswith("one.grad_cam@up-up-")


# --- as a process of its own


def start(folder, model, **options):
    command = [sys.executable, "-m", "lightning_saliency", "explain", "--model", model, "--images", "photos",
               "--output", "Größe", "--size", "32"]  # fmt: skip
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(folder)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "ascii"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment, **options)


@posix
def test_an_output_that_takes_no_text_is_named_and_one_in_ascii_is_written_to(own, tmp_path):
    save_photo(Path("photos/one.png"))
    with open("/dev/full", "w") as full:
        processes = [start(tmp_path, "own:make", stdout=out) for out in (full, subprocess.PIPE)]
        (_, full_err), (out, _) = (process.communicate(timeout=300) for process in processes)
    assert [process.returncode for process in processes] == [2, 0]
    told = f"{ERROR}Expected the standard output to take text, got No space left on device.\n"
    assert full_err.splitlines(keepends=True)[-1] == told
    assert "Traceback" not in full_err
    assert out == "Explained 1 of 1 images: Gr\\xf6\\xdfe\n"


@posix
def test_ctrl_c_ends_with_its_status_and_no_traceback(own, tmp_path):
    save_photo(Path("photos/one.png"))
    Path("slow.py").write_text("import time\n\ndef make():\n    print('made', flush=True)\n    time.sleep(600)\n")
    process = start(tmp_path, "slow:make", stdout=subprocess.PIPE)
    assert process.stdout.readline() == "made\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
