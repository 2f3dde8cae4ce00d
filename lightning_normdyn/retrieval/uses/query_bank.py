"""Baseline scores against hubness: query-bank normalization (QB-Norm) and CSLS."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike
from lightning_normdyn.core.contrast.similarity import NORMALIZATIONS, similarity_scores
from lightning_normdyn.core.embedding_codes import as_embeddings
from lightning_normdyn.core.number_checks import check_count, check_positive
from lightning_normdyn.core.tensor_checks import check_real_tensors

# Scores that are held at once, 64 MiB in float32.
_MOST_AT_ONCE = 2**24


def _cosines(queries: Tensor, documents: Tensor) -> Tensor:
    return similarity_scores(queries, documents, *NORMALIZATIONS["cosine"])


class QueryBankNormalization:
    """Dynamic inverted softmax: documents that a bank of other queries finds too often are scored down.

    ``exp(b·cos(q, d)) / sum over bank queries p of exp(b·cos(p, d))`` for queries whose nearest document is also the
    nearest of some query of the bank, ``cos(q, d)`` for all others (Bogolin, Croitoru, Jin, Liu, Albanie, CVPR 2022,
    eq. 4 to 6, activation by the first neighbour). Returned as its logarithm over b, which ranks alike and overflows
    at no b. Scores of different queries do not compare.

    Args:
        documents: ``[m, d]``.
        bank: queries that are not evaluated, such as those of training, ``[b, d]``.
        beta: inverse temperature; 20 is the authors'.

    Raises:
        ValueError: if the bank is empty or does not fit.

    Example:
        >>> documents = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> score = QueryBankNormalization(documents, bank=torch.tensor([[0.9, 0.5], [0.7, 0.7]]))
        >>> queries = torch.tensor([[0.94, 0.34]])
        >>> int(_cosines(queries, documents).argmax()), int(score(queries).argmax())
        (1, 0)
    """

    def __init__(self, documents: ArrayLike, bank: ArrayLike, *, beta: float = 20.0) -> None:
        documents, bank = as_embeddings(documents=documents, bank=bank)
        _check(documents, bank)
        check_positive(beta=beta, hint="an inverse temperature, of which the authors take 20")
        self._documents, self._beta = documents, beta
        self._log_sums = torch.full((len(documents),), -torch.inf, device=documents.device)
        self._is_activated = torch.zeros(len(documents), dtype=torch.bool, device=documents.device)
        for bank_block in bank.split(_rows(len(documents))):
            cosines = _cosines(bank_block, documents)
            self._log_sums = torch.logaddexp(self._log_sums.to(cosines), (beta * cosines).logsumexp(0))
            self._is_activated[cosines.argmax(1)] = True

    def __call__(self, queries: ArrayLike) -> Tensor:
        """Scores of a block of queries ``[n, d]``, each on its own, ``[n, m]``."""
        cosines = _cosines(as_embeddings(queries=queries)[0], self._documents)
        is_activated = self._is_activated[cosines.argmax(1)].unsqueeze(1)
        return torch.where(is_activated, cosines - self._log_sums / self._beta, cosines)


class CrossDomainLocalScaling:
    """CSLS: a cosine counts for as much as it exceeds those of both sides' neighbourhoods.

    ``2·cos(q, d) - r(q) - r(d)``, r(q) being the mean cosine of the query with its k nearest documents and r(d) that
    of the document with its k nearest queries of the bank (Conneau, Lample, Ranzato, Denoyer, Jégou, ICLR 2018, eq. 2
    and 3; there the bank is the other language's whole vocabulary).

    Args:
        documents: ``[m, d]``.
        bank: queries that are not evaluated, such as those of training, ``[b, d]``.
        neighbours: k, of both sides; all there are if that is fewer. 10 is the authors'.

    Raises:
        ValueError: if the bank is empty or does not fit.

    Example:
        >>> score = CrossDomainLocalScaling(torch.eye(2), bank=torch.tensor([[1.0, 0.0]]), neighbours=1)
        >>> score(torch.tensor([[0.0, 2.0]]))
        tensor([[-2.,  1.]])
    """

    def __init__(self, documents: ArrayLike, bank: ArrayLike, *, neighbours: int = 10) -> None:
        documents, bank = as_embeddings(documents=documents, bank=bank)
        _check(documents, bank)
        check_count(neighbours=neighbours, hint="the authors take 10")
        self._documents, self._neighbours = documents, neighbours
        self._crowding = torch.cat(
            [_nearest(_cosines(block, bank), neighbours) for block in documents.split(_rows(len(bank)))]
        )

    def __call__(self, queries: ArrayLike) -> Tensor:
        """Scores of a block of queries ``[n, d]``, each on its own, ``[n, m]``."""
        cosines = _cosines(as_embeddings(queries=queries)[0], self._documents)
        return 2 * cosines - _nearest(cosines, self._neighbours).unsqueeze(1) - self._crowding


def _nearest(cosines: Tensor, neighbours: int) -> Tensor:
    """Mean of the largest few of every row."""
    return cosines.topk(min(neighbours, cosines.shape[1]), dim=1).values.mean(1)


def _rows(width: int) -> int:
    return max(1, _MOST_AT_ONCE // width)


def _check(documents: Tensor, bank: Tensor) -> None:
    check_real_tensors(documents=documents, bank=bank)
    if documents.ndim != 2 or not len(documents):
        raise ValueError(f"documents: expected [m, d] with one row at least, got {tuple(documents.shape)}")
    if bank.ndim != 2 or not len(bank) or bank.shape[1] != documents.shape[1]:
        raise ValueError(
            f"bank: expected queries [b, {documents.shape[1]}], one at least, got {tuple(bank.shape)}; take the queries"
            " of the training split"
        )


Score = Callable[[ArrayLike], Tensor]
"""Of a block of queries ``[n, d]`` with the documents it was made for, ``[n, m]``; larger is nearer."""


def baseline_scores(documents: ArrayLike, bank: ArrayLike | None = None) -> dict[str, Score]:
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
    (documents,) = as_embeddings(documents=documents)
    scores: dict[str, Score] = {name: partial(_scores, documents, name) for name in ("cosine", "dot")}
    if bank is not None:
        scores["qb-norm"] = QueryBankNormalization(documents, bank)
        scores["csls"] = CrossDomainLocalScaling(documents, bank)
    return scores


def _scores(documents: Tensor, normalization: str, queries: ArrayLike) -> Tensor:
    return similarity_scores(as_embeddings(queries=queries)[0], documents, *NORMALIZATIONS[normalization])
