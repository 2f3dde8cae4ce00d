"""What can be read off the tiles of a sweep while they pass: how many pairs there are, and how many lead a positive."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.tile_edits import Tile


class ScoreReading:
    """Counts the negatives of every row and column, and those that score more than the positive.

    Args:
        of_rows: score of the positive of each row, ``[n]``.
        of_columns: and of each of the first columns, ``[columns]``.
        directions: factors of rows ``[n]`` and of columns ``[m]`` that make a score the cosine of its pair, for the
            mean of ``exp(-2 |x - y|^2)`` over pairs of unit vectors; ``None`` to leave it out.

    Attributes:
        numbers: of negatives of rows ``[n]`` and of columns ``[columns]``.
        leads: of those among them that score more than the positive, likewise.
        nearness: the sum of ``exp(-2 |x - y|^2)`` over all negatives, no dimension.

    Example:
        >>> reading = ScoreReading(torch.tensor([0.5]), torch.empty(0))
        >>> reading(torch.tensor([[0.2, 0.7, -torch.inf]]), Tile(0, slice(0, 1), slice(0, 3)))
        >>> reading.numbers[0], reading.leads[0]
        (tensor([2]), tensor([1]))
    """

    def __init__(self, of_rows: Tensor, of_columns: Tensor, directions: tuple[Tensor, Tensor] | None = None) -> None:
        self._of_rows, self._of_columns, self._directions = of_rows, of_columns, directions
        self.numbers, self.leads = (
            tuple(torch.zeros(len(side), dtype=torch.int64, device=of_rows.device) for side in (of_rows, of_columns))
            for _ in range(2)
        )
        self.nearness = torch.zeros((), dtype=of_rows.dtype, device=of_rows.device)

    def __call__(self, scores: Tensor, tile: Tile) -> None:
        """See :class:`lightning_normdyn.core.contrast.tile_edits.TileCall`."""
        is_negative = scores > -torch.inf
        self.numbers[0][tile.rows] += is_negative.sum(1)
        self.leads[0][tile.rows] += (scores > self._of_rows[tile.rows, None]).sum(1)
        of_columns = self._of_columns[tile.columns]
        if len(of_columns):
            self.numbers[1][tile.columns] += is_negative[:, : len(of_columns)].sum(0)
            self.leads[1][tile.columns] += (scores[:, : len(of_columns)] > of_columns).sum(0)
        if self._directions is not None:
            rows, columns = self._directions
            cosines = scores * rows[tile.rows, None] * columns[tile.columns]
            self.nearness += cosines.sub_(1).mul_(4).exp_().sum()
