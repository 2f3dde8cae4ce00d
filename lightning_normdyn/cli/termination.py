"""SIGTERM as an exception, so that what cleans up after Ctrl-C cleans up after it too."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The process was asked to end."""


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
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _terminate(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_IGN)  # a second one must not cut the cleaning short
    raise Terminated
