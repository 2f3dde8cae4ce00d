"""A bar over the trainings of a grid, which moves while they train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightning_normdyn.cli.grid.job import Job


class GridProgress:
    """Adds up the shares of all trainings; any thread may call it."""

    def __init__(self, bar: Progress, console: Console, total: int, *, shown: bool) -> None:
        self._bar = bar
        self._console = console
        self._shown = shown
        self._total = total
        self._task = bar.add_task("", total=total)
        self._shares: dict[str, float] = {}
        self._lock = Lock()

    def __call__(self, job: Job, share: float) -> None:
        """Notes how much of a training is done; a file or a pipe gets a line when one has ended."""
        with self._lock:
            self._shares[job.name] = max(share, self._shares.get(job.name, 0.0))
            ended = sum(share == 1.0 for share in self._shares.values())
            under_way = ", ".join(name for name, share in self._shares.items() if share < 1.0)
            self._bar.update(
                self._task,
                completed=sum(self._shares.values()),
                description=f"{ended} of {self._total} trainings  {under_way}",
            )
            if share == 1.0 and not self._shown:
                self._console.print(f"{ended} of {self._total}: {job.name}")


@contextmanager
def grid_progress(console: Console, total: int, *, shown: bool) -> Iterator[GridProgress]:
    """The bar of a grid.

    Args:
        console: where it goes.
        total: trainings in all.
        shown: whether somebody watches; a file or a pipe gets lines instead.
    """
    columns = (SpinnerColumn(), BarColumn(20), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not shown) as bar:
        yield GridProgress(bar, console, total, shown=shown)
