"""The terminal that a command talks to: silent when its function is called from Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console

_console: ContextVar[Console | None] = ContextVar("console", default=None)


def terminal() -> Console:
    """Where the running command shows its progress."""
    console = _console.get()
    return Console(quiet=True) if console is None else console


@contextmanager
def shown_terminal() -> Iterator[Console]:
    """Lets commands inside show their progress on standard output."""
    console = Console(soft_wrap=True, markup=False, emoji=False, highlight=False)
    token = _console.set(console)
    try:
        yield console
    finally:
        _console.reset(token)
