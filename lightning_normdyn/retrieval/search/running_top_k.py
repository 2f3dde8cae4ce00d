"""Running top-k: the best documents so far of many rankings, updated candidate by candidate."""

from __future__ import annotations

import torch
from torch import Tensor

NO_DOCUMENT = -1
"""Stands in a ranking for a rank that no document took."""


class RunningTopK:
    """Keeps the ``k`` best of each row; of equal scores the smaller index is better.

    Args:
        rows: how many rankings.
        k: length of each.
        like: a tensor of the scores' device and dtype.
        ascending: promises that a later offer holds no smaller index than an earlier one of the same row, within an
            offer too; then a tie is told by order, without looking at indices.
    """

    def __init__(self, rows: int, k: int, like: Tensor, *, ascending: bool = True) -> None:
        self.scores = like.new_full((rows, k), -torch.inf)
        self.indices = torch.full((rows, k), NO_DOCUMENT, device=like.device)
        # Finite, so that a score of minus infinity never passes for a document.
        self._lowest = torch.finfo(like.dtype).min
        self.thresholds = like.new_full((rows,), self._lowest)
        self._ascending = ascending
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._waiting, self._capacity = 0, max(1, rows * k // 8)

    def offer(self, rows: Tensor, indices: Tensor, scores: Tensor) -> bool:
        """Takes candidates ``[s]``, each with its row; whether :attr:`thresholds` may have risen.

        They wait until there are enough to be worth sorting, so thresholds lag behind: too low, never too high.
        """
        if len(rows):
            self._pending.append((rows, indices, scores))
            self._waiting += len(rows)
        if self._waiting < self._capacity:
            return False
        self.settle()
        return True

    def settle(self) -> None:
        """Sorts what waits into the rankings."""
        if not self._pending:
            return
        rows, scores, indices = self._extended_rankings(*self._drain())
        scores, by_score = scores.sort(dim=1, descending=True, stable=True)
        indices = indices.gather(1, by_score)
        if not self._ascending:
            _sort_ties(scores, indices)
        k = self.scores.shape[1]
        self.scores[rows] = scores[:, :k]
        self.indices[rows] = indices[:, :k].where(scores[:, :k] > -torch.inf, NO_DOCUMENT)
        self.thresholds = self.scores[:, -1].clamp(min=self._lowest)

    def _drain(self) -> tuple[Tensor, Tensor, Tensor]:
        """The waiting candidates ``[s]``, row by row: rows, indices and scores; none wait afterwards."""
        rows, indices, scores = (torch.cat(column) for column in zip(*self._pending, strict=True))
        self._pending, self._waiting = [], 0
        by_row = rows.argsort(stable=True)
        return rows[by_row], indices[by_row], scores[by_row]

    def _extended_rankings(self, rows: Tensor, indices: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The rows that candidates are for, ``[u]``, and scores and indices of their rankings with these at the end.

        Args:
            rows: of the candidates, in order, ``[s]``.
            indices: of the candidates.
            scores: of the candidates.
        """
        updated_rows, row_places, counts = rows.unique_consecutive(return_inverse=True, return_counts=True)
        k, width = self.scores.shape[1], int(counts.max())
        columns = k + torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[row_places]
        extended_scores = torch.nn.functional.pad(self.scores[updated_rows], (0, width), value=-torch.inf)
        extended_indices = torch.nn.functional.pad(self.indices[updated_rows], (0, width), value=NO_DOCUMENT)
        extended_scores[row_places, columns], extended_indices[row_places, columns] = scores, indices
        return updated_rows, extended_scores, extended_indices


def _sort_ties(scores: Tensor, indices: Tensor) -> None:
    """Sorts documents of equal scores by index, in place, in rows ``[u, s]`` whose scores descend.

    Few rows have any: to sort all of them by index first would take as long as to sort them by score.
    """
    is_tied = (scores[:, 1:] == scores[:, :-1]) & (scores[:, 1:] > -torch.inf)
    rows = is_tied.any(1).nonzero().squeeze(1)
    if not len(rows):
        return
    row_indices, by_index = indices[rows].sort(dim=1)
    row_scores, by_score = scores[rows].gather(1, by_index).sort(dim=1, descending=True, stable=True)
    scores[rows], indices[rows] = row_scores, row_indices.gather(1, by_score)
