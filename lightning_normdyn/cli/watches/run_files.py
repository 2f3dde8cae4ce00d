"""What of a run lies on disk: which run of a folder to watch, what was added to it, and whether it goes on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lightning_normdyn.cli.reports import has_history, runs_below
from lightning_normdyn.cli.run_folder import SUMMARY_FILE, VOCABULARY_FILE
from lightning_normdyn.history.run_mark import RunMark, has_ended
from lightning_normdyn.history.target_history import FOLDER

Contents = frozenset[tuple[Path, int]]
"""Paths of a run's files, each with the time at which it was put there in nanoseconds; 0 for parts, which stay."""


class RunState(NamedTuple):
    """Whether a run goes on.

    Attributes:
        has_ended: whether it said that its history is complete.
        is_gone: whether its process is known to have ended.
    """

    has_ended: bool
    is_gone: bool

    def is_over(self, *, is_quiet: bool) -> bool:
        """Whether nothing will be added.

        Args:
            is_quiet: whether nothing was added of late: a process that ended its training may still write a summary.
        """
        return (self.has_ended and self.is_gone) or (is_quiet and (self.has_ended or self.is_gone))


def find_run(folder: Path) -> Path | None:
    """The run of a folder, or the one below it that goes on, or else the newest; ``None`` while there is none."""
    if has_history(folder):
        return folder
    runs = runs_below(folder) if folder.is_dir() else []
    return next((run for run in runs if not any(run_state(run))), runs[0] if runs else None)


def run_state(run: Path) -> RunState:
    """Whether a run goes on; one that left no mark of its process does not."""
    root = run / FOLDER
    mark = RunMark.read(root)
    return RunState(has_ended(root), mark is None or mark.is_gone)


def distant_host(run: Path) -> str:
    """The machine that writes a run, if it is another than this one, whose processes alone can be seen; else empty."""
    mark = RunMark.read(run / FOLDER)
    return "" if mark is None or mark.host in ("", platform.node()) else mark.host


def last_writing(run: Path) -> float:
    """When something was last added to a run, in seconds since the epoch; 0 where it holds nothing."""
    times = (path.stat().st_mtime for path in (run / FOLDER).rglob("*") if path.is_file())
    return max(times, default=0.0)


def run_contents(run: Path) -> Contents:
    """Everything of a run that its report is drawn of, as it lies on disk; files being written are left out."""
    return frozenset(_files(run))


def _files(run: Path) -> Iterator[tuple[Path, int]]:
    for name, _, file_names in os.walk(run / FOLDER):
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
