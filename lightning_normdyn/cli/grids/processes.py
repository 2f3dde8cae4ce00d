"""Processes that do the trainings of a grid, a few at a time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, Thread

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightning_normdyn.cli.grids.job import LOG_FILE, Job
from lightning_normdyn.cli.grids.progress_reports import announced

_POLL_SECONDS = 0.1
_ERROR = "Error: "

JobProgress = Callable[[Job, float], None]


def run_jobs(jobs: Sequence[Job], *, at_once: int, progress: JobProgress) -> dict[str, str]:
    """Does all jobs, each in a process of its own, and goes on with the others when one fails.

    Ctrl-C ends the processes; what has finished stays on disk.

    Args:
        jobs: to be done, in this order.
        at_once: processes that run at the same time.
        progress: called with a job and the share of it that is done; 1 when it has ended, well or not.

    Returns:
        Name to reason, of the jobs that failed.
    """
    waiting, running = list(jobs), dict[str, _Process]()
    failures: dict[str, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running[job.name] = _Process(job, progress)
            time.sleep(_POLL_SECONDS)
            for name, process in list(running.items()):
                if process.has_ended():
                    del running[name]
                    progress(process.job, 1.0)
                    if not process.job.result.is_file():
                        failures[name] = process.reason()
    finally:
        for process in running.values():
            process.end()
    return failures


class _Process:
    """A training under way; what it prints goes to its log, and its announcements to who waits."""

    def __init__(self, job: Job, progress: JobProgress) -> None:
        self.job = job
        self.log = Path(job.folder) / LOG_FILE
        file = job.write()
        command = [sys.executable, "-m", "lightning_normdyn.cli.grids.worker", str(file)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # its end tells the training that nobody waits for it any more
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._progress_thread = Thread(target=self._read, args=(progress,), daemon=True)
        self._progress_thread.start()

    def _read(self, progress: JobProgress) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output, self.log.open("w", encoding="utf-8") as log:
            for line in output:
                share = announced(line)
                if share is None:
                    log.write(line)
                    log.flush()
                else:
                    progress(self.job, min(share, 0.99))

    def has_ended(self) -> bool:
        """Whether it has, and all that it printed was read."""
        if self._process.poll() is None or self._progress_thread.is_alive():
            return False
        self._close_input()
        return True

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def end(self) -> None:
        """Stops it now."""
        self._close_input()
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._progress_thread.join()

    def reason(self) -> str:
        """Why there is no result."""
        return failure_reason(self.log, self._process.returncode)


def failure_reason(log: Path, exit_status: int) -> str:
    """Why a training left no result, in a sentence that names its log.

    Args:
        log: what it printed.
        exit_status: of its process, minus the signal that killed it.
    """
    lines = [line.strip() for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    last_words = next((line for line in reversed(lines) if _ERROR in line), lines[-1] if lines else "it said nothing")
    how = f"killed by signal {-exit_status}" if exit_status < 0 else last_words
    return f"{how} (see {log})"


class GridProgress:
    """Adds up the shares of all trainings; any thread may call it."""

    def __init__(self, bar: Progress, console: Console, total: int, *, is_watched: bool) -> None:
        self._bar = bar
        self._console = console
        self._is_watched = is_watched
        self._total = total
        self._task = bar.add_task("", total=total)
        self._shares: dict[str, float] = {}
        self._lock = Lock()

    def extend(self, count: int) -> None:
        """Expects more trainings, or fewer, than were expected before."""
        with self._lock:
            self._total += count
            self._bar.update(self._task, total=self._total)

    def __call__(self, job: Job, share: float) -> None:
        """Notes how much of a training is done; a file or a pipe gets a line when one has ended."""
        with self._lock:
            self._shares[job.name] = max(share, self._shares.get(job.name, 0.0))
            finished_count = sum(share == 1.0 for share in self._shares.values())
            under_way = ", ".join(name for name, share in self._shares.items() if share < 1.0)
            self._bar.update(
                self._task,
                completed=sum(self._shares.values()),
                description=f"{finished_count} of {self._total} trainings  {under_way}",
            )
            if share == 1.0 and not self._is_watched:
                self._console.print(f"{finished_count} of {self._total}: {job.name}")


@contextmanager
def grid_progress(console: Console, total: int, *, is_watched: bool) -> Iterator[GridProgress]:
    """The bar of a grid.

    Args:
        console: where it goes.
        total: trainings in all.
        is_watched: whether somebody watches; a file or a pipe gets lines instead.
    """
    columns = (SpinnerColumn(), BarColumn(20), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not is_watched) as bar:
        if not is_watched:
            console.print(f"0 of {total}: begun")
        yield GridProgress(bar, console, total, is_watched=is_watched)
