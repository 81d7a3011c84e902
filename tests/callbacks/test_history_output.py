"""The record of a real training, and what is drawn from it."""

import io
import shutil
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from recipes import Sizes, fit, squares
from tiny import (
    CSVLogger,
    L,
    Logger,
    TensorBoardLogger,
    TinyClassifier,
    data,
    events,
    first,
    is_own,
    loader,
    sheets,
    trainer,
)

from lightning_saliency import CAMCallback, GradCAMCallback, SaliencyCallback, explain
from lightning_saliency.callbacks import Execution, History, Metrics, Style
from lightning_saliency.history import load_record
from lightning_saliency.visualization import animation, encode_picture, filmstrip, to_rgb

METHODS = ["cam", "saliency"]
RAISES = Execution(on_error="raise")


def callback(methods=METHODS, **options) -> SaliencyCallback:
    return SaliencyCallback(
        methods,
        **(
            {"samples": first(4), "execution": RAISES, "style": Style(cards="all"), "metrics": Metrics("all")} | options
        ),
    )


def small(**options) -> SaliencyCallback:
    """A callback that costs little."""
    return callback("cam", **({"samples": first(1), "metrics": False} | options))


class Explains(L.Callback):
    """Explains by hand what the callback sees."""

    def __init__(self):
        self.seen = []

    def on_validation_epoch_end(self, trainer, pl_module):
        images, labels = data()[:4]
        self.seen.append(explain(pl_module, images, methods=METHODS, target=labels))


def test_the_record_holds_each_epoch_as_it_was_explained(tmp_path):
    by_hand = Explains()
    fit(tmp_path, callback(samples=first(4, objects=squares)), by_hand, max_epochs=3)
    record = load_record(tmp_path)
    assert (record.epochs, record.steps) == ([None, 0, 1, 2], [0, 2, 5, 8])
    images, labels = data()[:4]
    assert np.array_equal(np.stack(record.samples.images), to_rgb(images).numpy())
    assert record.samples.labels == tuple(labels.tolist())
    for look, expected in zip(record, by_hand.seen, strict=True):
        assert look.positions == (0, 1, 2, 3)
        assert look.layers == ("backbone",)
        assert look.explained == "true class"
        assert np.array_equal(look.logits, expected.logits.numpy())
        assert look.classes == tuple(labels.tolist())
        assert look.predictions == tuple(expected.predictions.tolist())
        assert look.probabilities == pytest.approx(expected.probabilities.amax(1).tolist(), abs=1e-6)
        for method in METHODS:
            raw = expected.attributions[method]
            spans = raw.amax((1, 2, 3)) - raw.amin((1, 2, 3))
            for map_read, map_made, span in zip(look.attributions[method], raw[:, 0].numpy(), spans, strict=True):
                assert (np.abs(map_read - map_made) <= float(span) / 500).all()  # 8 bits a value
    logged = [event.value for event in events(tmp_path).Scalars("xai_saliency/cam/energy_in_box")]
    assert [look.scalars["cam/energy_in_box"] for look in record][1:] == pytest.approx(logged, abs=1e-6)


def test_the_record_says_what_its_methods_are_called_and_how_they_are_drawn(tmp_path):
    fit(tmp_path, callback(["grad_cam", "saliency"], layer=["backbone.0", "backbone"]), max_epochs=1)
    for place in range(2):
        about = load_record(tmp_path).about(place)
        assert about.titles == {
            "grad_cam@backbone.0": "Grad-CAM · backbone.0", "grad_cam@backbone": "Grad-CAM · backbone",
            "saliency": "Saliency",
        }  # fmt: skip
        assert about.fine == {"saliency"}


def test_images_of_several_sizes_are_in_the_record_each_at_its_own(tmp_path):
    val = loader(Sizes(), batch_size=1)
    fit(tmp_path, callback(samples=first(6)), val=val, max_epochs=1)
    record = load_record(tmp_path)
    assert record.samples.sizes == {index: (16 + 4 * (index % 3), 20) for index in range(6)}
    assert [look.positions for look in record] == [(0, 1, 2, 3, 4, 5)] * 2
    assert record[-1].shapes["saliency"] == tuple(record.samples.sizes.values())


