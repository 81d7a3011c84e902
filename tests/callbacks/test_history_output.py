"""The record of a real training, and what is drawn from it."""

import io
import shutil

import pytest
import torch
from PIL import Image
from test_untouched import Deterministic, squares
from tiny import CSVLogger, L, Logger, TensorBoardLogger, TinyClassifier, data, events, loader, sheets, trainer

from lightning_saliency import CAMCallback, GradCAMCallback, SaliencyCallback, explain
from lightning_saliency.history import load_record
from lightning_saliency.visualization import animation, encode, filmstrip, to_rgb

METHODS = ["cam", "saliency"]


def fit(folder, *callbacks, seed=3, model=None, **options):
    L.seed_everything(seed)
    model = model if model is not None else Deterministic()
    ckpt_path = options.pop("ckpt_path", None)
    val = options.pop("val", None)
    runner = trainer(folder, *callbacks, **options)
    runner.fit(model, loader(), val or loader(), ckpt_path=ckpt_path)
    return runner, model


def callback(**options):
    return SaliencyCallback(METHODS, **{"num_samples": 4, "on_error": "raise"} | options)


class Explains(L.Callback):
    """Explains by hand what the callback sees."""

    def __init__(self):
        self.seen = []

    def on_validation_epoch_end(self, trainer, pl_module):
        images, labels = data()[:4]
        self.seen.append(explain(pl_module, images, methods=METHODS, target=labels))


def test_the_record_holds_each_epoch_as_it_was_explained(tmp_path):
    by_hand = Explains()
    fit(tmp_path, callback(objects=squares), by_hand, max_epochs=3)
    record = load_record(tmp_path)
    assert (record.epochs, record.steps) == ([None, 0, 1, 2], [0, 2, 5, 8])
    images, labels = data()[:4]
    assert torch.equal(record.samples.images, to_rgb(images))
    assert record.samples.labels == labels.tolist()
    for moment, expected in zip(record, by_hand.seen, strict=True):
        assert moment.rows == [0, 1, 2, 3]
        assert moment.layers == ["backbone"]
        assert moment.explained == "true class"
        torch.testing.assert_close(moment.logits, expected.logits)
        assert torch.equal(moment.classes, labels)
        for method in METHODS:
            raw = expected.attributions[method]
            span = raw.amax((1, 2, 3), keepdim=True) - raw.amin((1, 2, 3), keepdim=True)
            assert ((moment.attributions[method] - raw).abs() <= span / 500).all()
    logged = [event.value for event in events(tmp_path).Scalars("saliency/cam/energy_in_box")]
    assert [moment.scalars["cam/energy_in_box"] for moment in record][1:] == pytest.approx(logged, abs=1e-6)


def test_the_filmstrip_and_the_animation_are_those_of_the_record(tmp_path):
    fit(tmp_path, callback(), max_epochs=3)
    found, record = events(tmp_path), load_record(tmp_path)
    for method in METHODS:
        strips = found.Images(f"saliency/{method}/filmstrip")
        assert [event.step for event in strips] == [2, 5, 8]  # from the second moment on
        assert strips[-1].encoded_image_string == encode(filmstrip(record, method))[0]
        assert strips[0].width < strips[-1].width
        (film,) = found.Images(f"saliency/{method}/animation")
        content = (tmp_path / f"saliency/{method}/animation.gif").read_bytes()
        assert film.step == 9
        assert film.encoded_image_string == content == animation(record, method)
        with Image.open(io.BytesIO(content)) as image:
            assert (image.n_frames, image.width, image.height) == (4, film.width, film.height)


