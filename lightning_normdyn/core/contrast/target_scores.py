"""Target scores of pairs, a tile at a time: what a softmax over scores is to come near to, never as a new matrix."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.tile_edits import Tile


class TargetScores(Protocol):
    """Scores whose softmax is the target distribution; constants, which get no gradient."""

    @property
    def leaves_out(self) -> bool:
        """Whether minus infinity takes a pair out of the scores that are compared too; else its share is to be 0."""

    def __call__(self, tile: Tile) -> Tensor:
        """Of a tile's pairs, ``[rows, columns]``."""


class MatrixTargets(NamedTuple):
    """Targets that came as a matrix.

    Attributes:
        matrix: ``[n, m]``, of any floating-point type.
        factor: that they are multiplied by.
        dtype: of the tiles.
        leaves_out: see :class:`TargetScores`.

    Example:
        >>> targets = MatrixTargets(torch.eye(2), 2.0, torch.float32, True)
        >>> targets(Tile(0, slice(0, 1), slice(0, 2)))
        tensor([[2., 0.]])
    """

    matrix: Tensor
    factor: float
    dtype: torch.dtype
    leaves_out: bool

    def __call__(self, tile: Tile) -> Tensor:
        """See :class:`TargetScores`."""
        return self.matrix[tile.rows, tile.columns].to(self.dtype) * self.factor


class EmbeddingTargets(NamedTuple):
    """Targets that are inner products of a second model's embeddings.

    Attributes:
        rows: ``[n, g]``.
        columns: ``[m, g]``.

    Example:
        >>> EmbeddingTargets(torch.eye(2), torch.ones(3, 2))(Tile(0, slice(0, 1), slice(1, 3)))
        tensor([[1., 1.]])
    """

    rows: Tensor
    columns: Tensor

    @property
    def leaves_out(self) -> bool:
        """Every pair takes part."""
        return False

    def __call__(self, tile: Tile) -> Tensor:
        """See :class:`TargetScores`."""
        return self.rows[tile.rows] @ self.columns[tile.columns].T


class ListedTargets(NamedTuple):
    """Targets of a few columns of each row; all others are minus infinity, and stay among the scores.

    Attributes:
        places: columns of each row, ``[n, k]``, each once; -1 is none.
        scores: of those, ``[n, k]``.

    Example:
        >>> ListedTargets(torch.tensor([[2, -1]]), torch.zeros(1, 2))(Tile(0, slice(0, 1), slice(0, 3)))
        tensor([[-inf, -inf, 0.]])
    """

    places: Tensor
    scores: Tensor

    @property
    def leaves_out(self) -> bool:
        """Every pair takes part."""
        return False

    def __call__(self, tile: Tile) -> Tensor:
        """See :class:`TargetScores`."""
        places, scores = self.places[tile.rows], self.scores[tile.rows]
        width = tile.columns.stop - tile.columns.start
        inside = (places >= tile.columns.start) & (places < tile.columns.stop)
        # One more column takes what is elsewhere.
        targets = scores.new_full((len(places), width + 1), -torch.inf)
        targets.scatter_(1, (places - tile.columns.start).where(inside, width), scores)
        return targets[:, :width]


class LeftOut(NamedTuple):
    """Takes pairs out of the scores whose target is minus infinity.

    Attributes:
        targets: of all pairs.
    """

    targets: TargetScores

    def __call__(self, scores: Tensor, tile: Tile) -> None:
        """See :class:`lightning_normdyn.core.contrast.tile_edits.TileCall`."""
        scores.masked_fill_(self.targets(tile) == -torch.inf, -torch.inf)
