"""Exports embeddings from disk to an index: checks them, writes them folded, measures the recall that is lost."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.datasets.payload_columns import PayloadColumns
from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.export.survey import PartSurveyor, Survey, check_ids, check_radius, joined_surveys
from lightning_normdyn.retrieval.export.width_tuning import tune_width
from lightning_normdyn.retrieval.indexes import Contents, IndexWriter, Manifest, read_manifest
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
        payload: columns that go along with the embeddings, if any do.
    """

    file: EmbeddingFile
    ids: Sequence[str]
    chunk_size: int = 16_384
    spread: Callable[[Callable[[int], object]], Spread] | None = None
    payload: PayloadColumns | None = None

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

    def all_folded(self, chunks: Iterable[Tensor], rows: range) -> tuple[range, Tensor, Tensor | None]:
        """These rows as one tensor, and their norms where they are kept apart."""
        raw_chunks = list(chunks)
        norms = [self.folding.norms(chunk) for chunk in raw_chunks]
        folded_chunks = list(self.folded(raw_chunks))
        vectors = folded_chunks[0] if len(folded_chunks) == 1 else torch.cat(folded_chunks)
        kept_norms = [chunk_norms for chunk_norms in norms if chunk_norms is not None]
        return rows, vectors, torch.cat(kept_norms) if kept_norms else None


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
    radius = _radius(summary, folding, writer)
    sample_chunks = summary.sample.split(source.chunk_size)
    sample = torch.cat([folding.index_documents(sample_chunk, radius=radius) for sample_chunk in sample_chunks])
    manifest = Manifest(
        folding.score.document_power,
        folding.keep_norm,
        radius if folding.augment else None,
        folding.metric,
        writer.destination.index,
        writer.destination.dtype,
        sample.shape[1],
        len(source.ids),
    )
    try:
        key = _resume_key(source, folding, summary, writer)
        contents = Contents(sample.shape[1], folding.metric, source.ids, sample, folding.augment, manifest, key)
        columns = source.payload
        writer.open(contents if columns is None else contents._replace(payload=columns.schema))
        opened()
        work = FoldingPass(folding, radius).all_folded
        new_rows = NewRows(source.ids, writer)
        for rows, vectors, norms in source.passes(tell)(work, by_chunk=True):
            places = new_rows.places(rows)
            payload = columns.read(rows) if columns is not None and places else None
            if len(places) == len(rows):
                writer.add(source.ids[rows.start : rows.stop], vectors, norms, payload)
            elif places:
                ids = [source.ids[rows.start + place] for place in places]
                payload = None if payload is None else payload.take(places)
                writer.add(ids, vectors[places], None if norms is None else norms[places], payload)
        writer.close()
    except BaseException:
        writer.discard()
        raise


class NewRows:
    """Tells which rows a writer does not have yet: those of new ids, after what a killed export had written.

    Args:
        ids: of all rows.
        writer: that has been opened.
    """

    def __init__(self, ids: Sequence[str], writer: IndexWriter) -> None:
        self._ids, self._existing_ids = ids, set(writer.existing_ids)
        self._to_skip = max(0, writer.rows_done - len(writer.existing_ids)) if writer.rows_done else 0

    def places(self, rows: range) -> list[int]:
        """Their places among these rows, which come in order."""
        places = [place for place, row in enumerate(rows) if self._ids[row] not in self._existing_ids]
        skipped = min(self._to_skip, len(places))
        self._to_skip -= skipped
        return places[skipped:]


def _radius(summary: Survey, folding: Folding, writer: IndexWriter) -> float:
    """The length of all vectors with one dimension more: that of those which are there, if rows are appended."""
    existing = read_manifest(Path(writer.destination.out)) if writer.destination.append and folding.augment else None
    if existing is None or existing.radius is None:
        return summary.radius
    if summary.radius > existing.radius:
        raise ValueError(
            f"append: expected folded embeddings no longer than {existing.radius:.6g}, the length of those that are "
            f"there, got {summary.radius:.6g}; export all anew with --overwrite"
        )
    return existing.radius


def _resume_key(source: Source, folding: Folding, summary: Survey, writer: IndexWriter) -> str | None:
    """Tells this export from any other: its embeddings as they lie on the disk, ids, and what is made of them."""
    place = source.file.place.path
    if place is None:
        return None
    files = [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.is_file())
    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    ids = hashlib.sha256("\n".join(source.ids).encode("utf-8", "surrogatepass")).hexdigest()
    content = (stamps, source.file.dim, ids, folding, summary.radius, writer.destination)
    return hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).hexdigest()


def exact_best(
    source: Source, folding: Folding, queries: Tensor, k: int = 10, *, tell: Callable[[int], object] = _nobody
) -> TopK:
    """The documents that an exact search in float32 over what was folded finds, by row.

    Args:
        source: embeddings.
        folding: how they were folded.
        queries: ``[n, d]``.
        k: nearest vectors to look for.
        tell: hears how many rows are done with.
    """
    part_bests = list(source.passes(tell)(NearestPass(queries, k, FoldingPass(folding, None)).best))
    return merged_top_k((top_k for _, top_k in part_bests), (first_row for first_row, _ in part_bests), k)


def measure_loss(
    source: Source,
    folding: Folding,
    summary: Survey,
    writer: IndexWriter,
    queries: Tensor,
    *,
    k: int = 10,
    half: bool = False,
    recall: float = 0.0,
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
        recall: that the writer's width is raised to, as far as it goes.
        tell: hears how many rows are done with.
    """
    best = exact_best(source, folding, queries, k, tell=tell)
    final = tune_width(writer, folding.index_queries(queries), best, source.ids, k, recall)
    error = score_error(queries, folding.fold(summary.sample[:_ROUNDED_ROWS]), torch.float16) if half else None
    return ExportLoss(final.recall, k, len(queries), error)


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
