"""Rankings at many exponents of the document norm, for little more than the price of one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.core.statistics.ranking import grade_ranking, measure_named
from lightning_normdyn.datasets.judgements import Judgements
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.retrieval.exponent.alpha_leaders import AlphaLeaders, norm_bands
from lightning_normdyn.retrieval.exponent.alpha_sweep import AlphaSweep
from lightning_normdyn.retrieval.exponent.scoring import NormAwareScore
from lightning_normdyn.retrieval.search.chunks import Documents, document_chunks, row_count
from lightning_normdyn.retrieval.search.excluded import Excluded
from lightning_normdyn.retrieval.search.tiles import Tile, tile_width
from lightning_normdyn.retrieval.search.top_k import checked_queries, chunk_rows

_QUERIES = 4096
ALPHAS = tuple(at / 5 for at in range(-10, 11))
"""From -2 to 2 in 21 steps."""


@torch.no_grad()
def sweep_alpha(
    queries: Tensor,
    documents: Documents,
    judgements: Judgements,
    *,
    alphas: Sequence[float] | Tensor = ALPHAS,
    measure: str = "ndcg@10",
    normalization: Normalization = "cosine",
    exponents: tuple[float, float] | None = None,
    chunk_size: int | None = None,
    excluded: tuple[Tensor, Tensor] | None = None,
) -> AlphaSweep:
    """Measures the ranking of every query at every exponent of the document norm.

    Scores are ``<q, d> · |d|^(alpha - gamma_document)`` (theory, section 6). Every inner product is computed once and
    compared once: documents go by norm, and a document enters no ranking if its product is below the lowest that
    would do at any exponent for the shortest or longest norm of those beside it. The rest is scored at each exponent.

    Args:
        queries: ``[n, d]``; those that nothing is relevant to are not searched for.
        documents: ``[m, d]``, as :func:`~lightning_normdyn.retrieval.exact_top_k` takes them.
        judgements: by position in both.
        alphas: exponents, in any order and with 0 among them.
        measure: ``ndcg``, ``mrr``, ``recall``, ``map`` or ``hits`` with a rank, as in ``ndcg@10``; memory grows with
            queries x exponents x rank.
        normalization: what the embeddings were trained with; an exponent is further to it.
        exponents: the learnt gammas (query, document), for ``learnable`` alone.
        chunk_size: documents that are converted and sorted together; memory grows with it and not with ``m``.
        excluded: positions of query and document of each pair that must not be found.

    Returns:
        The measure by exponent, ascending, and query.

    Raises:
        ValueError: if something does not fit, is not finite, or a norm is too extreme for its powers.

    Example:
        >>> documents, relevant = torch.tensor([[9.0, 12.0], [0.8, 0.6]]), Judgements.of([(0, 0, 1.0)])
        >>> found = sweep_alpha(torch.tensor([[1.0, 0.0]]), documents, relevant, alphas=(-1, 0, 1), measure="mrr@2")
        >>> found.values.squeeze(1).tolist()
        [0.5, 0.5, 1.0]
    """
    wanted = measure_named(measure)
    score = NormAwareScore(normalization, exponents=exponents)
    queries = checked_queries(queries, documents, chunk_size)
    steps = _checked(alphas)
    judgements.check(len(queries), row_count(documents))
    every, judgements = judgements, Judgements(*(column.to(queries.device) for column in judgements)).relevant()
    pairs = None if excluded is None else Excluded(excluded, len(queries), queries.device)
    judged = judgements.queries.unique()
    values = torch.full((len(steps), len(queries)), torch.nan, dtype=torch.float64)
    if not len(judged):
        return AlphaSweep(steps, values, measure)
    # A query's norm changes no ranking, and its direction alone keeps products within float32.
    rankings, seen = _rankings(
        rescale(queries[judged], 1.0), documents, steps - score.gammas[1], wanted.depth, chunk_size, pairs, judged
    )
    every.check(len(queries), seen)
    renumbered = Judgements(torch.searchsorted(judged, judgements.queries), *judgements[1:])
    for number, indices in enumerate(rankings.unbind(1)):
        values[number, judged.cpu()] = wanted.of(grade_ranking(indices, renumbered, depth=wanted.depth)).cpu()
    return AlphaSweep(steps, values, measure)


def _checked(alphas: Sequence[float] | Tensor) -> Tensor:
    steps = torch.as_tensor(alphas, dtype=torch.float64).cpu()
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
    pairs: Excluded | None,
    numbers: Tensor,
) -> tuple[Tensor, int]:
    """Positions ``[n, a, k]`` of the best by ``<q, d> · |d|^power``, -1 where there is none; number of documents."""
    d, parts = queries.shape[1], queries.split(_QUERIES)
    width = tile_width(len(parts[0]), queries.device)
    tiles = [Tile(part, width) for part in parts]
    best = [AlphaLeaders(part, powers, k, pairs, own) for part, own in zip(parts, numbers.split(_QUERIES), strict=True)]
    seen = 0
    with torch.autocast(queries.device.type, enabled=False):
        for part in document_chunks(documents, chunk_rows(chunk_size, d, width), d):
            chunk = part.to(queries)
            for number, band in enumerate(norm_bands(chunk, width, sample=seen == 0)):
                for tile, leaders in zip(tiles, best, strict=True):
                    tile.fill(band.documents)
                    leaders.take(tile, band, seen, begin=seen == 0 and number == 0)
            seen += len(chunk)
    return torch.cat([leaders.indices() for leaders in best]), seen
