"""Reads ready embeddings a chunk at a time: npy, npz, Parquet and safetensors files, folders of shards, URLs of all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lightning_normdyn.core.embedding_codes import check_no_wide_codes
from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.datasets.embedding_formats import FORMATS, ColumnChoice
from lightning_normdyn.datasets.embedding_matrix import (
    PARQUET,
    Array,
    Matrix,
    ParquetMatrix,
    unreadable,
    whole_chunks,
)
from lightning_normdyn.datasets.payload_columns import PayloadColumns
from lightning_normdyn.datasets.storage_place import StoragePlace, is_url

ENDINGS = tuple(FORMATS)
"""Endings of files that hold embeddings."""

_OF_OBJECTS = ("pickle", "Python objects")  # numpy's words for a file of another kind, and for an array of objects
_WRITTEN = "write it with numpy, from an array of float32 [n, d]"


class EmbeddingFile:
    """Embeddings of a file, ``.npy``, ``.npz``, ``.parquet`` or ``.safetensors``, or of a folder of Parquet shards.

    Either lies on this machine or behind a URL that fsspec opens (``s3://``, ``gs://``, ``memory://``; the package of
    that file system has to be installed). Nothing but headers is read until chunks are asked for, except from ``.npz``,
    which numpy reads as a whole. Half precision comes out as float32. Codes of 8 bits are refused, or decoded where
    their ``ranges`` lie beside them in a ``.npz`` or ``.safetensors``. Ids are those of the file, or numbers of rows
    where it has none: a column of Parquet called ``id``, ``_id``, ``ids``, ``doc_id`` or ``key``, or an array ``ids``
    of an ``.npz``. Shards are taken in the order of their names, with the folders that they are in; those without rows,
    and names that begin with a dot or an underscore, are passed over.

    It can be pickled, and opens its files anew wherever it is unpickled.

    Args:
        file: its path or URL, or the folder's.
        column: the column, array or tensor; needed where the file holds several that could be meant.
        preferred_column: the one to take where the file has it and no ``column`` is named.
        dim: numbers of each row that are taken, from the first on, as of a Matryoshka model's prefix; all if left out.

    Raises:
        ValueError: if the file is of another kind, or does not hold one matrix that can be told; if shards differ; if
            a URL is of no kind that is known, or its package is not installed.
        FileNotFoundError: if there is none.
        OSError: if a URL cannot be read.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "vectors.npy"
        >>> np.save(file, np.ones((5, 2), np.float16))
        >>> embeddings = EmbeddingFile(file)
        >>> embeddings.rows, embeddings.dim, [len(chunk) for chunk in embeddings.chunks(3)]
        (5, 2, [3, 2])
        >>> [len(chunk) for chunk in embeddings.chunks(3, range(1, 5))]
        [3, 1]
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        *,
        column: str | None = None,
        preferred_column: str | None = None,
        dim: int | None = None,
    ) -> None:
        if not isinstance(file, str | os.PathLike):
            raise ValueError(f"file: expected a path, got {file!r}; name a file of embeddings")
        self.place = StoragePlace(file)
        self.file: Path | StoragePlace = self.place.path or self.place
        self._matrix = self._opened(self._ending(), ColumnChoice(column, preferred_column))
        self.rows, self.dim = self._matrix.rows, self._matrix.dim
        if self.rows and not self.dim:
            raise ValueError(f"{self.file}: expected vectors of one number or more, got [{self.rows}, 0]; is it whole?")
        if dim is not None:
            check_count(dim=dim)
            if dim > self.dim:
                raise ValueError(f"dim: expected at most the {self.dim} numbers of a row of {self.file}, got {dim}")
            self.dim = dim

    def _ending(self) -> str:
        """Of the format.

        Raises:
            ValueError: if no file of that kind holds embeddings.
            OSError: if there is no file, or a folder without shards.
        """
        kind = self.place.kind()
        if not kind:
            raise FileNotFoundError(
                f"{self.file}: no such file; expected a file of embeddings, got none; check the address"
                if self.place.path is None
                else f"{self.file}: no such file; expected a file of embeddings, got none"
            )
        if kind == "directory":
            if not self.place.shards(PARQUET):
                raise IsADirectoryError(
                    f"{self.file}: expected a file of embeddings, got a folder without {PARQUET} shards; name a file "
                    "in it"
                )
            return PARQUET
        if self.place.suffix not in ENDINGS:
            raise ValueError(f"{self.file}: expected {', '.join(ENDINGS)}, got '{self.place.suffix}'")
        return self.place.suffix

    def _opened(self, ending: str, choice: ColumnChoice) -> Matrix:
        try:
            with self.place.one_sentence():
                return FORMATS[ending](self.place, choice)
        except (OSError, EOFError, ValueError, BadZipFile, pa.ArrowException) as error:
            if str(self.file) in str(error):
                raise
            if any(word in str(error) for word in _OF_OBJECTS):
                raise ValueError(f"{self.file}: is no {ending} file of numbers; {_WRITTEN}") from error
            raise unreadable(self.place, ending, error) from error

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

    def payload(self, names: Sequence[str]) -> PayloadColumns:
        """Other columns of Parquet, to be stored beside the vectors.

        Args:
            names: theirs; ``["all"]`` for every one but those of vectors and ids.

        Raises:
            ValueError: if the embeddings are not in Parquet, or a column will not do.
        """
        if not isinstance(self._matrix, ParquetMatrix):
            raise ValueError(
                f"payload: expected embeddings in {PARQUET}, whose other columns it names, got {self.file}; write both "
                "into one file"
            )
        return PayloadColumns(self._matrix, names)

    def chunks(self, chunk_size: int = 65_536, rows: range | None = None) -> Iterator[Tensor]:
        """Embeddings in order, float32 ``[chunk_size, dim]`` on the CPU, the last chunk of what is left.

        Args:
            chunk_size: rows of a chunk, which is the caller's own.
            rows: that are wanted, of step one; all if left out.

        Raises:
            ValueError: if a row has numbers too large for float32, or all too small for it; or they are codes of 8
                bits in a wider type.
        """
        rows = range(self.rows) if rows is None else rows
        first_row = rows.start
        for chunk in whole_chunks(self._matrix.blocks(rows, chunk_size), chunk_size):
            with np.errstate(over="ignore", under="ignore"):
                single = np.array(chunk[:, : self.dim], dtype=np.float32)
            if chunk.dtype.kind == "f" and chunk.dtype.itemsize > single.dtype.itemsize:
                self._check_range(chunk[:, : self.dim], single, first_row)
            vectors = torch.from_numpy(single)
            if first_row == rows.start:
                check_no_wide_codes(**{str(self.file): vectors})
            yield vectors
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


def names_embeddings(name: str) -> bool:
    """Whether a name is that of embeddings and not of texts: by its ending, as a folder, or as a URL.

    Example:
        >>> names_embeddings("queries.npy"), names_embeddings("queries.tsv"), names_embeddings("s3://bucket/queries")
        (True, False, True)
    """
    return name.endswith(ENDINGS) or is_url(name) or Path(name).is_dir()


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
