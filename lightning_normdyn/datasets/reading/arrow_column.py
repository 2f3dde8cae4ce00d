"""A column of texts or bytes that lies on disk."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import pyarrow as pa
import pyarrow.compute as pc

from lightning_normdyn.atomic_file import atomic_file
from lightning_normdyn.datasets.problems import MalformedFileError

Value = TypeVar("Value", str, bytes)

_BATCH_ROWS = 4096
_BATCH_BYTES = 4 << 20


class ArrowColumn(Sequence[Value], Generic[Value]):
    """One column of an Arrow IPC file, mapped into memory and read where it is touched.

    A pickled column holds its path alone, so that workers of a data loader open the file on their own.

    Args:
        file: as :func:`write_columns` wrote it.
        name: of the column.

    Raises:
        MalformedFileError: if the file is missing, no Arrow file, or lacks the column.
    """

    def __init__(self, file: str | os.PathLike[str], name: str) -> None:
        self.file = Path(file)
        self.name = name
        self._open()

    def _open(self) -> None:
        try:
            # Batches of a mapped file are views of it: opening all of them reads none of the values.
            table = pa.ipc.open_file(pa.memory_map(str(self.file))).read_all()
        except (pa.ArrowInvalid, OSError) as error:
            raise MalformedFileError(self.file, None, "an Arrow IPC file", f"'{error}'", "remove it") from None
        if self.name not in table.column_names:
            raise MalformedFileError(self.file, None, f"a column '{self.name}'", str(table.column_names), "remove it")
        self._chunks: list[Any] = table.column(self.name).chunks
        self._ends = list(accumulate(map(len, self._chunks)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Value: ...
    @overload
    def __getitem__(self, index: slice) -> list[Value]: ...
    def __getitem__(self, index: int | slice) -> Value | list[Value]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"index: expected a place among {len(self)} rows, got {index}")
        chunk = bisect_right(self._ends, position)
        value: Value = self._chunks[chunk][position - self._ends[chunk] + len(self._chunks[chunk])].as_py()
        return value

    def __iter__(self) -> Iterator[Value]:
        for chunk in self._chunks:
            yield from chunk.to_pylist()

    def empty_places(self) -> list[int]:
        """Places of empty values, found without reading any value."""
        places: list[int] = []
        for end, chunk in zip(self._ends, self._chunks, strict=True):
            inside = pc.indices_nonzero(pc.equal(pc.binary_length(chunk), 0))
            places += pc.add(inside.cast(pa.int64()), end - len(chunk)).to_pylist()
        return places

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "name": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def write_columns(
    file: str | os.PathLike[str], rows: Iterable[Sequence[str | bytes]], **kinds: type[str | bytes]
) -> None:
    """Writes rows as an Arrow IPC file, a few MB of them at a time; the file appears when it is whole.

    Args:
        file: where to write; what is there is replaced.
        rows: a value for each column.
        kinds: name of each column to ``str`` or ``bytes``.
    """
    schema = pa.schema(
        [(name, pa.large_string() if kind is str else pa.large_binary()) for name, kind in kinds.items()]
    )
    # Ranks of one training may write the same file at once: each has a temporary one of its own.
    with (
        atomic_file(Path(file)) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for batch in _batches(rows):
            writer.write_batch(pa.record_batch(list(zip(*batch, strict=True)), schema=schema))


def _batches(rows: Iterable[Sequence[str | bytes]]) -> Iterator[list[Sequence[str | bytes]]]:
    batch: list[Sequence[str | bytes]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(map(len, row))
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
