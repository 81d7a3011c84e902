"""A picture, a file and a step, to any Lightning logger: one row a kind of logger."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from PIL import Image
from torch import Tensor

from lightning_saliency._names import to_file_path
from lightning_saliency.visualization import encode_picture, to_pil


@dataclass(frozen=True)
class LoggerKind:
    """How pictures and animations are handed to one kind of logger.

    Attributes:
        name: Which loggers these are.
        recognizes: Whether a logger, with its experiment, is one of them: by what it can do, not by its class.
        convert: From a picture, uint8 `(3, H, W)`, to what the logger takes.
        log_picture: Hands over what `convert` returned: logger, tag, picture, step.
        log_animation: Hands over the path of an animated GIF: logger, tag, path, step.
    """

    name: str
    recognizes: Callable[[Any, Any], bool]
    convert: Callable[[Tensor], Any]
    log_picture: Callable[[Any, str, Any, int], None]
    log_animation: Callable[[Any, str, Path, int], None]


def log_pictures(logger: Any, pictures: Mapping[str, Tensor | Path], step: int) -> None:
    """Write pictures and animations to a Lightning logger, by the first row of `LOGGER_KINDS` that recognizes it.

    TensorBoard gets the bytes of a PNG or JPEG (see `encode_picture`), and animations as they are, which it plays. A
    logger that takes no pictures, such as the CSV logger, gets a PNG file `<tag>/step=<step>.png` in its own `log_dir`,
    which may be a URL; an animation is a file already. To be called on one rank only: it never asks the trainer for a
    folder, which would wait for the other ranks.

    Args:
        logger: One of `trainer.loggers`.
        pictures: By tag, as in TensorBoard, `saliency/grad_cam`: uint8 `(3, H, W)`, or the path of an animated GIF.
        step: On the same axis as Lightning's scalars; see `scalar_step`.

    Raises:
        ValueError: The logger can take no pictures and has no folder.
    """
    experiment = getattr(logger, "experiment", None)
    kind = next(kind for kind in LOGGER_KINDS if kind.recognizes(logger, experiment))
    # all before the first is written: TensorBoard's thread sums bytes up in Python, which would slow this down
    converted = {tag: kind.convert(picture) for tag, picture in pictures.items() if isinstance(picture, Tensor)}
    for tag, picture in pictures.items():
        if isinstance(picture, Tensor):
            kind.log_picture(logger, tag, converted[tag], step)
        else:
            kind.log_animation(logger, tag, picture, step)


def run_folder(loggers: Sequence[Any]) -> str | None:
    """Return the folder of the run: that of TensorBoard's event file, else the first logger's that has one.

    To be called on one rank only, as `log_pictures`.

    Returns:
        A path or a URL such as `gs://bucket/run`, as the logger has it; None where no logger has a folder.
    """
    folders: list[str] = []
    for logger in loggers:
        folder, saved = getattr(logger, "log_dir", None), getattr(logger, "save_dir", None)
        if isinstance(folder, str | Path) and hasattr(getattr(logger, "experiment", None), "add_image"):
            return os.fspath(folder)
        if isinstance(folder, str | Path):
            folders.append(os.fspath(folder))
        elif isinstance(saved, str | Path):
            folders.append(_join(os.fspath(saved), str(logger.name), str(logger.version)))
    return folders[0] if folders else None


def scalar_step(trainer: Any) -> int:
    """Return the step at which Lightning logs scalars now: batches that stepped, not `global_step`."""
    return int(getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step))


def _join(folder: str, *names: str) -> str:
    return posixpath.join(folder, *names) if "://" in folder else os.path.join(folder, *names)


def _event_writer(experiment: Any) -> Any:
    """Return the writer behind TensorBoard's `SummaryWriter`, which takes the bytes of a file, or None."""
    find_writer = getattr(experiment, "_get_file_writer", None)
    writer = None if find_writer is None else find_writer()
    return writer if hasattr(writer, "add_summary") else None


