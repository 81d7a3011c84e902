"""The report: everything of the record in one file, below its limit, and safe whatever the record holds."""

import base64
import json
import re
import shutil
import subprocess
import zlib
from html import unescape
from pathlib import Path

import fsspec
import numpy as np
import pytest
from recording import SHAPES, make_look, make_samples, make_writer

from lightning_saliency import load_record
from lightning_saliency.cli import main
from lightning_saliency.dashboard import make_report
from lightning_saliency.dashboard.page import ENTRY, STATIC, bundle
from lightning_saliency.dashboard.reduction import Reduction
from lightning_saliency.history import Record, RecordedLevels, RecordedSamples
from lightning_saliency.history.levels import restore

DATA = re.compile(r'<script type="application/json" id="saliency-data">(.*?)</script>', re.DOTALL)
ERROR = "python -m lightning_saliency report: error: "


def write(folder, looks, samples=None):
    writer = make_writer(folder, **({"samples": samples} if samples else {}))
    for look in looks:
        writer.write(look)
    return writer.record


def data_of(page):
    (text,) = DATA.findall(page)
    return json.loads(text, parse_constant=pytest.fail)


def unpacked(text):
    return zlib.decompress(base64.b64decode(text))


def maps_of(data, run, method, key, shapes):
    content = unpacked(data["maps"][run][method][key])
    ranges = np.frombuffer(content[: 8 * len(shapes)], "<f4").reshape(-1, 2)
    maps, place = [], 8 * len(shapes)
    for shape, bounds in zip(shapes, ranges, strict=True):
        levels = np.frombuffer(content[place : place + int(np.prod(shape))], np.uint8).reshape(1, *shape)
        maps.append(restore(levels, bounds[None])[0])
        place += levels.size
    assert len(content) == place + -place % 4
    return maps


def pixel_looks(epochs, side=112, num=4):
    shapes = {"grad_cam": ((7, 7),) * num, "saliency": ((side, side),) * num}
    return [make_look(epoch, epoch, seed=epoch, shapes=shapes, scalars={"loss": 0.5}) for epoch in range(epochs)]


def pixel_samples(side=112, num=4):
    image = np.full((3, side, side), 128, np.uint8)
    return RecordedSamples(tuple(range(num)), (image,) * num, (0,) * num)


def test_a_report_holds_what_the_record_holds(tmp_path):
    samples = make_samples()
    record = write(tmp_path / "run", [make_look(None, 0), *(make_look(epoch, epoch, seed=epoch) for epoch in range(3))])
    report = record.report()
    data = data_of(report.html)
    assert report.note == data["runs"]["note"] == ""
    (run,) = data["runs"]["runs"]
    assert (run["id"], run["looks"], run["samples"], data["runs"]["is_scanning"]) == ("run", 4, 3, False)
    about = data["about"]["run"]
    assert [look["epoch"] for look in about["looks"]] == record.epochs
    assert unpacked(data["images"]["run"]) == b"".join(image.transpose(1, 2, 0).tobytes() for image in samples.images)
    for place, look in enumerate(about["looks"]):
        for method, shapes in SHAPES.items():
            maps = maps_of(data, "run", method, look["key"], shapes)
            expected = record[place].attributions[method]
            assert all(np.array_equal(own, exact) for own, exact in zip(maps, expected, strict=True))
            assert len(data["peaks"]["run"][method][look["key"]]) == 3


def test_the_page_needs_nothing_else_and_allows_nothing_else(tmp_path):
    page = write(tmp_path, [make_look(0, 0)]).report().html
    outside = DATA.sub("", page)
    assert not re.search(r"<(?:script|img|iframe)[^>]* src=|<link|@import|url\(", outside)
    assert "default-src 'none'" in page
    assert len(re.findall("<script", page)) == 2


HOSTILE = ("</script><script>alert(1)</script>", "<!-- <script>", "\u2028 \ud800", "'\"&lt;")


def test_no_text_of_a_record_can_end_the_data(tmp_path):
    reasons = {method: (HOSTILE[0], None, None) for method in SHAPES}
    texts = {"explained": HOSTILE[1], "titles": {"grad_cam": HOSTILE[0]}, "scalars": {HOSTILE[0]: 1.0}}
    look = make_look(0, 0, reasons=reasons, **texts)
    record = write(tmp_path / "run", [look], make_samples(class_names=HOSTILE))
    page = make_report({HOSTILE[0]: record}).html
    data = data_of(page)
    assert data["about"][HOSTILE[0]]["class_names"] == list(HOSTILE)
    assert data["about"][HOSTILE[0]]["methods"][0]["title"] == HOSTILE[0]
    assert "<script>alert" not in page
    assert page.count("</script>") == 2
    frame = record.report()._repr_html_()
    assert frame.startswith('<iframe sandbox="allow-scripts"')
    assert frame.count("<") == 2
    assert unescape(re.search(r'srcdoc="([^"]*)"', frame)[1]) == record.report().html


