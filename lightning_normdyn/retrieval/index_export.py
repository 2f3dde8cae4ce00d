"""From embeddings on disk to an index: looked through once, written once, and its loss measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.retrieval.export_loss import ExportLoss, recall_of, score_error
from lightning_normdyn.retrieval.export_survey import Survey, check_ids, check_radius, survey
from lightning_normdyn.retrieval.folding import Folding
from lightning_normdyn.retrieval.indexes import Contents, IndexWriter

_LEARNT_FROM = 65_536
_MULTIPLIED = 2_000


class Source(NamedTuple):
    """Embeddings on disk.

    Attributes:
        file: them.
        ids: one for each row.
        rows_a_chunk: how many are in memory at a time.
    """

    file: EmbeddingFile
    ids: Sequence[str]
    rows_a_chunk: int = 16_384

    def chunks(self, tell: Callable[[int], object]) -> Iterator[Tensor]:
        """In order; ``tell`` hears how many rows are done with."""
        for chunk in self.file.chunks(self.rows_a_chunk):
            yield chunk
            tell(len(chunk))


def _nobody(rows: int) -> None:
    del rows


def look_through(
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
    seen = survey(source.chunks(tell), folding.fold, source.ids, sampled=_LEARNT_FROM, half=half)
    if folding.augment:
        check_radius(seen.radius, folding.metric, half=half)
    return seen


def write_index(
    source: Source,
    folding: Folding,
    seen: Survey,
    writer: IndexWriter,
    *,
    tell: Callable[[int], object] = _nobody,
) -> None:
    """Folds embeddings chunk by chunk into an index, which appears when it is whole.

    Args:
        source: embeddings and ids.
        folding: how.
        seen: what :func:`look_through` found.
        writer: of the index.
        tell: hears how many rows are done with.

    Raises:
        ValueError: if the index cannot take them; then, as after any other error and Ctrl-C, all is as it was.
        OSError: likewise.
    """
    # In parts: norms are taken in float64, which for the whole sample would be the most memory of all.
    parts = seen.sample.split(source.rows_a_chunk)
    sample = torch.cat([folding.written(part, radius=seen.radius) for part in parts])
    try:
        writer.open(Contents(sample.shape[1], folding.metric, source.ids, sample, folding.augment))
        at = 0
        for chunk in source.chunks(tell):
            writer.add(source.ids[at : at + len(chunk)], folding.written(chunk, radius=seen.radius))
            at += len(chunk)
        writer.close()
    except BaseException:
        writer.discard()
        raise


def measure_loss(
    source: Source,
    folding: Folding,
    seen: Survey,
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
        seen: what :func:`look_through` found.
        writer: of the index, closed.
        queries: ``[n, d]``.
        k: nearest vectors to look for.
        half: whether vectors were rounded to float16.
        tell: hears how many rows are done with.
    """
    found = writer.search(folding.asked(queries), k)
    folded = (folding.fold(chunk) for chunk in source.chunks(tell))
    error = score_error(queries, folding.fold(seen.sample[:_MULTIPLIED]), torch.float16) if half else None
    return ExportLoss(recall_of(found, queries, folded, source.ids, k), k, len(queries), error)
