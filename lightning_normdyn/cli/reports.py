"""Draws the page about a run from its history on disk, and finds the runs below a folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_normdyn.cli.commands.command import running_command
from lightning_normdyn.cli.run_folder import SUMMARY_FILE, check_output_file, read_words
from lightning_normdyn.history.run_record import (
    FOLDER,
    TARGETS_FILE,
    RunRecord,
    has_old_history,
    list_runs,
    old_history,
)

if TYPE_CHECKING:
    from rich.console import Console

PAGE = "report.html"
_MOST_RUNS = 20
_EXPECTED = (
    "name the folder of a run that trained with NormDynamics, e.g. lightning_logs/version_0, or one above such folders"
)


class ReportRecord(NamedTuple):
    """What ``normdyn report`` prints.

    Attributes:
        page: where the report is.
        runs: of the folder, the one that was drawn first.
        damaged: what is wrong with files that were left out, a sentence each.
    """

    page: Path
    runs: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """Success."""
        return 0

    def print_to(self, console: Console) -> None:
        """Prints where the report is."""
        for damage in self.damaged:
            console.print(f"Left out: {damage}")
        if len(self.runs) > 1:
            console.print(f"Of {len(self.runs)} runs in that folder this is {self.runs[0]}; the others:")
            console.print("\n".join(f"  {run}" for run in self.runs[1:]))
        console.print(f"Report: {self.page}")


def draw_report(run: str, out: str | None = None) -> ReportRecord:
    """Draws the report.

    Args:
        run: the run's folder.
        out: where the page goes.

    Raises:
        FileNotFoundError: if the folder holds no history; the message names the runs below it, if there are any.
        ValueError: if a file of the run is damaged.
        DrawingError: if a figure cannot be drawn.
        OSError: if the page cannot be written.
    """
    from lightning_normdyn.report import write_report

    folder = Path(run)
    if out is not None:
        check_output_file(Path(out), "out")
    if not has_history(folder):
        _refuse_other_folder(folder)
    if out is None:
        check_output_file(folder / PAGE, "out")
    damaged: list[str] = []
    page = write_report(
        folder,
        out=out,
        row_names=read_words(folder),
        summary=read_summary(folder),
        command=running_command(),
        warn=damaged.append,
    )
    return ReportRecord(page, tuple(map(str, list_runs(folder))), tuple(damaged))


def has_history(folder: Path) -> bool:
    """Whether the folder is that of a run that recorded norms, or such a history itself."""
    return any((record.folder / TARGETS_FILE).exists() for record in list_runs(folder))


def runs_below(folder: Path) -> list[Path]:
    """The folders of all runs with a history, the newest first."""
    histories = {file.parent for file in folder.rglob(f"{FOLDER}*/{TARGETS_FILE}")}
    runs = {history.parent for history in histories}
    return sorted(runs, key=lambda run: latest_record(run).start, reverse=True)


def latest_record(folder: Path) -> RunRecord:
    """The run of a folder that was begun or resumed last.

    Raises:
        FileNotFoundError: if there is none.
    """
    from lightning_normdyn.history.run_reader import find_record

    return find_record(folder)


def _refuse_other_folder(folder: Path) -> None:
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"run: '{folder}' {problem}; {_EXPECTED}")
    runs = runs_below(folder)
    if not runs and has_old_history(folder):
        raise FileNotFoundError(f"run: {old_history(folder)}")
    if not runs:
        raise FileNotFoundError(f"run: '{folder}' holds no norm history, nor does any folder below it; {_EXPECTED}")
    lines = "\n".join(f"  {_date(run)}  {run}" for run in runs[:_MOST_RUNS])
    remainder = f"\n  and {len(runs) - _MOST_RUNS} older ones" if len(runs) > _MOST_RUNS else ""
    raise FileNotFoundError(
        f"run: '{folder}' is no run but holds {len(runs)} below it, the newest first; name one of them, e.g. "
        f"normdyn report {runs[0]}\n{lines}{remainder}"
    )


def _date(run: Path) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(latest_record(run).start))


def read_summary(run: Path) -> dict[str, Any] | None:
    """Reads ``summary.json``; ``None`` if the run has none.

    Raises:
        ValueError: if it is damaged.
    """
    file = run / SUMMARY_FILE
    if not file.exists():
        return None
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"run: '{file}' is damaged ({error}); remove it to draw the report without") from error
