"""LanceDB: a table in a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from torch import Tensor

from lightning_normdyn.retrieval.indexes.staged_path import StagedPath, local_place
from lightning_normdyn.retrieval.indexes.writer import (
    Contents,
    Destination,
    IndexTarget,
    Metric,
    SearchResult,
    check_existing_ids,
    check_index,
    optional,
    stored_dtype,
)

_DISTANCES: dict[Metric, str] = {"inner_product": "dot", "euclidean": "l2", "cosine": "cosine"}
_INDEXES = {"hnsw": "HnswSq", "ivfpq": "IvfPq"}
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_MIN_TRAINING_VECTORS = 256  # a product quantizer learns 256 centroids


class LanceTable:
    """A table of LanceDB with the columns ``id`` and ``embedding``.

    Without an index a search has to name the distance, ``.distance_type("dot")``: LanceDB's default is Euclidean.

    Args:
        destination: ``out`` is the folder of the database; ``index`` is ``flat``, ``hnsw`` or ``ivfpq``.
    """

    def __init__(self, destination: Destination) -> None:
        self._lancedb = optional("lancedb", extra="lancedb")
        check_index(destination.index, ["flat", *_INDEXES], target="lancedb")
        folder = local_place(destination.out, target="lancedb", kind="folder")
        if not _NAME.fullmatch(destination.name):
            raise ValueError(
                f"name: expected letters, digits, dots, dashes and underscores, got {destination.name[:40]!r}; choose "
                "a plain word"
            )
        self.destination = destination
        self.place = folder / f"{destination.name}.lance"
        self._output: StagedPath | None = None
        self._table: Any = None
        self._metric: Metric = "inner_product"

    @property
    def approximate(self) -> bool:
        """All but ``flat`` are."""
        return self.destination.index != "flat"

    def open(self, contents: Contents) -> None:
        """Makes the table beside its place."""
        if self.approximate and len(contents.ids) < _MIN_TRAINING_VECTORS:
            raise ValueError(
                f"index: expected at least {_MIN_TRAINING_VECTORS} vectors for LanceDB's {self.destination.index} to "
                f"learn from, got {len(contents.ids)}; take flat"
            )
        if self.place.exists():
            self._check_existing(contents)
        self._metric = contents.metric
        self._output = StagedPath(self.place, overwrite=self.destination.overwrite, folder=True)
        number = pa.float32() if self.destination.dtype == "float32" else pa.float16()
        schema = pa.schema([("id", pa.string()), ("embedding", pa.list_(number, contents.dim))])
        with self._in_one_sentence():
            database = self._lancedb.connect(self._output.path.parent)
            self._table = database.create_table(self.destination.name, schema=schema)

    def add(self, ids: Sequence[str], vectors: Tensor) -> None:
        """Adds them, a fragment a call."""
        numbers = vectors.to(stored_dtype(self.destination.dtype)).numpy().reshape(-1)
        column = pa.FixedSizeListArray.from_arrays(pa.array(numbers), vectors.shape[1])
        with self._in_one_sentence():
            self._table.add(pa.table([pa.array(ids, pa.string()), column], schema=self._table.schema))

    def close(self) -> None:
        """Builds the index and moves the table into place."""
        assert self._output is not None
        if self.approximate:
            kind = getattr(optional("lancedb.index", extra="lancedb"), _INDEXES[self.destination.index])
            with self._in_one_sentence():
                self._table.create_index("embedding", config=kind(distance_type=_DISTANCES[self._metric]))
        self._table = None
        self._output.publish()

    def discard(self) -> None:
        """Removes the unfinished table."""
        self._table = None
        if self._output is not None:
            self._output.discard()

    def search(self, queries: Tensor, k: int) -> SearchResult:
        """Asks the table."""
        table = self._lancedb.connect(self.place.parent).open_table(self.destination.name)
        answers = []
        for query in queries.float().numpy():
            search = table.search(query, vector_column_name="embedding").distance_type(_DISTANCES[self._metric])
            answers.append(search.select(["id", "_distance"]).limit(k).to_list())
        # LanceDB's distance under dot is one minus the inner product, and under cosine one minus the cosine.
        shift = 0.0 if self._metric == "euclidean" else 1.0
        return SearchResult(
            [[row["id"] for row in rows] for rows in answers],
            [[shift - row["_distance"] for row in rows] for rows in answers],
        )

    @contextmanager
    def _in_one_sentence(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # of all kinds, with a place in LanceDB's source at its end
            reason = str(error).partition(", /")[0]
            raise OSError(
                f"out: LanceDB cannot write '{self.destination.out}' ({reason}); free some space, or "
                "choose another place"
            ) from error

    def _check_existing(self, contents: Contents) -> None:
        place = f"LanceDB's table '{self.destination.name}'"
        table = self._lancedb.connect(self.place.parent).open_table(self.destination.name)
        names = set(table.schema.names)
        if names != {"id", "embedding"}:
            raise ValueError(
                f"name: {place} has the columns {', '.join(sorted(names))}, which replacing it would lose; expected id "
                "and embedding: choose another name"
            )
        for index in table.list_indices():
            kind = table.index_stats(index.name).distance_type
            if kind == "cosine" and contents.metric != "cosine":
                raise ValueError(
                    f"name: {place} has an index that compares cosines, which divides every norm out again; expected "
                    f"{_DISTANCES[contents.metric]}: choose another name"
                )
        dim = table.schema.field("embedding").type.list_size
        if dim != contents.dim:
            raise ValueError(f"name: {place} holds {dim} numbers a vector, got {contents.dim}; choose another name")
        existing_ids = [
            existing_id
            for batch in table.search().select(["id"]).to_batches()
            for existing_id in batch.column("id").to_pylist()
        ]
        check_existing_ids(existing_ids, contents.ids, place=place, overwrite=self.destination.overwrite)


TARGETS = {
    "lancedb": IndexTarget(
        LanceTable,
        'table.search(query).distance_type("{metric}").limit(k)',
        _DISTANCES,
        extra="lancedb",
        place="{name} in {out}",
    )
}
