"""Reads ready embeddings from npy, npz, Parquet and safetensors files, a chunk at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lightning_normdyn.datasets.embedding_matrix import Array, ArrayMatrix, Matrix, ParquetMatrix, SafetensorsMatrix

_ID_COLUMNS = ("id", "_id", "ids", "doc_id", "key")

ENDINGS = (".npy", ".npz", ".parquet", ".safetensors")
"""Endings of files that hold embeddings."""

_OF_OBJECTS = ("pickle", "Python objects")  # numpy's words for a file of another kind, and for an array of objects
_WRITTEN = "write it with numpy, from an array of float32 [n, d]"


class EmbeddingFile:
    """Embeddings of a file: ``.npy``, ``.npz``, ``.parquet`` or ``.safetensors``.

    Nothing but the header is read until chunks are asked for, except from ``.npz``, which numpy reads as a whole. Half
    precision comes out as float32. Ids are those of the file, or numbers of rows where it has none: a string column of
    Parquet called ``id``, ``_id``, ``ids``, ``doc_id`` or ``key``, or an array ``ids`` of an ``.npz``.

    Args:
        file: its path.
        column: the column, array or tensor; needed where the file holds several that could be meant.
        preferred_column: the one to take where the file has it and no ``column`` is named.

    Raises:
        ValueError: if the file is of another kind, or does not hold one matrix that can be told.
        FileNotFoundError: if there is none.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "vectors.npy"
        >>> np.save(file, np.ones((5, 2), np.float16))
        >>> embeddings = EmbeddingFile(file)
        >>> embeddings.rows, embeddings.dim, [len(chunk) for chunk in embeddings.chunks(3)]
        (5, 2, [3, 2])
    """

    def __init__(
        self, file: str | os.PathLike[str], *, column: str | None = None, preferred_column: str | None = None
    ) -> None:
        if not isinstance(file, str | os.PathLike):
            raise ValueError(f"file: expected a path, got {file!r}; name a file of embeddings")
        self.file = Path(file)
        self._preferred_column = preferred_column
        if not self.file.is_file():
            if self.file.is_dir():
                raise IsADirectoryError(f"{self.file}: expected a file of embeddings, got a folder; name a file in it")
            raise FileNotFoundError(f"{self.file}: no such file; expected a file of embeddings, got none")
        if self.file.suffix not in ENDINGS:
            raise ValueError(f"{self.file}: expected {', '.join(ENDINGS)}, got '{self.file.suffix}'")
        readers: tuple[Callable[[str | None], Matrix], ...]  # in the order of ENDINGS
        readers = (self._npy, self._npz, self._parquet, self._safetensors)
        try:
            self._matrix = dict(zip(ENDINGS, readers, strict=True))[self.file.suffix](column)
        except (OSError, EOFError, ValueError, BadZipFile, pa.ArrowException) as error:
            if str(self.file) in str(error):
                raise
            if any(word in str(error) for word in _OF_OBJECTS):
                raise ValueError(f"{self.file}: is no {self.file.suffix} file of numbers; {_WRITTEN}") from error
            raise self._unreadable(error) from error
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

    def chunks(self, chunk_size: int = 65_536) -> Iterator[Tensor]:
        """Embeddings in order, float32 ``[at most chunk_size, dim]`` on the CPU; each chunk is the caller's own.

        Raises:
            ValueError: if a row has numbers too large for float32, or all too small for it.
        """
        first_row = 0
        for chunk in self._matrix.chunks(chunk_size):
            with np.errstate(over="ignore", under="ignore"):
                single = np.array(chunk, dtype=np.float32)
            if chunk.dtype.kind == "f" and chunk.dtype.itemsize > single.dtype.itemsize:
                self._check_range(chunk, single, first_row)
            yield torch.from_numpy(single)
            first_row += len(chunk)

    def read(self) -> Tensor:
        """All of them, float32 ``[rows, dim]``."""
        return torch.cat(list(self.chunks())) if self.rows else torch.empty(0, self.dim)

    def read_finite(self) -> Tensor:
        """:meth:`read`, of a file without NaN or infinity.

        Raises:
            ValueError: if a row has one, with its number.
        """
        vectors = self.read()
        bad_rows = (~vectors.isfinite().all(1)).nonzero().flatten()
        if len(bad_rows):
            raise ValueError(f"{self.file}: expected finite numbers, got NaN or infinity in row {int(bad_rows[0])}")
        return vectors

    def _check_range(self, chunk: Array, single: Array, first_row: int) -> None:
        """Refuses what float32 made infinite or zero, which would be taken for a broken or an empty vector."""
        out_of_range = (np.isinf(single) & ~np.isinf(chunk)).any(1) | (chunk.any(1) & ~single.any(1))
        if out_of_range.any():
            row = int(out_of_range.argmax())
            largest = float(np.abs(chunk[row]).max())
            raise ValueError(
                f"{self.file}, row {first_row + row}: expected numbers in float32's range, got {largest:.3g} as "
                "the largest; scale all rows by one factor"
            )

    def _unreadable(self, error: Exception) -> ValueError:
        complaint = str(error).strip().rstrip(".")
        return ValueError(
            f"{self.file}: cannot be read as {self.file.suffix} ({complaint}); it may be cut short or of another kind: "
            "write it again"
        )

    def _npy(self, column: str | None) -> Matrix:
        if column is not None:
            raise ValueError(f"{self.file}: expected no column for .npy, which holds one matrix, got '{column}'")
        return ArrayMatrix(self._two_dimensional(np.load(self.file, mmap_mode="r", allow_pickle=False)))

    def _npz(self, column: str | None) -> Matrix:
        with np.load(self.file, allow_pickle=False) as archive:
            matrices = [name for name in archive.files if archive[name].ndim == 2]
            name = self._select_name(column, matrices, kind="two-dimensional arrays")
            return ArrayMatrix(self._two_dimensional(archive[name]), self._archived_ids(archive))

    def _archived_ids(self, archive: Any) -> list[str] | None:
        if "ids" in archive.files:
            return [str(value) for value in archive["ids"]]
        if not {"id_bytes", "id_ends"} <= set(archive.files):
            return None
        content, ends = archive["id_bytes"].tobytes(), archive["id_ends"].tolist()
        try:
            return [content[start:end].decode("utf-8") for start, end in pairwise([0, *ends])]
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.file}: expected ids in UTF-8, got others ({error}); write the file again"
            ) from error

    def _parquet(self, column: str | None) -> Matrix:
        file = pq.ParquetFile(self.file)
        schema = file.schema_arrow
        lists = [field.name for field in schema if _is_list(field.type)]
        names = [field.name for field in schema if field.name in _ID_COLUMNS]
        return ParquetMatrix(
            self.file, file, self._select_name(column, lists, kind="list columns"), (names or [None])[0]
        )

    def _safetensors(self, column: str | None) -> Matrix:
        if find_spec("safetensors") is None:
            raise ValueError(f"{self.file}: needs safetensors; install with: pip install 'lightning-normdyn[text]'")
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self.file), framework="pt") as tensors:
                names = list(tensors.keys())
                shapes = {name: tensors.get_slice(name).get_shape() for name in names}
        except SafetensorError as error:
            raise self._unreadable(error) from error
        matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
        name = self._select_name(column, list(matrices), kind="two-dimensional tensors")
        return SafetensorsMatrix(self.file, name, *matrices[name])

    def _select_name(self, column: str | None, names: list[str], *, kind: str) -> str:
        if column is None and self._preferred_column in names:
            return str(self._preferred_column)
        if column is None and len(names) == 1:
            return names[0]
        if column in names:
            return str(column)
        expectation = f"column {column!r}" if column is not None else "column to be named"
        raise ValueError(f"{self.file}: expected {expectation} among its {kind}, got {', '.join(names) or 'none'}")

    def _two_dimensional(self, array: Array) -> Array:
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise ValueError(f"{self.file}: expected numbers [n, d], got {array.dtype} {list(array.shape)}")
        return array


def _is_list(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))


_WIDE = 8


def id_arrays(ids: Sequence[str]) -> dict[str, Array]:
    """Ids as the arrays of an ``.npz`` that :class:`EmbeddingFile` reads back.

    An array of texts has the width of the longest in every row. Where one long id, or one that ends in a zero, which
    such an array drops, makes that a bad choice, their UTF-8 lies in ``id_bytes``, and where each ends in ``id_ends``.

    Args:
        ids: of the rows.

    Example:
        >>> list(id_arrays(["a", "b"])), list(id_arrays(["a", "b" * 1000, *"cdefghijklmn"]))
        (['ids'], ['id_bytes', 'id_ends'])
    """
    longest, total = max(map(len, ids), default=0), sum(map(len, ids))
    if longest * len(ids) <= _WIDE * total and not any(id.endswith("\0") for id in ids):
        return {"ids": np.array(list(ids), dtype=np.str_)}
    encoded = [id.encode("utf-8") for id in ids]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return {"id_bytes": np.frombuffer(b"".join(encoded), dtype=np.uint8), "id_ends": ends}


def places_by_id(ids: Iterable[str], source: object) -> dict[str, int]:
    """The row that each id names.

    Args:
        ids: in the order of the rows.
        source: whose ids they are, for the message.

    Raises:
        ValueError: if an id comes twice.

    Example:
        >>> places_by_id(["a", "b"], "ids")
        {'a': 0, 'b': 1}
        >>> places_by_id(["a", "b", "a"], "ids")
        Traceback (most recent call last):
            ...
        ValueError: ids: expected each id once, got 'a' in rows 0 and 2; keep one of them or rename the other
    """
    places: dict[str, int] = {}
    for row, id in enumerate(ids):
        if places.setdefault(id, row) != row:
            raise ValueError(
                f"{source}: expected each id once, got {id!r} in rows {places[id]} and {row}; keep one of them or "
                "rename the other"
            )
    return places
