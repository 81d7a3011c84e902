"""What the tab's routes answer: exactly what the record holds, as JSON that every reader takes and as bytes."""

import json
import shutil
import threading
import time
import tracemalloc
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recording import SHAPES, make_look, make_samples, make_writer
from tensorboard.plugins.base_plugin import TBContext
from werkzeug.test import Client

from lightning_saliency.attribution import make_heatmaps
from lightning_saliency.dashboard import SaliencyLoader
from lightning_saliency.dashboard.payload import peaks_of
from lightning_saliency.history import Record, RecordedLook, RecordedSamples, RecordWriter
from lightning_saliency.history.levels import restore
from lightning_saliency.visualization.scaling import to_percentile

PATIENCE = 30


class Tab:
    """The plugin as TensorBoard has it, asked without a server."""

    def __init__(self, folder):
        flags = SimpleNamespace(logdir=str(folder), logdir_spec="")
        self.plugin = SaliencyLoader().load(TBContext(flags=flags))
        self.apps = self.plugin.get_plugin_apps()

    def get(self, route, **parameters):
        return Client(self.apps[f"/{route}"]).get("/", query_string=parameters)

    def json(self, route, **parameters):
        answer = self.get(route, **parameters)
        assert (answer.status_code, answer.mimetype) == (200, "application/json"), answer.data
        return json.loads(answer.data, parse_constant=pytest.fail)

    def bytes(self, route, **parameters):
        answer = self.get(route, **parameters)
        assert (answer.status_code, answer.headers["Content-Encoding"]) == (200, "deflate"), answer.data
        return zlib.decompress(answer.data)

    def refusal(self, route, **parameters):
        answer = self.get(route, **parameters)
        assert 400 <= answer.status_code < 500
        return json.loads(answer.data)["error"]

    def wait(self, count=1):
        end = time.monotonic() + PATIENCE
        while len(self.json("runs")["runs"]) < count and time.monotonic() < end:
            time.sleep(0.02)
        return self


def write(folder, looks, samples=None, **options):
    writer = make_writer(folder, **({"samples": samples} if samples else {}), **options)
    for look in looks:
        writer.write(look)
    return writer


def key(epoch, step):
    return f"epoch={epoch:06}-step={step:010}"


def split_maps(content, shapes):
    """The ranges and the maps of one look at the beginning of an answer, and what follows it."""
    count, sizes = len(shapes), [int(np.prod(shape)) for shape in shapes]
    ranges = np.frombuffer(content[: 8 * count], "<f4").reshape(count, 2)
    levels, place = [], 8 * count
    for shape, size in zip(shapes, sizes, strict=True):
        levels.append(np.frombuffer(content[place : place + size], np.uint8).reshape(shape))
        place += size
    return ranges, levels, content[place + -place % 4 :]


def test_about_says_what_the_record_says(tmp_path):
    facts = {
        "scalars": {"loss": 0.5, "bad": float("nan"), "worse": float("inf")}, "layers": ("layer4",), "time": 12.5,
        "explained": "true class", "titles": {"grad_cam": "Grad-CAM"}, "fine": frozenset({"saliency"}),
        "predictions": (1, (0, 2), (0.5, float("nan"))), "probabilities": (0.25, None, float("nan")),
    }  # fmt: skip
    samples = make_samples(class_names=("cat", "<b>dog</b>", "x\ny"))
    write(tmp_path / "run", [make_look(None, 0), make_look(2, 9, **facts)], samples)
    tab = Tab(tmp_path).wait()
    about = tab.json("about", id="run")
    assert (about["id"], about["name"], about["problems"], about["superseded"]) == ("run", "run", [], 0)
    assert about["run"] == Record(tmp_path / "run/saliency.record").run
    assert about["class_names"] == ["cat", "<b>dog</b>", "x\ny"]
    assert [tuple(sample.values())[:4] for sample in about["samples"]] == [
        (0, [16, 16], 3, 4), (1, [16, 16], 3, None), (2, [12, 20], 3, 2),
    ]  # fmt: skip
    assert list(about["samples"][0]) == ["position", "size", "channels", "label", "boxes", "box_classes"]
    assert about["methods"] == [
        {"key": "grad_cam", "title": "grad_cam", "fine": False},
        {"key": "saliency", "title": "saliency", "fine": False},
    ]
    initial, look = about["looks"]
    assert (initial["epoch"], initial["step"], initial["key"]) == (None, 0, "before-training-step=0000000000")
    assert (look["epoch"], look["step"], look["time"], look["key"]) == (2, 9, 12.5, key(2, 9))
    assert look["predictions"] == [1, [0, 2], [0.5, "nan"]]
    assert look["probabilities"] == [0.25, None, None]
    assert look["classes"] == [None, 0, 1]
    assert look["scalars"] == {"loss": 0.5, "bad": None, "worse": None}
    assert look["methods"]["grad_cam"] == {"shapes": [[7, 7], [7, 7], [5, 9]], "reasons": ["all zero", None, None]}
    assert (look["explained"], look["task"], look["layers"]) == ("true class", "multiclass", ["layer4"])
    assert look["boxes"] == look["box_classes"] == [[], [], []]
    (run,) = tab.json("runs")["runs"]
    assert run == {"id": "run", "name": "run", "looks": 2, "samples": 3, "stamp": about["stamp"], "problem": ""}


