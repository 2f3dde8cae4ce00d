"""Ready embeddings on disk, read a chunk at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

_ID_COLUMNS = ("id", "_id", "ids", "doc_id", "key")
Array = np.ndarray[Any, Any]


class EmbeddingFile:
    """Embeddings of a file: ``.npy``, ``.npz``, ``.parquet`` or ``.safetensors``.

    Nothing but the header is read until chunks are asked for, except from ``.npz``, which numpy reads as a whole. Half
    precision comes out as float32. Ids are those of the file, or numbers of rows where it has none: a string column of
    Parquet called ``id``, ``_id``, ``ids``, ``doc_id`` or ``key``, or an array ``ids`` of an ``.npz``.

    Args:
        file: its path.
        column: the column, array or tensor; needed where the file holds several that could be meant.
        preferred: the one to take where the file has it and no ``column`` is named.

    Raises:
        ValueError: if the file is of another kind, or does not hold one matrix that can be told.
        FileNotFoundError: if there is none.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "vectors.npy"
        >>> np.save(file, np.ones((5, 2), np.float16))
        >>> opened = EmbeddingFile(file)
        >>> opened.rows, opened.dim, [len(chunk) for chunk in opened.chunks(3)]
        (5, 2, [3, 2])
    """

    def __init__(
        self, file: str | os.PathLike[str], *, column: str | None = None, preferred: str | None = None
    ) -> None:
        self.file = Path(file)
        self._preferred = preferred
        if not self.file.is_file():
            raise FileNotFoundError(f"{self.file}: expected a file of embeddings, got none; check the path")
        readers: dict[str, Callable[[str | None], _Matrix]] = {
            ".npy": self._npy,
            ".npz": self._npz,
            ".parquet": self._parquet,
            ".safetensors": self._safetensors,
        }
        if self.file.suffix not in readers:
            raise ValueError(f"{self.file}: expected {', '.join(readers)}, got '{self.file.suffix}'")
        try:
            self._matrix = readers[self.file.suffix](column)
        except (OSError, EOFError, ValueError, BadZipFile, pa.ArrowException) as error:
            if str(self.file) in str(error):
                raise
            raise ValueError(f"{self.file}: cannot be read as {self.file.suffix} ({error})") from error
        self.rows, self.dim = self._matrix.rows, self._matrix.dim
        if self.rows and not self.dim:
            raise ValueError(f"{self.file}: expected vectors of one number or more, got [{self.rows}, 0]; is it whole?")

    def __len__(self) -> int:
        return self.rows

    @property
    def has_ids(self) -> bool:
        """Whether the file itself says what its rows are."""
        return self._matrix.has_ids

    @property
    def ids(self) -> list[str]:
        """One for each row."""
        ids = self._matrix.ids()
        return [str(row) for row in range(self.rows)] if ids is None else ids

    def chunks(self, rows: int = 65_536) -> Iterator[Tensor]:
        """Embeddings in order, float32 ``[at most rows, dim]`` on the CPU; each chunk is the caller's own.

        Raises:
            ValueError: if a row has numbers too large for float32, or all too small for it.
        """
        seen = 0
        for chunk in self._matrix.chunks(rows):
            with np.errstate(over="ignore", under="ignore"):
                single = np.array(chunk, dtype=np.float32)
            if chunk.dtype.kind == "f" and chunk.dtype.itemsize > single.dtype.itemsize:
                self._check_range(chunk, single, seen)
            yield torch.from_numpy(single)
            seen += len(chunk)

    def read(self) -> Tensor:
        """All of them, float32 ``[rows, dim]``."""
        return torch.cat(list(self.chunks())) if self.rows else torch.empty(0, self.dim)

    def _check_range(self, chunk: Array, single: Array, seen: int) -> None:
        """Refuses what float32 made infinite or zero, which would be taken for a broken or an empty vector."""
        lost = (np.isinf(single) & ~np.isinf(chunk)).any(1) | (chunk.any(1) & ~single.any(1))
        if lost.any():
            row = int(lost.argmax())
            largest = float(np.abs(chunk[row]).max())
            raise ValueError(
                f"{self.file}, row {seen + row}: expected numbers in float32's range, got {largest:.3g} as "
                "the largest; scale all rows by one factor"
            )

    def _npy(self, column: str | None) -> _Matrix:
        del column
        return _InMemory(self._two_dimensional(np.load(self.file, mmap_mode="r", allow_pickle=False)))

    def _npz(self, column: str | None) -> _Matrix:
        with np.load(self.file, allow_pickle=False) as archive:
            matrices = [name for name in archive.files if archive[name].ndim == 2]
            name = self._chosen(column, matrices, of="two-dimensional arrays")
            ids = [str(one) for one in archive["ids"]] if "ids" in archive.files else None
            return _InMemory(self._two_dimensional(archive[name]), ids)

    def _parquet(self, column: str | None) -> _Matrix:
        opened = pq.ParquetFile(self.file)
        schema = opened.schema_arrow
        lists = [field.name for field in schema if _is_list(field.type)]
        names = [field.name for field in schema if field.name in _ID_COLUMNS]
        return _Parquet(self.file, opened, self._chosen(column, lists, of="list columns"), (names or [None])[0])

    def _safetensors(self, column: str | None) -> _Matrix:
        if find_spec("safetensors") is None:
            raise ValueError(f"{self.file}: needs safetensors; install with: pip install 'lightning-normdyn[text]'")
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self.file), framework="pt") as opened:
                names = list(opened.keys())
                shapes = {name: opened.get_slice(name).get_shape() for name in names}
        except SafetensorError as error:
            raise ValueError(f"{self.file}: cannot be read as .safetensors ({error})") from error
        matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
        name = self._chosen(column, list(matrices), of="two-dimensional tensors")
        return _Safetensors(self.file, name, *matrices[name])

    def _chosen(self, column: str | None, found: list[str], *, of: str) -> str:
        if column is None and self._preferred in found:
            return str(self._preferred)
        if column is None and len(found) == 1:
            return found[0]
        if column in found:
            return str(column)
        named = f"column {column!r}" if column is not None else "column to be named"
        raise ValueError(f"{self.file}: expected {named} among its {of}, got {', '.join(found) or 'none'}")

    def _two_dimensional(self, array: Array) -> Array:
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise ValueError(f"{self.file}: expected numbers [n, d], got {array.dtype} {list(array.shape)}")
        return array


class _Matrix:
    """A matrix on disk."""

    rows: int
    dim: int
    has_ids = False

    def ids(self) -> list[str] | None:
        """Those of the file, if it has any."""
        return None

    def chunks(self, rows: int) -> Iterator[Array]:
        """In order."""
        raise NotImplementedError


class _InMemory(_Matrix):
    """An array, maybe mapped."""

    def __init__(self, array: Array, ids: list[str] | None = None) -> None:
        if ids is not None and len(ids) != len(array):
            raise ValueError(f"expected an id for each of {len(array)} rows, got {len(ids)} ids")
        self.array, self._ids, self.has_ids = array, ids, ids is not None
        self.rows, self.dim = array.shape

    def ids(self) -> list[str] | None:
        return self._ids

    def chunks(self, rows: int) -> Iterator[Array]:
        for start in range(0, self.rows, rows):
            yield self.array[start : start + rows]


class _Parquet(_Matrix):
    """A list column."""

    def __init__(self, file: Path, opened: pq.ParquetFile, column: str, id_column: str | None) -> None:
        self.file, self.column, self.id_column, self.has_ids = file, column, id_column, id_column is not None
        self.rows = opened.metadata.num_rows
        first = next(opened.iter_batches(batch_size=1, columns=[column]), None)
        if first is not None and len(first) and not first.column(0)[0].is_valid:
            raise ValueError(f"{file}, row 0: expected numbers in '{column}', got nothing; leave such rows out")
        self.dim = len(first.column(0)[0]) if first is not None and len(first) else 0

    def ids(self) -> list[str] | None:
        if self.id_column is None:
            return None
        ids = pq.read_table(self.file, columns=[self.id_column]).column(0).to_pylist()
        if None in ids:
            raise ValueError(
                f"{self.file}, row {ids.index(None)}: expected an id in '{self.id_column}', got nothing; fill it in"
            )
        return [str(one) for one in ids]

    def chunks(self, rows: int) -> Iterator[Array]:
        seen = 0
        for batch in pq.ParquetFile(self.file).iter_batches(batch_size=rows, columns=[self.column]):
            lists = batch.column(0)
            values = lists.flatten()
            if lists.null_count or values.null_count or len(values) != len(lists) * self.dim:
                place = seen + next(
                    (row for row, one in enumerate(lists) if not one.is_valid or len(one) != self.dim), 0
                )
                raise ValueError(
                    f"{self.file}, row {place}: expected {self.dim} numbers in '{self.column}' as in the first row, "
                    "got another number of them or nothing"
                )
            yield values.to_numpy(zero_copy_only=False).reshape(len(lists), self.dim)
            seen += len(lists)


class _Safetensors(_Matrix):
    """A tensor of a safetensors file."""

    def __init__(self, file: Path, name: str, rows: int, dim: int) -> None:
        self.file, self.name, self.rows, self.dim = file, name, rows, dim

    def chunks(self, rows: int) -> Iterator[Array]:
        from safetensors import safe_open

        with safe_open(str(self.file), framework="pt") as opened:
            tensor = opened.get_slice(self.name)
            for start in range(0, self.rows, rows):
                chunk = tensor[start : start + rows]
                yield (chunk if chunk.dtype == torch.float64 else chunk.float()).numpy()


def _is_list(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))
