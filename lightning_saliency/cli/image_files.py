"""Image files: found in folders, and read as upright RGB photos, or refused with the reason."""

from __future__ import annotations

import os
import stat
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from torchvision.datasets.folder import IMG_EXTENSIONS

from lightning_saliency._names import one_line, printable, to_file_name
from lightning_saliency.models.sources import WrongArgumentError

SHEET, FIGURE = ".sheet.png", ".figure.png"
"""The ends of the names of our own pictures, which are not explained in turn."""

_EXTENSIONS = {*IMG_EXTENSIONS, ".gif"}

_FORMATS = {"AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"}
"""Of Pillow's formats those of photos: some others, such as EPS, are read by programs that it starts."""

_MOST_PIXELS = 2 * 89_478_485
"""Of a photo after it is resized: from as many Pillow takes a file for a decompression bomb."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NoImageError(ValueError):
    """A file that is no image, or one that cannot be read; the message says why."""


class FoundImages(NamedTuple):
    """The image files in folders, and the folders that cannot be read with the reasons."""

    paths: list[Path]
    unreadable: dict[Path, str]


class Photo(NamedTuple):
    """An RGB image with 8 bits per channel, and whether it is the first frame of several."""

    image: Image.Image
    is_first_frame: bool


def find_images(names: Sequence[str]) -> FoundImages:
    """Return the given files, and the images in the given folders and those below, each once.

    Links are followed, but no folder is entered twice, so that links in circles end.

    Raises:
        WrongArgumentError: A path does not exist, or a folder holds no images.
    """
    found = FoundImages([], {})
    for name in names:
        if not os.path.exists(name):
            raise WrongArgumentError(f"Expected --images to be existing files and folders, got {printable(name)}.")
        files = sorted(_walk(name, found.unreadable)) if os.path.isdir(name) else [Path(name)]
        if not files:
            reason = "".join(f": {reason}" for path, reason in found.unreadable.items() if path == Path(name))
            raise WrongArgumentError(
                f"Expected --images to be folders with images, got none in {printable(name)}{reason}."
            )
        found.paths.extend(files)
    return found._replace(paths=list({os.path.realpath(path): path for path in found.paths}.values()))


def _walk(folder: str, unreadable: dict[Path, str]) -> Iterator[Path]:
    """Yield the images in a folder and those below, and note the folders that cannot be read."""
    entered = set()

    def note(error: OSError) -> None:
        unreadable[Path(error.filename)] = str(error.strerror)

    for root, folders, files in os.walk(folder, onerror=note, followlinks=True):
        if os.path.realpath(root) in entered:
            folders.clear()
            continue
        entered.add(os.path.realpath(root))
        for file in files:
            if Path(file).suffix.lower() in _EXTENSIONS and not file.endswith((SHEET, FIGURE)):
                yield Path(root, file)


def output_names(paths: Sequence[Path]) -> list[str]:
    """Return the name of each file's results: its stem; where stems repeat, with the folder's name before it."""
    stems = Counter(path.stem.lower() for path in paths)  # not all file systems are case-sensitive
    taken: dict[str, str] = {}
    for path in paths:
        long_name = f"{Path(os.path.realpath(path)).parent.name}_{path.stem}"
        short_names = [path.stem] if stems[path.stem.lower()] == 1 else []
        texts = chain(
            short_names, [long_name, f"{long_name}_{path.suffix[1:]}"], (f"{long_name}_{number}" for number in count(2))
        )
        name = next(name for name in map(to_file_name, texts) if name.lower() not in taken)
        taken[name.lower()] = name
    return list(taken.values())


def read_image(path: Path, size: int = 1) -> Photo:
    """Read a photo as RGB, upright, with 8 bits per channel; of an animation the first frame.

    Transparency is dropped, as by torchvision's data sets, by which models are trained.

    Args:
        path: The file, whose format is recognized by its content.
        size: What its shorter side will be resized to.

    Raises:
        NoImageError: The file cannot be read so.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
        if kind != stat.S_IFREG:  # a pipe without a writer would never open
            raise NoImageError(f"it is {_KINDS.get(kind, 'no file')}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is large, or damaged but readable
            with Image.open(path, formats=_formats()) as photo:
                is_animated = bool(getattr(photo, "is_animated", False))
                return Photo(_to_rgb(ImageOps.exif_transpose(photo), size), is_animated)
    except Exception as error:  # a decoder may raise anything for a damaged file
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise NoImageError(one_line(reason) or type(error).__name__) from error


def _to_rgb(photo: Image.Image, size: int) -> Image.Image:
    short, long = sorted(photo.size)
    if size * size * long > short * _MOST_PIXELS:
        raise NoImageError(f"it is too long for its width, {photo.width}×{photo.height}")
    if photo.mode == "F":
        raise NoImageError("its pixels are floating-point numbers, whose range is not known")
    if photo.mode.startswith("I"):  # 16 bits per pixel, which `convert` would clip at 255
        values = np.asarray(photo, dtype=np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise NoImageError("its pixels have 32 bits, whose range is not known")
        photo = Image.fromarray((values / 257).round().astype(np.uint8))
    return photo.convert("RGB")


@cache
def _formats() -> list[str]:
    """Return those of the formats that this Pillow knows."""
    Image.init()
    return sorted(_FORMATS & Image.OPEN.keys())
