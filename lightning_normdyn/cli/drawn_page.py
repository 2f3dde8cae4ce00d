"""The page that a command draws last: one that cannot be drawn takes nothing from what is saved and printed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lightning_normdyn.report import DrawingError


class DrawnPage(NamedTuple):
    """A page, or why there is none.

    Attributes:
        path: of the file; ``None`` if it could not be drawn.
        error: what went wrong.
    """

    path: Path | None = None
    error: DrawingError | None = None


def draw_page(write: Callable[[], Path]) -> DrawnPage:
    """Draws a page after all else was saved, and holds back what goes wrong until all else is printed.

    Args:
        write: draws, writes, and says where.

    Raises:
        OSError: if the page cannot be written.

    Example:
        >>> draw_page(lambda: Path("report.html")).path.name
        'report.html'
    """
    try:
        return DrawnPage(write())
    except DrawingError as error:
        return DrawnPage(error=error)
