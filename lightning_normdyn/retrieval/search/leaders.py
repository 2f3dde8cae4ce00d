"""Running top-k: the best documents so far of many rankings, updated candidate by candidate."""

from __future__ import annotations

import torch
from torch import Tensor

NO_DOCUMENT = -1
"""Stands in a ranking for a rank that no document took."""


class Leaders:
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
        rows, indices, scores = (torch.cat(part) for part in zip(*self._pending, strict=True))
        self._pending, self._waiting = [], 0
        order = rows.argsort(stable=True)
        updated_rows, row_places, counts = rows[order].unique_consecutive(return_inverse=True, return_counts=True)
        column = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[row_places]
        k, width = self.scores.shape[1], int(counts.max())
        candidates = torch.nn.functional.pad(self.scores[updated_rows], (0, width), value=-torch.inf)
        numbers = torch.nn.functional.pad(self.indices[updated_rows], (0, width), value=NO_DOCUMENT)
        candidates[row_places, k + column], numbers[row_places, k + column] = scores[order], indices[order]
        if not self._ascending:
            numbers, by_index = numbers.sort(dim=1)
            candidates = candidates.gather(1, by_index)
        candidates, best = candidates.sort(dim=1, descending=True, stable=True)
        self.scores[updated_rows] = candidates[:, :k]
        self.indices[updated_rows] = numbers.gather(1, best[:, :k]).where(candidates[:, :k] > -torch.inf, NO_DOCUMENT)
        self.thresholds = self.scores[:, -1].clamp(min=self._lowest)
