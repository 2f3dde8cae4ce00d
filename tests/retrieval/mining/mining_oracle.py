"""Hard negatives by a loop over queries and documents in float64, with Python's own numbers."""

from __future__ import annotations

import math

from lightning_normdyn.core import NORMALIZATIONS


def score(query, document, normalization="cosine", alpha=0.0):
    """One score; a zero vector scores 0."""
    norms = math.hypot(*query), math.hypot(*document)
    if not all(norms):
        return 0.0
    gammas = NORMALIZATIONS[normalization]
    product = sum(a * b for a, b in zip(query, document, strict=True))
    return product / norms[0] ** gammas[0] / norms[1] ** (gammas[1] - alpha)


def candidates(queries, documents, positives, ids, excluded):
    """Of each query its score with every document that may be a negative at all, closest first."""
    ids = list(range(len(documents))) if ids is None else ids
    for number in range(len(queries)):
        answers = {ids[place] for place in positives[number]} | {ids[d] for q, d in excluded if q == number}
        yield [place for place in range(len(documents)) if ids[place] not in answers and ids.index(ids[place]) == place]


def ceiling(positive_scores, absolute_margin, relative_margin, max_score):
    """The highest score of a negative."""
    lowest, limits = min(positive_scores, default=math.inf), [math.inf]
    if absolute_margin is not None:
        limits.append(lowest - absolute_margin)
    if relative_margin is not None:
        limits.append(lowest - abs(lowest) * relative_margin)
    return min([*limits, *([] if max_score is None else [max_score])])


def mine(
    queries,
    documents,
    positives,
    *,
    num_negatives,
    range_min=0,
    range_max=None,
    max_score=None,
    min_score=None,
    absolute_margin=None,
    relative_margin=None,
    normalization="cosine",
    alpha=0.0,
    ids=None,
    excluded=(),
):
    """Of each query its negatives, its pool (all that may be drawn), and how many were above the limits."""
    answers = []
    allowed = candidates(queries, documents, positives, ids, excluded)
    for query, answering, places in zip(queries, positives, allowed, strict=True):
        scores = {place: score(query, documents[place], normalization, alpha) for place in {*places, *answering}}
        limit = ceiling([scores[place] for place in answering], absolute_margin, relative_margin, max_score)
        ranked = sorted(places, key=lambda place: (-scores[place], place))[:range_max]
        below = [place for place in ranked if scores[place] <= limit]
        pool = [place for place in below if min_score is None or scores[place] >= min_score][range_min:]
        answers.append((pool[:num_negatives], pool, len(ranked) - len(below)))
    return answers