def test_the_filmstrip_and_the_animation_are_those_of_the_record(tmp_path):
    fit(tmp_path, callback(), max_epochs=3)
    found, record = events(tmp_path), load_record(tmp_path)
    for method in METHODS:
        strips = found.Images(f"saliency/{method}/filmstrip")
        assert [event.step for event in strips] == [2, 5, 8]  # from the second look on
        assert strips[-1].encoded_image_string == encode_picture(filmstrip(record, method))[0]
        assert strips[0].width < strips[-1].width
        (film,) = found.Images(f"saliency/{method}/animation")
        content = (tmp_path / f"saliency/{method}/animation.gif").read_bytes()
        assert film.step == 9
        assert film.encoded_image_string == content == animation(record, method)
        with Image.open(io.BytesIO(content)) as image:
            assert (image.n_frames, image.width, image.height) == (4, film.width, film.height)


def test_filmstrips_are_drawn_ever_more_rarely_and_at_the_end(tmp_path):
    fit(tmp_path, small(), max_epochs=24)
    steps = [event.step for event in events(tmp_path).Images("saliency/cam/filmstrip")]
    looks = [(step + 1) // 3 + 1 for step in steps[:-1]]
    assert looks == [2, 3, 4, 6, 8, 11, 15, 20]
    assert steps[-1] == 72  # of all 25, when the training has ended


def test_animations_every_so_many_epochs(tmp_path):
    fit(tmp_path, small(history=History(animation_every_n_epochs=2)), max_epochs=5)
    films = events(tmp_path).Images("saliency/cam/animation")
    assert [event.step for event in films] == [5, 11, 15]
    frames = []
    for film in films:
        with Image.open(io.BytesIO(film.encoded_image_string)) as image:
            frames.append(image.n_frames)
    assert frames == [3, 5, 6]


@pytest.mark.parametrize("place", ["the same folder", "another folder", "another folder, the old one gone"])
def test_a_resumed_run_goes_on_with_the_record(tmp_path, place):
    whole, half, rest = tmp_path / "whole", tmp_path / "half", tmp_path / "rest"
    fit(whole, callback("cam"), max_epochs=4)
    runner, _ = fit(half, callback("cam"), max_epochs=2)
    runner.save_checkpoint(tmp_path / "half.ckpt")
    fit(half, callback("cam"), max_epochs=3, ckpt_path=str(tmp_path / "half.ckpt"))  # one epoch further, then lost
    before = {file.name: file.read_bytes() for file in (half / "saliency.record").iterdir()}
    rest = half if place == "the same folder" else rest
    if "gone" in place:
        (half / "saliency.record").rename(tmp_path / "elsewhere")
    fit(rest, callback("cam"), max_epochs=4, ckpt_path=str(tmp_path / "half.ckpt"))
    expected, found = load_record(whole), load_record(rest)
    if "gone" in place:
        assert found.epochs == [2, 3]
    else:
        assert (found.epochs, found.steps) == (expected.epochs, expected.steps)
        assert found.epochs == [None, 0, 1, 2, 3]
        for name in before:  # nothing was deleted
            assert (rest / "saliency.record" / name).exists()
    for look, same in zip(list(found)[-2:], list(expected)[-2:], strict=True):
        # what is resumed has the same weights, and the same numbers but for the order of sums
        np.testing.assert_allclose(look.logits, same.logits, rtol=1e-4, atol=1e-5)
        # drift too: it is measured from the same maps, which a checkpoint holds in half precision
        assert look.scalars == pytest.approx(same.scalars, abs=2e-3)
        assert "cam/rank_correlation_initial" in look.scalars


def test_what_was_lost_when_a_run_was_resumed_is_superseded_and_not_taken_along(tmp_path):
    half, rest = tmp_path / "half", tmp_path / "rest"
    runner, _ = fit(half, small(), max_epochs=2)
    runner.save_checkpoint(tmp_path / "half.ckpt")
    resumed = {"ckpt_path": str(tmp_path / "half.ckpt")}
    fit(half, small(), max_epochs=4, val_check_interval=1, **resumed)  # nine looks, which are lost
    assert load_record(half).steps == [0, 2, 5, 6, 7, 8, 9, 10, 11]
    fit(rest, small(), max_epochs=4, check_val_every_n_epoch=4, **resumed)
    assert load_record(rest).steps == [0, 2, 5, 11]
    fit(half, small(), max_epochs=4, **resumed)
    record = load_record(half)
    assert record.steps == [0, 2, 5, 6, 7, 8, 11]
    assert set(record.superseded.steps) <= {9, 10}


def test_a_second_training_by_the_same_trainer_goes_on_with_the_record(tmp_path):
    runner, model = fit(tmp_path, small(), max_epochs=2)
    runner.fit_loop.max_epochs = 4
    runner.fit(model, loader(), loader())
    assert load_record(tmp_path).epochs == [None, 0, 1, 2, 3]


def test_another_run_in_the_same_folder_gets_a_record_of_its_own(tmp_path):
    fit(tmp_path, small(), max_epochs=3)
    before = {file: file.read_bytes() for file in tmp_path.glob("saliency.record/*")}
    fit(tmp_path, small(), max_epochs=2, num_sanity_val_steps=0)
    assert {file: file.read_bytes() for file in tmp_path.glob("saliency.record/*")} == before
    assert load_record(tmp_path / "saliency.record").epochs == [None, 0, 1, 2]
    assert load_record(tmp_path / "saliency-2.record").epochs == [None, 0, 1]
    with pytest.raises(ValueError, match="got a folder of 2"):
        load_record(tmp_path)


def test_callbacks_that_share_a_name_have_each_their_own_record(tmp_path):
    fit(tmp_path, CAMCallback(samples=2), GradCAMCallback(samples=3), max_epochs=1)
    assert list(load_record(tmp_path / "saliency.record")[0].attributions) == ["cam"]
    assert list(load_record(tmp_path / "saliency.1.record")[0].attributions) == ["grad_cam"]


def test_it_lies_beside_the_event_file_whatever_other_loggers_there_are(tmp_path):
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "tb", name="run", version=5)]
    fit(tmp_path, small(), logger=loggers, max_epochs=1)
    assert load_record(tmp_path / "tb/run/version_5").epochs == [None, 0]
    assert not list((tmp_path / "csv").glob("**/*.record"))
    fit(tmp_path, small(), logger=CSVLogger(tmp_path / "csv", name="only"), max_epochs=1)
    assert load_record(tmp_path / "csv/only/version_0").epochs == [None, 0]
    assert list((tmp_path / "csv/only/version_0/saliency/cam/filmstrip").glob("*.png"))
    assert (tmp_path / "csv/only/version_0/saliency/cam/animation.gif").exists()


