"""The lines of a log in the order of targets, steps and keys, one for each of the three."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class LogLines(NamedTuple):
    """What was read of a log.

    Attributes:
        table: the lines; a column that holds nothing is not there.
        places: of each target where its lines begin and how many there are.
    """

    table: pa.Table
    places: Mapping[str, tuple[int, int]]

    def of_target(self, name: str, schema: pa.Schema) -> pa.Table:
        """The lines of a target.

        Args:
            name: of the target.
            schema: the columns that are wanted; those that are not there are null.
        """
        return with_columns(self.table.slice(*self.places.get(name, (0, 0))), schema)


def with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns of a schema; those that it does not have are null."""
    missing = {field.type for field in schema if field.name not in table.schema.names}
    nulls = {kind: pa.chunked_array([pa.nulls(len(table), kind)]) for kind in missing}  # shared by all of that type
    columns = [
        table.column(field.name).cast(field.type) if field.name in table.schema.names else nulls[field.type]
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def in_order(tables: list[pa.Table], schema: pa.Schema, key: str) -> LogLines:
    """Sorts lines and merges those of one target, step and key: of each column the last value that was written.

    Two monitors of a run each write columns of their own.

    Args:
        tables: the lines as they were written, with some of the columns; emptied, so that what is copied can go.
        schema: all columns, ``target`` and ``step`` among them.
        key: the column that tells the lines of a step apart; empty to leave them as they were written.
    """
    columns = {
        field.name: _column(tables, field) for field in schema if any(field.name in t.schema.names for t in tables)
    }
    rows = sum(map(len, tables))
    tables.clear()
    if not rows:
        return LogLines(schema.empty_table(), {})
    if not key:
        return LogLines(pa.table(columns), {})
    names, ranks = _ranked(columns["target"])
    places, order, is_first = _order(names, ranks, columns["step"].to_numpy(), _key(columns[key]))
    for name in tuple(columns):  # one after another, so that the history lies in memory once and not twice
        columns[name] = _arranged(columns.pop(name), order, is_first)
    return LogLines(pa.table({field.name: columns[field.name] for field in schema if field.name in columns}), places)


def _column(tables: list[pa.Table], field: pa.Field) -> pa.ChunkedArray:
    chunks: list[pa.Array] = []
    for table in tables:
        if field.name in table.schema.names:
            chunks += table.column(field.name).chunks
        else:
            chunks.append(pa.nulls(len(table), field.type))
    column = pa.chunked_array(chunks, field.type)
    return column.unify_dictionaries() if pa.types.is_dictionary(field.type) else column


def _order(
    names: list[str], ranks: NDArray[np.integer], steps: NDArray[np.integer], keys: NDArray[np.integer]
) -> tuple[dict[str, tuple[int, int]], NDArray[np.int64] | None, NDArray[np.bool_] | None]:
    """Where the lines of each target are to lie, their order, and which are the first of equals.

    ``None`` stands for an order that they have already, and where no two are equal.
    """
    columns, order = [ranks, steps, keys], None
    if not _is_sorted(columns):
        order = np.lexsort(columns[::-1])
        columns = [column[order] for column in columns]
    is_first = np.ones(len(ranks), bool)
    is_first[1:] = columns[0][1:] != columns[0][:-1]
    for column in columns[1:]:
        is_first[1:] |= column[1:] != column[:-1]
    bounds = np.searchsorted(columns[0][is_first], np.arange(len(names) + 1))
    spans = zip(names, itertools.pairwise(bounds.tolist()), strict=True)
    places = {name: (start, end - start) for name, (start, end) in spans if end > start}
    return places, order, None if is_first.all() else is_first


def _is_sorted(columns: list[NDArray[np.integer]]) -> bool:
    is_less = np.zeros(len(columns[0]) - 1, bool)
    for column in columns[::-1]:
        is_less = (column[1:] < column[:-1]) | ((column[1:] == column[:-1]) & is_less)
    return not is_less.any()


def _arranged(
    column: pa.ChunkedArray, order: NDArray[np.int64] | None, is_first: NDArray[np.bool_] | None
) -> pa.ChunkedArray:
    """A column in order; of each group of equal lines the last value that is not null."""
    if is_first is None:
        return column if order is None else column.take(pa.array(order))
    groups = np.cumsum(is_first) - 1
    order = np.arange(len(is_first)) if order is None else order
    has_value = column.is_valid().to_numpy()[order]
    lines = np.full(groups[-1] + 1, -1)
    lines[groups[has_value]] = order[has_value]
    return column.take(pa.array(lines, pa.int64(), mask=lines < 0))


def _key(column: pa.ChunkedArray) -> NDArray[np.integer]:
    numbers: NDArray[np.integer] = _ranked(column)[1] if pa.types.is_string(column.type) else column.to_numpy()
    return numbers


def _ranked(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.integer]]:
    """The texts of a column in alphabetical order, and of each line which of them it has."""
    texts, codes = coded(column)
    order = sorted(range(len(texts)), key=texts.__getitem__)
    ranks = np.empty(len(texts), np.int32)
    ranks[order] = np.arange(len(texts))
    return [texts[place] for place in order], ranks[codes]


def coded(column: pa.ChunkedArray) -> tuple[list[str], NDArray[Any]]:
    """The texts that occur in a column, and of each line which of them it has."""
    encoded = column.unify_dictionaries() if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    if not encoded.num_chunks:
        return [], np.empty(0, np.int32)
    codes = [chunk.indices.to_numpy(zero_copy_only=False) for chunk in encoded.chunks]
    return encoded.chunk(0).dictionary.to_pylist(), np.concatenate(codes)
