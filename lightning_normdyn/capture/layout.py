"""How a table lies on ranks: which of its rows and columns this one holds, and how sums over all of them are made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_normdyn.capture.row_sample import RowSample
from lightning_normdyn.core.dynamics.geometry import most_precise, squared_sum
from lightning_normdyn.core.sharded_tensor import is_sharded, of_this_rank


class TableLayout:
    """The block of a table ``[rows, d]`` that this rank holds, and the ranks that hold the others.

    Whatever dimensions of a device mesh shard the table, and along whichever of its own: each rank sums over its own
    columns of its own rows, and one all-reduce over each mesh dimension that shards makes the sums of all rows. A
    dimension that holds copies, as HSDP's or one of data parallelism, takes no part.

    Args:
        table: a DTensor ``[rows, d]``.
        sample: which rows are tracked.

    Attributes:
        columns: which columns this rank holds.
        has_whole_rows: whether that is all of them.
        places: where the tracked rows are in the block, ``[m]``.
        slots: which tracked rows they are, ``[m]``.
    """

    def __init__(self, table: Any, sample: RowSample) -> None:
        self._mesh, self._placements = table.device_mesh, tuple(table.placements)
        rows, self._dim = table.shape
        start, stop = block_range(rows, self._splits(0))
        self.columns = slice(*block_range(self._dim, self._splits(1)))
        self.has_whole_rows = not self._splits(1)
        self.slots, self.places = sample.within(start, stop, table.to_local().device)
        self._tracked_rows = sample.size
        self._groups = _sharding_groups(table) or {}

    @property
    def ranks(self) -> tuple[str, ...]:
        """The groups of ranks over which sums are made, by name."""
        return tuple(self._groups)

    def block(self, tensor: Any) -> Tensor:
        """This rank's part of a DTensor of the table's shape, such as its gradient, ``[local rows, c]``."""
        tensor = tensor.detach()
        if tuple(tensor.placements) != self._placements:
            tensor = tensor.redistribute(self._mesh, self._placements)
        block: Tensor = tensor.to_local()
        return block

    def tracked(self, block: Tensor, among: Tensor | None = None) -> Tensor:
        """The tracked rows of what :meth:`block` gave, ``[m, c]``, a copy in float64.

        Args:
            block: this rank's part of the table, or of its gradient.
            among: which of this rank's tracked rows are wanted, ``[n]``; ``None`` for all.
        """
        places = self.places if among is None else self.places.index_select(0, among)
        rows: Tensor = most_precise(block.index_select(0, places))
        return rows

    def tracked_part(self, block: Tensor) -> Tensor:
        """The same as it is, a view where all rows are tracked."""
        return block if len(self.places) == len(block) else block.index_select(0, self.places)

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
        for group in self._groups.values():
            dist.all_reduce(numbers, group=group)

    def share_of_square(self, gradients: Iterable[Any]) -> Tensor:
        """What this rank adds to the squared norm of all gradients of a model, so that :meth:`add_up` makes it whole.

        A tensor that some of the ranks hold alike is shared among them in equal parts.

        Returns:
            A number without dimension; NaN if a gradient lies on further ranks, which the table does not reach.
        """
        total = torch.zeros((), dtype=torch.float64)
        for gradient in gradients:
            groups = _sharding_groups(gradient)
            if groups is None or groups.keys() - self._groups.keys():
                return torch.full((), torch.nan, dtype=torch.float64)
            alike = math.prod(dist.get_world_size(self._groups[name]) for name in self._groups.keys() - groups.keys())
            block = of_this_rank(gradient.detach())
            entries = block.coalesce().values() if block.is_sparse else block
            total = total + squared_sum(entries).to(total.dtype) / alike
        return total

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
        total[self.columns] = directions.sum(0)
        self.add_up(total)
        length: Tensor = (total / is_chosen.sum()).norm()
        return length

    def gathered(self, rows: Tensor) -> Tensor:
        """All tracked rows, ``[tracked rows, d]``, of which each rank has its part, ``[m, c]``; on all at once."""
        table = rows.new_zeros(self._tracked_rows, self._dim)
        table[self.slots, self.columns] = rows
        self.add_up(table)
        return table

    def _splits(self, dimension: int) -> list[tuple[int, int]]:
        """How the rows (dimension 0) or columns (1) were split, one time after the other: place of this rank, parts.

        FSDP2 shards what tensor parallelism has sharded before, though its mesh dimension comes first.
        """
        shards = [(number, p) for number, p in enumerate(self._placements) if _dimension(p) == dimension]
        shards.sort(key=lambda shard: hasattr(shard[1], "split_factor"))
        return [(self._mesh.get_local_rank(number), self._mesh.size(number)) for number, _ in shards]


def block_range(count: int, splits: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Where a block starts and stops, of numbers that were split into chunks, one of which was split again, and so on.

    Args:
        count: of the numbers.
        splits: the chunk that is meant, from 0, and how many there are, as :meth:`torch.Tensor.chunk` makes them.

    Example:
        >>> block_range(10, [(1, 4)]), block_range(10, [(3, 4), (0, 2)]), block_range(2, [(3, 4)])
        ((3, 6), (9, 10), (2, 2))
    """
    start, stop = 0, count
    for place, parts in splits:
        size = -(-(stop - start) // parts)
        start, stop = min(start + place * size, stop), min(start + (place + 1) * size, stop)
    return start, stop


def _sharding_groups(tensor: Any) -> dict[str, Any] | None:
    """The ranks among which a tensor is split, by the name of the group; ``None`` where they have parts of its sum."""
    if not is_sharded(tensor):
        return {}
    if any(placement.is_partial() for placement in tensor.placements):
        return None
    mesh = tensor.device_mesh
    numbers = (n for n, placement in enumerate(tensor.placements) if _dimension(placement) is not None)
    groups = (mesh.get_group(number) for number in numbers if mesh.size(number) > 1)
    return {group.group_name: group for group in groups}


def _dimension(placement: Any) -> int | None:
    """The dimension of a tensor that a placement shards; ``None`` for copies."""
    dimension: int | None = getattr(placement, "dim", None)
    return dimension
