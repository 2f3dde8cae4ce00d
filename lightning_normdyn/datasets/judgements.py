"""Which documents answer which queries, and how well."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Judgements(NamedTuple):
    """Judged pairs by position, each pair at most once; pairs that are not listed count as irrelevant.

    Attributes:
        queries: position of the query of each pair, int64 ``[p]``.
        documents: position of its document, int64 ``[p]``.
        grades: how relevant it is, float32 ``[p]``; 0 for judged and found irrelevant.
    """

    queries: Tensor
    documents: Tensor
    grades: Tensor

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int, float]]) -> Judgements:
        """Makes them of ``(query, document, grade)``.

        Example:
            >>> Judgements.of([(0, 2, 1.0)]).documents
            tensor([2])
        """
        listed = list(pairs)
        queries, documents, grades = zip(*listed, strict=True) if listed else ((), (), ())
        return cls(
            torch.tensor(queries, dtype=torch.int64),
            torch.tensor(documents, dtype=torch.int64),
            torch.tensor(grades, dtype=torch.float32),
        )

    def relevant(self) -> Judgements:
        """The pairs with a positive grade."""
        return Judgements(*(column[self.grades > 0] for column in self))
