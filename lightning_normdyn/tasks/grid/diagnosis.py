"""What the norms of a trained model say about which normalization to take."""

from __future__ import annotations

import math
from typing import NamedTuple

from lightning_normdyn.core import coefficient_of_variation, cohens_d, recommend_normalization, safe_norm
from lightning_normdyn.tasks.encoded import Encoded

_FEWEST_PAIRS = 8


class Diagnosis(NamedTuple):
    """Five numbers of a split (arXiv 2602.09229, section 5); NaN where the split is too small to tell.

    Attributes:
        cohens_d: norms of relevant documents against all others, in pooled standard deviations.
        query_cv: standard deviation / mean of the norms of queries.
        document_cv: the same of documents.
        kappa_qnorm: log10 of the condition number of the Fisher information under QNorm.
        kappa_dnorm: the same under DNorm; the smaller one is predicted to train better.
        kappa_qnorm_share: share of resamples in which QNorm has the smaller one.
    """

    cohens_d: float
    query_cv: float
    document_cv: float
    kappa_qnorm: float
    kappa_dnorm: float
    kappa_qnorm_share: float


def diagnose(encoded: Encoded, *, temperature: float) -> Diagnosis:
    """Takes the numbers of a split.

    Args:
        encoded: embeddings before any normalisation.
        temperature: of the training.
    """
    norms = encoded.relevance_norms()
    queries, documents = encoded.pairs()
    kappas = (math.nan,) * 3
    if len(queries) >= _FEWEST_PAIRS and queries.any() and documents.any():
        advice = recommend_normalization(queries, documents, temperature=temperature)
        kappas = (advice.qnorm.diagonal, advice.dnorm.diagonal, advice.qnorm_share)
    return Diagnosis(
        float(cohens_d(norms.relevant, norms.irrelevant)),
        float(coefficient_of_variation(safe_norm(encoded.queries))),
        float(coefficient_of_variation(safe_norm(encoded.documents))),
        *kappas,
    )
