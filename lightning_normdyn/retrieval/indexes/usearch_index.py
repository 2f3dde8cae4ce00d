"""USearch: a graph in a file, with ids inside it or beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lightning_normdyn.retrieval.indexes.id_file import ids_array, norm_file
from lightning_normdyn.retrieval.indexes.index_file import IndexFile, Numbers
from lightning_normdyn.retrieval.indexes.refusals import check_index, check_neighbours
from lightning_normdyn.retrieval.indexes.search_width import SearchWidth
from lightning_normdyn.retrieval.indexes.writer import (
    GRAPH_CANDIDATES,
    Contents,
    Destination,
    IndexTarget,
    Metric,
    SearchPlan,
    optional,
)

_METRICS: dict[Metric, str] = {"inner_product": "ip", "euclidean": "l2sq", "cosine": "cos"}
_TYPES = {"float32": "f32", "float16": "f16"}
_FEWEST_NEIGHBOURS, _FEWEST_LOOKED_AT = 2, 1  # every file of USearch is a graph: the least that builds one
_SEARCHED_NODES, _MOST_NODES, _MOST_CANDIDATES = 64, 1024, 4096


class USearchIndex(IndexFile):
    """An index of USearch under inner product.

    Its distance is one minus the inner product. The file keeps the graph and the type of the numbers, not how many
    nodes a search looks at.

    Args:
        destination: ``out`` is the file; ``index`` is ``hnsw``, or ``flat`` for searches that compare
            all, whose graph is the smallest that USearch builds.
    """

    target, library = "usearch", "USearch"

    def __init__(self, destination: Destination) -> None:
        self._usearch = optional("usearch.index", extra="usearch")
        check_index(destination.index, ["flat", "hnsw"], target="usearch")
        check_neighbours(destination.parameters.m, library="USearch")
        super().__init__(destination)

    @property
    def _is_exact(self) -> bool:
        return self.destination.index == "flat"

    def _empty(self, contents: Contents, row_count: int) -> Any:
        parameters = self.destination.parameters
        return self._usearch.Index(
            ndim=contents.dim,
            metric=_METRICS[contents.metric],
            dtype=_TYPES[self.destination.dtype],
            connectivity=_FEWEST_NEIGHBOURS if self._is_exact else parameters.m,
            expansion_add=_FEWEST_LOOKED_AT if self._is_exact else parameters.ef_construction,
        )

    def _set_parameters(self, contents: Contents, row_count: int) -> None:
        defaults = {} if self._is_exact else {"ef_search": (_SEARCHED_NODES, _MOST_NODES)}
        if self._needs_candidates:
            most = min(_MOST_CANDIDATES, row_count)
            defaults["candidates"] = (min(_SEARCHED_NODES, most), most)
        names = list(defaults) if self._is_exact else ["m", "ef_construction", *defaults]
        self.destination.parameters.check(names, index=self.destination.index, target="usearch")
        self.width = SearchWidth.of(self.destination.parameters, defaults, self.destination.first_width)

    def _add(self, vectors: Numbers, numbers: Numbers) -> None:
        if self._is_exact:
            self._index.expansion_add = _FEWEST_LOOKED_AT  # which a file that is added to does not keep
        self._index.add(numbers, vectors)

    def _nearest(self, queries: Numbers, depth: int) -> tuple[Numbers, Numbers]:
        count = min(depth, len(self._index))
        scores = np.full((len(queries), count), -np.inf, np.float32)
        numbers = np.full((len(queries), count), -1, np.int64)
        for row, query in enumerate(queries):
            matches = self._index.search(query, count, exact=self._is_exact)
            numbers[row, : len(matches)] = matches.keys
            scores[row, : len(matches)] = self._shift - matches.distances
        return scores, numbers

    @property
    def _shift(self) -> float:
        """What distances are subtracted from to be scores again."""
        return 0.0 if self._manifest.metric == "euclidean" else 1.0

    def _read(self, file: Path) -> Any:
        return self._usearch.Index.restore(str(file))

    def _write(self, file: Path) -> None:
        self._index.save(str(file))

    def _ids_inside(self, index: Any) -> list[str]:
        return [str(number) for number in np.asarray(index.keys).tolist()]

    def _put_width(self) -> None:
        if not self._is_exact:
            self._index.expansion_search = _nodes(self.width.values)


def _nodes(width: Mapping[str, int]) -> int:
    """Nodes that a search looks at: no fewer than the candidates that it is to find."""
    return max(width["ef_search"], width.get("candidates", 0))


def _lines(plan: SearchPlan) -> str:
    """Lines of Python that search by ``queries``, a numpy array ``[n, d]`` of float32."""
    file, is_reweighted = Path(plan.destination.out), plan.norm_power not in (None, 0)
    depth = max(plan.k, plan.width.get("candidates", 0)) if is_reweighted else plan.k
    exact = ", exact=True" if plan.destination.index == "flat" else ""
    lines = ["import numpy as np", "from usearch.index import Index", f"index = Index.restore({str(file)!r})"]
    lines += [] if exact else [f"index.expansion_search = {_nodes(plan.width)}"]
    lines += [*plan.queries(), f"matches = [index.search(query, {depth}{exact}) for query in queries]"]
    if is_reweighted:
        lines += [
            f"norms = np.load({str(norm_file(file))!r})",
            f"scores = [(1 - match.distances) * norms[match.keys]{plan.weight} for match in matches]",
            f"best = [(-row).argsort()[:{plan.k}] for row in scores]",
            "rows = [match.keys[places] for match, places in zip(matches, best)]",
        ]
    else:
        lines.append("rows = [match.keys for match in matches]")
    if not plan.has_id_file:
        return "\n".join([*lines, "ids = rows"])
    naming = [f"names = {ids_array(file)}", "ids = [names[row] for row in rows]"]
    return "\n".join(["from pathlib import Path", *lines, *naming])


TARGETS = {
    "usearch": IndexTarget(
        USearchIndex,
        _lines,
        extra="usearch",
        ending=".usearch",
        candidates=GRAPH_CANDIDATES,
    )
}
