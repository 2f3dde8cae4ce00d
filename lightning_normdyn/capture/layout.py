"""How a table lies on ranks: which of its rows and columns this one holds, and how sums over all of them are made."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import most_precise


class TableLayout:
    """The block of a table ``[rows, d]`` that this rank holds, and the ranks that hold the others.

    Whatever dimensions of a device mesh shard the table, and along whichever of its own: each rank sums over its own
    columns of its own rows, and one all-reduce over each mesh dimension that shards makes the sums of all rows. A
    dimension that holds copies, as HSDP's or one of data parallelism, takes no part.

    Args:
        table: a DTensor ``[rows, d]``.
        stride: every ``stride``-th row is tracked.

    Attributes:
        columns: which columns this rank holds, ``[c]``.
        places: where the tracked rows are in the block, ``[m]``.
        slots: which tracked rows they are, ``[m]``.
    """

    def __init__(self, table: Any, stride: int) -> None:
        self._mesh, self._placements = table.device_mesh, tuple(table.placements)
        rows, self._dim = table.shape
        device = table.to_local().device
        local_rows, self.columns = self._numbers(rows, 0).to(device), self._numbers(self._dim, 1).to(device)
        self.places = (local_rows % stride == 0).nonzero().squeeze(1)
        self.slots = local_rows[self.places] // stride
        self._tracked_rows = -(-rows // stride)
        self._groups = [
            self._mesh.get_group(number)
            for number, placement in enumerate(self._placements)
            if _dimension(placement) is not None and self._mesh.size(number) > 1
        ]

    def block(self, tensor: Any) -> Tensor:
        """This rank's part of a DTensor of the table's shape, such as its gradient, ``[local rows, c]``."""
        tensor = tensor.detach()
        if tuple(tensor.placements) != self._placements:
            tensor = tensor.redistribute(self._mesh, self._placements)
        block: Tensor = tensor.to_local()
        return block

    def tracked(self, block: Tensor) -> Tensor:
        """The tracked rows of what :meth:`block` gave, ``[m, c]``, a copy in float64."""
        rows: Tensor = most_precise(block.index_select(0, self.places))
        return rows

    def sums(self, local_sums: Tensor, numbers: Tensor, slots: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Sums over all columns of all tracked rows, and of numbers of the whole table, in one message.

        Args:
            local_sums: those over this rank's columns, of its tracked rows, ``[m, k]``.
            numbers: sums over this rank's block, ``[n]``.
            slots: which tracked rows are wanted, the same on all ranks; ``None`` for all.

        Returns:
            ``[tracked rows, k]`` and ``[n]``, in float64, the same on every rank that shares the table.
        """
        by_slot = local_sums.new_zeros(self._tracked_rows, local_sums.shape[1])
        by_slot.index_copy_(0, self.slots, local_sums)
        by_slot = by_slot if slots is None else by_slot.index_select(0, slots)
        message = torch.cat((by_slot.flatten(), numbers.to(by_slot)))
        self.add_up(message)
        return message[: by_slot.numel()].view_as(by_slot), message[by_slot.numel() :]

    def add_up(self, numbers: Tensor) -> None:
        """Makes numbers the sums over the ranks that hold parts of the table, in place."""
        for group in self._groups:
            dist.all_reduce(numbers, group=group)

    def mean_direction(self, rows: Tensor, norms: Tensor, chosen: Tensor) -> Tensor:
        """Length of the mean direction of some of the rows.

        Args:
            rows: this rank's part of the tracked rows, ``[m, c]``.
            norms: of all tracked rows, ``[tracked rows]``.
            chosen: a mask of them, ``[tracked rows]``.
        """
        is_chosen = chosen & (norms > 0) & norms.isfinite()
        members = is_chosen[self.slots]
        directions = rows[members] / norms[self.slots][members, None].to(rows)
        total = rows.new_zeros(self._dim)
        total.index_copy_(0, self.columns, directions.sum(0))
        self.add_up(total)
        length: Tensor = (total / is_chosen.sum()).norm()
        return length

    def _numbers(self, count: int, dimension: int) -> Tensor:
        """Which rows (dimension 0) or columns (1) this rank holds.

        FSDP2 shards what tensor parallelism has sharded before, though its mesh dimension comes first.
        """
        numbers = torch.arange(count)
        shards = [(number, p) for number, p in enumerate(self._placements) if _dimension(p) == dimension]
        for number, _ in sorted(shards, key=lambda shard: hasattr(shard[1], "split_factor")):
            chunks = numbers.chunk(self._mesh.size(number))
            place = self._mesh.get_local_rank(number)
            numbers = chunks[place] if place < len(chunks) else numbers[:0]
        return numbers


def _dimension(placement: Any) -> int | None:
    """The dimension of a tensor that a placement shards; ``None`` for copies."""
    dimension: int | None = getattr(placement, "dim", None)
    return dimension
