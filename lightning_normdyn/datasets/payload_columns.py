"""Columns of Parquet that go along with embeddings: a collection's payload, a table's other columns."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from lightning_normdyn.datasets.embedding_matrix import ParquetMatrix, ParquetShard, row_groups_of
from lightning_normdyn.nearest_word import nearest

ALL_COLUMNS = "all"
"""Stands for every column but those of vectors and ids."""

_RESERVED = ("id", "embedding", "norm")
_BATCH = 4096
_types = pa.types
_PLAIN: tuple[Callable[[pa.DataType], bool], ...] = (
    _types.is_null, _types.is_boolean, _types.is_integer, _types.is_floating, _types.is_string, _types.is_large_string,
    _types.is_timestamp, _types.is_date, _types.is_decimal,
)  # fmt: skip


class PayloadColumns:
    """Columns of the shards that hold embeddings, read along with them, some rows at a time.

    Args:
        matrix: of the embeddings.
        names: of the columns; ``("all",)`` for every one but those of vectors and ids.

    Raises:
        ValueError: if there is no such column, it holds what has no place beside vectors, or its name is taken there.

    Attributes:
        schema: of the columns as they are read.
    """

    def __init__(self, matrix: ParquetMatrix, names: Sequence[str]) -> None:
        self._shards = matrix.shards
        first = self._shards[0]
        with first.one_sentence():
            stored = first.open().schema_arrow
        beside = [name for name in stored.names if name not in (matrix.column, matrix.id_column)]
        if tuple(names) == (ALL_COLUMNS,) and ALL_COLUMNS not in beside:
            names = beside
        for name in names:
            _check(name, stored, beside, place=str(first.place))
        self.schema = pa.schema([pa.field(name, _plain_type(stored.field(name).type)) for name in dict.fromkeys(names)])
        self._row = 0
        self._batches: Iterator[pa.Table] = iter(())

    def read(self, rows: range) -> pa.Table:
        """Of these rows, which are read fastest in order.

        Raises:
            ValueError: if a shard has no such column, or one of another type.
        """
        if rows.start != self._row or rows.start == 0:
            self._row, self._batches = rows.start, self._from(rows.start)
        pieces, missing = [self.schema.empty_table()], len(rows)
        while missing:
            table = next(self._batches)
            pieces.append(table.slice(0, missing))
            if table.num_rows > missing:
                self._batches = _chained(table.slice(missing), self._batches)
            missing -= pieces[-1].num_rows
        self._row = rows.stop
        return pa.concat_tables(pieces)

    def _from(self, row: int) -> Iterator[pa.Table]:
        first_row = 0
        for shard in self._shards:
            start = max(0, row - first_row)
            if start < shard.rows:
                with shard.one_sentence():
                    yield from self._of_shard(shard, start)
            first_row += shard.rows

    def _of_shard(self, shard: ParquetShard, start: int) -> Iterator[pa.Table]:
        parquet = shard.open()
        missing = [name for name in self.schema.names if name not in parquet.schema_arrow.names]
        if missing:
            raise ValueError(
                f"{shard.place}: expected the column '{missing[0]}' as in {self._shards[0].place}, got none; write all "
                "shards alike, or leave it out of the payload"
            )
        groups, row = row_groups_of(parquet, range(start, shard.rows))
        for batch in parquet.iter_batches(batch_size=_BATCH, row_groups=groups, columns=self.schema.names):
            lead = min(len(batch), max(0, start - row))
            row += len(batch)
            if lead < len(batch):
                yield self._as_first(pa.Table.from_batches([batch.slice(lead)]), shard)

    def _as_first(self, table: pa.Table, shard: ParquetShard) -> pa.Table:
        try:
            return table.select(self.schema.names).cast(self.schema)
        except (pa.ArrowException, ValueError) as error:
            raise ValueError(
                f"{shard.place}: expected columns of the types in {self._shards[0].place}, got others "
                f"({' '.join(str(error).split())}); write all shards alike"
            ) from error


def _chained(first: pa.Table, rest: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield first
    yield from rest


def _check(name: str, stored: pa.Schema, beside: Sequence[str], *, place: str) -> None:
    if name not in beside:
        reason = "holds the vectors or the ids" if name in stored.names else "is not there"
        raise ValueError(
            f"payload: expected columns beside vectors and ids, {', '.join(beside) or 'of which there are none'}, got "
            f"'{name}', which {reason} in {place}{nearest(name, tuple(beside))}"
        )
    if name in _RESERVED:
        raise ValueError(f"payload: expected another name than '{name}', which the export itself uses; rename it")
    if not _is_plain(stored.field(name).type):
        raise ValueError(
            f"payload: expected numbers, texts, times, or lists and structures of them, got '{name}' of type "
            f"{stored.field(name).type}; name the columns to carry without it"
        )


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if _types.is_dictionary(kind) else kind


def _is_plain(kind: pa.DataType) -> bool:
    kind = _plain_type(kind)
    if _types.is_struct(kind):
        return all(_is_plain(kind.field(place).type) for place in range(kind.num_fields))
    if _types.is_list(kind) or _types.is_large_list(kind) or _types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    return any(is_kind(kind) for is_kind in _PLAIN)


def json_value(value: Any) -> Any:
    """A value of a column as JSON has it: times in ISO 8601, NaN and infinities as nothing, decimals as text.

    Args:
        value: of Python, as pyarrow gives it.

    Example:
        >>> json_value({"day": datetime.date(2026, 11, 30), "scores": [1.5, float("nan")]})
        {'day': '2026-11-30', 'scores': [1.5, None]}
    """
    if isinstance(value, dict):
        return {name: json_value(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [json_value(entry) for entry in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
