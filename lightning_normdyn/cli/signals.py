"""Ctrl-C and SIGTERM: every command ends in order, and its exit code is 128 + the signal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The process was asked to end."""


def ending_signal(error: BaseException | None) -> int | None:
    """The signal that an exception stems from, ``None`` if from none.

    A Trainer turns ``KeyboardInterrupt`` into ``SystemExit``; what it handled then is the context.

    Example:
        >>> ending_signal(KeyboardInterrupt()) == signal.SIGINT, ending_signal(SystemExit(0))
        (True, None)
    """
    while error is not None:
        if isinstance(error, Terminated) or type(error).__name__ == "SIGTERMException":
            return int(signal.SIGTERM)
        if isinstance(error, KeyboardInterrupt):
            return int(signal.SIGINT)
        error = error.__context__ if isinstance(error, SystemExit) else None
    return None


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raises :class:`Terminated` where SIGTERM comes in; in threads, which cannot listen to signals, changes nothing.

    Example:
        >>> try:
        ...     with sigterm_raises():
        ...         signal.raise_signal(signal.SIGTERM)
        ... except Terminated:
        ...     print("cleaned up")
        cleaned up
    """
    with _handler(signal.SIGTERM, _terminate):
        yield


@contextmanager
def sigterm_waits() -> Iterator[None]:
    """Leaves SIGTERM to a Trainer, which ends after its step; a second one does not wait for that.

    Raises:
        Terminated: at the end, if SIGTERM came in.
    """
    signals = []

    def wait(number: int, frame: FrameType | None) -> None:
        del frame
        signals.append(number)
        signal.signal(number, _terminate)

    with _handler(signal.SIGTERM, wait):
        yield
    if signals:
        raise Terminated


def _terminate(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_IGN)  # a second one must not cut the cleaning short
    raise Terminated


@contextmanager
def _handler(number: int, handler: object) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(number, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL if previous is None else previous)
