"""Image files: found in folders, and the names of what is written of each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from lightning_saliency._names import printable, to_file_name
from lightning_saliency.data import image_extensions
from lightning_saliency.models.errors import WrongArgumentError

SHEET, FIGURE, OVERLAY, RAW = ".sheet.png", ".figure.png", ".overlay.jpg", ".npy"
"""The ends of the names of our own files, which are not explained in turn."""


class FoundImages(NamedTuple):
    """The image files in folders, the folders that cannot be read with the reasons, and the files of other kinds."""

    paths: list[Path]
    unreadable: dict[Path, str]
    others: list[Path]


def find_images(names: Sequence[str]) -> FoundImages:
    """Return the given files, and the images in the given folders and those below, each once.

    Links are followed, but no folder is entered twice, so that links in circles end.

    Raises:
        WrongArgumentError: A path does not exist, or a folder holds no images.
    """
    found = FoundImages([], {}, [])
    for name in names:
        if not os.path.exists(name):
            raise WrongArgumentError(f"Expected --images to be existing files and folders, got {printable(name)}.")
        files = sorted(_walk(name, found)) if os.path.isdir(name) else [Path(name)]
        if not files:
            reason = "".join(f": {reason}" for path, reason in found.unreadable.items() if path == Path(name))
            raise WrongArgumentError(
                f"Expected --images to be folders with images, got none in {printable(name)}{reason}."
            )
        found.paths.extend(files)
    return found._replace(paths=list({os.path.realpath(path): path for path in found.paths}.values()))


def _walk(folder: str, found: FoundImages) -> Iterator[Path]:
    """Yield the images in a folder and those below, and note the folders that cannot be read and the other files."""
    entered = set()

    def note(error: OSError) -> None:
        found.unreadable[Path(error.filename)] = str(error.strerror)

    for root, folders, files in os.walk(folder, onerror=note, followlinks=True):
        if os.path.realpath(root) in entered:
            folders.clear()
            continue
        entered.add(os.path.realpath(root))
        for file in files:
            if file.startswith(".") or file.endswith((SHEET, FIGURE, OVERLAY, RAW)):
                continue
            if Path(file).suffix.lower() in image_extensions():
                yield Path(root, file)
            else:
                found.others.append(Path(root, file))


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
