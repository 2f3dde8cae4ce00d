"""How well a number tells two groups apart, whatever its threshold."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.interval import Interval, check_level


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
    centred = placements - placements.mean(1, keepdim=True)
    freedom = placements.shape[1] - 1
    return centred @ centred.T / (freedom if freedom > 0 else math.nan)


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
