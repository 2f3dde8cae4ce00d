"""Hubs of judged rankings: documents that more queries are answered with than chance would have, with their norms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.statistics.interval import Interval, bootstrap_intervals
from lightning_normdyn.datasets.judgements import Judgements
from lightning_normdyn.retrieval.exponent.document_parts import DocumentParts
from lightning_normdyn.retrieval.uses.hubness import k_occurrences

_LISTED = 12
_LEVEL = 0.05
_RESAMPLES = 1_000


class Hub(NamedTuple):
    """A document that stands in the top lists of many queries.

    Attributes:
        document: its number.
        norm: of its vector; the mean where it has several.
        longer_than: share of the documents whose norms are smaller, half of the equal ones counted; zero and near-dead
            vectors apart.
        by_cosine: queries whose top k it is in by cosine.
        by_advice: the same by the score that is advised.
        relevant: queries that it is relevant to.
    """

    document: int
    norm: float
    longer_than: float
    by_cosine: int
    by_advice: int
    relevant: int


class Hubs(NamedTuple):
    """The hubs of a collection.

    Attributes:
        k: ranks of a list that count.
        queries: whose lists were counted.
        documents: that could be in them.
        score: the advised score in words; empty where it is the cosine.
        score_note: how its exponent differs from the advised one; empty where it does not.
        least: lists that a document must be in to be a hub: by chance alone, with lists drawn at random, one or more of
            all documents would be in so many with a probability of 5% at most.
        hub_count: hubs by either score.
        listed: those in most lists by either score, at most twelve.
        norm_rank: share of the documents that are shorter than one in a top list by cosine, on average; 0.5 where norms
            have no part in it. The interval is over queries.
        advised_norm_rank: the same by the advised score; ``None`` where that is the cosine.
    """

    k: int
    queries: int
    documents: int
    score: str
    score_note: str
    least: int
    hub_count: int
    listed: tuple[Hub, ...]
    norm_rank: Interval
    advised_norm_rank: Interval | None


class AdvisedRanking(NamedTuple):
    """Rankings by the score that is advised.

    Attributes:
        score: in words; empty for the cosine.
        ranking: documents of each query, ``[n, k]``; negative where there are no more.
        score_note: how its exponent differs from the advised one; empty where it does not.
    """

    score: str
    ranking: Tensor
    score_note: str = ""


class RankedDocuments(NamedTuple):
    """What rankings number.

    Attributes:
        norms: of each document's vector, the mean where it has several, float64 ``[m]``.
        is_living: whether none of its vectors is zero or near dead, bool ``[m]``.
    """

    norms: Tensor
    is_living: Tensor

    @classmethod
    def of(cls, norms: Tensor, living_rows: Tensor, parts: DocumentParts | None) -> RankedDocuments:
        """Documents of vectors.

        Args:
            norms: of the vectors.
            living_rows: which of them are neither zero nor near dead.
            parts: which document each is a part of, where documents have several.

        Example:
            >>> parts = DocumentParts.of(torch.tensor([0, 0, 1]))
            >>> RankedDocuments.of(torch.tensor([1.0, 3.0, 0.0]), torch.tensor([True, True, False]), parts)
            RankedDocuments(norms=tensor([2., 0.]), is_living=tensor([ True, False]))
        """
        if parts is None:
            return cls(norms, living_rows)
        counts = torch.bincount(parts.owners, minlength=parts.documents)
        sums = norms.new_zeros(len(counts)).index_add_(0, parts.owners, norms)
        dead_counts = torch.bincount(parts.owners[~living_rows], minlength=len(counts))
        return cls(sums / counts.clamp(min=1), (dead_counts == 0) & (counts > 0))

    def living(self, ranking: Tensor) -> Tensor:
        """A ranking with nothing in the places of zero and near-dead vectors.

        Example:
            >>> collection = RankedDocuments(torch.tensor([0.0, 1.0]), torch.tensor([False, True]))
            >>> collection.living(torch.tensor([[0, 1]])), collection.near_dead_share(torch.tensor([[0, 1]]))
            (tensor([[-1,  1]]), 0.5)
        """
        ranking = ranking.cpu()
        return ranking.where((ranking >= 0) & self.is_living[ranking.clamp(min=0)], -1)

    def near_dead_share(self, ranking: Tensor) -> float:
        """Share of a ranking's places that such vectors take."""
        places = int((ranking >= 0).sum())
        return (places - int((self.living(ranking) >= 0).sum())) / max(1, places)

    def norm_ranks(self) -> Tensor:
        """Share of the living documents that are shorter than each, half of the equal ones counted, ``[m]``."""
        living_norms = self.norms[self.is_living].sort().values
        below, up_to = (torch.searchsorted(living_norms, self.norms, right=right) for right in (False, True))
        return (below + up_to).double() / 2 / max(1, len(living_norms))


