"""What is said while the disk of a history cannot be written."""

from __future__ import annotations

from pathlib import Path

from lightning_normdyn.caution import caution


class Outage:
    """Shared by all that one run writes: says once that it cannot be written, and once what became of it.

    Rows wait in memory meanwhile and are tried again, so that a moment without space costs nothing.

    Attributes:
        is_on: whether the last attempt to write failed.
        lost_rows: rows that were given up, since too many waited.
    """

    def __init__(self) -> None:
        self.is_on = False
        self.lost_rows = 0
        self._folder = Path()

    def report(self, folder: Path, error: Exception) -> None:
        """Notes that an attempt failed.

        Args:
            folder: that could not be written.
            error: why.
        """
        if not self.is_on:
            self.is_on, self._folder = True, folder
            caution(
                f"normdyn history: cannot write to '{folder}' ({_reason(error)}); training goes on, and what is to be "
                "saved waits in memory and is tried again. Free space there or make the folder writable.",
                stacklevel=3,
            )

    def recover(self) -> None:
        """Notes that writing works; says so if it did not before."""
        if self.is_on:
            self.is_on = False
            loss = f"{self.lost_rows:,} rows were lost" if self.lost_rows else "nothing was lost"
            caution(f"normdyn history: '{self._folder}' can be written again; {loss}", stacklevel=3)
            self.lost_rows = 0

    def conclude(self, waiting_rows: int) -> None:
        """Says what was lost for good.

        Args:
            waiting_rows: rows that could not be written up to the end.
        """
        lost_rows = self.lost_rows + waiting_rows
        if self.is_on and lost_rows:
            caution(
                f"normdyn history: {lost_rows:,} rows could not be written to '{self._folder}' to the end and are lost",
                stacklevel=3,
            )
            self.lost_rows = 0


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
