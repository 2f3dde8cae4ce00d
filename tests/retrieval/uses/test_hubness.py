"""Hubness against brute force and scipy, and shares of popular documents against loops and planted popularity."""

import math

import numpy as np
import pytest
import torch

from lightning_normdyn.retrieval import hubness, k_occurrences, popularity_share
from lightning_normdyn.retrieval.uses.hubness import random_octaves


def drawn(rows, dim, seed=0, mean=0.0):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean


def brute_counts(vectors, k):
    """How often each row is among the k nearest of another, by sorting all cosines of each row."""
    units = vectors.numpy() / np.linalg.norm(vectors.numpy(), axis=1, keepdims=True)
    counts = np.zeros(len(units), dtype=int)
    for row, unit in enumerate(units):
        cosines = units @ unit
        cosines[row] = -np.inf
        for neighbour in sorted(range(len(units)), key=lambda other: -cosines[other])[:k]:
            counts[neighbour] += 1
    return counts


@pytest.mark.parametrize(("rows", "dim", "k", "mean"), [(40, 3, 5, 0.0), (150, 30, 10, 0.7), (30, 8, 1, 0.0)])
def test_occurrences_are_those_of_brute_force(rows, dim, k, mean):
    stats = pytest.importorskip("scipy.stats")
    vectors = drawn(rows, dim, mean=mean)
    counts = brute_counts(vectors, k)
    hubs = hubness(vectors * torch.logspace(-3, 3, rows, dtype=torch.float64).unsqueeze(1), k=k)
    assert hubs.skewness.value == pytest.approx(stats.skew(counts), rel=1e-9)
    assert hubs.anti_hubs.value == pytest.approx((counts == 0).mean())
    octaves = [(counts == 0).sum()]
    octaves += [
        ((counts >= 2**step) & (counts < 2 ** (step + 1))).sum() for step in range(int(counts.max()).bit_length())
    ]
    assert list(hubs.occurrences) == octaves
    assert hubs.rows == rows


def test_the_interval_of_a_share_is_wilsons():
    proportion = pytest.importorskip("scipy.stats").binomtest
    hubs = hubness(drawn(200, 40, mean=1.0))
    empty = round(hubs.anti_hubs.value * 200)
    assert empty > 5
    interval = proportion(empty, 200).proportion_ci(0.95, method="wilson")
    assert hubs.anti_hubs[1:] == pytest.approx((interval.low, interval.high), rel=1e-5)


def test_intervals_hold_the_skewness_of_other_samples():
    for dim, mean in ((40, 1.0), (20, 0.0)):
        hubs = [hubness(drawn(200, dim, seed=seed, mean=mean)) for seed in range(20)]
        truth = np.mean([one.skewness.value for one in hubs])
        assert sum(one.skewness.low <= truth <= one.skewness.high for one in hubs) >= 18
        assert np.mean([one.skewness.high - one.skewness.low for one in hubs]) < 2 + truth
    assert truth < 0.5  # no hubs among directions spread evenly in few dimensions


def test_few_vectors_and_equal_ones():
    assert math.isnan(hubness(torch.ones(2, 3)).skewness.value)
    assert hubness(torch.empty(0, 3)).occurrences == ()
    small = hubness(drawn(4, 3))
    assert (small.k, small.skewness.value, small.anti_hubs.value) == (3, 0.0, 0.0)  # each among all others
    equal = hubness(torch.ones(400, 3))  # neighbours at random, where the first rows would be those of all
    assert equal.skewness.value == pytest.approx(1 / math.sqrt(10), abs=0.4)
    assert equal.anti_hubs.value < 0.01


def test_neighbours_at_random_are_binomial():
    rows, k = 60, 4
    shares = [
        math.comb(rows - 1, c) * (k / (rows - 1)) ** c * (1 - k / (rows - 1)) ** (rows - 1 - c) for c in range(rows)
    ]
    expected = [shares[0], shares[1], sum(shares[2:4]), sum(shares[4:8]), sum(shares[8:16])]
    assert random_octaves(rows, k, 5) == pytest.approx(expected, rel=1e-9)


def loop_share(ranking, documents, most):
    """Places of all rankings that the documents with the most places take."""
    counts = sorted(np.bincount(ranking[ranking >= 0], minlength=documents), reverse=True)
    return sum(counts[:most]) / (ranking >= 0).sum()


def held_out_loop(ranking, documents, most):
    """The same with each fifth of the queries left out of the choice in turn."""
    taken = 0
    for fold in range(5):
        others = ranking[[row for row in range(len(ranking)) if row % 5 != fold]]
        counts = np.bincount(others[others >= 0], minlength=documents)
        popular = {
            document for document in sorted(range(documents), key=lambda d: -counts[d])[:most] if counts[document]
        }
        taken += sum(int(document) in popular for row in ranking[fold::5] for document in row)
    return taken / (ranking >= 0).sum()


def test_shares_are_those_of_a_loop():
    generator = np.random.default_rng(0)
    weights = 1 / np.arange(1, 301) ** 0.8
    ranking = np.array([generator.choice(300, 7, replace=False, p=weights / weights.sum()) for _ in range(83)])
    ranking[3, 4:] = -1
    ranking[9] = -1
    popular = popularity_share(ranking, 300)
    assert popular.documents == 3
    assert popular.share == pytest.approx(loop_share(ranking, 300, 3))
    answered = np.delete(ranking, 9, axis=0)
    assert popular.held_out.value == pytest.approx(held_out_loop(answered, 300, 3))
    assert k_occurrences(ranking, 300).tolist() == np.bincount(ranking[ranking >= 0], minlength=300).tolist()


def test_where_nothing_is_popular_held_out_queries_say_so():
    """200 places of 50,000 documents: the share of the most returned is all of them, whatever is popular."""
    covered = []
    for seed in range(30):
        ranking = torch.randint(2_000, (40, 5), generator=torch.Generator().manual_seed(seed))
        popular = popularity_share(ranking, 2_000)
        assert popular.share > 0.1
        covered.append(popular.held_out.low <= 0.01 <= popular.held_out.high or popular.held_out.value == 0)
    assert sum(covered) >= 27


def test_intervals_hold_the_share_of_new_queries():
    weights = 1 / torch.arange(1.0, 1_001)
    covered = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        ranking = torch.multinomial(weights.expand(200, -1), 5, generator=generator)
        new_queries = torch.multinomial(weights.expand(2_000, -1), 5, generator=generator)
        counts = k_occurrences(ranking[torch.arange(200) % 5 != 0], 1_000)
        popular = counts.argsort(descending=True, stable=True)[:10]
        truth = float(torch.isin(new_queries, popular).double().mean())
        held_out = popularity_share(ranking, 1_000).held_out
        covered += held_out.low <= truth <= held_out.high
    assert covered >= 17


def test_few_rankings():
    few = popularity_share(torch.tensor([[0, 1], [0, 2]]), 5)
    assert (few.documents, few.share) == (1, 0.5)
    assert math.isnan(few.held_out.value)
    assert math.isnan(popularity_share(torch.full((6, 2), -1), 5).share)


@pytest.mark.parametrize("function", [k_occurrences, popularity_share])
def test_positions_of_no_document_are_refused(function):
    with pytest.raises(ValueError, match=r"^indices: expected positions of 5 documents, 0 to 4, got 7"):
        function(torch.tensor([[7]]), 5)
    with pytest.raises(
        ValueError, match=r"^indices: expected positions of documents \[n, k\], got torch.float32 \[1\]"
    ):
        function(torch.ones(1), 5)
