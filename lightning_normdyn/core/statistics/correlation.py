"""Correlation of norms with other measurements, with and without controls held fixed, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.statistics.interval import Interval, check_level, percentile_ends, resample_counts
from lightning_normdyn.core.tensor_checks import check_columns, check_tensors

Kind = Literal["spearman", "pearson"]
LENGTH = "length"
_LEAST_VARIANCE = 1e-10


class Correlation(NamedTuple):
    """A correlation with its bootstrap interval, before and after controls are held fixed.

    Attributes:
        interval: correlation of the two; NaN where one of them does not vary.
        partial_interval: correlation of what the controls leave unexplained; the same if there are none, NaN where they
            explain everything.
        n: items that entered: those with a finite value of everything.
    """

    interval: Interval
    partial_interval: Interval
    n: int

    @property
    def r(self) -> float:
        """The correlation itself."""
        return self.interval.value

    @property
    def partial_r(self) -> float:
        """The partial correlation itself."""
        return self.partial_interval.value

    def numbers(self) -> dict[str, float]:
        """Plain numbers by the names that they have in files."""
        return {
            "r": self.r,
            "low": self.interval.low,
            "high": self.interval.high,
            "partial_r": self.partial_r,
            "partial_low": self.partial_interval.low,
            "partial_high": self.partial_interval.high,
            "n": self.n,
        }


def norm_correlations(
    norms: Tensor,
    length: Tensor,
    covariates: Mapping[str, Tensor] | None = None,
    *,
    kind: Kind = "spearman",
    resamples: int = 1_000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> dict[str, Correlation]:
    """Correlates norms with every covariate, and with length, which is a confounder of most of them.

    Longer texts are rarer, more specific and pooled over more tokens, so a norm that follows length alone seems to
    follow all of these: read ``partial_r``, which for a covariate holds length fixed, and for length all covariates.

    Args:
        norms: ``[n]``.
        length: of the items themselves (tokens, letters, pixels), ``[n]``.
        covariates: name to one number an item, ``[n]``: frequency, depth in a hierarchy, human uncertainty.
        kind: ``spearman`` correlates ranks (ties share their mean rank), ``pearson`` the values.
        resamples: of the bootstrap over items; 0 leaves the intervals NaN.
        level: share of resamples inside an interval (percentile bootstrap).
        generator: of random numbers; a fresh one with seed 0 if left out.

    Returns:
        Name to correlation, ``length`` last.

    Raises:
        ValueError: if something has not one number for each norm, or a covariate is called ``length``.

    Example:
        >>> length = torch.arange(8.0)
        >>> correlations = norm_correlations(length + 1, length, {"depth": torch.tensor([0.0, 2, 1, 3, 5, 4, 7, 6])})
        >>> {name: round(correlation.r, 3) for name, correlation in correlations.items()}
        {'depth': 0.929, 'length': 1.0}
        >>> {name: round(correlation.partial_r, 3) for name, correlation in correlations.items()}
        {'depth': nan, 'length': 1.0}
    """
    check_level(level)
    check_count(0, resamples=resamples)
    check_tensors(norms=norms, length=length)
    if norms.ndim != 1 or length.shape != norms.shape:
        raise ValueError(
            f"norms, length: expected one number each for the same items, [n], got {tuple(norms.shape)} and "
            f"{tuple(length.shape)}"
        )
    covariates = {} if covariates is None else covariates
    check_columns("covariates", covariates, len(norms))
    if LENGTH in covariates:
        raise ValueError("covariates: expected names other than 'length', got 'length'; pass it as the argument length")
    # Every covariate over the same items, so that their correlations compare.
    columns = torch.stack([_column(name, x, norms) for name, x in {LENGTH: length, **covariates}.items()], dim=1)
    usable = columns.isfinite().all(1) & norms.detach().isfinite().cpu()
    norms, columns = norms.detach().cpu()[usable], columns[usable]

    def with_norms(y: Tensor, controls: Tensor) -> Correlation:
        return correlate(norms, y, controls, kind=kind, resamples=resamples, level=level, generator=generator)

    correlations = {name: with_norms(columns[:, at], columns[:, :1]) for at, name in enumerate(covariates, start=1)}
    return correlations | {LENGTH: with_norms(columns[:, 0], columns[:, 1:])}


def correlate(
    x: Tensor,
    y: Tensor,
    controls: Tensor | None = None,
    *,
    kind: Kind = "spearman",
    resamples: int = 1_000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> Correlation:
    """Correlates two measurements of the same items, with and without controls held fixed.

    The partial correlation is that of the residuals of ``x`` and ``y`` regressed on the controls and a constant; of
    ranks for ``spearman``, taken anew in every resample. All of it is computed in float64.

    Args:
        x: ``[n]``.
        y: ``[n]``.
        controls: ``[n, k]``; redundant ones do no harm.
        kind: ``spearman`` or ``pearson``.
        resamples: of the bootstrap over items; 0 leaves the intervals NaN.
        level: share of resamples inside the interval.
        generator: of random numbers; a fresh one with seed 0 if left out.

    Returns:
        The record; ``n`` tells how many items had all values finite.

    Raises:
        ValueError: if the shapes do not fit, or ``kind`` or ``level`` is none.

    Example:
        >>> correlation = correlate(torch.tensor([1.0, 2, 3, 4]), torch.tensor([1.0, 3, 2, 4]), kind="pearson")
        >>> round(correlation.r, 6), correlation.n
        (0.8, 4)
    """
    if kind not in ("spearman", "pearson"):
        raise ValueError(f"kind: expected 'spearman' or 'pearson', got {kind!r}")
    check_level(level)
    check_count(0, resamples=resamples)
    check_tensors(x=x)
    columns = [_column("x", x, x), _column("y", y, x)]
    if controls is not None:
        check_tensors(controls=controls)
        if controls.ndim != 2:
            raise ValueError(f"controls: expected [n, k], got {tuple(controls.shape)}; stack them along dim 1")
        columns += [_column("controls", control, x) for control in controls.unbind(1)]
    values = torch.stack(columns)
    values = values[:, values.isfinite().all(0)]
    n = values.shape[1]
    if n == 0:
        nowhere = Interval(math.nan, math.nan, math.nan)
        return Correlation(nowhere, nowhere, 0)
    coefficients = _correlations(values, torch.ones(1, n, dtype=torch.float64), kind)[0].tolist()
    draws = [
        _correlations(values, counts, kind)
        for counts in resample_counts(n, resamples, generator=generator, width=3 * len(values))
    ]
    ends = percentile_ends(torch.cat(draws), level) if draws else [(math.nan, math.nan)] * 2
    interval, partial_interval = (Interval(value, *pair) for value, pair in zip(coefficients, ends, strict=True))
    return Correlation(interval, partial_interval, n)


def _column(name: str, x: Tensor, like: Tensor) -> Tensor:
    check_tensors(**{name: x})
    if x.ndim != 1 or x.shape != like.shape:
        raise ValueError(f"{name}: expected one number for each of {tuple(like.shape)} items, got {tuple(x.shape)}")
    return x.detach().cpu().double()


def _correlations(values: Tensor, counts: Tensor, kind: Kind) -> Tensor:
    """Correlation and partial correlation of the first two rows of values ``[k, n]`` in every resample, ``[b, 2]``."""
    items = _ranks(values, counts) if kind == "spearman" else values.expand(len(counts), -1, -1)
    share = (counts / counts.sum(1, keepdim=True)).unsqueeze(1)
    deviations = items - (items * share).sum(-1, keepdim=True)
    covariance = (deviations * share) @ deviations.mT
    variance = covariance.diagonal(dim1=1, dim2=2)
    # Centring leaves a constant column at rounding of its size, not at zero.
    constant = variance <= _LEAST_VARIANCE**2 * (items.square() * share).sum(-1)
    scale = variance.where(~constant, 1).sqrt()
    covariance = (covariance / scale.unsqueeze(1) / scale.unsqueeze(2)).masked_fill(
        constant.unsqueeze(1) | constant.unsqueeze(2), 0
    )
    return torch.stack((_normalised(covariance[:, :2, :2]), _normalised(_without_controls(covariance))), dim=1)


def _without_controls(correlation: Tensor) -> Tensor:
    """What is left of the first two once the others are held fixed: the Schur complement, ``[b, 2, 2]``."""
    pair, cross, controls = correlation[:, :2, :2], correlation[:, :2, 2:], correlation[:, 2:, 2:]
    if not controls.shape[1]:
        return pair
    explained_part: Tensor = cross @ torch.linalg.pinv(controls, rtol=_LEAST_VARIANCE, hermitian=True) @ cross.mT
    return pair - explained_part


def _normalised(covariance: Tensor) -> Tensor:
    """The correlation in ``[b, 2, 2]``; NaN where nothing varies."""
    first, second, covariance_of_pair = covariance[:, 0, 0], covariance[:, 1, 1], covariance[:, 0, 1]
    varies = (first > _LEAST_VARIANCE) & (second > _LEAST_VARIANCE)
    r: Tensor = (covariance_of_pair / (first * second).where(varies, 1).sqrt()).clamp(-1, 1)
    return torch.where(varies, r, torch.nan)


def _ranks(values: Tensor, counts: Tensor) -> Tensor:
    """Ranks of values ``[k, n]`` in resamples ``[b, n]``, equal ones sharing their mean rank; ``[b, k, n]``."""
    ranks = []
    for column in values:
        distinct, place = column.unique(return_inverse=True)
        draw_counts = counts.new_zeros(len(counts), len(distinct)).index_add_(1, place, counts)
        ranks.append((draw_counts.cumsum(1) - (draw_counts - 1) / 2)[:, place])
    return torch.stack(ranks, dim=1)
