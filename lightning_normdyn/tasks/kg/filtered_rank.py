"""Filtered ranks of knowledge-graph completion, ties counted by the mean rank."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_normdyn.datasets import Judgements
from lightning_normdyn.tasks.contrast.encoded import Encoded

_SCORES_AT_ONCE = 2**23


def filtered_ranks(encoded: Encoded, score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Rank of each query's relevant document once excluded documents are gone (the filtered setting of Bordes 2013).

    A document with the same score counts half: ``1 + greater + equal / 2``, the mean over the orders in which ties
    could fall (the realistic rank of arXiv 2002.06914, section 3), so that a constant score ranks in the middle; NaN
    counts as lost against everything. Scores are made for a chunk of queries at a time.

    Args:
        encoded: a split whose queries have one relevant document each.
        score: queries ``[c, d]`` and documents ``[m, d]`` to scores ``[c, m]``.

    Returns:
        ``[n]`` in float64; NaN for a query without a relevant document.

    Raises:
        ValueError: if a query has several relevant documents.

    Example:
        >>> judgements = Judgements.of([(0, 1, 1.0)])
        >>> encoded = Encoded(torch.ones(1, 1), torch.tensor([[1.0], [1.0], [0.0]]), judgements)
        >>> filtered_ranks(encoded, lambda queries, documents: queries @ documents.T)
        tensor([1.5000], dtype=torch.float64)
        >>> pairs = Judgements.of([(0, 0, 0.0)])
        >>> filtered_ranks(encoded._replace(excluded_pairs=pairs), lambda queries, documents: queries @ documents.T)
        tensor([1.], dtype=torch.float64)
    """
    queries, documents = encoded.queries, encoded.documents
    positives = _positives(encoded)
    ranks = torch.full((len(queries),), torch.nan, dtype=torch.float64)
    query_rows = (positives >= 0).nonzero()[:, 0]
    for rows in query_rows.split(max(1, _SCORES_AT_ONCE // len(documents))):
        scores = score(queries[rows], documents)
        if encoded.excluded_pairs is not None:
            scores = scores.masked_fill(_pairs_of(rows, encoded.excluded_pairs, scores.shape), -torch.inf)
        positive_scores = scores.gather(1, positives[rows, None])
        # Asked this way round because NaN is below nothing, and so beats and is beaten by everything.
        not_below = (~(scores < positive_scores)).sum(1)
        equal = ((scores == positive_scores).sum(1) - 1).clamp(min=0)
        ranks[rows] = not_below - equal.double() / 2
    return ranks


def _positives(encoded: Encoded) -> Tensor:
    relevant = encoded.judgements.relevant()
    if len(relevant.queries.unique()) < len(relevant.queries):
        raise ValueError(
            "judgements: expected one relevant document a query, got several; make each a query of its own"
        )
    positives = torch.full((len(encoded.queries),), -1)
    positives[relevant.queries] = relevant.documents
    return positives


def _pairs_of(rows: Tensor, pairs: Judgements, shape: torch.Size) -> Tensor:
    """Which scores of some queries are those of listed pairs, bool ``[c, m]``; ``rows`` are sorted."""
    row_places = torch.searchsorted(rows, pairs.queries).clamp(max=len(rows) - 1)
    is_listed = rows[row_places] == pairs.queries
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[row_places[is_listed], pairs.documents[is_listed]] = True
    return mask
