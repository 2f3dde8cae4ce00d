"""Norm-weighted spherical k-means against a float64 loop, and the verdict in worlds whose answer is planted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_normdyn.core.statistics.cluster_quality import cosine_silhouettes, v_measure, v_measure_influence
from lightning_normdyn.retrieval import cluster_by_norm, compare_clusterings, export_vectors, norm_weights
from lightning_normdyn.retrieval.uses.clustering import engine_of
from lightning_normdyn.retrieval.uses.clustering_comparison import Quality, joint_gains

ENGINES = ("faiss", "sklearn")


def installed(engine):
    pytest.importorskip(engine)
    return engine


def world(seed, kind, n=800, k=20, d=64):
    """Classes as directions; three in ten items are clean and six times as long, where norms say anything."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % k
    centers = torch.nn.functional.normalize(torch.randn(k, d, generator=draw), dim=1)
    is_clean = torch.rand(n, 1, generator=draw) < 0.3
    noise = torch.full((n, 1), 1.4) if kind == "equal noise" else torch.where(is_clean, 1.0, 4.0)
    x = centers[labels] + noise * torch.randn(n, d, generator=draw) / d**0.5
    if kind != "noise falls with norm":
        is_clean = is_clean[torch.randperm(n, generator=draw)]
    length, spread = (1.02, 0.01) if kind == "norms hardly differ" else (6.0, 0.05)
    jitter = torch.exp(spread * torch.randn(n, 1, generator=draw))
    return torch.nn.functional.normalize(x, dim=1) * torch.where(is_clean, length, 1.0) * jitter, labels


def weighted_step(embeddings, centers, exponent):
    """One step of Lloyd's in Python's own numbers: the nearest centre of each item, and the new centres."""
    rows, centers = embeddings.double().tolist(), centers.double().tolist()
    norms = [math.hypot(*row) for row in rows]
    places = [
        max(range(len(centers)), key=lambda c: sum(a * b for a, b in zip(row, centers[c], strict=True))) for row in rows
    ]
    sums = [[0.0] * len(rows[0]) for _ in centers]
    for row, norm, place in zip(rows, norms, places, strict=True):
        sums[place] = [total + norm**exponent * x / norm for total, x in zip(sums[place], row, strict=True)]
    return places, [[x / math.hypot(*total) for x in total] for total in sums]


def weighted_objective(embeddings, places, exponent):
    """``sum_c |sum of w·u in c|``, which spherical k-means makes as large as it can."""
    x = embeddings.double()
    norms = x.norm(dim=1, keepdim=True)
    sums = torch.zeros(int(places.max()) + 1, x.shape[1], dtype=torch.float64)
    return float(sums.index_add_(0, places, x * norms ** (exponent - 1)).norm(dim=1).sum())


def lloyd(embeddings, clusters, exponent, restarts):
    """The best of several runs of the loop from random items."""
    x = embeddings.double()
    norms = x.norm(dim=1, keepdim=True)
    units, folded = x / norms, x * norms ** (exponent - 1)
    best = -math.inf
    draw = torch.Generator().manual_seed(5)
    for _ in range(restarts):
        centers = units[torch.randperm(len(x), generator=draw)[:clusters]]
        for _ in range(20):
            places = (units @ centers.T).argmax(1)
            sums = torch.zeros(clusters, x.shape[1], dtype=torch.float64).index_add_(0, places, folded)
            centers = sums / sums.norm(dim=1, keepdim=True).clamp(min=1e-30)
        best = max(best, weighted_objective(embeddings, places, exponent))
    return best


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 2.0])
def test_faiss_stands_still_where_the_loop_does(exponent):
    x, _ = world(0, "noise falls with norm", n=120, k=5, d=6)
    clusters = cluster_by_norm(x, 5, exponent=exponent, engine="faiss", iterations=200)
    places, centers = weighted_step(x, clusters.centers, exponent)
    assert clusters.places.tolist() == places
    torch.testing.assert_close(clusters.centers.double(), torch.tensor(centers).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("engine", "share"), [("faiss", 0.999), ("sklearn", 0.98)])  # whose objective is another
@pytest.mark.parametrize("exponent", [-1.0, 0.0, 2.0])
def test_clusters_are_as_good_as_the_loops(engine, share, exponent):
    x, _ = world(1, "noise falls with norm", n=200, k=5, d=16)
    places = cluster_by_norm(x, 5, exponent=exponent, engine=installed(engine), restarts=20).places
    assert weighted_objective(x, places, exponent) >= share * lloyd(x, 5, exponent, 20)


