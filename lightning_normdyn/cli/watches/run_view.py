"""What a run that goes on is shown as: read from its history, shown again whenever something is to be said on it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from lightning_normdyn.cli.run_folder import read_words
from lightning_normdyn.cli.user_errors import one_sentence
from lightning_normdyn.history.run_reader import RunReader
from lightning_normdyn.history.run_record import RunRecord
from lightning_normdyn.report import DrawingError
from lightning_normdyn.report.run.page import read_records
from lightning_normdyn.report.run.target_record import TargetRecord

_MOST_DAMAGED = 5


class RunView(ABC):
    """Shows a run again and again; where that fails, what was shown last stays, with a sentence that says why.

    Args:
        run: the run's folder.
        history: the history in it that is shown.

    Attributes:
        trouble: why the last attempt to draw or to show failed, in one sentence; empty if it did not.
        damaged: what is wrong with the parts of the history that are left out, a sentence each.
        last_step: the latest step of any target.
        end_step: the step at which training is to end, as far as that is known.
        redraws: how often the history was drawn.
        draw_time: when it last was, in words.
    """

    def __init__(self, run: Path, history: Path) -> None:
        self.run, self.history = run, history
        self.trouble = ""
        self.damaged: list[str] = []
        self.last_step = self.end_step = self.redraws = 0
        self.draw_time = ""
        self._reader = RunReader(RunRecord(history, ""))

    @property
    def page(self) -> Path | None:
        """The page that was written; ``None`` if none was."""
        return None

    @property
    def progress(self) -> str:
        """The latest step, in words, of how many."""
        if self.last_step < self.end_step:
            return f"step {self.last_step:,} of {self.end_step:,}"
        return f"step {self.last_step:,}" if self.last_step else "no step yet"

    def draw(self) -> None:
        """Draws what is on disk now; it is shown by :meth:`show`."""
        try:
            self._reader.refresh()
            records = read_records(self._reader, read_words(self.run))
            if not records:
                raise FileNotFoundError(f"run: '{self.history}' holds no target; was it removed?")
            self._draw(records)
        except (DrawingError, ValueError, OSError) as error:
            self.trouble = one_sentence(error)
            return
        self.trouble, self.draw_time = "", time.strftime("%Y-%m-%d %H:%M:%S")
        self.damaged = list(self._reader.damaged)
        self.redraws += 1
        self.last_step = max((record.last_step for record in records), default=0)
        self.end_step = max((record.end_step for record in records), default=0)

    @abstractmethod
    def show(self, status: str, *, reload_seconds: float | None = None) -> None:
        """Shows what was drawn last.

        Args:
            status: what is said of the run.
            reload_seconds: after which it is to be shown again; ``None`` if it stays as it is.
        """

    @abstractmethod
    def _draw(self, records: Sequence[TargetRecord]) -> None:
        """Draws the history.

        Args:
            records: all targets.

        Raises:
            ValueError: if it cannot be drawn.
            OSError: if a file cannot be read.
        """

    def _notes(self) -> list[str]:
        """What of the run is not shown, and why."""
        notes = [f"Not redrawn since: {self.trouble}."] if self.trouble else []
        notes += [f"Left out: {damage}." for damage in self.damaged[:_MOST_DAMAGED]]
        further_count = len(self.damaged) - _MOST_DAMAGED
        return [*notes, f"Left out: {further_count} damaged parts more."] if further_count > 0 else notes
