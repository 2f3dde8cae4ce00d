"""Statistics of the directions of embeddings: uniformity, alignment of pairs, and the share of a common direction."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, as_tensor
from lightning_normdyn.core.embedding_codes import as_embeddings
from lightning_normdyn.core.statistics.interval import Interval
from lightning_normdyn.core.tensor_checks import check_real_tensors

MOST_PAIRED = 8_192
"""Rows whose pairs are all looked at; of more a random sample is taken."""
_BLOCK = 1_024
_LEAST_ROWS = 3
_NORMAL = NormalDist().inv_cdf(0.975)
_NOT_KNOWN = Interval(math.nan, math.nan, math.nan)


def uniformity(vectors: ArrayLike) -> Interval:
    """How evenly directions lie on the sphere: ``log mean exp(-2 |x - y|²)`` over pairs of different rows.

    0 where all directions are one, about -4 + 8/d for directions spread evenly in many dimensions d; less is more even
    (Wang, Isola, ICML 2020, arXiv 2005.10242, section 4.1).

    Args:
        vectors: ``[n, d]``; norms do not count, and rows of zeros are left out. Of more than 8,192 rows a random sample
            is looked at.

    Returns:
        The mean with its 95% interval, by the jackknife over rows; NaN of fewer than three rows with a direction.

    Raises:
        ValueError: if they are no finite ``[n, d]``.

    Example:
        >>> round(uniformity(torch.eye(3)).value, 6)
        -4.0
    """
    directions = paired_sample(unit_rows("vectors", vectors))
    blocks = [(4 * (block @ directions.T) - 4).exp().sum(1) for block in directions.split(_BLOCK)]
    mean = _pair_mean(torch.cat(blocks) - 1)
    if not mean.value > 0:
        return _NOT_KNOWN
    reach = (mean.high - mean.value) / mean.value
    value = min(0.0, math.log(mean.value))
    return Interval(value, value - reach, min(0.0, value + reach))


def common_direction(vectors: ArrayLike) -> Interval:
    """Share of the squared length of unit vectors that lies along their common mean: the mean cosine of two rows.

    ``|E x|²`` of unit vectors x, estimated over pairs of different rows, whose mean is right however few there are. 0
    for directions that cancel, 1 where all are one; a large share makes neighbours of strangers.

    Args:
        vectors: ``[n, d]``; norms do not count, and rows of zeros are left out.

    Returns:
        The share with its 95% interval, by the jackknife over rows; a little below 0 where chance has it so, NaN of
        fewer than three rows with a direction.

    Raises:
        ValueError: if they are no finite ``[n, d]``.

    Example:
        >>> round(common_direction(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])).value, 4)
        0.3333
    """
    directions = unit_rows("vectors", vectors)
    share = _pair_mean(directions @ directions.sum(0) - 1)
    return Interval(*(min(end, 1.0) for end in share))


def alignment(queries: ArrayLike, documents: ArrayLike, *, groups: ArrayLike | None = None) -> Interval:
    """How near the two sides of positive pairs lie: mean ``|x - y|²`` of their unit vectors.

    0 where both have one direction, 2 where they are unrelated (Wang, Isola, ICML 2020, arXiv 2005.10242, section 4.1).

    Args:
        queries: one side, ``[n, d]``.
        documents: the other, ``[n, d]``: row i belongs to row i. Pairs with a row of zeros are left out.
        groups: a number for each pair, ``[n]``, equal where pairs hang together, such as those of one query: the
            interval is then over groups.

    Returns:
        The mean over pairs with its 95% interval; NaN without a pair, and the ends of fewer than two groups.

    Raises:
        ValueError: if both are no finite ``[n, d]``, or there is not a group for each pair.

    Example:
        >>> alignment(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [1.0, 0.0]])).value
        1.0
    """
    first, second = (finite_rows(name, side) for name, side in (("queries", queries), ("documents", documents)))
    if first.shape != second.shape:
        raise ValueError(
            f"documents: expected {list(first.shape)}, one for each of queries, got {list(second.shape)}; repeat the "
            "query of several documents"
        )
    numbers = torch.arange(len(first)) if groups is None else as_tensor("groups", groups).cpu()
    if numbers.shape != (len(first),):
        raise ValueError(f"groups: expected a number for each of {len(first)} pairs, got {list(numbers.shape)}")
    cosines = pair_cosines(first, second)
    has_direction = ~cosines.isnan()
    return alignment_of_cosines(cosines[has_direction], numbers[has_direction])


def pair_cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of each row with that beside it, float64 ``[n]`` on the CPU; NaN where one of both is zero.

    Args:
        first: ``[n, d]``, finite.
        second: ``[n, d]``, finite.

    Example:
        >>> first = torch.tensor([[1e-200, 0.0], [0.0, 0.0]], dtype=torch.float64)
        >>> pair_cosines(first, torch.tensor([[3.0, 4.0], [1.0, 0.0]]))
        tensor([0.6000,    nan], dtype=torch.float64)
    """
    return (_unit(first) * _unit(second)).sum(1) if first.shape[1] else first.new_full((len(first),), torch.nan)


