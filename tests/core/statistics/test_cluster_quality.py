"""V-measure and silhouettes against loops, autograd and scikit-learn where it is installed."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from lightning_normdyn.core.statistics.cluster_quality import cosine_silhouettes, v_measure, v_measure_influence


def sample(seed, n=60, classes=5, clusters=7):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=draw)
    noise = torch.randint(clusters, (n,), generator=draw)
    is_noisy = torch.rand(n, generator=draw) < 0.4
    return labels * 11 - 20, noise.where(is_noisy, labels) * 3 + 1, torch.randn(n, 6, generator=draw)


def conditional_entropy(of, by):
    """``H(of | by)`` by counting, in Python's own numbers."""
    pairs, givens = Counter(zip(by, of, strict=True)), Counter(by)
    return -sum(count / len(of) * math.log(count / givens[given]) for (given, _), count in pairs.items())


def loop_v_measure(labels, clusters):
    labels, clusters = labels.tolist(), clusters.tolist()
    nothing = [0] * len(labels)
    homogeneity = 1 - conditional_entropy(labels, clusters) / conditional_entropy(labels, nothing)
    completeness = 1 - conditional_entropy(clusters, labels) / conditional_entropy(clusters, nothing)
    return 2 * homogeneity * completeness / (homogeneity + completeness), homogeneity, completeness


def loop_silhouettes(embeddings, clusters):
    """Pair by pair."""
    units = [[x / math.hypot(*row) for x in row] for row in embeddings.double().tolist()]
    groups = {}
    for place, cluster in enumerate(clusters.tolist()):
        groups.setdefault(cluster, []).append(place)

    def distance(i, members):
        return sum(1 - sum(a * b for a, b in zip(units[i], units[j], strict=True)) for j in members) / len(members)

    values = []
    for i, cluster in enumerate(clusters.tolist()):
        others = [j for j in groups[cluster] if j != i]
        if not others:
            values.append(0.0)
            continue
        within = distance(i, others)
        between = min(distance(i, members) for name, members in groups.items() if name != cluster)
        values.append((between - within) / max(within, between))
    return values


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_v_measure_is_that_of_counting(seed):
    labels, clusters, _ = sample(seed)
    assert tuple(v_measure(labels, clusters)) == pytest.approx(loop_v_measure(labels, clusters), abs=1e-12)


def test_influence_is_the_derivative_to_an_items_weight():
    labels, clusters, _ = sample(3)
    weights = torch.ones(60, dtype=torch.float64, requires_grad=True)

    def entropy(column):
        _, places = column.unique(return_inverse=True)
        shares = torch.zeros(int(places.max()) + 1, dtype=torch.float64).index_add(0, places, weights) / weights.sum()
        return -(shares * shares.log()).sum()

    both = entropy(labels) + entropy(clusters)
    value = 2 * (both - entropy(labels * 1000 + clusters)) / both
    (derivative,) = torch.autograd.grad(value, weights)
    torch.testing.assert_close(v_measure_influence(labels, clusters), 60 * derivative, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_silhouettes_are_those_of_all_pairs(seed):
    _, clusters, embeddings = sample(seed)
    clusters[0] = 99  # alone
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-6)):
        silhouettes = cosine_silhouettes(embeddings.to(dtype), clusters)
        assert silhouettes.tolist() == pytest.approx(loop_silhouettes(embeddings.to(dtype), clusters), abs=tolerance)


def test_scikit_learn_agrees():
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(3):
        labels, clusters, embeddings = sample(seed, n=200)
        assert v_measure(labels, clusters).value == pytest.approx(metrics.v_measure_score(labels, clusters), abs=1e-12)
        embeddings[5] = 0.0
        theirs = metrics.silhouette_samples(embeddings.double(), clusters, metric="cosine")
        assert cosine_silhouettes(embeddings, clusters).tolist() == pytest.approx(theirs.tolist(), abs=1e-6)


def test_where_there_is_nothing_to_tell():
    alike, apart = torch.zeros(4, dtype=torch.int64), torch.arange(4)
    assert tuple(v_measure(alike, alike)) == (1.0, 1.0, 1.0)
    assert tuple(v_measure(apart, alike)) == (0.0, 0.0, 1.0)
    assert tuple(v_measure(alike, apart)) == (0.0, 1.0, 0.0)
    assert v_measure(apart, apart).value == pytest.approx(1.0)
    assert v_measure_influence(alike, alike).tolist() == [0.0] * 4
    assert cosine_silhouettes(torch.randn(4, 2), alike).isnan().all()
    assert cosine_silhouettes(torch.ones(4, 2), torch.tensor([0, 0, 1, 1])).tolist() == [0.0] * 4
    assert cosine_silhouettes(torch.randn(4, 2), apart).tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: v_measure(torch.ones(3), torch.ones(3).long()),
            r"labels: expected an integer .* torch.float32 \(3,\)",
        ),
        (lambda: v_measure(torch.arange(3), torch.arange(2)), "clusters: expected one for each of 3 labels, got 2"),
        (lambda: v_measure(torch.arange(0), torch.arange(0)), r"labels: expected an integer for each item, \[n\]"),
        (lambda: v_measure([1], torch.arange(1)), "labels: expected a tensor, got list"),
        (lambda: cosine_silhouettes(torch.ones(3), torch.arange(3)), r"embeddings: expected \[n, d\] for 3 clusters"),
        (lambda: cosine_silhouettes(torch.ones(3, 2).long(), torch.arange(3)), "embeddings: expected floating-point"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
