"""How good clusters are: V-measure against labels, and the silhouette of directions, exact in linear time."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.core.tensor_checks import check_real_tensors, check_tensors

_MOST_AT_ONCE = 2**22


class VMeasure(NamedTuple):
    """Agreement of clusters with labels.

    Attributes:
        value: harmonic mean of the other two, 0 to 1.
        homogeneity: how far clusters hold items of one label alone.
        completeness: how far items of a label lie in one cluster.
    """

    value: float
    homogeneity: float
    completeness: float


def v_measure(labels: Tensor, clusters: Tensor) -> VMeasure:
    """V-measure: ``2·h·c / (h + c)`` of homogeneity ``h = 1 - H(C|K)/H(C)`` and completeness ``c = 1 - H(K|C)/H(K)``.

    With C the labels and K the clusters (Rosenberg, Hirschberg 2007). It knows no names: any renumbering of clusters
    has the same value. Where there is one label alone, h is 1; where one cluster, c is 1.

    Args:
        labels: integers ``[n]``.
        clusters: integers ``[n]``.

    Returns:
        The record.

    Raises:
        ValueError: if they are not integers of as many items, one at least.

    Example:
        >>> v_measure(torch.tensor([0, 0, 1, 1]), torch.tensor([7, 7, 3, 3])).value
        1.0
        >>> round(v_measure(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 2, 2])).value, 3)
        0.8
    """
    label, cluster, pair = (surprisal.mean().item() for surprisal in _surprisals(labels, clusters))
    shared = max(0.0, label + cluster - pair)
    homogeneity = shared / label if label else 1.0
    completeness = shared / cluster if cluster else 1.0
    both = homogeneity + completeness
    value = 2 * homogeneity * completeness / both if both > 0 else 0.0
    return VMeasure(value, homogeneity, completeness)


def v_measure_influence(labels: Tensor, clusters: Tensor) -> Tensor:
    """How far each item carries V-measure, float64 ``[n]`` with mean 0: what bootstrapping items would vary.

    The derivative of V-measure to the item's weight, times n. With V-measure as ``2 - 2·J/(L + K)``, of the entropies
    of labels, clusters and pairs, and with that of an entropy being ``-log p(item) - H``. The sum of squares over n² is
    the variance over draws of items, clusters held fixed (the infinitesimal jackknife, Efron 1982); of a difference of
    two V-measures on the same items, that of the difference of influences.

    Args:
        labels: integers ``[n]``.
        clusters: integers ``[n]``.

    Raises:
        ValueError: if they are not integers of as many items, one at least.

    Example:
        >>> v_measure_influence(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 0])).sum().abs() < 1e-12
        tensor(True)
    """
    label, cluster, pair = _surprisals(labels, clusters)
    total, joint = label.mean() + cluster.mean(), pair.mean()
    if not total:
        return torch.zeros_like(pair)
    marginal = label + cluster - total
    return 2 * (joint * marginal / total - (pair - joint)) / total


def cosine_silhouettes(embeddings: Tensor, clusters: Tensor) -> Tensor:
    """Silhouettes under cosine distance, of every item ``(b - a) / max(a, b)``, float64 ``[n]``.

    With a the mean distance to the other items of its cluster, b the smallest mean distance to those of another
    (Rousseeuw 1987); an item alone in its cluster counts 0. A mean of cosine distances is one minus the inner product
    with the mean direction, so that no pair is looked at: ``n·k·d`` operations for k clusters, not ``n²·d``.

    Args:
        embeddings: ``[n, d]``; their lengths play no part. A zero vector has distance 1 from everything.
        clusters: integers ``[n]``.

    Returns:
        From -1 to 1; NaN where all items lie in one cluster.

    Raises:
        ValueError: if embeddings are no ``[n, d]`` of floating-point numbers, or clusters no integers ``[n]``.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
        >>> cosine_silhouettes(x, torch.tensor([0, 0, 1, 1])).tolist()
        [1.0, 1.0, 1.0, 1.0]
        >>> cosine_silhouettes(x, torch.tensor([0, 1, 0, 1])).tolist()
        [-0.5, -0.5, -0.5, -0.5]
    """
    check_real_tensors(embeddings=embeddings)
    cluster = _numbered("clusters", clusters)
    if embeddings.ndim != 2 or embeddings.shape[:1] != cluster.shape:
        raise ValueError(f"embeddings: expected [n, d] for {len(cluster)} clusters, got {tuple(embeddings.shape)}")
    sizes = torch.bincount(cluster).double()
    if len(sizes) < 2:
        return torch.full((len(cluster),), torch.nan, dtype=torch.float64)
    directions = rescale(embeddings.detach().cpu().double(), 1.0)
    sums = torch.zeros(len(sizes), directions.shape[1], dtype=torch.float64).index_add_(0, cluster, directions)
    rows = max(1, _MOST_AT_ONCE // len(sizes))
    parts = zip(directions.split(rows), cluster.split(rows), strict=True)
    return torch.cat([_silhouettes(part, places, sums, sizes) for part, places in parts])


def _silhouettes(directions: Tensor, cluster: Tensor, sums: Tensor, sizes: Tensor) -> Tensor:
    """Of some items, ``[b]``, from sums of directions ``[k, d]`` and sizes ``[k]`` of all clusters."""
    products = directions @ sums.T
    place = cluster.unsqueeze(1)
    others = sizes[cluster] - 1
    inside = products.gather(1, place).squeeze(1) - directions.square().sum(1)
    within = 1 - inside / others.clamp(min=1)
    between = (1 - products / sizes).scatter(1, place, torch.inf).amin(1)
    larger = torch.maximum(within, between)
    silhouettes: Tensor = ((between - within) / larger).where((others > 0) & (larger > 0), 0.0)
    return silhouettes


def _surprisals(labels: Tensor, clusters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Minus the log share of each item's label, cluster, and pair of both, ``[n]``: their means are entropies in nats.

    Raises:
        ValueError: if they are not integers of as many items.
    """
    label, cluster = _numbered("labels", labels), _numbered("clusters", clusters)
    if label.shape != cluster.shape:
        raise ValueError(f"clusters: expected one for each of {len(label)} labels, got {len(cluster)}")
    pair = label * (int(cluster.max()) + 1) + cluster
    return _surprisal(label), _surprisal(cluster), _surprisal(pair)


def _surprisal(column: Tensor) -> Tensor:
    _, place, counts = column.unique(return_inverse=True, return_counts=True)
    surprisals: Tensor = math.log(len(column)) - counts.double().log()
    return surprisals[place]


def _numbered(name: str, column: Tensor) -> Tensor:
    """The column with its values as 0, 1, 2, without gaps.

    Raises:
        ValueError: if it is no column of integers.
    """
    check_tensors(**{name: column})
    if column.ndim != 1 or not len(column) or column.is_floating_point() or column.is_complex():
        raise ValueError(f"{name}: expected an integer for each item, [n], got {column.dtype} {tuple(column.shape)}")
    places: Tensor = column.detach().cpu().unique(return_inverse=True)[1]
    return places
