"""FAISS: an index file, with ids inside it or beside it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from lightning_normdyn.retrieval.indexes.binary_stream import BinaryStream, npy_header
from lightning_normdyn.retrieval.indexes.id_file import (
    are_rows,
    check_lines,
    check_place,
    id_file,
    ids_array,
    norm_file,
    read_ids,
    write_ids,
)
from lightning_normdyn.retrieval.indexes.manifest import Manifest, existing_manifest, manifest_file
from lightning_normdyn.retrieval.indexes.search_width import SearchWidth
from lightning_normdyn.retrieval.indexes.staged_path import StagedPath, check_staged_place, local_place
from lightning_normdyn.retrieval.indexes.writer import (
    Candidate,
    Contents,
    Destination,
    IndexTarget,
    SearchPlan,
    SearchResult,
    check_vectors_alone,
    optional,
)

_FACTORIES = {"sq8": "SQ8", "sq4": "SQ4", "binary": "RaBitQ"}
INDEXES = ("flat", "hnsw", "ivfpq", "pq", *_FACTORIES)
"""Words for indexes: exact, a graph, lists of product codes, and codes that are all scanned: product codes, int8, int4
and one bit a number."""

_LARGEST_ID = 2**63 - 1
_FEWEST_NEIGHBOURS, _MOST_NEIGHBOURS = 2, 1024
_POINTS_A_CENTROID = 39  # below that FAISS warns that centroids are poor
_PQ_CENTROIDS = 256
_NEIGHBOURS = 32
_SEARCHED_NODES, _MOST_NODES, _MOST_CANDIDATES = 64, 1024, 4096
_MOST_SCANNED = 16_384  # candidates where everything is compared anyway
_FEWEST_LISTS = 8
_SECONDS_BETWEEN_SAVES, _LEAST_SHARE = 120.0, 20


class FaissIndex:
    """A FAISS index under inner product.

    Ids that are whole numbers are those of the index; others are numbered, and ``<file>.ids.txt`` says which number is
    which. Where norms are kept apart, the index holds directions under the numbers of their rows, and
    ``<file>.norms.npy`` their norms. FAISS keeps the index in memory while it is built, and what is built is put on the
    disk now and then, so that an export that was killed goes on from there.

    Args:
        destination: ``out`` is the file; ``index`` is a word of :data:`INDEXES` or a string for FAISS' index factory,
            such as ``IVF1024,SQ8``.
    """

    def __init__(self, destination: Destination) -> None:
        self._faiss = optional("faiss", extra="faiss")
        self.file, self.destination = local_place(destination.out, target="faiss"), destination
        index = destination.index
        if destination.dtype == "float16" and index not in ("flat", "hnsw"):
            raise ValueError(
                f"dtype: expected float32 with index '{index}', which has a storage of its own, got float16"
            )
        if re.search(r"\bIDMap2?\b", index):
            raise ValueError(f"index: expected no IDMap, which is added anyway, got '{index}'; leave it out")
        check_vectors_alone(destination, target="faiss")
        self._overwrite = destination.overwrite or destination.append
        check_staged_place(self.file, overwrite=self._overwrite)
        self.width = SearchWidth()
        self.existing_ids: list[str] = []
        self.rows_done = 0
        self._manifest = Manifest(1.0)
        self._output: StagedPath | None = None
        self._index: Any = None
        self._numbers: np.ndarray[Any, Any] | None = None
        self._norms: BinaryStream | None = None
        self._saved_at, self._saving_seconds = time.monotonic(), 0.0
        self._row_count = 0
        self._written_width: dict[str, int] = {}

    @property
    def approximate(self) -> bool:
        """All but ``flat`` are, and so is that where scores are made of the nearest by direction."""
        return self.destination.index != "flat" or self._needs_candidates

    @property
    def _needs_candidates(self) -> bool:
        return self._manifest.keep_norm and self._manifest.exponent != 0

    def open(self, contents: Contents) -> None:
        """Builds the empty index and lets it learn from the sample, or takes over the one that is there."""
        if contents.metric == "cosine" and not contents.manifest.keep_norm:
            raise ValueError("metric: expected inner_product or euclidean, which FAISS has, got cosine")
        is_directions = contents.same_length or contents.manifest.keep_norm
        if re.search(r"\bL2norm\b", self.destination.index, re.IGNORECASE) and not is_directions:
            raise ValueError(
                f"index: expected no L2norm, which divides every norm out again, got '{self.destination.index}'; leave "
                "it out, or make all lengths equal with augment"
            )
        is_extended = self.destination.append and self.file.exists()
        if is_extended:
            contents.manifest.check_same(existing_manifest(self.file))
            self._index = self._faiss.read_index(str(self.file))
            self.existing_ids = _stored_ids(self.file, self._faiss.vector_to_array(self._index.id_map))
        known_ids = set(self.existing_ids)
        ids = [*self.existing_ids, *(new_id for new_id in contents.ids if new_id not in known_ids)]
        self._manifest = contents.manifest._replace(rows=len(ids), metric=contents.metric)
        self._numbers = None if self._manifest.keep_norm and not are_rows(ids) else whole_numbers(ids)
        has_id_file = self._numbers is None
        check_place(self.file, has_id_file=has_id_file, overwrite=self._overwrite)
        if has_id_file:
            check_lines(ids)
        elif is_extended and id_file(self.file).exists():
            raise ValueError("append: expected ids as those of the index, got whole numbers alone; rename them")
        inner = self._empty(contents, len(ids)) if self._index is None else self._index.index
        self._set_parameters(inner, contents, len(ids))
        self._index = self._faiss.IndexIDMap2(inner) if self._index is None else self._index
        self._output = StagedPath(self.file, overwrite=self._overwrite, resume_key=contents.resume_key)
        self._start(self._output, ids, has_id_file=has_id_file)

    def add(
        self, ids: Sequence[str], vectors: Tensor, norms: Tensor | None = None, payload: pa.Table | None = None
    ) -> None:
        """Adds them to the index in memory."""
        del payload  # refused from the start
        assert self._numbers is not None
        self._index.add_with_ids(vectors.numpy(), self._numbers[self._row_count : self._row_count + len(ids)])
        self._row_count += len(ids)
        if norms is not None and self._norms is not None:
            self._norms.write(norms.numpy())
        if time.monotonic() - self._saved_at > max(_SECONDS_BETWEEN_SAVES, _LEAST_SHARE * self._saving_seconds):
            self._save()

    def close(self) -> None:
        """Writes the file and moves it into place."""
        assert self._output is not None
        self._write(self._output.path)
        if self._norms is not None:
            self._norms.close()
        _partial(self._output.path).unlink(missing_ok=True)
        self._manifest.write(manifest_file(self._output.path))
        self._index, self._written_width = None, _kept_width(self.width.values)
        self._output.publish()
        if not self._manifest.keep_norm:
            norm_file(self.file).unlink(missing_ok=True)  # of the index that was replaced

    def discard(self) -> None:
        """Removes what was written."""
        if self._norms is not None:
            self._norms.close()
        if self._output is not None:
            self._output.discard()

    def finish(self, findings: Mapping[str, Any]) -> None:
        """Keeps the width in the file, if it is another by now, and writes the manifest."""
        if self._index is not None and _kept_width(self.width.values) != self._written_width:
            self._put_width()
            staged = StagedPath(self.file, overwrite=True)
            try:
                self._write(staged.path)
                staged.publish()
            except BaseException:
                staged.discard()
                raise
            self._written_width = _kept_width(self.width.values)
        self._manifest.write(manifest_file(self.file), findings)

    def search(self, queries: Tensor, k: int) -> SearchResult:
        """Reads the file again and asks it."""
        if self._index is None:
            self._index = self._faiss.read_index(str(self.file))
        index = self._index
        self._put_width()
        depth = max(k, self.width.values["candidates"]) if self._needs_candidates else k
        scores, numbers = index.search(queries.float().numpy(), min(depth, index.ntotal))
        if index.metric_type == self._faiss.METRIC_L2:
            scores = -scores
        if self._needs_candidates:
            scores = scores * (np.load(norm_file(self.file)) ** np.float32(self._manifest.exponent))[numbers]
            scores[numbers < 0] = -np.inf
            best = (-scores).argsort(1, kind="stable")[:, :k]
            scores, numbers = np.take_along_axis(scores, best, 1), np.take_along_axis(numbers, best, 1)
        file_ids = read_ids(id_file(self.file)) if id_file(self.file).exists() else None
        ids = [
            [str(number) if file_ids is None else file_ids[number] for number in row if number >= 0]
            for row in numbers.tolist()
        ]
        return SearchResult(ids, scores.tolist())

    def _start(self, output: StagedPath, ids: Sequence[str], *, has_id_file: bool) -> None:
        """Writes ids and the beginning of norms, and takes over what a killed export had put on the disk."""
        self.rows_done = output.rows_done
        self._row_count = self.rows_done or len(self.existing_ids)
        if has_id_file:
            write_ids(id_file(output.path), ids)
            self._numbers = np.arange(len(ids))
        if self.rows_done:
            self._index = self._faiss.read_index(str(_partial(output.path)))
        if self._manifest.keep_norm:
            header = npy_header("<f4", (len(ids),))
            self._norms = BinaryStream(norm_file(output.path), header, 4, rows_done=self.rows_done)
            if self.existing_ids and not self.rows_done:
                self._norms.copy(norm_file(self.file), len(self.existing_ids))

    def _save(self) -> None:
        """Puts on the disk what there is so far, for the next export if this one is killed."""
        assert self._output is not None
        if self._output.is_resumable:
            started = time.monotonic()
            fresh = _partial(self._output.path).with_suffix(".new")
            self._write(fresh)
            if self._norms is not None:
                self._norms.sync()
            fresh.replace(_partial(self._output.path))
            self._output.checkpoint(self._row_count)
            self._saving_seconds = time.monotonic() - started
        self._saved_at = time.monotonic()

    def _write(self, file: Path) -> None:
        try:
            self._faiss.write_index(self._index, str(file))
        except RuntimeError as error:
            raise OSError(f"out: FAISS cannot write '{self.file}' ({error}); is the disk full?") from error

    def _empty(self, contents: Contents, row_count: int) -> Any:
        metric = self._faiss.METRIC_L2 if contents.metric == "euclidean" else self._faiss.METRIC_INNER_PRODUCT
        factory = self._factory(contents, row_count)
        check_neighbours(factory)
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
        return inner

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

    def _set_parameters(self, inner: Any, contents: Contents, row_count: int) -> None:
        """Sets how a graph is built and how much a search looks at, which the file keeps.

        Raises:
            ValueError: if the user set something that the index does not have.
        """
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
        self._put_width_into(inner)

    def _put_width(self) -> None:
        self._put_width_into(self._index.index)

    def _put_width_into(self, inner: Any) -> None:
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


def check_neighbours(factory: str) -> None:
    """Refuses graphs that FAISS builds to a segmentation fault, or to the end of the memory.

    Args:
        factory: the string for its index factory.

    Raises:
        ValueError: if a graph of it has one neighbour a node, or more than 1,024.

    Example:
        >>> check_neighbours("IVF64_HNSW32,Flat")
        >>> check_neighbours("HNSW1,Flat")
        Traceback (most recent call last):
        ValueError: m: expected 2 to 1024 neighbours of a node of a graph of FAISS, got 1; 16 to 64 are usual
    """
    for count in map(int, re.findall(r"HNSW(\d+)", factory)):
        if not _FEWEST_NEIGHBOURS <= count <= _MOST_NEIGHBOURS:
            raise ValueError(
                f"m: expected {_FEWEST_NEIGHBOURS} to {_MOST_NEIGHBOURS} neighbours of a node of a graph of FAISS, got "
                f"{count}; 16 to 64 are usual"
            )


def _partial(file: Path) -> Path:
    return file.with_name(".partial.faiss")


def _stored_ids(file: Path, numbers: np.ndarray[Any, Any]) -> list[str]:
    """Ids of an index in the order of its rows."""
    return read_ids(id_file(file)) if id_file(file).exists() else [str(number) for number in numbers.tolist()]


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


_OF_DIRECTIONS = ("m", "ef_construction", "ef_search", "candidates")

TARGETS = {
    "faiss": IndexTarget(
        FaissIndex,
        _lines,
        extra="faiss",
        candidates=(
            Candidate("plain graph", "hnsw"),
            Candidate("graph, one dimension more", "hnsw", augment=True),
            Candidate("graph of directions, norms apart", "hnsw", keep_norm=True, parameters=_OF_DIRECTIONS),
            Candidate(
                "int8 directions, norms apart", "sq8", keep_norm=True, parameters=("candidates",), scan_share=0.25
            ),
        ),
    )
}
