"""Parquet: a file with columns of ids and embeddings, and of norms where they are kept apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lightning_normdyn.retrieval.indexes.manifest import METADATA_KEY
from lightning_normdyn.retrieval.indexes.vector_file import VectorFile, numpy_lines
from lightning_normdyn.retrieval.indexes.writer import Contents, Destination, IndexTarget, SearchPlan

_ROWS_PER_PART = 16_384
_TYPES = {"float32": pa.float32(), "float16": pa.float16()}


class ParquetFile(VectorFile):
    """A ``.parquet`` file with the columns ``id`` and ``embedding``, and ``norm`` where norms are kept apart.

    A Parquet file can be read when it is whole alone: rows go into parts first, which a killed export leaves behind.
    """

    target, suffixes = "parquet", (".parquet",)

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self._tables: list[pa.Table] = []
        self._parts: list[Path] = []

    def _norms(self) -> np.ndarray[Any, Any]:
        norms: np.ndarray[Any, Any] = pq.read_table(self.file, columns=["norm"])["norm"].to_numpy()
        return norms

    def _start(self, file: Path, contents: Contents) -> None:
        numbers = pa.list_(_TYPES[self.destination.dtype], contents.dim)
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

    def _append(
        self,
        ids: Sequence[str],
        rows: np.ndarray[Any, Any],
        norms: np.ndarray[Any, Any] | None,
        payload: pa.Table | None,
    ) -> None:
        del payload  # refused from the start
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


def _parquet_lines(plan: SearchPlan) -> str:
    lines = [
        "import pyarrow.parquet as pq",
        f"table = pq.read_table({plan.destination.out!r})",
        "vectors = np.stack(table['embedding'].to_numpy()).astype(np.float32)",
    ]
    norms = [] if plan.norm_power is None else ["norms = table['norm'].to_numpy()"]
    return numpy_lines(plan, [*lines, *norms], ids="table['id'].take(best.ravel()).to_numpy().reshape(best.shape)")


TARGETS = {"parquet": IndexTarget(ParquetFile, _parquet_lines, ending=".parquet")}
