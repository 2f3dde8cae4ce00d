"""The scores that norm-aware ones are held against, under the names of a table."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from lightning_normdyn.core.similarity import NORMALIZATIONS, similarity_scores
from lightning_normdyn.retrieval.query_bank import CrossDomainLocalScaling, QueryBankNormalization

Score = Callable[[Tensor], Tensor]
"""Of a block of queries ``[n, d]`` with the documents it was made for, ``[n, m]``; larger is nearer."""


def baseline_scores(documents: Tensor, bank: Tensor | None = None) -> dict[str, Score]:
    """Makes every baseline for one set of documents.

    Args:
        documents: ``[m, d]``.
        bank: queries that are not evaluated, such as those of training, ``[b, d]``; without them only ``cosine`` and
            ``dot`` can be had.

    Returns:
        ``cosine``, ``dot``, ``qb-norm`` (:class:`QueryBankNormalization`) and ``csls``
        (:class:`CrossDomainLocalScaling`), each a function of a block of queries.

    Raises:
        ValueError: if the bank is empty or does not fit.

    Example:
        >>> import torch
        >>> scores = baseline_scores(torch.tensor([[3.0, 4.0]]), bank=torch.tensor([[1.0, 0.0]]))
        >>> {name: round(float(score(torch.tensor([[2.0, 0.0]]))), 2) for name, score in scores.items()}
        {'cosine': 0.6, 'dot': 6.0, 'qb-norm': 0.0, 'csls': 0.0}
    """
    scores: dict[str, Score] = {name: partial(_scores, documents, name) for name in ("cosine", "dot")}
    if bank is not None:
        scores["qb-norm"] = QueryBankNormalization(documents, bank)
        scores["csls"] = CrossDomainLocalScaling(documents, bank)
    return scores


def _scores(documents: Tensor, normalization: str, queries: Tensor) -> Tensor:
    return similarity_scores(queries, documents, *NORMALIZATIONS[normalization])
