"""How the mean loss falls as the least confident items are refused."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.statistics.interval import Interval, check_level


class RiskCoverage(NamedTuple):
    """The curve, at every number of items that can be kept.

    Attributes:
        coverage: share of items kept, the most confident first, float64 ``[n]``.
        risk: their mean loss, float64 ``[n]``.
    """

    coverage: Tensor
    risk: Tensor


def risk_coverage(confidence: Tensor, loss: Tensor) -> RiskCoverage:
    """Mean loss of the most confident items, for every coverage from 1/n to 1.

    Items of equal confidence enter in random order, whose expectation is taken: a curve does not depend on the order
    that the items came in (El-Yaniv, Wiener 2010).

    Args:
        confidence: larger is surer, ``[n]``.
        loss: of each item, 0 or 1 or any number, ``[n]``.

    Returns:
        The curve.

    Raises:
        ValueError: if shapes do not fit or something is not finite.

    Example:
        >>> risk_coverage(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0.0, 1.0, 0.5])).risk
        tensor([0.0000, 0.5000, 0.5000], dtype=torch.float64)
    """
    confidence, loss = _checked(confidence, loss)
    levels, place, number = confidence.unique(return_inverse=True, return_counts=True)
    mean = torch.zeros(len(levels), dtype=torch.float64).index_add_(0, place, loss) / number
    item_counts = torch.arange(1, len(loss) + 1, dtype=torch.float64)
    risk = mean.flip(0).repeat_interleave(number.flip(0)).cumsum(0) / item_counts
    return RiskCoverage(item_counts / max(len(loss), 1), risk)


def area_under_risk_coverage(confidence: Tensor, loss: Tensor, counts: Tensor | None = None) -> Tensor:
    """Mean of the risk-coverage curve over all coverages (AURC; Geifman, Uziel, El-Yaniv 2019): smaller is better.

    In a resample an item that was drawn c times enters c times. With items of equal confidence averaged, a group of C
    items with mean loss l that follows N items with total loss L adds ``C·l + (L - N·l)·(H(N + C) - H(N))``, H being
    the harmonic numbers, so that no resample is ever written out.

    Args:
        confidence: ``[n]``.
        loss: ``[n]``.
        counts: how often each item was drawn in each resample, ``[b, n]``; once each if left out.

    Returns:
        ``[b]`` in float64.

    Raises:
        ValueError: if shapes do not fit or something is not finite.

    Example:
        >>> area_under_risk_coverage(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0.0, 1.0, 0.5]))
        tensor([0.3333], dtype=torch.float64)
    """
    confidence, loss = _checked(confidence, loss)
    counts = torch.ones(1, len(loss), dtype=torch.float64) if counts is None else counts.double()
    levels, place = (-confidence).unique(return_inverse=True)
    empty = counts.new_zeros(len(counts), len(levels))
    number = empty.index_add(1, place, counts)
    total = empty.index_add(1, place, counts * loss)
    mean = total / number.clamp(min=1)
    earlier_number, earlier_loss = number.cumsum(1) - number, total.cumsum(1) - total
    harmonic = torch.digamma(earlier_number + number + 1) - torch.digamma(earlier_number + 1)
    return (total + (earlier_loss - earlier_number * mean) * harmonic).sum(1) / counts.sum(1)


def _checked(confidence: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    if confidence.ndim != 1 or confidence.shape != loss.shape:
        raise ValueError(
            f"confidence, loss: expected one number for each item, got {tuple(confidence.shape)} and"
            f" {tuple(loss.shape)}"
        )
    if not confidence.isfinite().all() or not loss.isfinite().all():
        raise ValueError("confidence, loss: expected finite numbers, got NaN or infinity; leave those items out")
    return confidence.detach().cpu().double(), loss.detach().cpu().double()


class RocAreas(NamedTuple):
    """Areas under the ROC curve of several scores of the same items.

    Attributes:
        areas: of each, with DeLong's interval.
        differences: of each minus the first, paired, with DeLong's interval.
    """

    areas: list[Interval]
    differences: list[Interval]


def roc_areas(positives: Tensor, negatives: Tensor, *, level: float = 0.95) -> RocAreas:
    """Chance that a positive item scores above a negative one, ties counting half.

    ``A = mean over pairs of [x > y] + [x = y] / 2``, from ranks (Mann, Whitney 1947); variance and covariance of
    correlated areas from placement values (DeLong, DeLong, Clarke-Pearson 1988). Where a score separates the groups
    without a single mistake their variance is zero and says nothing; the interval then reaches to where as many
    perfect trials as the smaller group has items would (Clopper, Pearson 1934), with ``((1 - level) / 2)^(1 / n)``.

    Args:
        positives: scores of the items that should score high, ``[k, n]`` for k scores.
        negatives: of the others, ``[k, m]``.
        level: of the intervals, which are cut at 0 and 1.

    Returns:
        The record; NaN where a group is empty, ends NaN where one has a single item.

    Raises:
        ValueError: if shapes do not fit or something is not finite.

    Example:
        >>> roc_areas(torch.tensor([[3.0, 2.0, 2.0]]), torch.tensor([[2.0, 1.0]])).areas[0].value
        0.8333...
    """
    _check(positives, negatives)
    check_level(level)
    above, below = _placements(positives.detach().cpu().double(), negatives.detach().cpu().double())
    areas = above.mean(1)
    covariance = _covariance(above) / max(above.shape[1], 1) + _covariance(below) / max(below.shape[1], 1)
    reach = float(torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor((1 + level) / 2)))
    errors = covariance.diagonal().clamp(min=0).sqrt() * reach
    difference = areas - areas[:1]
    spread = (covariance.diagonal() + covariance[0, 0] - 2 * covariance[0]).clamp(min=0).sqrt() * reach
    perfect = ((1 - level) / 2) ** (1 / max(1, min(above.shape[1], below.shape[1])))
    return RocAreas(
        [_cut(area, error, perfect) for area, error in zip(areas.tolist(), errors.tolist(), strict=True)],
        [Interval(d, d - far, d + far) for d, far in zip(difference.tolist(), spread.tolist(), strict=True)],
    )


def _placements(positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Share of the other group on the right side of each item, ``[k, n]`` and ``[k, m]``."""

    def share_below(x: Tensor, others: Tensor) -> Tensor:
        ordered = others.sort(1).values
        below = torch.searchsorted(ordered, x.contiguous())
        upto = torch.searchsorted(ordered, x.contiguous(), right=True)
        return (below + upto).double() / 2 / others.shape[1]

    return share_below(positives, negatives), 1 - share_below(negatives, positives)


