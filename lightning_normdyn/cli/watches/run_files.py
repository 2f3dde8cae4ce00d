"""What of a run lies on disk: which run of a folder to watch, what was added to it, and whether it goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lightning_normdyn.cli.reports import has_history, runs_below
from lightning_normdyn.cli.run_folder import SUMMARY_FILE, VOCABULARY_FILE
from lightning_normdyn.history.run_record import list_runs, record_in

Contents = frozenset[tuple[Path, int]]
"""Paths of a run's files, each with the time at which it was put there in nanoseconds; 0 for parts, which stay."""


class RunState(NamedTuple):
    """Whether a run goes on.

    Attributes:
        has_ended: whether it said that its history is complete.
        is_gone: whether no process is known to write to it any more.
    """

    has_ended: bool
    is_gone: bool

    def is_over(self, *, is_quiet: bool) -> bool:
        """Whether nothing will be added.

        Args:
            is_quiet: whether nothing was added of late: a process that ended its training may still write a summary.
        """
        return is_quiet and (self.has_ended or self.is_gone)


def find_run(folder: Path) -> Path | None:
    """The run of a folder, or the one below it that goes on, or else the newest; ``None`` while there is none."""
    if has_history(folder):
        return folder
    runs = runs_below(folder) if folder.is_dir() else []
    return next((run for run in runs if not any(run_state(find_history(run)))), runs[0] if runs else None)


def find_history(run: Path) -> Path:
    """The history in a run's folder that goes on, or else the newest.

    Raises:
        FileNotFoundError: if there is none any more.
    """
    records = list_runs(run)
    if not records:
        raise FileNotFoundError(f"run: the norm history of '{run}' was removed")
    return next((record.folder for record in records if record.has_writer), records[0].folder)


def run_state(history: Path) -> RunState:
    """Whether a history goes on; one whose lock nobody holds does not, on this machine."""
    record = record_in(history)
    return RunState(record.end is not None, not record.has_writer if record.damage else record.has_writer is False)


def distant_host(history: Path) -> str:
    """The machine that writes a history, if it is another than this one, whose locks may not be seen; else empty."""
    record = record_in(history)
    return record.stretches[-1].host if record.stretches and record.has_writer is None else ""


def last_writing(history: Path) -> float:
    """When something was last added to a history, in seconds since the epoch; 0 where it holds nothing."""
    times = (path.stat().st_mtime for path in history.rglob("*") if path.is_file())
    return max(times, default=0.0)


def run_contents(history: Path) -> Contents:
    """Everything of a run that its report is drawn of, as it lies on disk; files being written are left out."""
    return frozenset(_files(history))


def _files(history: Path) -> Iterator[tuple[Path, int]]:
    run = history.parent
    for name, _, file_names in os.walk(history):
        folder = Path(name)
        for file_name in file_names:
            if file_name.startswith("part-"):
                yield folder / file_name, 0
            elif not file_name.startswith("."):
                yield from _dated(folder / file_name)
    yield from _dated(run / SUMMARY_FILE)
    yield from _dated(run / VOCABULARY_FILE)


def _dated(file: Path) -> Iterator[tuple[Path, int]]:
    try:
        yield file, file.stat().st_mtime_ns
    except FileNotFoundError:
        return
