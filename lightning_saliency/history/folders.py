"""A folder of files, on this machine or in a remote store, in which a file is put whole or not at all."""

from __future__ import annotations

import os
import re
import stat
import uuid
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

# how many bytes of a remote file to fetch at least: an archive's description with its table of contents
_BLOCK = 2**18

# without waiting, as a pipe would for its other end
_READ_AT_ONCE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

_TEMPORARY = ".{name}.{unique}"
_IS_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}", re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """What a folder holds under a name.

    Attributes:
        kind: `"file"`, `"folder"` or `"other"`.
        stamp: Another value after the file was put anew.
    """

    kind: str
    stamp: Hashable


class Folder(ABC):
    """A folder, which need not exist.

    Attributes:
        path: As text; in a remote store with its protocol.
    """

    path: str

    @abstractmethod
    def child(self, name: str) -> Folder:
        """Return the folder of this name inside this one."""

    @property
    @abstractmethod
    def parent(self) -> Folder:
        """The folder that this one is in; at the top itself."""

    @abstractmethod
    def entries(self) -> dict[str, Entry]:
        """Return what the folder holds now, by name, without hidden files; nothing where there is no such folder."""

    @abstractmethod
    def entry(self, name: str) -> Entry | None:
        """Return what the folder holds now under a name, if anything."""

    @abstractmethod
    def walk(self, leaf: str) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield each folder below, first this one, from above to below, passing over what cannot be listed.

        Args:
            leaf: Folders whose names end so are listed, and not entered.

        Yields:
            Its path relative to this folder, of this folder "", and the names of the folders and of the files in it.
        """

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Open a file for reading.

        Raises:
            OSError: It is none, or cannot be opened.
        """

    @abstractmethod
    def make(self) -> bool:
        """Make the folder with those above it; False where it exists."""

    @abstractmethod
    def put(self, name: str, content: bytes) -> None:
        """Put a file in place in one step, over that of this name; the folder is made where it is missing."""

    @abstractmethod
    def sweep(self) -> None:
        """Remove what killed processes have left of files that they were putting in place."""

    def file_path(self, name: str) -> str:
        """Return a file's path as text."""
        return self.path.rstrip("/") + "/" + name

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        with self.open(name) as file:
            return file.read()


class LocalFolder(Folder):
    """A folder on this machine's file systems."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)

    def child(self, name: str) -> LocalFolder:
        """Return the folder of this name inside this one."""
        return LocalFolder(os.path.join(self.path, name))

    @property
    def parent(self) -> LocalFolder:
        """The folder that this one is in."""
        return LocalFolder(os.path.dirname(self.path))

    def entries(self) -> dict[str, Entry]:
        """Return what the folder holds now."""
        found: dict[str, Entry] = {}
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.path) as listing:
            for entry in listing:
                if entry.name.startswith("."):
                    continue
                try:
                    found[entry.name] = _local_entry(entry.stat())
                except FileNotFoundError:  # gone since it was listed, or a link to nothing
                    continue
                except OSError:  # a link to itself
                    found[entry.name] = Entry("other", None)
        return found

    def entry(self, name: str) -> Entry | None:
        """Return what the folder holds now under a name."""
        try:
            return _local_entry(os.stat(self.file_path(name)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:  # a link to itself
            return Entry("other", None)

    def walk(self, leaf: str) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield each folder below, also those that links lead to, each once."""
        above, seen = [""], {os.path.realpath(self.path)}
        while above:
            relative = above.pop()
            folders, files = _local_names(os.path.join(self.path, *relative.split("/")))
            yield relative, folders, files
            for name in reversed(folders):
                below = f"{relative}/{name}".lstrip("/")
                real = os.path.realpath(os.path.join(self.path, *below.split("/")))
                if not name.endswith(leaf) and real not in seen:
                    seen.add(real)
                    above.append(below)

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        descriptor = os.open(self.file_path(name), _READ_AT_ONCE)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError("it is no file")
        return os.fdopen(descriptor, "rb")

    def make(self) -> bool:
        """Make the folder; of several processes that do so at once, one gets True."""
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        try:
            os.mkdir(self.path)
        except FileExistsError:
            return False
        return True

    def put(self, name: str, content: bytes) -> None:
        """Write a hidden file beside, and rename it."""
        try:
            self._put(name, content)
        except FileNotFoundError:  # the folder was deleted or never there, or another process has swept it
            os.makedirs(self.path, exist_ok=True)
            self._put(name, content)

    def sweep(self) -> None:
        """Remove the hidden files; a process that is writing one just now writes it again."""
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.path) as listing:
            for entry in listing:
                if _IS_TEMPORARY.fullmatch(entry.name):
                    with suppress(OSError):
                        os.unlink(entry.path)

    def _put(self, name: str, content: bytes) -> None:
        temporary = Path(self.path, _TEMPORARY.format(name=name, unique=uuid.uuid4().hex))
        try:
            temporary.write_bytes(content)
            os.replace(temporary, Path(self.path, name))
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


