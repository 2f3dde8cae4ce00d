"""How the mean loss falls as the least confident items are refused."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
    kept = torch.arange(1, len(loss) + 1, dtype=torch.float64)
    risk = mean.flip(0).repeat_interleave(number.flip(0)).cumsum(0) / kept
    return RiskCoverage(kept / max(len(loss), 1), risk)


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
    before, lost_before = number.cumsum(1) - number, total.cumsum(1) - total
    harmonic = torch.digamma(before + number + 1) - torch.digamma(before + 1)
    return (total + (lost_before - before * mean) * harmonic).sum(1) / counts.sum(1)


def _checked(confidence: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    if confidence.ndim != 1 or confidence.shape != loss.shape:
        raise ValueError(
            f"confidence, loss: expected one number for each item, got {tuple(confidence.shape)} and"
            f" {tuple(loss.shape)}"
        )
    if not confidence.isfinite().all() or not loss.isfinite().all():
        raise ValueError("confidence, loss: expected finite numbers, got NaN or infinity; leave those items out")
    return confidence.detach().cpu().double(), loss.detach().cpu().double()
