"""Who writes a history, and whether that run has ended: the small files ``run`` and ``ended`` beside the targets."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import NamedTuple

from lightning_normdyn.atomic_file import write_atomically

_RUN, _END = "run", "ended"
_TEXT = re.compile(r"(\d+)-(\d+)(?:@(.*))?")


class RunMark(NamedTuple):
    """The writer of a history.

    Attributes:
        process: its number on its machine.
        trainer: tells the runs of a process apart.
        host: its machine; empty where an earlier version left the mark.
    """

    process: int
    trainer: int
    host: str = ""

    @classmethod
    def here(cls, trainer: int) -> RunMark:
        """The mark of a run of this process."""
        return cls(os.getpid(), trainer, platform.node())

    @classmethod
    def read(cls, root: Path) -> RunMark | None:
        """The run that wrote a history last; ``None`` if the folder is no history.

        Raises:
            OSError: if the mark is there and cannot be read.
        """
        file = root / _RUN
        match = _TEXT.fullmatch(file.read_text(encoding="utf-8", errors="replace") if file.is_file() else "")
        return match and cls(int(match[1]), int(match[2]), match[3] or "")

    def write(self, root: Path) -> None:
        """Marks a history as this run's, which goes on.

        Raises:
            OSError: if the folder cannot be written.
        """
        (root / _END).unlink(missing_ok=True)
        write_atomically(root / _RUN, f"{self.process}-{self.trainer}@{self.host}".encode())

    @property
    def is_alive(self) -> bool:
        """Whether this machine has a process of that number."""
        if os.name == "nt":
            return False  # there the question itself would end the process
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return True

    @property
    def is_gone(self) -> bool:
        """Whether the process is known to have ended: it was one of this machine, and is not there."""
        return os.name != "nt" and self.host in ("", platform.node()) and not self.is_alive


def mark_end(root: Path) -> None:
    """Says that a history is complete; silent where it cannot be written."""
    try:
        if (root / _RUN).is_file():
            write_atomically(root / _END, b"")
    except OSError:
        return


def has_ended(root: Path) -> bool:
    """Whether the run said that its history is complete."""
    return (root / _END).is_file()