def alignment_of_cosines(cosines: Tensor, groups: Tensor) -> Interval:
    """:func:`alignment` from the cosines of pairs ``[n]`` and the group of each ``[n]``."""
    distances = 2 - 2 * cosines.double().clamp(-1, 1)
    if not len(distances):
        return _NOT_KNOWN
    mean = distances.mean()
    _, places = groups.unique(return_inverse=True)
    count = int(places.max()) + 1
    gaps = torch.zeros(count, dtype=torch.float64).index_add_(0, places, distances - mean)
    # A ratio of sums over groups (Cochran 1977): each group moves it by what it has beyond its share.
    variance = float(gaps.square().sum()) * count / max(1, count - 1) / len(distances) ** 2
    reach = _NORMAL * math.sqrt(variance) if count > 1 else math.nan
    return Interval(float(mean), float(mean) - reach, float(mean) + reach)


def unit_rows(name: str, vectors: ArrayLike) -> Tensor:
    """Unit vectors in float64 on the CPU, without rows of zeros.

    Args:
        name: of the argument.
        vectors: ``[n, d]``.

    Raises:
        ValueError: naming the argument, if they are no finite ``[n, d]``.

    Example:
        >>> unit_rows("vectors", torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000]], dtype=torch.float64)
    """
    rows = finite_rows(name, vectors)
    return _unit(rows[rows.any(1)])


def _unit(rows: Tensor) -> Tensor:
    """Unit vectors in float64 on the CPU, NaN of zero."""
    rows = rows.detach().cpu().double()
    if not rows.numel():
        return rows
    # By the largest number first, since squares of what is very small or large would leave float64.
    rows = rows / rows.abs().amax(1, keepdim=True)
    directions: Tensor = rows / rows.norm(dim=1, keepdim=True)
    return directions


def finite_rows(name: str, vectors: ArrayLike, *, first_row: int = 0) -> Tensor:
    """Embeddings as a tensor.

    Args:
        name: of the argument.
        vectors: ``[n, d]``.
        first_row: number of the first among all, for the error.

    Raises:
        ValueError: naming the argument, if they are no finite ``[n, d]``.
    """
    (rows,) = as_embeddings(**{name: vectors})
    check_real_tensors(**{name: rows})
    if rows.ndim != 2:
        raise ValueError(f"{name}: expected [n, d], got {list(rows.shape)}; a single one is {name}[None]")
    bad_rows = (~rows.isfinite().all(1)).nonzero()
    if len(bad_rows):
        raise ValueError(
            f"{name}: expected finite numbers, got NaN or infinite ones in row {first_row + int(bad_rows[0])}; leave "
            "such rows out or encode them again"
        )
    return rows


def paired_sample(directions: Tensor) -> Tensor:
    """Rows whose pairs are looked at: all, or 8,192 at random."""
    if len(directions) <= MOST_PAIRED:
        return directions
    return directions[torch.randperm(len(directions), generator=torch.Generator().manual_seed(0))[:MOST_PAIRED]]


def random_halves(rows: Tensor, cuts: int) -> Iterator[Tensor]:
    """Both halves of rows that are cut at random, again and again.

    What a half has beyond the whole spreads as what the whole has beyond all there could be.

    Args:
        rows: ``[n, d]``.
        cuts: how often.

    Example:
        >>> [len(half) for half in random_halves(torch.ones(5, 2), 2)]
        [2, 3, 2, 3]
    """
    generator = torch.Generator().manual_seed(0)
    for _ in range(cuts):
        order = torch.randperm(len(rows), generator=generator)
        yield from (rows[order[: len(order) // 2]], rows[order[len(order) // 2 :]])


def _pair_mean(row_sums: Tensor) -> Interval:
    """Mean of a kernel over all pairs of different rows, with a delete-one jackknife in closed form.

    Without row i the mean is ``(n U - 2 h_i) / (n - 2)``, h_i being the mean over the pairs of row i.

    Args:
        row_sums: of each row's kernel with all others, ``[n]``.
    """
    n = len(row_sums)
    if n < _LEAST_ROWS:
        return _NOT_KNOWN
    row_means = row_sums / (n - 1)
    mean = row_means.mean()
    error = math.sqrt((n - 1) / n * 4 / (n - 2) ** 2 * float((row_means - mean).square().sum()))
    return Interval(float(mean), float(mean) - _NORMAL * error, float(mean) + _NORMAL * error)
