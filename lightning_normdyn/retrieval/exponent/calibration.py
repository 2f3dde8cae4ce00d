"""Calibrates the exponent of document norms: the best one, its held-out gain, and tests corrected for the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.object_checks import check_sequence
from lightning_normdyn.core.statistics.interval import Interval, check_level
from lightning_normdyn.core.statistics.sign_flip import holm, sign_flip_test
from lightning_normdyn.retrieval.exponent.held_out_gain import best_exponent, held_out_gain
from lightning_normdyn.retrieval.exponent.sweep import AlphaSweep
from lightning_normdyn.retrieval.exponent.verdict import scoring_verdict


class Calibration(NamedTuple):
    """What a sweep of exponents says. Fields are plain numbers unless a shape is given.

    Attributes:
        measure: such as ``ndcg@10``.
        alpha: exponent at which the measure is highest, between the exponents tried too, with its bootstrap interval,
            which holds 0 unless the gain is significant.
        baseline: mean measure at exponent 0.
        gain: mean gain over exponent 0 on queries that had no part in choosing the exponent (cross-validation), with
            its paired bootstrap interval.
        gain_p_value: of the sign-flip test that repeats the cross-validation after every flip.
        p_value: that some exponent gains, corrected for having tried all of them (and all strata, in a stratum).
        p_values: of every exponent, corrected for the number of exponents, float64 ``[a]``.
        alphas: exponents tried, float64 ``[a]``.
        significant: whether ``p_value`` is within ``1 - level``, the interval of ``gain`` above 0, and 0 not in
            that of ``alpha``.
        flat: whether no query is ranked any better or worse by any exponent.
        level: of all intervals.
        queries: that were used.
        left_out: queries without a value at every exponent, for want of judgements.
        strata: column to value to the calibration of the queries with that value.
        small_strata: column to value to number of queries, of strata with too few queries for the folds.
    """

    measure: str
    alpha: Interval
    baseline: float
    gain: Interval
    gain_p_value: float
    p_value: float
    p_values: Tensor
    alphas: Tensor
    significant: bool
    flat: bool
    level: float
    queries: int
    left_out: int
    strata: Mapping[str, Mapping[str, Calibration]]
    small_strata: Mapping[str, Mapping[str, int]]

    @property
    def advice(self) -> float:
        """The exponent to use: ``alpha`` where it gains significantly, 0 elsewhere."""
        return self.alpha.value if self.significant else 0.0

    @property
    def at_edge(self) -> bool:
        """Whether the best exponent is the first or last that was tried, so that a wider sweep may find better."""
        return not self.flat and self.alpha.value in (float(self.alphas[0]), float(self.alphas[-1]))

    @property
    def sentence(self) -> str:
        """The finding: what to do and how sure; the same as of anyone who asks about these queries without lengths."""
        return scoring_verdict(self).sentence


def calibrate(
    sweep: AlphaSweep,
    *,
    folds: int = 5,
    resamples: int = 2_000,
    level: float = 0.95,
    strata: Mapping[str, Sequence[object]] | None = None,
    generator: torch.Generator | None = None,
) -> Calibration:
    """Chooses the exponent of document norms on validation queries and says what it gains, or that it does not.

    Three questions, each with its own method: how large is the exponent
    (:func:`~.held_out_gain.best_exponent`), what does choosing one gain on other queries
    (:func:`~.held_out_gain.held_out_gain`), and could the best of so many exponents look as
    good by chance (:func:`~lightning_normdyn.core.statistics.sign_flip.sign_flip_test`, one-sided, level kept exactly).

    Args:
        sweep: measure of every query at every exponent; queries with a NaN are left out and counted.
        folds: of the cross-validation.
        resamples: of every bootstrap, and flips of every test; 1 at least.
        level: of the intervals; the test's level is ``1 - level``.
        strata: column to a value for each query of the sweep: heading depth, a band of lengths (see
            :func:`~lightning_normdyn.retrieval.quantile_bands`). Every stratum is calibrated alone; p-values of
            all strata of all columns are corrected together (Holm), while their intervals are not.
        generator: of random numbers, on the CPU; a fresh one with seed 0 if left out.

    Returns:
        The record; ``sentence`` says it in words.

    Raises:
        ValueError: if the sweep lacks exponent 0 or its shapes do not fit, fewer queries than folds have a measure, a
            column has not one value for each query, or there are no resamples.

    Example:
        >>> alphas = torch.linspace(-1, 1, 11, dtype=torch.float64)
        >>> peaks = 0.4 + 0.1 * torch.randn(60, generator=torch.Generator().manual_seed(0))
        >>> calibration = calibrate(AlphaSweep(alphas, 1 - (alphas.unsqueeze(1) - peaks).square(), "ndcg@10"))
        >>> round(calibration.alpha.value, 1), calibration.significant
        (0.4, True)
        >>> calibration.sentence
        'Norms help: take exponent 0.4..., which raises ndcg@10 from 0.8... by 0.1... (p = 0.0005). Lengths of ...'
    """
    check_count(resamples=resamples, hint="the verdict needs a test, 2000 is usual")
    check_count(folds=folds, hint="5 is usual")
    _check(sweep, level, strata)
    sweep = sweep.as_tensors()
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    overall = _calibrate(sweep, folds, resamples, level, generator)
    by_column: dict[str, dict[str, Calibration]] = {}
    small_strata: dict[str, dict[str, int]] = {}
    for column, labels in (strata or {}).items():
        by_column[column], small_strata[column] = {}, {}
        for label, stratum in _sweeps_by_stratum(sweep, labels).items():
            usable = int(stratum.values.isfinite().all(0).sum())
            if usable < folds:
                small_strata[column][label] = usable
            else:
                by_column[column][label] = _calibrate(stratum, folds, resamples, level, generator)
    return overall._replace(strata=_with_corrected_p_values(by_column), small_strata=small_strata)


class CalibratedQueries(NamedTuple):
    """A calibration with what it is the mean of.

    Attributes:
        calibration: of all queries that have a measure at every exponent.
        gains: of each of them over exponent 0, at the exponent that was chosen without its fold, float64 ``[n]``.
    """

    calibration: Calibration
    gains: Tensor


def _calibrate(sweep: AlphaSweep, folds: int, resamples: int, level: float, generator: torch.Generator) -> Calibration:
    return calibrate_queries(sweep, folds, resamples, level, generator).calibration


def calibrate_queries(
    sweep: AlphaSweep, folds: int, resamples: int, level: float, generator: torch.Generator
) -> CalibratedQueries:
    """Calibrates as :func:`calibrate` does, without strata, and keeps the gain of each query.

    Generators of one seed give sweeps of as many queries the same folds, so that their gains are paired.

    Args:
        sweep: as there; so are the others.
        folds: of the cross-validation.
        resamples: of every bootstrap.
        level: of the intervals.
        generator: of random numbers.

    Raises:
        ValueError: if fewer queries than folds have a measure.
    """
    alphas, values = sweep.alphas.detach().cpu().double(), sweep.values.detach().cpu().double()
    usable = values.isfinite().all(0)
    values = values[:, usable]
    if values.shape[1] < folds:
        raise ValueError(
            f"sweep: expected judgements for at least as many queries as folds, {folds}, got {values.shape[1]} of"
            f" {len(usable)} with a measure at every exponent; add judgements, or take fewer folds"
        )
    zero = int(alphas.abs().argmin())
    gains = values - values[zero]
    best = best_exponent(alphas, values, resamples=resamples, level=level, generator=generator)
    held_out = held_out_gain(alphas, gains, folds=folds, resamples=resamples, level=level, generator=generator)
    test = sign_flip_test(gains, flips=resamples, generator=generator)
    calibration = _with_verdict(
        Calibration(
            sweep.measure,
            best.alpha,
            float(values[zero].mean()),
            held_out.gain,
            held_out.p_value,
            test.p_value,
            test.p_values,
            alphas,
            significant=False,
            flat=best.flat,
            level=level,
            queries=values.shape[1],
            left_out=int((~usable).sum()),
            strata={},
            small_strata={},
        ),
        test.p_value,
    )
    return CalibratedQueries(calibration, held_out.gains)


def _with_verdict(calibration: Calibration, p_value: float) -> Calibration:
    """The verdict by a p-value; where it is no gain, exponent 0 is not ruled out either and belongs to the interval."""
    beyond_chance = p_value <= 1 - calibration.level
    alpha = calibration.alpha
    significant = beyond_chance and calibration.gain.low > 0 and not alpha.low <= 0 <= alpha.high
    if not significant:
        alpha = Interval(alpha.value, min(alpha.low, 0.0), max(alpha.high, 0.0))
    return calibration._replace(p_value=p_value, significant=significant, alpha=alpha)


def _with_corrected_p_values(strata: dict[str, dict[str, Calibration]]) -> dict[str, dict[str, Calibration]]:
    p_values = iter(holm([calibration.p_value for column in strata.values() for calibration in column.values()]))
    return {
        column: {label: _with_verdict(calibration, next(p_values)) for label, calibration in labels.items()}
        for column, labels in strata.items()
    }


def _sweeps_by_stratum(sweep: AlphaSweep, labels: Sequence[object]) -> dict[str, AlphaSweep]:
    """The sweep of every stratum, in the order of first appearance."""
    members: dict[str, list[int]] = {}
    for position, label in enumerate(labels):
        members.setdefault(str(label), []).append(position)
    return {label: sweep._replace(values=sweep.values[:, places]) for label, places in members.items()}


def check_sweep(sweep: AlphaSweep, level: float) -> None:
    """Refuses what is no sweep, or a level that is no share.

    Raises:
        ValueError: naming it.
    """
    check_level(level)
    if not isinstance(sweep, AlphaSweep):
        raise ValueError(f"sweep: expected an AlphaSweep, got {type(sweep).__name__}; sweep_alpha makes one")
    alphas, values, _ = sweep.as_tensors()
    if alphas.ndim != 1 or values.ndim != 2 or len(alphas) != len(values):
        raise ValueError(
            f"sweep: expected alphas [a] and values [a, n], got {tuple(alphas.shape)} and {tuple(values.shape)}"
        )
    if len(alphas) < 2 or not (alphas.diff() > 0).all() or not (alphas.abs() < 1e-6).any():
        raise ValueError(f"sweep: expected two or more ascending exponents, 0 among them, got {alphas.tolist()}")


def _check(sweep: AlphaSweep, level: float, strata: Mapping[str, Sequence[object]] | None) -> None:
    check_sweep(sweep, level)
    if strata is not None and not isinstance(strata, Mapping):
        raise ValueError(f"strata: expected columns by name, got {type(strata).__name__}; pass a dictionary of lists")
    for column, labels in (strata or {}).items():
        check_sequence(**{f"strata[{column!r}]": labels})
        if len(labels) != sweep.values.shape[1]:
            raise ValueError(
                f"strata: expected one value of {column!r} for each of {sweep.values.shape[1]} queries, got "
                f"{len(labels)}"
            )
