"""Loggers of other libraries, offline: `pip install -e ".[loggers]"`; without a library its test is skipped."""

import json
import os
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import Logger

from lightning_saliency.loggers import log_pictures, run_folder
from lightning_saliency.visualization import encode_gif

PICTURE = (torch.arange(3 * 40 * 50) % 251).to(torch.uint8).reshape(3, 40, 50)


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.gif"
    path.write_bytes(encode_gif([PICTURE, 255 - PICTURE]))
    return path


def test_comet_has_the_picture_and_the_animation_under_their_tags_and_steps(tmp_path, film):
    comet = pytest.importorskip("comet_ml")
    experiment = comet.OfflineExperiment(
        project_name="p", offline_directory=str(tmp_path / "comet"), disabled=False, log_code=False,
        log_env_details=False, log_git_metadata=False, auto_output_logging=False, display_summary_level=0,
    )  # fmt: skip
    log_pictures(SimpleNamespace(experiment=experiment), {"saliency/cam": PICTURE, "saliency/cam/animation": film}, 7)
    experiment.end()
    (path,) = (tmp_path / "comet").glob("*.zip")
    with zipfile.ZipFile(path) as archive:
        messages = map(json.loads, archive.read("messages.json").decode().splitlines())
        uploads = [message["payload"] for message in messages if message["type"] == "file_upload"]
        pictures = {upload["additional_params"]["figName"]: upload for upload in uploads}
        assert {upload["additional_params"]["step"] for upload in pictures.values()} == {7}
        assert archive.read(pictures["saliency/cam/animation"]["file_path"]) == film.read_bytes()
        with archive.open(pictures["saliency/cam"]["file_path"]) as file, Image.open(file) as image:
            assert np.array_equal(np.array(image.convert("RGB")), PICTURE.permute(1, 2, 0).numpy())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Aim leaves the animation's file open
def test_aim_has_the_picture_and_the_animation_and_its_hidden_folder_gets_nothing(tmp_path, film):
    aim = pytest.importorskip("aim")
    run = aim.Run(repo=str(tmp_path), system_tracking_interval=None, capture_terminal_logs=False)

    class AimLogger(Logger):
        """As the one of `aim.pytorch_lightning`, which needs another Lightning."""

        name, version, experiment, save_dir = "e", run.hash, run, str(tmp_path / ".aim")

        def log_metrics(self, metrics, step=None):
            pass

        def log_hyperparams(self, params, *args, **kwargs):
            pass

    logger = AimLogger()
    before = {path for path in (tmp_path / ".aim").iterdir() if "." not in path.name}
    assert log_pictures(logger, {"saliency/cam": PICTURE, "saliency/cam/animation": film}, 7) == ""
    assert run_folder([logger], "here") == "here"
    found = {one["name"]: one["values"] for one in run.collect_sequence_info(("images",))["images"]}
    assert {name: values["last_step"] for name, values in found.items()} == {
        "saliency/cam": 7,
        "saliency/cam/animation": 7,
    }
    image = found["saliency/cam"]["last"].to_pil_image()
    assert np.array_equal(np.array(image.convert("RGB")), PICTURE.permute(1, 2, 0).numpy())
    assert {path for path in (tmp_path / ".aim").iterdir() if "." not in path.name} == before
    run.close()


CLEARML = """
import sys
from clearml import Task
Task.set_offline(True)
task = Task.init("p", "t", auto_connect_arg_parser=False, auto_connect_streams=False, auto_resource_monitoring=False)
import torch
from tiny import TensorBoardLogger
from lightning_saliency.loggers import log_pictures
logger = TensorBoardLogger(sys.argv[1], name="", version="")
picture = torch.full((3, 40, 50), 7, dtype=torch.uint8)
log_pictures(logger, {"saliency/cam": picture}, 7)
logger.finalize("success")
folder = task.get_offline_mode_folder()
task.close()
print(folder)
"""


def test_clearml_takes_the_pictures_that_tensorboard_gets(tmp_path):
    pytest.importorskip("clearml")
    environment = os.environ | {"CLEARML_OFFLINE_MODE": "1", "CLEARML_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CLEARML, str(tmp_path / "logs")],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    pictures = list((tmp_path / "cache").rglob("metrics/saliency/**/*.*"))
    assert len(pictures) == 1, done.stdout
    with Image.open(pictures[0]) as image:
        assert image.size == (50, 40)
        assert abs(np.array(image.convert("RGB")).astype(int) - 7).max() <= 2
