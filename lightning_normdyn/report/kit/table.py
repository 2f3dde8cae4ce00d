"""One table of a page: columns, rows, caption, and a frame that scrolls sideways on a small screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from markupsafe import Markup

from lightning_normdyn.report.kit.page import render


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        heading: in its head; empty for a first column whose cells speak for themselves.
        note: small, beneath the heading.
        kind: how cells look: ``number`` to the right, ``main`` the same in bold, ``word`` a word that is cut where it
            does not fit, ``text`` to the left.
    """

    heading: str
    note: str = ""
    kind: Literal["number", "main", "word", "text"] = "number"


class Cell(NamedTuple):
    """A cell with a small line beneath its text."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table, which stands in a template as ``{{ table }}``.

    Attributes:
        name: an HTML id that nothing else of the page has.
        caption: what it shows.
        columns: its head; the first one names the rows. Without any heading no head is drawn.
        rows: as many cells as there are columns; what is no ``Cell`` is text.
        note: a sentence beneath it.
        style: a class of the style sheet; ``wide`` takes the page's whole width.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str | Cell]]
    note: str = ""
    style: str = ""

    def __html__(self) -> Markup:
        """The table in its frame as HTML."""
        has_head = any(column.heading for column in self.columns)
        rows = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]
        lines = [list(zip(self.columns, row, strict=True)) for row in rows]
        return render("table.html.j2", table=self, has_head=has_head, lines=lines)


def table(
    name: str, caption: str, headings: Sequence[str], rows: Sequence[Sequence[str | Cell]], *, note: str = ""
) -> Table:
    """A table of plain text whose first column names the rows and whose other columns are numbers.

    Args:
        name: an HTML id that nothing else of the page has.
        caption: what it shows.
        headings: of the columns.
        rows: as many words as there are columns.
        note: a sentence beneath it.
    """
    return Table(name, caption, [Column(heading) for heading in headings], rows, note)
