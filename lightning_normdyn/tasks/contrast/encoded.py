"""The record of an encoded split: embeddings of both sides with their judgements."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import precise_norm
from lightning_normdyn.datasets import Judgements
from lightning_normdyn.tasks.contrast.evaluation_split import EvaluationSplit

Exponents = tuple[float, float]
"""Exponents (query, document) that norms are divided by, see ``lightning_normdyn.core.NORMALIZATIONS``."""


class RelevanceNorms(NamedTuple):
    """Norms of documents by whether some query of the split wants them.

    Attributes:
        relevant: of documents that are relevant to at least one query, ``[r]``.
        irrelevant: of all others, ``[m - r]``.
    """

    relevant: Tensor
    irrelevant: Tensor


class Encoded(NamedTuple):
    """The embeddings of a split before any normalisation, with what is known about them.

    Attributes:
        queries: ``[n, d]``.
        documents: ``[m, d]``.
        judgements: pairs of positions in the two.
        excluded_pairs: pairs that no ranking may show, such as facts that are true as well; their grades say nothing.
        split: what was encoded, for measures that look at more than embeddings.
        episodes: how many equal parts, one after the other, queries and documents are made of, where a query's
            candidates are the documents of its own part alone.
    """

    queries: Tensor
    documents: Tensor
    judgements: Judgements
    excluded_pairs: Judgements | None = None
    split: EvaluationSplit | None = None
    episodes: int | None = None

    @classmethod
    def of(cls, queries: Tensor, documents: Tensor, split: EvaluationSplit) -> Encoded:
        """The embeddings of a split."""
        return cls(queries, documents, split.judgements, split.excluded_pairs, split)

    @property
    def popularity(self) -> Tensor | None:
        """How often training has each document, ``[m]``, where that is of interest."""
        return None if self.split is None else self.split.popularity

    def relevance_norms(self) -> RelevanceNorms:
        """Norms of documents, relevant ones apart."""
        norms = precise_norm(self.documents)
        is_relevant = torch.zeros(len(norms), dtype=torch.bool)
        is_relevant[self.judgements.relevant().documents] = True
        return RelevanceNorms(norms[is_relevant], norms[~is_relevant])

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Queries and documents of the relevant pairs, ``[p, d]`` each."""
        relevant = self.judgements.relevant()
        return self.queries[relevant.queries], self.documents[relevant.documents]
