"""Several variants measured on the same queries: which is better than the reference, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.statistics.interval import Interval, resample_counts
from lightning_normdyn.core.statistics.looks import look_levels
from lightning_normdyn.core.statistics.variance_components import NORMAL_OF_POWER, VarianceComponents

NO_DIFFERENCE = "no difference"
Answer = Literal["gain", "loss", "no gain", "undecided"]
FEWEST_QUERIES = 20
"""Fewer queries than this decide nothing, whatever they say."""


_BELOW_ONE_SIGMA = 0.158655
"""Share of a normal distribution more than a standard deviation below its mean."""


class VariantScore(NamedTuple):
    """How one variant did. The last three compare with the reference; its own gain is 0 throughout, its p value 1.

    Attributes:
        mean_interval: over queries and seeds.
        share_best: share of draws in which no other variant is better.
        gain_interval: mean minus that of the reference; the interval holds for all variants at once.
        p_value: how likely a gain of that size is for any of the variants if none differs from the reference.
        visible_gain: the smallest gain of this variant that would have been seen with a probability of 80%; ``None`` of
            the reference, and with one seed, which knows no spread of seeds.
    """

    mean_interval: Interval
    share_best: float
    gain_interval: Interval
    p_value: float
    visible_gain: float | None = None

    @property
    def mean(self) -> float:
        """The mean itself."""
        return self.mean_interval.value

    @property
    def gain(self) -> float:
        """The gain itself."""
        return self.gain_interval.value

    def numbers(self) -> dict[str, float]:
        """Plain numbers by the names that they have in files."""
        numbers = {
            "mean": self.mean,
            "low": self.mean_interval.low,
            "high": self.mean_interval.high,
            "share_best": self.share_best,
            "gain": self.gain,
            "gain_low": self.gain_interval.low,
            "gain_high": self.gain_interval.high,
            "p_value": self.p_value,
        }
        return numbers if self.visible_gain is None else numbers | {"visible_gain": self.visible_gain}


class VariantComparison(NamedTuple):
    """Variants beside each other.

    Attributes:
        scores: by variant, in the order given.
        reference: the variant that others have to beat.
        recommended: the best variant if it is better than the reference beyond doubt, the reference if it is better
            than all others beyond doubt, else ``no difference``.
        confidence: in that: of a variant, 1 minus its p value; of the reference, 1 minus the largest; of no
            difference, the share of draws in which no variant gains ``margin`` or more; 0 with fewer than 20 queries or
            nothing to compare.
        seeds: trainings of each variant.
        queries: that entered.
        margin: a gain too small to matter, in the unit of the values.
        level: at which intervals of all gains, and of all looks, hold together.
        is_sequential: whether one looks again and again.
    """

    scores: dict[str, VariantScore]
    reference: str
    recommended: str
    confidence: float
    seeds: int
    queries: int
    margin: float
    level: float = 0.95
    is_sequential: bool = False

    @property
    def answer(self) -> Answer:
        """What is decided: ``gain`` or ``loss`` beyond doubt, ``no gain`` where none of ``margin`` or more is possible.

        Loss means that every other variant is worse than the reference. With one seed, or too few queries, or where
        intervals leave both a gain that matters and none, it is ``undecided``.
        """
        others = [score for name, score in self.scores.items() if name != self.reference]
        if not self.decidable or self.seeds == 1 or not others:
            return "undecided"
        if self.recommended != NO_DIFFERENCE:
            return "loss" if self.recommended == self.reference else "gain"
        return "no gain" if all(score.gain_interval.high < self.margin for score in others) else "undecided"

    @property
    def largest_gain(self) -> float:
        """The upper end of the intervals of all gains: no variant is better by more."""
        return max(score.gain_interval.high for name, score in self.scores.items() if name != self.reference)

    @property
    def visible_gains(self) -> dict[str, float]:
        """The smallest gain of each other variant that would have been seen; empty where none is known."""
        return {name: score.visible_gain for name, score in self.scores.items() if score.visible_gain is not None}

    @property
    def visible_gain(self) -> float:
        """The largest of them, which would have been seen of any variant; NaN where there are none."""
        return max(self.visible_gains.values(), default=math.nan)

    @property
    def decidable(self) -> bool:
        """Whether there are queries enough to tell variants apart."""
        return self.queries >= FEWEST_QUERIES

    @property
    def best(self) -> str:
        """The variant with the largest mean."""
        return max(self.scores, key=lambda name: self.scores[name].mean)

    @property
    def level_in_words(self) -> str:
        """The level as a percentage, and what it is over."""
        return f"{100 * self.level:g}% {'over all looks' if self.is_sequential else 'for all at once'}"

    @property
    def confidence_in_words(self) -> str:
        """The confidence as a percentage; a finite number of draws makes nothing certain."""
        return "confidence above 99.9%" if self.confidence > 0.999 else f"confidence {self.confidence:.1%}"


def compare_variants(
    values: Mapping[str, Tensor],
    *,
    reference: str = "cosine",
    resamples: int = 2_000,
    level: float = 0.95,
    margin: float = 0.005,
    looks: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> VariantComparison:
    """Compares variants over the queries and the trainings that they share.

    Two things make a mean uncertain, and both enter every draw: which queries were asked (bootstrap over queries, the
    same for all variants, so that comparisons are paired) and which seed trained (a t distributed error with the
    spread of seeds, pooled over variants). Gains over the reference have simultaneous intervals (max-t), because the
    best of several variants looks good by chance. With one seed nothing is known of the second part: intervals are
    then those of these very trainings.

    Args:
        values: variant to the measure of each query after each training, ``[seeds, n]``, larger being better; NaN
            where a query has none. The same queries for all.
        reference: what others are compared with.
        resamples: draws.
        level: of the intervals, and of what counts as beyond doubt.
        margin: a gain below it does not matter.
        looks: numbers of seeds at which one looks and may stop, ascending, those to come included; intervals of all
            looks then hold together at ``level``, see :func:`look_levels`. Empty for one look.
        generator: of random numbers; a fresh one with seed 0 if left out.

    Raises:
        ValueError: if shapes differ, nothing is left, or the reference is not among the variants.

    Example:
        >>> queries = torch.rand(2, 500, generator=torch.Generator().manual_seed(0))
        >>> comparison = compare_variants({"cosine": queries, "qnorm": queries + 0.1})
        >>> comparison.recommended, round(comparison.scores["qnorm"].gain, 3)
        ('qnorm', 0.1)
    """
    table = _stacked(values, reference)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    _, seeds, queries = table.shape
    at_reference = list(values).index(reference)
    draws = _draws(table, resamples, generator)
    scores = _scores(list(values), table, draws, at_reference, (level, _look_level(table, looks, level)))
    gain_draws = draws - draws[:, at_reference, None]
    rival_draws = gain_draws[:, torch.arange(len(values)) != at_reference]
    recommended, confidence = _verdict(scores, reference, rival_draws, margin)
    if queries < FEWEST_QUERIES:
        recommended, confidence = NO_DIFFERENCE, 0.0
    if seeds > 1:
        scores = _with_visible_gains(scores, reference, gain_draws, margin)
    return VariantComparison(scores, reference, recommended, confidence, seeds, queries, margin, level, bool(looks))


def _stacked(values: Mapping[str, Tensor], reference: str) -> Tensor:
    """Queries that every training measured, ``[v, seeds, n]``, in float64."""
    if reference not in values:
        raise ValueError(f"reference: expected one of {', '.join(values) or 'no variants'}, got {reference!r}")
    shapes = {name: tuple(table.shape) for name, table in values.items()}
    if any(len(shape) != 2 or shape != shapes[reference] for shape in shapes.values()):
        raise ValueError(f"values: expected [seeds, n], the same for every variant, got {shapes}")
    table = torch.stack([column.detach().cpu().double() for column in values.values()])
    table = table[..., table.isfinite().all(0).all(0)]
    if not table.shape[-1]:
        raise ValueError("values: expected at least one query with a value for every variant and seed, got none")
    return table


def _look_level(table: Tensor, looks: Sequence[int], level: float) -> float:
    """At which intervals of this look hold, so that those of all looks hold together at a level."""
    if not looks or min(table.shape) < 2:
        return level
    seeds = table.shape[1]
    return look_levels(table, [*([seeds] * (seeds < looks[0])), *looks], level=level)[-1]


def _scores(
    names: Sequence[str], table: Tensor, draws: Tensor, at_reference: int, levels: tuple[float, float]
) -> dict[str, VariantScore]:
    """Of every variant, with intervals of means at the first level and of gains, all at once, at the second."""
    level, look_level = levels
    means = table.mean((1, 2))
    gains, gain_draws = means - means[at_reference], draws - draws[:, at_reference, None]
    spread = gain_draws.std(0, correction=0)
    worst, sizes = _simultaneous(gain_draws, gains, spread, at_reference)
    half_widths = (float(worst.quantile(look_level)) if len(names) > 1 else 0.0) * spread
    half_widths[at_reference] = 0
    p_values = ((worst >= sizes[:, None]).sum(1) + 1) / (len(worst) + 1)
    p_values[at_reference] = 1
    low, high = draws.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=draws.dtype), dim=0)
    is_best = (draws == draws.amax(1, keepdim=True)).double()
    share_best = (is_best / is_best.sum(1, keepdim=True)).mean(0)
    mean_intervals = [Interval(*numbers) for numbers in torch.stack([means, low, high], 1).tolist()]
    gain_intervals = [
        Interval(*numbers) for numbers in torch.stack([gains, gains - half_widths, gains + half_widths], 1).tolist()
    ]
    columns = (mean_intervals, share_best.tolist(), gain_intervals, p_values.tolist())
    return {name: VariantScore(*row) for name, *row in zip(names, *columns, strict=True)}


def _with_visible_gains(
    scores: Mapping[str, VariantScore], reference: str, gain_draws: Tensor, margin: float
) -> dict[str, VariantScore]:
    """The scores with the smallest gain of each that would have been seen with a probability of 80%."""
    ends = gain_draws.quantile(torch.tensor([_BELOW_ONE_SIGMA, 1 - _BELOW_ONE_SIGMA], dtype=gain_draws.dtype), dim=0)
    sigmas = dict(zip(scores, ((ends[1] - ends[0]) / 2).tolist(), strict=True))
    gains = {
        name: max(margin, score.gain_interval.high - score.gain + NORMAL_OF_POWER * sigmas[name])
        for name, score in scores.items()
        if name != reference
    }
    return {name: score._replace(visible_gain=gains.get(name)) for name, score in scores.items()}


def _draws(values: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """Means that might have come out, ``[resamples, v]``."""
    variants, seeds, queries = values.shape
    of_queries = values.mean(1)
    batches = [counts @ of_queries.T / queries for counts in resample_counts(queries, resamples, generator=generator)]
    draws, means = torch.cat(batches), of_queries.mean(1)
    if queries > 1:
        # A bootstrap knows the spread of few queries no better than a t test does, and takes it for too small.
        draws = means + (draws - means) * (queries / _chi_square(queries - 1, resamples, generator)).sqrt()
    if seeds == 1:
        return draws
    if min(variants, queries) > 1:
        draws = _without_residual(draws, means, values)
    freedom = variants * (seeds - 1)
    pooled = values.mean(2).var(1, correction=1).mean().sqrt()
    normal = torch.randn(resamples, variants, generator=generator, dtype=draws.dtype)
    error: Tensor = normal * (freedom / _chi_square(freedom, resamples, generator)).sqrt() * pooled / math.sqrt(seeds)
    return draws + error


def _without_residual(draws: Tensor, means: Tensor, values: Tensor) -> Tensor:
    """The draws with differences of variants as narrow as queries alone make them.

    What is left of a query under one seed is in means over queries too, and so in their spread from seed to seed, which
    is added afterwards: it would count twice.
    """
    components = VarianceComponents.of(values)
    total = components.queries + 2 * components.residual / values.shape[1]
    share = components.queries / total if total > 0 else 1.0
    errors = draws - means
    shared = errors.mean(1, keepdim=True)
    return means + shared + (errors - shared) * math.sqrt(share)


def _chi_square(freedom: int, resamples: int, generator: torch.Generator) -> Tensor:
    """Chi-square numbers ``[resamples, 1]`` from one normal each (Wilson, Hilferty 1931); exact for few degrees."""
    if freedom <= 10:
        normal = torch.randn(resamples, freedom, generator=generator, dtype=torch.float64)
        return normal.square().sum(1, keepdim=True)
    spread = 2 / (9 * freedom)
    normal = torch.randn(resamples, 1, generator=generator, dtype=torch.float64)
    return freedom * (1 - spread + math.sqrt(spread) * normal).pow(3)


def _simultaneous(draws: Tensor, gains: Tensor, spread: Tensor, at_reference: int) -> tuple[Tensor, Tensor]:
    """The largest standardised error of any gain in each draw, and the gains' own standardised sizes."""
    varies = spread > 1e-12 * gains.abs().clamp(min=1e-300)
    unit = spread.where(varies, 1)
    errors = ((draws - gains).abs() / unit).where(varies, 0)
    sizes = torch.where(varies, gains.abs() / unit, torch.where(gains == 0, 0, torch.inf))
    errors[:, at_reference] = 0
    return errors.amax(1), sizes


def _verdict(
    scores: Mapping[str, VariantScore], reference: str, gain_draws: Tensor, margin: float
) -> tuple[str, float]:
    best = max(scores, key=lambda name: scores[name].mean)
    others = [score for name, score in scores.items() if name != reference]
    if best != reference and scores[best].gain_interval.low > 0 and scores[best].gain >= margin:
        return best, 1 - scores[best].p_value
    if others and all(score.gain_interval.high < 0 for score in others):
        return reference, 1 - max(score.p_value for score in others)
    return NO_DIFFERENCE, float((gain_draws < margin).all(1).double().mean()) if others else 0.0
