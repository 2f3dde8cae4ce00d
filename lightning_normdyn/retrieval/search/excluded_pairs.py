"""Pairs of query and document that a search leaves out, looked up by tile."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, as_tensor


def as_pairs(pairs: tuple[ArrayLike, ArrayLike]) -> tuple[Tensor, Tensor]:
    """Pairs as tensors.

    Args:
        pairs: positions of query and document of each, each ``[p]``.

    Raises:
        ValueError: if these are not two tensors or arrays.
    """
    if not isinstance(pairs, tuple | list) or len(pairs) != 2:
        raise ValueError(
            f"excluded_pairs: expected the queries and the documents of all pairs, got {type(pairs).__name__}; a "
            "tuple of two tensors has them"
        )
    queries, documents = (as_tensor(f"excluded_pairs[{place}]", column) for place, column in enumerate(pairs))
    return queries, documents


class ExcludedPairs:
    """Pairs sorted by document and then by query, so that those of a tile lie together.

    Args:
        pairs: positions of query and document of each, each ``[p]``.
        n: number of queries.
        device: where the scores are.

    Raises:
        ValueError: if the shapes do not fit, or there is no such query.

    Example:
        >>> pairs = ExcludedPairs((torch.tensor([0, 1]), torch.tensor([5, 7])), 2, torch.device("cpu"))
        >>> pairs.holds(torch.tensor([0, 0]), torch.tensor([5, 7]))
        tensor([ True, False])
    """

    def __init__(self, pairs: tuple[ArrayLike, ArrayLike], n: int, device: torch.device) -> None:
        queries, documents = (column.to(device) for column in as_pairs(pairs))
        if queries.ndim != 1 or queries.shape != documents.shape:
            raise ValueError(
                "excluded_pairs: expected query and document of each pair, each [p], got "
                f"{tuple(queries.shape)} and {tuple(documents.shape)}"
            )
        if len(queries) and not 0 <= int(queries.min()) <= int(queries.max()) < n:
            lowest, highest = int(queries.min()), int(queries.max())
            raise ValueError(f"excluded_pairs: expected queries by position, 0 to {n - 1}, got {lowest} to {highest}")
        self._n = max(1, n)
        self._keys = (documents.long() * self._n + queries.long()).unique()
        self.max_per_query = int(torch.bincount(queries.long()).max()) if len(queries) else 0
        """At least the largest number of pairs of one query."""

    def strike(self, scores: Tensor, queries: int, documents: int) -> None:
        """Sets their scores to minus infinity in a tile ``[n, width]`` that begins at a query and at a document."""
        edges = self._keys.new_tensor([documents, documents + scores.shape[1]]) * self._n
        first, last = torch.searchsorted(self._keys, edges).tolist()
        keys = self._keys[first:last]
        rows, columns = keys % self._n - queries, keys // self._n - documents
        in_block = (rows >= 0) & (rows < len(scores))
        scores[rows[in_block], columns[in_block]] = -torch.inf

    def holds(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Whether each of these pairs, ``[s]``, is one of them."""
        return torch.isin(documents * self._n + queries, self._keys)