def _add_file(logger: Any, tag: str, file: tuple[bytes, tuple[int, int]], step: int) -> None:
    """Write the bytes, which TensorBoard serves as they are; `add_image` would make a PNG of them, slowly."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # not before it is needed: it takes a while

    content, (width, height) = file
    picture = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=content)
    _event_writer(logger.experiment).add_summary(Summary(value=[Summary.Value(tag=tag, image=picture)]), step)


def _add_animation(logger: Any, tag: str, path: Path, step: int) -> None:
    with Image.open(path) as image:
        _add_file(logger, tag, (path.read_bytes(), image.size), step)


def _write_png(logger: Any, tag: str, picture: Image.Image, step: int) -> None:
    folder = getattr(logger, "log_dir", None) or getattr(logger, "save_dir", None)
    if not folder:
        raise ValueError(
            f"{type(logger).__name__} takes no pictures and has no `log_dir` to write PNG files to. "
            "Add a TensorBoardLogger to the Trainer's `logger` list."
        )
    system, root = url_to_fs(os.fspath(folder))
    path = f"{root}/{to_file_path(tag)}"
    system.makedirs(path, exist_ok=True)
    with system.open(f"{path}/step={step:07d}.png", "wb") as file:
        picture.save(file, "PNG")


def _log_video(logger: Any, tag: str, path: Path, step: int) -> None:
    if hasattr(logger, "log_video"):
        logger.log_video(key=tag, videos=[str(path)], step=step)


def _skip(logger: Any, tag: str, path: Path, step: int) -> None:
    """Leave an animation alone, which is a file already, where the logger takes none."""


LOGGER_KINDS = [
    LoggerKind(
        "TensorBoard",
        recognizes=lambda logger, experiment: (
            hasattr(experiment, "add_image") and _event_writer(experiment) is not None
        ),
        convert=lambda picture: (encode_picture(picture)[0], (picture.shape[2], picture.shape[1])),
        log_picture=_add_file,
        log_animation=_add_animation,
    ),
    LoggerKind(
        "others with TensorBoard's `add_image`",
        recognizes=lambda logger, experiment: hasattr(experiment, "add_image"),
        convert=lambda picture: picture,
        log_picture=lambda logger, tag, picture, step: logger.experiment.add_image(tag, picture, step),
        log_animation=_skip,
    ),
    LoggerKind(
        "Weights & Biases",
        recognizes=lambda logger, experiment: hasattr(logger, "log_image") or hasattr(logger, "log_video"),
        convert=to_pil,
        log_picture=lambda logger, tag, picture, step: logger.log_image(key=tag, images=[picture], step=step),
        log_animation=_log_video,
    ),
    LoggerKind(
        "MLflow",
        recognizes=lambda logger, experiment: hasattr(experiment, "log_image") and hasattr(logger, "run_id"),
        convert=lambda picture: picture.permute(1, 2, 0).numpy(),
        log_picture=lambda logger, tag, picture, step: logger.experiment.log_image(
            logger.run_id, picture, key=tag, step=step
        ),
        log_animation=lambda logger, tag, path, step: logger.experiment.log_artifact(
            logger.run_id, str(path), to_file_path(tag)
        ),
    ),
    LoggerKind(
        "Comet",
        recognizes=lambda logger, experiment: hasattr(experiment, "log_image"),
        convert=to_pil,
        log_picture=lambda logger, tag, picture, step: logger.experiment.log_image(picture, name=tag, step=step),
        log_animation=lambda logger, tag, path, step: logger.experiment.log_image(str(path), name=tag, step=step),
    ),
    LoggerKind(
        "CSV and other loggers with a folder",
        recognizes=lambda logger, experiment: True,
        convert=to_pil,
        log_picture=_write_png,
        log_animation=_skip,
    ),
]
"""What is known of each kind of logger; a new kind is a row, before the last."""
