"""Tables of covariates: numbers and group names of items, by id."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.lines import File, read_lines
from lightning_normdyn.datasets.reading.rows import Row, check_width, read_rows

_UNKNOWN = ("", "na", "nan", "null", "none", "-")


class Covariates(NamedTuple):
    """Columns of a table by name, an entry for each item.

    Attributes:
        numbers: float64 ``[n]``; NaN where unknown.
        groups: names of groups; ``None`` where unknown.
        id_column: name of the first column, whose cells were taken for ids.
    """

    numbers: dict[str, Tensor]
    groups: dict[str, list[str | None]]
    id_column: str = ""


def read_covariates(file: File, items: Mapping[str, int], problems: Problems) -> Covariates:
    r"""Reads a table whose first row names the columns and whose first column is the item's id.

    A column is of numbers if all its cells are, but for those that are empty or ``NA``; else it is of groups. Cells are
    parted by tabs, or by commas where the first line has no tab.

    Args:
        file: plain or ``.gz``.
        items: id of each item to its place.
        problems: where rows of unknown ids, which are left out, and items without a row are counted.

    Raises:
        MalformedFileError: if a row has another number of cells than the first, an item has two, a column is named
            twice or not at all, a number among numbers is not finite, or no row is about a known item.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> file = Path(tempfile.mkdtemp()) / "covariates.tsv"
        >>> _ = file.write_text("id\tdepth\tsource\na\t3\tnews\nb\tNA\tweb\n")
        >>> covariates = read_covariates(file, {"a": 0, "b": 1}, Problems(file))
        >>> covariates.numbers["depth"].tolist(), covariates.groups
        ([3.0, nan], {'source': ['news', 'web']})
    """
    rows = read_rows(file)
    header = next(rows, None)
    if header is None:
        raise MalformedFileError(file, 1, "a row that names the columns", "an empty file")
    names = _checked_names(file, header)
    cells: dict[int, Row] = {}
    for row in rows:
        check_width(file, row, len(header.cells))
        id = row.cells[0].strip()
        if id not in items:
            problems.count("covariates of unknown ids, left out", line=row.line)
        elif items[id] in cells:
            raise MalformedFileError(file, row.line, "one row an id", f"'{id}' again", "keep one of the two")
        else:
            cells[items[id]] = row
    if not cells:
        raise MalformedFileError(
            file, None, "rows of items that have embeddings", "none", "check that the ids are spelled alike"
        )
    for _ in range(len(items) - len(cells)):
        problems.count("items without covariates", line="no row")
    return _typed_columns(file, names, cells, len(items))._replace(id_column=header.cells[0].strip())


def read_labels(file: File, ids: Sequence[str], *, column: str | None = None) -> list[str | None]:
    r"""Reads the class of each item: id and label, or one label a line in the order of the items.

    Args:
        file: plain or ``.gz``; rows of cells parted by tabs, or by commas where the first line has no tab. A first row
            whose first cell is no id names the columns. Rows of other ids are passed over.
        ids: of the items, distinct.
        column: name of the labels' column, where there are several.

    Returns:
        The label of each; ``None`` where there is none, or an empty one.

    Raises:
        MalformedFileError: if rows differ in width, an item has two labels, the column cannot be told, or no row is
            about a known item.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> file = Path(tempfile.mkdtemp()) / "labels.tsv"
        >>> _ = file.write_text("id\tclass\nb\tnews\na\tweb\n")
        >>> read_labels(file, ["a", "b", "c"])
        ['web', 'news', None]
    """
    rows = list(read_rows(file))
    if not rows:
        raise MalformedFileError(file, 1, "a label for each item", "an empty file")
    if all(len(row.cells) == 1 for row in rows) and column is None:
        return _labels_in_order(file, rows, len(ids))
    places = {id: place for place, id in enumerate(ids)}
    header = rows.pop(0) if rows[0].cells[0].strip() not in places else None
    position = _label_position(file, header, len(rows[0].cells) if rows else 0, column)
    labels: list[str | None] = [None] * len(ids)
    lines: dict[str, int] = {}
    for row in rows:
        check_width(file, row, len((header or rows[0]).cells))
        id = row.cells[0].strip()
        if id in places and lines.setdefault(id, row.line) != row.line:
            raise MalformedFileError(file, row.line, "one label an item", f"'{id}' again", "keep one of the two")
        if id in places:
            labels[places[id]] = row.cells[position].strip() or None
    if not lines:
        raise MalformedFileError(
            file, None, "rows of items that have embeddings", "none", "check that the ids are spelled alike"
        )
    return labels


def _labels_in_order(file: File, rows: Sequence[Row], items: int) -> list[str | None]:
    """Labels by line: an empty one is that of an item without a label, but for those at the end of the file."""
    lines = sum(1 for _ in read_lines(file, keep_blank=True))
    labels: list[str | None] = [None] * max(rows[-1].line, min(lines, items))
    for row in rows:
        labels[row.line - 1] = row.cells[0].strip()
    if len(labels) != items:
        raise MalformedFileError(
            file,
            None,
            f"a label a line for {items} items",
            f"{len(labels)} lines",
            "leave out a line that names the column, or write id, tab, label",
        )
    return labels


def _label_position(file: File, header: Row | None, width: int, column: str | None) -> int:
    """The place of the labels in a row."""
    names = [] if header is None else [cell.strip() for cell in header.cells]
    if column is not None:
        if column in names[1:]:
            return names.index(column, 1)
        listed = ", ".join(names[1:]) or "no first row that names columns"
        raise MalformedFileError(file, 1, f"a column named '{column}'", listed)
    if max(width, len(names)) != 2:
        listed = ", ".join(names[1:]) or f"{width} columns"
        raise MalformedFileError(file, 1, "an id and one label", listed, "name the labels' with --label-column")
    return 1


def _checked_names(file: File, header: Row) -> list[str]:
    names = [cell.strip() for cell in header.cells[1:]]
    if not names or "" in names or len(set(names)) < len(names):
        raise MalformedFileError(
            file, header.line, "an id and further columns, each with its own name", ", ".join(map(repr, header.cells))
        )
    return names


def _typed_columns(file: File, names: list[str], cells: Mapping[int, Row], items: int) -> Covariates:
    covariates = Covariates({}, {})
    for position, name in enumerate(names, start=1):
        column = {item: row.cells[position].strip() for item, row in cells.items()}
        known_cells = {item: cell for item, cell in column.items() if cell.lower() not in _UNKNOWN}
        numbers = {item: number for item, cell in known_cells.items() if (number := _number(cell)) is not None}
        if len(numbers) == len(known_cells):
            for item, number in numbers.items():
                if not math.isfinite(number):
                    raise MalformedFileError(
                        file,
                        cells[item].line,
                        f"finite numbers in '{name}'",
                        f"'{known_cells[item]}'",
                        "write NA for what is unknown",
                    )
            values = torch.full((items,), math.nan, dtype=torch.float64)
            values[list(numbers)] = torch.tensor(list(numbers.values()), dtype=torch.float64)
            covariates.numbers[name] = values
        else:
            covariates.groups[name] = [known_cells.get(item) for item in range(items)]
    return covariates


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
