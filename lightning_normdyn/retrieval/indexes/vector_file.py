"""Plain files of vectors: npy, safetensors and Parquet."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.passwords import without_passwords
from lightning_normdyn.retrieval.indexes.binary_stream import BinaryStream, npy_header
from lightning_normdyn.retrieval.indexes.id_file import (
    are_rows,
    check_lines,
    check_place,
    id_file,
    ids_array,
    norm_file,
    read_ids,
    write_ids,
)
from lightning_normdyn.retrieval.indexes.manifest import (
    METADATA_KEY,
    FirstRows,
    Manifest,
    existing_manifest,
    manifest_file,
)
from lightning_normdyn.retrieval.indexes.search_width import SearchWidth
from lightning_normdyn.retrieval.indexes.staged_path import StagedPath, check_staged_place, local_place
from lightning_normdyn.retrieval.indexes.writer import (
    Contents,
    Destination,
    IndexTarget,
    Metric,
    SearchPlan,
    SearchResult,
    check_index,
    check_vectors_alone,
    stored_dtype,
)
from lightning_normdyn.retrieval.search.top_k import exact_top_k

_ROWS_PER_READ = 16_384
_SYNCED_BYTES = 2**26
_ROWS_PER_PART = 16_384
_SAFETENSORS_NAMES = {"float32": "F32", "float16": "F16"}
_PARQUET_TYPES = {"float32": pa.float32(), "float16": pa.float16()}


class _VectorFile:
    """A file of vectors, written a chunk at a time; one that a kill cut off goes on from the rows on the disk.

    Args:
        destination: ``out`` is the file.
    """

    suffix: str
    approximate = False
    width = SearchWidth()

    def __init__(self, destination: Destination) -> None:
        check_index(destination.index, ["flat"], target=self.suffix[1:])
        check_vectors_alone(destination, target=self.suffix[1:])
        destination.parameters.check((), index="flat", target=self.suffix[1:])
        self.file, self.destination = local_place(destination.out, target=self.suffix[1:]), destination
        if self.file.suffix != self.suffix:
            raise ValueError(
                f"out: expected a file that ends in {self.suffix}, got '{without_passwords(str(self.file))}'"
            )
        self._overwrite = destination.overwrite or destination.append
        check_staged_place(self.file, overwrite=self._overwrite)
        self.existing_ids: list[str] = []
        self.rows_done = 0
        self._output: StagedPath | None = None
        self._manifest = Manifest(1.0)
        self._first_rows = FirstRows()
        self._rows = 0

    def open(self, contents: Contents) -> None:
        """Starts the file beside its place."""
        is_extended = self.destination.append and self.file.exists()
        self.existing_ids = self._ids(EmbeddingFile(self.file)) if is_extended else []
        if is_extended:
            contents.manifest.check_same(existing_manifest(self.file))
        known_ids = set(self.existing_ids)
        ids = [*self.existing_ids, *(new_id for new_id in contents.ids if new_id not in known_ids)]
        manifest = contents.manifest._replace(rows=len(ids), metric=contents.metric)
        contents = contents._replace(ids=ids, manifest=manifest)
        self._check_ids(contents)
        self._manifest = contents.manifest
        self._output = StagedPath(self.file, overwrite=self._overwrite, resume_key=contents.resume_key)
        self.rows_done = self._output.rows_done
        if self.rows_done:
            self._first_rows = FirstRows.noted(self._output.state["checksum"])
        self._rows = self.rows_done or len(self.existing_ids)
        self._start(self._output.path, contents)
        if is_extended and not self.rows_done:
            self._copy(contents)
            self._first_rows.add(next(EmbeddingFile(self.file).chunks(_ROWS_PER_READ)))

    def add(
        self, ids: Sequence[str], vectors: Tensor, norms: Tensor | None = None, payload: pa.Table | None = None
    ) -> None:
        """Appends them."""
        del payload  # refused from the start
        assert self._output is not None
        stored = vectors.to(stored_dtype(self.destination.dtype))
        self._first_rows.add(stored)
        self._append(ids, stored.numpy(), None if norms is None else norms.numpy())
        self._rows += len(ids)
        if self._sync():
            self._output.checkpoint(self._rows, checksum=self._first_rows.checksum)

    def close(self) -> None:
        """Moves the file into place."""
        assert self._output is not None
        self._end()
        self._finish(self._output.path)
        self._manifest = self._manifest._replace(checksum=self._first_rows.checksum)
        self._manifest.write(manifest_file(self._output.path))
        self._output.publish()
        if not self._manifest.keep_norm:
            norm_file(self.file).unlink(missing_ok=True)  # of the file that was replaced

    def discard(self) -> None:
        """Removes the unfinished file."""
        if self._output is not None:
            with suppress(OSError):  # a disk that is full is what the error was about
                self._end()
            self._output.discard()

    def finish(self, findings: Mapping[str, Any]) -> None:
        """Writes what was measured into the manifest."""
        self._manifest.write(manifest_file(self.file), findings)

    def search(self, queries: Tensor, k: int) -> SearchResult:
        """Reads the file again and searches all of it by its metric, in float32 as indexes do."""
        file = EmbeddingFile(self.file)
        metric, weights = cast("Metric", self._manifest.metric), self._weights()
        documents = (
            _vectors_for_metric(chunk, metric)
            if weights is None
            else F.normalize(chunk) * weights[start : start + len(chunk)].unsqueeze(1)
            for start, chunk in zip(count(0, _ROWS_PER_READ), file.chunks(_ROWS_PER_READ))
        )
        vectors = F.pad(queries, (0, 1), value=-0.5) if metric == "euclidean" else queries
        result = exact_top_k(vectors, documents, k)
        ids = self._ids(file)
        return SearchResult([[ids[row] for row in rows] for rows in result.indices.tolist()], result.scores.tolist())

    def _weights(self) -> Tensor | None:
        """What the norms that are kept apart make of scores."""
        return torch.tensor(self._norms()) ** self._manifest.exponent if self._manifest.keep_norm else None

    def _check_ids(self, contents: Contents) -> None:
        """Refuses ids that cannot be written."""

    def _ids(self, file: EmbeddingFile) -> list[str]:
        return file.ids

    def _norms(self) -> np.ndarray[Any, Any]:
        norms: np.ndarray[Any, Any] = np.load(norm_file(self.file))
        return norms

    def _start(self, file: Path, contents: Contents) -> None:
        raise NotImplementedError

    def _copy(self, contents: Contents) -> None:
        """Takes over the rows that are there."""
        raise NotImplementedError

    def _append(self, ids: Sequence[str], rows: np.ndarray[Any, Any], norms: np.ndarray[Any, Any] | None) -> None:
        raise NotImplementedError

    def _sync(self) -> bool:
        """Whether all rows so far are on the disk now."""
        raise NotImplementedError

    def _finish(self, file: Path) -> None:
        """Puts the file together."""

    def _end(self) -> None:
        raise NotImplementedError


def _vectors_for_metric(documents: Tensor, metric: Metric) -> Tensor:
    """Documents whose inner products have the order of the metric."""
    if metric == "euclidean":  # |q - d|² = |q|² - 2 (<q, d> - |d|² / 2)
        return torch.cat([documents, documents.square().sum(1, keepdim=True)], 1)
    return F.normalize(documents) if metric == "cosine" else documents


class _FlatBinaryFile(_VectorFile):
    """A header and then the numbers; ids that are not the numbers of rows, and norms, go into files beside it."""

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self._streams: list[BinaryStream] = []
        self._unsynced = 0

    def _check_ids(self, contents: Contents) -> None:
        has_id_file = not are_rows(contents.ids)
        check_place(self.file, has_id_file=has_id_file, overwrite=self._overwrite)
        if has_id_file:
            check_lines(contents.ids)

    def _ids(self, file: EmbeddingFile) -> list[str]:
        ids_path = id_file(self.file)
        return read_ids(ids_path) if ids_path.exists() else file.ids

    def _start(self, file: Path, contents: Contents) -> None:
        if not are_rows(contents.ids):
            write_ids(id_file(file), contents.ids)
        row_count, width = len(contents.ids), 4 if self.destination.dtype == "float32" else 2
        header = self._header((row_count, contents.dim), contents.manifest)
        self._streams = [BinaryStream(file, header, width * contents.dim, rows_done=self.rows_done)]
        if contents.manifest.keep_norm:
            header = npy_header("<f4", (row_count,))
            self._streams.append(BinaryStream(norm_file(file), header, 4, rows_done=self.rows_done))

    def _copy(self, contents: Contents) -> None:
        for stream, file in zip(self._streams, (self.file, norm_file(self.file)), strict=False):
            stream.copy(file, len(self.existing_ids))

    def _append(self, ids: Sequence[str], rows: np.ndarray[Any, Any], norms: np.ndarray[Any, Any] | None) -> None:
        self._streams[0].write(rows)
        if norms is not None:
            self._streams[1].write(norms)
        self._unsynced += rows.nbytes

    def _sync(self) -> bool:
        if self._unsynced < _SYNCED_BYTES:
            return False
        for stream in self._streams:
            stream.sync()
        self._unsynced = 0
        return True

    def _end(self) -> None:
        for stream in self._streams:
            stream.close()

    def _header(self, shape: tuple[int, int], manifest: Manifest) -> bytes:
        raise NotImplementedError


class NpyFile(_FlatBinaryFile):
    """A ``.npy`` file."""

    suffix = ".npy"

    def _header(self, shape: tuple[int, int], manifest: Manifest) -> bytes:
        return npy_header("<f4" if self.destination.dtype == "float32" else "<f2", shape)


class SafetensorsFile(_FlatBinaryFile):
    """A ``.safetensors`` file with the tensor ``embeddings``."""

    suffix = ".safetensors"

    def _header(self, shape: tuple[int, int], manifest: Manifest) -> bytes:
        width = 4 if self.destination.dtype == "float32" else 2
        entry = {
            "dtype": _SAFETENSORS_NAMES[self.destination.dtype],
            "shape": list(shape),
            "data_offsets": [0, shape[0] * shape[1] * width],
        }
        text = json.dumps({"__metadata__": {METADATA_KEY: manifest.text()}, "embeddings": entry}).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text


class ParquetFile(_VectorFile):
    """A ``.parquet`` file with the columns ``id`` and ``embedding``, and ``norm`` where norms are kept apart.

    A Parquet file can be read when it is whole alone: rows go into parts first, which a killed export leaves behind.
    """

    suffix = ".parquet"

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self._tables: list[pa.Table] = []
        self._parts: list[Path] = []

    def _norms(self) -> np.ndarray[Any, Any]:
        norms: np.ndarray[Any, Any] = pq.read_table(self.file, columns=["norm"])["norm"].to_numpy()
        return norms

    def _start(self, file: Path, contents: Contents) -> None:
        numbers = pa.list_(_PARQUET_TYPES[self.destination.dtype], contents.dim)
        columns = [("id", pa.string()), ("embedding", numbers)]
        columns += [("norm", pa.float32())] if contents.manifest.keep_norm else []
        self._schema = pa.schema(columns, metadata={METADATA_KEY: contents.manifest.text()})
        self._parts = [self.file] if self.existing_ids else []
        for part in sorted(file.parent.glob("part-*.parquet")):
            if int(part.stem[5:]) < self.rows_done:
                self._parts.append(part)
            else:  # written in the moment of the kill
                part.unlink()

    def _copy(self, contents: Contents) -> None:
        """The file that is there is the first part."""

    def _append(self, ids: Sequence[str], rows: np.ndarray[Any, Any], norms: np.ndarray[Any, Any] | None) -> None:
        column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
        arrays = [pa.array(ids, pa.string()), column, *([] if norms is None else [pa.array(norms)])]
        self._tables.append(pa.table(arrays, schema=self._schema))

    def _sync(self) -> bool:
        if sum(map(len, self._tables)) < _ROWS_PER_PART:
            return False
        self._write_part()
        return True

    def _write_part(self) -> None:
        assert self._output is not None
        part = self._output.path.with_name(f"part-{self._rows - 1:015d}.parquet")
        with self._parquet(part) as parquet:
            for table in self._tables:
                parquet.write_table(table)
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        self._parts.append(part)
        self._tables = []

    def _parquet(self, file: Path) -> pq.ParquetWriter:
        # Numbers of trained vectors hardly repeat: a dictionary of them costs time and saves nothing.
        return pq.ParquetWriter(file, self._schema, use_dictionary=False, compression="zstd")

    def _finish(self, file: Path) -> None:
        with self._parquet(file) as parquet:
            for part in self._parts:
                source = pq.ParquetFile(part)
                for group in range(source.num_row_groups):
                    parquet.write_table(source.read_row_group(group).cast(self._schema))
                source.close()
                if part != self.file:
                    part.unlink()
            for table in self._tables:
                parquet.write_table(table)
        self._tables = []

    def _end(self) -> None:
        """Nothing is open between two calls."""


def _npy_lines(plan: SearchPlan) -> str:
    file = plan.destination.out
    return _numpy_lines(plan, [f"vectors = np.load({file!r}).astype(np.float32)"])


def _safetensors_lines(plan: SearchPlan) -> str:
    return _numpy_lines(
        plan,
        [
            "from safetensors.numpy import load_file",
            f"vectors = load_file({plan.destination.out!r})['embeddings'].astype(np.float32)",
        ],
    )


def _parquet_lines(plan: SearchPlan) -> str:
    lines = [
        "import pyarrow.parquet as pq",
        f"table = pq.read_table({plan.destination.out!r})",
        "vectors = np.stack(table['embedding'].to_numpy()).astype(np.float32)",
    ]
    norms = [] if plan.norm_power is None else ["norms = table['norm'].to_numpy()"]
    return _numpy_lines(plan, [*lines, *norms], ids="table['id'].take(best.ravel()).to_numpy().reshape(best.shape)")


def _numpy_lines(plan: SearchPlan, reading: list[str], *, ids: str = "") -> str:
    """Lines that rank all vectors by their inner product with ``queries``."""
    norms_path = norm_file(Path(plan.destination.out))
    scores = {
        "inner_product": "scores = queries @ vectors.T",
        "cosine": "scores = queries @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-30)).T",
        "euclidean": "scores = queries @ vectors.T - (vectors**2).sum(1) / 2",
    }[plan.metric if plan.norm_power is None else "inner_product"]
    if plan.norm_power is not None:
        scores += f" * norms{plan.weight}"
        reading = reading if ids else [*reading, f"norms = np.load({str(norms_path)!r})"]
    lines = ["import numpy as np", *reading, *plan.queries(), scores, f"best = (-scores).argsort(1)[:, :{plan.k}]"]
    if not ids and plan.has_id_file:
        lines.insert(0, "from pathlib import Path")
        lines.append(f"ids = {ids_array(Path(plan.destination.out))}[best]")
    else:
        lines.append(f"ids = {ids or 'best'}")
    return "\n".join(lines)


TARGETS = {
    "npy": IndexTarget(NpyFile, _npy_lines),
    "parquet": IndexTarget(ParquetFile, _parquet_lines),
    "safetensors": IndexTarget(SafetensorsFile, _safetensors_lines),
}
