"""An append-only Parquet table that survives a kill at any moment, and how it is read, once or while it grows."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lightning_normdyn.atomic_file import atomic_file
from lightning_normdyn.caution import caution

_PART = "part-{:08d}.parquet"


class Outage:
    """Shared by the logs of one run: the first that cannot write says so, and none tries again."""

    def __init__(self) -> None:
        self.has_occurred = False

    def report(self, folder: Path, error: Exception) -> None:
        """Warns, once, that nothing more will be saved."""
        if not self.has_occurred:
            self.has_occurred = True
            caution(
                f"normdyn history: cannot write to '{folder}' ({error}); training goes on and nothing more of its norm "
                "history is saved. Free space there or point the logger's save_dir at a writable folder.",
                stacklevel=3,
            )


class ParquetLog:
    """Appends column batches to a folder of Parquet parts, each written whole or not at all.

    A part is written beside its final name and moved there in one step, so a reader never meets half a file.
    Rows wait in memory until ``flush_rows`` of them, or ``flush_seconds``, have gathered. A folder that cannot be
    written (read-only, full) is reported once and from then on ignored: observing must never end a training run.

    Args:
        folder: where the parts go; created when the first part is written.
        schema: names and types of the columns.
        flush_rows: rows that make a part.
        flush_seconds: the longest that a row waits in memory while others keep coming.
        outage: shared with the other logs of a run, so that one warning serves them all.

    Example:
        >>> import tempfile, pyarrow as pa
        >>> folder = Path(tempfile.mkdtemp()) / "norms"
        >>> log = ParquetLog(folder, pa.schema([("step", pa.int64()), ("norm", pa.float32())]))
        >>> log.append({"step": [0, 0], "norm": [1.0, 2.0]})
        >>> log.flush()
        >>> read_parts(folder, log.schema).to_pydict()
        {'step': [0, 0], 'norm': [1.0, 2.0]}
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        schema: pa.Schema,
        *,
        flush_rows: int = 65_536,
        flush_seconds: float = 30.0,
        outage: Outage | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.schema = schema
        self.flush_rows = flush_rows
        self.flush_seconds = flush_seconds
        self._outage = outage if outage is not None else Outage()
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._oldest = 0.0

    def append(self, columns: dict[str, Any]) -> None:
        """Adds rows. Columns of the schema that are not named are null.

        Args:
            columns: name to a sequence or numpy array, all of one length.
        """
        if self._outage.has_occurred:
            return
        rows = len(next(iter(columns.values())))
        arrays = [
            pa.array(columns[field.name], field.type) if field.name in columns else _nulls(rows, field.type)
            for field in self.schema
        ]
        if not self._waiting:
            self._oldest = time.monotonic()
        self._waiting.append(pa.RecordBatch.from_arrays(arrays, schema=self.schema))
        self._waiting_rows += rows
        if self._waiting_rows >= self.flush_rows or time.monotonic() - self._oldest > self.flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Writes what waits in memory as one more part."""
        if self._outage.has_occurred or not self._waiting:
            return
        try:
            part = self.folder / _PART.format(_next_number(self.folder))
            # A path with a colon would be taken for an address by pyarrow.
            with atomic_file(part) as temporary, temporary.open("wb") as stream:
                pq.write_table(pa.Table.from_batches(self._waiting, self.schema), stream, compression="zstd")
        except (OSError, pa.ArrowException) as error:
            self._outage.report(self.folder, error)
        self._waiting, self._waiting_rows = [], 0


def read_parts(folder: str | os.PathLike[str], schema: pa.Schema) -> pa.Table:
    """Reads every finished part of a log, oldest first; a folder that does not exist is an empty table.

    Args:
        folder: the folder that a :class:`ParquetLog` wrote.
        schema: the columns to read.
    """
    return pa.concat_tables([schema.empty_table(), *(read_part(part, schema) for part in part_files(folder))])


def part_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The finished parts of a log, oldest first."""
    return sorted(Path(folder).glob("part-*.parquet"))


def read_part(part: Path, schema: pa.Schema) -> pa.Table:
    """Reads one part.

    Args:
        part: its file.
        schema: the columns to read.

    Raises:
        ValueError: if it is damaged; the message names it.
        OSError: if it cannot be opened.
    """
    with part.open("rb") as file:
        try:
            return pq.read_table(file, columns=schema.names).cast(schema)
        except (pa.ArrowException, OSError) as error:  # pages that cannot be unpacked are an OSError
            cause = " ".join(str(error).split())
            raise ValueError(f"history: '{part}' is damaged ({cause}); remove it to read the rest") from error


class PartCache:
    """Stands in for :func:`read_parts` where a log is read many times.

    Example:
        >>> import tempfile
        >>> log = ParquetLog(tempfile.mkdtemp(), pa.schema([("step", pa.int64())]))
        >>> for step in (1, 2):
        ...     log.append({"step": [step]})
        ...     log.flush()
        >>> _ = (log.folder / "part-00000001.parquet").write_bytes(b"torn")
        >>> cache = PartCache()
        >>> cache.read(log.folder, log.schema).to_pydict(), [part.name for part in cache.damaged]
        ({'step': [2]}, ['part-00000001.parquet'])
    """

    def __init__(self) -> None:
        self._parts: dict[Path, dict[Path, _Part]] = {}

    @property
    def damaged(self) -> dict[Path, str]:
        """What is wrong with the parts that were left out when their folder was last read."""
        return {
            file: part.damage for folder in self._parts.values() for file, part in folder.items() if part.table is None
        }

    def read(self, folder: Path, schema: pa.Schema) -> pa.Table:
        """Reads every sound part of a log, oldest first, from the disk those alone that were not read before.

        Args:
            folder: the folder that a :class:`ParquetLog` wrote.
            schema: the columns to read.

        Raises:
            OSError: if a part cannot be opened.
        """
        earlier = self._parts.get(folder, {})
        parts = {file: _read_once(file, schema, earlier.get(file)) for file in part_files(folder)}
        self._parts[folder] = parts
        return pa.concat_tables([schema.empty_table(), *(part.table for part in parts.values() if part.table)])


class _Part(NamedTuple):
    """A part as it was read; without a table if it is damaged."""

    identity: tuple[int, int, int]
    table: pa.Table | None
    damage: str = ""


def _read_once(file: Path, schema: pa.Schema, earlier: _Part | None) -> _Part:
    status = file.stat()
    identity = (status.st_ino, status.st_size, status.st_mtime_ns)
    if earlier is not None and earlier.identity == identity:
        return earlier
    try:
        return _Part(identity, read_part(file, schema))
    except ValueError as error:
        return _Part(identity, None, str(error))


@lru_cache(maxsize=16)
def _nulls(rows: int, kind: pa.DataType) -> pa.Array:
    """An empty column; of most columns of most snapshots there is no value, and arrays are never written to."""
    return pa.nulls(rows, kind)


def _next_number(folder: Path) -> int:
    numbers = [part.stem.removeprefix("part-") for part in part_files(folder)]
    return max((int(number) for number in numbers if number.isdecimal()), default=0) + 1