def test_a_methods_title_and_kind_are_those_of_the_record(tmp_path):
    facts = {"titles": {"grad_cam": "Grad-CAM · layer3"}, "fine": frozenset({"saliency"})}
    write(tmp_path, [make_look(0, 0, **facts)])
    assert Tab(tmp_path).wait().json("about", id=".")["methods"] == [
        {"key": "grad_cam", "title": "Grad-CAM · layer3", "fine": False},
        {"key": "saliency", "title": "saliency", "fine": True},
    ]
    with pytest.raises(ValueError, match="Expected `titles` to be of"):
        make_look(0, 0, titles={"cam": "CAM"})


def test_boxes_are_those_of_the_record(tmp_path):
    corners = np.array([[1, 2, 3, 4.5], [0, 0, 1, np.inf]], np.float32)
    empty = np.zeros((0, 4), np.float32)
    samples = RecordedSamples(
        (0, 1), (np.zeros((3, 8, 8), np.uint8),) * 2, (1, None), boxes=(corners[:1], empty), box_classes=((7,), ())
    )
    shapes = {"grad_cam": ((2, 2), (2, 2))}
    write(tmp_path, [make_look(0, 0, shapes=shapes, boxes=(empty, corners), box_classes=((), (3, 4)))], samples)
    about = Tab(tmp_path).wait().json("about", id=".")
    assert [sample["boxes"] for sample in about["samples"]] == [[[1, 2, 3, 4.5]], []]
    assert [sample["box_classes"] for sample in about["samples"]] == [[7], []]
    assert about["looks"][0]["boxes"] == [[], [[1, 2, 3, 4.5], [0, 0, 1, None]]]
    assert about["looks"][0]["box_classes"] == [[], [3, 4]]


def test_images_have_their_channels_last(tmp_path):
    samples = make_samples()
    write(tmp_path, [make_look(0, 0)], samples)
    content = Tab(tmp_path).wait().bytes("images", id=".")
    assert content == b"".join(image.transpose(1, 2, 0).tobytes() for image in samples.images)


@pytest.mark.parametrize("shape", [(1, 2, 3, 4), (3, 2, 3, 4), (2, 9)])
def test_volumes_and_signals(tmp_path, shape):
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    map_shape = shape[1:]
    look = make_look(0, 0, shapes={"saliency": (map_shape,)}, num_axes=len(map_shape))
    write(tmp_path, [look], RecordedSamples((0,), (image,), (None,)))
    tab = Tab(tmp_path).wait()
    (sample,) = tab.json("about", id=".")["samples"]
    assert (sample["size"], sample["channels"]) == (list(map_shape), shape[0])
    expected = image if len(shape) == 2 else np.moveaxis(image, 0, -1)
    assert tab.bytes("images", id=".") == expected.tobytes()
    _, (levels,), rest = split_maps(tab.bytes("maps", id=".", method="saliency", looks=key(0, 0)), [map_shape])
    assert levels.shape == map_shape
    assert rest == b""


def test_maps_are_those_of_the_record_in_the_order_asked_for(tmp_path):
    writer = write(tmp_path, [make_look(epoch, epoch, seed=epoch) for epoch in range(3)])
    tab = Tab(tmp_path).wait()
    for method, shapes in SHAPES.items():
        rest = tab.bytes("maps", id=".", method=method, looks=f"{key(2, 2)},{key(0, 0)}")
        for place in (2, 0):
            ranges, levels, rest = split_maps(rest, shapes)
            for index, expected in enumerate(writer.record[place].attributions[method]):
                assert np.array_equal(restore(levels[index][None], ranges[index : index + 1])[0], expected)
        assert rest == b""


def test_a_map_that_is_not_finite_has_no_range(tmp_path):
    look = make_look(0, 0)
    look.attributions["grad_cam"][1][0, 0] = np.nan
    write(tmp_path, [look])
    tab = Tab(tmp_path).wait()
    ranges, _, _ = split_maps(tab.bytes("maps", id=".", method="grad_cam", looks=key(0, 0)), SHAPES["grad_cam"])
    assert np.isnan(ranges).all(1).tolist() == [False, True, False]
    assert [peak is None for peak in tab.json("peaks", id=".", method="grad_cam")["peaks"][key(0, 0)]] == [
        False, True, False,
    ]  # fmt: skip


