"""Text that comes from elsewhere, as a line in a picture or a message, and as the name of a file inside a folder."""

from __future__ import annotations

import hashlib
import re

from lightning_saliency._checks import check_text, refuse, shown

_CONTROL = "\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"  # line ends among them, and bytes that were no text
_NOT_IN_LINES = re.compile(f"[{_CONTROL}]")
_NOT_IN_FILE_NAMES = re.compile(f'[{_CONTROL}\\\\/:*?"<>|]')  # on Windows, where a colon also begins a stream of a file
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³")}

_LONGEST_NAME = 120
"""The most bytes of a file's name, of the 255 that there can be: endings, numbers and hidden copies take the rest."""


def one_line(text: str) -> str:
    r"""Return a text as one line: line ends, control characters and repeated spaces become single spaces.

    Example:
        >>> one_line("cat\n"), one_line("black\tand\x00white ")
        ('cat', 'black and white')
    """
    return " ".join(_NOT_IN_LINES.sub(" ", text).split())


def printable(text: str) -> str:
    r"""Return a text such as a path for a message of one line, with escapes for what cannot be printed.

    Example:
        >>> print(printable("photos/a\nb.jpg"))
        photos/a\nb.jpg
    """
    return _NOT_IN_LINES.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def to_file_name(text: str, most: int = _LONGEST_NAME) -> str:
    """Return the name of a file, or of a folder, for any text: the text itself where it can be one on every system.

    Else characters are replaced and it is cut, and a code of the whole text tells it from others that become the same.

    Args:
        text: Such as a class name or a layer's name.
        most: The most bytes that it takes.

    Example:
        >>> to_file_name("grad_cam"), to_file_name("../up"), to_file_name("nul.txt")
        ('grad_cam', '-up-35d0aa72', '_nul.txt-d040c221')
    """
    name = _NOT_IN_FILE_NAMES.sub("-", text).strip(". ")
    if name.partition(".")[0].rstrip(" ").lower() in _DEVICES:
        name = f"_{name}"
    if name and name == text and len(name.encode()) <= most:
        return name
    code = hashlib.blake2s(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    cut = name.encode()[: most - len(code) - 1].decode("utf-8", "ignore")
    return f"{cut or '_'}-{code}"


def to_file_path(tag: str) -> str:
    """Return the path of a tag below a folder: each part between slashes is the name of a file or a folder.

    Example:
        >>> to_file_path("saliency/grad_cam")
        'saliency/grad_cam'
        >>> to_file_path("saliency/../../grad_cam").count("..")
        0
    """
    return "/".join(map(to_file_name, tag.split("/")))


def check_tag(name: str, value: object) -> str:
    """Refuse what is no relative tag, whose parts between slashes can be the names of files on every system.

    Example:
        >>> check_tag("name", "runs/saliency")
        'runs/saliency'
        >>> check_tag("name", "../up")
        Traceback (most recent call last):
        ValueError: Expected `name` to be a tag such as 'runs/saliency', whose parts can name files, got '../up'.
    """
    tag = check_text(name, value)
    if tag != to_file_path(tag):
        refuse(name, "a tag such as 'runs/saliency', whose parts can name files", shown(value))
    return tag
