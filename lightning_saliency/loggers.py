"""A picture, a tag and a step, to any Lightning logger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from lightning_saliency.render import encode


def log_picture(logger: Any, tag: str, picture: Tensor, step: int) -> None:
    """Write a picture to a Lightning logger, by what it can do.

    In this order: the experiment's `add_image` (TensorBoard: as the bytes of a PNG or JPEG, see
    `lightning_saliency.render.encode`), the logger's `log_image` (Weights & Biases), the
    experiment's `log_image` (MLflow, Comet), and for the others (CSV) a PNG file `<tag>/step=<step>.png` in the
    logger's own `log_dir`. To be called on one rank only: it never asks the trainer for a folder, which would wait for
    the other ranks.

    Args:
        logger: One of `trainer.loggers`.
        tag: As in TensorBoard, `saliency/grad_cam`.
        picture: uint8 `(3, H, W)`.
        step: On the same axis as Lightning's scalars; see `scalar_step`.

    Raises:
        ValueError: The logger can take no pictures and has no folder.
    """
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_image"):
        if not _add_bytes(experiment, tag, encode(picture)[0], (picture.shape[2], picture.shape[1]), step):
            experiment.add_image(tag, picture, step)
    elif hasattr(logger, "log_image"):
        logger.log_image(key=tag, images=[_image(picture)], step=step)
    elif hasattr(experiment, "log_image") and hasattr(logger, "run_id"):
        experiment.log_image(logger.run_id, picture.permute(1, 2, 0).numpy(), key=tag, step=step)
    elif hasattr(experiment, "log_image"):
        experiment.log_image(_image(picture), name=tag, step=step)
    else:
        folder = logger.log_dir or logger.save_dir
        if not folder:
            raise ValueError(
                f"{type(logger).__name__} takes no pictures and has no `log_dir` to write PNG files to. "
                "Add a TensorBoardLogger to the Trainer's `logger` list."
            )
        path = Path(folder, tag, f"step={step:07d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        _image(picture).save(path)


def log_animation(logger: Any, tag: str, path: Path, step: int) -> None:
    """Show an animated GIF in a Lightning logger, by what it can do.

    In this order: the experiment's `add_image` (TensorBoard, which plays the file as it is), the logger's `log_video`
    (Weights & Biases), the experiment's `log_artifact` (MLflow), its `log_image` (Comet). Others have the file itself.

    Args:
        logger: One of `trainer.loggers`.
        tag: As in TensorBoard, `saliency/grad_cam/animation`.
        path: The GIF.
        step: On the same axis as Lightning's scalars; see `scalar_step`.
    """
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_image"):
        with Image.open(path) as image:
            _add_bytes(experiment, tag, path.read_bytes(), image.size, step)
    elif hasattr(logger, "log_video"):
        logger.log_video(key=tag, videos=[str(path)], step=step)
    elif hasattr(experiment, "log_artifact") and hasattr(logger, "run_id"):
        experiment.log_artifact(logger.run_id, str(path), tag)
    elif hasattr(experiment, "log_image"):
        experiment.log_image(str(path), name=tag, step=step)


def run_folder(loggers: Sequence[Any]) -> Path | None:
    """The folder of the run: that of TensorBoard's event file, else the first logger's that has one.

    To be called on one rank only, as `log_picture`.
    """
    own: list[Path] = []
    for logger in loggers:
        folder, saved = getattr(logger, "log_dir", None), getattr(logger, "save_dir", None)
        if isinstance(folder, str | Path) and hasattr(getattr(logger, "experiment", None), "add_image"):
            return Path(folder)
        if isinstance(folder, str | Path):
            own.append(Path(folder))
        elif isinstance(saved, str | Path):
            own.append(Path(saved, str(logger.name), str(logger.version)))
    return own[0] if own else None


def scalar_step(trainer: Any) -> int:
    """The step at which Lightning logs scalars now: batches that stepped, not `global_step` (optimizer steps)."""
    return int(getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step))


def _add_bytes(experiment: Any, tag: str, content: bytes, size: tuple[int, int], step: int) -> bool:
    """Write a file's bytes, which TensorBoard serves as they are; `add_image` would make a PNG of them, slowly.

    Returns:
        Whether this experiment has the writer that takes them.
    """
    find_writer = getattr(experiment, "_get_file_writer", None)
    writer: Any = None if find_writer is None else find_writer()
    if not hasattr(writer, "add_summary"):
        return False
    from tensorboard.compat.proto.summary_pb2 import Summary  # not before it is needed: it takes a while

    picture = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=content)
    writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=picture)]), step)
    return True


def _image(picture: Tensor) -> Image.Image:
    return Image.fromarray(picture.permute(1, 2, 0).numpy())