def test_looks_with_other_methods_and_samples(tmp_path):
    part = make_look(1, 1, shapes={"cam": SHAPES["grad_cam"][1:]}, positions=(1, 2))
    write(tmp_path, [make_look(0, 0), part])
    tab = Tab(tmp_path).wait()
    about = tab.json("about", id=".")
    assert [method["key"] for method in about["methods"]] == ["grad_cam", "saliency", "cam"]
    assert about["looks"][1]["positions"] == [1, 2]
    both = f"{key(0, 0)},{key(1, 1)}"
    _, _, rest = split_maps(tab.bytes("maps", id=".", method="grad_cam", looks=both), SHAPES["grad_cam"])
    assert rest == b""
    assert list(tab.json("peaks", id=".", method="cam")["peaks"]) == [key(1, 1)]


def test_peaks_are_what_the_pictures_scale_by(tmp_path):
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(5, 1, 40, 30, generator=generator, dtype=torch.float64).float()
    raw[3], raw[4] = -raw[3].abs(), 0
    shapes = {name: ((40, 30),) * 5 for name in ("grad_cam", "saliency")}
    look = make_look(0, 0, shapes=shapes, fine=frozenset({"saliency"}))
    for maps in look.attributions.values():
        for own, values in zip(maps, raw[:, 0].numpy(), strict=True):
            own[:] = values
    samples = RecordedSamples(tuple(range(5)), (np.zeros((3, 40, 30), np.uint8),) * 5, (None,) * 5)
    record = write(tmp_path, [look], samples).record
    restored = torch.from_numpy(np.stack(record[0].attributions["saliency"])[:, None])
    tab = Tab(tmp_path).wait()
    coarse, fine = (tab.json("peaks", id=".", method=name)["peaks"][key(0, 0)] for name in shapes)
    for kind, heatmaps in enumerate(make_heatmaps(own, (40, 30), "max") for own in (restored, restored.abs())):
        assert [own[kind] for own in coarse] == pytest.approx(heatmaps.peaks.tolist(), rel=1e-6)
        percentiles = to_percentile(heatmaps.maps, heatmaps.peaks)[1].tolist()
        assert [own[kind] for own in fine] == pytest.approx(percentiles, rel=1e-5)
    assert fine[3][0] == 0 < fine[3][1]
    assert fine[4] == [0, 0]
    assert peaks_of(record.levels(0, "saliency")) == [tuple(own) for own in fine]


def test_a_growing_a_resumed_and_a_deleted_record(tmp_path):
    writer = write(tmp_path / "run", [make_look(epoch, epoch) for epoch in range(3)])
    tab = Tab(tmp_path).wait()
    first = tab.json("about", id="run")
    writer.write(make_look(3, 3))
    second = tab.json("about", id="run")
    assert [look["epoch"] for look in second["looks"]] == [0, 1, 2, 3]
    assert tab.json("runs")["runs"][0]["stamp"] == second["stamp"] != first["stamp"]
    resumed = make_writer(tmp_path / "run", state=writer.state_dict())
    resumed.write(make_look(1, 1, seed=9))
    third = tab.json("about", id="run")
    assert ([look["epoch"] for look in third["looks"]], third["superseded"]) == ([0, 1], 2)
    assert "superseded or deleted" in tab.refusal("maps", id="run", method="grad_cam", looks=key(3, 3))
    ranges, _, _ = split_maps(tab.bytes("maps", id="run", method="grad_cam", looks=key(1, 1)), SHAPES["grad_cam"])
    assert np.allclose(ranges[:, 1], [own.max() for own in make_look(1, 1, seed=9).attributions["grad_cam"]])
    shutil.rmtree(resumed.record.path)
    assert "deleted" in tab.refusal("about", id="run")
    assert "deleted" in tab.refusal("maps", id="run", method="grad_cam", looks=key(0, 0))
    resumed.write(make_look(4, 4))
    assert [look["epoch"] for look in tab.json("about", id="run")["looks"]] == [4]


def test_of_a_damaged_record_the_rest_is_shown_and_the_damage_is_said(tmp_path):
    writer = write(tmp_path / "run", [make_look(epoch, epoch) for epoch in range(3)])
    folder = Path(writer.record.path)
    torn, flipped = folder / f"{key(1, 1)}.npz", folder / f"{key(2, 2)}.npz"
    torn.write_bytes(torn.read_bytes()[:100])
    content = bytearray(flipped.read_bytes())
    content[100:110] = bytes(10)
    flipped.write_bytes(content)
    tab = Tab(tmp_path).wait()
    about = tab.json("about", id="run")
    assert [look["epoch"] for look in about["looks"]] == [0, 2]
    (problem,) = about["problems"]
    assert str(torn) in problem
    assert str(flipped) in tab.refusal("maps", id="run", method="grad_cam", looks=key(2, 2))
    assert list(tab.json("peaks", id="run", method="grad_cam")["peaks"]) == [key(0, 0)]
    (folder / "samples.npz").write_bytes(b"")
    about = tab.json("about", id="run")
    assert about["samples"] == []
    assert any("samples.npz" in problem for problem in about["problems"])
    assert "samples.npz" in tab.refusal("images", id="run")


