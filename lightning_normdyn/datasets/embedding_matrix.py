"""Matrices on disk or behind a URL: arrays, list columns of Parquet in one file or many, tensors of safetensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lightning_normdyn.core.embedding_codes import Precision, decode_embeddings
from lightning_normdyn.datasets.storage_place import StoragePlace

Array = np.ndarray[Any, Any]
PARQUET = ".parquet"
_READ_BYTES = 2**20


class Matrix:
    """A matrix on disk; it can be pickled, and then holds no numbers that lie in a file."""

    rows: int
    dim: int
    has_ids = False

    def ids(self) -> list[str] | None:
        """Those of the file, if it has any."""
        return None

    def blocks(self, rows: range, size: int) -> Iterator[Array]:
        """Of these rows, in order, at most ``size`` of them at a time."""
        raise NotImplementedError


class ArrayMatrix(Matrix):
    """An array."""

    def __init__(self, array: Array, ids: list[str] | None = None) -> None:
        if ids is not None and len(ids) != len(array):
            raise ValueError(f"expected an id for each of {len(array)} rows, got {len(ids)} ids")
        self.array, self._ids, self.has_ids = array, ids, ids is not None
        self.rows, self.dim = array.shape

    def ids(self) -> list[str] | None:
        """Those given."""
        return self._ids

    def blocks(self, rows: range, size: int) -> Iterator[Array]:
        """Views of the array."""
        for start in range(rows.start, rows.stop, size):
            yield self.array[start : min(start + size, rows.stop)]


class MappedMatrix(Matrix):
    """An array that is mapped from a file for each pass.

    Args:
        place: of a ``.npy`` file on this machine.
        shape: rows and numbers of each.
    """

    def __init__(self, place: StoragePlace, shape: tuple[int, int]) -> None:
        self.place = place
        self.rows, self.dim = shape

    def blocks(self, rows: range, size: int) -> Iterator[Array]:
        """Views of the array."""
        return ArrayMatrix(np.load(str(self.place), mmap_mode="r", allow_pickle=False)).blocks(rows, size)


class StreamedMatrix(Matrix):
    """Numbers that follow one another from some byte of a file on, read as they are asked for.

    Args:
        place: of the file.
        start: the first byte.
        shape: rows and numbers of each.
        width: bytes of a number.
        decode: makes numbers of bytes.
    """

    def __init__(
        self, place: StoragePlace, start: int, shape: tuple[int, int], width: int, decode: Callable[[bytes], Array]
    ) -> None:
        self.place, self.start, self.decode = place, start, decode
        self.rows, self.dim = shape
        self._row_bytes = width * self.dim

    def blocks(self, rows: range, size: int) -> Iterator[Array]:
        """Of the rows' bytes."""
        with self.place.open() as stream:
            stream.seek(self.start + rows.start * self._row_bytes)
            for start in range(rows.start, rows.stop, size):
                count = min(size, rows.stop - start)
                content = stream.read(count * self._row_bytes)
                if len(content) < count * self._row_bytes:
                    raise ValueError(f"{self.place}: expected {self.rows} rows, got fewer; write the file again")
                yield self.decode(content).reshape(count, self.dim)


class ParquetShard(NamedTuple):
    """A Parquet file, alone or one of several.

    Attributes:
        place: of the file.
        rows: in it.
    """

    place: StoragePlace
    rows: int

    def open(self) -> pq.ParquetFile:
        """Opens it; a column is read piece by piece, also where all rows are one group."""
        return pq.ParquetFile(self.place.handle(), buffer_size=_READ_BYTES, pre_buffer=False)

    @contextmanager
    def one_sentence(self) -> Iterator[None]:
        """Names the file in what Parquet's reader, or a remote file system, complains about."""
        try:
            with self.place.one_sentence(of_reader=lambda error: type(error) is OSError and error.errno is None):
                yield
        except (OSError, pa.ArrowException) as error:
            if str(self.place) in str(error):
                raise
            raise unreadable(self.place, PARQUET, error) from error


