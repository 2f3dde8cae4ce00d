"""Ranks the documents of an encoded split exactly and measures the rankings."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.core.statistics.ranking import RankedGrades, grade_ranking
from lightning_normdyn.retrieval.search.top_k import exact_top_k
from lightning_normdyn.tasks.contrast.encoded import Encoded, Exponents


def rank_documents(encoded: Encoded, exponents: Exponents, depth: int) -> Tensor:
    """Ranks all documents for every query, exactly.

    A query's own norm never changes its ranking, so the exponent of the query side does not enter.

    Args:
        encoded: the split.
        exponents: of the norms (query, document).
        depth: how many documents to find.

    Returns:
        Documents by position, best first, int64 ``[n, depth]``; -1 for ranks left over.
    """
    documents = rescale(encoded.documents, exponents[1])
    excluded_pairs = (
        None if encoded.excluded_pairs is None else (encoded.excluded_pairs.queries, encoded.excluded_pairs.documents)
    )
    return exact_top_k(encoded.queries, documents, depth, excluded_pairs=excluded_pairs).indices


def ranking_measures(
    encoded: Encoded, exponents: Exponents, measures: Mapping[str, Callable[[RankedGrades], Tensor]], *, depth: int
) -> dict[str, Tensor]:
    """Ranks all documents for every query and measures each ranking.

    Args:
        encoded: the split.
        exponents: of the norms (query, document).
        measures: name to the function that measures rankings of ``depth``.
        depth: how many documents of each ranking are looked at.

    Returns:
        Name to values ``[n]``, NaN for a query without a relevant document.
    """
    ranked = grade_ranking(rank_documents(encoded, exponents, depth), encoded.judgements, len(encoded.queries))
    return {name: measure(ranked) for name, measure in measures.items()}
