"""The terminal that a command talks to: silent when its function is called from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


@contextmanager
def row_bar(doing: str, rows: int) -> Iterator[Callable[[int], object]]:
    """Shows how many rows are done with, on a terminal alone.

    Args:
        doing: what is being done to them, a word.
        rows: of all.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = terminal()
    columns = (TextColumn("{task.description:>9}"), BarColumn(30), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(doing, total=rows)
        yield lambda rows: bar.advance(task, rows)
