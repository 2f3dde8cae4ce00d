"""Compares the norms of groups of items: Cohen's d of each group against all others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.statistics.interval import Interval, check_level

LEAST_ITEMS = 10
"""Of a group that is compared, and of all others beside it."""
_MOST = 200


class GroupNorms(NamedTuple):
    """A group beside all other items.

    Attributes:
        column: that it is a value of.
        group: its name.
        items: how many.
        mean: of its norms.
        effect: Cohen's d between its norms and those of the others, with an interval that holds for all groups at once.
        beyond_length: the same with length taken out of norms; ``None`` where lengths are unknown.
    """

    column: str
    group: str
    items: int
    mean: float
    effect: Interval
    beyond_length: Interval | None

    @property
    def differs(self) -> bool:
        """Whether the effect is at least small (0.2) and its interval excludes 0."""
        effect = self.effect
        return abs(effect.value) >= 0.2 and (effect.low > 0 or effect.high < 0)


def group_norms(
    norms: Tensor,
    groups: Mapping[str, Sequence[str | None]],
    *,
    residual: Tensor | None = None,
    level: float = 0.95,
) -> list[GroupNorms]:
    """Compares the norms of every group with those of all other items that the column knows.

    Args:
        norms: ``[n]``; of zero vectors nothing is compared.
        groups: column to the group of each item, ``None`` where unknown. Groups of fewer than 10, and all but the
            200 largest of a column, are left out.
        residual: norms with length taken out, ``[n]``.
        level: chance that all intervals of ``effect`` hold (Bonferroni).

    Returns:
        Largest effect first.

    Raises:
        ValueError: if a column has not an entry for each norm, or the level is no share.

    Example:
        >>> norms = torch.cat((torch.linspace(1, 2, 20), torch.linspace(1.2, 2.2, 20)))
        >>> comparisons = group_norms(norms, {"source": ["web"] * 20 + ["news"] * 20})
        >>> [(group.group, round(group.effect.value, 2)) for group in comparisons]
        [('web', -0.64), ('news', 0.64)]
    """
    check_level(level)
    for column, labels in groups.items():
        if len(labels) != len(norms):
            raise ValueError(f"{column}: expected a group or None for each of {len(norms)} items, got {len(labels)}")
    usable = norms > 0
    columns = {column: _groups(labels, usable) for column, labels in groups.items()}
    share = 1 - (1 - level) / max(1, sum(len(group_codes.codes_by_group) for group_codes in columns.values()))
    comparisons = []
    for column, group_codes in columns.items():
        for group, code in group_codes.codes_by_group.items():
            # A group at a time: places of all groups and of all others would take as much memory as there are groups.
            in_group, in_others = group_codes.codes == code, (group_codes.codes >= 0) & (group_codes.codes != code)
            beyond_length = (
                None if residual is None else difference(residual[in_group], residual[in_others], level=share)
            )
            effect = difference(norms[in_group], norms[in_others], level=share)
            comparisons.append(
                GroupNorms(
                    column, group, int(in_group.sum()), float(norms[in_group].double().mean()), effect, beyond_length
                )
            )
    return sorted(comparisons, key=lambda group: -abs(group.effect.value) if math.isfinite(group.effect.value) else 0.0)


def difference(first: Tensor, second: Tensor, *, level: float = 0.95) -> Interval:
    """Cohen's d with an interval for norms of any distribution and of different spread.

    The delta method: d moves by ``(x - mean) / s - d/(2 s²)·w·((x - mean)² - v)`` with an item x of a group of share w
    and variance v, and the variance of these movements over the group's size is the group's part in that of d (Hampel
    1974); nothing is resampled, so that a million items cost one pass.

    Args:
        first: norms of a group, ``[n]``.
        second: of another, ``[m]``.
        level: chance that the interval holds d.

    Returns:
        d, positive where the first is longer; NaN where norms do not vary.

    Example:
        >>> difference(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 3.0])).value
        0.7071...
    """
    first, second = first.double(), second.double()
    n, m = len(first), len(second)
    if n + m < 3 or not n or not m:
        return Interval(math.nan, math.nan, math.nan)
    deviations = [(x - x.mean(), (x - x.mean()).square()) for x in (first, second)]
    squares = [deviation[1].sum() for deviation in deviations]
    pooled = (squares[0] + squares[1]) / (n + m - 2)
    if not pooled > 0:
        return Interval(math.nan, math.nan, math.nan)
    scale = pooled.sqrt()
    d = (first.mean() - second.mean()) / scale
    variance = torch.zeros((), dtype=torch.float64)
    for (gaps, squared_gaps), size, sign in zip(deviations, (n, m), (1.0, -1.0), strict=True):
        influence = sign * gaps / scale - d / (2 * pooled) * (size / (n + m)) * (squared_gaps - squared_gaps.mean())
        variance += influence.square().mean() / max(1, size - 1)
    reach = NormalDist().inv_cdf(0.5 + level / 2) * float(variance.sqrt())
    return Interval(float(d), float(d) - reach, float(d) + reach)


class _Groups(NamedTuple):
    """A column: the code of each item's group, -1 for none, and the codes of the groups that are compared, by name."""

    codes: Tensor
    codes_by_group: dict[str, int]


def _groups(labels: Sequence[str | None], usable: Tensor) -> _Groups:
    numbers: dict[str, int] = {}
    codes = torch.tensor(
        [-1 if label is None else numbers.setdefault(label, len(numbers)) for label in labels], dtype=torch.int64
    )
    codes[~usable] = -1
    sizes = torch.bincount(codes[codes >= 0], minlength=len(numbers)).tolist()
    large = sorted(
        (group for group, code in numbers.items() if sizes[code] >= LEAST_ITEMS),
        key=lambda group: -sizes[numbers[group]],
    )
    total = sum(sizes)
    return _Groups(
        codes, {group: numbers[group] for group in large[:_MOST] if total - sizes[numbers[group]] >= LEAST_ITEMS}
    )
