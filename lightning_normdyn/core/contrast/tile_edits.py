"""What may happen to a tile of scores between the matrix product and the sum: pairs fall out, negatives weigh more.

A new kind is an object of its own that is called with a tile; the sweeps know nothing of any. All of them are constants
to the gradient, ``dL/dS`` being that of the scores as they were edited.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import Exclusion


class Tile(NamedTuple):
    """A block of the score matrix."""

    number: int
    rows: slice
    columns: slice


class TileCall(Protocol):
    """An edit, which changes the scores ``[rows, columns]`` of a tile in place, or a reading, which leaves them."""

    def __call__(self, scores: Tensor, tile: Tile) -> None:
        """Called once a tile; minus infinity is a pair that takes no part."""


class TileEdits(NamedTuple):
    """What a sweep does with its tiles, in this order.

    Attributes:
        masks: let pairs fall out.
        reading: looks at what is left, on the way forward alone.
        weights: change scores of what is left.
    """

    masks: tuple[TileCall, ...] = ()
    reading: TileCall | None = None
    weights: tuple[TileCall, ...] = ()


class Ceiling(NamedTuple):
    """Negatives that score more than a bound are no negatives.

    Attributes:
        bounds: of the rows, ``[n]``, or of the columns, ``[m]``.
        by_column: whether they are of the columns.
        positives: pairs that stay in whatever they score, as an exclusion of them; ``None`` if there are none.

    Example:
        >>> scores = torch.tensor([[1.0, 3.0], [1.0, 3.0]])
        >>> Ceiling(torch.tensor([2.0, 4.0]))(scores, Tile(0, slice(0, 2), slice(0, 2)))
        >>> scores
        tensor([[1., -inf],
                [1., 3.]])
    """

    bounds: Tensor
    by_column: bool = False
    positives: Exclusion | None = None

    def __call__(self, scores: Tensor, tile: Tile) -> None:
        """See :class:`TileCall`."""
        scores.masked_fill_(self.exceeds(scores, tile), -torch.inf)

    def exceeds(self, values: Tensor, tile: Tile) -> Tensor:
        """Which values of a tile's pairs, ``[rows, columns]``, are above their bound."""
        bounds = self.bounds[tile.columns] if self.by_column else self.bounds[tile.rows, None]
        mask = values > bounds
        if self.positives is not None:
            mask.logical_and_(self.positives.mask(tile.rows, tile.columns).logical_not_())
        return mask


class GuideCeiling(NamedTuple):
    """The same of what a second model, the guide, scores (arXiv 2402.16829, section 3).

    Attributes:
        rows: the guide's embeddings of the rows, ``[n, g]``.
        columns: and of the columns, ``[m, g]``.
        ceiling: bounds of their inner products.
    """

    rows: Tensor
    columns: Tensor
    ceiling: Ceiling

    def __call__(self, scores: Tensor, tile: Tile) -> None:
        """See :class:`TileCall`."""
        guided = self.rows[tile.rows] @ self.columns[tile.columns].T
        scores.masked_fill_(self.ceiling.exceeds(guided, tile), -torch.inf)


class HardnessWeight(NamedTuple):
    """Negatives weigh ``exp(strength · score)``, which adds that to their scores and nothing to the gradient of it.

    Attributes:
        strengths: of each row, ``[n]``, in the unit of the scores.
        first: the first of the row's own columns, ``[n]``.
        length: how many of them there are.
        in_own: whether those columns are weighed.
        in_others: whether all others are.
        positives: pairs that are not weighed wherever they are, as an exclusion of them; ``None`` if there are none.
    """

    strengths: Tensor
    first: Tensor
    length: int
    in_own: bool
    in_others: bool
    positives: Exclusion | None = None

    def __call__(self, scores: Tensor, tile: Tile) -> None:
        """See :class:`TileCall`."""
        factors = (self.strengths[tile.rows, None] + 1).to(scores.dtype)
        if not (self.in_own and self.in_others):
            columns = torch.arange(tile.columns.start, tile.columns.stop, device=scores.device)
            first = self.first[tile.rows, None]
            is_own = (columns >= first) & (columns < first + self.length)
            factors = torch.where(is_own if self.in_own else ~is_own, factors, 1.0)
        if self.positives is not None:
            factors = torch.where(self.positives.mask(tile.rows, tile.columns), 1.0, factors)
        scores.mul_(factors)
