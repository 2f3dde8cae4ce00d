"""Which pairs of a score matrix are positive, a tile at a time: signs turned, scores added up, shares taken off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_normdyn.core.contrast.tile_edits import Tile
from lightning_normdyn.core.dynamics.geometry import most_precise_dtype


class PositivePairs(NamedTuple):
    """Which pairs are positive.

    Attributes:
        columns: those of each row, ``[n, k]``, each once; -1 is none.
        keys: a key of the rows ``[n]`` and of the columns ``[m]``; pairs that agree in it are positive too.

    Example:
        >>> labels = torch.tensor([0, 1, 0])
        >>> pairs = PositivePairs(labels.new_empty(3, 0), (labels, labels))
        >>> tile = Tile(0, slice(0, 3), slice(0, 3))
        >>> pairs.turn(torch.ones(3, 3), tile)
        tensor([[-1.,  1., -1.],
                [ 1., -1.,  1.],
                [-1.,  1., -1.]])
        >>> pairs.sums(torch.eye(3).where(torch.eye(3) < 1, -torch.inf) + 2, tile)
        (tensor([2., 0., 2.], dtype=torch.float64), tensor([2., 0., 2.], dtype=torch.float64))
    """

    columns: Tensor
    keys: tuple[Tensor, Tensor] | None = None

    def turn(self, values: Tensor, tile: Tile) -> Tensor:
        """Changes the sign of the positive pairs of a tile, in place."""
        for places, inside in self._places(tile):
            place_values = values.gather(1, places)
            values.scatter_(1, places, torch.where(inside, -place_values, place_values))
        mask = self._mask(tile)
        return values if mask is None else values.copy_(torch.where(mask, -values, values))

    def sums(self, scores: Tensor, tile: Tile) -> tuple[Tensor, Tensor]:
        """Sums of the positive scores of a tile that are not left out, of its rows and of its columns."""
        dtype = most_precise_dtype(scores.device)
        rows, columns = scores.new_zeros(len(scores), dtype=dtype), scores.new_zeros(scores.shape[1], dtype=dtype)
        for places, inside in self._places(tile):
            values = scores.gather(1, places)
            values = values.where(inside & (values > -torch.inf), 0).to(dtype)[:, 0]
            rows += values
            columns.index_add_(0, places[:, 0], values)
        mask = self._mask(tile)
        if mask is not None:
            values = scores.where(mask.logical_and_(scores > -torch.inf), 0)
            rows += values.sum(1)
            columns += values.sum(0)
        return rows, columns

    def add_shares(self, gradient: Tensor, scores: Tensor, tile: Tile, of_rows: Tensor, of_columns: Tensor) -> None:
        """Adds the gradients of the sums, ``[rows, 1]`` and ``[columns]``, to that of a tile, in place."""
        for places, inside in self._places(tile):
            counts = inside & (scores.gather(1, places) > -torch.inf)
            shares = of_rows + of_columns[places]
            gradient.scatter_add_(1, places, shares.where(counts, 0))
        mask = self._mask(tile)
        if mask is not None:
            gradient.add_((of_rows + of_columns).where(mask.logical_and_(scores > -torch.inf), 0))

    def _places(self, tile: Tile) -> Iterator[tuple[Tensor, Tensor]]:
        """One of each row's columns after the other, ``[rows, 1]``, and whether the tile has it."""
        width = tile.columns.stop - tile.columns.start
        for places in (self.columns[tile.rows] - tile.columns.start).unbind(1):
            yield places.clamp(0, width - 1)[:, None], ((places >= 0) & (places < width))[:, None]

    def _mask(self, tile: Tile) -> Tensor | None:
        """Where keys agree."""
        if self.keys is None:
            return None
        rows, columns = self.keys
        return rows[tile.rows, None] == columns[tile.columns]


class PairSums(NamedTuple):
    """Sums of the scores of some pairs.

    Attributes:
        rows: of every row, ``[n]``.
        columns: of the columns that are wanted, ``[columns]``.
    """

    rows: Tensor
    columns: Tensor

    @classmethod
    def zeros(cls, targets: PositivePairs | None, rows: Tensor, columns: Tensor) -> PairSums:
        """Before the first tile, of the lengths of rows and columns; empty if there are no such pairs."""
        count = None if targets is not None else 0
        return cls(torch.zeros_like(rows[:count]), torch.zeros_like(columns[:count]))

    def see(self, targets: PositivePairs, scores: Tensor, tile: Tile) -> None:
        """Adds a tile up."""
        of_rows, of_columns = targets.sums(scores, tile)
        self.rows[tile.rows] += of_rows
        columns = self.columns[tile.columns]
        columns += of_columns[: len(columns)]


class PairShares(NamedTuple):
    """The gradients of such sums, which are added to those of the log-sum-exps before the product.

    Near the minimum of a softmax with several positives both are all but opposite: taken off each other afterwards they
    would leave the rounding of the product.
    """

    targets: PositivePairs
    of_rows: Tensor
    of_columns: Tensor

    @classmethod
    def of(
        cls, targets: PositivePairs | None, gradients: Sequence[Tensor], width: int, dtype: torch.dtype
    ) -> PairShares | None:
        """Of the gradients of rows and of the first columns; in the precision of the scores."""
        if targets is None:
            return None
        of_rows, of_columns = gradients
        return cls(targets, of_rows.to(dtype)[:, None], F.pad(of_columns, (0, width - len(of_columns))).to(dtype))

    def add(self, gradient: Tensor, scores: Tensor, tile: Tile) -> None:
        """To that of a tile of scores, in place."""
        self.targets.add_shares(gradient, scores, tile, self.of_rows[tile.rows], self.of_columns[tile.columns])
