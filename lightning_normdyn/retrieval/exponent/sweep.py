"""Sweeps the exponent of the document norm: the measure of every query at every exponent, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.core.statistics.ranking import grade_ranking, measure_named
from lightning_normdyn.datasets.judgements import Judgements
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.retrieval.exponent.running_alpha_top_k import RunningAlphaTopK, norm_bands
from lightning_normdyn.retrieval.exponent.scoring import NormAwareScore
from lightning_normdyn.retrieval.search.document_chunks import Documents, document_chunks, row_count
from lightning_normdyn.retrieval.search.excluded_pairs import ExcludedPairs
from lightning_normdyn.retrieval.search.tiles import Tile, tile_width
from lightning_normdyn.retrieval.search.top_k import checked_queries, rounded_chunk_size

_QUERIES = 4096
ALPHAS = tuple(step / 5 for step in range(-10, 11))
"""From -2 to 2 in 21 steps."""


class AlphaSweep(NamedTuple):
    """A measure of every query's ranking at every exponent.

    Attributes:
        alphas: exponents of the document norm in the score, ascending, ``[a]``; 0 is among them.
        values: the measure of each query at each of them, float64 ``[a, n]``; NaN for a query without judgements.
        measure: its name, such as ``ndcg@10``.
    """

    alphas: Tensor
    values: Tensor
    measure: str


@torch.no_grad()
def sweep_alpha(
    queries: Tensor,
    documents: Documents,
    judgements: Judgements,
    *,
    alphas: Sequence[float] | Tensor = ALPHAS,
    measure: str = "ndcg@10",
    normalization: Normalization = "cosine",
    gamma_query: float | None = None,
    gamma_document: float | None = None,
    chunk_size: int | None = None,
    excluded_pairs: tuple[Tensor, Tensor] | None = None,
) -> AlphaSweep:
    """Measures the ranking of every query at every exponent of the document norm.

    Scores are ``<q, d> · |d|^(alpha - gamma_document)`` (docs/theory.md, "Scores with an exponent of the norm"). Every
    inner product is computed once and compared once: documents go by norm, and a document enters no ranking if its
    product is below the lowest that would do at any exponent for the shortest or longest norm of those beside it. The
    rest is scored at each exponent.

    Args:
        queries: ``[n, d]``; those that nothing is relevant to are not searched for.
        documents: ``[m, d]``, as :func:`~lightning_normdyn.retrieval.exact_top_k` takes them.
        judgements: by position in both.
        alphas: exponents, in any order and with 0 among them.
        measure: ``ndcg``, ``mrr``, ``recall``, ``map`` or ``hits`` with a rank, as in ``ndcg@10``; memory grows with
            queries x exponents x rank.
        normalization: what the embeddings were trained with; an exponent is further to it.
        gamma_query: the learnt exponent of queries, for ``learnable`` alone; no ranking depends on it.
        gamma_document: the learnt exponent of documents, for ``learnable`` alone.
        chunk_size: documents that are converted and sorted together; memory grows with it and not with ``m``.
        excluded_pairs: positions of query and document of each pair that must not be found.

    Returns:
        The measure by exponent, ascending, and query.

    Raises:
        ValueError: if something does not fit, is not finite, or a norm is too extreme for its powers.

    Example:
        >>> documents, relevant = torch.tensor([[9.0, 12.0], [0.8, 0.6]]), Judgements.of([(0, 0, 1.0)])
        >>> sweep = sweep_alpha(torch.tensor([[1.0, 0.0]]), documents, relevant, alphas=(-1, 0, 1), measure="mrr@2")
        >>> sweep.values.squeeze(1).tolist()
        [0.5, 0.5, 1.0]
    """
    ranking_measure = measure_named(measure)
    score = NormAwareScore(normalization, gamma_query=gamma_query, gamma_document=gamma_document)
    queries = checked_queries(queries, documents, chunk_size)
    steps = _checked(alphas)
    Judgements.require(judgements).check(len(queries), row_count(documents))
    all_judgements, judgements = (
        judgements,
        Judgements(*(column.to(queries.device) for column in judgements)).relevant(),
    )
    exclusions = None if excluded_pairs is None else ExcludedPairs(excluded_pairs, len(queries), queries.device)
    judged_queries = judgements.queries.unique()
    values = torch.full((len(steps), len(queries)), torch.nan, dtype=torch.float64)
    if not len(judged_queries):
        return AlphaSweep(steps, values, measure)
    # A query's norm changes no ranking, and its direction alone keeps products within float32.
    rankings, document_count = _rankings(
        rescale(queries[judged_queries], 1.0),
        documents,
        steps - score.exponents[1],
        ranking_measure.depth,
        chunk_size,
        exclusions,
        judged_queries,
    )
    all_judgements.check(len(queries), document_count)
    local_judgements = Judgements(torch.searchsorted(judged_queries, judgements.queries), *judgements[1:])
    for number, indices in enumerate(rankings.unbind(1)):
        values[number, judged_queries.cpu()] = ranking_measure.of(
            grade_ranking(indices, local_judgements, depth=ranking_measure.depth)
        ).cpu()
    return AlphaSweep(steps, values, measure)


def _checked(alphas: Sequence[float] | Tensor) -> Tensor:
    try:
        steps = torch.as_tensor(alphas, dtype=torch.float64).cpu()
    except (TypeError, ValueError) as error:
        raise ValueError(f"alphas: expected exponents, 0 among them, got {alphas!r}; pass a list of numbers") from error
    if steps.ndim != 1 or not steps.isfinite().all() or not (steps == 0).any() or len(steps.unique()) < len(steps):
        raise ValueError(
            f"alphas: expected different finite exponents with 0 among them, got {steps.tolist()}; 0 is what the "
            "others are held against"
        )
    return steps.sort().values


def _rankings(
    queries: Tensor,
    documents: Documents,
    powers: Tensor,
    k: int,
    chunk_size: int | None,
    exclusions: ExcludedPairs | None,
    numbers: Tensor,
) -> tuple[Tensor, int]:
    """Positions ``[n, a, k]`` of the best by ``<q, d> · |d|^power``, -1 where there is none; number of documents."""
    d, query_blocks = queries.shape[1], queries.split(_QUERIES)
    width = tile_width(len(query_blocks[0]), queries.device)
    tiles = [Tile(query_block, width) for query_block in query_blocks]
    running_top_k = [
        RunningAlphaTopK(query_block, powers, k, exclusions, query_numbers)
        for query_block, query_numbers in zip(query_blocks, numbers.split(_QUERIES), strict=True)
    ]
    offset = 0
    with torch.autocast(queries.device.type, enabled=False):
        for piece in document_chunks(documents, rounded_chunk_size(chunk_size, d, width), d):
            chunk = piece.to(queries)
            for number, band in enumerate(norm_bands(chunk, width, sample=offset == 0)):
                for tile, top_k in zip(tiles, running_top_k, strict=True):
                    tile.fill(band.documents)
                    top_k.take(tile, band, offset, begin=offset == 0 and number == 0)
            offset += len(chunk)
    return torch.cat([top_k.indices() for top_k in running_top_k]), offset
