"""Correlation and partial correlation against numpy's least squares, and intervals against what they promise."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core import correlate, norm_correlations
from lightning_normdyn.core.statistics.interval import resample_counts

PROPERTY = settings(derandomize=True, max_examples=40)


def mean_ranks(values):
    """Rank of every value, by counting: how many are smaller, and half of those that are equal."""
    return np.array([sum(v < x for v in values) + (1 + sum(v == x for v in values)) / 2 for x in values])


def by_numpy(x, y, controls, kind):
    """Correlation, and that of the residuals of least squares."""
    columns = [np.asarray(column, np.float64) for column in (x, y, *controls)]
    if kind == "spearman":
        columns = [mean_ranks(column) for column in columns]
    x, y, *controls = columns
    design = np.column_stack([np.ones(len(x)), *controls])
    left = [column - design @ np.linalg.lstsq(design, column, rcond=None)[0] for column in (x, y)]
    return np.corrcoef(x, y)[0, 1], np.corrcoef(*left)[0, 1]


def sample(seed, n, controls=1, ties=False):
    draw = np.random.default_rng(seed)
    columns = draw.normal(size=(2 + controls, n))
    columns[:2] += 0.7 * columns[2:].sum(0)
    columns[1] += 0.5 * columns[0]
    return torch.tensor(np.round(columns, 0 if ties else 12))


@PROPERTY
@given(st.integers(0, 2**32), st.integers(12, 60), st.integers(0, 3), st.booleans())
@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_both_correlations_equal_numpy(kind, seed, n, controls, ties):
    columns = sample(seed, n, controls, ties)
    found = correlate(columns[0], columns[1], columns[2:].T, kind=kind, resamples=0)
    r, partial_r = by_numpy(columns[0].numpy(), columns[1].numpy(), columns[2:].numpy(), kind)
    assert found.r == pytest.approx(r, abs=1e-9)
    assert found.partial_r == pytest.approx(partial_r, abs=1e-8)
    assert found.n == n
    assert math.isnan(found.interval.low)


@PROPERTY
@given(st.integers(0, 2**32), st.integers(10, 80))
def test_one_control_obeys_the_formula_for_three_variables(seed, n):
    x, y, z = sample(seed, n)
    found = correlate(x, y, z.unsqueeze(1), kind="pearson", resamples=0)
    xy, xz, yz = (np.corrcoef(a, b)[0, 1] for a, b in ((x, y), (x, z), (y, z)))
    assert found.partial_r == pytest.approx((xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2)), abs=1e-9)


@PROPERTY
@given(st.integers(0, 2**32))
def test_ranks_survive_any_rising_map(seed):
    x, y, z = sample(seed, 40)
    before = correlate(x, y, z.unsqueeze(1), resamples=50)
    after = correlate(x.exp(), y**3, (5 * z + 1).unsqueeze(1), resamples=50)
    assert after.numbers() == pytest.approx(before.numbers(), abs=1e-9)


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_resamples_equal_a_loop_over_drawn_items(kind):
    """The counts say which items were drawn: the loop repeats them and correlates as if they were the sample."""
    columns = sample(0, 25, ties=True)
    (counts,) = resample_counts(25, 40, generator=torch.Generator().manual_seed(3))
    drawn = [np.repeat(np.arange(25), row.long().numpy()) for row in counts]
    x, y, *controls = columns.numpy()
    loop = np.array([by_numpy(x[i], y[i], [z[i] for z in controls], kind) for i in drawn])
    found = correlate(
        *columns[:2], columns[2:].T, kind=kind, resamples=40, level=0.8, generator=torch.Generator().manual_seed(3)
    )
    low, high = np.quantile(loop, (0.1, 0.9), axis=0)
    assert [found.interval.low, found.partial_interval.low] == pytest.approx(low.tolist(), abs=1e-9)
    assert [found.interval.high, found.partial_interval.high] == pytest.approx(high.tolist(), abs=1e-9)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """300 samples of 80 items: correlation 0.5, partial correlation 0 because both follow the control."""
    inside = np.zeros(2)
    for seed in range(300):
        draw = torch.Generator().manual_seed(seed)
        control, first, second = torch.randn(3, 80, generator=draw, dtype=torch.float64)
        found = correlate(control + first, control + second, control.unsqueeze(1), kind="pearson", resamples=300)
        inside += (
            found.interval.low <= 0.5 <= found.interval.high,
            found.partial_interval.low <= 0 <= found.partial_interval.high,
        )
    assert (inside / 300 > 0.90).all()
    assert (inside / 300 < 0.98).all()


def test_length_explains_away_what_it_causes():
    """Frequency matters by itself; depth seems to, and does not once length is held fixed."""
    draw = torch.Generator().manual_seed(0)
    length, noise, frequency, own = torch.randn(4, 2_000, generator=draw)
    covariates = {"depth": length + noise, "frequency": frequency}
    found = norm_correlations(10 + length + frequency + own, length, covariates, resamples=200)
    assert list(found) == ["depth", "frequency", "length"]
    assert found["depth"].interval.low > 0.3
    assert found["depth"].partial_interval.low < 0 < found["depth"].partial_interval.high
    assert found["frequency"].partial_interval.low > found["frequency"].interval.high > 0.5
    assert found["length"].partial_interval.low > 0.4


def test_length_alone_is_correlated_too():
    found = norm_correlations(torch.arange(9.0), torch.arange(9.0).flip(0))
    assert list(found) == ["length"]
    assert found["length"].r == found["length"].partial_r == -1


def test_items_without_a_number_are_left_out_of_everything():
    x, y, z = sample(1, 30)
    depth = y.clone()
    depth[4], x[7], z[9] = math.nan, math.inf, math.nan
    kept = torch.tensor([i not in (4, 7, 9) for i in range(30)])
    spoilt = norm_correlations(x, z, {"depth": depth}, resamples=20)
    assert spoilt == norm_correlations(x[kept], z[kept], {"depth": y[kept]}, resamples=20)
    assert {one.n for one in spoilt.values()} == {27}
    both = norm_correlations(x, z, {"depth": depth, "frequency": y}, resamples=20)
    assert {one.n for one in both.values()} == {27}
    assert both["depth"] == spoilt["depth"]


def test_what_does_not_vary_has_no_correlation():
    x, y, z = sample(2, 20)
    assert math.isnan(correlate(x, torch.full_like(x, 0.1), resamples=5).r)
    assert math.isnan(correlate(torch.full_like(x, 1e8 / 3), y, kind="pearson", resamples=5).r)
    same = correlate(x, y, torch.stack((z, z, torch.ones_like(z), 2 * z - 1), dim=1), kind="pearson", resamples=30)
    once = correlate(x, y, z.unsqueeze(1), kind="pearson", resamples=30)
    assert same.numbers() == pytest.approx(once.numbers(), abs=1e-9)
    explained = correlate(x, y, torch.stack((x, z), dim=1), kind="pearson", resamples=5)
    assert math.isnan(explained.partial_r)
    assert not math.isnan(explained.r)
    assert correlate(torch.empty(0), torch.empty(0)).n == 0


def test_results_repeat_and_the_global_generator_stays():
    x, y, _ = sample(3, 50)
    state = torch.get_rng_state()
    assert correlate(x, y) == correlate(x, y)
    assert torch.equal(torch.get_rng_state(), state)
    assert correlate(x, y, generator=torch.Generator().manual_seed(1)).interval.low != correlate(x, y).interval.low


def test_counts_are_those_of_drawing_with_replacement():
    parts = list(resample_counts(2_000_000, 5))
    assert [len(part) for part in parts] == [2, 2, 1]
    (counts,) = resample_counts(50, 4_000)
    assert counts.sum(1).eq(50).all()
    assert float(counts.var(0).mean()) == pytest.approx(1 - 1 / 50, rel=0.02)
    torch.testing.assert_close(counts.mean(0), torch.ones(50, dtype=torch.float64), rtol=0, atol=0.08)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda x: correlate(x, x[1:]), r"y: expected one number for each of \(5,\) items, got \(4,\)"),
        (lambda x: correlate(x, x, x), r"controls: expected \[n, k\], got \(5,\)"),
        (lambda x: correlate(x, x, kind="kendall"), "kind: expected 'spearman' or 'pearson', got 'kendall'"),
        (lambda x: correlate(x, x, level=95), "level: expected a share between 0 and 1, got 95"),
        (
            lambda x: norm_correlations(x, x, {"depth": x[1:]}),
            "covariates: expected one number for each of 5 items as 'depth'",
        ),
        (lambda x: norm_correlations(x, x[1:]), "length: expected one number"),
        (lambda x: norm_correlations(x, x, {"length": x}), "covariates: expected names other than 'length'"),
    ],
)
def test_what_does_not_fit_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(torch.arange(5.0))
