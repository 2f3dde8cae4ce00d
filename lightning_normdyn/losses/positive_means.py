"""By how much the score of a pair is above the mean of all its positives: what several positives add to a loss.

Where positives are in the sum of the softmax too, their scores are added up by the sweep itself, whose gradient has a
share less a share at every positive: near the minimum both are all but equal, and would leave the rounding of products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.positive_pairs import PairSums
from lightning_normdyn.losses.positives import (
    counts_of_class,
    counts_of_listed,
    mean_scores_of_class,
    scores_above_class,
    scores_above_listed,
)
from lightning_normdyn.losses.same_side import Pools
from lightning_normdyn.losses.scored_batch import ScoredBatch

Sides = tuple[Tensor, Tensor]
"""Of queries and of documents."""


def scores_above_mean(scored: ScoredBatch, pools: Pools, scores: Tensor, targets: PairSums) -> Sides:
    """By how much the score of a pair is above the mean of its query, and of its document, with its positives.

    Args:
        scored: the batch.
        pools: what queries and documents choose from on their own side.
        scores: of the pairs, ``[n]``.
        targets: sums of the scores of further positives on the other side, of rows and columns.

    Returns:
        Both ``[n]``, and zero to the last bit where a pair is alone.
    """
    if not scored.batch.has_several_positives:
        nothing = torch.zeros_like(scores)
        return nothing, nothing
    if scored.loss.terms.decoupled:
        return _above_mean_apart(scored, pools, scores)
    above = []
    sums = (targets.rows, _of_local_columns(scored, targets.columns))
    for count, of_others, pool in zip(_positive_counts(scored), sums, pools, strict=True):
        if pool is not None and scored.candidates.labels is not None:
            count = count + counts_of_class(scored.batch.query_labels, scored.candidates.labels[: scored.total]) - 1
            of_others = of_others + pool.target_sums
        above.append(((count - 1) * scores - of_others) / count)
    return above[0], above[1]


def _of_local_columns(scored: ScoredBatch, sums: Tensor) -> Tensor:
    """Of this rank's documents, over the queries of all ranks, ``[n]``; zeros where documents do not pick."""
    if not len(sums):
        return sums.new_zeros(len(scored.anchors))
    # Listed positives are among a rank's own documents.
    sums = sums if scored.candidates.labels is None else scored.ranks.sum(sums)
    return sums[scored.local_slice]


def _positive_counts(scored: ScoredBatch) -> Sides:
    """How many positives each query, and its document, has on the other side, both ``[n]``."""
    if scored.batch.positives is not None:
        return counts_of_listed(scored.batch.positives)
    assert scored.candidates.labels is not None
    labels, classes = scored.batch.query_labels, scored.candidates.labels[: scored.total]
    return counts_of_class(labels, scored.vector_labels), counts_of_class(labels, classes)


def _above_mean_apart(scored: ScoredBatch, pools: Pools, scores: Tensor) -> Sides:
    """The same of positives that are in no sum, as inner products with their means."""
    if scored.batch.positives is not None:
        return scores_above_listed(scores, scored.anchors, scored.candidates.local_documents, scored.batch.positives)
    assert scored.candidates.labels is not None
    of_queries = of_documents = torch.zeros_like(scores)
    labels, documents = scored.batch.query_labels, scored.local_documents
    if scored.loss.from_queries:
        of_vectors = scored.vector_labels
        choices = scored.vectors[: len(of_vectors)]
        of_queries = scores_above_class(scores, scored.anchors, documents, labels, choices, of_vectors)
    if scored.loss.from_documents:
        everybody = scored.ranks.gather(scored.anchors, scored.candidates.positives)
        of_present = scored.candidates.labels[: len(everybody)]
        of_documents = scores_above_class(scores, documents, scored.anchors, labels, everybody, of_present)
    return _with_class(scored, pools, (of_queries, of_documents), scores)


def _with_class(scored: ScoredBatch, pools: Pools, above_mean: Sides, scores: Tensor) -> Sides:
    """The same where those of a pair's class on the same side are positives too."""
    assert scored.candidates.labels is not None
    labels, classes = scored.batch.query_labels, scored.candidates.labels[: scored.total]
    sides = list(above_mean)
    for side, (pool, across) in enumerate(zip(pools, _positive_counts(scored), strict=True)):
        if pool is not None:
            local_vectors, vectors = pool.vectors[scored.local_slice], pool.vectors[: scored.total]
            mean, number = mean_scores_of_class(pool.anchors, local_vectors, labels, vectors, classes)
            sides[side] = (across * above_mean[side] + number * (scores - mean)) / (across + number)
    return sides[0], sides[1]
