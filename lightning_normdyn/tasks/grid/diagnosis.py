"""Diagnosis of an encoded split: effect size, spread of norms and Fisher condition numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

from lightning_normdyn.core import coefficient_of_variation, cohens_d, recommend_normalization
from lightning_normdyn.core.dynamics.geometry import precise_norm
from lightning_normdyn.core.statistics.interval import Interval
from lightning_normdyn.tasks.contrast.encoded import Encoded, RelevanceNorms

_FEWEST_PAIRS = 8
_NORMAL = 1.96
ONE_LENGTH = 1e-3
"""Coefficient of variation up to which vectors count as normalised: half precision alone leaves 3e-4."""


class Diagnosis(NamedTuple):
    """Five numbers of a split (arXiv 2602.09229, section 5); NaN where the split is too small to tell.

    Attributes:
        cohens_d: norms of relevant documents against all others, in pooled standard deviations, with its 95% interval
            (large samples; Hedges, Olkin 1985, chapter 5, eq. 14); NaN too where documents have one length to rounding.
        query_cv: standard deviation / mean of the norms of queries.
        document_cv: the same of documents.
        kappa_qnorm: log10 of the condition number of the Fisher information under QNorm.
        kappa_dnorm: the same under DNorm; the smaller one is predicted to train better.
        kappa_qnorm_share: share of resamples in which QNorm has the smaller one.
    """

    cohens_d: Interval
    query_cv: float
    document_cv: float
    kappa_qnorm: float
    kappa_dnorm: float
    kappa_qnorm_share: float

    def numbers(self) -> dict[str, float]:
        """Plain numbers under the names that records of a grid have; the interval's ends are numbers of their own."""
        numbers = self._asdict()
        effect = numbers.pop("cohens_d")
        return {"cohens_d": effect.value, "cohens_d_low": effect.low, "cohens_d_high": effect.high} | numbers


def diagnose(encoded: Encoded, *, temperature: float) -> Diagnosis:
    """Takes the numbers of a split.

    Args:
        encoded: embeddings before any normalisation.
        temperature: of the training.
    """
    document_cv = float(coefficient_of_variation(precise_norm(encoded.documents)))
    queries, documents = encoded.pairs()
    kappas = (math.nan,) * 3
    if len(queries) >= _FEWEST_PAIRS and queries.any() and documents.any():
        advice = recommend_normalization(queries, documents, temperature=temperature)
        kappas = (advice.qnorm.diagonal, advice.dnorm.diagonal, advice.qnorm_share)
    effect = _effect(encoded.relevance_norms()) if document_cv > ONE_LENGTH else Interval(*(math.nan,) * 3)
    return Diagnosis(effect, float(coefficient_of_variation(precise_norm(encoded.queries))), document_cv, *kappas)


def _effect(norms: RelevanceNorms) -> Interval:
    """Cohen's d and its interval."""
    d = float(cohens_d(norms.relevant, norms.irrelevant))
    n, m = len(norms.relevant), len(norms.irrelevant)
    if not math.isfinite(d) or min(n, m) < 1:
        return Interval(d, math.nan, math.nan)
    error = math.sqrt((n + m) / (n * m) + d * d / (2 * (n + m)))
    return Interval(d, d - _NORMAL * error, d + _NORMAL * error)
