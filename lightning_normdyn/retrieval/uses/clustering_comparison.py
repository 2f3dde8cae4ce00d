"""What norms gain in clustering: norm-weighted, plain and spherical k-means beside each other, with a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, as_tensors
from lightning_normdyn.core.number_checks import check_count, check_finite_number
from lightning_normdyn.core.object_checks import check_callable, check_generator, check_sequence
from lightning_normdyn.core.statistics.cluster_quality import cosine_silhouettes, v_measure, v_measure_influence
from lightning_normdyn.core.statistics.interval import Interval, check_level, sorted_quantile
from lightning_normdyn.retrieval.uses.clustering import (
    Clusters,
    Engine,
    checked_points,
    cluster_by_norm,
    engine_of,
    norm_weights,
)

EXPONENTS = (-4.0, -2.0, -1.0, 1.0, 2.0, 4.0)
PLAIN = "plain"
_DRAWS = 10_000
_LEAST = 4
_ROUNDING = 1e-9


class ClusteringScore(NamedTuple):
    """How one way to cluster did. Gains are over exponent 0, spherical k-means, whose own are 0.

    Attributes:
        name: ``plain``, or ``norm^2`` for an exponent.
        exponent: of the norm; ``None`` for plain k-means.
        v_measure: mean over seeds; NaN without labels.
        silhouette: of directions, the same.
        gain: of V-measure; its interval holds for all ways at once.
        p_value: how likely a gain or a loss as large is for any way if none differs; 1 of a loss. At 5% or less just
            where the 95% interval lies above 0.
        silhouette_gain: the same as ``gain``, of the silhouette.
        effective_share: of items that weigh equally and would say as much; 1 for plain k-means.
    """

    name: str
    exponent: float | None
    v_measure: float
    silhouette: float
    gain: Interval
    p_value: float
    silhouette_gain: Interval
    effective_share: float


class ClusteringComparison(NamedTuple):
    """Ways to cluster beside each other.

    Attributes:
        scores: plain k-means first, then exponents in ascending order, 0 among them.
        clusters: of each.
        items: that were clustered.
        left_out: zero vectors, which have no direction.
        seeds: from which each way clustered.
        level: of all intervals.
        engine: whose k-means ran.
    """

    scores: tuple[ClusteringScore, ...]
    clusters: int
    items: int
    left_out: int
    seeds: int
    level: float
    engine: str

    @property
    def has_labels(self) -> bool:
        """Whether there was something to hold clusters against."""
        return math.isfinite(self.spherical.v_measure)

    @property
    def spherical(self) -> ClusteringScore:
        """The reference."""
        return next(score for score in self.scores if score.exponent == 0)

    @property
    def best(self) -> ClusteringScore:
        """Of the others, that with the largest gain: of V-measure, of the silhouette without labels."""
        others = [score for score in self.scores if score.exponent != 0]
        return max(others, key=lambda score: (score.gain if self.has_labels else score.silhouette_gain).value)

    @property
    def significant(self) -> bool:
        """Whether the best gains beyond chance; never without labels."""
        return self.has_labels and self.best.gain.low > 0

    @property
    def advice(self) -> float | None:
        """The exponent to cluster with: the best one where it gains, 0 elsewhere; ``None`` for plain k-means."""
        return self.best.exponent if self.significant else 0.0

    @property
    def sentence(self) -> str:
        """The verdict: what to do and how sure."""
        return _with_labels(self) if self.has_labels else _without_labels(self)


Progress = Callable[[Sequence[int]], Iterable[int]]


def compare_clusterings(
    embeddings: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    clusters: int | None = None,
    exponents: Sequence[float] = EXPONENTS,
    engine: Engine = "auto",
    seeds: int = 10,
    restarts: int = 3,
    level: float = 0.95,
    generator: torch.Generator | None = None,
    progress: Progress = iter,
) -> ClusteringComparison:
    """Measures what norms gain in clustering, beside plain and spherical k-means, and says so where it is nothing.

    Every way clusters all items from several seeds, the same for all; its V-measure against the labels and its
    silhouette are means over seeds. Two things make a gain uncertain, and both enter its interval: which items there
    are (by the influence of each, the same items for all ways, so that comparisons are paired) and from where k-means
    started (a t distributed error with the spread of seeds). Ways that are tried together get intervals that hold
    together (max-t), for the best of several looks good by chance.

    Args:
        embeddings: ``[n, d]``; zero vectors, which have no direction, are left out and counted.
        labels: class of each item, integers ``[n]``; without them nothing but the silhouette can be told.
        clusters: k; the number of classes if left out.
        exponents: of the norm, to be tried beside 0.
        engine: ``faiss`` or ``sklearn``; ``auto`` for the first that is installed.
        seeds: from which each way clusters; two at least, for else nobody knows what they change.
        restarts: of each k-means.
        level: of the intervals.
        generator: of random numbers, on the CPU; a fresh one with seed 0 if left out.
        progress: gets the seeds and gives them back one by one, as a bar does.

    Returns:
        The record; ``sentence`` says it in words.

    Raises:
        ValueError: if there is not one label for each item, or one class alone, or fewer than two items a cluster, or
            another argument makes no sense.
        ModuleNotFoundError: if no k-means is installed, with what to install.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> labels = torch.arange(200) % 4
        >>> x = torch.eye(4)[labels] + 0.1 * torch.randn(200, 4, generator=draw)
        >>> comparison = compare_clusterings(x, labels, exponents=[1.0], seeds=3)
        >>> comparison.significant, round(comparison.spherical.v_measure, 2)
        (False, 1.0)
    """
    vectors = checked_points(embeddings, zeros=True)
    is_usable = vectors.any(1)
    label = None if labels is None else _checked_labels(labels, len(vectors))[is_usable]
    if not is_usable.any():
        raise ValueError("embeddings: expected vectors with a direction, got zero in every row; are they whole?")
    if is_usable.sum() < _LEAST:
        raise ValueError(
            f"embeddings: expected {_LEAST} vectors with a direction at least, two for each of two clusters, got "
            f"{int(is_usable.sum())}"
        )
    points, ways = vectors[is_usable], [None, *_checked_exponents(exponents)]
    check_count(restarts=restarts)
    check_count(2, seeds=seeds)
    check_level(level)
    check_generator(generator=generator)
    check_callable("of the seeds that gives them back one by one", progress=progress)
    k, library = _checked_clusters(clusters, label, len(points)), engine_of(engine)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    runs = []
    for seed in progress(range(seeds)):
        options: dict[str, Any] = {"engine": library, "seed": seed, "restarts": restarts}
        runs.append([_quality(points, label, cluster_by_norm(points, k, exponent=way, **options)) for way in ways])
    of_labels, of_silhouettes = (
        joint_gains([[way[side] for way in run] for run in runs], ways.index(0.0), level, generator) for side in (0, 1)
    )
    scores = [
        ClusteringScore(
            PLAIN if way is None else f"norm^{way:g}", way, of_labels.means[place], of_silhouettes.means[place],
            of_labels.intervals[place], of_labels.p_values[place], of_silhouettes.intervals[place],
            1.0 if way is None else norm_weights(points, way).effective_share,
        )
        for place, way in enumerate(ways)
    ]  # fmt: skip
    left_out = len(vectors) - len(points)
    return ClusteringComparison(tuple(scores), k, len(points), left_out, seeds, level, library)


class Quality(NamedTuple):
    """A measure of one clustering and the influence of every item on it, ``[n]``."""

    value: float
    influence: Tensor


def _quality(points: Tensor, labels: Tensor | None, clusters: Clusters) -> tuple[Quality, Quality]:
    """V-measure, NaN without labels, and mean silhouette."""
    silhouettes = cosine_silhouettes(points, clusters.places)
    mean = silhouettes.mean()
    silhouette = Quality(float(mean), silhouettes - mean)
    if labels is None:
        return Quality(math.nan, torch.full_like(silhouettes, math.nan)), silhouette
    agreement = v_measure(labels, clusters.places).value
    return Quality(agreement, v_measure_influence(labels, clusters.places)), silhouette


class JointGains(NamedTuple):
    """Of one measure, an entry a way: means over seeds, gains over the reference, and how likely by chance."""

    means: list[float]
    intervals: list[Interval]
    p_values: list[float]


def joint_gains(
    runs: Sequence[Sequence[Quality]], reference: int, level: float, generator: torch.Generator
) -> JointGains:
    """Gains of all ways over the reference, with intervals that hold at once.

    Args:
        runs: a measure of every way, for each seed.
        reference: place of the way that others are held against.
        level: of the intervals.
        generator: of random numbers.
    """
    values = torch.tensor([[way.value for way in run] for run in runs], dtype=torch.float64)
    influences = torch.stack([torch.stack([way.influence for way in run]) for run in runs]).mean(0)
    if not values.isfinite().all():
        unknown = Interval(math.nan, math.nan, math.nan)
        return JointGains(values.mean(0).tolist(), [unknown] * values.shape[1], [1.0] * values.shape[1])
    over_reference = values - values[:, reference : reference + 1]
    gains = over_reference.mean(0)
    of_items = (influences - influences[reference]) / influences.shape[1]
    of_seeds = (over_reference - gains) / math.sqrt(len(runs) * (len(runs) - 1))
    error = (of_items.square().sum(1) + of_seeds.square().sum(0)).sqrt()
    is_same = error < _ROUNDING  # the same clusters under other numbers, summed in another order
    gains, error = gains.where(~is_same, 0.0), error.where(~is_same, 0.0)
    draws = _joint_errors(of_items, of_seeds, generator) / error.where(~is_same, torch.inf)
    largest = draws.abs().amax(1).sort().values
    reach = error * sorted_quantile(largest, level)
    statistics = (gains / error).where(~is_same, 0.0)
    p_values = [float((1 + (largest >= value).sum()) / (1 + _DRAWS)) for value in statistics]
    ends = zip(gains.tolist(), reach.tolist(), strict=True)
    return JointGains(
        values.mean(0).tolist(), [Interval(gain, gain - half, gain + half) for gain, half in ends], p_values
    )


def _joint_errors(of_items: Tensor, of_seeds: Tensor, generator: torch.Generator) -> Tensor:
    """Draws of all ways' errors at once, ``[draws, ways]``: normal by items ``[ways, n]``, t by seeds ``[s, ways]``."""
    seeds, ways = of_seeds.shape
    variances, axes = torch.linalg.eigh(of_items @ of_items.T)
    root = axes * variances.clamp(min=0).sqrt()
    normal, of_spread, spread = (
        torch.randn(_DRAWS, width, generator=generator, dtype=torch.float64) for width in (ways, seeds, seeds - 1)
    )
    errors: Tensor = normal @ root.T + of_spread @ of_seeds / spread.square().mean(1, keepdim=True).sqrt()
    return errors