class ParquetMatrix(Matrix):
    """A list column of the shards, one after the other.

    Args:
        shards: one or more, all but a single one with rows.
        column: of the vectors.
        id_column: of the ids, if there is one.
    """

    def __init__(self, shards: Sequence[ParquetShard], column: str, id_column: str | None) -> None:
        self.shards, self.column, self.id_column, self.has_ids = shards, column, id_column, id_column is not None
        self.rows = sum(shard.rows for shard in shards)
        first = next(shards[0].open().iter_batches(batch_size=1, columns=[column]), None)
        if first is not None and len(first) and not first.column(0)[0].is_valid:
            raise ValueError(
                f"{shards[0].place}, row 0: expected numbers in '{column}', got nothing; leave such rows out"
            )
        self.dim = len(first.column(0)[0]) if first is not None and len(first) else 0

    def ids(self) -> list[str] | None:
        """Of the id column."""
        if self.id_column is None:
            return None
        return [id for shard in self.shards for id in self._ids_of(shard, self.id_column)]

    def _ids_of(self, shard: ParquetShard, id_column: str) -> list[str]:
        with shard.one_sentence():
            ids = shard.open().read(columns=[id_column]).column(0).to_pylist()
        if None in ids:
            raise ValueError(
                f"{shard.place}, row {ids.index(None)}: expected an id in '{id_column}', got nothing; fill it in"
            )
        return [str(value) for value in ids]

    def blocks(self, rows: range, size: int) -> Iterator[Array]:
        """Of the list column; a block ends where a shard or a group of its rows does."""
        first_row = 0
        for shard in self.shards:
            local_rows = range(max(0, rows.start - first_row), min(shard.rows, rows.stop - first_row))
            if len(local_rows):
                with shard.one_sentence():
                    yield from self._of_shard(shard, local_rows, size)
            first_row += shard.rows

    def _of_shard(self, shard: ParquetShard, rows: range, size: int) -> Iterator[Array]:
        parquet = shard.open()
        groups, row = row_groups_of(parquet, rows)
        for batch in parquet.iter_batches(batch_size=size, row_groups=groups, columns=[self.column]):
            lead = min(len(batch), max(0, rows.start - row))
            lists = batch.column(0).slice(lead, max(0, min(len(batch), rows.stop - row) - lead))
            if len(lists):
                yield self._numbers(lists, shard.place, row + lead)
            row += len(batch)
            if row >= rows.stop:
                return

    def _numbers(self, lists: Any, place: StoragePlace, first_row: int) -> Array:
        values = lists.flatten()
        if lists.null_count or values.null_count or len(values) != len(lists) * self.dim:
            vectors = enumerate(lists.to_pylist())
            row = first_row + next(
                (row for row, vector in vectors if vector is None or len(vector) != self.dim or None in vector), 0
            )
            raise ValueError(
                f"{place}, row {row}: expected {self.dim} numbers in '{self.column}' as in the first row"
                f"{self._of_first(place)}, got another number of them or nothing"
            )
        array: Array = values.to_numpy(zero_copy_only=False).reshape(len(lists), self.dim)
        return array

    def _of_first(self, place: StoragePlace) -> str:
        return "" if str(place) == str(self.shards[0].place) else f" of {self.shards[0].place}"


def row_groups_of(parquet: pq.ParquetFile, rows: range) -> tuple[list[int], int]:
    """The groups of a file that hold some of these rows, and the number of the first row in them."""
    groups: list[int] = []
    first_row, row = 0, 0
    for number in range(parquet.metadata.num_row_groups):
        end = row + parquet.metadata.row_group(number).num_rows
        if row < rows.stop and end > rows.start:
            first_row = row if not groups else first_row
            groups.append(number)
        row = end
    return groups, first_row


class SafetensorsMatrix(Matrix):
    """A tensor of a safetensors file."""

    def __init__(self, place: StoragePlace, name: str, rows: int, dim: int) -> None:
        self.place, self.name, self.rows, self.dim = place, name, rows, dim

    def blocks(self, rows: range, size: int) -> Iterator[Array]:
        """Of the tensor, in float32 unless it is float64."""
        from safetensors import safe_open

        with safe_open(str(self.place), framework="pt") as tensors:
            tensor = tensors.get_slice(self.name)
            for start in range(rows.start, rows.stop, size):
                block = tensor[start : min(start + size, rows.stop)]
                yield (block if block.dtype == torch.float64 else block.float()).numpy()


class CodeMatrix(Matrix):
    """Codes of 8 bits with the ranges that they were made with, decoded as they are read.

    Args:
        codes: numbers from -128 to 127, or from 0 to 255.
        precision: ``int8`` or ``uint8``.
        ranges: smallest and largest number of each dimension, ``[2, d]``.
    """

    def __init__(self, codes: Matrix, precision: Precision, ranges: Array) -> None:
        self.codes, self.precision, self.ranges = codes, precision, ranges
        self.rows, self.dim, self.has_ids = codes.rows, codes.dim, codes.has_ids

    def ids(self) -> list[str] | None:
        """Those of the codes."""
        return self.codes.ids()

    def blocks(self, rows: range, size: int) -> Iterator[Array]:
        """Embeddings."""
        for block in self.codes.blocks(rows, size):
            yield decode_embeddings(block.astype(self.precision), self.precision, ranges=self.ranges).numpy()


def whole_chunks(blocks: Iterator[Array], size: int) -> Iterator[Array]:
    """Blocks of at most ``size`` rows put together to chunks of ``size``, the last of what is left.

    Example:
        >>> [len(chunk) for chunk in whole_chunks(iter([np.ones((3, 1)), np.ones((2, 1)), np.ones((3, 1))]), 3)]
        [3, 3, 2]
    """
    pending: list[Array] = []
    for block in blocks:
        missing = size - sum(map(len, pending))
        pending.append(block[:missing])
        if len(block) >= missing:
            yield pending[0] if len(pending) == 1 else np.concatenate(pending)
            pending = [block[missing:]] if len(block) > missing else []
    if pending:
        yield np.concatenate(pending)


def unreadable(place: StoragePlace, ending: str, error: Exception) -> ValueError:
    """The error of a file that is not what its ending says."""
    complaint = " ".join(str(error).split()).rstrip(".")
    return ValueError(
        f"{place}: cannot be read as {ending} ({complaint}); it may be cut short or of another kind: write it again"
    )
