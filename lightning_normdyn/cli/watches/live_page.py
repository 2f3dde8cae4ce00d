"""The page of a run that goes on: drawn from its history, written again whenever something is to be said on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from lightning_normdyn.cli.reports import read_summary
from lightning_normdyn.cli.user_errors import one_sentence
from lightning_normdyn.cli.watches.run_view import RunView
from lightning_normdyn.history.alert_log import read_verdicts
from lightning_normdyn.report.kit.page import Page, write_page
from lightning_normdyn.report.run.page import report_page, run_name
from lightning_normdyn.report.run.target_record import TargetRecord


class LivePage(RunView):
    """A report in a file; where it cannot be drawn, the last good one stays, with a sentence that says why.

    Args:
        run: the run's folder.
        history: the history in it that is shown.
        path: of the page.
        command: that makes it, for its last line.
    """

    def __init__(self, run: Path, history: Path, path: Path, *, command: str = "") -> None:
        super().__init__(run, history)
        self.path = path
        self._command = command
        self._report: Page | None = None
        self._is_on_disk = False

    @property
    def page(self) -> Path | None:
        """The page that was written; ``None`` if none was."""
        return self.path if self._is_on_disk else None

    def show(self, status: str, *, reload_seconds: float | None = None) -> None:
        """Writes the figures that were drawn last.

        Args:
            status: what the page says of the run.
            reload_seconds: after which an open page loads itself again; ``None`` for one that stays as it is.
        """
        if self._report is None:
            return
        notes = [f"{status} Drawn {self.draw_time} at {self.progress}.", *self._notes()]
        page = dataclasses.replace(self._report, notes=notes, reload_seconds=reload_seconds)
        try:
            if self._is_on_disk and not self.path.parent.is_dir():
                raise FileNotFoundError(f"the folder of the page, '{self.path.parent}', was removed")
            write_page(self.path, page)
            self._is_on_disk = True
        except OSError as error:
            self.trouble = one_sentence(error)

    def _draw(self, records: Sequence[TargetRecord]) -> None:
        verdicts = self._reader.checked(read_verdicts)
        title, summary = run_name(self.run.resolve()), read_summary(self.run)
        self._report = report_page(title, list(records), summary, command=self._command, verdicts=verdicts)
