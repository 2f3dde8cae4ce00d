"""``normdyn report``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_normdyn.cli.commands.command import Shell, command
from lightning_normdyn.cli.values import File, Folder

if TYPE_CHECKING:
    from lightning_normdyn.cli.reports import ReportRecord


@command(Shell(extra=("cli,report", ("matplotlib",)), positional=("run",)))
def report(*, run: Folder, out: File | None = None) -> ReportRecord:
    """Draw the report of a run that trained with NormDynamics.

    Args:
        run: the run's folder, which holds normdyn/; for a folder of runs, those below it are listed
        out: where the page goes (default: report.html in the run's folder)

    Returns:
        Where the page is.

    Raises:
        FileNotFoundError: if the folder holds no history; the message names the runs below it.
        ValueError: if a file of the run is damaged.
        OSError: if the page cannot be written.
    """
    from lightning_normdyn.cli.reports import draw_report

    return draw_report(run, out)
