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
    check_existing_ids,
    check_fresh,
    check_index,
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
        self._manifest = Manifest(1.0)
        self.place = folder / f"{destination.name}.lance"
        self._output: StagedPath | None = None
        self._table: Any = None
        self._metric: Metric = "inner_product"

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
        if self._has_index and len(contents.ids) < _MIN_TRAINING_VECTORS:
            raise ValueError(
                f"index: expected at least {_MIN_TRAINING_VECTORS} vectors for LanceDB's {self.destination.index} to "
                f"learn from, got {len(contents.ids)}; take flat"
            )
        if self.place.exists():
            self._check_existing(contents)
        self._metric, self._manifest = contents.metric, contents.manifest
        self._set_width(len(contents.ids))
        self._output = StagedPath(self.place, overwrite=self.destination.overwrite, folder=True)
        number = pa.float32() if self.destination.dtype == "float32" else pa.float16()
        columns = [("id", pa.string()), ("embedding", pa.list_(number, contents.dim))]
        columns += [("norm", pa.float32())] if contents.manifest.keep_norm else []
        schema = pa.schema(columns, metadata={METADATA_KEY: contents.manifest.text()})
        with self._in_one_sentence():
            database = self._lancedb.connect(self._output.path.parent)
            self._table = database.create_table(self.destination.name, schema=schema)

    def add(self, ids: Sequence[str], vectors: Tensor, norms: Tensor | None = None) -> None:
        """Adds them, a fragment a call."""
        numbers = vectors.to(stored_dtype(self.destination.dtype)).numpy().reshape(-1)
        column = pa.FixedSizeListArray.from_arrays(pa.array(numbers), vectors.shape[1])
        arrays = [pa.array(ids, pa.string()), column, *([] if norms is None else [pa.array(norms.numpy())])]
        with self._in_one_sentence():
            self._table.add(pa.table(arrays, schema=self._table.schema))

    def close(self) -> None:
        """Builds the index and moves the table into place."""
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

    def _check_existing(self, contents: Contents) -> None:
        place = f"LanceDB's table '{self.destination.name}'"
        table = self._lancedb.connect(self.place.parent).open_table(self.destination.name)
        names = set(table.schema.names)
        if names - {"norm"} != {"id", "embedding"}:
            raise ValueError(
                f"name: {place} has the columns {', '.join(sorted(names))}, which replacing it would lose; expected id "
                "and embedding: choose another name"
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
        existing_ids = [
            existing_id
            for batch in table.search().select(["id"]).to_batches()
            for existing_id in batch.column("id").to_pylist()
        ]
        check_existing_ids(existing_ids, contents.ids, place=place, overwrite=self.destination.overwrite)


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
