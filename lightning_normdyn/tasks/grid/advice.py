"""Advice on one trained model: how to score with it, and which normalization to train next."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.statistics.variant_comparison import VariantComparison, compare_variants
from lightning_normdyn.retrieval import AlphaSweep, calibrate
from lightning_normdyn.retrieval.exponent.sweep import ALPHAS
from lightning_normdyn.retrieval.exponent.verdict import ScoringVerdict, scoring_verdict
from lightning_normdyn.tasks.contrast.contrastive_task import ContrastiveTask
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.grid.diagnosis import ONE_LENGTH, Diagnosis, diagnose

CARRIES_RELEVANCE = 0.5
"""Cohen's d from which a document's norm is said to carry relevance (arXiv 2602.09229, section 5)."""
VARIES = 0.1
"""Coefficient of variation from which queries train at clearly different temperatures."""
_SURE = 0.975
_FOLDS = 5


def sweep_headline(task: ContrastiveTask, encoded: Encoded) -> AlphaSweep:
    """The task's own measure at every exponent of the norm, on both sides: only that of documents changes a ranking."""
    values = [task.measures(encoded, (1 - alpha, 1 - alpha))[task.headline].double().cpu() for alpha in ALPHAS]
    return AlphaSweep(torch.tensor(ALPHAS, dtype=torch.float64), torch.stack(values), task.headline)


class TrainedWith(NamedTuple):
    """How a model was trained, as far as anyone knows.

    Attributes:
        temperature: of its loss.
        symmetric: whether the two sides could be exchanged; ``None`` if nobody knows.
        normalization: what its loss divided by; ``None`` if nobody knows.
    """

    temperature: float = 0.05
    symmetric: bool | None = None
    normalization: str | None = None


class ModelAdvice(NamedTuple):
    """What one model's embeddings say.

    Attributes:
        measure: what rankings were measured by.
        comparison: cosine, which ranks like dnorm, against dot, which ranks like qnorm, on the same queries.
        diagnosis: the numbers behind ``training``.
        verdict: how to score, in numbers and words: that of ``normdyn audit`` on the same vectors, queries and
            judgements; ``None`` where there are too few queries, or vectors of one length.
        scoring: how to score with this model, a sentence or more.
        training: what to try in the next training, a sentence.
    """

    measure: str
    comparison: VariantComparison
    diagnosis: Diagnosis
    verdict: ScoringVerdict | None
    scoring: str
    training: str


class Scoring(NamedTuple):
    """A verdict on scoring that was reached elsewhere.

    Attributes:
        verdict: as :class:`ModelAdvice` has it.
        sentence: that says it.
    """

    verdict: ScoringVerdict | None
    sentence: str


def advise_on(
    encoded: Encoded, sweep: AlphaSweep, *, trained_with: TrainedWith | None = None, scoring: Scoring | None = None
) -> ModelAdvice:
    """Advises on a model.

    Args:
        encoded: a validation split, embeddings before any normalisation.
        sweep: measure of each query at exponents of the norm, 0 (cosine) and 1 (the inner product) among them.
        trained_with: what is known of its training.
        scoring: the verdict, where an audit has reached it, with lengths of the documents perhaps; else that of the
            sweep alone.

    Raises:
        ValueError: if no query has a measure, or the sweep lacks one of the two exponents.
    """
    trained_with = TrainedWith() if trained_with is None else trained_with
    comparison = compare_variants(
        {"cosine": _at(sweep, 0.0).unsqueeze(0), "dot": _at(sweep, 1.0).unsqueeze(0)},
    )
    diagnosis = diagnose(encoded, temperature=trained_with.temperature)
    verdict, sentence = scoring_of(sweep) if scoring is None else scoring
    training = _training(diagnosis, trained_with, verdict)
    return ModelAdvice(sweep.measure, comparison, diagnosis, verdict, sentence, training)


def scoring_of(sweep: AlphaSweep) -> Scoring:
    """The verdict on a sweep whose documents are of unknown length.

    Args:
        sweep: of exponents of the norm.
    """
    count = int(sweep.values.isfinite().all(0).sum())
    if count < _FOLDS:
        return Scoring(None, f"Score by cosine: {count} judged queries are too few to choose an exponent of the norm.")
    verdict = scoring_verdict(calibrate(sweep))
    return Scoring(verdict, verdict.opening)


