"""Directions against loops over pairs, numpy's singular values and planted spectra, n <= d included."""

import math

import numpy as np
import pytest
import torch

from lightning_normdyn.core import alignment, common_direction, effective_rank, uniformity
from lightning_normdyn.core.statistics import effective_rank as rank_module
from lightning_normdyn.core.statistics.directions import unit_rows


def drawn(rows, dim, seed=0, power=0.0, mean=0.0):
    """Rows whose coordinates have the scale ``i^power`` and that mean."""
    scale = torch.arange(1.0, dim + 1, dtype=torch.float64) ** power
    x = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x * scale + mean


def pair_loop(vectors, kernel):
    """Mean of a kernel over all pairs of different rows."""
    units = [row / np.linalg.norm(row) for row in vectors.numpy()]
    return np.mean([kernel(a @ b) for i, a in enumerate(units) for j, b in enumerate(units) if i != j])


def jackknife(vectors, statistic):
    """Standard error from leaving out each row in turn, by computing everything anew."""
    n = len(vectors)
    left_out = np.array([statistic(vectors[torch.arange(n) != row]) for row in range(n)])
    return math.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())


@pytest.mark.parametrize(("rows", "dim", "mean"), [(3, 2, 0.0), (25, 6, 0.4), (12, 30, 1.0)])
def test_pairs_are_those_of_a_loop(rows, dim, mean):
    vectors = drawn(rows, dim, mean=mean)

    def gaussian(cosine):
        return math.exp(-2 * (2 - 2 * cosine))

    share, even = common_direction(vectors), uniformity(vectors)
    assert share.value == pytest.approx(pair_loop(vectors, lambda cosine: cosine), abs=1e-12)
    assert even.value == pytest.approx(math.log(pair_loop(vectors, gaussian)), abs=1e-12)
    error = jackknife(vectors, lambda some: pair_loop(some, lambda cosine: cosine))
    if rows > 3:
        assert (share.value - share.low) / 1.959964 == pytest.approx(error, rel=1e-6)
        error = jackknife(vectors, lambda some: pair_loop(some, gaussian)) / math.exp(even.value)
        assert (even.value - even.low) / 1.959964 == pytest.approx(error, rel=1e-6)


def test_known_directions():
    assert uniformity(torch.ones(5, 3)) == (0.0, 0.0, 0.0)
    assert common_direction(torch.ones(5, 3)).value == pytest.approx(1.0)
    sphere = drawn(3_000, 64)
    assert uniformity(sphere).value == pytest.approx(-4 + 8 / 64, abs=0.01)
    assert common_direction(sphere).low < 0 < common_direction(sphere).high
    assert alignment(sphere, sphere).value == pytest.approx(0.0, abs=1e-12)
    assert alignment(sphere, -sphere).value == pytest.approx(4.0)


def test_norms_and_zero_rows_do_not_count():
    vectors = drawn(60, 8, mean=0.5)
    scales = torch.logspace(-200, 150, 60, dtype=torch.float64).unsqueeze(1)
    mixed = torch.cat((torch.zeros(2, 8, dtype=torch.float64), vectors * scales))
    for statistic in (uniformity, common_direction, lambda rows: effective_rank(rows).interval):
        assert statistic(mixed) == pytest.approx(statistic(vectors), rel=1e-9)
    assert effective_rank(mixed).rows == 60
    documents = torch.cat((torch.ones(2, 8, dtype=torch.float64), drawn(60, 8, mean=0.5) * scales))
    assert alignment(mixed, documents) == pytest.approx(alignment(vectors, documents[2:] / scales), rel=1e-9)
    assert alignment(mixed[:10], documents[:10].flip(0)).value > 0  # norms of 1e-200 beside one another too


def test_alignment_is_that_of_a_loop_and_its_interval_that_of_a_bootstrap_over_groups():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), generator.integers(1, 6, 40))
    queries = generator.normal(size=(40, 5))[groups]
    shifts = generator.normal(size=(40, 5))[groups]  # shared by the pairs of a query
    documents = queries + shifts + 0.8 * generator.normal(size=queries.shape)
    pairs = zip(queries, documents, strict=True)
    distances = np.array([np.sum((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2) for a, b in pairs])
    clustered = alignment(queries, documents, groups=groups)
    assert clustered.value == pytest.approx(distances.mean())
    sums = np.array([[distances[groups == group].sum(), (groups == group).sum()] for group in range(40)])
    draws = [sums[generator.integers(0, 40, 40)].sum(0) for _ in range(4_000)]
    error = np.std([total / count for total, count in draws])
    assert (clustered.high - clustered.low) / (2 * 1.959964) == pytest.approx(error, rel=0.06)
    alone = alignment(queries, documents)
    assert alone.high - alone.low < 0.9 * (clustered.high - clustered.low)
    zeros = np.concatenate((documents, np.zeros((1, 5))))
    assert alignment(np.concatenate((queries, np.ones((1, 5)))), zeros).value == pytest.approx(distances.mean())


def plain_rank(vectors):
    """Roy and Vetterli's, by numpy's singular values of unit vectors less their mean."""
    units = vectors.numpy() / np.linalg.norm(vectors.numpy(), axis=1, keepdims=True)
    singular = np.linalg.svd(units - units.mean(0), compute_uv=False)
    shares = singular[singular > 1e-9] / singular[singular > 1e-9].sum()
    return math.exp(-(shares * np.log(shares)).sum())


@pytest.mark.parametrize(("rows", "dim"), [(8, 30), (40, 40), (300, 12)])
def test_the_plain_rank_is_that_of_numpys_singular_values(rows, dim):
    vectors = drawn(rows, dim, power=-0.5, mean=0.3)
    assert effective_rank(vectors).sample_rank == pytest.approx(plain_rank(vectors), rel=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 24])
