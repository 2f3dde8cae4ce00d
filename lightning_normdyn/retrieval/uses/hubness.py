"""Hubness: how often vectors are among the nearest of others, and how few documents take the places of rankings."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, as_tensors
from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.statistics.directions import paired_sample, random_halves, unit_rows
from lightning_normdyn.core.statistics.interval import Interval, bootstrap_intervals

_FOLDS = 5
_TOP_SHARE = 0.01
_RESAMPLES = 1_000
_LEAST_HALVED = 20
_CUTS = 4
_DEVIATIONS = 2.776  # of Student's t with a degree of freedom a cut, 97.5% of it below
_BLOCK = 1_024
_TIE = 1e-6  # cosines that are nearer to each other are put in order by chance
_NORMAL = NormalDist().inv_cdf(0.975)


class Hubness(NamedTuple):
    """How unevenly vectors are among the nearest of others.

    Attributes:
        k: neighbours of each that count.
        skewness: of how often a vector is among the k nearest of another; about ``1 / sqrt(k)`` where neighbours are
            drawn at random, above 1 for marked hubs.
        anti_hubs: share of vectors that are among the k nearest of no other.
        occurrences: how many vectors are found 0, 1, 2 to 3, 4 to 7, 8 to 15, ... times.
        rows: vectors that were looked at.
    """

    k: int
    skewness: Interval
    anti_hubs: Interval
    occurrences: tuple[int, ...]
    rows: int


def hubness(vectors: ArrayLike, *, k: int = 10) -> Hubness:
    """Skewness of k-occurrences and share of anti-hubs, by cosine, each vector among all others.

    ``N_k(x)`` counts the vectors that have x among their k nearest; its skewness ``E (N_k - k)³ / sd³`` measures
    hubness, and vectors with ``N_k = 0`` are anti-hubs (Radovanović, Nanopoulos, Ivanović, JMLR 11, 2010).

    Args:
        vectors: ``[n, d]``; norms do not count, and rows of zeros are left out. Of more than 8,192 rows a random sample
            is looked at: what is measured is the hubness of so many vectors, which grows with their number.
        k: neighbours; all others if these are fewer. Of equal cosines chance decides.

    Returns:
        Both with 95% intervals, of skewness by random halves of the vectors, none of fewer than 20; NaN of fewer than
        three vectors with a direction.

    Raises:
        ValueError: if vectors are no finite ``[n, d]``, or k is no count.

    Example:
        >>> angles = torch.arange(12) * torch.pi / 6
        >>> ring = hubness(torch.stack((angles.cos(), angles.sin()), dim=1), k=2)
        >>> ring.anti_hubs.value, ring.occurrences
        (0.0, (0, 0, 12))
    """
    check_count(k=k, hint="10 is usual")
    directions = paired_sample(unit_rows("vectors", vectors)).float()
    n = len(directions)
    k = max(1, min(k, n - 1))
    if n < 3:
        blank = Interval(math.nan, math.nan, math.nan)
        return Hubness(k, blank, blank, (), n)
    counts = _counts(directions, k)
    return Hubness(k, _with_interval(directions, k, counts), _share((counts == 0).double()), _octaves(counts), n)


def _counts(directions: Tensor, k: int) -> Tensor:
    """k-occurrences of unit vectors among each other."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(len(directions), dtype=torch.int64)
    for start in range(0, len(directions), _BLOCK):
        cosines = directions[start : start + _BLOCK] @ directions.T
        # Of equal texts each is to be found as often as another, and not the first of them by all.
        cosines += _TIE * torch.rand(cosines.shape, generator=generator)
        cosines.diagonal(start).fill_(-torch.inf)
        counts += k_occurrences(cosines.topk(min(k, len(directions) - 1), dim=1).indices, len(directions))
    return counts


def _with_interval(directions: Tensor, k: int, counts: Tensor) -> Interval:
    """Skewness with its interval by random halves, which have a little less of it, so that it is rather too wide."""
    skewness = _skewness(counts)
    if len(directions) < _LEAST_HALVED:
        return Interval(skewness, math.nan, math.nan)
    halves = [_skewness(_counts(half, k)) for half in random_halves(directions, _CUTS)]
    # The spread of a skewness grows with it: on this scale it is about the same for small and large ones.
    middle = math.asinh(skewness)
    reach = _DEVIATIONS * math.sqrt(sum((math.asinh(half) - middle) ** 2 for half in halves) / len(halves))
    return Interval(skewness, math.sinh(middle - reach), math.sinh(middle + reach))


def k_occurrences(indices: ArrayLike, documents: int) -> Tensor:
    """How often each document is in rankings.

    Args:
        indices: documents of each ranking by position, ``[n, k]``, as :class:`~lightning_normdyn.retrieval.TopK` has
            them; negative ones stand for places that nothing took.
        documents: how many there are, m.

    Returns:
        int64 ``[m]``.

    Raises:
        ValueError: if a position is of no document.

    Example:
        >>> k_occurrences(torch.tensor([[0, 2], [2, -1]]), 4)
        tensor([1, 0, 2, 0])
    """
    check_count(documents=documents)
    places = _checked(indices, documents).flatten()
    return torch.bincount(places[places >= 0], minlength=documents)


class Popularity(NamedTuple):
    """What the documents that are returned most take of the places of rankings.

    Attributes:
        documents: how many of them count: 1% of all, one at least.
        share: of all places that they take.
        held_out: the same of queries that had no part in choosing them; about ``documents`` over all documents where
            none is popular, however few the queries are.
    """

    documents: int
    share: float
    held_out: Interval