def test_weights_and_vectors_are_two_spellings_of_one_thing():
    faiss = pytest.importorskip("faiss")
    x, _ = world(2, "noise falls with norm", n=200, k=5, d=16)
    points = norm_weights(x, 1.5)
    torch.testing.assert_close(points.weights.mean(), torch.tensor(1.0))
    folded = export_vectors(x, alpha=1.5)
    torch.testing.assert_close(points.vectors * (folded[0, 0] / points.vectors[0, 0]), folded, rtol=1e-5, atol=1e-6)
    by_weights = faiss.Kmeans(16, 5, spherical=True, seed=3, niter=30, min_points_per_centroid=1)
    by_weights.train(points.directions.numpy(), weights=points.weights.numpy())
    by_vectors = faiss.Kmeans(16, 5, spherical=True, seed=3, niter=30, min_points_per_centroid=1)
    by_vectors.train(folded.numpy())
    np.testing.assert_allclose(by_weights.centroids, by_vectors.centroids, atol=1e-5)
    ours = cluster_by_norm(x, 5, exponent=1.5, engine="faiss", seed=3)
    np.testing.assert_allclose(ours.centers, by_vectors.centroids, atol=1e-5)


def test_scikit_learn_takes_the_weights():
    cluster = pytest.importorskip("sklearn.cluster")
    x, _ = world(3, "noise falls with norm", n=200, k=5, d=16)
    points = norm_weights(x, 2.0)
    theirs = cluster.KMeans(5, n_init=2, max_iter=30, random_state=4).fit(
        points.directions, sample_weight=points.weights
    )
    ours = cluster_by_norm(x, 5, exponent=2.0, engine="sklearn", seed=4, restarts=2)
    assert ours.places.tolist() == theirs.labels_.tolist()


@pytest.mark.parametrize("engine", ENGINES)
def test_plain_k_means_is_that_of_the_vectors(engine):
    x, labels = world(4, "noise falls with norm", n=200, k=5, d=16)
    clusters = cluster_by_norm(x, 5, exponent=None, engine=installed(engine), iterations=300)
    nearest = torch.cdist(x.double(), clusters.centers.double()).argmin(1)
    assert torch.equal(clusters.places, nearest)
    means = torch.stack([x[nearest == place].mean(0) for place in range(5)])
    torch.testing.assert_close(clusters.centers.to(means), means, rtol=0, atol=1e-4)
    assert 0 < v_measure(labels, clusters.places).value < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precisions_and_the_scale_of_all_norms_change_nothing(dtype):
    x = world(5, "noise falls with norm", n=100, k=4, d=16)[0].to(dtype)
    expected = norm_weights(x.double(), -2.0)
    points = norm_weights(x, -2.0)
    assert points.weights.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(points.weights.double(), expected.weights, rtol=1e-5, atol=0)
    for factor in (1e-290, 1e290):
        scaled = norm_weights(x.double() * factor, -2.0)
        torch.testing.assert_close(scaled.weights, expected.weights)
        torch.testing.assert_close(scaled.directions, expected.directions)
    assert points.effective_share == pytest.approx(
        float(expected.weights.sum() ** 2 / (100 * expected.weights.square().sum())), rel=1e-5
    )


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_plain_k_means_does_not_see_the_scale(scale):
    x, _ = world(5, "noise falls with norm", n=100, k=4, d=16)
    expected, scaled = (cluster_by_norm(part, 4, exponent=None, engine="faiss") for part in (x, x * scale))
    assert torch.equal(scaled.places, expected.places)
    torch.testing.assert_close(scaled.centers / scale, expected.centers, rtol=1e-4, atol=1e-5)


def verdict(seed, kind, **size):
    return compare_clusterings(*world(seed, kind, **size), exponents=[-1.0, 1.0, 2.0], engine="faiss", seeds=5)


