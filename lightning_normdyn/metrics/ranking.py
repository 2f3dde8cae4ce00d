"""trec_eval's ranking measures (NDCG, MRR, MAP, recall, hit rate) as metrics for scores of any sign."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.statistics.ranking import (
    RankedGrades,
    ranking_hit_rate,
    ranking_map,
    ranking_mrr,
    ranking_ndcg,
    ranking_recall,
)
from lightning_normdyn.core.tensor_checks import check_tensors

_MOST_EXACT = 2**53


class RankingMetric(Metric):
    """Mean of a measure over queries that something is relevant to, which may come in any pieces from any rank.

    Scores have any sign and scale. Of equal scores the document that came first ranks first (ranks of processes one
    after the other); trec_eval ranks those of one query by document id, the largest first.
    Keeps a score, a grade and an index of every document.

    Args:
        top_k: how many ranks count; ``None`` for all.
        kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: if ``top_k`` is neither a whole number from 1 up nor ``None``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    measure: Callable[[RankedGrades, int], Tensor]

    scores: list[Tensor]
    grades: list[Tensor]
    queries: list[Tensor]

    def __init__(self, top_k: int | None = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if top_k is not None:
            check_count(top_k=top_k, hint="or None for all ranks")
        self.top_k = top_k
        for name in ("scores", "grades", "queries"):
            self.add_state(name, [], dist_reduce_fx="cat")
        # What a rank that saw nothing gathers has this type, so all states share it; it holds indices up to 2^53.
        self.set_dtype(torch.float64)

    def update(self, preds: Tensor, target: Tensor, indexes: Tensor) -> None:
        """Adds documents, in the order of torchmetrics' retrieval metrics.

        Args:
            preds: score of each, any shape.
            target: how relevant it is, 0 or less for not at all, same shape.
            indexes: number of its query, an integer within 2^53, same shape.

        Raises:
            ValueError: if the shapes differ, a score is NaN, a grade not finite or a query's number no such integer.
        """
        check_tensors(preds=preds, target=target, indexes=indexes)
        if not preds.shape == target.shape == indexes.shape:
            raise ValueError(
                f"target: expected a grade and, in indexes, a query's number for each of {tuple(preds.shape)} scores, "
                f"got {tuple(target.shape)} and {tuple(indexes.shape)}; preds has the scores"
            )
        if preds.isnan().any():
            raise ValueError("preds: expected scores that can be ranked, got NaN; look for what made them")
        if not target.isfinite().all():
            raise ValueError("target: expected finite grades, got NaN or infinite ones; 0 stands for not relevant")
        if indexes.is_floating_point() or indexes.is_complex():
            raise ValueError(
                f"indexes: expected queries' numbers as integers, got {indexes.dtype}; pass indexes.long()"
            )
        indexes = indexes.long()
        if ((indexes >= _MOST_EXACT) | (indexes <= -_MOST_EXACT)).any():
            raise ValueError("indexes: expected queries' numbers within 2^53, got larger ones; number the queries anew")
        for state, values in ((self.scores, preds), (self.grades, target), (self.queries, indexes)):
            state.append(values.detach().flatten().to(self.dtype))

    def per_query(self) -> tuple[Tensor, Tensor]:
        """Numbers of the queries, ascending, and the measure of each, NaN where nothing is relevant; both ``[n]``."""
        score_batches: Any = self.scores  # a list, or one tensor once ranks have exchanged theirs
        if not len(score_batches) or not dim_zero_cat(score_batches).numel():
            no_values = torch.empty(0, dtype=self.dtype, device=self.device)
            return no_values.long(), no_values
        scores, grades, queries = (dim_zero_cat(state) for state in (self.scores, self.grades, self.queries))
        numbers, rows = queries.long().unique(return_inverse=True)
        grades = grades.clamp(min=0)
        relevant = torch.bincount(rows[grades > 0], minlength=len(numbers))
        top_k = int(torch.bincount(rows).max()) if self.top_k is None else self.top_k
        ranked = RankedGrades(
            _by_rank(grades, scores, rows, len(numbers), top_k),
            _by_rank(grades, grades, rows, len(numbers), top_k),
            relevant,
        )
        return numbers, type(self).measure(ranked, top_k)

    def compute(self) -> Tensor:
        """The mean; NaN if nothing is relevant to any query."""
        return self.per_query()[1].nanmean()

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """The value, or a list of values over time, as torchmetrics draws it: figure and axes."""
        return self._plot(val, ax)


class RankingNDCG(RankingMetric):
    """Normalised discounted cumulative gain of the first ``top_k``, linear in the grade; see :class:`RankingMetric`.

    Example:
        >>> metric = RankingNDCG(top_k=2)
        >>> metric.update(torch.tensor([-0.1, -0.2, -0.3]), torch.tensor([0, 2, 1]), torch.tensor([7, 7, 7]))
        >>> round(float(metric.compute()), 4)
        0.4796
    """

    measure = staticmethod(ranking_ndcg)


class RankingMRR(RankingMetric):
    """One over the rank of the first relevant document, 0 beyond ``top_k``; see :class:`RankingMetric`.

    Example:
        >>> metric = RankingMRR(top_k=2)
        >>> metric.update(torch.tensor([-0.1, -0.2, -0.3]), torch.tensor([0, 2, 1]), torch.tensor([7, 7, 7]))
        >>> float(metric.compute())
        0.5
    """

    measure = staticmethod(ranking_mrr)


class RankingRecall(RankingMetric):
    """Share of the relevant documents among the first ``top_k``; see :class:`RankingMetric`.

    Example:
        >>> metric = RankingRecall(top_k=2)
        >>> metric.update(torch.tensor([-0.1, -0.2, -0.3]), torch.tensor([0, 2, 1]), torch.tensor([7, 7, 7]))
        >>> float(metric.compute())
        0.5
    """

    measure = staticmethod(ranking_recall)


class RankingMAP(RankingMetric):
    """Average precision over the first ``top_k``, of all that is relevant; see :class:`RankingMetric`.

    Example:
        >>> metric = RankingMAP(top_k=2)
        >>> metric.update(torch.tensor([-0.1, -0.2, -0.3]), torch.tensor([0, 2, 1]), torch.tensor([7, 7, 7]))
        >>> float(metric.compute())
        0.25
    """

    measure = staticmethod(ranking_map)


class RankingHitRate(RankingMetric):
    """Share of queries with anything relevant among the first ``top_k``; see :class:`RankingMetric`.

    Example:
        >>> metric = RankingHitRate(top_k=1)
        >>> metric.update(torch.tensor([-0.1, -0.2, -0.3]), torch.tensor([0, 2, 1]), torch.tensor([7, 7, 7]))
        >>> float(metric.compute())
        0.0
    """

    measure = staticmethod(ranking_hit_rate)


def _by_rank(values: Tensor, scores: Tensor, rows: Tensor, n: int, top_k: int) -> Tensor:
    """Values of each row's documents at ranks 1 to ``top_k``, ``[n, top_k]``, 0 where there are fewer."""
    by_score = scores.argsort(descending=True, stable=True)
    order = by_score[rows[by_score].argsort(stable=True)]
    count = torch.bincount(rows, minlength=n)
    rank = torch.arange(len(rows), device=rows.device) - (count.cumsum(0) - count)[rows[order]]
    inside = rank < top_k
    # No wider than the longest row: a rank beyond the last document holds nothing.
    ranked_values = values.new_zeros(n, min(top_k, int(count.max())))
    ranked_values[rows[order][inside], rank[inside]] = values[order][inside]
    return ranked_values