class RemoteFolder(Folder):
    """A folder in a store that fsspec knows, where a file appears when its one upload is complete."""

    def __init__(self, filesystem: Any, path: str) -> None:
        self._filesystem = filesystem
        self._root = path.rstrip("/")
        self.path = str(filesystem.unstrip_protocol(self._root))

    def child(self, name: str) -> RemoteFolder:
        """Return the folder of this name inside this one."""
        return RemoteFolder(self._filesystem, f"{self._root}/{name}")

    @property
    def parent(self) -> RemoteFolder:
        """The folder that this one is in; a bucket is in none."""
        return RemoteFolder(self._filesystem, self._root.rpartition("/")[0] or self._root)

    def entries(self) -> dict[str, Entry]:
        """Return what the folder holds now."""
        self._filesystem.invalidate_cache(self._root)
        try:
            listing = self._filesystem.ls(self._root, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        found = {}
        for info in listing:
            name = info["name"].rstrip("/")
            if name == self._root.rstrip("/"):  # some stores list a folder in itself
                continue
            found[name.rpartition("/")[2]] = _remote_entry(info)
        return {name: entry for name, entry in found.items() if name and not name.startswith(".")}

    def entry(self, name: str) -> Entry | None:
        """Return what the folder holds now under a name."""
        self._filesystem.invalidate_cache(self._root)
        try:
            return _remote_entry(self._filesystem.info(f"{self._root}/{name}"))
        except FileNotFoundError:
            return None

    def walk(self, leaf: str) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield each folder below that holds anything, of one listing of all files."""
        self._filesystem.invalidate_cache()
        folders: dict[str, tuple[set[str], list[str]]] = {"": (set(), [])}
        for path in self._filesystem.find(self._root):
            *above, name = path.removeprefix(self._root).strip("/").split("/")
            ends = [index for index, part in enumerate(above) if part.endswith(leaf)]
            if not ends:
                folders.setdefault("/".join(above), (set(), []))[1].append(name)
            for depth, part in enumerate(above[: ends[0] + 1] if ends else above):
                folders.setdefault("/".join(above[:depth]), (set(), []))[0].add(part)
        for relative, (below, files) in sorted(folders.items()):
            yield relative, sorted(below), files

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        return cast(BinaryIO, self._filesystem.open(f"{self._root}/{name}", "rb", block_size=_BLOCK))

    def make(self) -> bool:
        """Make the folder, which most stores only do when it gets its first file."""
        if self.entries():
            return False
        self._filesystem.makedirs(self._root, exist_ok=True)
        return True

    def put(self, name: str, content: bytes) -> None:
        """Upload the file at once."""
        self._filesystem.pipe_file(f"{self._root}/{name}", content)

    def sweep(self) -> None:
        """Do nothing: of an upload that was not completed there is no file."""


def open_folder(path: str | os.PathLike[str]) -> Folder:
    """Return the folder at a path or at the address of a remote store.

    Args:
        path: `"runs/version_0"`, a `Path`, `"file:///runs"`, or what fsspec knows, as `"s3://bucket/runs"`.
    """
    text = os.fspath(path)
    if "://" not in text:
        return LocalFolder(text)
    from fsspec.core import url_to_fs  # loading it takes longer than reading a record

    filesystem, root = url_to_fs(text)
    return LocalFolder(root) if "file" in _protocols(filesystem) else RemoteFolder(filesystem, root)


def _local_names(path: str) -> tuple[list[str], list[str]]:
    """Return the names of the folders and of the files in a folder; none where it cannot be listed."""
    folders: list[str] = []
    files: list[str] = []
    with suppress(OSError), os.scandir(path) as listing:
        for entry in listing:
            (folders if entry.is_dir() else files).append(entry.name)
    return sorted(folders), files


def _local_entry(status: os.stat_result) -> Entry:
    kind = {stat.S_IFREG: "file", stat.S_IFDIR: "folder"}.get(stat.S_IFMT(status.st_mode), "other")
    return Entry(kind, (status.st_ino, status.st_size, status.st_mtime_ns))


def _remote_entry(info: Mapping[str, Any]) -> Entry:
    kind = {"file": "file", "directory": "folder"}.get(info["type"], "other")
    return Entry(kind, str(sorted(info.items(), key=str)))  # what tells versions apart has another name in each store


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
