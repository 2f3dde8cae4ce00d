"""The page of a run that goes on: drawn from its history, written again whenever something is to be said on it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path

from lightning_normdyn.cli.reports import read_summary
from lightning_normdyn.cli.run_folder import read_words
from lightning_normdyn.cli.user_errors import one_sentence
from lightning_normdyn.history.alert_log import read_verdicts
from lightning_normdyn.history.run_reader import RunReader
from lightning_normdyn.history.run_record import RunRecord
from lightning_normdyn.report import DrawingError
from lightning_normdyn.report.kit.page import Page, write_page
from lightning_normdyn.report.run.page import other_runs, read_records, report_page, run_name
from lightning_normdyn.report.run.target_record import TargetRecord

_MOST_DAMAGED = 5


class LivePage:
    """A report that is drawn again and again; where that fails, the last good one stays, with a sentence that says why.

    Args:
        run: the run's folder.
        history: the history in it that is shown.
        path: of the page.
        command: that makes it, for its last line.

    Attributes:
        trouble: why the last attempt to draw or to write failed, in one sentence; empty if it did not.
        damaged: what is wrong with the parts of the history that are left out, a sentence each.
        last_step: the latest step of any target.
        end_step: the step at which training is to end, as far as that is known.
        redraws: how often figures were drawn.
    """

    def __init__(self, run: Path, history: Path, path: Path, *, command: str = "") -> None:
        self.run, self.history, self.path = run, history, path
        self.trouble = ""
        self.damaged: list[str] = []
        self.last_step = self.end_step = self.redraws = 0
        self._command = command
        self._reader: RunReader | None = None
        self._report: Page | None = None
        self._time = ""
        self._is_on_disk = False

    @property
    def neighbours(self) -> list[str]:
        """A sentence that names the other runs in the folder; none where this one is alone."""
        try:
            return other_runs(RunRecord.read(self.history))
        except (OSError, ValueError):
            return []

    @property
    def is_on_disk(self) -> bool:
        """Whether a page was written."""
        return self._is_on_disk

    @property
    def progress(self) -> str:
        """The latest step, in words, of how many."""
        if self.last_step < self.end_step:
            return f"step {self.last_step:,} of {self.end_step:,}"
        return f"step {self.last_step:,}" if self.last_step else "no step yet"

    def draw(self) -> None:
        """Draws the figures of what is on disk now; the page is written by :meth:`write`."""
        try:
            reader = self._open_reader()
            records = read_records(reader, read_words(self.run))
            title = run_name(self.run.resolve())
            verdicts = reader.checked(read_verdicts)
            summary = read_summary(self.run)
            self._report = report_page(title, records, summary, command=self._command, verdicts=verdicts)
        except (DrawingError, ValueError, OSError) as error:
            self.trouble = one_sentence(error)
            return
        self.trouble, self._time = "", time.strftime("%Y-%m-%d %H:%M:%S")
        self.damaged = list(reader.damaged)
        self.redraws += 1
        self._note_steps(records)

    def write(self, status: str, *, reload_seconds: float | None = None) -> None:
        """Writes the figures that were drawn last.

        Args:
            status: what the page says of the run.
            reload_seconds: after which an open page loads itself again; ``None`` for one that stays as it is.
        """
        if self._report is None:
            return
        notes = [f"{status} Drawn {self._time} at {self.progress}.", *self._notes()]
        page = dataclasses.replace(self._report, notes=notes, reload_seconds=reload_seconds)
        try:
            if self._is_on_disk and not self.path.parent.is_dir():
                raise FileNotFoundError(f"the folder of the page, '{self.path.parent}', was removed")
            write_page(self.path, page)
            self._is_on_disk = True
        except OSError as error:
            self.trouble = one_sentence(error)

    def _open_reader(self) -> RunReader:
        if self._reader is None:
            self._reader = RunReader(RunRecord.read(self.history))
        else:
            self._reader.refresh()
        return self._reader

    def _note_steps(self, records: Iterable[TargetRecord]) -> None:
        self.last_step = max((record.last_step for record in records), default=0)
        self.end_step = max((record.end_step for record in records), default=0)

    def _notes(self) -> list[str]:
        notes = [f"Not redrawn since: {self.trouble}."] if self.trouble else []
        notes += [f"Left out: {damage}." for damage in self.damaged[:_MOST_DAMAGED]]
        further_count = len(self.damaged) - _MOST_DAMAGED
        return [*notes, f"Left out: {further_count} damaged parts more."] if further_count > 0 else notes
