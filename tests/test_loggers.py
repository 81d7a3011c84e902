from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from tiny import CSVLogger, Logger, TensorBoardLogger, events, picture

from lightning_saliency.loggers import LOGGER_KINDS, log_pictures, run_folder, scalar_step
from lightning_saliency.visualization import encode_gif

PICTURE = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5)


class Plain(Logger):
    """The least that a Lightning logger is: no pictures, no folder."""

    name, version = "plain", 0

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass


class Saves(Plain):
    """As Weights & Biases and MLflow: a folder for all runs, and the run's own name in it."""

    name, version, save_dir = "saves", "v7", "somewhere"


class Remote(Plain):
    """A logger whose folder is in a remote store."""

    log_dir = "memory://bucket/run"


class WithExperiment(Plain):
    def __init__(self, experiment, **attributes):
        super().__init__()
        self.experiment = experiment
        self.__dict__.update(attributes)


def test_tensorboard_gets_the_pixels_at_the_step(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    log_pictures(logger, {"saliency/cam": PICTURE}, 7)
    logger.finalize("success")
    (event,) = events(tmp_path).Images("saliency/cam")
    assert (event.step, event.width, event.height) == (7, 5, 4)
    assert torch.equal(picture(event), PICTURE)


def test_a_logger_without_pictures_gets_a_png_in_its_own_folder(tmp_path):
    logger = CSVLogger(tmp_path, name="run", version=3)
    assert log_pictures(logger, {"saliency/cam": PICTURE}, 7) == str(tmp_path / "run/version_3")
    with Image.open(tmp_path / "run/version_3/saliency/cam/step=0000007.png") as image:
        assert np.array_equal(np.array(image), PICTURE.permute(1, 2, 0).numpy())


def test_a_folder_in_a_remote_store_gets_the_png_too():
    logger = Remote()
    log_pictures(logger, {"saliency/cam": PICTURE}, 7)
    assert run_folder([logger], "default") == "memory://bucket/run"
    with MemoryFileSystem().open("/bucket/run/saliency/cam/step=0000007.png") as file, Image.open(file) as image:
        assert np.array_equal(np.array(image), PICTURE.permute(1, 2, 0).numpy())


def test_a_name_and_version_are_added_to_a_remote_folder_of_all_runs_by_slashes():
    logger = Saves()
    logger.save_dir = "s3://bucket/runs"
    assert run_folder([logger], "default") == "s3://bucket/runs/saves/v7"


def test_the_first_row_that_recognizes_a_logger_serves_it(tmp_path):
    csv, board = CSVLogger(tmp_path, name="run", version=3), TensorBoardLogger(tmp_path, name="", version="")
    other_board = WithExperiment(SimpleNamespace(add_image=print))
    wandb, mlflow, comet, aim = (
        WithExperiment(SimpleNamespace(**{name: print for name in experiment}), **dict.fromkeys(attributes, print))
        for experiment, attributes in (
            ((), ("log_image",)),
            (("log_image",), ("run_id",)),
            (("log_image",), ()),
            (("track", "repo"), ()),
        )
    )
    served = [
        next(kind.name for kind in LOGGER_KINDS if kind.recognizes(logger, logger.experiment))
        for logger in (board, other_board, wandb, mlflow, comet, aim, csv)
    ]
    assert served == [kind.name for kind in LOGGER_KINDS]


def test_experiments_that_take_images_get_them_in_their_own_terms():
    """MLflow's client takes (run_id, array, key, step); Comet's experiment (image, name, step)."""
    calls = []
    mlflow = SimpleNamespace(log_image=lambda run_id, image, key, step: calls.append((run_id, image.shape, key, step)))
    comet = SimpleNamespace(log_image=lambda image, name, step: calls.append((image.size, name, step)))
    for logger in (WithExperiment(mlflow, run_id="r1"), WithExperiment(comet)):
        log_pictures(logger, {"saliency/cam": PICTURE}, 7)
    assert calls == [("r1", (4, 5, 3), "saliency/cam", 7), ((5, 4), "saliency/cam", 7)]


def test_a_logger_that_can_do_nothing_gets_files_in_the_default_folder(tmp_path):
    assert log_pictures(Plain(), {"saliency/cam": PICTURE}, 0, str(tmp_path)) == str(tmp_path)
    assert (tmp_path / "saliency/cam/step=0000000.png").is_file()


def test_a_hidden_folder_of_a_logger_is_left_alone():
    logger = Saves()
    logger.save_dir = "runs/.saves"
    assert run_folder([logger], "default") == "default"


def test_the_step_falls_back_to_the_optimizer_steps():
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=5))
    assert scalar_step(SimpleNamespace(fit_loop=loop, global_step=10)) == 5
    assert scalar_step(SimpleNamespace(fit_loop=SimpleNamespace(epoch_loop=None), global_step=10)) == 10


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.gif"
    path.write_bytes(encode_gif([PICTURE, 255 - PICTURE]))
    return path


