"""Draws the page about a run from its history on disk, and finds the runs below a folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_normdyn.cli.commands.command import running_command
from lightning_normdyn.cli.run_folder import SUMMARY_FILE, check_output_file, read_words
from lightning_normdyn.history.target_history import FOLDER

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
    """

    page: Path

    @property
    def exit_code(self) -> int:
        """Success."""
        return 0

    def print_to(self, console: Console) -> None:
        """Prints where the report is."""
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
    page = write_report(
        folder, out=out, row_names=read_words(folder), summary=read_summary(folder), command=running_command()
    )
    return ReportRecord(page)


def has_history(folder: Path) -> bool:
    """Whether the folder is that of a run that recorded norms."""
    return any((folder / FOLDER).glob("*/target.json"))


def runs_below(folder: Path) -> list[Path]:
    """The folders of all runs with a history, the newest first."""
    runs = {file.parents[2] for file in folder.rglob(f"{FOLDER}/*/target.json")}
    return sorted(runs, key=lambda run: (run / FOLDER).stat().st_mtime, reverse=True)


def _refuse_other_folder(folder: Path) -> None:
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"run: '{folder}' {problem}; {_EXPECTED}")
    runs = runs_below(folder)
    if not runs:
        raise FileNotFoundError(f"run: '{folder}' holds no norm history, nor does any folder below it; {_EXPECTED}")
    lines = "\n".join(f"  {_date(run)}  {run}" for run in runs[:_MOST_RUNS])
    remainder = f"\n  and {len(runs) - _MOST_RUNS} older ones" if len(runs) > _MOST_RUNS else ""
    raise FileNotFoundError(
        f"run: '{folder}' is no run but holds {len(runs)} below it, the newest first; name one of them, e.g. "
        f"normdyn report {runs[0]}\n{lines}{remainder}"
    )


def _date(run: Path) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime((run / FOLDER).stat().st_mtime))


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
