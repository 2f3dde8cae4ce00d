"""Layouts of ratings: MovieLens' own, Amazon's tables without names, RecBole's atomic files, SASRec's pairs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from lightning_normdyn.datasets.problems import MalformedFileError
from lightning_normdyn.datasets.reading.folder import find_file, require_folder
from lightning_normdyn.datasets.reading.lines import File, read_lines
from lightning_normdyn.datasets.reading.rows import Row, read_number, read_rows

_NAMES = (
    ("user", "userid", "user_id", "reviewerid", "uid"),
    ("item", "itemid", "item_id", "movieid", "movie_id", "asin", "parent_asin", "iid"),
    ("rating", "overall", "stars"),
    ("timestamp", "time", "unixreviewtime", "date", "reviewtime"),
)
_AMAZON_ITEM = re.compile(r"[B0-9][0-9A-Z]{9}")
_AMAZON_USER = re.compile(r"A[0-9A-Z]{11,20}")
_DATE_FORMATS = ("%m %d, %Y", "%Y/%m/%d", "%Y/%m/%d %H:%M:%S")


class RatingLayout(NamedTuple):
    """How a file of ratings, and the file of titles beside it, are written.

    Attributes:
        ratings: name or pattern of the file of ratings.
        titles: of the file of titles.
        delimiter: of ratings; a space stands for any white space.
        titles_delimiter: of titles.
        titles_encoding: GroupLens wrote its older titles in Latin-1.
        header: whether first rows name columns.
    """

    ratings: str
    titles: str
    delimiter: str
    titles_delimiter: str
    titles_encoding: str
    header: bool


class Columns(NamedTuple):
    """Places of the columns of a row; ``None`` where there is none.

    Attributes:
        places: of user, item, rating and time.
        width: columns of a row.
    """

    places: Sequence[int | None]
    width: int


_LAYOUTS = (
    RatingLayout("u.data", "u.item", "\t", "|", "latin-1", False),
    RatingLayout("ratings.dat", "movies.dat", "::", "::", "latin-1", False),
    RatingLayout("ratings.csv", "movies.csv", ",", ",", "utf-8", True),
    RatingLayout("ratings.tsv", "movies.tsv", "\t", "\t", "utf-8", True),
)
# Tried in turn where none of the above is there.
_PATTERNS = (
    RatingLayout("*.inter", "*.item", "\t", "\t", "utf-8", True),
    RatingLayout("ratings*.csv", "movies.csv", ",", ",", "utf-8", True),
    RatingLayout("*.csv", "movies.csv", ",", ",", "utf-8", True),
    RatingLayout("*.txt", "movies.txt", " ", "\t", "utf-8", False),
)


def find_ratings(folder: File) -> tuple[RatingLayout, Path]:
    """Finds the one file of ratings in a folder, and how it is written.

    Raises:
        MalformedFileError: if there is none, or several.
    """
    root = require_folder(folder)
    matches = [(layout, file) for layout in _LAYOUTS if (file := find_file(root, layout.ratings))]
    for layout in _PATTERNS if not matches else ():
        files = sorted((*root.glob(layout.ratings), *root.glob(f"{layout.ratings}.gz")))
        matches = [(layout, file) for file in files if file.stat().st_size]
        if matches:
            break
    if len(matches) != 1:
        came = " and ".join(file.name for _, file in matches) or "none"
        expected = f"one file of {', '.join(layout.ratings for layout in (*_LAYOUTS, *_PATTERNS))}"
        raise MalformedFileError(folder, None, expected, came)
    layout, file = matches[0]
    first = next(read_lines(file), None)
    if layout.delimiter == "::" and first is not None and "::" not in first.text and "\t" in first.text:
        layout = layout._replace(delimiter="\t")
    return layout, file


def rating_columns(file: Path, layout: RatingLayout) -> Columns:
    """Finds the columns: by the names of the first row, or in the order user, item, rating, time.

    A table whose first row is one of ratings has no names (Amazon's); its user and item are told apart by how Amazon
    writes them, user first in its sets of 2014 and item first in those of 2018.

    Raises:
        MalformedFileError: if the first row names columns and lacks a user or an item, or the file is empty.
    """
    first = next(read_rows(file, delimiter=layout.delimiter), None) if layout.delimiter != " " else _words(file)
    if layout.header:
        if first is None:
            raise MalformedFileError(file, 1, "a row that names the columns", "an empty file")
        if not has_no_names(layout, first):
            return Columns(_named(file, first), len(first.cells))
    if first is None:
        return Columns((0, 1, 2, 3), 4)
    width = len(first.cells)
    order = (1, 0) if _AMAZON_ITEM.fullmatch(first.cells[0]) and _AMAZON_USER.fullmatch(first.cells[1]) else (0, 1)
    if layout.delimiter == " ":
        if not 2 <= width <= 4:
            expected = "a user and an item on each line, and a rating and a time if there are any"
            raise MalformedFileError(file, first.line, expected, f"{width} columns", "write a user and an item a line")
        return Columns((*order, 2 if width > 2 else None, 3 if width > 3 else None), width)
    return Columns((*order, 2, 3), 4)


def has_no_names(layout: RatingLayout, first: Row) -> bool:
    """Whether a table that may name its columns begins with a rating."""
    return layout.delimiter == "," and len(first.cells) == 4 and all(_is_number(cell) for cell in first.cells[2:])


def read_time(file: Path, line: int, text: str) -> float:
    """Takes a time: seconds or another number, or a date, in UTC where it names no zone.

    Example:
        >>> read_time(Path("a.csv"), 2, "1970-01-02"), read_time(Path("a.csv"), 2, "09 13, 2009")
        (86400.0, 1252800000.0)
    """
    if _is_number(text):
        return read_number(file, line, "a timestamp", text)
    moment = _moment(text.strip())
    if moment is None:
        raise MalformedFileError(
            file,
            line,
            "a number as a timestamp",
            repr(text),
            "write seconds, or dates as 2014-03-21 or 2014-03-21 09:30:00",
        )
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text.removesuffix("Z") + "+00:00" * text.endswith("Z"))
    except ValueError:
        pass
    moments = (_by_format(text, form) for form in _DATE_FORMATS)
    return next((moment for moment in moments if moment is not None), None)


def _by_format(text: str, form: str) -> datetime | None:
    try:
        return datetime.strptime(text, form)
    except ValueError:
        return None


def _words(file: Path) -> Row | None:
    first = next(read_lines(file), None)
    return None if first is None else Row(first.number, first.text.split())


def _named(file: Path, header: Row) -> list[int | None]:
    """Places of the columns by their names; RecBole's have a type behind a colon."""
    cells = [cell.strip().lower().partition(":")[0] for cell in header.cells]
    places = [next((cells.index(name) for name in names if name in cells), None) for names in _NAMES]
    for place, names in zip(places[:2], _NAMES, strict=False):
        if place is None:
            raise MalformedFileError(
                file, header.line, f"a column '{names[0]}'", f"the columns {list(header.cells)}", "name it so"
            )
    return places


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
