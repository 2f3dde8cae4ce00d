"""FAISS: an index file, with ids inside it or beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lightning_normdyn.retrieval.indexes.id_file import check_lines, check_place, id_file, read_ids, write_ids
from lightning_normdyn.retrieval.indexes.staged_path import StagedPath, check_staged_place, local_place
from lightning_normdyn.retrieval.indexes.writer import Contents, Destination, IndexTarget, SearchResult, optional

_LARGEST_ID = 2**63 - 1
_POINTS_A_CENTROID = 39  # below that FAISS warns that centroids are poor
_PQ_CENTROIDS = 256
_SEARCHED_NODES = 64
_FEWEST_LISTS = 8


class FaissIndex:
    """A FAISS index under inner product.

    Ids that are whole numbers are those of the index; others are numbered, and ``<file>.ids.txt`` says which number is
    which. FAISS keeps the index in memory while it is built.

    Args:
        destination: ``out`` is the file; ``index`` is ``flat``, ``hnsw``, ``ivfpq`` (a byte for every 8 numbers) or a
            string for FAISS' index factory, such as ``IVF1024,SQ8``.
    """

    def __init__(self, destination: Destination) -> None:
        self._faiss = optional("faiss", extra="faiss")
        self.file, self.destination = local_place(destination.out, target="faiss"), destination
        if destination.dtype == "float16" and destination.index not in ("flat", "hnsw"):
            raise ValueError(
                f"dtype: expected float32 with index '{destination.index}', which has a storage of its own, got float16"
            )
        if re.search(r"\bIDMap2?\b", destination.index):
            raise ValueError(
                f"index: expected no IDMap, which is added anyway, got '{destination.index}'; leave it out"
            )
        check_staged_place(self.file, overwrite=destination.overwrite)
        self._output: StagedPath | None = None
        self._index: Any = None
        self._numbers: np.ndarray[Any, Any] | None = None
        self._row_count = 0

    @property
    def approximate(self) -> bool:
        """All but ``flat`` are."""
        return self.destination.index != "flat"

    def open(self, contents: Contents) -> None:
        """Builds the empty index and lets it learn from the sample."""
        if contents.metric == "cosine":
            raise ValueError("metric: expected inner_product or euclidean, which FAISS has, got cosine")
        if re.search(r"\bL2norm\b", self.destination.index, re.IGNORECASE) and not contents.same_length:
            raise ValueError(
                f"index: expected no L2norm, which divides every norm out again, got '{self.destination.index}'; leave "
                "it out, or make all lengths equal with augment"
            )
        self._numbers = whole_numbers(contents.ids)
        check_place(self.file, has_id_file=self._numbers is None, overwrite=self.destination.overwrite)
        if self._numbers is None:
            check_lines(contents.ids)
        self._index = self._empty(contents)
        self._output = StagedPath(self.file, overwrite=self.destination.overwrite)
        if self._numbers is None:
            write_ids(id_file(self._output.path), contents.ids)
            self._numbers = np.arange(len(contents.ids))

    def add(self, ids: Sequence[str], vectors: Tensor) -> None:
        """Adds them to the index in memory."""
        assert self._numbers is not None
        self._index.add_with_ids(vectors.numpy(), self._numbers[self._row_count : self._row_count + len(ids)])
        self._row_count += len(ids)

    def close(self) -> None:
        """Writes the file and moves it into place."""
        assert self._output is not None
        try:
            self._faiss.write_index(self._index, str(self._output.path))
        except RuntimeError as error:
            raise OSError(f"out: FAISS cannot write '{self.file}' ({error}); is the disk full?") from error
        self._index = None
        self._output.publish()

    def discard(self) -> None:
        """Removes what was written."""
        if self._output is not None:
            self._output.discard()

    def search(self, queries: Tensor, k: int) -> SearchResult:
        """Reads the file again and asks it."""
        index = self._faiss.read_index(str(self.file))
        scores, numbers = index.search(queries.float().numpy(), k)
        if index.metric_type == self._faiss.METRIC_L2:
            scores = -scores
        file_ids = read_ids(id_file(self.file)) if id_file(self.file).exists() else None
        ids = [
            [str(number) if file_ids is None else file_ids[number] for number in row if number >= 0]
            for row in numbers.tolist()
        ]
        return SearchResult(ids, scores.tolist())

    def _empty(self, contents: Contents) -> Any:
        metric = self._faiss.METRIC_L2 if contents.metric == "euclidean" else self._faiss.METRIC_INNER_PRODUCT
        factory = self._factory(contents)
        try:
            inner = self._faiss.index_factory(contents.dim, factory, metric)
            if not inner.is_trained:
                inner.train(contents.sample.numpy())
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[-1].rpartition("' failed: ")[2] or str(error)
            raise ValueError(
                f"index: FAISS cannot make '{factory}' of {len(contents.sample):,} vectors of {contents.dim} numbers "
                f"({reason}); take another, or flat"
            ) from error
        self._search_wider(inner)
        return self._faiss.IndexIDMap2(inner)

    def _factory(self, contents: Contents) -> str:
        half = self.destination.dtype == "float16"
        if self.destination.index == "flat":
            return "SQfp16" if half else "Flat"
        if self.destination.index == "hnsw":
            return "HNSW32,SQfp16" if half else "HNSW32,Flat"
        if self.destination.index == "ivfpq":
            if len(contents.sample) < _PQ_CENTROIDS:
                raise ValueError(
                    f"index: expected at least {_PQ_CENTROIDS} vectors for ivfpq to learn from, got "
                    f"{len(contents.sample)}; take flat"
                )
            lists = min(4 * len(contents.ids) ** 0.5, len(contents.sample) / _POINTS_A_CENTROID)
            subquantizers = -(-contents.dim // 8)
            padded = f"Pad{8 * subquantizers}," if contents.dim % 8 else ""
            return f"{padded}IVF{max(1, int(lists))},PQ{subquantizers}x8"
        return self.destination.index

    def _search_wider(self, index: Any) -> None:
        """Sets how much a search looks at, which the file keeps: 64 nodes of a graph; 8 lists or an eighth of them."""
        inner = self._faiss.downcast_index(index)
        if hasattr(inner, "hnsw"):
            inner.hnsw.efSearch = _SEARCHED_NODES
        try:
            lists = self._faiss.extract_index_ivf(index)
        except RuntimeError:
            return
        lists.nprobe = min(lists.nlist, max(_FEWEST_LISTS, lists.nlist // 8))


def whole_numbers(ids: Sequence[str]) -> np.ndarray[Any, Any] | None:
    """Ids as int64, if each is a whole number written as numbers are, from 0 on.

    Example:
        >>> whole_numbers(["7", "0"]), whole_numbers(["007", "0"])
        (array([7, 0]), None)
    """
    plain = all(text.isascii() and text.isdigit() and (text == "0" or text[0] != "0") for text in ids)
    if not plain or any(len(text) > 19 or int(text) > _LARGEST_ID for text in ids):
        return None
    return np.array([int(text) for text in ids], dtype=np.int64)


TARGETS = {"faiss": IndexTarget(FaissIndex, "faiss.read_index(file).search(queries, k)", extra="faiss")}