def test_beyond_the_limit_maps_of_pixels_are_reduced_first(tmp_path):
    record = write(tmp_path / "run", pixel_looks(8), pixel_samples())
    whole = len(record.report().html)
    report = record.report(max_bytes=whole // 2)
    assert len(report.html) <= whole // 2
    data = data_of(report.html)
    looks = data["about"]["run"]["looks"]
    assert len(looks) == 8
    (factor,) = map(int, re.findall(r"1/(\d+) in length", report.note))
    side = 112 // factor
    assert {tuple(shape) for look in looks for shape in look["methods"]["saliency"]["shapes"]} == {(side, side)}
    assert {tuple(shape) for look in looks for shape in look["methods"]["grad_cam"]["shapes"]} == {(7, 7)}
    shapes = [(side, side)] * 4
    for own, exact in zip(
        maps_of(data, "run", "saliency", looks[3]["key"], shapes), record[3].attributions["saliency"], strict=True
    ):
        means = exact.astype(float).reshape(side, factor, side, factor).mean((1, 3))
        assert np.abs(own - means).max() <= (means.max() - means.min()) / 500
    assert data["runs"]["note"] == report.note
    assert f"at most {whole // 2 / 1e6:.3g} MB" in report.note


def test_then_looks_are_thinned_evenly_with_the_first_and_the_last(tmp_path):
    looks = [make_look(epoch, epoch, seed=epoch, shapes={"grad_cam": ((7, 7),) * 3}) for epoch in range(120)]
    record = write(tmp_path / "run", looks)
    whole, empty = len(record.report().html), len(record.report(max_bytes=10**9).html)
    assert whole == empty
    limit = len(bundle(ENTRY)) + 45_000
    assert limit < whole
    report = record.report(max_bytes=limit)
    assert len(report.html) <= limit
    epochs = [look["epoch"] for look in data_of(report.html)["about"]["run"]["looks"]]
    assert (epochs[0], epochs[-1]) == (0, 119)
    assert 8 < len(epochs) < 120
    steps = np.diff(epochs)
    assert steps.max() - steps.min() <= 1
    assert f"{len(epochs)} of 120 looks are shown" in report.note


def test_large_images_are_reduced_with_their_boxes(tmp_path):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (3, 200, 301), dtype=np.uint8)
    boxes = (np.array([[10, 20, 30, 41]], np.float32),)
    samples = RecordedSamples((0,), (image,), (1,), boxes=boxes, box_classes=((1,),))
    look = make_look(0, 0, shapes={"grad_cam": ((7, 7),)}, boxes=boxes, box_classes=((1,),))
    record = write(tmp_path / "run", [look], samples)
    report = record.report(max_bytes=len(bundle(ENTRY)) + 130_000)
    data = data_of(report.html)
    (sample,) = data["about"]["run"]["samples"]
    assert (sample["size"], sample["boxes"]) == ([100, 151], [[5, 10, 15, 20.5]])
    assert data["about"]["run"]["looks"][0]["boxes"] == [[[5, 10, 15, 20.5]]]
    pixels = np.frombuffer(unpacked(data["images"]["run"]), np.uint8).reshape(100, 151, 3)
    assert np.abs(pixels[3, 4] - image[:, 6:8, 8:10].mean((1, 2))).max() <= 0.5
    assert np.abs(pixels[3, 150] - image[:, 6:8, 300].mean(1)).max() <= 0.5
    assert report.note.startswith(
        "Images are reduced to 1/2 in length, or to 48 pixels, so that this page has at most 0.2"
    )


def test_reducing_keeps_what_is_small_and_what_is_not_finite():
    small = np.arange(64, dtype=np.uint8).reshape(8, 8)
    broken, signal = np.zeros((40, 40), np.uint8), np.arange(100, dtype=np.uint8)
    ranges = np.array([[0, 1], [np.nan, np.nan]], np.float32)
    reduced = Reduction(maps=2).levels(RecordedLevels((small, broken), ranges, is_fine=True))
    assert reduced.maps[0] is small
    assert reduced.maps[1].shape == (20, 20)
    assert np.isnan(reduced.ranges[1]).all()
    assert reduced.is_fine
    of_signal = Reduction(maps=8).levels(RecordedLevels((signal,), np.array([[0, 255]], np.float32)))
    assert of_signal.maps[0].shape == (25,)


def test_no_map_becomes_smaller_than_the_networks_own_are():
    sizes = [(224, 224), (64, 40), (33, 7), (32, 32), (1000,), (20, 20, 20)]
    maps = tuple(np.zeros(size, np.uint8) for size in sizes)
    reduced = Reduction(maps=16).levels(RecordedLevels(maps, np.zeros((len(maps), 2), np.float32)))
    assert [own.shape for own in reduced.maps] == [(28, 28), (16, 10), (17, 4), (32, 32), (63,), (20, 20, 20)]


