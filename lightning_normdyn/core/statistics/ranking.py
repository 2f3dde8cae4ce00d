"""How well a ranking answers a query: trec_eval's measures, from graded ranks, one number a query."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.object_checks import check_instance
from lightning_normdyn.core.tensor_checks import check_tensors

Gain = Literal["linear", "exponential"]


class RankedGrades(NamedTuple):
    """What was judged of each query's ranking, and what the best ranking would have held.

    Attributes:
        grades: of the documents at ranks 1, 2, ..., float64 ``[n, k]``; 0 for irrelevant, unjudged and missing ones.
        ideal: positive grades of each query, best first and zero beyond, float64 ``[n, j]``.
        relevant: number of documents with a positive grade, found or not, int64 ``[n]``.
    """

    grades: Tensor
    ideal: Tensor
    relevant: Tensor


def grade_ranking(
    indices: Tensor,
    judgements: tuple[Tensor, Tensor, Tensor],
    n_queries: int | None = None,
    *,
    depth: int | None = None,
) -> RankedGrades:
    """Looks up the grade of every ranked document.

    Args:
        indices: documents by position, best first, ``[n, k]``; negative ones stand for ranks that nothing took.
        judgements: query, document and grade of each judged pair, each ``[p]`` and no pair twice; grades below 0
            count as 0, as trec_eval has it.
        n_queries: how many queries there are, to hold the ranking against.
        depth: how many of the best grades to keep of each query: the largest rank that :func:`ranking_ndcg`
            is asked for. All if left out.

    Returns:
        The record, on the device of ``indices``.

    Raises:
        ValueError: if something has the wrong shape, or a pair is judged twice or its query is none of the ranking's.

    Example:
        >>> judgements = (torch.tensor([0, 0, 1]), torch.tensor([2, 3, 0]), torch.tensor([2.0, 1.0, 0.0]))
        >>> ranked = grade_ranking(torch.tensor([[3, 1], [0, 1]]), judgements)
        >>> ranked.grades.tolist(), ranked.ideal.tolist(), ranked.relevant.tolist()
        ([[1.0, 0.0], [0.0, 0.0]], [[2.0, 1.0], [0.0, 0.0]], [2, 0])
    """
    check_tensors(indices=indices)
    if indices.ndim != 2 or indices.is_floating_point():
        raise ValueError(f"indices: expected integers [n, k], got {indices.dtype} {tuple(indices.shape)}")
    n = len(indices) if n_queries is None else n_queries
    if len(indices) != n:
        raise ValueError(f"indices: expected a row for each of {n} queries, got {len(indices)}; look at n_queries")
    if depth is not None:
        check_count(depth=depth)
    queries, documents, grades = _checked(judgements, n, indices.device)
    last = max(int(part.max()) if part.numel() else 0 for part in (documents, indices)) + 1
    pair_keys, order = (queries * last + documents).sort()
    is_repeated = pair_keys[1:] == pair_keys[:-1]
    if is_repeated.any():
        pair_key = int(pair_keys[1:][is_repeated][0])
        raise ValueError(
            f"judgements: expected each pair once, got query {pair_key // last} with document {pair_key % last} again; "
            "keep the grade that counts"
        )
    positive = grades.clamp(min=0)
    ranked_grades = _look_up(indices, pair_keys, positive[order], last)
    return RankedGrades(ranked_grades, *_ideal(queries, positive, n, depth))


def ranking_ndcg(ranked: RankedGrades, top_k: int, *, gain: Gain = "linear") -> Tensor:
    """Discounted cumulative gain over that of the best ranking: ``sum_i g_i / log2(1 + i)`` for ranks ``i <= top_k``.

    Args:
        ranked: of :func:`grade_ranking`.
        top_k: how many ranks count.
        gain: ``linear`` takes grades as they are, as trec_eval's ndcg_cut does; ``exponential`` takes ``2^g - 1``.

    Returns:
        ``[n]`` in float64; NaN for a query that nothing is relevant to.

    Example:
        >>> ranked = RankedGrades(torch.tensor([[0.0, 3.0]]), torch.tensor([[3.0, 0.0]]), torch.tensor([1]))
        >>> round(float(ranking_ndcg(ranked, 2)), 4)
        0.6309
    """
    if gain not in ("linear", "exponential"):
        raise ValueError(f"gain: expected 'linear' or 'exponential', got {gain!r}")
    return _where_relevant(_discounted(_top(ranked, top_k), gain) / _discounted(ranked.ideal[:, :top_k], gain), ranked)


def ranking_mrr(ranked: RankedGrades, top_k: int) -> Tensor:
    """One over the rank of the first relevant document, 0 if it is not among the first ``top_k``; ``[n]`` or NaN."""
    relevant = _top(ranked, top_k) > 0
    ranks = torch.arange(1, relevant.shape[1] + 1, device=relevant.device, dtype=torch.float64)
    best = (relevant / ranks).amax(1) if relevant.shape[1] else ranks.new_zeros(len(relevant))
    return _where_relevant(best, ranked)


def ranking_recall(ranked: RankedGrades, top_k: int) -> Tensor:
    """Share of the relevant documents among the first ``top_k``; ``[n]``, NaN where nothing is relevant."""
    return _where_relevant((_top(ranked, top_k) > 0).sum(1) / ranked.relevant.double(), ranked)


def ranking_map(ranked: RankedGrades, top_k: int) -> Tensor:
    """Average precision: that at each relevant rank up to ``top_k``, summed, over all that is relevant; ``[n]`` or NaN.

    Example:
        >>> ranked = RankedGrades(torch.tensor([[1.0, 0.0, 1.0]]), torch.ones(1, 3), torch.tensor([3]))
        >>> round(float(ranking_map(ranked, 3)), 4)  # (1 + 2/3) / 3
        0.5556
    """
    relevant = _top(ranked, top_k) > 0
    ranks = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
    # Counted in integers: CUDA has no deterministic cumulative sum of other numbers.
    return _where_relevant((relevant.cumsum(1).double() / ranks * relevant).sum(1) / ranked.relevant, ranked)


def ranking_hit_rate(ranked: RankedGrades, top_k: int) -> Tensor:
    """1 if anything relevant is among the first ``top_k``, else 0 (trec_eval's success); ``[n]``, NaN as above."""
    return _where_relevant((_top(ranked, top_k) > 0).any(1).double(), ranked)


MEASURES: dict[str, Callable[..., Tensor]] = {
    "ndcg": ranking_ndcg,
    "mrr": ranking_mrr,
    "recall": ranking_recall,
    "map": ranking_map,
    "hits": ranking_hit_rate,
}


class Measure(NamedTuple):
    """A measure with its rank: ``of`` takes :class:`RankedGrades` to ``[n]``, ``depth`` is how many ranks it sees."""

    of: Callable[[RankedGrades], Tensor]
    depth: int


def measure_named(name: str) -> Measure:
    """The measure of a name such as ``ndcg@10``, ``mrr@10``, ``recall@100``, ``map@100`` or ``hits@1``.

    Raises:
        ValueError: if it has not that form.

    Example:
        >>> measure_named("recall@100").depth
        100
    """
    kind, _, rank = name.partition("@") if isinstance(name, str) else ("", "", "")
    if kind not in MEASURES or not rank.isdecimal() or int(rank) < 1:
        raise ValueError(f"measure: expected one of {', '.join(MEASURES)} with a rank, as in 'ndcg@10', got {name!r}")
    return Measure(partial(MEASURES[kind], top_k=int(rank)), int(rank))


def _checked(judgements: tuple[Tensor, Tensor, Tensor], n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    if not isinstance(judgements, tuple) or len(judgements) != 3:
        raise ValueError(
            f"judgements: expected query, document and grade of each pair, got {type(judgements).__name__}; a tuple of "
            "three tensors has them"
        )
    check_tensors(**{f"judgements[{place}]": column for place, column in enumerate(judgements)})
    queries, documents, grades = (column.to(device) for column in judgements)
    if not queries.shape == documents.shape == grades.shape or queries.ndim != 1:
        shapes = ", ".join(str(tuple(column.shape)) for column in (queries, documents, grades))
        raise ValueError(f"judgements: expected query, document and grade of each pair, each [p], got {shapes}")
    if queries.numel() and not 0 <= int(queries.min()) <= int(queries.max()) < n:
        lowest, highest = int(queries.min()), int(queries.max())
        raise ValueError(
            f"judgements: expected queries by position, 0 to {n - 1}, got {lowest} to {highest}; number them as the "
            "rows of the ranking"
        )
    if documents.numel() and int(documents.min()) < 0:
        raise ValueError(f"judgements: expected documents by position, from 0 up, got {int(documents.min())}")
    if not grades.isfinite().all():
        raise ValueError("judgements: expected finite grades, got NaN or infinite ones")
    return queries.long(), documents.long(), grades.double()


def _look_up(indices: Tensor, keys: Tensor, grades: Tensor, last: int) -> Tensor:
    """Grades of documents ``[n, k]`` among pairs sorted by ``query * last + document``."""
    if not keys.numel():
        return torch.zeros(indices.shape, dtype=torch.float64, device=indices.device)
    ranked_keys = torch.arange(len(indices), device=indices.device).unsqueeze(1) * last + indices
    place = torch.searchsorted(keys, ranked_keys).clamp(max=len(keys) - 1)
    ranked_grades: Tensor = grades[place] * ((keys[place] == ranked_keys) & (indices >= 0))
    return ranked_grades


def _ideal(queries: Tensor, grades: Tensor, n: int, depth: int | None) -> tuple[Tensor, Tensor]:
    queries, grades = queries[grades > 0], grades[grades > 0]
    relevant = torch.bincount(queries, minlength=n)
    by_grade = grades.argsort(descending=True)
    order = by_grade[queries[by_grade].argsort(stable=True)]
    queries, grades = queries[order], grades[order]
    rank = torch.arange(len(queries), device=queries.device) - (relevant.cumsum(0) - relevant)[queries]
    width = int(relevant.max()) if n else 0
    width = width if depth is None else min(width, depth)
    ideal = grades.new_zeros(n, width)
    inside = rank < width
    ideal[queries[inside], rank[inside]] = grades[inside]
    return ideal, relevant


def _top(ranked: RankedGrades, top_k: int) -> Tensor:
    check_instance(RankedGrades, ranked=ranked, hint="grade_ranking makes them")
    check_count(top_k=top_k)
    return ranked.grades[:, :top_k]


def _discounted(grades: Tensor, gain: Gain) -> Tensor:
    gains = grades if gain == "linear" else torch.expm1(grades * math.log(2))
    ranks = torch.arange(2, grades.shape[1] + 2, device=grades.device, dtype=torch.float64)
    return (gains / ranks.log2()).sum(1)


def _where_relevant(values: Tensor, ranked: RankedGrades) -> Tensor:
    return values.where(ranked.relevant > 0, torch.nan)