def _covariance(placements: Tensor) -> Tensor:
    deviations = placements - placements.mean(1, keepdim=True)
    freedom = placements.shape[1] - 1
    return deviations @ deviations.T / (freedom if freedom > 0 else math.nan)


def _cut(area: float, error: float, perfect: float) -> Interval:
    if area in (0.0, 1.0):
        return Interval(area, perfect if area else 0.0, 1.0 if area else 1 - perfect)
    return Interval(area, max(area - error, 0.0), min(area + error, 1.0))


def _check(positives: Tensor, negatives: Tensor) -> None:
    if positives.ndim != 2 or negatives.ndim != 2 or len(positives) != len(negatives):
        raise ValueError(
            "positives, negatives: expected [k, n] and [k, m] of the same k scores, got"
            f" {tuple(positives.shape)} and {tuple(negatives.shape)}"
        )
    if not positives.isfinite().all() or not negatives.isfinite().all():
        raise ValueError("positives, negatives: expected finite scores, got NaN or infinity; leave those items out")


def expected_calibration_error(
    confidence: Tensor, correct: Tensor, counts: Tensor | None = None, *, bins: int = 15
) -> Tensor:
    """Gap between confidence and accuracy in bins of equal width, weighted by how many items fall into each.

    ``ECE = sum over bins of n_b / n · |accuracy_b - confidence_b|`` (Guo, Pleiss, Sun, Weinberger, ICML 2017, eq. 3).

    Args:
        confidence: probability of the predicted class, from 0 to 1, ``[n]``.
        correct: whether the prediction was right, ``[n]``.
        counts: how often each item was drawn in each resample, ``[b, n]``; once each if left out.
        bins: of equal width over 0 to 1; a confidence on an edge belongs below it.

    Returns:
        ``[b]`` in float64, from 0 to 1.

    Raises:
        ValueError: if shapes do not fit or a confidence is no probability.

    Example:
        >>> expected_calibration_error(torch.tensor([0.9, 0.9, 0.6]), torch.tensor([True, False, True]))
        tensor([0.4000], dtype=torch.float64)
    """
    check_count(bins=bins)
    if confidence.ndim != 1 or confidence.shape != correct.shape:
        raise ValueError(
            f"confidence, correct: expected one number for each item, got {tuple(confidence.shape)} and "
            f"{tuple(correct.shape)}"
        )
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("confidence: expected probabilities from 0 to 1, got others; take logits.softmax(1).amax(1)")
    # In the type it came in, so that an edge is where the caller sees it.
    place = (confidence.detach().cpu() * bins).ceil().long().sub(1).clamp(min=0)
    gap = correct.detach().cpu().double() - confidence.detach().cpu().double()
    counts = torch.ones(1, len(gap), dtype=torch.float64) if counts is None else counts.double()
    gaps = counts.new_zeros(len(counts), bins).index_add_(1, place, counts * gap)
    return gaps.abs().sum(1) / counts.sum(1)
