"""Exports embeddings from disk to an index: checks them, writes them folded, measures the recall that is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.export.survey import PartSurveyor, Survey, check_ids, check_radius, joined_surveys
from lightning_normdyn.retrieval.indexes import Contents, IndexWriter, SearchResult
from lightning_normdyn.retrieval.search.document_chunks import Spread, in_one_part
from lightning_normdyn.retrieval.search.top_k import TopK, exact_top_k, merged_top_k

_SAMPLE_ROWS = 65_536  # that an approximate index learns from
_ROUNDED_ROWS = 2_000  # whose scores are compared before and after rounding


class Source(NamedTuple):
    """Embeddings on disk.

    Attributes:
        file: them.
        ids: one for each row.
        chunk_size: rows in memory at a time.
        spread: makes passes over the file, in parts and on other machines, and is told as ``passes`` is; ``None`` for
            passes that are made here.
    """

    file: EmbeddingFile
    ids: Sequence[str]
    chunk_size: int = 16_384
    spread: Callable[[Callable[[int], object]], Spread] | None = None

    def chunks(self, tell: Callable[[int], object]) -> Iterator[Tensor]:
        """In order; ``tell`` hears how many rows are done with."""
        for chunk in self.file.chunks(self.chunk_size):
            yield chunk
            tell(len(chunk))

    def passes(self, tell: Callable[[int], object]) -> Spread:
        """Makes passes over the file; ``tell`` hears how many rows are done with."""
        if self.spread is not None:
            return self.spread(tell)
        return in_one_part(partial(self.chunks, tell), self.file.rows)


def _nobody(rows: int) -> None:
    del rows


class FoldingPass(NamedTuple):
    """Folds some of the rows, as they are compared or as the index gets them.

    Attributes:
        folding: how.
        radius: of all folded rows, for the index; ``None`` for no coordinate more.
    """

    folding: Folding
    radius: float | None

    def folded(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Each chunk."""
        for chunk in chunks:
            yield (
                self.folding.fold(chunk)
                if self.radius is None
                else self.folding.index_documents(chunk, radius=self.radius)
            )

    def all_folded(self, chunks: Iterable[Tensor], rows: range) -> tuple[range, Tensor]:
        """These rows as one tensor."""
        folded_chunks = list(self.folded(chunks))
        return rows, folded_chunks[0] if len(folded_chunks) == 1 else torch.cat(folded_chunks)


class NearestPass(NamedTuple):
    """Finds the best of some folded rows.

    Attributes:
        queries: ``[n, d]``.
        k: documents a query.
        folding: of the rows.
    """

    queries: Tensor
    k: int
    folding: FoldingPass

    def best(self, chunks: Iterable[Tensor], rows: range) -> tuple[int, TopK]:
        """The first row, and the best by position from there on."""
        return rows.start, exact_top_k(self.queries, self.folding.folded(chunks), self.k)


def survey_source(
    source: Source, folding: Folding, *, half: bool = False, tell: Callable[[int], object] = _nobody
) -> Survey:
    """Checks every id and every row.

    Args:
        source: embeddings and ids.
        folding: how they will be folded.
        half: whether they have to fit into float16.
        tell: hears how many rows are done with, for a progress bar.

    Raises:
        ValueError: if ids come twice or do not fit, a row is not finite, too large or too small, or what ``augment``
            makes of them is too large.
    """
    check_ids(source.ids, source.file.rows)
    surveyor = PartSurveyor(folding.fold, len(source.ids), _SAMPLE_ROWS, half=half)
    summary = joined_surveys(source.passes(tell)(surveyor), source.ids)
    if folding.augment:
        check_radius(summary.radius, folding.metric, half=half)
    return summary


