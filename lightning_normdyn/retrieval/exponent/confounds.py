"""Separates a gain by norms from a gain by document length: longer documents often have longer vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, as_columns, as_tensors
from lightning_normdyn.core.dynamics.geometry import precise_norm
from lightning_normdyn.core.embedding_codes import as_embeddings
from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.object_checks import check_callable, check_generator, check_instance, check_sequence
from lightning_normdyn.core.statistics.correlation import LENGTH, Correlation, norm_correlations
from lightning_normdyn.core.statistics.interval import Interval, bootstrap_intervals, check_level
from lightning_normdyn.core.statistics.sign_flip import holm
from lightning_normdyn.core.tensor_checks import check_columns, check_real_tensors
from lightning_normdyn.retrieval.exponent.calibration import Calibration, calibrate
from lightning_normdyn.retrieval.exponent.residual_norms import (
    length_exponents,
    length_norms,
    length_scales,
    predicted_norms,
    rescaled,
    residual_norms,
)
from lightning_normdyn.retrieval.exponent.sweep import AlphaSweep
from lightning_normdyn.retrieval.exponent.verdict import Verdict, scoring_verdict

# Ranks of a million documents, resampled, would take an hour for a third digit of an interval.
_MOST_CORRELATED = 20_000
_CORRELATION_RESAMPLES = 500
# A spline takes a little out of any norms, or leaves a little; less than this share of the gain is no finding.
_MATERIAL = 0.1


class ConfoundReport(NamedTuple):
    """What is left of a gain by norms once length is accounted for, and what length gains in its own right.

    Attributes:
        verdict: ``no gain``; ``length`` where lengths in place of norms gain and norms without length do not, or less
            than a tenth of it;
            ``partly length`` where norms without length lose significantly more than a tenth of the gain;
            ``unclear`` where neither gains alone;
            ``norm`` where norms without length keep the gain.
        norm: calibration by norms.
        residual: by norms with length taken out.
        length: by ``1 + length`` in place of the norm, over exponents of its own.
        lost_gain: gain by norms minus that by residual norms, of the mean measure at the best exponent of each, paired.
        over_length: the same minus that by length alone.
        correlations: of norms with length, and with every covariate, length held fixed or not; of 20,000 documents at
            random where there are more.
        predicted: by the norms that length predicts, over the exponents of the norm; ``None`` where nobody swept them.
        controls: what was taken out of norms: length, and further columns by name.
    """

    verdict: Verdict
    norm: Calibration
    residual: Calibration
    length: Calibration
    lost_gain: Interval
    over_length: Interval
    correlations: Mapping[str, Correlation]
    predicted: Calibration | None = None
    controls: tuple[str, ...] = ("length",)

    @property
    def length_helps(self) -> bool:
        """Whether length gains by itself, at half the level, since norms were tried as well (Bonferroni)."""
        return self.length.significant and self.length.p_value <= (1 - self.length.level) / 2

    @property
    def sentence(self) -> str:
        """The finding: what to do and how sure, and then what length has to do with it."""
        return scoring_verdict(self.norm, self).sentence


def confound_report(
    sweep_of: Callable[[Tensor], AlphaSweep],
    documents: ArrayLike,
    length: ArrayLike,
    *,
    covariates: Mapping[str, ArrayLike] | None = None,
    controls: Sequence[str] = (),
    folds: int = 5,
    resamples: int = 2_000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> ConfoundReport:
    """Sweeps with norms, with norms that length does not explain, with those that it does, and with lengths.

    Lengths are swept on a scale of their own (:func:`~.residual_norms.length_exponents`), four times over: where norms
    are ``length^-0.4``, a gain at exponent 0.5 of the norm is one at -0.2 of length, which the norm's exponents miss.

    Args:
        sweep_of: the sweep of given document vectors ``[m, d]``, with queries, judgements, measure and exponents fixed;
            it is called with vectors that point the same way and have other norms.
        documents: as encoded, ``[m, d]``.
        length: tokens, letters or pixels of each, ``[m]``.
        covariates: name to one number a document, ``[m]``: frequency, position in its source.
        controls: names of covariates that are taken out of norms beside length.
        folds: of the cross-validation, see :func:`~lightning_normdyn.retrieval.exponent.calibration.calibrate`.
        resamples: of every bootstrap, and flips of every test.
        level: of all intervals.
        generator: of random numbers, on the CPU; a fresh one with seed 0 if left out.

    Returns:
        The record; ``sentence`` says it in words.

    Raises:
        ValueError: if there is not one length, and one number of each covariate, for each document, or a control is no
            covariate.

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
        'No gain: score by cosine, for no exponent raises ndcg@10 above its 1.0000 beyond chance (p = 1). ...'
    """
    check_count(folds=folds, hint="5 is usual")
    check_count(resamples=resamples, hint="2000 is usual")
    check_level(level)
    check_callable("of document vectors that returns a sweep", sweep_of=sweep_of)
    documents, length = *as_embeddings(documents=documents), *as_tensors(length=length)
    check_real_tensors(documents=documents)
    if documents.ndim != 2:
        raise ValueError(f"documents: expected [m, d], got {tuple(documents.shape)}; pass all of them")
    norms = precise_norm(documents.detach()).cpu().double()
    columns = as_columns("covariates", {} if covariates is None else covariates)
    check_columns("covariates", columns, len(norms), what="documents")
    first_sweep = sweep_of(documents)
    check_instance(AlphaSweep, sweep_of=first_sweep, hint="let the function return what sweep_alpha does")
    control_columns = _control_columns(columns, controls)
    residual, predicted = (
        sweep_of(rescaled(documents, make(norms, length, controls=control_columns)))
        for make in (residual_norms, predicted_norms)
    )
    by_length = length_sweep(lambda column: sweep_of(rescaled(documents, column)), length)
    sample_rows = torch.randperm(len(norms), generator=torch.Generator().manual_seed(0))[:_MOST_CORRELATED]
    correlations = norm_correlations(
        norms[sample_rows],
        length.detach().cpu().double()[sample_rows],
        {name: column.detach().cpu()[sample_rows] for name, column in columns.items()},
        resamples=min(resamples, _CORRELATION_RESAMPLES),
        level=level,
    )
    return explain_gain(
        first_sweep,
        residual,
        by_length,
        predicted=predicted,
        correlations=correlations,
        controls=(LENGTH, *controls),
        folds=folds,
        resamples=resamples,
        level=level,
        generator=generator,
    )


def _control_columns(covariates: Mapping[str, Tensor], controls: Sequence[str]) -> dict[str, Tensor]:
    check_sequence(controls=controls)
    missing = next((name for name in controls if name not in covariates), None)
    if missing is not None:
        raise ValueError(
            f"controls: expected names of covariates ({', '.join(covariates) or 'there is none'}), got {missing!r}"
        )
    return {name: covariates[name] for name in controls}


def length_sweep(sweep_with: Callable[[Tensor], AlphaSweep], length: Tensor) -> AlphaSweep:
    """The sweep over exponents of length itself, from sweeps at four scales over the exponents of the norm.

    Args:
        sweep_with: the sweep with other norms ``[m]``.
        length: of each document, ``[m]``.

    Returns:
        The measure of every query at every exponent of ``1 + length``.
    """
    norms = length_norms(length)
    sweeps = [(scale, sweep_with(norms.pow(scale))) for scale in length_scales(length)]
    first = sweeps[0][1]
    exponents = torch.cat([scale * sweep.alphas.detach().cpu().double() for scale, sweep in sweeps])
    values = torch.cat([sweep.values.detach().cpu().double() for _, sweep in sweeps])
    alphas = length_exponents(length, first.alphas)
    places = (exponents.unsqueeze(0) - alphas.unsqueeze(1)).abs().argmin(1)
    return AlphaSweep(alphas, values[places], first.measure)


def explain_gain(
    norm: AlphaSweep,
    residual: AlphaSweep,
    length: AlphaSweep,
    *,
    predicted: AlphaSweep | None = None,
    correlations: Mapping[str, Correlation] | None = None,
    controls: Sequence[str] = (LENGTH,),
    folds: int = 5,
    resamples: int = 2_000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> ConfoundReport:
    """Compares sweeps that were already made; :func:`confound_report` makes them first.

    Args:
        norm: of the documents as they are.
        residual: of the same documents with residual norms.
        length: of the same with lengths as norms, over any exponents.
        predicted: of the same with the norms that length predicts.
        correlations: of norms, with ``length`` at least, for the sentence.
        controls: what was taken out of norms.
        folds: of the cross-validation.
        resamples: of every bootstrap, and flips of every test.
        level: of all intervals.
        generator: of random numbers, on the CPU; a fresh one with seed 0 if left out.

    Returns:
        The record.

    Raises:
        ValueError: if the sweeps are of different queries.

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
    if predicted is not None:
        check_instance(AlphaSweep, predicted=predicted, hint="sweep_alpha makes them")
    if correlations is not None:
        check_instance(Mapping, correlations=correlations, hint="norm_correlations makes them")
    check_sequence(controls=controls)
    sweeps = [sweep.as_tensors() for sweep in (norm, residual, length, predicted) if sweep is not None]
    norm = sweeps[0]
    queries = norm.values.shape[-1]
    if any(sweep.values.shape[-1] != queries or sweep.measure != norm.measure for sweep in sweeps):
        shapes = ", ".join(f"{sweep.measure} {tuple(sweep.values.shape)}" for sweep in sweeps)
        raise ValueError(f"residual, length: expected sweeps of the queries and measure of norm, got {shapes}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    calibrations = [
        calibrate(sweep, folds=folds, resamples=resamples, level=level, generator=generator) for sweep in sweeps
    ]
    values = [sweep.values.detach().cpu().double() for sweep in sweeps[:3]]
    usable = torch.stack([column.isfinite().all(0) for column in values]).all(0)
    values = [column[:, usable] for column in values]

    def differences(counts: Tensor) -> Tensor:
        best = torch.stack([(counts @ column.T / counts.shape[1]).amax(1) for column in values], dim=1)
        return best[:, :1] - best[:, 1:]

    lost_gain, over_length = bootstrap_intervals(
        differences, values[0].shape[1], resamples=resamples, level=level, generator=generator, width=len(values)
    )
    report = ConfoundReport(
        "no gain",
        calibrations[0],
        calibrations[1],
        calibrations[2],
        lost_gain,
        over_length,
        {} if correlations is None else correlations,
        calibrations[3] if len(calibrations) > 3 else None,
        tuple(controls),
    )
    best_gain = float(values[0].mean(1).max()) - calibrations[0].baseline
    return report._replace(verdict=_verdict(report, best_gain))


def _verdict(report: ConfoundReport, best_gain: float) -> Verdict:
    """The verdict; ``best_gain`` is that by norms at their best exponent on all queries, as ``lost_gain`` is."""
    if not report.norm.significant:
        return "length" if report.length_helps else "no gain"
    residual_gain = best_gain - report.lost_gain.value
    if report.residual.significant and residual_gain > _MATERIAL * best_gain:
        return "partly length" if report.lost_gain.low > _MATERIAL * report.norm.gain.value else "norm"
    through_length = [report.length] if report.predicted is None else [report.length, report.predicted]
    p_values = holm([calibration.p_value for calibration in through_length])
    gains = [
        calibration.significant and p_value <= 1 - calibration.level
        for calibration, p_value in zip(through_length, p_values, strict=True)
    ]
    return "length" if any(gains) else "unclear"