def find_hubs(
    ranking: Tensor, collection: RankedDocuments, judgements: Judgements, *, advised: AdvisedRanking | None = None
) -> Hubs:
    """Finds the documents that are in most top lists.

    Args:
        ranking: documents of each query by cosine, ``[n, k]``; negative where there are no more.
        collection: the documents.
        judgements: by number of the document.
        advised: rankings of the same queries by the advised score; ``None`` where it is the cosine.

    Returns:
        The record.

    Example:
        >>> documents = RankedDocuments(torch.arange(1.0, 101.0), torch.ones(100, dtype=torch.bool))
        >>> ranking = torch.tensor([[99, query] for query in range(20)])
        >>> hubs = find_hubs(ranking, documents, Judgements.of([(0, 99, 1.0)]))
        >>> hubs.least, hubs.listed
        (5, (Hub(document=99, norm=100.0, longer_than=0.995, by_cosine=20, by_advice=20, relevant=1),))
    """
    m, (n, k) = len(collection.norms), ranking.shape
    norm_ranks, by_cosine = collection.norm_ranks(), k_occurrences(ranking, m)
    by_advice = by_cosine if advised is None else k_occurrences(advised.ranking, m)
    relevant_counts = torch.bincount(judgements.relevant().documents.cpu(), minlength=m)
    most = by_cosine.maximum(by_advice)
    least = least_hub_lists(n, min(k, m), m)
    # Of equal counts the one that is in more lists by both, and then the earlier one.
    order = (most * (2 * n + 1) + by_cosine + by_advice).argsort(descending=True, stable=True)
    listed = order[:_LISTED][most[order[:_LISTED]] >= least]
    columns = (
        column[listed].tolist() for column in (collection.norms, norm_ranks, by_cosine, by_advice, relevant_counts)
    )
    return Hubs(
        k,
        n,
        m,
        "" if advised is None else advised.score,
        "" if advised is None else advised.score_note,
        least,
        int((most >= least).sum()),
        tuple(Hub(*row) for row in zip(listed.tolist(), *columns, strict=True)),
        _mean_rank(collection.living(ranking), norm_ranks),
        None if advised is None else _mean_rank(collection.living(advised.ranking), norm_ranks),
    )


def least_hub_lists(queries: int, k: int, documents: int) -> int:
    """Lists that a hub must be in: the least count c with ``m · P(X >= c) <= 0.05`` for ``X ~ Binomial(n, k / m)``.

    Args:
        queries: n.
        k: documents of each query's list.
        documents: m; where all of them are in every list, no count makes a hub.

    Example:
        >>> least_hub_lists(300, 10, 5183), least_hub_lists(20, 5, 5)
        (7, 21)
    """
    if k >= documents:
        return queries + 1
    counts = torch.arange(queries + 1, dtype=torch.float64)
    share = torch.tensor(k / documents, dtype=torch.float64)
    total = torch.tensor(queries + 1.0, dtype=torch.float64)
    logs = (
        total.lgamma()
        - (counts + 1).lgamma()
        - (total - counts).lgamma()
        + counts * share.log()
        + (queries - counts) * torch.log1p(-share)
    )
    tails = logs.exp().flip(0).cumsum(0).flip(0)
    return int((documents * tails > _LEVEL).sum())


def _mean_rank(ranking: Tensor, norm_ranks: Tensor) -> Interval:
    """Mean over places of a number of the document there, with its bootstrap interval over queries."""
    is_taken = ranking >= 0
    sums = norm_ranks[ranking.clamp(min=0)].where(is_taken, 0).sum(1)
    columns = torch.stack((sums, is_taken.sum(1).double()), dim=1)

    def ratio(counts: Tensor) -> Tensor:
        totals = counts @ columns
        return totals[:, :1] / totals[:, 1:]

    (rank,) = bootstrap_intervals(ratio, len(columns), resamples=_RESAMPLES, width=2)
    return rank