def test_tensorboard_gets_the_gif_as_it_is(tmp_path, film):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    log_pictures(logger, {"saliency/cam/animation": film}, 7)
    logger.finalize("success")
    (event,) = events(tmp_path).Images("saliency/cam/animation")
    assert (event.step, event.width, event.height) == (7, 5, 4)
    assert event.encoded_image_string == film.read_bytes()


def test_experiments_that_take_films_get_them_in_their_own_terms(film):
    """W&B's logger takes (key, videos, step); MLflow's client (run_id, path, folder); Comet's (path, name, step)."""
    calls = []
    wandb = WithExperiment(SimpleNamespace(), log_video=lambda key, videos, step: calls.append((key, videos, step)))
    mlflow = SimpleNamespace(
        log_image=None, log_artifact=lambda run_id, path, folder: calls.append((run_id, path, folder))
    )
    comet = SimpleNamespace(log_image=lambda image, name, step: calls.append((image, name, step)))
    for logger in (wandb, WithExperiment(mlflow, run_id="r1"), WithExperiment(comet), Plain()):
        log_pictures(logger, {"saliency/cam/animation": film}, 7)
    assert calls == [
        ("saliency/cam/animation", [str(film)], 7),
        ("r1", str(film), "saliency/cam/animation"),
        (str(film), "saliency/cam/animation", 7),
    ]


def test_the_runs_folder_is_that_of_the_event_file_or_the_first_there_is(tmp_path):
    board = TensorBoardLogger(tmp_path / "tb", name="run", version=2)
    csv = CSVLogger(tmp_path / "csv", name="run", version=3)
    saves = Saves()
    assert run_folder([csv, saves, board], "default") == str(tmp_path / "tb/run/version_2")
    assert run_folder([csv, saves], "default") == str(tmp_path / "csv/run/version_3")
    assert run_folder([Plain(), saves], "default") == str(Path("somewhere/saves/v7"))
    assert run_folder([Plain()], "default") == "default"
    assert run_folder([], "default") == "default"


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "saliency.html"
    path.write_text("<!doctype html>\n<title>é</title>", encoding="utf-8")
    return path


def test_experiments_that_take_pages_get_them_in_their_own_terms(tmp_path, page, monkeypatch):
    """W&B's logger takes its package's `Html`; MLflow's client (run_id, path, folder); Comet's an asset."""
    (tmp_path / "own_package.py").write_text(
        "class Html:\n"
        "    def __init__(self, data, inject=True):\n"
        "        self.html, self.inject = data.read(), inject\n"
        "class Run:\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from own_package import Run

    calls = []
    wandb = WithExperiment(
        Run(), log_image=print, log_metrics=lambda metrics, step: calls.append((metrics["saliency/report"], step))
    )
    mlflow = SimpleNamespace(
        log_image=None, log_artifact=lambda run_id, path, folder: calls.append((run_id, path, folder))
    )
    comet = SimpleNamespace(
        log_image=None, log_asset=lambda path, file_name, step: calls.append((path, file_name, step))
    )
    board = TensorBoardLogger(tmp_path / "board", name="", version="")
    for logger in (wandb, WithExperiment(mlflow, run_id="r1"), WithExperiment(comet), Plain(), board):
        log_pictures(logger, {"saliency/report": page}, 7)
    board.finalize("success")
    (html, step), *others = calls
    assert (html.html, html.inject, step) == (page.read_text(encoding="utf-8"), False, 7)
    assert others == [("r1", str(page), "saliency/report"), (str(page), "saliency/report.html", 7)]
    assert events(tmp_path / "board").Tags()["images"] == []


def test_a_package_that_shows_no_pages_gets_none(page):
    log_pictures(WithExperiment(SimpleNamespace(), log_image=print), {"saliency/report": page}, 7)
