"""What numbers are of: the data, the command, the date and the version that made them."""

from __future__ import annotations

import datetime
from typing import NamedTuple

from lightning_normdyn._version import __version__


class Origin(NamedTuple):
    """Where numbers and a page of them come from, as its last line says.

    Attributes:
        data: what was measured: a data set, a file, a folder.
        command: that made it, as one would type it.
        date: of the page, as ``2026-11-29``; today if empty.
        version: of this package.
    """

    data: str = ""
    command: str = ""
    date: str = ""
    version: str = __version__

    @property
    def day(self) -> str:
        """The date, today's if there is none."""
        return self.date or datetime.date.today().isoformat()

    def dated(self) -> Origin:
        """The same with today's date where there is none."""
        return self._replace(date=self.day)

    @property
    def day_and_data(self) -> str:
        """What a figure says below itself.

        Example:
            >>> Origin(data="scifact", date="2026-11-29").day_and_data
            '2026-11-29 · scifact'
        """
        return " · ".join([self.day, *([self.data] if self.data else [])])

    @property
    def sentence(self) -> str:
        """All of it, in a sentence.

        Example:
            >>> Origin("scifact", "normdyn grid --config retrieval.yaml", "2026-11-29", "0.1").sentence
            'Made on 2026-11-29 with lightning_normdyn 0.1, from scifact, by normdyn grid --config retrieval.yaml.'
        """
        data = f", from {self.data}" if self.data else ""
        command = f", by {self.command}" if self.command else ""
        return f"Made on {self.day} with lightning_normdyn {self.version}{data}{command}."
