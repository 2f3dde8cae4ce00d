"""Whether it is open, for an encoder as it is, which norms are worth keeping: asked before hours are spent on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from torch import Tensor

from lightning_normdyn.core import NORMALIZATIONS
from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.core.dynamics.geometry import precise_norm
from lightning_normdyn.core.statistics.fisher import FisherForm
from lightning_normdyn.core.statistics.interval import Interval
from lightning_normdyn.core.statistics.normalization_advice import NormalizationAdvice, recommend_normalization
from lightning_normdyn.losses.temperature import VARIANCE_SAMPLE, score_variance
from lightning_normdyn.retrieval import AlphaSweep, calibrate
from lightning_normdyn.retrieval.audit.saturation import Saturation, norm_saturation
from lightning_normdyn.tasks.contrast.encoded import Encoded, Exponents
from lightning_normdyn.tasks.grid.diagnosis import Diagnosis, diagnose

Opening = Literal["closed", "narrow", "open", "unclear"]

NEGLIGIBLE = 0.005
"""A gain of a measure that does not matter."""
_FEWEST_PAIRS, _FEWEST_QUERIES, _FOLDS = 8, 20, 5
_NORMAL = 1.96
_RARE_SHARE = 0.01
_CORRELATIONS = ("spearman", "pearson")
_FORMS: tuple[FisherForm, ...] = ("diagonal", "polar")


class Headroom(NamedTuple):
    """What exponents of the norm do to the measure of an encoder as it is.

    Attributes:
        measure: its name.
        cosine: what it is at exponent 0.
        exponent: the best one on these very queries.
        gain: what that gains on them, which no exponent chosen without them could be expected to reach.
        ceiling: what no exponent gains more than, at 95%: the largest mean gain with 1.96 of its standard errors.
        held_out: what an exponent gains on queries that had no part in choosing it, with its 95% interval; NaN with too
            few queries.
        helps: whether that is beyond doubt, corrected for the exponents that were tried.
        each: the mean gain if every query had the exponent that is best for it, an oracle that nothing can reach; NaN
            of a correlation, which a query has none of by itself.
        queries: that were measured.
    """

    measure: str
    cosine: float
    exponent: float
    gain: float
    ceiling: float
    held_out: Interval
    helps: bool
    each: float
    queries: int


class NormQuestion(NamedTuple):
    """What is known before the first step.

    Attributes:
        diagnosis: spread of norms, Cohen's d, and the condition numbers by the diagonal.
        saturation: what the last layer leaves of the norms of documents.
        share: of what tells the documents of a query apart in an inner product, the part that a document's norm adds,
            ``1 - r²`` with the mean correlation ``r`` of a query's cosines and its ``qnorm`` scores.
        headroom: of exponents of the norm.
        fisher: form of the Fisher information to what it says; empty with too few pairs.
        temperatures: by variant, the one at which its scores, divided by it, spread as those that train do.
    """

    diagnosis: Diagnosis
    saturation: Saturation
    share: float
    headroom: Headroom
    fisher: Mapping[str, NormalizationAdvice]
    temperatures: Mapping[str, float]

    @property
    def opening(self) -> Opening:
        """``closed`` where norms are all but one, ``open`` where they help, ``narrow`` where they do not."""
        if self.headroom.helps:
            return "open"
        if self.saturation.kind in ("unit", "constant") or self.share < _RARE_SHARE:
            return "closed"
        return "narrow" if self.headroom.ceiling < NEGLIGIBLE else "unclear"

    def numbers(self) -> dict[str, float]:
        """Plain numbers by the names that they are logged under."""
        room = self.headroom
        numbers = self.diagnosis.numbers() | {
            "norm_share": self.share,
            "best_exponent": room.exponent,
            "best_exponent_gain": room.gain,
            "gain_ceiling": room.ceiling,
            "held_out_gain": room.held_out.value,
            "held_out_gain_low": room.held_out.low,
            "held_out_gain_high": room.held_out.high,
            "oracle_gain": room.each,
        }
        numbers |= {f"qnorm_share_{form}": advice.qnorm_share for form, advice in self.fisher.items()}
        return numbers | {f"temperature_{name}": value for name, value in self.temperatures.items()}

    def sentences(self) -> list[str]:
        """What to tell whoever is about to train, the conclusion first."""
        return [
            self._conclusion(),
            f"Norms: documents vary by {self.diagnosis.document_cv:.1%} of their mean, queries by "
            f"{self.diagnosis.query_cv:.1%}; of what tells documents apart in an inner product, their norms make "
            f"{self.share:.1%}. {self.saturation.sentence}",
            self._of_headroom(),
            self._of_fisher(),
            "Temperatures at which scores of all spread alike: "
            + ", ".join(f"{name} {value:.3g}" for name, value in self.temperatures.items())
            + "; a comparison at one temperature for all is one of temperatures.",
        ]

    def _conclusion(self) -> str:
        room = self.headroom
        if self.opening == "closed":
            return (
                "Which norms to keep is a closed question for this encoder as it is: they are so nearly one that every "
                "variant is cosine at another temperature, until training parts them."
            )
        if self.opening == "narrow":
            return (
                f"Which norms to keep is a narrow question for this encoder: as it is no exponent of the norm gains "
                f"more than {room.ceiling:.4f} of {room.measure}, so what a variant gains it has to make in training."
            )
        if self.opening == "unclear":
            gain = (
                f"an exponent of the norm may gain up to {max(0.0, room.ceiling):.4f} of {room.measure} as it is"
                if math.isfinite(room.ceiling)
                else f"they are too few to bound what an exponent of the norm may gain of {room.measure}"
            )
            return (
                f"Whether it is an open question for this encoder which norms to keep, {room.queries:,} queries cannot "
                f"tell: {gain}."
            )
        return (
            f"Which norms to keep is an open question for this encoder: as it is an exponent of the norm gains "
            f"{room.held_out.value:.4f} of {room.measure}; train the variants, each at its temperature."
        )

    def _of_headroom(self) -> str:
        room = self.headroom
        held_out = (
            f"held out {room.held_out.value:+.4f} [{room.held_out.low:+.4f}, {room.held_out.high:+.4f}]"
            if math.isfinite(room.held_out.value)
            else "too few to hold any out"
        )
        oracle = f"; an oracle with an exponent for each query {room.each:+.4f}" if math.isfinite(room.each) else ""
        return (
            f"Headroom: {room.measure} {room.cosine:.4f} by cosine; the best exponent of the norm, "
            f"{room.exponent:+.1f}, gains {room.gain:+.4f} on the very queries that chose it ({room.queries:,}), "
            f"{held_out}{oracle}."
        )

    def _of_fisher(self) -> str:
        if not self.fisher:
            return "Fisher information: too few pairs to tell qnorm and dnorm apart."
        clauses = [
            f"{form} {getattr(advice.qnorm, form):.2f} and {getattr(advice.dnorm, form):.2f}, "
            + ("no difference" if advice.normalization == "no difference" else f"for {advice.normalization}")
            + (" (confidence above 99%)" if advice.confidence > 0.99 else f" (confidence {advice.confidence:.0%})")
            for form, advice in self.fisher.items()
        ]
        kappas = "; ".join([*clauses, *self._of_eigenvalues()])
        return (
            f"Fisher information, log10 kappa of qnorm and of dnorm, the smaller predicted to train better: {kappas}."
        )

    def _of_eigenvalues(self) -> list[str]:
        """Nothing where the smallest eigenvalue would say how few pairs there were."""
        qnorm, dnorm = self.fisher["diagonal"].qnorm, self.fisher["diagonal"].dnorm
        if qnorm.n < 2 * self.saturation.dim:
            return []
        return [f"eigenvalues {qnorm.eigenvalues:.2f} and {dnorm.eigenvalues:.2f}, without a confidence"]

    @classmethod
    def of(
        cls, encoded: Encoded, sweep: AlphaSweep, *, temperature: float, exponents: Exponents = (1.0, 1.0)
    ) -> NormQuestion:
        """Looks at a split.

        Args:
            encoded: embeddings before any normalisation.
            sweep: of exponents of the norm on it.
            temperature: that the model is going to be trained at.
            exponents: of the norms (query, document) that its scores are going to be divided by; cosine's if left out.

        Raises:
            ValueError: if no query has a measure.
        """
        norms = precise_norm(encoded.documents)
        queries, documents = encoded.pairs()
        fisher: dict[str, NormalizationAdvice] = {}
        if len(queries) >= _FEWEST_PAIRS and queries.any() and documents.any():
            fisher = {
                form: recommend_normalization(queries, documents, form=form, temperature=temperature) for form in _FORMS
            }
        return cls(
            diagnose(encoded, temperature=temperature),
            norm_saturation(norms, encoded.documents[norms > 0]),
            _share_of_norms(encoded.queries, encoded.documents),
            headroom_of(sweep),
            fisher,
            _temperatures(queries, documents, temperature, exponents),
        )


def headroom_of(sweep: AlphaSweep) -> Headroom:
    """What the exponents of a sweep gain.

    Args:
        sweep: with exponent 0, the cosine, among them.

    Raises:
        ValueError: if no query has a measure at every exponent.

    Example:
        >>> import torch
        >>> values = torch.tensor([[0.5, 0.5], [0.6, 0.2]], dtype=torch.float64)
        >>> room = headroom_of(AlphaSweep(torch.tensor([0.0, 1.0]), values, "ndcg@10"))
        >>> round(room.gain, 3), room.exponent, round(room.each, 3)
        (0.0, 0.0, 0.05)
    """
    values = sweep.values[:, sweep.values.isfinite().all(0)].double()
    if not values.shape[1]:
        raise ValueError("sweep: expected a query with a measure at every exponent, got none; look at the judgements")
    zero = int(sweep.alphas.abs().argmin())
    gains = values - values[zero]
    means = gains.mean(1)
    best = min(range(len(means)), key=lambda place: (-float(means[place]), abs(float(sweep.alphas[place]))))
    held_out, helps = Interval(math.nan, math.nan, math.nan), False
    if values.shape[1] >= _FOLDS:
        calibration = calibrate(sweep._replace(values=values))
        held_out, helps = calibration.gain, calibration.significant
    return Headroom(
        sweep.measure,
        float(values[zero].mean()),
        float(sweep.alphas[best]),
        float(means[best]),
        _ceiling(gains, zero),
        held_out,
        helps,
        math.nan if sweep.measure in _CORRELATIONS else float(gains.amax(0).mean()),
        values.shape[1],
    )


def _ceiling(gains: Tensor, zero: int) -> float:
    """The largest upper end of a mean gain ``[a, n]``, exponent 0 left out; infinite with too few queries."""
    count = gains.shape[1]
    if count < _FEWEST_QUERIES:
        return math.inf
    upper = gains.mean(1) + _NORMAL * gains.std(1) / math.sqrt(count)
    return float(upper[[place for place in range(len(upper)) if place != zero]].max())


def _share_of_norms(queries: Tensor, documents: Tensor) -> float:
    """``1 - r²``, ``r`` the mean correlation of a query's cosines with its inner products; NaN of few documents."""
    if len(documents) < _FEWEST_PAIRS:
        return math.nan
    sides = [side[:: -(-len(side) // VARIANCE_SAMPLE)].double() for side in (queries, documents)]
    directions = [rescale(side, 1.0) for side in sides]
    cosines, scores = directions[0] @ directions[1].T, directions[0] @ sides[1].T
    centred = [table - table.mean(1, keepdim=True) for table in (cosines, scores)]
    product = (centred[0] * centred[1]).sum(1)
    sizes = [table.norm(dim=1) for table in centred]
    correlation = (product / (sizes[0] * sizes[1]))[(sizes[0] > 0) & (sizes[1] > 0)].mean()
    return 1 - float(correlation) ** 2


def _temperatures(queries: Tensor, documents: Tensor, temperature: float, exponents: Exponents) -> dict[str, float]:
    """By variant, in the order of the grid; the same for all where scores do not spread at all."""

    def variance_at(powers: Exponents) -> float:
        return float(score_variance(rescale(queries, powers[0]), rescale(documents, powers[1])))

    spread = variance_at(exponents)
    variances = {name: variance_at(powers) for name, powers in NORMALIZATIONS.items()}
    return {
        name: temperature * math.sqrt(variance / spread) if spread > 0 else temperature
        for name, variance in variances.items()
    }
