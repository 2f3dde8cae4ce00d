"""Builds kinds of index on a sample and measures them against brute force: which is best is measured, not a rule."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.export.width_tuning import tune_width
from lightning_normdyn.retrieval.indexes import (
    Candidate,
    Contents,
    Destination,
    IndexWriter,
    Manifest,
    SearchWidth,
    index_writer,
)
from lightning_normdyn.retrieval.search.top_k import TopK, exact_top_k

PILOT_ROWS = 20_000
CLOSE = 0.005
"""Recall that one may have less than the best and be taken for less work."""

_ROWS_PER_ADD = 16_384


class PilotResult(NamedTuple):
    """A kind of index on the sample.

    Attributes:
        candidate: what it is.
        recall: share of the exact best that it finds; 0 if it could not be built.
        width: how much a search has to look at for that.
        milliseconds: a query, of many at once.
        work: vectors, or their share by bytes, that a search looks at among all rows: what ranks those of like recall.
        refusal: why it could not be built; empty if it could.
    """

    candidate: Candidate
    recall: float = 0.0
    width: SearchWidth = SearchWidth()
    milliseconds: float = 0.0
    work: float = 0.0
    refusal: str = ""

    def options(self) -> str:
        """As options of the command line, without the width."""
        flags = {"--augment": self.candidate.augment, "--keep-norm": self.candidate.keep_norm}
        return " ".join([f"--index {self.candidate.index}", *(flag for flag, is_set in flags.items() if is_set)])

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "name": self.candidate.name,
            "options": self.options(),
            "recall": round(self.recall, 6),
            "width": dict(self.width.values),
            "milliseconds": round(self.milliseconds, 4),
            "work": self.work,
            **({"refusal": self.refusal} if self.refusal else {}),
        }


class Pilot(NamedTuple):
    """What was tried.

    Attributes:
        results: of each candidate.
        rows: of the sample.
        queries: that were asked.
        k: nearest vectors that were looked for.
        recall: that was asked for.
    """

    results: Sequence[PilotResult]
    rows: int
    queries: int
    k: int
    recall: float

    @property
    def best(self) -> PilotResult:
        """The one of least work among those that meet the recall asked for and are within 0.005 of the best."""
        bar = _bar(self.results, self.recall)
        return min((result for result in self.results if result.recall >= bar), key=lambda result: result.work)

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "rows": self.rows,
            "queries": self.queries,
            "k": self.k,
            "recall_asked_for": self.recall,
            "taken": self.best.candidate.name,
            "tried": [result.as_json() for result in self.results],
        }


class PilotSample(NamedTuple):
    """What candidates are built of.

    Attributes:
        documents: rows as they are, ``[s, d]``.
        queries: ``[n, d]``.
        rows: of all documents, of which these are some.
        k: nearest vectors to look for.
    """

    documents: Tensor
    queries: Tensor
    rows: int
    k: int = 10

    @classmethod
    def drawn(cls, documents: Tensor, queries: Tensor, rows: int, k: int = 10) -> PilotSample:
        """At most 20,000 documents, always the same ones."""
        order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(1))
        return cls(documents[order[:PILOT_ROWS].sort().values], queries, rows, k)


def run_pilot(
    candidates: Sequence[Candidate],
    sample: PilotSample,
    folding: Folding,
    target: str,
    destination: Destination,
    recall: float,
) -> Pilot:
    """Builds every candidate on the sample and widens its search until recall is met, and near the best of all.

    Args:
        candidates: to try.
        sample: to build them of, and queries to ask.
        folding: whose exponents documents are folded with; augmentation and norms apart are the candidate's.
        target: that holds the index, a word of ``TARGETS``.
        destination: whose type and parameters are taken; nothing is written there.
        recall: that is asked for.

    Raises:
        ValueError: if none can be built.
    """
    best = exact_top_k(sample.queries, folding.fold(sample.documents), sample.k)
    with tempfile.TemporaryDirectory() as folder:
        trials = [
            _Trial(candidate, sample, folding, target, _scratch(destination, Path(folder) / str(number), candidate))
            for number, candidate in enumerate(candidates)
        ]
        results = [trial.result(best, recall) for trial in trials]
        if all(result.refusal for result in results):
            raise ValueError(f"index: expected an index that can be built of these vectors; {results[0].refusal}")
        for number, trial in enumerate(trials):
            bar = _bar(results, recall)
            if results[number].recall < bar and not results[number].refusal:
                results[number] = trial.result(best, bar)
    return Pilot(results, len(sample.documents), len(sample.queries), sample.k, recall)


def _bar(results: Sequence[PilotResult], recall: float) -> float:
    """The recall that a candidate has to have: the one asked for, or nearly the best where that is more or less."""
    highest = max(result.recall for result in results)
    return min(highest, max(recall, highest - CLOSE)) if highest >= recall else highest - CLOSE


def _scratch(destination: Destination, folder: Path, candidate: Candidate) -> Destination:
    parameters = destination.parameters.among(candidate.parameters)
    dtype = destination.dtype if candidate.index in ("flat", "hnsw") else "float32"
    return Destination(str(folder), dtype=dtype, index=candidate.index, parameters=parameters)


class _Trial:
    """A candidate, built once and searched at several widths."""

    def __init__(
        self, candidate: Candidate, sample: PilotSample, folding: Folding, target: str, destination: Destination
    ) -> None:
        self._candidate, self._sample = candidate, sample
        self._folding = replace(
            folding, augment=candidate.augment, keep_norm=candidate.keep_norm, metric="inner_product"
        )
        self._writer: IndexWriter | None = None
        self._refusal = ""
        self._ids = [str(row) for row in range(len(sample.documents))]
        try:
            self._writer = index_writer(target, destination)
            self._build(self._writer)
        except ValueError as error:
            self._refusal = str(error)

    def result(self, best: TopK, recall: float) -> PilotResult:
        """At the width that meets this recall, or comes nearest to it."""
        writer, sample = self._writer, self._sample
        if writer is None or self._refusal:
            return PilotResult(self._candidate, refusal=self._refusal)
        queries = self._folding.index_queries(sample.queries)
        step = tune_width(writer, queries, best, self._ids, sample.k, recall)
        with _stopwatch() as seconds:
            writer.search(queries, sample.k)
        scanned = self._candidate.scan_share * sample.rows
        looked_at = max(
            [sample.k, *(v for name, v in step.width.values.items() if name in ("ef_search", "candidates"))]
        )
        milliseconds = 1000 * seconds[0] / max(1, len(queries))
        return PilotResult(self._candidate, step.recall, step.width, milliseconds, scanned + looked_at)

    def _build(self, writer: IndexWriter) -> None:
        folding, documents = self._folding, self._sample.documents
        radius = float(torch.linalg.vector_norm(folding.fold(documents), dim=1, dtype=torch.float64).max())
        vectors, norms = folding.index_documents(documents, radius=radius), folding.norms(documents)
        manifest = Manifest(folding.score.document_power, folding.keep_norm, dim=vectors.shape[1])
        try:
            writer.open(Contents(vectors.shape[1], folding.metric, self._ids, vectors, folding.augment, manifest))
            for start in range(0, len(vectors), _ROWS_PER_ADD):
                rows = slice(start, start + _ROWS_PER_ADD)
                writer.add(self._ids[rows], vectors[rows], None if norms is None else norms[rows])
            writer.close()
        except BaseException:
            writer.discard()
            raise


@contextmanager
def _stopwatch() -> Iterator[list[float]]:
    seconds = [0.0]
    started = time.perf_counter()
    yield seconds
    seconds[0] = time.perf_counter() - started