def test_of_endless_rows_the_integrals_are_the_plain_rank(dim):
    """With n without end no correction is left: both integrals are sums over eigenvalues, in closed form."""
    eigenvalues = torch.logspace(-6, 0, dim, dtype=torch.float64)
    singular = eigenvalues.sqrt() / eigenvalues.sqrt().sum()
    log_rank = rank_module._log_rank(eigenvalues, 10**15, dim)
    assert log_rank == pytest.approx(float(-(singular * singular.log()).sum()), abs=1e-5)


DIM = 48


def true_rank(power):
    """From many more rows than are ever shown."""
    return plain_rank(drawn(40_000, DIM, seed=99, power=power))


@pytest.mark.parametrize("power", [0.0, -0.5, -1.0])
def test_few_rows_tell_the_rank_of_many(power):
    truth = true_rank(power)
    for rows, within in ((20, 0.15), (48, 0.05), (100, 0.02), (1_000, 0.005)):
        ranks = [effective_rank(drawn(rows, DIM, seed=seed, power=power)) for seed in range(20)]
        assert sum(rank.interval.low <= truth <= rank.interval.high for rank in ranks) >= 16  # 0.3% chance of fewer
        mean = np.mean([rank.interval.value for rank in ranks])
        assert mean == pytest.approx(truth, rel=within)
        assert {rank.has_unseen_dimensions for rank in ranks} == {rows <= DIM}
        if rows <= DIM:  # what the correction is for
            assert np.mean([rank.sample_rank for rank in ranks]) < 0.82 * truth


def test_rows_in_fewer_dimensions_than_they_are_show_all_of_them():
    basis = torch.linalg.qr(drawn(40, 40))[0][:5]
    for rows in (20, 400):
        rank = effective_rank(drawn(rows, 5) @ basis)
        assert rank.interval.value == pytest.approx(5, abs=0.2)
        assert rank.interval.high < 6


@pytest.mark.parametrize("vectors", [torch.empty(0, 4), torch.ones(5, 4), torch.ones(30, 4), torch.zeros(30, 4)])
def test_nothing_is_said_of_too_few_or_equal_directions(vectors):
    assert all(math.isnan(end) for end in effective_rank(vectors).interval)
    if len(unit_rows("vectors", vectors)) < 3:
        assert all(math.isnan(end) for end in (*uniformity(vectors), *common_direction(vectors)))


def test_of_many_rows_a_random_sample_is_paired(monkeypatch):
    vectors = drawn(3_000, 2, mean=0.3)
    vectors[:1_000] = 1.0  # neither the first rows nor the last are the sample
    exact = uniformity(vectors)
    monkeypatch.setattr("lightning_normdyn.core.statistics.directions.MOST_PAIRED", 1_000)
    sample = uniformity(vectors)
    assert sample.value != exact.value
    assert sample.value == pytest.approx(exact.value, abs=3 * (sample.high - sample.value))
    assert abs(uniformity(vectors[:1_000]).value - exact.value) > 0.5


CALLS = {
    "uniformity": uniformity,
    "common_direction": common_direction,
    "effective_rank": effective_rank,
    "alignment": lambda vectors: alignment(vectors, vectors),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_matrix_of_finite_numbers_is_refused(name):
    bad = torch.ones(9, 3)
    bad[4, 1] = math.nan
    for vectors, message in (
        (bad, r"^(vectors|queries): expected finite numbers, got NaN or infinite ones in row 4; leave"),
        (torch.ones(3), r"^(vectors|queries): expected \[n, d\], got \[3\]; a single one is"),
        (torch.ones(3, 2).long(), r"^(vectors|queries): expected floating-point numbers, got torch.int64"),
        (torch.eye(3).to_sparse(), r"^(vectors|queries): expected a dense tensor, got torch.sparse_coo; pass"),
        (
            torch.eye(3).to(torch.float8_e5m2),
            r"^(vectors|queries): expected .* 16 bits at least, got torch.float8_e5m2",
        ),
        ([[1.0]], r"^(vectors|queries): expected a tensor or an array, got list"),
    ):
        with pytest.raises(ValueError, match=message):
            CALLS[name](vectors)


def test_a_line_has_rank_one():
    line = torch.ones(50, 8) * drawn(50, 1)
    assert effective_rank(line).interval[:2] == (1.0, 1.0)


def test_sides_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"^documents: expected \[3, 2\], one for each of queries, got \[4, 2\]"):
        alignment(torch.ones(3, 2), torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"^groups: expected a number for each of 3 pairs, got \[2\]"):
        alignment(torch.ones(3, 2), torch.ones(3, 2), groups=torch.arange(2))