def test_a_gain_is_called_a_gain():
    comparisons = [verdict(seed, "noise falls with norm") for seed in range(5)]
    assert [comparison.significant for comparison in comparisons] == [True] * 5
    for comparison in comparisons:
        assert comparison.advice in (1.0, 2.0)
        assert comparison.best.gain.low > 0
        assert comparison.best.p_value < 0.05
        assert comparison.sentence.startswith(f"Norms help clustering: weigh directions by norm^{comparison.advice:g} ")
        assert "Worse beyond chance: plain, norm^-1; the worst, " in comparison.sentence


@pytest.mark.parametrize("kind", ["norms say nothing", "equal noise", "norms hardly differ"])
def test_no_gain_is_called_none(kind):
    comparisons = [verdict(seed, kind, n=240, k=8, d=32) for seed in range(12)]
    assert sum(comparison.significant for comparison in comparisons) <= 1
    assert {comparison.advice for comparison in comparisons if not comparison.significant} == {0.0}
    assert any(comparison.sentence.startswith("No gain: cluster directions by spherical") for comparison in comparisons)


@pytest.mark.exhaustive
@pytest.mark.parametrize("size", [{}, {"n": 240, "k": 8, "d": 32}, {"n": 100, "k": 3, "d": 8}])
@pytest.mark.parametrize("kind", ["norms say nothing", "equal noise", "norms hardly differ"])
def test_false_alarms_keep_their_level(kind, size):
    alarms = sum(verdict(seed, kind, **size).significant for seed in range(200))
    assert alarms <= 10


def test_numbers_are_means_over_seeds():
    x, labels = world(6, "noise falls with norm", n=200, k=5, d=16)
    comparison = compare_clusterings(x, labels, exponents=[2.0], engine="faiss", seeds=3, restarts=2)
    plain, spherical, weighted = comparison.scores
    assert [score.name for score in comparison.scores] == ["plain", "norm^0", "norm^2"]
    assert spherical.gain == (0.0, 0.0, 0.0)
    for score in comparison.scores:
        runs = [
            cluster_by_norm(x, 5, exponent=score.exponent, engine="faiss", seed=seed, restarts=2).places
            for seed in range(3)
        ]
        assert score.v_measure == pytest.approx(sum(v_measure(labels, places).value for places in runs) / 3)
        assert score.silhouette == pytest.approx(
            sum(float(cosine_silhouettes(x, places).mean()) for places in runs) / 3
        )
    assert weighted.gain.value == pytest.approx(weighted.v_measure - spherical.v_measure)
    assert plain.silhouette_gain.value == pytest.approx(plain.silhouette - spherical.silhouette)
    assert comparison[1:5] == (5, 200, 0, 3)


def test_influence_of_items_is_what_bootstrapping_varies():
    x, labels = world(7, "noise falls with norm", n=200, k=6, d=32)
    pairs = [
        [cluster_by_norm(x, 6, exponent=e, engine="faiss", seed=seed).places for e in (2.0, 0.0)] for seed in range(5)
    ]
    influence = sum(v_measure_influence(labels, a) - v_measure_influence(labels, b) for a, b in pairs) / 5
    draw = torch.Generator().manual_seed(0)
    resampled = []
    for _ in range(300):
        rows = torch.randint(200, (200,), generator=draw)
        gains = [v_measure(labels[rows], a[rows]).value - v_measure(labels[rows], b[rows]).value for a, b in pairs]
        resampled.append(sum(gains) / 5)
    assert float(influence.square().sum().sqrt()) / 200 == pytest.approx(float(torch.tensor(resampled).std()), rel=0.15)


def reach(values, influences):
    """How far intervals reach, of ways beside a first one that is all zeros, in units of their own errors."""
    runs = [
        [Quality(0.0, torch.zeros(400).double()), *(Quality(v, x) for v, x in zip(row, influences, strict=True))]
        for row in values
    ]
    gains = joint_gains(runs, 0, 0.95, torch.Generator().manual_seed(0))
    return [interval.high - interval.value for interval in gains.intervals[1:]]


