"""The documents that answer each query, as pairs of positions, however they come."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, as_tensor, is_array
from lightning_normdyn.datasets.judgements import Judgements

Positives: TypeAlias = "Judgements | ArrayLike | Sequence[int | Sequence[int]]"
"""Judgements; positions ``[n]`` or ``[n, p]`` with -1 for none; or a list with one position or several a query."""
Ids: TypeAlias = "ArrayLike | Sequence[Hashable]"


class PositivePairs(NamedTuple):
    """Queries and documents that answer them, each pair once, by query and then by document.

    Attributes:
        queries: positions, int64 ``[p]``.
        documents: positions, int64 ``[p]``.
    """

    queries: Tensor
    documents: Tensor

    @classmethod
    def of(cls, positives: Positives, n: int, m: int) -> PositivePairs:
        """Takes them in any form.

        Args:
            positives: see :data:`Positives`; of judgements the pairs with a grade above 0.
            n: number of queries.
            m: number of documents.

        Raises:
            ValueError: if they are none, or name a query or a document that there is not.

        Example:
            >>> PositivePairs.of([2, [0, 1]], 2, 3)
            PositivePairs(queries=tensor([0, 1, 1]), documents=tensor([2, 0, 1]))
            >>> PositivePairs.of(torch.tensor([[2, -1], [0, 1]]), 2, 3).documents
            tensor([2, 0, 1])
        """
        if isinstance(positives, Judgements):
            positives = Judgements.require(positives, "positives")
            positives.check(n, m, "positives")
            queries, documents = positives.relevant()[:2]
        else:
            queries, documents = _listed_pairs(positives, n)
        if len(documents) and not 0 <= int(documents.min()) <= int(documents.max()) < m:
            raise ValueError(
                f"positives: expected documents by position, 0 to {m - 1}, got {int(documents.min())} to "
                f"{int(documents.max())}; number them as the rows of documents"
            )
        keys = (queries.long() * m + documents.long()).unique()
        return cls(keys // max(1, m), keys % max(1, m))

    def lowest(self, scores: Tensor, n: int) -> Tensor:
        """Of each query the lowest score of its positives, ``[n]``; plus infinity for a query without any.

        Args:
            scores: of the pairs, ``[p]``.
            n: number of queries.
        """
        start = scores.new_full((n,), torch.inf)
        return start.scatter_reduce(0, self.queries.to(scores.device), scores, "amin")


def first_of_equals(document_ids: Ids | None, m: int) -> Tensor:
    """Of each document the first that has its id, int64 ``[m]``; itself without ids.

    Args:
        document_ids: of each document, a tensor ``[m]`` or anything hashable, such as the texts themselves.
        m: number of documents.

    Raises:
        ValueError: if there is not one for each document.

    Example:
        >>> first_of_equals(["a", "b", "a"], 3)
        tensor([0, 1, 0])
    """
    if document_ids is None:
        return torch.arange(m)
    if is_array(document_ids) and not hasattr(document_ids, "tolist"):
        document_ids = as_tensor("document_ids", document_ids)
    ids = cast("Iterable[Hashable]", document_ids.tolist() if hasattr(document_ids, "tolist") else document_ids)
    places: dict[Hashable, int] = {}
    try:
        firsts = [places.setdefault(id, place) for place, id in enumerate(ids)]
    except TypeError:
        raise ValueError(
            f"document_ids: expected an id that can be compared for each of the {m} documents, got "
            f"{type(document_ids).__name__} {document_ids!r:.60}; pass a tensor [m], numbers or texts"
        ) from None
    if len(firsts) != m or isinstance(document_ids, str):
        raise ValueError(
            f"document_ids: expected one for each of the {m} documents, got {len(firsts)}; equal ids mean "
            "equal documents"
        )
    return torch.tensor(firsts, dtype=torch.int64)


def _listed_pairs(positives: ArrayLike | Sequence[int | Sequence[int]], n: int) -> tuple[Tensor, Tensor]:
    table: Any = positives
    if is_array(table):
        tensor = as_tensor("positives", table)
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool or tensor.ndim not in (1, 2):
            raise ValueError(
                f"positives: expected positions [n] or [n, p], whole numbers, got {tensor.dtype} {list(tensor.shape)}; "
                "-1 stands for none"
            )
        table = tensor.reshape(len(tensor), -1).tolist()
    try:
        if isinstance(table, str | bytes | Mapping | Set):  # the last two have no order that is the queries'
            raise TypeError
        rows = [[row] if isinstance(row, Integral) else list(row) for row in table]
        documents = torch.tensor([place for row in rows for place in row], dtype=torch.int64)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"positives: expected Judgements, a tensor of positions [n] or [n, p], or a list of positions for each "
            f"query, got {positives!r:.60}; Judgements.of makes them of (query, document, grade)"
        ) from None
    if len(rows) != n:
        raise ValueError(f"positives: expected one entry for each of the {n} queries, got {len(rows)}")
    queries = torch.arange(n).repeat_interleave(torch.tensor([len(row) for row in rows], dtype=torch.int64))
    is_pair = documents != -1
    return queries[is_pair], documents[is_pair]
