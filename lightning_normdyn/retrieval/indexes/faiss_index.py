"""FAISS: an index file, with ids inside it or beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_normdyn.retrieval.indexes.id_file import (
    ids_array,
    norm_file,
)
from lightning_normdyn.retrieval.indexes.index_file import IndexFile, Numbers
from lightning_normdyn.retrieval.indexes.refusals import check_neighbours
from lightning_normdyn.retrieval.indexes.search_width import SearchWidth
from lightning_normdyn.retrieval.indexes.writer import (
    GRAPH_CANDIDATES,
    Candidate,
    Contents,
    Destination,
    IndexTarget,
    SearchPlan,
    optional,
)

_FACTORIES = {"sq8": "SQ8", "sq4": "SQ4", "binary": "RaBitQ"}
INDEXES = ("flat", "hnsw", "ivfpq", "pq", *_FACTORIES)
"""Words for indexes: exact, a graph, lists of product codes, and codes that are all scanned: product codes, int8, int4
and one bit a number."""

_POINTS_A_CENTROID = 39  # below that FAISS warns that centroids are poor
_PQ_CENTROIDS = 256
_NEIGHBOURS = 32
_SEARCHED_NODES, _MOST_NODES, _MOST_CANDIDATES = 64, 1024, 4096
_MOST_SCANNED = 16_384  # candidates where everything is compared anyway
_FEWEST_LISTS = 8


class FaissIndex(IndexFile):
    """A FAISS index under inner product.

    Args:
        destination: ``out`` is the file; ``index`` is a word of :data:`INDEXES` or a string for FAISS' index factory,
            such as ``IVF1024,SQ8``.
    """

    target, library = "faiss", "FAISS"

    def __init__(self, destination: Destination) -> None:
        self._faiss = optional("faiss", extra="faiss")
        index = destination.index
        if destination.dtype == "float16" and index not in ("flat", "hnsw"):
            raise ValueError(
                f"dtype: expected float32 with index '{index}', which has a storage of its own, got float16"
            )
        if re.search(r"\bIDMap2?\b", index):
            raise ValueError(f"index: expected no IDMap, which is added anyway, got '{index}'; leave it out")
        super().__init__(destination)

    def _check_contents(self, contents: Contents) -> None:
        if contents.metric == "cosine" and not contents.manifest.keep_norm:
            raise ValueError("metric: expected inner_product or euclidean, which FAISS has, got cosine")
        is_directions = contents.same_length or contents.manifest.keep_norm
        if re.search(r"\bL2norm\b", self.destination.index, re.IGNORECASE) and not is_directions:
            raise ValueError(
                f"index: expected no L2norm, which divides every norm out again, got '{self.destination.index}'; leave "
                "it out, or make all lengths equal with augment"
            )

    def _add(self, vectors: Numbers, numbers: Numbers) -> None:
        self._index.add_with_ids(vectors, numbers)

    def _nearest(self, queries: Numbers, depth: int) -> tuple[Numbers, Numbers]:
        scores, numbers = self._index.search(queries, min(depth, self._index.ntotal))
        return -scores if self._index.metric_type == self._faiss.METRIC_L2 else scores, numbers

    def _read(self, file: Path) -> Any:
        return self._faiss.read_index(str(file))

    def _write(self, file: Path) -> None:
        self._faiss.write_index(self._index, str(file))

    def _ids_inside(self, index: Any) -> list[str]:
        return [str(number) for number in self._faiss.vector_to_array(index.id_map).tolist()]

    def _stored_width(self) -> dict[str, int]:
        return _kept_width(self.width.values)

    def _empty(self, contents: Contents, row_count: int) -> Any:
        metric = self._faiss.METRIC_L2 if contents.metric == "euclidean" else self._faiss.METRIC_INNER_PRODUCT
        factory = self._factory(contents, row_count)
        for neighbours in map(int, re.findall(r"HNSW(\d+)", factory)):
            check_neighbours(neighbours, library="FAISS")
        try:
            inner = self._faiss.index_factory(contents.dim, factory, metric)
            if self.destination.index == "pq":  # what few points lose is measured, FAISS need not warn of it
                quantizer = getattr(inner, "pq", None) or self._faiss.downcast_index(inner.index).pq
                quantizer.cp.min_points_per_centroid = 1
            if not inner.is_trained:
                inner.train(contents.sample.numpy())
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[-1].rpartition("' failed: ")[2] or str(error)
            raise ValueError(
                f"index: FAISS cannot make '{factory}' of {len(contents.sample):,} vectors of {contents.dim} numbers "
                f"({reason}); take another, or flat"
            ) from error
        return self._faiss.IndexIDMap2(inner)

    def _factory(self, contents: Contents, row_count: int) -> str:
        index, parameters = self.destination.index, self.destination.parameters
        half = self.destination.dtype == "float16"
        if index == "flat":
            return "SQfp16" if half else "Flat"
        if index == "hnsw":
            return f"HNSW{parameters.m or _NEIGHBOURS},{'SQfp16' if half else 'Flat'}"
        if index not in ("ivfpq", "pq"):
            return _FACTORIES.get(index, index)
        if len(contents.sample) < _PQ_CENTROIDS:
            raise ValueError(
                f"index: expected at least {_PQ_CENTROIDS} vectors for {index} to learn from, got "
                f"{len(contents.sample)}; take flat"
            )
        subquantizers = parameters.subvectors or -(-contents.dim // 8)
        padded_dim = -(-contents.dim // subquantizers) * subquantizers
        padded = f"Pad{padded_dim}," if padded_dim != contents.dim else ""
        if index == "pq":
            return f"{padded}PQ{subquantizers}x8"
        lists = min(4 * row_count**0.5, len(contents.sample) / _POINTS_A_CENTROID)
        return f"{padded}IVF{max(1, int(lists))},PQ{subquantizers}x8"

    def _set_parameters(self, contents: Contents, row_count: int) -> None:
        inner = self._index.index
        parameters, index = self.destination.parameters, self.destination.index
        graph, lists = self._graph(inner), self._lists(inner)
        names = ["m"] if index == "hnsw" else ["subvectors"] if index in ("ivfpq", "pq") else []
        defaults = {}
        if graph is not None:
            names += ["ef_construction", "ef_search"]
            graph.efConstruction = parameters.ef_construction or graph.efConstruction
            defaults["ef_search"] = (_SEARCHED_NODES, _MOST_NODES)
        if lists is not None:
            names.append("nprobe")
            defaults["nprobe"] = (min(lists.nlist, max(_FEWEST_LISTS, lists.nlist // 8)), lists.nlist)
        if self._needs_candidates:
            names.append("candidates")
            most = _MOST_SCANNED if graph is None else _MOST_CANDIDATES
            defaults["candidates"] = (min(_SEARCHED_NODES, row_count), min(most, row_count))
        parameters.check(names, index=index, target="faiss")
        self.width = SearchWidth.of(parameters, defaults, self.destination.first_width)
        self._put_width()

    def _put_width(self) -> None:
        inner = self._index.index
        graph, lists, kept = self._graph(inner), self._lists(inner), _kept_width(self.width.values)
        if graph is not None and "efSearch" in kept:
            graph.efSearch = kept["efSearch"]
        if lists is not None and "nprobe" in kept:
            lists.nprobe = kept["nprobe"]

    def _graph(self, inner: Any) -> Any:
        plain = self._faiss.downcast_index(inner)
        if isinstance(plain, self._faiss.IndexPreTransform):
            plain = self._faiss.downcast_index(plain.index)
        return getattr(plain, "hnsw", None)

    def _lists(self, inner: Any) -> Any:
        try:
            return self._faiss.extract_index_ivf(inner)
        except RuntimeError:
            return None


def _lines(plan: SearchPlan) -> str:
    """Lines of Python that search by ``queries``, a numpy array ``[n, d]`` of float32."""
    file, is_reweighted = Path(plan.destination.out), plan.norm_power not in (None, 0)
    depth = max(plan.k, plan.width.get("candidates", 0)) if is_reweighted else plan.k
    lines = ["import faiss", "import numpy as np", f"index = faiss.read_index({str(file)!r})"]
    lines += [f"# the file keeps {name} {value}" for name, value in _kept_width(plan.width).items()]
    lines += [*plan.queries(), f"scores, rows = index.search(queries, {depth})"]
    if is_reweighted:
        lines += [
            f"scores = scores * np.load({str(norm_file(file))!r})[rows]{plan.weight}",
            f"best = (-scores).argsort(1)[:, :{plan.k}]",
            "scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)",
        ]
    if not plan.has_id_file:
        return "\n".join([*lines, "ids = rows"])
    return "\n".join(["from pathlib import Path", *lines, f"ids = {ids_array(file)}[rows]"])


def _kept_width(width: Mapping[str, int]) -> dict[str, int]:
    kept = {"nprobe": width["nprobe"]} if "nprobe" in width else {}
    if "ef_search" in width:
        kept["efSearch"] = max(width["ef_search"], width.get("candidates", 0))
    return kept


TARGETS = {
    "faiss": IndexTarget(
        FaissIndex,
        _lines,
        extra="faiss",
        ending=".faiss",
        candidates=(
            *GRAPH_CANDIDATES,
            Candidate(
                "int8 directions, norms apart", "sq8", keep_norm=True, parameters=("candidates",), scan_share=0.25
            ),
        ),
    )
}