def test_intervals_reach_as_far_as_tables_say():
    draw = torch.Generator().manual_seed(1)
    x, y = torch.linalg.qr(torch.randn(400, 2, generator=draw, dtype=torch.float64))[0].T
    nothing = torch.zeros(400).double()
    # Of items alone: the normal quantile; for two independent ways that of the larger, 0.95 ** 0.5 of each.
    assert reach([[0.1]] * 4, [x]) == pytest.approx([1.960 / 400], rel=0.02)
    assert reach([[0.1, 0.2]] * 4, [x, y]) == pytest.approx([2.236 / 400] * 2, rel=0.02)
    assert reach([[0.1, 0.2]] * 4, [x, 3 * x]) == pytest.approx([1.960 / 400, 5.88 / 400], rel=0.02)
    # Of seeds alone: Student's t of four degrees of freedom.
    values = [0.1, 0.3, 0.2, 0.5, 0.4]
    assert reach([[v] for v in values], [nothing]) == pytest.approx([2.776 * (0.025 / 5) ** 0.5], rel=0.04)
    # Of both, where seeds are many: their variances add.
    many = torch.linspace(0, 1, 60).double().tolist()
    spread = float(torch.tensor(many).var()) / 60
    both = reach([[v] for v in many], [400 * spread**0.5 * x])
    assert both == pytest.approx([1.98 * (2 * spread) ** 0.5], rel=0.03)


def test_without_labels_nothing_is_claimed():
    x, _ = world(8, "noise falls with norm", n=200, k=5, d=16)
    comparison = compare_clusterings(x, clusters=5, exponents=[2.0], engine="faiss", seeds=2)
    assert (comparison.significant, comparison.advice, comparison.has_labels) == (False, 0.0, False)
    assert comparison.sentence.startswith("Without labels nobody can say whether norms help: cluster directions by sph")
    assert math.isfinite(comparison.spherical.silhouette)


def test_equal_norms_and_zero_vectors():
    x, labels = world(9, "noise falls with norm", n=200, k=5, d=16)
    x = torch.nn.functional.normalize(x.double(), dim=1)
    x[7] = 0.0
    comparison = compare_clusterings(x, labels, exponents=[1.0, 3.0], engine="faiss", seeds=2)
    assert [score.gain for score in comparison.scores[2:]] == [(0.0, 0.0, 0.0)] * 2
    assert (comparison.left_out, comparison.items, comparison.significant) == (1, 199, False)
    assert "199 items, 1 zero vector left out, 5 clusters" in comparison.sentence


X, LABELS = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: norm_weights(X[0]), r"embeddings: expected \[n, d\] of one item or more, got \(4,\)"),
        (lambda: norm_weights(X.char()), "embeddings: expected embeddings in floating-point numbers, got int8, which"),
        (lambda: norm_weights(X.index_fill(0, torch.tensor(3), 0)), ".* with a direction, got zero in row 3"),
        (lambda: norm_weights(X / 0), "embeddings: expected finite numbers, got NaN or infinity in row 0"),
        (lambda: norm_weights(X, math.inf), "exponent: expected a finite number, got inf; 0 weighs all alike"),
        (lambda: cluster_by_norm(X, 21), "clusters: expected at most the 20 items, got 21"),
        (lambda: cluster_by_norm(X, 2, engine="spark"), "engine: expected one of auto, faiss, sklearn, got 'spark'"),
        (lambda: compare_clusterings(X), "clusters: expected how many, for there are no labels whose number would do"),
        (lambda: compare_clusterings(X * 0, LABELS), "embeddings: .* got zero in every row; are they whole"),
        (lambda: compare_clusterings(X, LABELS * 0), "labels: expected two classes at least, got one"),
        (lambda: compare_clusterings(X, LABELS[:3]), r"labels: .* for each of 20 items, got .* \(3,\)"),
        (lambda: compare_clusterings(X, LABELS.float()), "labels: expected an integer for each of 20 items, got"),
        (lambda: compare_clusterings(X, torch.arange(20)), "labels: expected at most 10 classes, half of the 20 items"),
        (lambda: compare_clusterings(X, LABELS, clusters=11), "clusters: expected at most 10, half of the 20 items"),
        (lambda: compare_clusterings(X, LABELS, progress=3), "progress: expected a function of the seeds that gives"),
        (lambda: compare_clusterings(X, LABELS, exponents=[0.0]), "exponents: expected one beside 0 at least, got"),
        (lambda: compare_clusterings(X, LABELS, exponents=["1"]), r"exponents\[0\]: expected a finite number, got '1'"),
        (lambda: compare_clusterings(X, LABELS, seeds=1), "seeds: expected a whole number, 2 or more, got 1"),
    ],
)  # fmt: skip
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr("lightning_normdyn.retrieval.uses.clustering.find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"clustering needs faiss or scikit-learn; install with: pip install"):
        engine_of("auto")
