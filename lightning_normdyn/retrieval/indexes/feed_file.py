"""The file of JSON lines that a server takes in, and beside it what the server has to know of its fields first."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from lightning_normdyn.datasets.payload_columns import json_value
from lightning_normdyn.retrieval.indexes.refusals import check_index
from lightning_normdyn.retrieval.indexes.search_width import SearchWidth
from lightning_normdyn.retrieval.indexes.vector_file import VectorFile
from lightning_normdyn.retrieval.indexes.writer import Contents, Destination

_SYNCED_BYTES = 2**26
_ROWS_PER_BATCH = 1024
_SEARCHED_NODES, _MOST_NODES = 128, 1024
_MOST_CANDIDATES = 1024


class FeedRecord(NamedTuple):
    """A document of a feed.

    Attributes:
        id: its own.
        vector: as JSON, ``[`` and ``]`` included.
        norm: beside the vector, where it is kept apart.
        payload: further fields.
    """

    id: str
    vector: str
    norm: float | None = None
    payload: Mapping[str, Any] = MappingProxyType({})

    def fields(self) -> dict[str, Any]:
        """All but id and vector."""
        return {**({} if self.norm is None else {"norm": self.norm}), **self.payload}


class FeedFile(VectorFile):
    """A feed: numbers as the shortest text that float32 reads back, one document after the other.

    What a server needs to know first lies in a file beside it. Searches read the feed and compare all vectors in
    float32, as the server is to do; how near its graph comes to that only the server can tell.

    Args:
        destination: ``out`` is the file; ``name`` that of the index on the server; ``index`` is ``flat`` or ``hnsw``;
            with ``upsert`` the documents are updates of an index that is in use.
    """

    library: ClassVar[str]
    fields_ending: ClassVar[str]
    largest_dim: ClassVar[int]

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self._stream: BinaryIO | None = None
        self._unsynced = 0

    @property
    def fields_file(self) -> Path:
        """What the server has to know first."""
        return self.file.with_name(f"{self.file.name}{self.fields_ending}")

    def _check_destination(self, destination: Destination) -> None:
        check_index(destination.index, ["flat", "hnsw"], target=self.target)
        if destination.dtype != "float32":
            raise ValueError(f"dtype: expected float32 for {self.target}, whose feed is text, got {destination.dtype}")
        if destination.upsert and destination.append:
            raise ValueError("append: expected no upsert beside it, whose documents are updates; leave one out")
        self._check_name(destination.name)

    def _check_name(self, name: str) -> None:
        """Refuses names that an index of the server cannot have."""
        raise NotImplementedError

    def _check_contents(self, contents: Contents) -> None:
        if contents.dim > self.largest_dim:
            raise ValueError(
                f"embeddings: expected {self.largest_dim:,} numbers at most for {self.library}, got {contents.dim:,}; "
                "take a prefix with --dim, if the model allows it"
            )
        if self.fields_file.exists() and not self._overwrite:
            raise FileExistsError(
                f"out: '{self.fields_file}' exists already; pass --overwrite to replace it, or choose another"
            )
        is_graph, keep_norm = self.destination.index == "hnsw", contents.manifest.keep_norm
        defaults = {"ef_search": (_SEARCHED_NODES, _MOST_NODES)} if is_graph else {}
        if is_graph and keep_norm and contents.manifest.exponent != 0:
            defaults["candidates"] = (_SEARCHED_NODES, _MOST_CANDIDATES)
        names = ["m", "ef_construction", *defaults] if is_graph else []
        self.destination.parameters.check(names, index=self.destination.index, target=self.target)
        self.width = SearchWidth.of(self.destination.parameters, defaults)

    def _start(self, file: Path, contents: Contents) -> None:
        assert self._output is not None
        self._stream = file.open("r+b" if self.rows_done else "wb")
        self._stream.seek(self._output.state["bytes"] if self.rows_done else 0)
        self._stream.truncate()
        fields = self._fields(contents)
        file.with_name(self.fields_file.name).write_text(fields, encoding="utf-8", newline="\n")

    def _copy(self, contents: Contents) -> None:
        assert self._stream is not None
        with self.file.open("rb") as source:
            shutil.copyfileobj(source, self._stream, _SYNCED_BYTES)

    def _append(
        self,
        ids: Sequence[str],
        rows: np.ndarray[Any, Any],
        norms: np.ndarray[Any, Any] | None,
        payload: pa.Table | None,
    ) -> None:
        assert self._stream is not None
        if self._manifest.metric == "cosine" and not rows.any(1).all():
            raise ValueError(
                f"metric: expected inner_product, since embeddings of length 0 have no cosine in {self.library}, got "
                "cosine; leave --metric out"
            )
        for start in range(0, len(ids), _ROWS_PER_BATCH):
            stop = start + _ROWS_PER_BATCH
            vectors = vector_texts(rows[start:stop])
            norm_values = [None] * len(vectors) if norms is None else norms[start:stop].tolist()
            columns = [{}] * len(vectors) if payload is None else payload.slice(start, _ROWS_PER_BATCH).to_pylist()
            for entry in zip(ids[start:stop], vectors, norm_values, map(json_value, columns), strict=True):
                self._unsynced += self._stream.write(self._text(FeedRecord(*entry)).encode())

    def _sync(self) -> bool:
        if self._unsynced < _SYNCED_BYTES:
            return False
        assert self._stream is not None
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._unsynced = 0
        return True

    def _state(self) -> dict[str, int]:
        assert self._stream is not None
        return {"bytes": self._stream.tell()}

    def _end(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def _stored_ids(self) -> list[str]:
        return [row_id for row_id, _ in self._documents()]

    def _norms(self) -> np.ndarray[Any, Any]:
        return np.array([fields["norm"] for _, fields in self._documents()], np.float32)

    def _chunks(self) -> Iterator[Tensor]:
        vectors = []
        for _, fields in self._documents():
            vectors.append(fields["embedding"])
            if len(vectors) == _ROWS_PER_BATCH:
                yield torch.tensor(vectors)
                vectors = []
        if vectors:
            yield torch.tensor(vectors)

    def _fields(self, contents: Contents) -> str:
        """What the server has to know first."""
        raise NotImplementedError

    def _text(self, record: FeedRecord) -> str:
        """Lines of a document."""
        raise NotImplementedError

    def _documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Ids and fields of the file in its place, in order."""
        raise NotImplementedError


def vector_texts(rows: np.ndarray[Any, Any]) -> list[str]:
    """Vectors as JSON, each number the shortest text that float32 reads back.

    Args:
        rows: float32 ``[n, d]``.

    Example:
        >>> vector_texts(np.array([[0.1, -2.0], [1e-12, 16777216]], np.float32))
        ['[0.1,-2]', '[1e-12,16777216]']
    """
    numbers = pc.cast(pa.array(rows.reshape(-1)), pa.string())
    offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1])
    texts = pc.binary_join(pa.ListArray.from_arrays(offsets, numbers), ",").to_pylist()
    return [f"[{text}]" for text in texts]


def json_text(value: Any) -> str:
    """Compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