def test_wrong_questions_are_refused_in_words(tmp_path):
    write(tmp_path / "run", [make_look(0, 0)])
    tab = Tab(tmp_path).wait()
    for route in ("about", "images", "maps", "peaks"):
        assert "no record of the run 'none'" in tab.refusal(route, id="none")
        assert "no record of the run ''" in tab.refusal(route)
    for name in ("none", "../samples", "samples"):
        assert name in tab.refusal("maps", id="run", method="grad_cam", looks=name)
    assert tab.bytes("maps", id="run", method="none", looks=key(0, 0)) == b""
    assert tab.bytes("maps", id="run", method="grad_cam", looks="") == b""


def test_an_answer_has_a_bounded_size(tmp_path):
    shape, num = (1024, 1024), 17
    looks = [
        RecordedLook(
            epoch=epoch, step=epoch, positions=tuple(range(num)), predictions=(0,) * num, probabilities=(None,) * num,
            classes=(None,) * num, attributions={"saliency": (np.zeros(shape, np.float32),) * num},
            reasons={"saliency": (None,) * num}, logits=np.zeros((num, 1), np.float32),
        )
        for epoch in range(4)
    ]  # fmt: skip
    image = np.zeros((3, 4, 4), np.uint8)
    writer = RecordWriter(tmp_path, RecordedSamples(tuple(range(num)), (image,) * num, (None,) * num))
    for look in looks:
        writer.write(look)
    tab = Tab(tmp_path).wait()
    assert len(tab.bytes("maps", id=".", method="saliency", looks=key(0, 0))) == num * (8 + 1024**2)
    all_looks = ",".join(key(epoch, epoch) for epoch in range(4))
    assert "fewer looks" in tab.refusal("maps", id=".", method="saliency", looks=all_looks)


def test_memory_stays_bounded_while_maps_are_scrubbed(tmp_path):
    shapes = {"saliency": ((128, 128),) * 8}
    image = np.zeros((3, 128, 128), np.uint8)
    samples = RecordedSamples(tuple(range(8)), (image,) * 8, (None,) * 8)
    write(tmp_path, [make_look(epoch, epoch, seed=epoch, shapes=shapes) for epoch in range(60)], samples)
    tab = Tab(tmp_path).wait()
    tab.json("about", id=".")
    tracemalloc.start()
    for epoch in range(60):
        tab.bytes("maps", id=".", method="saliency", looks=key(epoch, epoch))
        if epoch == 9:
            kept, _ = tracemalloc.get_traced_memory()
    at_end, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert at_end - kept < 2**20  # of 6.5 MB of maps that were read since


def test_many_ask_at_once_while_the_run_goes_on(tmp_path):
    writer = write(tmp_path, [make_look(0, 0)])
    tab = Tab(tmp_path).wait()
    statuses = []

    def ask():
        for _ in range(15):
            answers = [
                tab.get("about", id="."), tab.get("images", id="."), tab.get("peaks", id=".", method="saliency"),
                tab.get("maps", id=".", method="grad_cam", looks=key(0, 0)), tab.get("runs"),
            ]  # fmt: skip
            statuses.extend(answer.status_code for answer in answers)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for epoch in range(1, 15):
        writer.write(make_look(epoch, epoch))
    for thread in threads:
        thread.join()
    assert statuses == [200] * 300
    assert len(tab.json("about", id=".")["looks"]) == 15


def test_the_front_ends_files_and_nothing_else_are_served(tmp_path):
    tab = Tab(tmp_path)
    answer = tab.get("index.js")
    assert (answer.status_code, answer.mimetype) == (200, "text/javascript")
    assert b"export function render" in answer.data
    assert tab.get("style.css").mimetype == "text/css"
    assert {route for route in tab.apps if "." not in route} == {"/runs", "/about", "/images", "/peaks", "/maps"}
    metadata = tab.plugin.frontend_metadata()
    assert (metadata.tab_name, metadata.es_module_path, tab.plugin.plugin_name) == ("Saliency", "/index.js", "saliency")


def test_the_tab_is_shown_once_there_is_a_record(tmp_path):
    tab = Tab(tmp_path)
    assert not tab.plugin.is_active()
    write(tmp_path / "run", [make_look(0, 0)])
    assert Tab(tmp_path).wait().plugin.is_active()
