"""Filters documents by norm before or after a search: loss of quality and saving of work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike
from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.core.dynamics.geometry import precise_norm
from lightning_normdyn.core.embedding_codes import as_embeddings
from lightning_normdyn.core.number_checks import check_count, check_finite_number, shown
from lightning_normdyn.core.statistics.interval import Interval, bootstrap_intervals, check_level
from lightning_normdyn.core.statistics.ranking import Measure, grade_ranking, measure_named
from lightning_normdyn.datasets.judgements import Judgements
from lightning_normdyn.retrieval.search.top_k import exact_top_k

Keep = Literal["longest", "shortest"]
Stage = Literal["before", "after"]
_KEEPS: tuple[Keep, ...] = ("longest", "shortest")


class FilterOutcome(NamedTuple):
    """One filter and one measure.

    Attributes:
        stage: ``before`` the search, which then sees fewer documents, or ``after``, among its candidates.
        keep: which end of the norms stays.
        share: of the documents that stay.
        measure: such as ``recall@100``.
        value: mean over judged queries with the filter.
        retention: that over the mean without a filter, 1 where it costs nothing.
        change: that minus the mean without, paired.
        work_saved: before: share of documents that need not be scored. After: mean share of a query's candidates that
            no later stage has to look at.
    """

    stage: Stage
    keep: Keep
    share: float
    measure: str
    value: Interval
    retention: Interval
    change: Interval
    work_saved: float


def filter_table(
    queries: ArrayLike,
    documents: ArrayLike,
    judgements: Judgements,
    *,
    shares: Sequence[float] = (0.9, 0.75, 0.5, 0.25),
    measures: Sequence[str] = ("ndcg@10", "recall@100"),
    candidates: int = 100,
    resamples: int = 1_000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> list[FilterOutcome]:
    """Measures cosine search with the longest or the shortest documents left out, before or after it.

    Before, the rank of a document that is left out goes to the next one; after, the list of candidates gets shorter.

    Args:
        queries: as encoded, ``[n, d]``.
        documents: as encoded, ``[m, d]``.
        judgements: pairs of query and document with their grades.
        shares: of documents to keep, each above 0 and up to 1; the same norm limit serves both stages.
        measures: see :func:`~lightning_normdyn.core.statistics.ranking.measure_named`.
        candidates: that the search hands on; at least as many as the deepest measure looks at.
        resamples: of the bootstrap over judged queries.
        level: share of resamples inside an interval.
        generator: of random numbers, on the CPU. If left out, every filter is drawn with the same fresh seed 0.

    Returns:
        A row for each stage, end, share and measure.

    Raises:
        ValueError: if a share is none, a measure has no such name, no query has a relevant document, or judgements
            name a query or document that does not exist.

    Example:
        >>> documents = torch.tensor([[4.0, 0.0], [0.0, 3.0], [0.2, 0.1], [0.1, 0.2]])
        >>> judgements = Judgements.of([(0, 0, 1.0), (1, 1, 1.0)])
        >>> rows = filter_table(torch.eye(2), documents, judgements, shares=[0.5], measures=["ndcg@1"], resamples=50)
        >>> [(row.stage, row.keep, row.retention.value, row.work_saved) for row in rows]
        [('before', 'longest', 1.0, 0.5), ('before', 'shortest', 0.0, 0.5),
         ('after', 'longest', 1.0, 0.5), ('after', 'shortest', 0.0, 0.5)]
    """
    for name, values in {"measures": measures, "shares": shares}.items():
        if isinstance(values, str) or not len(values):
            raise ValueError(f"{name}: expected a list of one at least, got {shown(values)}")
    measures_by_name = {name: measure_named(name) for name in measures}
    for share in shares:
        check_finite_number(shares=share)
        if not 0 < share <= 1:
            raise ValueError(f"shares: expected numbers above 0 and up to 1, got {share}")
    check_count(candidates=candidates, hint="100 is usual")
    check_count(0, resamples=resamples)
    check_level(level)
    queries, documents = as_embeddings(queries=queries, documents=documents)
    judgements = Judgements.require(judgements)
    judgements.check(len(queries), len(documents))
    depth = max([candidates, *(measure.depth for measure in measures_by_name.values())])
    directions = rescale(documents.detach(), 1.0)
    by_norm = precise_norm(documents.detach()).argsort(stable=True)
    full_ranking = exact_top_k(queries, directions, depth).indices
    baselines = {name: _values(full_ranking, judgements, measure) for name, measure in measures_by_name.items()}
    if not any(values.isfinite().any() for values in baselines.values()):
        raise ValueError("judgements: expected a relevant document for one query at least, got none")
    stages: tuple[Stage, ...] = ("before", "after")
    rows = []
    for stage, keep, share in ((stage, keep, share) for stage in stages for keep in _KEEPS for share in shares):
        is_kept = _kept_mask(by_norm, keep, share)
        if stage == "before":
            ranking = _search_among(queries, directions, is_kept, depth)
            work_saved = 1 - int(is_kept.sum()) / len(is_kept)
        else:
            ranking = _drop_documents(full_ranking, is_kept)
            work_saved = 1 - int((ranking >= 0).sum()) / ranking.numel()
        for name, measure in measures_by_name.items():
            intervals = _compare_with_baseline(
                _values(ranking, judgements, measure), baselines[name], resamples, level, generator
            )
            rows.append(FilterOutcome(stage, keep, share, name, *intervals, work_saved))
    return rows


def _kept_mask(by_norm: Tensor, keep: Keep, share: float) -> Tensor:
    """Which documents stay, bool ``[m]``: the nearest whole number of them, one at least."""
    number = max(1, round(share * len(by_norm)))
    is_kept = torch.zeros(len(by_norm), dtype=torch.bool, device=by_norm.device)
    is_kept[by_norm[-number:] if keep == "longest" else by_norm[:number]] = True
    return is_kept


def _search_among(queries: Tensor, directions: Tensor, is_kept: Tensor, depth: int) -> Tensor:
    rows = is_kept.nonzero().squeeze(1)
    indices = exact_top_k(queries, directions[rows], depth).indices
    return rows.to(indices.device)[indices]


def _drop_documents(ranking: Tensor, is_kept: Tensor) -> Tensor:
    """The ranking with documents left out, the others moving up and -1 behind them."""
    is_allowed = is_kept.to(ranking.device)[ranking]
    order = (~is_allowed).to(torch.uint8).argsort(dim=1, stable=True)
    return ranking.where(is_allowed, -1).gather(1, order)


def _values(ranking: Tensor, judgements: Judgements, measure: Measure) -> Tensor:
    return measure.of(grade_ranking(ranking, judgements, depth=measure.depth)).cpu().double()


def _compare_with_baseline(
    values: Tensor, without: Tensor, resamples: int, level: float, generator: torch.Generator | None
) -> tuple[Interval, Interval, Interval]:
    is_judged = without.isfinite()
    pair = torch.stack((values[is_judged], without[is_judged]), dim=1)

    def statistics(counts: Tensor) -> Tensor:
        value, base = (counts @ pair / len(pair)).unbind(1)
        return torch.stack((value, value / base, value - base), dim=1)

    value, retention, change = bootstrap_intervals(
        statistics, len(pair), resamples=resamples, level=level, generator=generator
    )
    return value, retention, change
