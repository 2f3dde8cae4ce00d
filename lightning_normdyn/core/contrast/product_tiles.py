"""Tiles of the inner products of vectors and of their prefixes: a block of coordinates more makes the next prefix."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.score_tiles import ScoreTiles, Tile


class ProductTiles:
    """Inner products of every prefix, a tile at a time; the first few tiles are kept, as far as they fit.

    Args:
        a: ``[n, d]``.
        b: ``[m, d]``.
        widths: of the prefixes, ascending.
        stored: the first tiles, if they were made before.
        room: numbers to keep.
    """

    def __init__(self, a: Tensor, b: Tensor, widths: tuple[int, ...], stored: list[Tensor], room: int) -> None:
        self.a, self.b, self.stored, self._room = a, b, stored, room
        self.blocks = [slice(left, right) for left, right in zip((0, *widths[:-1]), widths, strict=True)]
        self.memory = ScoreTiles(a, b, None, [])

    def __call__(self, tile: Tile) -> Tensor:
        """``[k, rows, columns]``, not to be written to."""
        if tile.number < len(self.stored):
            return self.stored[tile.number]
        rows, columns = self.a[tile.rows], self.b[tile.columns]
        shape = len(self.blocks), len(rows), len(columns)
        size = shape[0] * shape[1] * shape[2]
        keeps = size <= self._room
        self._room = self._room - size if keeps else 0
        products = rows.new_empty(shape) if keeps else self.memory.stack("products", shape)
        for number, block in enumerate(self.blocks):
            if number:
                torch.addmm(products[number - 1], rows[:, block], columns[:, block].T, out=products[number])
            else:
                torch.mm(rows[:, block], columns[:, block].T, out=products[0])
        if keeps:
            self.stored.append(products)
        return products

    def add(self, gradients: Tensor, tile: Tile, of_a: Tensor | None, of_b: Tensor | None) -> None:
        """Adds what the gradients ``[k, rows, columns]`` of a tile's products give the vectors; overwrites them."""
        for number, block in reversed(list(enumerate(self.blocks))):
            if number + 1 < len(self.blocks):  # a block is part of all longer prefixes too
                gradients[number] += gradients[number + 1]
            if of_a is not None:
                of_a[tile.rows, block].addmm_(gradients[number], self.b[tile.columns, block])
            if of_b is not None:
                of_b[tile.columns, block].addmm_(gradients[number].T, self.a[tile.rows, block])
