"""Signals such as Ctrl-C, held back while states are switched, so that an interruption finds all or none switched."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from functools import update_wrapper
from types import FrameType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class SignalGate:
    """Holds signals back that arrive in an uninterrupted function, and hands them to their handlers after it.

    While the gate is up, it stands before the handlers of Python; outside of uninterrupted functions it passes each
    signal on at once. Signals are handled in the main thread alone, so that in others it does nothing.

    Attributes:
        waiting: The signals held back.
    """

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self._count = 0
        self._handlers: dict[int, Any] = {}

    def put_up(self) -> None:
        """Stand before the handlers, until as many calls of `take_down`."""
        if threading.current_thread() is not threading.main_thread():
            return
        if not self._count:
            self.waiting = []
            try:
                self._replace_handlers()
            except BaseException:  # of a signal that still had its own handler
                self._give_back()
                raise
        self._count += 1

    def take_down(self) -> None:
        """Give the handlers back their places."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._count -= 1
        if not self._count:
            try:
                self._give_back()
            except BaseException:  # of a signal that had its own handler again
                self._give_back()
                raise

    def handle_waiting(self) -> None:
        """Hand the signals that wait to their handlers, in an uninterrupted function that is ready for their errors."""
        if threading.current_thread() is threading.main_thread():
            waiting, self.waiting = self.waiting, []
            for number in waiting:
                self._handlers[number](number, sys._getframe(1))

    def _replace_handlers(self) -> None:
        for number in sorted(signal.valid_signals()):
            handler = signal.getsignal(number)
            if callable(handler) and handler != self._receive:
                self._handlers[number] = handler
                signal.signal(number, self._receive)

    def _give_back(self) -> None:
        for number in sorted(self._handlers, reverse=True):
            if signal.getsignal(number) == self._receive:  # else the program has set another one meanwhile
                signal.signal(number, self._handlers[number])

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if _is_uninterrupted(frame):
            self.waiting.append(number)
        else:
            self._handlers[number](number, frame)


GATE = SignalGate()
"""The one gate of the process."""


def uninterrupted(function: Callable[P, R]) -> Callable[P, R]:
    """Let no signal interrupt a function: those that arrive in it are handled when it returns."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        GATE.put_up()
        try:
            return function(*args, **kwargs)
        finally:
            GATE.take_down()
            if not _is_uninterrupted(sys._getframe(1)):
                GATE.handle_waiting()

    _CODES.add(call.__code__)
    return update_wrapper(call, function)


_CODES: set[Any] = set()
"""The code of uninterrupted functions."""


def _is_uninterrupted(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in _CODES:
            return True
        frame = frame.f_back
    return False
