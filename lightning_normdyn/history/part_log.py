"""An append-only table of all targets of a run, in Parquet parts that survive a kill at any moment."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lightning_normdyn.history.outage import Outage
from lightning_normdyn.history.part import Part, part_files, read_part, write_part

TARGET = pa.field("target", pa.dictionary(pa.int32(), pa.string()))
"""The first column of every log."""

_FAN_IN = 16
_LARGEST_MERGE = 32 * 2**20
_MOST_WAITING_BYTES = 256 * 2**20


class _Batch(NamedTuple):
    """Rows of one target that wait in memory."""

    target: str
    rows: int
    columns: dict[str, NDArray[Any]]

    @property
    def bytes(self) -> int:
        return sum(column.nbytes for column in self.columns.values())


class PartLog:
    """Appends rows of many targets to a folder of parts, each written whole or not at all.

    Rows wait in memory until ``flush_rows`` of them, or ``flush_seconds``, have gathered; those of all targets make one
    part. A folder that cannot be written is reported, and tried again with the next rows: observing must never end a
    training run. Sixteen parts are put together to one, and sixteen of those again, so that a run of any length has a
    few dozen.

    Args:
        folder: where the parts go; created when the first part is written.
        schema: names and types of the columns, but for the target's name.
        stretch: of the run, see :class:`~lightning_normdyn.history.part.Part`.
        flush_rows: rows that make a part.
        flush_seconds: the longest that a row waits in memory while others keep coming.
        outage: shared with the other logs of a run, so that one warning serves them all.

    Example:
        >>> import tempfile
        >>> log = PartLog(tempfile.mkdtemp(), pa.schema([("step", pa.int64()), ("norm", pa.float32())]))
        >>> log.append("table", {"step": [0, 0], "norm": [1.0, 2.0]})
        >>> log.flush()
        >>> [read_part(part, log.schema).to_pydict() for part in part_files(log.folder)]
        [{'target': ['table', 'table'], 'step': [0, 0], 'norm': [1.0, 2.0]}]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        schema: pa.Schema,
        *,
        stretch: int = 0,
        flush_rows: int = 65_536,
        flush_seconds: float = 30.0,
        outage: Outage | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.schema = pa.schema([TARGET, *schema])
        self.stretch = stretch
        self.flush_rows = flush_rows
        self.flush_seconds = flush_seconds
        self._outage = outage if outage is not None else Outage()
        self._batches: list[_Batch] = []
        self._new_rows = 0  # since the last attempt to write
        self._attempt_time = time.monotonic()
        self._flushes = 0
        self._damaged_files: set[Path] = set()

    @property
    def waiting_rows(self) -> int:
        """Rows that are not on disk."""
        return sum(batch.rows for batch in self._batches)

    def append(self, target: str, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> None:
        """Adds rows. Columns of the schema that are not named are null.

        Args:
            target: its name.
            columns: name to a sequence or numpy array, all of one length; they are copied.
        """
        arrays = {name: np.array(values, self._dtype(name)) for name, values in columns.items()}
        if not self._batches:
            self._attempt_time = time.monotonic()
        batch = _Batch(target, len(next(iter(arrays.values()))), arrays)
        self._batches.append(batch)
        self._new_rows += batch.rows
        if self._new_rows >= self.flush_rows or time.monotonic() - self._attempt_time > self.flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Writes what waits in memory as one more part; trouble is reported, and the rows wait on."""
        if not self._batches:
            return
        self._new_rows, self._attempt_time = 0, time.monotonic()
        try:
            self._write()
        except (OSError, ValueError, pa.ArrowException) as error:
            self._outage.report(self.folder, error)
            self._forget_oldest()
            return
        self._batches = []
        self._outage.recover()
        self._merge_full_levels()

    def seal(self) -> None:
        """Puts all parts of this stretch together, as far as one file can hold them: it is over."""
        parts = [part for part in self._sound_parts() if part.stretch == self.stretch]
        group: list[Part] = []
        for part in parts:
            if group and (part.first != group[-1].last + 1 or _bytes([*group, part]) > _LARGEST_MERGE):
                self._merge(group)
                group = []
            group.append(part)
        self._merge(group)

    def _dtype(self, name: str) -> Any:
        kind = self.schema.field(name).type
        return object if pa.types.is_string(kind) else kind.to_pandas_dtype()

    def _write(self) -> None:
        if not self._flushes:
            self._flushes = max(
                (part.last for part in part_files(self.folder) if part.stretch == self.stretch), default=0
            )
        number, table = self._flushes + 1, self._table()
        try:
            write_part(self.folder, self.stretch, number, number, table)
        except OSError:
            write_part(self.folder, self.stretch, number, number, table)  # most trouble is over at once
        self._flushes = number

    def _table(self) -> pa.Table:
        total = self.waiting_rows
        numbers = {name: number for number, name in enumerate(dict.fromkeys(batch.target for batch in self._batches))}
        rows = [batch.rows for batch in self._batches]
        codes = np.repeat(np.array([numbers[batch.target] for batch in self._batches], np.int32), rows)
        targets = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(list(numbers), pa.string()))
        columns = [self._column(field, total) for field in list(self.schema)[1:]]
        return pa.Table.from_arrays([targets, *columns], schema=self.schema)

    def _column(self, field: pa.Field, total: int) -> pa.Array:
        if not any(field.name in batch.columns for batch in self._batches):
            return pa.nulls(total, field.type)
        values, missing = np.zeros(total, self._dtype(field.name)), np.ones(total, bool)
        start = 0
        for batch in self._batches:
            if field.name in batch.columns:
                place = slice(start, start + batch.rows)
                values[place], missing[place] = batch.columns[field.name], False
            start += batch.rows
        return pa.array(values, field.type, mask=missing)

    def _forget_oldest(self) -> None:
        """Gives up what waited longest, where the disk stays away for so long that memory would fill up."""
        excess = sum(batch.bytes for batch in self._batches) - _MOST_WAITING_BYTES
        while excess > 0 and self._batches:
            batch = self._batches.pop(0)
            excess -= batch.bytes
            self._outage.lost_rows += batch.rows

    def _sound_parts(self) -> list[Part]:
        return [part for part in part_files(self.folder) if part.file not in self._damaged_files]

    def _merge_full_levels(self) -> None:
        """Puts the last sixteen parts together if they are of one size, and then perhaps those of the next size."""
        while self._flushes % _FAN_IN == 0:
            tail = [part for part in self._sound_parts() if part.stretch == self.stretch][-_FAN_IN:]
            sizes = {part.last - part.first + 1 for part in tail}
            if len(tail) < _FAN_IN or len(sizes) > 1 or _bytes(tail) > _LARGEST_MERGE or not self._merge(tail):
                return

    def _read(self, part: Part) -> pa.Table | None:
        try:
            return read_part(part, self.schema)
        except ValueError:
            self._damaged_files.add(part.file)
            return None

    def _merge(self, parts: Sequence[Part]) -> bool:
        """Puts neighbouring parts together; a damaged one stays as it is, and so do the others then."""
        if len(parts) < 2 or parts[-1].last - parts[0].first + 1 != sum(part.last - part.first + 1 for part in parts):
            return False
        try:
            tables = [table for part in parts if (table := self._read(part)) is not None]
            if len(tables) < len(parts):
                return False
            table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
            write_part(self.folder, parts[0].stretch, parts[0].first, parts[-1].last, table)
            for part in parts:
                part.file.unlink(missing_ok=True)
        except (OSError, ValueError, pa.ArrowException):
            return False  # they are as good as they were
        return True


def _bytes(parts: Sequence[Part]) -> int:
    try:
        return sum(part.file.stat().st_size for part in parts)
    except OSError:
        return _LARGEST_MERGE + 1