def write_index(
    source: Source,
    folding: Folding,
    summary: Survey,
    writer: IndexWriter,
    *,
    tell: Callable[[int], object] = _nobody,
    opened: Callable[[], object] = tuple,
) -> None:
    """Folds embeddings chunk by chunk into an index, which appears when it is whole.

    Args:
        source: embeddings and ids.
        folding: how.
        summary: what :func:`survey_source` found.
        writer: of the index.
        tell: hears how many rows are done with.
        opened: called when the place has been accepted, before any vector is written.

    Raises:
        ValueError: if the index cannot take them; then, as after any other error and Ctrl-C, all is as it was.
        OSError: likewise.
    """
    # In parts: norms are taken in float64, which for the whole sample would be the most memory of all.
    sample_chunks = summary.sample.split(source.chunk_size)
    sample = torch.cat([folding.index_documents(sample_chunk, radius=summary.radius) for sample_chunk in sample_chunks])
    try:
        writer.open(Contents(sample.shape[1], folding.metric, source.ids, sample, folding.augment))
        opened()
        work = FoldingPass(folding, summary.radius).all_folded
        for rows, vectors in source.passes(tell)(work, by_chunk=True):
            writer.add(source.ids[rows.start : rows.stop], vectors)
        writer.close()
    except BaseException:
        writer.discard()
        raise


def measure_loss(
    source: Source,
    folding: Folding,
    summary: Survey,
    writer: IndexWriter,
    queries: Tensor,
    *,
    k: int = 10,
    half: bool = False,
    tell: Callable[[int], object] = _nobody,
) -> ExportLoss:
    """Asks the index that was written, and compares with an exact search in float32 over what was folded.

    Args:
        source: embeddings and ids.
        folding: how they were folded.
        summary: what :func:`survey_source` found.
        writer: of the index, closed.
        queries: ``[n, d]``.
        k: nearest vectors to look for.
        half: whether vectors were rounded to float16.
        tell: hears how many rows are done with.
    """
    neighbours = writer.search(folding.index_queries(queries), k)
    part_bests = list(source.passes(tell)(NearestPass(queries, k, FoldingPass(folding, None)).best))
    best = merged_top_k((top_k for _, top_k in part_bests), (first_row for first_row, _ in part_bests), k)
    error = score_error(queries, folding.fold(summary.sample[:_ROUNDED_ROWS]), torch.float16) if half else None
    return ExportLoss(recall_of(neighbours, best, source.ids), k, len(queries), error)


class ExportLoss(NamedTuple):
    """Measured on a sample of queries.

    Attributes:
        recall: share of the exact ``k`` best that the index finds among its ``k``, averaged over queries.
        k: as many.
        queries: as many.
        score_error: the largest change of a score by rounding to the stored precision, in units of the query's best
            score in the sample; ``None`` if nothing was rounded.
    """

    recall: float
    k: int
    queries: int
    score_error: float | None


def recall_of(neighbours: SearchResult, exact_best: TopK, ids: Sequence[str]) -> float:
    """Share of the exact best that were found.

    Args:
        neighbours: by the index, as many as the best are.
        exact_best: of the documents as they should be ranked, in float32.
        ids: of the documents.
    """
    best = exact_best.indices.tolist()
    hits = sum(
        len({ids[row] for row in rows} & set(neighbour_ids))
        for rows, neighbour_ids in zip(best, neighbours.ids, strict=True)
    )
    return hits / max(1, sum(map(len, best)))


def score_error(queries: Tensor, vectors: Tensor, dtype: torch.dtype) -> float:
    """The largest change of a score by rounding documents, relative to each query's best score.

    Args:
        queries: ``[n, d]``.
        vectors: documents ``[m, d]`` in float32.
        dtype: what they are rounded to.

    Example:
        >>> score_error(torch.eye(1), torch.tensor([[2049.0]]), torch.float16)  # float16 knows 2048 and 2050
        0.00048...
    """
    exact = queries.double() @ vectors.double().T
    change = (queries.double() @ (vectors.to(dtype).double() - vectors.double()).T).abs()
    best = exact.abs().amax(1, keepdim=True)
    return float((change / best.where(best > 0, 1)).max())