def _at(sweep: AlphaSweep, exponent: float) -> Tensor:
    distances = (sweep.alphas - exponent).abs()
    if float(distances.min()) > 1e-6:
        raise ValueError(f"sweep: expected exponents 0 and 1 among those tried, got {sweep.alphas.tolist()}")
    return sweep.values[int(distances.argmin())]


def _training(diagnosis: Diagnosis, trained_with: TrainedWith, verdict: ScoringVerdict | None) -> str:
    if diagnosis.document_cv <= ONE_LENGTH:
        return (
            f"These documents have one length (coefficient of variation {diagnosis.document_cv:.1g}): pass embeddings "
            "as the encoder gives them, before any normalisation."
        )
    effect = diagnosis.cohens_d
    relevance = abs(effect.value) >= CARRIES_RELEVANCE and effect.low * effect.high > 0
    norms = _relevance(diagnosis, relevance=relevance)
    ranks_by_norm = verdict is not None and verdict.alpha > 0
    # Norms whose gain is that of length, or that a ranking turns against, are no reason to keep them in a loss.
    if verdict is not None and (verdict.kind == "length" or verdict.alpha < 0):
        relevance = False
    if trained_with.symmetric:
        side = "dot" if relevance else "cosine"
        step = _step(side, trained_with, verdict)
        return f"{step}, for the sides can be exchanged and should be treated alike ({norms})."
    share = diagnosis.kappa_qnorm_share
    if math.isnan(share):
        return f"Too few pairs to choose between qnorm and dnorm ({norms})."
    side, sure = ("qnorm", share) if share >= 0.5 else ("dnorm", 1 - share)
    kappas = f"log10 kappa {diagnosis.kappa_qnorm:.2f} for qnorm, {diagnosis.kappa_dnorm:.2f} for dnorm"
    if sure >= _SURE and side == "dnorm" and (relevance or ranks_by_norm):
        return (
            f"Train qnorm and dnorm and let the measure decide, for the signs disagree: the Fisher information speaks "
            f"for dnorm ({kappas}), rankings or relevance for keeping documents' norms ({norms})."
        )
    if sure >= _SURE:
        hurts = side == "qnorm" and verdict is not None and verdict.alpha <= 0
        caveat = "; norms that help no ranking of this model may help one that trains with them" * hurts
        caveat = "; it ranks as cosine does and differs from it in training alone" if side == "dnorm" else caveat
        step = _step(side, trained_with, verdict)
        return f"{step}: the Fisher information speaks for it ({kappas}; {sure:.0%} of resamples; {norms}){caveat}."
    if relevance or ranks_by_norm:
        return f"{_step('qnorm', trained_with, verdict)} ({norms}; {kappas} do not tell the sides apart)."
    if diagnosis.query_cv >= VARIES:
        return (
            f"No difference to expect between normalizations; if any, {_words('dnorm', trained_with)}, "
            f"since queries differ in length ({norms}; {kappas})."
        )
    return f"No difference to expect from keeping norms: stay with cosine ({norms}; {kappas})."


_FOR_COSINE: dict[str, str] = {
    "no gain": "no exponent of these norms gains",
    "length": "it is length that gains here",
}


def _step(normalization: str, trained_with: TrainedWith, verdict: ScoringVerdict | None) -> str:
    """To train with it, behind cosine where norms do not gain by themselves."""
    reason = None if verdict is None else _FOR_COSINE.get(verdict.kind)
    if reason is None or normalization in ("cosine", trained_with.normalization):
        return _words(normalization, trained_with).capitalize()
    cosine = _words("cosine", trained_with).capitalize()
    return f"{cosine}, for {reason}; of other normalizations, {normalization} is the one to try"


def _words(normalization: str, trained_with: TrainedWith) -> str:
    """To train with it, or to stay with it where the model was."""
    return f"stay with {normalization}" if normalization == trained_with.normalization else f"try {normalization} next"


def _relevance(diagnosis: Diagnosis, *, relevance: bool) -> str:
    """What Cohen's d says of documents that some query wants."""
    effect = diagnosis.cohens_d
    if math.isnan(effect.value):
        return "every document is relevant to some query, so Cohen's d is not defined"
    size = f"Cohen's d {effect.value:+.2f} ({effect.low:+.2f} to {effect.high:+.2f})"
    if effect.low <= 0 <= effect.high or math.isnan(effect.low):
        return f"{size}: norms of relevant documents cannot be told from those of others"
    longer = "longer" if effect.value > 0 else "shorter"
    amount = "clearly" if relevance else f"a little (less than {CARRIES_RELEVANCE})"
    return f"{size}: vectors of relevant documents are {amount} {longer}"
