"""Separates a gain by norms from a gain by document length: longer documents often have longer vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import precise_norm
from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.object_checks import check_callable, check_generator, check_instance
from lightning_normdyn.core.statistics.correlation import Correlation, norm_correlations
from lightning_normdyn.core.statistics.interval import Interval, bootstrap_intervals, check_level
from lightning_normdyn.core.tensor_checks import check_columns, check_real_tensors
from lightning_normdyn.retrieval.exponent.calibration import Calibration, calibrate
from lightning_normdyn.retrieval.exponent.residual_norms import length_norms, rescaled, residual_norms
from lightning_normdyn.retrieval.exponent.sweep import AlphaSweep

# Ranks of a million documents, resampled, would take an hour for a third digit of an interval.
_MOST_CORRELATED = 20_000
_CORRELATION_RESAMPLES = 500
# A spline takes a little out of any norms; less than this share of the gain is no finding.
_MATERIAL = 0.1
Verdict = Literal["no gain", "length", "partly length", "norm"]


class ConfoundReport(NamedTuple):
    """What is left of a gain by norms once length is accounted for.

    Attributes:
        verdict: ``no gain``; ``length`` where lengths in place of norms gain and norms without length do not;
            ``partly length`` where norms without length lose significantly more than a tenth of the gain, or neither
            gains alone;
            ``norm`` where norms without length keep the gain.
        norm: calibration by norms.
        residual: by norms with length taken out.
        length: by ``1 + length`` in place of the norm.
        lost_gain: gain by norms minus that by residual norms, of the mean measure at the best exponent of each, paired.
        over_length: the same minus that by length alone.
        correlations: of norms with length, and with every covariate, length held fixed or not; of 20,000 documents at
            random where there are more.
    """

    verdict: Verdict
    norm: Calibration
    residual: Calibration
    length: Calibration
    lost_gain: Interval
    over_length: Interval
    correlations: Mapping[str, Correlation]

    @property
    def sentence(self) -> str:
        """The finding; the first sentence says whether length explains the gain."""
        explanation = {
            "no gain": f"Nothing to explain: norms gain nothing in {self.norm.measure}, with length or without.",
            "length": "Length explains the gain: norms with length taken out gain nothing, length alone gains.",
            "partly length": "Length explains part of the gain: norms with length taken out gain less than norms do.",
            "norm": "Length does not explain the gain: norms with length taken out gain as well.",
        }[self.verdict]
        gains = ", ".join(
            f"{name} {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
            for name, gain in (
                ("norm", self.norm.gain),
                ("residual norm", self.residual.gain),
                ("length alone", self.length.gain),
            )
        )
        return f"{explanation} Held-out gain in {self.norm.measure}: {gains}."


def confound_report(
    sweep_of: Callable[[Tensor], AlphaSweep],
    documents: Tensor,
    length: Tensor,
    *,
    covariates: Mapping[str, Tensor] | None = None,
    folds: int = 5,
    resamples: int = 2_000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> ConfoundReport:
    """Sweeps three times: with norms, with norms that length does not explain, and with lengths in their place.

    Args:
        sweep_of: the sweep of given document vectors ``[m, d]``, with queries, judgements, measure and exponents fixed;
            it is called with vectors that point the same way and have other norms.
        documents: as encoded, ``[m, d]``.
        length: tokens, letters or pixels of each, ``[m]``.
        covariates: name to one number a document, ``[m]``: frequency, position in its source.
        folds: of the cross-validation, see :func:`~lightning_normdyn.retrieval.exponent.calibration.calibrate`.
        resamples: of every bootstrap, and flips of every test.
        level: of all intervals.
        generator: of random numbers, on the CPU; a fresh one with seed 0 if left out.

    Returns:
        The record; ``sentence`` says it in words.

    Raises:
        ValueError: if there is not one length, and one number of each covariate, for each document.

    Example:
        >>> from functools import partial
        >>> from lightning_normdyn.datasets import Judgements
        >>> from lightning_normdyn.retrieval import sweep_alpha
        >>> documents = torch.tensor([[1.0, 0.0], [0.9, 0.3], [0.0, 2.0]])
        >>> judgements = Judgements.of([(query, 0, 1.0) for query in range(6)])
        >>> queries = torch.tensor([[1.0, 0.0]]).expand(6, 2)
        >>> sweep_of = partial(sweep_alpha, queries, judgements=judgements)
        >>> report = confound_report(sweep_of, documents, torch.tensor([3.0, 4.0, 9.0]), resamples=20)
        >>> report.sentence
        'Nothing to explain: norms gain nothing in ndcg@10, with length or without. Held-out gain in ndcg@10: ...'
    """
    check_count(folds=folds, hint="5 is usual")
    check_count(resamples=resamples, hint="2000 is usual")
    check_level(level)
    check_callable("of document vectors that returns a sweep", sweep_of=sweep_of)
    check_real_tensors(documents=documents)
    if documents.ndim != 2:
        raise ValueError(f"documents: expected [m, d], got {tuple(documents.shape)}; pass all of them")
    norms = precise_norm(documents.detach()).cpu().double()
    check_columns("covariates", {} if covariates is None else covariates, len(norms), what="documents")
    first_sweep = sweep_of(documents)
    check_instance(AlphaSweep, sweep_of=first_sweep, hint="let the function return what sweep_alpha does")
    sweeps = [
        first_sweep,
        sweep_of(rescaled(documents, residual_norms(norms, length))),
        sweep_of(rescaled(documents, length_norms(length))),
    ]
    sample_rows = torch.randperm(len(norms), generator=torch.Generator().manual_seed(0))[:_MOST_CORRELATED]
    correlations = norm_correlations(
        norms[sample_rows],
        length.detach().cpu().double()[sample_rows],
        {name: column.detach().cpu()[sample_rows] for name, column in (covariates or {}).items()},
        resamples=min(resamples, _CORRELATION_RESAMPLES),
        level=level,
    )
    report = explain_gain(*sweeps, folds=folds, resamples=resamples, level=level, generator=generator)
    return report._replace(correlations=correlations)


def explain_gain(
    norm: AlphaSweep,
    residual: AlphaSweep,
    length: AlphaSweep,
    *,
    folds: int = 5,
    resamples: int = 2_000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> ConfoundReport:
    """Compares sweeps that were already made; :func:`confound_report` makes them first.

    Args:
        norm: of the documents as they are.
        residual: of the same documents with residual norms.
        length: of the same with lengths as norms.
        folds: of the cross-validation.
        resamples: of every bootstrap, and flips of every test.
        level: of all intervals.
        generator: of random numbers, on the CPU; a fresh one with seed 0 if left out.

    Returns:
        The record, without correlations.

    Raises:
        ValueError: if the sweeps are of different queries or exponents.

    Example:
        >>> alphas = torch.tensor([-1.0, 0.0, 1.0])
        >>> helps = AlphaSweep(alphas, torch.tensor([[0.1], [0.4], [0.6]]).expand(3, 30), "ndcg@10")
        >>> nothing = AlphaSweep(alphas, torch.tensor([[0.1], [0.4], [0.2]]).expand(3, 30), "ndcg@10")
        >>> explain_gain(helps, nothing, helps, resamples=50).verdict
        'length'
        >>> explain_gain(helps, helps, nothing, resamples=50).verdict
        'norm'
    """
    check_instance(AlphaSweep, norm=norm, residual=residual, length=length, hint="sweep_alpha makes them")
    check_generator(generator=generator)
    sweeps = (norm, residual, length)
    if any(sweep.values.shape != norm.values.shape or sweep.measure != norm.measure for sweep in sweeps):
        shapes = ", ".join(f"{sweep.measure} {tuple(sweep.values.shape)}" for sweep in sweeps)
        raise ValueError(f"residual, length: expected sweeps of the queries and exponents of norm, got {shapes}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    by_norm, by_residual, by_length = (
        calibrate(sweep, folds=folds, resamples=resamples, level=level, generator=generator) for sweep in sweeps
    )
    values = torch.stack([sweep.values.detach().cpu().double() for sweep in sweeps])
    values = values[:, :, values.isfinite().all(0).all(0)]

    def differences(counts: Tensor) -> Tensor:
        best = (torch.einsum("bn,san->bsa", counts, values) / values.shape[2]).amax(2)
        return best[:, :1] - best[:, 1:]

    lost_gain, over_length = bootstrap_intervals(
        differences, values.shape[2], resamples=resamples, level=level, generator=generator, width=values.shape[0]
    )
    verdict = _verdict(by_norm, by_residual, by_length, lost_gain)
    return ConfoundReport(verdict, by_norm, by_residual, by_length, lost_gain, over_length, {})


def _verdict(norm: Calibration, residual: Calibration, length: Calibration, lost_gain: Interval) -> Verdict:
    if not norm.significant:
        return "no gain"
    if residual.significant:
        return "partly length" if lost_gain.low > _MATERIAL * norm.gain.value else "norm"
    return "length" if length.significant else "partly length"
