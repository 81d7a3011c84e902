"""Errors of the command line, and of what a user's own code raises in it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_saliency._checks import describe_error

_LONGEST_TEXT = 300
"""The most characters of an error that somebody else's code raises."""


class WrongArgumentError(ValueError):
    """A wrong argument; of an error of the command line the user sees the message alone."""


@contextmanager
def user_code(expected: str) -> Iterator[None]:
    """Turn whatever a user's own code raises, `sys.exit` included, into a `WrongArgumentError` that says where.

    Args:
        expected: What the code was expected to do, as the sentence goes on after "Expected".
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        raise WrongArgumentError(f"Expected {expected}, got {describe_raised(error)}.") from error


def describe_raised(error: BaseException) -> str:
    """Return the type and the text of what somebody else's code raises, with the file and the line that did."""
    text = describe_error(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + '…'}{place}"
