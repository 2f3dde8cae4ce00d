"""Plain files of vectors: npy, safetensors and Parquet."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.retrieval.indexes.beside import Beside
from lightning_normdyn.retrieval.indexes.id_file import are_rows, check_lines, check_place, id_file, read_ids, write_ids
from lightning_normdyn.retrieval.indexes.writer import Contents, Destination, Found, Metric, check_index, stored_dtype
from lightning_normdyn.retrieval.search.top_k import exact_top_k

_READ = 16_384
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
        self.file, self.destination = Path(destination.out), destination
        if self.file.suffix != self.suffix:
            raise ValueError(f"out: expected a file that ends in {self.suffix}, got '{self.file}'")
        self._beside: Beside | None = None
        self._metric: Metric = "inner_product"

    def open(self, contents: Contents) -> None:
        """Starts the file beside its place."""
        self._check_ids(contents.ids)
        self._metric = contents.metric
        self._beside = Beside(self.file, overwrite=self.destination.overwrite)
        self._start(self._beside.path, contents)

    def add(self, ids: Sequence[str], vectors: Tensor) -> None:
        """Appends them."""
        self._append(ids, vectors.to(stored_dtype(self.destination.dtype)).numpy())

    def close(self) -> None:
        """Moves the file into place."""
        assert self._beside is not None
        self._end()
        self._beside.publish()

    def discard(self) -> None:
        """Removes the unfinished file."""
        if self._beside is not None:
            self._end()
            self._beside.discard()

    def search(self, queries: Tensor, k: int) -> Found:
        """Reads the file again and searches all of it by its metric, in float32 as indexes do."""
        opened = EmbeddingFile(self.file)
        documents = (_compared(chunk, self._metric) for chunk in opened.chunks(_READ))
        asked = F.pad(queries, (0, 1), value=-0.5) if self._metric == "euclidean" else queries
        found = exact_top_k(asked, documents, k)
        ids = self._ids(opened)
        return Found([[ids[row] for row in rows] for rows in found.indices.tolist()], found.scores.tolist())

    def _check_ids(self, ids: Sequence[str]) -> None:
        """Refuses ids that cannot be written."""

    def _ids(self, opened: EmbeddingFile) -> list[str]:
        return opened.ids

    def _start(self, file: Path, contents: Contents) -> None:
        raise NotImplementedError

    def _append(self, ids: Sequence[str], rows: np.ndarray[Any, Any]) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError


def _compared(documents: Tensor, metric: Metric) -> Tensor:
    """Documents whose inner products have the order of the metric."""
    if metric == "euclidean":  # |q - d|² = |q|² - 2 (<q, d> - |d|² / 2)
        return torch.cat([documents, documents.square().sum(1, keepdim=True)], 1)
    return F.normalize(documents) if metric == "cosine" else documents


class _BareFile(_VectorFile):
    """A header and then the numbers; ids that are not the numbers of rows go into a file beside it."""

    _opened: BinaryIO | None = None

    def _check_ids(self, ids: Sequence[str]) -> None:
        needed = not are_rows(ids)
        check_place(self.file, needed=needed, overwrite=self.destination.overwrite)
        if needed:
            check_lines(ids)

    def _ids(self, opened: EmbeddingFile) -> list[str]:
        beside = id_file(self.file)
        return read_ids(beside) if beside.exists() else opened.ids

    def _start(self, file: Path, contents: Contents) -> None:
        if not are_rows(contents.ids):
            write_ids(id_file(file), contents.ids)
        self._opened = file.open("wb")
        self._opened.write(self._header((len(contents.ids), contents.dim)))

    def _append(self, ids: Sequence[str], rows: np.ndarray[Any, Any]) -> None:
        assert self._opened is not None
        self._opened.write(np.ascontiguousarray(rows).astype(f"<f{rows.itemsize}", copy=False).data)

    def _end(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def _header(self, shape: tuple[int, int]) -> bytes:
        raise NotImplementedError


class NpyFile(_BareFile):
    """A ``.npy`` file."""

    suffix = ".npy"

    def _header(self, shape: tuple[int, int]) -> bytes:
        kind = "<f4" if self.destination.dtype == "float32" else "<f2"
        text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
        # Numbers start at a multiple of 64 bytes, so that the file can be mapped.
        padding = -(len(text) + 11) % 64
        line = (text + " " * padding + "\n").encode("latin1")
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line


class SafetensorsFile(_BareFile):
    """A ``.safetensors`` file with the tensor ``embeddings``."""

    suffix = ".safetensors"

    def _header(self, shape: tuple[int, int]) -> bytes:
        width = 4 if self.destination.dtype == "float32" else 2
        about = {
            "dtype": _SAFETENSORS_NAMES[self.destination.dtype],
            "shape": list(shape),
            "data_offsets": [0, shape[0] * shape[1] * width],
        }
        text = json.dumps({"embeddings": about}).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text


class ParquetFile(_VectorFile):
    """A ``.parquet`` file with the columns ``id`` and ``embedding``."""

    suffix = ".parquet"
    _opened: pq.ParquetWriter | None = None

    def _start(self, file: Path, contents: Contents) -> None:
        numbers = pa.list_(_PARQUET_TYPES[self.destination.dtype], contents.dim)
        self._schema = pa.schema([("id", pa.string()), ("embedding", numbers)])
        # Numbers of trained vectors hardly repeat: a dictionary of them costs time and saves nothing.
        self._opened = pq.ParquetWriter(file, self._schema, use_dictionary=False, compression="zstd")

    def _append(self, ids: Sequence[str], rows: np.ndarray[Any, Any]) -> None:
        assert self._opened is not None
        column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
        self._opened.write_table(pa.table([pa.array(ids, pa.string()), column], schema=self._schema))

    def _end(self) -> None:
        if self._opened is not None:
            self._opened.close()