def test_filmstrips_are_drawn_ever_more_rarely_and_at_the_end(tmp_path):
    fit(tmp_path, callback(), max_epochs=24)
    steps = [event.step for event in events(tmp_path).Images("saliency/cam/filmstrip")]
    moments = [(step + 1) // 3 + 1 for step in steps[:-1]]
    assert moments == [2, 3, 4, 6, 8, 11, 15, 20]
    assert steps[-1] == 72  # of all 25, when the training has ended


def test_animations_every_so_many_epochs(tmp_path):
    fit(tmp_path, callback(animation_every_n_epochs=2), max_epochs=5)
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
    fit(whole, callback(), max_epochs=4)
    runner, _ = fit(half, callback(), max_epochs=2)
    runner.save_checkpoint(tmp_path / "half.ckpt")
    fit(half, callback(), max_epochs=3, ckpt_path=str(tmp_path / "half.ckpt"))  # goes one epoch further, and is lost
    rest = half if place == "the same folder" else rest
    if "gone" in place:
        (half / "saliency.record").rename(tmp_path / "elsewhere")
    fit(rest, callback(), max_epochs=4, ckpt_path=str(tmp_path / "half.ckpt"))
    expected, found = load_record(whole), load_record(rest)
    if "gone" in place:
        assert found.epochs == [2, 3]
    else:
        assert (found.epochs, found.steps) == (expected.epochs, expected.steps)
        assert found.epochs == [None, 0, 1, 2, 3]
    for moment, same in zip(list(found)[-2:], list(expected)[-2:], strict=True):
        torch.testing.assert_close(moment.logits, same.logits)
        assert moment.scalars == pytest.approx(same.scalars, abs=2e-3)  # drift too: it is measured from the same maps
        assert "cam/rank_correlation_untrained" in moment.scalars


def test_another_run_in_the_same_folder_begins_the_record_anew(tmp_path):
    fit(tmp_path, callback(), max_epochs=3, val_check_interval=1)
    assert len(load_record(tmp_path)) == 10
    fit(tmp_path, callback(), max_epochs=2, num_sanity_val_steps=0)
    assert load_record(tmp_path).epochs == [0, 1]


def test_callbacks_that_share_a_name_have_each_their_own_record(tmp_path):
    fit(tmp_path, CAMCallback(samples=2), GradCAMCallback(samples=3), max_epochs=1)
    assert list(load_record(tmp_path / "saliency.record")[0].attributions) == ["cam"]
    assert list(load_record(tmp_path / "saliency.1.record")[0].attributions) == ["grad_cam"]
    with pytest.raises(ValueError, match="got a folder of 2"):
        load_record(tmp_path)


def test_it_lies_beside_the_event_file_whatever_other_loggers_there_are(tmp_path):
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "tb", name="run", version=5)]
    fit(tmp_path, callback(), logger=loggers, max_epochs=1)
    assert load_record(tmp_path / "tb/run/version_5").epochs == [None, 0]
    assert not list((tmp_path / "csv").glob("**/*.record"))
    fit(tmp_path, callback(), logger=CSVLogger(tmp_path / "csv", name="only"), max_epochs=1)
    assert load_record(tmp_path / "csv/only/version_0").epochs == [None, 0]
    assert list((tmp_path / "csv/only/version_0/saliency/cam/filmstrip").glob("*.png"))
    assert (tmp_path / "csv/only/version_0/saliency/cam/animation.gif").exists()


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


def test_without_a_folder_there_is_no_record_and_all_else_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bare = Bare()
    fit(tmp_path, callback(), logger=bare)
    assert bare.seen == ["saliency/cam", "saliency/saliency", "saliency/overview"] * 3
    assert not list(tmp_path.iterdir())


def test_without_record_or_metrics_nothing_of_them_is_there(tmp_path):
    fit(tmp_path, callback(record=False, metrics=False))
    found = events(tmp_path)
    assert set(found.Tags()["images"]) == {"saliency/cam", "saliency/saliency", "saliency/overview"}
    assert [tag for tag in found.Tags()["scalars"] if tag.startswith("saliency")] == ["saliency/seconds"]
    assert not list(tmp_path.glob("*.record"))


def test_the_untrained_network_is_in_the_record_only_if_it_is_shown(tmp_path):
    fit(tmp_path, callback(log_untrained=False))
    assert load_record(tmp_path).epochs == [0, 1]
    scalars = load_record(tmp_path)[0].scalars
    assert "cam/rank_correlation_untrained" in scalars  # drift is measured from it all the same


def test_a_record_that_cannot_be_written_is_a_warning_and_the_pictures_are_there(tmp_path):
    tmp_path.joinpath("saliency.record").write_bytes(b"something else, of somebody else, long enough for a header")
    with pytest.warns(UserWarning, match=r"saliency\.record is no record") as caught:
        fit(tmp_path, callback(on_error="warn"), num_sanity_val_steps=0)
    assert sum("is no record" in str(warning.message) for warning in caught) == 1
    assert sheets(tmp_path) == {"saliency/cam", "saliency/saliency", "saliency/overview"}
    assert len(events(tmp_path).Images("saliency/cam")) == 2
    assert events(tmp_path).Scalars("saliency/cam/entropy")


def test_sanity_checking_that_sees_a_part_fills_in_the_rest_later(tmp_path):
    spread = callback(samples=[1, 20])
    fit(tmp_path, spread, num_sanity_val_steps=1)
    record = load_record(tmp_path)
    assert [moment.rows for moment in record] == [[0], [0, 1], [0, 1]]
    images, labels = data()[[1, 20]]
    assert torch.equal(record.samples.images, to_rgb(images))
    assert record.samples.labels == labels.tolist()
    assert filmstrip(record, "cam").shape[1] > 0


def test_a_record_moves_with_its_folder(tmp_path):
    fit(tmp_path / "here", callback())
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert filmstrip(load_record(tmp_path / "there"), "cam").dtype == torch.uint8


def test_other_ways_to_run_leave_no_record(tmp_path):
    model = TinyClassifier()
    for stage in ("validate", "test"):
        getattr(trainer(tmp_path, callback()), stage)(model, loader(), verbose=False)
    assert not list(tmp_path.glob("*.record"))
