"""Reads rows of delimited text: TSV without quotes, CSV with quotes, and MovieLens' other delimiters."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lightning_normdyn.datasets.problems import MalformedFileError
from lightning_normdyn.datasets.reading.lines import File, read_lines


class Row(NamedTuple):
    """The cells of a row and the line where it ends."""

    line: int
    cells: Sequence[str]


def read_rows(file: File, *, delimiter: str | None = None, encoding: str = "utf-8") -> Iterator[Row]:
    """Reads the rows of a file; only those parted by commas may quote cells.

    Args:
        file: plain or ``.gz``.
        delimiter: what parts cells; a tab if left out and the first line has one, else a comma.
        encoding: of the text.

    Raises:
        MalformedFileError: while reading, if lines cannot be read or a quote is not closed.
    """
    lines = read_lines(file, encoding=encoding)
    first = next(lines, None)
    if first is None:
        return
    if delimiter is None:
        delimiter = "\t" if "\t" in first.text else ","
    if delimiter == ",":
        yield from _quoted(file, encoding)
        return
    yield Row(first.number, first.text.split(delimiter))
    for number, text in lines:
        yield Row(number, text.split(delimiter))


def read_columns(
    file: File, *columns: str | Sequence[str], delimiter: str | None = None, encoding: str = "utf-8"
) -> Iterator[Row]:
    """Reads some columns of a file whose first row names them.

    Args:
        file: plain or ``.gz``.
        columns: names of the wanted columns, in the order of the result; several names for one are tried in turn.
        delimiter: see :func:`read_rows`.
        encoding: of the text.

    Raises:
        MalformedFileError: while reading, if a column is missing or a row has more or fewer cells than the first.
    """
    rows = read_rows(file, delimiter=delimiter, encoding=encoding)
    header = next(rows, None)
    if header is None:
        raise MalformedFileError(file, 1, "a row that names the columns", "an empty file")
    places = [_place(file, header, (names,) if isinstance(names, str) else names) for names in columns]
    for row in rows:
        check_width(file, row, len(header.cells))
        yield Row(row.line, [row.cells[place] for place in places])


def check_width(file: File, row: Row, width: int) -> None:
    """Refuses a row that has not as many cells as expected."""
    if len(row.cells) != width:
        raise MalformedFileError(
            file,
            row.line,
            f"{width} columns",
            str(len(row.cells)),
            "look for a delimiter or a line break inside a text",
        )


def read_number(file: File, line: int, name: str, text: str) -> float:
    """Takes a cell as a finite number.

    Example:
        >>> read_number("a.tsv", 3, "a score", "0.5")
        0.5
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise MalformedFileError(file, line, f"a number as {name}", repr(text), "check the order of the columns")
    return number


def _place(file: File, header: Row, names: Sequence[str]) -> int:
    cells = [cell.strip().lower() for cell in header.cells]
    for name in names:
        if name.lower() in cells:
            return cells.index(name.lower())
    raise MalformedFileError(
        file, header.line, f"a column named {' or '.join(map(repr, names))}", ", ".join(map(repr, header.cells))
    )


def _quoted(file: File, encoding: str) -> Iterator[Row]:
    """A quoted cell may hold line breaks: the line of a row is then where it ends."""
    number = 1

    def texts() -> Iterator[str]:
        nonlocal number
        for line in read_lines(file, encoding=encoding, keep_blank=True):
            number = line.number
            yield line.text + "\n"

    reader = csv.reader(texts(), strict=True)
    try:
        for cells in reader:
            if not cells or (len(cells) == 1 and not cells[0].strip()):
                continue
            yield Row(number, cells)
    except csv.Error as error:
        raise MalformedFileError(file, number, "comma-separated cells", f"'{error}'", "close every quote") from None
