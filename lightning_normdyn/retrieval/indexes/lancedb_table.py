"""LanceDB: a table in a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

import pyarrow as pa
from torch import Tensor

from lightning_normdyn.retrieval.indexes.manifest import METADATA_KEY, Manifest
from lightning_normdyn.retrieval.indexes.refusals import check_existing_ids, check_fresh, check_index, check_upsert
from lightning_normdyn.retrieval.indexes.search_width import SearchWidth
from lightning_normdyn.retrieval.indexes.staged_path import StagedPath, local_place
from lightning_normdyn.retrieval.indexes.writer import (
    Candidate,
    Contents,
    Destination,
    IndexTarget,
    Metric,
    SearchPlan,
    SearchResult,
    optional,
    stored_dtype,
)

_DISTANCES: dict[Metric, str] = {"inner_product": "dot", "euclidean": "l2", "cosine": "cosine"}
_INDEXES = {"hnsw": "HnswSq", "ivfpq": "IvfPq"}
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_MIN_TRAINING_VECTORS = 256  # a product quantizer learns 256 centroids
_BUILT_BY = {"hnsw": ("m", "ef_construction"), "ivfpq": ("subvectors",), "flat": ()}
_OPTIONS = {"m": "m", "ef_construction": "ef_construction", "subvectors": "num_sub_vectors"}
_SEARCHED_BY: dict[str, dict[str, tuple[int, int]]] = {
    "hnsw": {"ef_search": (64, 1024), "nprobe": (20, 320), "refine_factor": (2, 16)},
    "ivfpq": {"nprobe": (20, 320), "refine_factor": (4, 32)},
    "flat": {},
}
_FEWEST_CANDIDATES, _MOST_CANDIDATES = 64, 1024


class LanceTable:
    """A table of LanceDB with the columns ``id`` and ``embedding``, and ``norm`` where norms are kept apart.

    Other columns of a table that is replaced are carried along. With ``upsert`` rows of the table that is there get
    their new vectors by id, in a new version of it for each chunk; rows of other ids stay.

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
        check_fresh(destination, target="lancedb")
        self.destination = destination
        self.width = SearchWidth()
        self.existing_ids: list[str] = []
        self.rows_done = 0
        self._row_count = 0
        self._manifest = Manifest(1.0)
        self.place = folder / f"{destination.name}.lance"
        self._output: StagedPath | None = None
        self._table: Any = None
        self._metric: Metric = "inner_product"
        self._is_live = False
        self._old_rows: dict[str, int] = {}
        self._old_table: Any = None

    @property
    def approximate(self) -> bool:
        """All but ``flat`` are, and so is what takes scores of the nearest by direction."""
        return self._has_index or self._needs_candidates

    @property
    def _has_index(self) -> bool:
        return self.destination.index != "flat"

    @property
    def _needs_candidates(self) -> bool:
        return self._manifest.keep_norm and self._manifest.exponent != 0

    def open(self, contents: Contents) -> None:
        """Makes the table beside its place."""
        self._metric, self._manifest = contents.metric, contents.manifest
        self._set_width(len(contents.ids))
        is_there = self.place.exists()
        other_columns = self._check_existing(contents) if is_there else []
        self._is_live = is_there and self.destination.upsert
        if self._is_live:
            self._open_live(contents)
        else:
            self._open_new(contents, other_columns)

    def _open_live(self, contents: Contents) -> None:
        """Adds the columns that the table does not have."""
        self._table = self._lancedb.connect(self.place.parent).open_table(self.destination.name)
        new = [column for column in contents.payload if column.name not in self._table.schema.names]
        if new:
            with self._in_one_sentence():
                self._table.add_columns(pa.schema(new))

    def _open_new(self, contents: Contents, other_columns: Sequence[pa.Field]) -> None:
        """A table beside the place, or what a killed export left of one."""
        if self._has_index and len(contents.ids) < _MIN_TRAINING_VECTORS:
            raise ValueError(
                f"index: expected at least {_MIN_TRAINING_VECTORS} vectors for LanceDB's {self.destination.index} to "
                f"learn from, got {len(contents.ids)}; take flat"
            )
        self._output = StagedPath(
            self.place, overwrite=self.destination.overwrite, folder=True, resume_key=contents.resume_key
        )
        number = pa.float32() if self.destination.dtype == "float32" else pa.float16()
        columns = [("id", pa.string()), ("embedding", pa.list_(number, contents.dim))]
        columns += [("norm", pa.float32())] if contents.manifest.keep_norm else []
        names = {name for name, _ in columns}.union(contents.payload.names)
        columns = [*map(pa.field, *zip(*columns, strict=True)), *contents.payload]
        columns += [column for column in other_columns if column.name not in names]
        schema = pa.schema(columns, metadata={METADATA_KEY: contents.manifest.text()})
        with self._in_one_sentence():
            database = self._lancedb.connect(self._output.path.parent)
            self.rows_done = self._row_count = self._output.rows_done
            if self.rows_done:
                self._table = database.open_table(self.destination.name)
                self._table.checkout(self._output.state["version"])
                self._table.restore()  # without rows of a chunk that was not noted any more
            else:
                self._table = database.create_table(self.destination.name, schema=schema, mode="overwrite")

    def add(
        self, ids: Sequence[str], vectors: Tensor, norms: Tensor | None = None, payload: pa.Table | None = None
    ) -> None:
        """Adds them, a fragment a call."""
        numbers = vectors.to(stored_dtype(self.destination.dtype)).numpy().reshape(-1)
        column = pa.FixedSizeListArray.from_arrays(pa.array(numbers), vectors.shape[1])
        arrays = {"id": pa.array(ids, pa.string()), "embedding": column}
        arrays |= {} if norms is None else {"norm": pa.array(norms.numpy())}
        arrays |= {} if payload is None else dict(zip(payload.column_names, payload.columns, strict=True))
        arrays |= {} if self._is_live else self._carried(ids, list(arrays))
        schema = pa.schema([self._table.schema.field(name) for name in arrays])
        rows = pa.table(arrays).cast(schema)
        with self._in_one_sentence():
            if self._is_live:
                self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
                return
            self._table.add(rows.select(self._table.schema.names))
        assert self._output is not None
        self._row_count += len(ids)
        self._output.checkpoint(self._row_count, version=self._table.version)

    def _carried(self, ids: Sequence[str], names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
        """Other columns of the table that is replaced, for these ids; nothing where it has no such row."""
        others = [name for name in self._table.schema.names if name not in names]
        if not others:
            return {}
        old_rows = sorted(self._old_rows[text] for text in ids if text in self._old_rows)
        places = {row: place for place, row in enumerate(old_rows)}
        table = self._old_table.take_offsets(old_rows).select(others).to_arrow() if old_rows else None
        order = pa.array([places.get(self._old_rows.get(text, -1)) for text in ids], pa.int64())
        return {
            name: pa.nulls(len(ids), self._table.schema.field(name).type) if table is None else table[name].take(order)
            for name in others
        }

    def close(self) -> None:
        """Builds the index and moves the table into place."""
        if self._is_live:
            with self._in_one_sentence():
                self._table.optimize()  # takes new rows into the index
            self._table = None
            return
        assert self._output is not None
        if self._has_index:
            kind = getattr(optional("lancedb.index", extra="lancedb"), _INDEXES[self.destination.index])
            of_user = self.destination.parameters.of_user
            options = {word: of_user[name] for name, word in _OPTIONS.items() if name in of_user}
            with self._in_one_sentence():
                self._table.create_index("embedding", config=kind(distance_type=_DISTANCES[self._metric], **options))
        self._table = None
        self._output.publish()

    def discard(self) -> None:
        """Removes the unfinished table."""
        self._table = None
        if self._output is not None:
            self._output.discard()

    def finish(self, findings: Mapping[str, Any]) -> None:
        """Nothing: the width is the search's own, and what was measured has no place in a table."""
        del findings

    def search(self, queries: Tensor, k: int) -> SearchResult:
        """Asks the table."""
        table = self._lancedb.connect(self.place.parent).open_table(self.destination.name)
        depth = max(k, self.width.values.get("candidates", 0))
        columns = ["id", "_distance", *(["norm"] if self._needs_candidates else [])]
        # LanceDB's distance under dot is one minus the inner product, and under cosine one minus the cosine.
        shift = 0.0 if self._metric == "euclidean" else 1.0
        answers = []
        for query in queries.float().numpy():
            search = table.search(query, vector_column_name="embedding").distance_type(_DISTANCES[self._metric])
            for method, value in _calls(self.width.values, depth).items():
                search = getattr(search, method)(value)
            rows = search.select(columns).limit(depth).to_list()
            scores = [shift - row["_distance"] for row in rows]
            if self._needs_candidates:
                power = self._manifest.exponent
                scores = [score * row["norm"] ** power for score, row in zip(scores, rows, strict=True)]
            scored_ids = [(row["id"], score) for row, score in zip(rows, scores, strict=True)]
            answers.append(sorted(scored_ids, key=itemgetter(1), reverse=True)[:k])
        return SearchResult(
            [[row_id for row_id, _ in answer] for answer in answers],
            [[score for _, score in answer] for answer in answers],
        )

    def _set_width(self, row_count: int) -> None:
        """Of a search; refuses what the user set and the table does not have."""
        index, parameters = self.destination.index, self.destination.parameters
        defaults = dict(_SEARCHED_BY[index])
        if self._needs_candidates:
            most = min(_MOST_CANDIDATES, row_count)
            defaults["candidates"] = (min(_FEWEST_CANDIDATES, most), most)
        parameters.check((*_BUILT_BY[index], *defaults), index=index, target="lancedb")
        self.width = SearchWidth.of(parameters, defaults, self.destination.first_width)

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

    def _check_existing(self, contents: Contents) -> list[pa.Field]:
        """Other columns that the table has."""
        place = f"LanceDB's table '{self.destination.name}'"
        table = self._lancedb.connect(self.place.parent).open_table(self.destination.name)
        names = set(table.schema.names)
        if not {"id", "embedding"} <= names:
            raise ValueError(
                f"name: {place} has the columns {', '.join(sorted(names))}; expected id and embedding among them: "
                "choose another name"
            )
        for index in table.list_indices():
            kind = table.index_stats(index.name).distance_type
            if kind == "cosine" and contents.metric != "cosine" and not contents.manifest.keep_norm:
                raise ValueError(
                    f"name: {place} has an index that compares cosines, which divides every norm out again; expected "
                    f"{_DISTANCES[contents.metric]}: choose another name"
                )
        dim = table.schema.field("embedding").type.list_size
        if dim != contents.dim:
            raise ValueError(f"name: {place} holds {dim} numbers a vector, got {contents.dim}; choose another name")
        if self.destination.upsert:
            text = (table.schema.metadata or {}).get(METADATA_KEY.encode())
            check_upsert(None if text is None else Manifest.parsed(text), contents.manifest, place=place)
            return []
        existing_ids = [
            str(existing_id)
            for batch in table.search().select(["id"]).to_batches()
            for existing_id in batch.column("id").to_pylist()
        ]
        check_existing_ids(existing_ids, contents.ids, place=place, overwrite=self.destination.overwrite)
        others = [column for column in table.schema if column.name not in ("id", "embedding", "norm")]
        if others:
            self._old_table, self._old_rows = table, {text: row for row, text in enumerate(existing_ids)}
        return others


_METHODS = {"ef_search": "ef", "nprobe": "nprobes", "refine_factor": "refine_factor"}


def _calls(width: Mapping[str, int], depth: int) -> dict[str, int]:
    """Methods of a search and what they are called with; a graph looks at no fewer nodes than are to be refined."""
    calls = {_METHODS[name]: value for name, value in width.items() if name in _METHODS}
    if "ef" in calls:
        calls["ef"] = max(calls["ef"], depth * calls.get("refine_factor", 1))
    return calls


def _lines(plan: SearchPlan) -> str:
    """Lines of Python that search by ``queries``, a numpy array ``[n, d]`` of float32."""
    is_reweighted = plan.norm_power not in (None, 0)
    depth = max(plan.k, plan.width.get("candidates", 0)) if is_reweighted else plan.k
    settings = "".join(f".{method}({value})" for method, value in _calls(plan.width, depth).items())
    lines = ["import lancedb", "import numpy as np", *plan.queries()]
    lines += [
        f"table = lancedb.connect({plan.destination.out!r}).open_table({plan.destination.name!r})",
        f'searches = [table.search(query).distance_type("{_DISTANCES[plan.metric]}"){settings} for query in queries]',
        f"answers = [search.limit({depth}).to_list() for search in searches]",
    ]
    if is_reweighted:
        score = f'(row["_distance"] - 1) * row["norm"]{plan.weight}'
        lines.append(f"answers = [sorted(rows, key=lambda row: {score})[:{plan.k}] for rows in answers]")
    return "\n".join([*lines, 'ids = [[row["id"] for row in rows] for rows in answers]'])


TARGETS = {
    "lancedb": IndexTarget(
        LanceTable,
        _lines,
        extra="lancedb",
        place="{name} in {out}",
        candidates=(
            Candidate("plain graph", "hnsw"),
            Candidate("graph, one dimension more", "hnsw", augment=True),
            Candidate("graph of directions, norms apart", "hnsw", keep_norm=True),
            Candidate(
                "product codes of directions, norms apart",
                "ivfpq",
                keep_norm=True,
                parameters=("nprobe", "subvectors", "refine_factor", "candidates"),
                scan_share=0.05,
            ),
        ),
    )
}
