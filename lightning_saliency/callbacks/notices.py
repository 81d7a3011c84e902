"""What a callback tells the user: each thing once, and without ending anything, also where warnings are errors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lightning_saliency._lightning import rank_zero_warn

_log = logging.getLogger(__name__)


class Notices:
    """Warnings, and lines of information, that are given once each."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def reset(self) -> None:
        """Forget what was said, before another run."""
        self._given.clear()

    def once(self, message: str, cause: str | None = None, tell: Callable[[str], None] | None = None) -> None:
        """Warn, unless this was said before.

        Args:
            message: The text.
            cause: What the text is about, where it may be worded differently the next time; by default the text.
            tell: What says it, in place of a warning: of what is no fault, `rank_zero_info`.
        """
        if (cause or message) not in self._given:
            self._given.add(cause or message)
            (tell or warn)(message)


def warn(message: str) -> None:
    """Warn on rank 0; where a filter makes warnings errors, or showing them fails, the message is logged instead."""
    try:
        rank_zero_warn(message)
    except Exception:  # the message itself, as an error; or an error of the user's own `warnings.showwarning`
        _log.warning(message)


@contextmanager
def own_warnings_shown() -> Iterator[None]:
    """Within the context show warnings of this package where a filter makes warnings errors, which would end a look."""
    if all(action != "error" for action, *_ in warnings.filters):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("always", module="lightning_saliency")
        yield
