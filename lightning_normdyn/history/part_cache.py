"""Reads a history that still grows again and again: each part once, damaged ones left out by name."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from lightning_normdyn.history.log import part_files, read_part


class PartCache:
    """Stands in for :func:`~lightning_normdyn.history.log.read_parts` where a log is read many times.

    Example:
        >>> import tempfile
        >>> from lightning_normdyn.history.log import ParquetLog
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
            folder: the folder that a :class:`~lightning_normdyn.history.log.ParquetLog` wrote.
            schema: the columns to read.

        Raises:
            OSError: if a part cannot be opened.
        """
        earlier = self._parts.get(folder, {})
        parts = {file: _read(file, schema, earlier.get(file)) for file in part_files(folder)}
        self._parts[folder] = parts
        return pa.concat_tables([schema.empty_table(), *(part.table for part in parts.values() if part.table)])


class _Part(NamedTuple):
    """A part as it was read; without a table if it is damaged."""

    identity: tuple[int, int, int]
    table: pa.Table | None
    damage: str = ""


def _read(file: Path, schema: pa.Schema, earlier: _Part | None) -> _Part:
    status = file.stat()
    identity = (status.st_ino, status.st_size, status.st_mtime_ns)
    if earlier is not None and earlier.identity == identity:
        return earlier
    try:
        return _Part(identity, read_part(file, schema))
    except ValueError as error:
        return _Part(identity, None, str(error))
