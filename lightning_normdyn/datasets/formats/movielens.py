"""MovieLens ratings in every layout that GroupLens published (Harper and Konstan, 2015)."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from lightning_normdyn.core.object_checks import check_path
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.folder import find_file, require_folder
from lightning_normdyn.datasets.reading.lines import File
from lightning_normdyn.datasets.reading.rows import Row, check_width, read_number, read_rows
from lightning_normdyn.datasets.records import Interactions


class _Layout(NamedTuple):
    """How a file of ratings, and the file of titles beside it, are written.

    Attributes:
        ratings: name of the file of ratings.
        titles: of the file of titles.
        delimiter: of ratings.
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


_LAYOUTS = (
    _Layout("u.data", "u.item", "\t", "|", "latin-1", False),
    _Layout("ratings.dat", "movies.dat", "::", "::", "latin-1", False),
    _Layout("ratings.csv", "movies.csv", ",", ",", "utf-8", True),
    _Layout("ratings.tsv", "movies.tsv", "\t", "\t", "utf-8", True),
)
_NAMES = (
    ("user", "userid", "user_id"),
    ("item", "itemid", "item_id", "movieid", "movie_id"),
    ("rating",),
    ("timestamp", "time"),
)


def read_movielens(folder: File, *, rating_column: bool = True) -> Interactions:
    """Reads ``u.data``, ``ratings.dat``, ``ratings.csv`` or ``ratings.tsv``, and titles beside it; plain or ``.gz``.

    Users and items are numbered as they first come in the file of ratings: an item that nobody rated has no number,
    and its title is not used. Rows without a column ``rating`` count as 1, and rows without a column ``timestamp`` as
    ordered in time; rows that repeat a user, an item and a time are kept and reported.

    Args:
        folder: of the files; only one layout of ratings may be there.
        rating_column: whether ratings are read; without, each counts as 1.

    Raises:
        MalformedFileError: if a file is missing or does not hold what it should.
    """
    check_path("folder", folder=folder)
    layout, file = _find(folder)
    problems = Problems(folder)
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    columns = array("q"), array("q"), array("f"), array("d")
    for user, item, rating, time in _read(file, layout, rating_column):
        columns[0].append(users.setdefault(user, len(users)))
        columns[1].append(items.setdefault(item, len(items)))
        columns[2].append(rating)
        columns[3].append(time)
    if not users:
        raise MalformedFileError(file, None, "ratings", "none")
    texts = _titles(folder, layout, items, problems)
    interactions = _sorted(list(users), list(items), columns, texts)
    _count_repeated(interactions, problems)
    problems.report()
    return interactions


class _Rating(NamedTuple):
    user: str
    item: str
    rating: float
    time: float


def _find(folder: File) -> tuple[_Layout, Path]:
    matches = [(layout, file) for layout in _LAYOUTS if (file := find_file(require_folder(folder), layout.ratings))]
    if len(matches) != 1:
        came = " and ".join(file.name for _, file in matches) or "none"
        expected = f"one file of {', '.join(layout.ratings for layout in _LAYOUTS)}"
        raise MalformedFileError(folder, None, expected, came)
    return matches[0]


def _read(file: Path, layout: _Layout, rating_column: bool) -> Iterator[_Rating]:
    rows = read_rows(file, delimiter=layout.delimiter)
    places: list[int | None] = [0, 1, 2, 3]
    width = len(places)
    if layout.header:
        header = next(rows, None)
        if header is None:
            raise MalformedFileError(file, 1, "a row that names the columns", "an empty file")
        places, width = _places(file, header), len(header.cells)
    user, item, rating, time = places
    assert user is not None
    assert item is not None
    for number, row in enumerate(rows):
        check_width(file, row, width)
        ids = row.cells[user].strip(), row.cells[item].strip()
        if not all(ids):
            raise MalformedFileError(file, row.line, "a user and an item", f"an empty cell in {row.cells}")
        yield _Rating(
            *ids,
            read_number(file, row.line, "a rating", row.cells[rating]) if rating_column and rating is not None else 1.0,
            float(number) if time is None else read_number(file, row.line, "a timestamp", row.cells[time]),
        )


def _places(file: Path, header: Row) -> list[int | None]:
    cells = [cell.strip().lower() for cell in header.cells]
    places = [next((cells.index(name) for name in names if name in cells), None) for names in _NAMES]
    for place, names in zip(places[:2], _NAMES, strict=False):
        if place is None:
            raise MalformedFileError(file, header.line, f"a column '{names[0]}'", f"the columns {header.cells}")
    return places


def _titles(folder: File, layout: _Layout, items: Mapping[str, int], problems: Problems) -> Sequence[str]:
    file = find_file(folder, layout.titles)
    if file is None:
        return ()
    texts: dict[int, str] = {}
    width = None
    rows = read_rows(file, delimiter=layout.titles_delimiter, encoding=layout.titles_encoding)
    for place, row in enumerate(rows):
        if width is None:
            width = max(len(row.cells), 2)
        check_width(file, row, width)
        if layout.header and place == 0:
            continue
        number = items.get(row.cells[0].strip())
        if number is None:
            continue
        if number in texts:
            raise MalformedFileError(file, row.line, "an item that occurs once", f"'{row.cells[0]}' again")
        texts[number] = row.cells[1].strip()
    for id, number in items.items():
        if not texts.get(number):
            problems.count("items without a title, kept with an empty one", line=f"item {id}")
    return [texts.get(number, "") for number in range(len(items))]


def _sorted(
    users: list[str],
    items: list[str],
    columns: tuple[array[int], array[int], array[float], array[float]],
    texts: Sequence[str],
) -> Interactions:
    types = torch.int64, torch.int64, torch.float32, torch.float64
    user, item, rating, time = (
        torch.frombuffer(column, dtype=kind) for column, kind in zip(columns, types, strict=True)
    )
    order = time.argsort(stable=True)
    order = order[user[order].argsort(stable=True)]
    return Interactions(users, items, user[order], item[order], rating[order], time[order], texts)


def _count_repeated(interactions: Interactions, problems: Problems) -> None:
    columns = interactions.items, interactions.times, interactions.users
    order = columns[0].argsort()
    for column in columns[1:]:
        order = order[column[order].argsort(stable=True)]
    is_repeat = torch.stack([column[order][1:] == column[order][:-1] for column in columns]).all(0)
    for place in order[1:][is_repeat].tolist():
        user = interactions.user_ids[int(interactions.users[place])]
        item = interactions.item_ids[int(interactions.items[place])]
        problems.count("repeated interactions, kept", line=f"user {user}, item {item}")
