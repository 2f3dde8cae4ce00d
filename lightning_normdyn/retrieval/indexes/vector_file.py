"""Plain files of vectors: npy, safetensors and Parquet."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.passwords import without_passwords
from lightning_normdyn.retrieval.indexes.id_file import are_rows, check_lines, check_place, id_file, read_ids, write_ids
from lightning_normdyn.retrieval.indexes.staged_path import StagedPath, check_staged_place, local_place
from lightning_normdyn.retrieval.indexes.writer import (
    Contents,
    Destination,
    IndexTarget,
    Metric,
    SearchResult,
    check_index,
    stored_dtype,
)
from lightning_normdyn.retrieval.search.top_k import exact_top_k

_ROWS_PER_READ = 16_384
_SAFETENSORS_NAMES = {"float32": "F32", "float16": "F16"}
_PARQUET_TYPES = {"float32": pa.float32(), "float16": pa.float16()}


class _VectorFile:
    """A file of vectors, written a chunk at a time.

    Args:
        destination: ``out`` is the file.
    """

    suffix: str
    approximate = False

    def __init__(self, destination: Destination) -> None:
        check_index(destination.index, ["flat"], target=self.suffix[1:])
        self.file, self.destination = local_place(destination.out, target=self.suffix[1:]), destination
        if self.file.suffix != self.suffix:
            raise ValueError(
                f"out: expected a file that ends in {self.suffix}, got '{without_passwords(str(self.file))}'"
            )
        check_staged_place(self.file, overwrite=destination.overwrite)
        self._output: StagedPath | None = None
        self._metric: Metric = "inner_product"

    def open(self, contents: Contents) -> None:
        """Starts the file beside its place."""
        self._check_ids(contents.ids)
        self._metric = contents.metric
        self._output = StagedPath(self.file, overwrite=self.destination.overwrite)
        self._start(self._output.path, contents)

    def add(self, ids: Sequence[str], vectors: Tensor) -> None:
        """Appends them."""
        self._append(ids, vectors.to(stored_dtype(self.destination.dtype)).numpy())

    def close(self) -> None:
        """Moves the file into place."""
        assert self._output is not None
        self._end()
        self._output.publish()

    def discard(self) -> None:
        """Removes the unfinished file."""
        if self._output is not None:
            with suppress(OSError):  # a disk that is full is what the error was about
                self._end()
            self._output.discard()

    def search(self, queries: Tensor, k: int) -> SearchResult:
        """Reads the file again and searches all of it by its metric, in float32 as indexes do."""
        file = EmbeddingFile(self.file)
        documents = (_vectors_for_metric(chunk, self._metric) for chunk in file.chunks(_ROWS_PER_READ))
        vectors = F.pad(queries, (0, 1), value=-0.5) if self._metric == "euclidean" else queries
        result = exact_top_k(vectors, documents, k)
        ids = self._ids(file)
        return SearchResult([[ids[row] for row in rows] for rows in result.indices.tolist()], result.scores.tolist())

    def _check_ids(self, ids: Sequence[str]) -> None:
        """Refuses ids that cannot be written."""

    def _ids(self, file: EmbeddingFile) -> list[str]:
        return file.ids

    def _start(self, file: Path, contents: Contents) -> None:
        raise NotImplementedError

    def _append(self, ids: Sequence[str], rows: np.ndarray[Any, Any]) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError


def _vectors_for_metric(documents: Tensor, metric: Metric) -> Tensor:
    """Documents whose inner products have the order of the metric."""
    if metric == "euclidean":  # |q - d|² = |q|² - 2 (<q, d> - |d|² / 2)
        return torch.cat([documents, documents.square().sum(1, keepdim=True)], 1)
    return F.normalize(documents) if metric == "cosine" else documents


class _FlatBinaryFile(_VectorFile):
    """A header and then the numbers; ids that are not the numbers of rows go into a file beside it."""

    _stream: BinaryIO | None = None

    def _check_ids(self, ids: Sequence[str]) -> None:
        has_id_file = not are_rows(ids)
        check_place(self.file, has_id_file=has_id_file, overwrite=self.destination.overwrite)
        if has_id_file:
            check_lines(ids)

    def _ids(self, file: EmbeddingFile) -> list[str]:
        ids_path = id_file(self.file)
        return read_ids(ids_path) if ids_path.exists() else file.ids

    def _start(self, file: Path, contents: Contents) -> None:
        if not are_rows(contents.ids):
            write_ids(id_file(file), contents.ids)
        self._stream = file.open("wb")
        self._stream.write(self._header((len(contents.ids), contents.dim)))

    def _append(self, ids: Sequence[str], rows: np.ndarray[Any, Any]) -> None:
        assert self._stream is not None
        self._stream.write(np.ascontiguousarray(rows).astype(f"<f{rows.itemsize}", copy=False).data)

    def _end(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def _header(self, shape: tuple[int, int]) -> bytes:
        raise NotImplementedError


class NpyFile(_FlatBinaryFile):
    """A ``.npy`` file."""

    suffix = ".npy"

    def _header(self, shape: tuple[int, int]) -> bytes:
        kind = "<f4" if self.destination.dtype == "float32" else "<f2"
        text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
        # Numbers start at a multiple of 64 bytes, so that the file can be mapped.
        padding = -(len(text) + 11) % 64
        line = (text + " " * padding + "\n").encode("latin1")
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line


class SafetensorsFile(_FlatBinaryFile):
    """A ``.safetensors`` file with the tensor ``embeddings``."""

    suffix = ".safetensors"

    def _header(self, shape: tuple[int, int]) -> bytes:
        width = 4 if self.destination.dtype == "float32" else 2
        entry = {
            "dtype": _SAFETENSORS_NAMES[self.destination.dtype],
            "shape": list(shape),
            "data_offsets": [0, shape[0] * shape[1] * width],
        }
        text = json.dumps({"embeddings": entry}).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text


class ParquetFile(_VectorFile):
    """A ``.parquet`` file with the columns ``id`` and ``embedding``."""

    suffix = ".parquet"
    _writer: pq.ParquetWriter | None = None

    def _start(self, file: Path, contents: Contents) -> None:
        numbers = pa.list_(_PARQUET_TYPES[self.destination.dtype], contents.dim)
        self._schema = pa.schema([("id", pa.string()), ("embedding", numbers)])
        # Numbers of trained vectors hardly repeat: a dictionary of them costs time and saves nothing.
        self._writer = pq.ParquetWriter(file, self._schema, use_dictionary=False, compression="zstd")

    def _append(self, ids: Sequence[str], rows: np.ndarray[Any, Any]) -> None:
        assert self._writer is not None
        column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
        self._writer.write_table(pa.table([pa.array(ids, pa.string()), column], schema=self._schema))

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()


TARGETS = {
    "npy": IndexTarget(NpyFile, "(vectors @ query).argsort()[::-1]"),
    "parquet": IndexTarget(ParquetFile, "inner products of the column embedding with the query"),
    "safetensors": IndexTarget(SafetensorsFile, "(vectors @ query).argsort(descending=True)"),
}
