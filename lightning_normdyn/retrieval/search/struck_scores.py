"""What a search strikes from a tile of scores: documents above a query's highest allowed score, and some altogether."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Strike(Protocol):
    """Sets scores of a tile to minus infinity, so that no search finds these pairs."""

    def strike(self, scores: Tensor, queries: int, documents: int) -> None:
        """Changes a tile ``[n, width]`` that begins at a query and at a document."""
        ...


class ScoreCeilings:
    """The highest score that a document may have with each query; what is above is struck, and counted.

    Args:
        ceilings: one a query, ``[n]``; plus infinity where there is no limit.

    Attributes:
        counts: of the documents above, int64 ``[n]``.

    Example:
        >>> ceilings = ScoreCeilings(torch.tensor([0.5]))
        >>> scores = torch.tensor([[0.7, 0.5, 0.1]])
        >>> ceilings.strike(scores, 0, 0)
        >>> scores, ceilings.counts
        (tensor([[  -inf, 0.5000, 0.1000]]), tensor([1]))
    """

    def __init__(self, ceilings: Tensor) -> None:
        self._ceilings = ceilings
        self.counts = torch.zeros(len(ceilings), dtype=torch.int64, device=ceilings.device)

    def strike(self, scores: Tensor, queries: int, documents: int) -> None:
        """Strikes what is above; a score of exactly the ceiling stays, and NaN, which the search then refuses."""
        rows = slice(queries, queries + len(scores))
        is_above = scores > self._ceilings[rows].unsqueeze(1)
        self.counts[rows] += is_above.sum(1)
        scores.masked_fill_(is_above, -torch.inf)


class LeftOutDocuments:
    """Documents that no query may find.

    Args:
        places: their positions, ``[r]``.

    Example:
        >>> scores = torch.tensor([[0.7, 0.5, 0.1]])
        >>> LeftOutDocuments(torch.tensor([11])).strike(scores, 0, 10)
        >>> scores
        tensor([[0.7000,   -inf, 0.1000]])
    """

    def __init__(self, places: Tensor) -> None:
        self._places = places.unique()

    def strike(self, scores: Tensor, queries: int, documents: int) -> None:
        """Strikes their columns."""
        edges = self._places.new_tensor([documents, documents + scores.shape[1]])
        first, last = torch.searchsorted(self._places, edges).tolist()
        scores[:, self._places[first:last] - documents] = -torch.inf