def test_small_images_and_their_boxes_stay_as_they_are():
    images = tuple(np.zeros((3, *size), np.uint8) for size in ((96, 96), (97, 30), (800, 800)))
    boxes = (np.full((1, 4), 8, np.float32),) * 3
    samples = RecordedSamples((0, 1, 2), images, (None,) * 3, boxes=boxes, box_classes=((0,),) * 3)
    reduced = Reduction(images=16).samples(samples)
    assert [image.shape[1:] for image in reduced.images] == [(96, 96), (49, 15), (50, 50)]
    assert [own[0, 0] for own in reduced.boxes] == [8, 4, 0.5]
    assert Reduction(images=1).samples(samples).images == images


def test_a_limit_that_cannot_be_kept_is_refused_by_its_name(tmp_path):
    record = write(tmp_path / "run", [make_look(epoch, epoch) for epoch in range(3)])
    with pytest.raises(ValueError, match=r"Expected `max_bytes` to be at least \d+, which two looks of each run take"):
        record.report(max_bytes=1000)
    with pytest.raises(ValueError, match="Expected records with looks, got"):
        Record(tmp_path / "none").report()


def test_a_damaged_look_is_left_out_and_said(tmp_path):
    record = write(tmp_path / "run", [make_look(epoch, epoch) for epoch in range(3)])
    path = Path(record.path, record.files[1])
    content = bytearray(path.read_bytes())
    content[100:110] = bytes(10)
    path.write_bytes(content)
    about = data_of(record.report().html)["about"]["run"]
    assert [look["epoch"] for look in about["looks"]] == [0, 2]
    assert str(path) in about["problems"][0]


def test_saving_makes_the_folder_and_replaces_the_file(tmp_path):
    record = write(tmp_path / "run", [make_look(0, 0)])
    for path in (tmp_path / "a/b/page.html", f"memory://{tmp_path.name}/page.html"):
        for _ in range(2):
            report = record.report(path)
        with fsspec.open(str(path)) as file:
            assert file.read().decode() == report.html
    assert repr(report).startswith("Report: 0.")


def test_the_front_ends_modules_are_one_script_without_a_name_twice(tmp_path):
    script = bundle(ENTRY)
    names = re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", script, re.MULTILINE)
    assert len(names) > 20
    assert len(set(names)) == len(names), {name for name in names if names.count(name) > 1}
    assert not re.search(r"^(?:import|export)\b", script, re.MULTILINE)
    assert not re.search(r"^export default", "".join(path.read_text() for path in STATIC.glob("*.js")), re.MULTILINE)
    if shutil.which("node"):
        (tmp_path / "script.js").write_text(script)
        subprocess.run(["node", "--check", tmp_path / "script.js"], check=True)


def test_the_command_line_writes_all_runs_below_folders(tmp_path, capsys):
    for run in ("a/version_0", "b"):
        write(tmp_path / "logs" / run, [make_look(0, 0)])
    make_writer(tmp_path / "logs/empty")
    output = tmp_path / "out/page.html"
    assert main(["report", str(tmp_path / "logs"), "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "Skipped empty: it has no looks\n" in said
    assert said.endswith(f"Reported 2 of 3 records, 0.{round(10 * len(output.read_text()) / 1e6)} MB: {output}\n")
    assert list(data_of(output.read_text())["about"]) == ["a/version_0", "b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none", "--output", "a.html"], "Expected a folder with a run's record in it or below it, got none."),
        (["run", "--output", "a.html", "--max-mb", "0"], "argument --max-mb: expected a number of megabytes above 0"),
        (["run", "--output", "a.html", "--max-mb", "0.001"], "--max-mb: Expected `max_bytes` to be at least"),
        (["run", "--output", "run"], "Expected --output to be a file, got run: "),
        (["run"], "the following arguments are required: --output"),
        (["empty", "--output", "a.html"], "Expected RUN to have a record with looks, got empty."),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "run", [make_look(0, 0)])
    make_writer(tmp_path / "empty")
    with pytest.raises(SystemExit) as raised:
        main(["report", *arguments])
    said = capsys.readouterr().err
    assert raised.value.code == 2
    assert said.startswith(ERROR + message)
    assert said.count("\n") == 1


def test_the_help_names_both_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert {"explain", "report"} <= set(capsys.readouterr().out.split())


def test_a_record_of_a_run_that_was_found_reports_itself(tmp_path):
    write(tmp_path / "logs/version_7", [make_look(0, 0)])
    assert list(data_of(load_record(tmp_path / "logs").report().html)["about"]) == ["version_7"]