def test_in_a_remote_store_it_lies_beside_the_event_file_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    address = f"memory://{tmp_path.name}"
    fit(tmp_path, small(), logger=CSVLogger(address, name="run", version=0), max_epochs=1)
    assert load_record(f"{address}/run/version_0").epochs == [None, 0]
    with fsspec.open(f"{address}/run/version_0/saliency/cam/animation.gif") as file:
        content = file.read()
    assert content == animation(load_record(f"{address}/run/version_0"), "cam")
    takes = TakesAnimations()
    fit(tmp_path, small(), logger=[CSVLogger(address, name="other", version=0), takes], max_epochs=1)
    assert takes.seen == [content]
    assert not list(tmp_path.iterdir())


class Bare(Logger):
    """Takes pictures, and has no folder."""

    name, version = "bare", 0

    def __init__(self):
        super().__init__()
        self.seen = []

    def log_image(self, key, images, step=None):
        self.seen.append(key)

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass


class TakesAnimations(Bare):
    """Takes a film's file, from this machine."""

    def log_video(self, key, videos, step=None):
        self.seen += [Path(video).read_bytes() for video in videos]

    def log_image(self, key, images, step=None):
        pass


def test_where_a_logger_has_no_folder_the_record_is_in_the_trainers_and_all_is_shown(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    bare = Bare()
    fit(tmp_path, callback(), logger=bare)
    looks = [["saliency/Overview", "saliency/cam", "saliency/saliency"]] * 3
    assert [key for key in bare.seen if "/filmstrip" not in key and "/animation" not in key] == [
        *chain.from_iterable(looks)
    ]
    assert {"saliency/cam/filmstrip", "saliency/saliency/filmstrip"} <= set(bare.seen)
    assert load_record(tmp_path).epochs == [None, 0, 1]
    assert not list((tmp_path / "elsewhere").iterdir())


def test_without_history_or_metrics_nothing_of_them_is_there(tmp_path):
    fit(tmp_path, callback(history=False, metrics=False))
    found = events(tmp_path)
    assert set(found.Tags()["images"]) == {"saliency/cam", "saliency/saliency", "saliency/Overview"}
    assert [tag for tag in found.Tags()["scalars"] if is_own(tag)] == ["xai_saliency/seconds"]
    assert not list(tmp_path.glob("*.record"))


def test_the_initial_network_is_in_the_record_only_if_it_is_shown(tmp_path):
    fit(tmp_path, callback("cam", execution=Execution(on_error="raise", log_initial=False)))
    record = load_record(tmp_path)
    assert record.epochs == [0, 1]
    assert "cam/rank_correlation_initial" in record[0].scalars  # drift is measured from it all the same


class After(L.Callback):
    """Does something to the disk after the first epoch."""

    def __init__(self, deed):
        self.deed = deed

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking and trainer.current_epoch == 0:
            self.deed()


def test_a_record_that_cannot_be_written_is_one_warning_and_the_pictures_are_there(tmp_path):
    record = tmp_path / "saliency.record"

    def put_a_file_in_its_place():
        shutil.rmtree(record)
        record.write_bytes(b"something else, of somebody else")

    ours = callback(execution=Execution())
    with pytest.warns(UserWarning, match=r"saliency\.record") as caught:
        fit(tmp_path, ours, After(put_a_file_in_its_place), max_epochs=4)
    assert sum("could not show its pictures" in str(warning.message) for warning in caught) == 1
    assert sheets(tmp_path) == {"saliency/cam", "saliency/saliency", "saliency/Overview"}
    assert len(events(tmp_path).Images("saliency/cam")) == 5
    assert len(events(tmp_path).Scalars("xai_saliency/cam/entropy")) == 4
    assert record.read_bytes() == b"something else, of somebody else"


def test_a_record_that_is_deleted_while_the_run_goes_on_begins_again(tmp_path):
    fit(tmp_path, small(), After(lambda: shutil.rmtree(tmp_path / "saliency.record")), max_epochs=4)
    assert load_record(tmp_path).epochs == [1, 2, 3]


def test_the_initial_network_is_recorded_on_all_samples_where_sanity_checking_sees_a_part(tmp_path):
    fit(tmp_path, callback(samples=[1, 20]), num_sanity_val_steps=1)
    record = load_record(tmp_path)
    assert (record.epochs, record.steps) == ([None, 0, 1], [0, 2, 5])
    assert [look.positions for look in record] == [(0, 1)] * 3
    images, labels = data()[[1, 20]]
    assert np.array_equal(np.stack(record.samples.images), to_rgb(images).numpy())
    assert record.samples.labels == tuple(labels.tolist())
    assert filmstrip(record, "cam").shape[1] > 0


def test_a_record_moves_with_its_folder(tmp_path):
    fit(tmp_path / "here", small())
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert filmstrip(load_record(tmp_path / "there"), "cam").dtype == torch.uint8


def test_other_ways_to_run_leave_no_record(tmp_path):
    model = TinyClassifier()
    for stage in ("validate", "test"):
        getattr(trainer(tmp_path, callback()), stage)(model, loader(), verbose=False)
    assert not list(tmp_path.glob("*.record"))


def test_what_no_class_is_explained_of_is_recorded_as_none(tmp_path):
    fit(tmp_path, small(samples=2, target=lambda logits: logits.sum(1)), max_epochs=1)
    assert [look.classes for look in load_record(tmp_path)] == [(None, None)] * 2


class TakesPages(Logger):
    """Takes pages as MLflow does, and has no folder."""

    name, version, run_id = "takes", 0, "r1"

    def __init__(self):
        super().__init__()
        self.seen = {}
        self.experiment = SimpleNamespace(log_image=lambda *args, **options: None, log_artifact=self._take)

    def _take(self, run_id, path, folder):
        if path.endswith(".html"):
            self.seen[folder] = Path(path).read_text()

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass


def test_the_report_is_written_at_the_end_beside_the_event_file_and_logged(tmp_path):
    takes, board = TakesPages(), TensorBoardLogger(tmp_path, name="run", version=5)
    fit(tmp_path, small(history=History(report=True)), logger=[board, takes], max_epochs=2)
    page = (tmp_path / "run/version_5/saliency.html").read_text()
    assert page == load_record(tmp_path).report().html
    assert takes.seen == {"saliency/report": page}


def test_the_report_lies_in_a_remote_store_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    address, takes = f"memory://{tmp_path.name}", TakesPages()
    logger = [CSVLogger(address, name="run", version=0), takes]
    fit(tmp_path, small(history=History(report=True)), logger=logger, max_epochs=1)
    with fsspec.open(f"{address}/run/version_0/saliency.html") as file:
        assert file.read().decode() == takes.seen["saliency/report"]
    assert not list(tmp_path.iterdir())


def test_of_several_runs_in_a_folder_each_has_its_own_report(tmp_path):
    for name in ("saliency", "saliency-2"):
        fit(tmp_path, small(history=History(report=True)), max_epochs=1)
        page = (tmp_path / f"{name}.html").read_text()
        assert load_record(tmp_path / f"{name}.record").run in page


def test_without_the_option_or_a_look_there_is_no_report(tmp_path):
    fit(tmp_path, small(), max_epochs=1)
    fit(tmp_path, small(history=History(report=True)), max_epochs=1, fast_dev_run=True)
    assert not list(tmp_path.rglob("*.html"))
