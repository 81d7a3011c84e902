"""What was made last, as long as it fits into so many bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class _Sized(Protocol):
    @property
    def num_bytes(self) -> int:
        """How much memory it takes."""


_Value = TypeVar("_Value", bound=_Sized)


class Cache(Generic[_Value]):
    """Values that were made last, of a bounded size in all; several threads may use it.

    Args:
        most_bytes: The most bytes of all values; a larger value is not kept.

    Example:
        >>> class Text(str):
        ...     num_bytes = property(len)
        >>> cache = Cache(8)
        >>> [cache.get(key, lambda: Text(key * 4)) for key in "abca"], len(cache)
        (['aaaa', 'bbbb', 'cccc', 'aaaa'], 2)
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._num_bytes = 0
        self._values: OrderedDict[Hashable, _Value] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """Return the value of a key, made now if it is not there."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()  # outside the lock: it may take long, and two threads may make the same
        with self._lock:
            if key not in self._values:
                self._values[key] = value
                self._num_bytes += value.num_bytes
            while self._num_bytes > self._most_bytes:
                _, oldest = self._values.popitem(last=False)
                self._num_bytes -= oldest.num_bytes
        return value