def _checked_labels(labels: ArrayLike, items: int) -> Tensor:
    (label,) = as_tensors(labels=labels)
    if label.shape != (items,) or label.is_floating_point() or label.is_complex():
        raise ValueError(
            f"labels: expected an integer for each of {items} items, got {label.dtype} {tuple(label.shape)}"
        )
    return label.detach().cpu().long()


def _checked_exponents(exponents: Sequence[float]) -> list[float]:
    """In ascending order, 0 among them.

    Raises:
        ValueError: if they are no finite numbers, or there is none but 0.
    """
    check_sequence(exponents=exponents)
    for number, exponent in enumerate(exponents):
        named: dict[str, Any] = {f"exponents[{number}]": exponent}
        check_finite_number(**named)
    distinct = sorted({0.0, *map(float, exponents)})
    if len(distinct) < 2:
        raise ValueError(f"exponents: expected one beside 0 at least, got {list(exponents)}; 1 is one")
    return distinct


def _checked_clusters(clusters: int | None, labels: Tensor | None, items: int) -> int:
    classes = None if labels is None else len(labels.unique())
    if classes == 1:
        raise ValueError("labels: expected two classes at least, got one; nothing can be told from it")
    count = classes if clusters is None else clusters
    if count is None:
        raise ValueError("clusters: expected how many, for there are no labels whose number would do, got none")
    check_count(2, clusters=count)
    if items < 2 * count and clusters is None:
        raise ValueError(
            f"labels: expected at most {items // 2} classes, half of the {items} items, got {count}; say clusters"
        )
    if items < 2 * count:
        raise ValueError(f"clusters: expected at most {items // 2}, half of the {items} items, got {count}; take fewer")
    return count


