"""Plain files of a header and numbers, npy and safetensors, with ids and norms in files beside them."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lightning_normdyn.retrieval.indexes.binary_stream import BinaryStream, npy_header
from lightning_normdyn.retrieval.indexes.id_file import (
    are_rows,
    check_lines,
    check_place,
    id_file,
    norm_file,
    read_ids,
    write_ids,
)
from lightning_normdyn.retrieval.indexes.manifest import METADATA_KEY, Manifest
from lightning_normdyn.retrieval.indexes.vector_file import VectorFile, numpy_lines
from lightning_normdyn.retrieval.indexes.writer import Contents, Destination, IndexTarget, SearchPlan

_SYNCED_BYTES = 2**26
_SAFETENSORS_NAMES = {"float32": "F32", "float16": "F16"}


class FlatBinaryFile(VectorFile):
    """A header and then the numbers; ids that are not the numbers of rows, and norms, go into files beside it."""

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self._streams: list[BinaryStream] = []
        self._unsynced = 0

    def _check_contents(self, contents: Contents) -> None:
        has_id_file = not are_rows(contents.ids)
        check_place(self.file, has_id_file=has_id_file, overwrite=self._overwrite)
        if has_id_file:
            check_lines(contents.ids)

    def _stored_ids(self) -> list[str]:
        ids_path = id_file(self.file)
        return read_ids(ids_path) if ids_path.exists() else super()._stored_ids()

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

    def _append(
        self,
        ids: Sequence[str],
        rows: np.ndarray[Any, Any],
        norms: np.ndarray[Any, Any] | None,
        payload: pa.Table | None,
    ) -> None:
        del payload  # refused from the start
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


class NpyFile(FlatBinaryFile):
    """A ``.npy`` file."""

    target, suffixes = "npy", (".npy",)

    def _header(self, shape: tuple[int, int], manifest: Manifest) -> bytes:
        return npy_header("<f4" if self.destination.dtype == "float32" else "<f2", shape)


class SafetensorsFile(FlatBinaryFile):
    """A ``.safetensors`` file with the tensor ``embeddings``."""

    target, suffixes = "safetensors", (".safetensors",)

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


def _npy_lines(plan: SearchPlan) -> str:
    file = plan.destination.out
    return numpy_lines(plan, [f"vectors = np.load({file!r}).astype(np.float32)"])


def _safetensors_lines(plan: SearchPlan) -> str:
    return numpy_lines(
        plan,
        [
            "from safetensors.numpy import load_file",
            f"vectors = load_file({plan.destination.out!r})['embeddings'].astype(np.float32)",
        ],
    )


TARGETS = {
    "npy": IndexTarget(NpyFile, _npy_lines, ending=".npy"),
    "safetensors": IndexTarget(SafetensorsFile, _safetensors_lines, ending=".safetensors"),
}