def popularity_share(indices: ArrayLike, documents: int) -> Popularity:
    """Share of the places of rankings that goes to the 1% of documents that are returned most.

    With few queries some documents are returned most by chance, so the share alone says little. Held out, these
    documents are chosen by four fifths of the queries (every fifth query is left out in turn), and their share is
    measured on the others.

    Args:
        indices: documents of each query's ranking by position, ``[n, k]``; negative ones stand for places that nothing
            took.
        documents: how many there are to rank.

    Returns:
        Both shares; the interval is a bootstrap's over queries, NaN throughout of fewer than five.

    Raises:
        ValueError: if a position is of no document.

    Example:
        >>> popular = popularity_share(torch.tensor([[0, query] for query in range(1, 21)]), 50)
        >>> popular.share, popular.held_out.value
        (0.5, 0.5)
    """
    check_count(documents=documents)
    ranking = _checked(indices, documents)
    ranking = ranking[(ranking >= 0).any(1)]
    size = math.ceil(_TOP_SHARE * documents)
    if not len(ranking):
        return Popularity(size, math.nan, Interval(math.nan, math.nan, math.nan))
    share = float(_taken(ranking, _most_returned(ranking, documents, size)).sum() / (ranking >= 0).sum())
    if len(ranking) < _FOLDS:
        return Popularity(size, share, Interval(math.nan, math.nan, math.nan))
    numbers = torch.arange(len(ranking)) % _FOLDS
    places = torch.empty(len(ranking), dtype=torch.float64)
    for fold in range(_FOLDS):
        popular = _most_returned(ranking[numbers != fold], documents, size)
        places[numbers == fold] = _taken(ranking[numbers == fold], popular)
    columns = torch.stack((places, (ranking >= 0).sum(1).double()), dim=1)

    def ratio(counts: Tensor) -> Tensor:
        sums = counts @ columns
        return sums[:, :1] / sums[:, 1:]

    (held_out,) = bootstrap_intervals(ratio, len(columns), resamples=_RESAMPLES, width=2)
    return Popularity(size, share, held_out)


def _most_returned(ranking: Tensor, documents: int, size: int) -> Tensor:
    """Which documents are those, ``[m]`` of bool; of equal counts the earlier, and none that is never returned."""
    counts = torch.bincount(ranking[ranking >= 0], minlength=documents)
    order = counts.argsort(descending=True, stable=True)[:size]
    popular = torch.zeros(documents, dtype=torch.bool)
    popular[order[counts[order] > 0]] = True
    return popular


def _taken(ranking: Tensor, popular: Tensor) -> Tensor:
    """Places of each query that popular documents take, float64 ``[n]``."""
    return (popular[ranking.clamp(min=0)] & (ranking >= 0)).sum(1).double()


def _checked(indices: ArrayLike, documents: int) -> Tensor:
    (ranking,) = as_tensors(indices=indices)
    if ranking.ndim != 2 or ranking.is_floating_point():
        raise ValueError(
            f"indices: expected positions of documents [n, k], got {ranking.dtype} {list(ranking.shape)}; exact_top_k "
            "gives them"
        )
    ranking = ranking.detach().cpu().long()
    if ranking.numel() and int(ranking.max()) >= documents:
        raise ValueError(
            f"indices: expected positions of {documents} documents, 0 to {documents - 1}, got {int(ranking.max())}; "
            "documents is the number of all that were ranked"
        )
    return ranking


def _skewness(counts: Tensor) -> float:
    """Third moment about the mean over the cubed standard deviation; 0 of counts that are all alike."""
    gaps = counts.double() - counts.double().mean()
    deviation = gaps.square().mean().sqrt()
    return float((gaps / deviation).pow(3).mean()) if float(deviation) > 0 else 0.0


def _share(is_one: Tensor) -> Interval:
    """A share with Wilson's interval."""
    n, share = len(is_one), float(is_one.mean())
    square = _NORMAL**2 / n
    middle, reach = share + square / 2, math.sqrt(square * (share * (1 - share) + square / 4))
    return Interval(share, max(0.0, (middle - reach) / (1 + square)), min(1.0, (middle + reach) / (1 + square)))


def _octaves(counts: Tensor) -> tuple[int, ...]:
    """Vectors with a count of 0, 1, 2 to 3, 4 to 7, and so on."""
    octaves = counts.double().clamp(min=0.5).log2().floor().long() + 1
    return tuple(torch.bincount(octaves).tolist())


def random_octaves(rows: int, k: int, octaves: int) -> list[float]:
    """Shares of :attr:`Hubness.occurrences` where the k neighbours of each of n vectors are drawn at random.

    Args:
        rows: n.
        k: neighbours.
        octaves: how many are asked for.

    Example:
        >>> [round(share, 3) for share in random_octaves(3, 1, 3)]
        [0.25, 0.5, 0.25]
    """
    neighbours = rows - 1
    counts = torch.arange(min(neighbours, 2 ** (octaves - 1)) + 1, dtype=torch.float64)
    logs = (
        math.lgamma(neighbours + 1)
        - torch.lgamma(counts + 1)
        - torch.lgamma(neighbours - counts + 1)
        + torch.special.xlogy(counts, torch.tensor(k / neighbours, dtype=torch.float64))
        + torch.special.xlogy(neighbours - counts, torch.tensor(1 - k / neighbours, dtype=torch.float64))
    )
    places = counts.clamp(min=0.5).log2().floor().long() + 1
    shares: list[float] = (
        torch.zeros(octaves + 1, dtype=torch.float64).index_add_(0, places, logs.exp())[:octaves].tolist()
    )
    return shares
