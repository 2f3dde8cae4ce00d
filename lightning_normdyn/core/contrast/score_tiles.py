"""Tiles of the score matrix ``a·bᵀ``, made one at a time in memory that is used again and again."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import Exclusion
from lightning_normdyn.core.contrast.tile_edits import Tile as Tile, TileEdits

_TILE_ROWS = 512
_TILE_SCORES = 2**19  # unless chunk_size says otherwise


def tiles(n: int, m: int, chunk_size: int | None, device: torch.device) -> Iterator[Tile]:
    """Cuts ``[n, m]`` scores into blocks; on an accelerator all rows at once."""
    height = min(n, _TILE_ROWS) if device.type == "cpu" else n
    width = chunk_size or max(1, (_TILE_SCORES if device.type == "cpu" else 32 * _TILE_SCORES) // max(height, 1))
    number = 0
    for left in range(0, m, width):
        for top in range(0, n, height):
            yield Tile(number, slice(top, min(top + height, n)), slice(left, min(left + width, m)))
            number += 1


class ScoreTiles:
    """Makes tiles of scores in memory that is used again and again; keeps the first few, as far as they fit.

    Args:
        a: ``[n, d]``.
        b: ``[m, d]``.
        exclusion: pairs whose scores are minus infinity.
        stored_tiles: the first tiles, if they were made before.
        room: scores to keep.
        positives: a column of each row, ``[n]``, whose score is put into ``of_positives`` and is minus infinity in its
            tile, so that the sum over the others is not blurred by what is often far larger than all of them.
        edits: what else happens to a tile.
        reads: whether their reading is called, as it is on the way forward.
    """

    def __init__(
        self,
        a: Tensor,
        b: Tensor,
        exclusion: Exclusion | None,
        stored_tiles: list[Tensor],
        room: int = 0,
        positives: Tensor | None = None,
        edits: TileEdits | None = None,
        *,
        reads: bool = False,
    ) -> None:
        self.a, self.b, self.exclusion, self.stored_tiles = a, b, exclusion, stored_tiles
        self.positives, self.of_positives = positives, a.new_zeros(0 if positives is None else len(a))
        self._edits, self._reads = edits, reads
        self._room = room
        self._memory: dict[str, Tensor] = {}

    def __call__(self, tile: Tile) -> Tensor:
        """The scores of a tile, minus infinity where left out. Not to be written to where some are kept."""
        if tile.number < len(self.stored_tiles):
            return self.stored_tiles[tile.number]
        rows, columns = self.a[tile.rows], self.b[tile.columns]
        keeps = len(rows) * len(columns) <= self._room
        # Once a tile does not fit none is kept any more: their places in the list are their numbers.
        self._room = self._room - len(rows) * len(columns) if keeps else 0
        room = rows.new_empty(len(rows), len(columns)) if keeps else self._memory_for("scores", rows, columns)
        scores = torch.mm(rows, columns.T, out=room)
        if self.positives is not None:
            places = self.positives[tile.rows] - tile.columns.start
            move_positives(scores, places, self.of_positives[tile.rows])
        if self.exclusion is not None:
            scores.masked_fill_(self.exclusion.mask(tile.rows, tile.columns), -torch.inf)
        if self._edits is not None:
            edit_tile(self._edits, scores, tile, reads=self._reads)
        if keeps:
            self.stored_tiles.append(scores)
        return scores

    def buffer(self, name: str, like: Tensor) -> Tensor:
        """Memory of the shape of a tile, under a name."""
        return self._memory_for(name, like, like.T)

    def stack(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Memory for a tile of several kinds of scores, ``[k, rows, columns]``, under a name."""
        size = math.prod(shape)
        memory = self._memory.get(name)
        if memory is None or len(memory) < size:
            self._memory[name] = memory = self.a.new_empty(size)
        return memory[:size].view(shape)

    def _memory_for(self, name: str, rows: Tensor, columns: Tensor) -> Tensor:
        return self.stack(name, (len(rows), len(columns)))


def edit_tile(edits: TileEdits, scores: Tensor, tile: Tile, *, reads: bool) -> None:
    """Applies edits to a tile in place, and lets their reading look if it reads."""
    for mask in edits.masks:
        mask(scores, tile)
    if reads and edits.reading is not None:
        edits.reading(scores, tile)
    for weight in edits.weights:
        weight(scores, tile)


def move_positives(scores: Tensor, places: Tensor, place_scores: Tensor) -> None:
    """Moves ``scores[i, places[i]]`` to ``place_scores[i]`` wherever that is inside; minus infinity stays behind."""
    inside = (places >= 0) & (places < scores.shape[1])
    places = places.clamp(0, scores.shape[1] - 1)[:, None]
    values = scores.gather(1, places)[:, 0]
    place_scores.copy_(values.where(inside, place_scores))
    scores.scatter_(1, places, values.masked_fill(inside, -torch.inf)[:, None])
