"""Ratings in every layout that GroupLens published (Harper and Konstan, 2015), and in those of other owners."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from lightning_normdyn.core.object_checks import check_path
from lightning_normdyn.datasets.formats.rating_layouts import (
    RatingLayout,
    find_ratings,
    has_no_names,
    rating_columns,
    read_time,
)
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.folder import find_file
from lightning_normdyn.datasets.reading.lines import File, read_lines
from lightning_normdyn.datasets.reading.rows import Row, check_width, read_number, read_rows
from lightning_normdyn.datasets.records import Interactions


def read_movielens(folder: File, *, rating_column: bool = True) -> Interactions:
    """Reads ``u.data``, ``ratings.dat``, ``ratings.csv`` or ``ratings.tsv``, and titles beside it; plain or ``.gz``.

    Where none of those is there: RecBole's atomic file (``*.inter``), Amazon's table (``ratings_Beauty.csv`` and the
    like, without names), or SASRec's ``*.txt`` with a user and an item on each line, in the order of time. Times are
    numbers or dates. ``ratings.dat`` may be parted by tabs.

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
    layout, file = find_ratings(folder)
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


def _read(file: Path, layout: RatingLayout, rating_column: bool) -> Iterator[_Rating]:
    (user, item, rating, time), width = rating_columns(file, layout)
    assert user is not None
    assert item is not None
    for number, row in enumerate(_rating_rows(file, layout)):
        check_width(file, row, width)
        ids = row.cells[user].strip(), row.cells[item].strip()
        if not all(ids):
            raise MalformedFileError(file, row.line, "a user and an item", f"an empty cell in {row.cells}")
        yield _Rating(
            *ids,
            read_number(file, row.line, "a rating", row.cells[rating]) if rating_column and rating is not None else 1.0,
            float(number) if time is None else read_time(file, row.line, row.cells[time]),
        )


def _rating_rows(file: Path, layout: RatingLayout) -> Iterator[Row]:
    """Rows of ratings, without one that names the columns."""
    if layout.delimiter == " ":
        yield from (Row(number, text.split()) for number, text in read_lines(file))
        return
    for number, row in enumerate(read_rows(file, delimiter=layout.delimiter)):
        if number or not layout.header or has_no_names(layout, row):
            yield row


def _titles(folder: File, layout: RatingLayout, items: Mapping[str, int], problems: Problems) -> Sequence[str]:
    if "*" in layout.titles:
        return ()  # RecBole's table of items has columns of any meaning
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
