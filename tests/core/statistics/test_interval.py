"""Bootstrap intervals against resamples written out."""

import math

import numpy as np
import pytest
import torch

from lightning_normdyn.core.statistics.interval import Interval, bootstrap_intervals, resample_counts


def means(values):
    return lambda counts: counts @ values / len(values)


def test_ends_are_quantiles_of_the_resampled_statistic():
    values = torch.randn(40, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = bootstrap_intervals(means(values), 40, resamples=300, level=0.9)
    drawn = []
    for counts in torch.cat(list(resample_counts(40, 300))).int().tolist():
        items = [row for row, number in zip(values.tolist(), counts, strict=True) for _ in range(number)]
        drawn.append(np.mean(items, axis=0))
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    assert [one.value for one in found] == pytest.approx(values.mean(0).tolist())
    assert [one.low for one in found] == pytest.approx(low)
    assert [one.high for one in found] == pytest.approx(high)


def test_nothing_to_resample_is_nan():
    none = bootstrap_intervals(lambda counts: counts.sum(1, keepdim=True), 0)[0]
    assert all(math.isnan(number) for number in none)
    once = bootstrap_intervals(lambda counts: counts.sum(1, keepdim=True), 3, resamples=0)[0]
    assert once.value == 3
    assert math.isnan(once.low)
    with pytest.raises(ValueError, match="level"):
        bootstrap_intervals(lambda counts: counts, 3, level=95)


def test_an_interval_prints_as_it_is_read():
    assert str(bootstrap_intervals(means(torch.ones(4, 1, dtype=torch.float64)), 4)[0]) == "1.000 [1.000, 1.000]"


@pytest.mark.parametrize(
    ("ends", "excluded"),
    [((0.1, 0.3), True), ((-0.3, -0.1), True), ((-0.1, 0.3), False), ((math.nan, math.nan), False)],
)
def test_an_interval_excludes_zero_or_not_and_prints_itself(ends, excluded):
    interval = Interval(sum(ends) / 2, *ends)
    assert interval.excludes_zero is excluded
    assert str(Interval(0.25, 0.1, 0.4)) == "0.250 [0.100, 0.400]"
