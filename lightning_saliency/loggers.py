"""A picture, a file and a step, to any Lightning logger: one row a kind of logger."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from PIL import Image
from torch import Tensor

from lightning_saliency._names import to_file_path
from lightning_saliency.visualization import encode_picture, to_pil


def _skip(logger: Any, tag: str, picture: Any, step: int) -> None:
    """Leave alone what is a file already, where the logger takes none."""


@dataclass(frozen=True)
class LoggerKind:
    """How pictures and animations are handed to one kind of logger.

    Attributes:
        name: Which loggers these are.
        recognizes: Whether a logger, with its experiment, is one of them: by what it can do, not by its class.
        convert: From the logger and a picture, uint8 `(3, H, W)`, to what the logger takes.
        log_picture: Hands over what `convert` returned: logger, tag, picture, step.
        log_animation: Hands over the path of an animated GIF: logger, tag, path, step.
        log_page: Hands over the path of an HTML page: logger, tag, path, step; by default it stays the file that it is.
        takes_pictures: Whether pictures are seen where the logger shows what it has; else they are files.
    """

    name: str
    recognizes: Callable[[Any, Any], bool]
    convert: Callable[[Any, Tensor], Any]
    log_picture: Callable[[Any, str, Any, int], None]
    log_animation: Callable[[Any, str, Path, int], None]
    log_page: Callable[[Any, str, Path, int], None] = _skip
    takes_pictures: bool = True


def log_pictures(logger: Any, pictures: Mapping[str, Tensor | Path], step: int, default: str = "") -> str:
    """Write pictures and animations to a Lightning logger, by the first row of `LOGGER_KINDS` that recognizes it.

    TensorBoard gets the bytes of a PNG or JPEG (see `encode_picture`), and animations as they are, which it plays. Of a
    logger that takes no pictures, such as the CSV logger, they become PNG files `<tag>/step=<step>.png` in the folder
    of its run, which may be a URL; an animation is a file already. To be called on one rank only: it never asks the
    trainer for a folder, which would wait for the other ranks.

    Args:
        logger: One of `trainer.loggers`.
        pictures: By tag, as in TensorBoard, `saliency/grad_cam`: uint8 `(3, H, W)`, or the path of an animated GIF, or
            of an HTML page.
        step: On the same axis as Lightning's scalars; see `scalar_step`.
        default: The folder for files where the logger has none.

    Returns:
        The folder into which files were written; empty where the logger has taken the pictures.
    """
    experiment = getattr(logger, "experiment", None)
    kind = next(kind for kind in LOGGER_KINDS if kind.recognizes(logger, experiment))
    if not kind.takes_pictures:
        folder = run_folder([logger], default)
        for tag, picture in pictures.items():
            if isinstance(picture, Tensor):
                _write_png(folder, tag, picture, step)
        return folder
    # all before the first is written: TensorBoard's thread sums bytes up in Python, which would slow this down
    converted = {tag: kind.convert(logger, picture) for tag, picture in pictures.items() if isinstance(picture, Tensor)}
    for tag, picture in pictures.items():
        if isinstance(picture, Tensor):
            kind.log_picture(logger, tag, converted[tag], step)
        else:
            log_file = kind.log_page if picture.suffix == ".html" else kind.log_animation
            log_file(logger, tag, picture, step)
    return ""


def run_folder(loggers: Sequence[Any], default: str) -> str:
    """Return the folder of the run: that of TensorBoard's event file, else the first logger's that has one.

    A logger's hidden folder is not meant for people: it holds the logger's own data base.

    To be called on one rank only, as `log_pictures`.

    Args:
        loggers: Those of the trainer.
        default: The folder of a run whose loggers have none.

    Returns:
        A path or a URL such as `gs://bucket/run`, as the logger has it.
    """
    folders: list[str] = []
    for logger in loggers:
        folder, saved = getattr(logger, "log_dir", None), getattr(logger, "save_dir", None)
        if isinstance(folder, str | Path) and hasattr(getattr(logger, "experiment", None), "add_image"):
            return os.fspath(folder)
        if isinstance(folder, str | Path):
            folders.append(os.fspath(folder))
        elif isinstance(saved, str | Path) and not posixpath.basename(os.fspath(saved)).startswith("."):
            folders.append(_join(os.fspath(saved), str(logger.name), str(logger.version)))
    return folders[0] if folders else default


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


def _write_png(folder: str, tag: str, picture: Tensor, step: int) -> None:
    system, root = url_to_fs(folder)
    path = f"{root}/{to_file_path(tag)}"
    system.makedirs(path, exist_ok=True)
    with system.open(f"{path}/step={step:07d}.png", "wb") as file:
        to_pil(picture).save(file, "PNG")


def _own_image(logger: Any, picture: Any) -> Any:
    """Return a picture, or the path of one, as the image of the package that the logger's experiment is of."""
    return _package(logger).Image(to_pil(picture) if isinstance(picture, Tensor) else str(picture))