def _with_labels(comparison: ClusteringComparison) -> str:
    best, spherical, setting = comparison.best, comparison.spherical, _setting(comparison)
    if comparison.significant:
        return (
            f"Norms help clustering: {_way(best)}, which raises V-measure from {spherical.v_measure:.4f} of spherical "
            f"k-means by {_bracketed(best.gain)} (p = {best.p_value:.2g}, corrected for {len(comparison.scores) - 1} "
            f"ways; {setting})."
            f"{_losses(comparison)}"
        )
    reach = best.gain.high - best.gain.value
    visible = f"; a gain of {reach:.4f} could have been seen" if reach > 0 else ""
    return (
        f"No gain: cluster directions by spherical k-means, for none of {len(comparison.scores) - 1} other ways raises "
        f"its V-measure of {spherical.v_measure:.4f} beyond chance (best: {best.name} with {_bracketed(best.gain)}, "
        f"corrected p = {best.p_value:.2g}{visible}; {setting}).{_losses(comparison)}"
    )


def _without_labels(comparison: ClusteringComparison) -> str:
    best = comparison.best
    tightest = (
        f"clusters by {best.name} are tighter: {_bracketed(best.silhouette_gain)} over "
        if best.silhouette_gain.low > 0
        else "no other way makes tighter clusters than "
    )
    return (
        "Without labels nobody can say whether norms help: cluster directions by spherical k-means. By the silhouette, "
        f"which asks how tight clusters of directions are and not whether they are right, {tightest}spherical k-means' "
        f"{comparison.spherical.silhouette:.4f} ({_setting(comparison)})."
    )


def _losses(comparison: ClusteringComparison) -> str:
    """Ways that are worse beyond chance."""
    worse = [score for score in comparison.scores if score.gain.high < 0]
    if not worse:
        return ""
    worst = min(worse, key=lambda score: score.gain.value)
    names = ", ".join(score.name for score in worse)
    return f" Worse beyond chance: {names}; the worst, {worst.name}, by {_bracketed(worst.gain)}."


def _way(score: ClusteringScore) -> str:
    if score.exponent is None:
        return "run plain k-means on the vectors as they are"
    return f"weigh directions by {score.name} in spherical k-means"


def _setting(comparison: ClusteringComparison) -> str:
    left_out = comparison.left_out
    without = f", {left_out:,} zero vector{'s' * (left_out > 1)} left out" * bool(left_out)
    return f"{comparison.items:,} items{without}, {comparison.clusters:,} clusters, {comparison.seeds} seeds"


def _bracketed(interval: Interval) -> str:
    return "{:+.4f} [{:+.4f}, {:+.4f}]".format(*interval)
