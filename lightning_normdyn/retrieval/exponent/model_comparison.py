"""Compares two models on the same queries and judgements, such as one before and after fine-tuning, paired by query."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.object_checks import check_generator, check_instance
from lightning_normdyn.core.statistics.interval import Interval, bootstrap_intervals
from lightning_normdyn.core.statistics.sign_flip import holm, sign_flip_test
from lightning_normdyn.retrieval.exponent.calibration import Calibration, calibrate_queries, check_sweep
from lightning_normdyn.retrieval.exponent.held_out_gain import exchange_p_value
from lightning_normdyn.retrieval.exponent.sweep import AlphaSweep


class PairedChange(NamedTuple):
    """A mean difference, after minus before, over the same queries.

    Attributes:
        interval: of the mean, by a paired bootstrap over queries.
        p_value: two-sided, corrected for the three questions of a comparison (Holm): by cosine of a sign-flip test,
            else of a test that exchanges the models query by query and chooses exponents anew after each exchange, or,
            where the models were swept over different exponents, of a sign-flip test that holds the chosen ones.
        level: of the interval.
    """

    interval: Interval
    p_value: float
    level: float

    @property
    def beyond_chance(self) -> bool:
        """Whether both the interval and the test exclude no change."""
        return self.interval.excludes_zero and self.p_value <= 1 - self.level


class ModelComparison(NamedTuple):
    """What a second model changes.

    Attributes:
        measure: such as ``ndcg@10``.
        queries: that have a measure under both.
        before: calibration of the first model.
        after: of the second.
        cosine: change where both are scored by cosine.
        best: change where each is scored by the exponent that was chosen on other queries.
        norm_gain: change of what such an exponent gains over cosine: whether norms say more than before.
    """

    measure: str
    queries: int
    before: Calibration
    after: Calibration
    cosine: PairedChange
    best: PairedChange
    norm_gain: PairedChange

    @property
    def sentence(self) -> str:
        """The finding: which model is better and how sure, then what became of the norms."""
        change = self.cosine.interval.value
        opening = {
            (True, True): "The second model is better",
            (True, False): "The second model is worse",
        }.get((self.cosine.beyond_chance, change > 0), "No difference beyond chance between the models")
        norms = {(True, True): "its norms say more", (True, False): "its norms say less"}.get(
            (self.norm_gain.beyond_chance, self.norm_gain.interval.value > 0), "norms say no more and no less"
        )
        return (
            f"{opening}: by cosine {self.measure} goes from {self.before.baseline:.4f} to {self.after.baseline:.4f} "
            f"({_words(self.cosine)}; {self.queries} queries, paired). Each at the exponent that other queries chose: "
            f"{_words(self.best)}; {norms} than before ({_words(self.norm_gain)})."
        )


def compare_models(
    before: AlphaSweep,
    after: AlphaSweep,
    *,
    folds: int = 5,
    resamples: int = 2_000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> ModelComparison:
    """Compares sweeps of two models over the same queries.

    Args:
        before: of the first model.
        after: of the second; its exponents may differ.
        folds: of the cross-validation in which exponents are chosen, the same for both.
        resamples: of every bootstrap, and flips of every test.
        level: of all intervals; tests are held to ``1 - level``.
        generator: of random numbers, on the CPU; a fresh one with seed 0 if left out.

    Returns:
        The record; ``sentence`` says it in words.

    Raises:
        ValueError: if the sweeps are of different queries or measures, or too few queries have a measure.

    Example:
        >>> alphas = torch.tensor([-1.0, 0.0, 1.0])
        >>> values = torch.rand(3, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> before, after = (AlphaSweep(alphas, shift + values, "ndcg@10") for shift in (0.0, 0.1))
        >>> compare_models(before, after, resamples=200).sentence
        'The second model is better: by cosine ndcg@10 goes from ... (+0.1000 [+0.1000, +0.1000], p = 0.015; 60 ...'
    """
    check_instance(AlphaSweep, before=before, after=after, hint="sweep_alpha makes them")
    check_generator(generator=generator)
    before, after = before.as_tensors(), after.as_tensors()
    if before.values.shape[-1] != after.values.shape[-1] or before.measure != after.measure:
        shapes = " and ".join(f"{sweep.measure} {tuple(sweep.values.shape)}" for sweep in (before, after))
        raise ValueError(f"after: expected a sweep of the queries and measure of before, got {shapes}")
    check_count(resamples=resamples, hint="the verdict needs a test, 2000 is usual")
    check_count(folds=folds, hint="5 is usual")
    for sweep in (before, after):
        check_sweep(sweep, level)
    seed = 0 if generator is None else int(torch.randint(2**31, (1,), generator=generator))
    usable = before.values.isfinite().all(0) & after.values.isfinite().all(0)
    sweeps = [sweep._replace(values=sweep.values[:, usable].detach().cpu().double()) for sweep in (before, after)]
    # The same seed gives both models the same folds.
    first, second = (calibrate_queries(sweep, folds, resamples, level, _seeded(seed)) for sweep in sweeps)
    cosines = [sweep.values[int(sweep.alphas.abs().argmin())] for sweep in sweeps]
    cosine_change, gain_change = cosines[1] - cosines[0], second.gains - first.gains
    differences = torch.stack([cosine_change, cosine_change + gain_change, gain_change])
    if torch.equal(sweeps[0].alphas, sweeps[1].alphas):
        gains = (sweeps[0].values - cosines[0], sweeps[1].values - cosines[1])
        chosen_p_values = [
            exchange_p_value(
                sweeps[0].alphas.detach().cpu().double(), gains, offset, folds=folds, flips=resamples,
                generator=_seeded(seed),
            )
            for offset in (cosine_change, torch.zeros_like(cosine_change))
        ]  # fmt: skip
    else:
        chosen_p_values = [_sign_flip(row, resamples, seed) for row in differences[1:]]
    p_values = holm([_sign_flip(cosine_change, resamples, seed), *chosen_p_values])
    return ModelComparison(
        before.measure,
        int(usable.sum()),
        first.calibration,
        second.calibration,
        *_changes(differences, p_values, resamples, level, seed),
    )


def _sign_flip(differences: Tensor, flips: int, seed: int) -> float:
    """Of a difference and its negative the larger: a two-sided test."""
    return sign_flip_test(torch.stack([differences, -differences]), flips=flips, generator=_seeded(seed)).p_value


def _changes(differences: Tensor, p_values: list[float], resamples: int, level: float, seed: int) -> list[PairedChange]:
    """Of differences ``[3, n]``, a row each."""
    count = differences.shape[1]
    intervals = bootstrap_intervals(
        lambda counts: counts @ differences.T / count,
        count,
        resamples=resamples,
        level=level,
        generator=_seeded(seed),
        width=len(differences),
    )
    return [PairedChange(interval, p_value, level) for interval, p_value in zip(intervals, p_values, strict=True)]


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _words(change: PairedChange) -> str:
    value, low, high = (f"{number:+.4f}" for number in change.interval)
    return f"{value} [{low}, {high}], p = {change.p_value:.2g}"