def _package(logger: Any) -> Any:
    """Return the package that a logger's experiment is of."""
    return import_module(type(logger.experiment).__module__.partition(".")[0])


def _log_html(logger: Any, tag: str, path: Path, step: int) -> None:
    """Hand over a page as what W&B shows as one, where its package has that."""
    html = getattr(_package(logger), "Html", None)
    if html is not None:
        with path.open(encoding="utf-8") as file:
            logger.log_metrics({tag: html(file, inject=False)}, step)  # else it asks the network for a style


def _log_artifact(logger: Any, tag: str, path: Path, step: int) -> None:
    logger.experiment.log_artifact(logger.run_id, str(path), to_file_path(tag))


def _log_asset(logger: Any, tag: str, path: Path, step: int) -> None:
    logger.experiment.log_asset(str(path), file_name=f"{to_file_path(tag)}{path.suffix}", step=step)


def _track(logger: Any, tag: str, image: Any, step: int) -> None:
    logger.experiment.track(image, name=tag, step=step)


def _log_video(logger: Any, tag: str, path: Path, step: int) -> None:
    if hasattr(logger, "log_video"):
        logger.log_video(key=tag, videos=[str(path)], step=step)


LOGGER_KINDS = [
    LoggerKind(
        "TensorBoard",
        recognizes=lambda logger, experiment: (
            hasattr(experiment, "add_image") and _event_writer(experiment) is not None
        ),
        convert=lambda logger, picture: (encode_picture(picture)[0], (picture.shape[2], picture.shape[1])),
        log_picture=_add_file,
        log_animation=_add_animation,
    ),
    LoggerKind(
        "others with TensorBoard's `add_image`",
        recognizes=lambda logger, experiment: hasattr(experiment, "add_image"),
        convert=lambda logger, picture: picture,
        log_picture=lambda logger, tag, picture, step: logger.experiment.add_image(tag, picture, step),
        log_animation=_skip,
    ),
    LoggerKind(
        "Weights & Biases",
        recognizes=lambda logger, experiment: hasattr(logger, "log_image") or hasattr(logger, "log_video"),
        convert=lambda logger, picture: to_pil(picture),
        log_picture=lambda logger, tag, picture, step: logger.log_image(key=tag, images=[picture], step=step),
        log_animation=_log_video,
        log_page=_log_html,
    ),
    LoggerKind(
        "MLflow",
        recognizes=lambda logger, experiment: hasattr(experiment, "log_image") and hasattr(logger, "run_id"),
        convert=lambda logger, picture: picture.permute(1, 2, 0).numpy(),
        log_picture=lambda logger, tag, picture, step: logger.experiment.log_image(
            logger.run_id, picture, key=tag, step=step
        ),
        log_animation=_log_artifact,
        log_page=_log_artifact,
    ),
    LoggerKind(
        "Comet",
        recognizes=lambda logger, experiment: hasattr(experiment, "log_image"),
        convert=lambda logger, picture: to_pil(picture),
        log_picture=lambda logger, tag, picture, step: logger.experiment.log_image(picture, name=tag, step=step),
        log_animation=lambda logger, tag, path, step: logger.experiment.log_image(str(path), name=tag, step=step),
        log_page=_log_asset,
    ),
    LoggerKind(
        "Aim",
        recognizes=lambda logger, experiment: hasattr(experiment, "track") and hasattr(experiment, "repo"),
        convert=_own_image,
        log_picture=_track,
        log_animation=lambda logger, tag, path, step: _track(logger, tag, _own_image(logger, path), step),
    ),
    LoggerKind(
        "CSV and other loggers, which take no pictures",
        recognizes=lambda logger, experiment: True,
        convert=lambda logger, picture: picture,
        log_picture=_skip,
        log_animation=_skip,
        takes_pictures=False,
    ),
]
"""What is known of each kind of logger; a new kind is a row, before the last."""
