"""Advice on one trained model: how to score with it, and which normalization to train next."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from lightning_normdyn.core.statistics.variant_comparison import NO_DIFFERENCE, VariantComparison, compare_variants
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.grid.diagnosis import ONE_LENGTH, Diagnosis, diagnose

CARRIES_RELEVANCE = 0.5
"""Cohen's d from which a document's norm is said to carry relevance (arXiv 2602.09229, section 5)."""
VARIES = 0.1
"""Coefficient of variation from which queries train at clearly different temperatures."""
_SURE = 0.975


class ModelAdvice(NamedTuple):
    """What one model's embeddings say.

    Attributes:
        measure: what rankings were measured by.
        comparison: cosine, which ranks like dnorm, against dot, which ranks like qnorm, on the same queries.
        diagnosis: the numbers behind ``training``.
        scoring: how to score with this model, a sentence.
        training: what to try in the next training, a sentence.
    """

    measure: str
    comparison: VariantComparison
    diagnosis: Diagnosis
    scoring: str
    training: str


def advise_on(
    encoded: Encoded,
    *,
    cosine: Tensor,
    dot: Tensor,
    measure: str,
    temperature: float = 0.05,
    symmetric: bool | None = None,
) -> ModelAdvice:
    """Advises on a model.

    Args:
        encoded: a validation split, embeddings before any normalisation.
        cosine: measure of each query when documents are ranked by cosine, ``[n]``.
        dot: the same by the inner product.
        measure: its name.
        temperature: of the training.
        symmetric: whether the two sides could be exchanged; None if nobody knows.

    Raises:
        ValueError: if no query has a measure.
    """
    comparison = compare_variants({"cosine": cosine.unsqueeze(0), "dot": dot.unsqueeze(0)})
    diagnosis = diagnose(encoded, temperature=temperature)
    scoring, training = _scoring(comparison, measure), _training(diagnosis, symmetric, comparison)
    return ModelAdvice(measure, comparison, diagnosis, scoring, training)


def _scoring(comparison: VariantComparison, measure: str) -> str:
    cosine, dot = comparison.scores["cosine"], comparison.scores["dot"]
    numbers = f"{measure}: inner product {dot.mean:.4f}, cosine {cosine.mean:.4f}, difference {dot.gain:+.4f}"
    interval = f"{dot.gain_interval.low:+.4f} to {dot.gain_interval.high:+.4f}"
    if comparison.recommended == NO_DIFFERENCE:
        return f"Score with cosine: {comparison.queries} queries show no difference ({numbers}, {interval})."
    choice = "the inner product" if comparison.recommended == "dot" else "cosine"
    return f"Score with {choice} ({numbers}, {interval}; {comparison.confidence_in_words})."


def _training(diagnosis: Diagnosis, symmetric: bool | None, comparison: VariantComparison) -> str:
    if diagnosis.document_cv <= ONE_LENGTH:
        return (
            f"These documents have one length (coefficient of variation {diagnosis.document_cv:.1g}): pass embeddings "
            "as the encoder gives them, before any normalisation."
        )
    effect = diagnosis.cohens_d
    relevance = abs(effect.value) >= CARRIES_RELEVANCE and effect.low * effect.high > 0
    length = _length(diagnosis, relevance=relevance)
    if symmetric:
        first = "dot" if relevance else "cosine"
        return f"Train with {first}, for the sides can be exchanged and should be treated alike ({length})."
    share = diagnosis.kappa_qnorm_share
    if math.isnan(share):
        return f"Too few pairs to choose between qnorm and dnorm ({length})."
    side, sure = ("qnorm", share) if share >= 0.5 else ("dnorm", 1 - share)
    kappas = f"log10 kappa {diagnosis.kappa_qnorm:.2f} for qnorm, {diagnosis.kappa_dnorm:.2f} for dnorm"
    if sure >= _SURE and side == "dnorm" and (relevance or comparison.recommended == "dot"):
        return (
            f"Train qnorm and dnorm and let the measure decide, for the signs disagree: the Fisher information speaks "
            f"for dnorm ({kappas}), rankings or lengths for keeping documents' norms ({length})."
        )
    if sure >= _SURE:
        hurts = side == "qnorm" and comparison.recommended == "cosine"
        caveat = "; norms that hurt this model's ranking may help one that trains with them" * hurts
        return (
            f"Try {side} next: the Fisher information speaks for it ({kappas}; {sure:.0%} of resamples; {length})"
            f"{caveat}."
        )
    if relevance:
        return f"Try qnorm next ({length}; {kappas} do not tell the sides apart)."
    if diagnosis.query_cv >= VARIES:
        return f"No difference to expect; if any, try dnorm, since queries differ in length ({length}; {kappas})."
    return f"No difference to expect from keeping norms: stay with cosine ({length}; {kappas})."


def _length(diagnosis: Diagnosis, *, relevance: bool) -> str:
    effect = diagnosis.cohens_d
    if math.isnan(effect.value):
        return "every document is relevant to some query, so Cohen's d is not defined"
    size = f"Cohen's d {effect.value:+.2f} ({effect.low:+.2f} to {effect.high:+.2f})"
    return f"{size}: a document's length {'carries' if relevance else 'cannot be told to carry'} relevance"
