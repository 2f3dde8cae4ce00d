"""Matrices on disk: arrays, list columns of Parquet, tensors of safetensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

Array = np.ndarray[Any, Any]


class Matrix:
    """A matrix on disk."""

    rows: int
    dim: int
    has_ids = False

    def ids(self) -> list[str] | None:
        """Those of the file, if it has any."""
        return None

    def chunks(self, chunk_size: int) -> Iterator[Array]:
        """In order."""
        raise NotImplementedError


class ArrayMatrix(Matrix):
    """An array, maybe mapped."""

    def __init__(self, array: Array, ids: list[str] | None = None) -> None:
        if ids is not None and len(ids) != len(array):
            raise ValueError(f"expected an id for each of {len(array)} rows, got {len(ids)} ids")
        self.array, self._ids, self.has_ids = array, ids, ids is not None
        self.rows, self.dim = array.shape

    def ids(self) -> list[str] | None:
        """Those given."""
        return self._ids

    def chunks(self, chunk_size: int) -> Iterator[Array]:
        """Views of the array."""
        for start in range(0, self.rows, chunk_size):
            yield self.array[start : start + chunk_size]


class ParquetMatrix(Matrix):
    """A list column."""

    def __init__(self, file: Path, parquet: pq.ParquetFile, column: str, id_column: str | None) -> None:
        self.file, self.column, self.id_column, self.has_ids = file, column, id_column, id_column is not None
        self.rows = parquet.metadata.num_rows
        first = next(parquet.iter_batches(batch_size=1, columns=[column]), None)
        if first is not None and len(first) and not first.column(0)[0].is_valid:
            raise ValueError(f"{file}, row 0: expected numbers in '{column}', got nothing; leave such rows out")
        self.dim = len(first.column(0)[0]) if first is not None and len(first) else 0

    def ids(self) -> list[str] | None:
        """Of the id column."""
        if self.id_column is None:
            return None
        ids = pq.read_table(self.file, columns=[self.id_column]).column(0).to_pylist()
        if None in ids:
            raise ValueError(
                f"{self.file}, row {ids.index(None)}: expected an id in '{self.id_column}', got nothing; fill it in"
            )
        return [str(value) for value in ids]

    def chunks(self, chunk_size: int) -> Iterator[Array]:
        """Of the list column, one batch of rows each."""
        first_row = 0
        for batch in pq.ParquetFile(self.file).iter_batches(batch_size=chunk_size, columns=[self.column]):
            lists = batch.column(0)
            values = lists.flatten()
            if lists.null_count or values.null_count or len(values) != len(lists) * self.dim:
                place = first_row + next(
                    (row for row, vector in enumerate(lists) if not vector.is_valid or len(vector) != self.dim), 0
                )
                raise ValueError(
                    f"{self.file}, row {place}: expected {self.dim} numbers in '{self.column}' as in the first row, "
                    "got another number of them or nothing"
                )
            yield values.to_numpy(zero_copy_only=False).reshape(len(lists), self.dim)
            first_row += len(lists)


class SafetensorsMatrix(Matrix):
    """A tensor of a safetensors file."""

    def __init__(self, file: Path, name: str, rows: int, dim: int) -> None:
        self.file, self.name, self.rows, self.dim = file, name, rows, dim

    def chunks(self, chunk_size: int) -> Iterator[Array]:
        """Of the tensor, in float32 unless it is float64."""
        from safetensors import safe_open

        with safe_open(str(self.file), framework="pt") as tensors:
            tensor = tensors.get_slice(self.name)
            for start in range(0, self.rows, chunk_size):
                chunk = tensor[start : start + chunk_size]
                yield (chunk if chunk.dtype == torch.float64 else chunk.float()).numpy()
