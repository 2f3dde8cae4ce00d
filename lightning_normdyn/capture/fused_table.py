"""A table that TorchRec shards and that a fused optimizer trains inside of backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_normdyn.capture.embedding_shards import EmbeddingShard, EmbeddingTable
from lightning_normdyn.capture.fused_gradients import FusedSettings, RowState, read_gradients
from lightning_normdyn.capture.names import ParameterIndex
from lightning_normdyn.capture.row_sample import RowCounts, sample_of
from lightning_normdyn.capture.table import TableForm, TableTarget, check_rows
from lightning_normdyn.caution import OnError, contained

SETTINGS, LR_OF_HOLDERS = "settings", "lr_of_holders"
"""Entries of the parameter group: a :class:`FusedSettings`, and the rate where blocks lie in the last measured step."""


class Touches(NamedTuple):
    """What a step did to the rows that it touched on this rank, ``[k]`` each; a row may be on several.

    Attributes:
        slots: of the rows; those that are not tracked share the slot ``tracked_rows``.
        norm_squares: ``|x|²`` before it, over this rank's columns.
        products: ``<x, g>``.
        squares: ``|g|²``.
        errors: relative ones of ``|g|``.
    """

    slots: Tensor
    norm_squares: Tensor
    products: Tensor
    squares: Tensor
    errors: Tensor


class FusedTable(TableTarget):
    """A table of TorchRec: rows move inside of backward, no gradient is seen, and each rank holds blocks of it.

    Ids are heard where a block is looked up; the rows that they name, and the optimizer's state of those, are copied
    before backward moves them, and nothing else is.

    Args:
        table: the table, and its blocks on this rank.
        module: the model that holds it, or what was read of it.
        max_tracked_rows: see :class:`TableTarget`.
        row_counts: likewise.

    Attributes:
        plan: the table under TorchRec, and its blocks on this rank.
        group: the parameter group that stands for its fused optimizer, on every rank.
    """

    is_fused = True

    def __init__(
        self,
        table: EmbeddingTable,
        module: nn.Module | ParameterIndex,
        *,
        max_tracked_rows: int = 16_384,
        row_counts: RowCounts = None,
    ) -> None:
        check_rows(max_tracked_rows)
        index = module if isinstance(module, ParameterIndex) else ParameterIndex(module)
        self.name, self.plan = table.name, table
        self._path, self.parameter = index.path(table.name), index.parameters[table.name]
        self.form = TableForm.of(self.parameter)
        self.items = "rows"
        self._track(table.dim, sample_of(table.rows, max_tracked_rows, row_counts, table=table.name))
        self._columns = [
            torch.arange(shard.column, shard.column + shard.columns, device=table.device) for shard in table.shards
        ]
        device = table.device
        within = [self.sample.within(shard.row, shard.row + shard.rows, device) for shard in table.shards]
        self._places = [places for _, places in within]
        self.block_slots = torch.cat([torch.empty(0, dtype=torch.long, device=device), *(slots for slots, _ in within)])
        self.group: dict[str, Any] = {}
        self._tracks = [_ShardTrack(shard) for shard in table.shards]
        self._touches: Touches | None = None

    def attach(self, on_error: OnError | None = None) -> None:
        """Allows it to listen to the kernels, which it does while it is armed."""
        self.detach()
        self._may_listen = True
        for track in self._tracks:
            track.listener = contained(track.hear, on_error)

    def arm(self, keeps_ids: bool) -> None:
        """Sets whether ids are heard from now on; forgets those of the step before."""
        self._keeps_ids, self._touches = keeps_ids and self._may_listen, None
        for track in self._tracks:
            track.arm(self._keeps_ids)

    @property
    def has_gradient(self) -> bool:
        """Whether a step concerns it: all do that its rows could be looked up in."""
        return True

    @property
    def dtype(self) -> torch.dtype:
        """Of its numbers where blocks of it lie: a rank without any has an empty parameter of another type."""
        return self.parameter.dtype if self.settings is None else self.settings.dtype

    @property
    def selects(self) -> bool:
        """Whether to choose among rows costs nothing but its time, on the ranks that hold any."""
        return self.plan.device.type == "cpu"

    @property
    def is_spread(self) -> bool:
        """Whether ranks hold parts of it."""
        return True

    @property
    def settings(self) -> FusedSettings | None:
        """How its fused optimizer is set in the step under way; ``None`` before one is known."""
        return self.group.get(SETTINGS)

    def touches(self) -> Touches:
        """What the step did to the rows that were looked up on this rank; called once they have moved."""
        if self._touches is None:
            pieces = [
                self._touches_of(shard, track) for shard, track in zip(self.plan.shards, self._tracks, strict=True)
            ]
            self._touches = Touches(*map(torch.cat, zip(*pieces, strict=True))) if pieces else self._no_touches()
        return self._touches

    def _touches_of(self, shard: EmbeddingShard, track: _ShardTrack) -> Touches:
        ids, start = track.rows_before()
        if not ids.numel() or track.settings is None:
            return self._no_touches()
        reading = read_gradients(track.settings, start, _state_of(shard, ids))
        slots = self.slots(ids + shard.row)
        return Touches(slots, start.rows.double().square().sum(1), *reading)

    def _no_touches(self) -> Touches:
        empty = self._no_sums()
        return Touches(empty.long(), empty, empty, empty, empty)

    def blocks(self) -> list[Tensor]:
        """The tracked rows of each block as they are now, ``[m, c]`` in float64, copies."""
        return [
            shard.weight().index_select(0, places).double()
            for shard, places in zip(self.plan.shards, self._places, strict=True)
        ]

    def block_products(self, blocks: list[Tensor]) -> Tensor:
        """Products of the rows of blocks with what this rank has of the vector of :meth:`products`, ``[m]``."""
        direction = self.direction(self._no_sums())
        pieces = [block @ direction[columns] for block, columns in zip(blocks, self._columns, strict=True)]
        return torch.cat([self._no_sums(), *pieces])

    def sums(self, slots: Tensor, local_sums: Tensor, numbers: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Sums over all ranks, in one message.

        Args:
            slots: of the rows, possibly repeated; the slot ``tracked_rows`` is left out, ``[n]``.
            local_sums: of these rows, ``[n, k]``.
            numbers: of the whole table, ``[j]``.

        Returns:
            ``[tracked_rows, k]`` and ``[j]``, in float64, the same on every rank, where its parameter is.
        """
        by_slot = local_sums.new_zeros(self.tracked_rows + 1, local_sums.shape[1])
        by_slot.index_add_(0, slots, local_sums)
        numbers = by_slot.new_zeros(0) if numbers is None else numbers.to(by_slot)
        message = torch.cat((by_slot[:-1].flatten(), numbers))
        message = self._added_up(message)
        size = by_slot[:-1].numel()
        return message[:size].view(self.tracked_rows, local_sums.shape[1]), message[size:]

    def _added_up(self, numbers: Tensor) -> Tensor:
        """The sums over all ranks, where the parameter is: an empty one may be elsewhere than blocks are."""
        self.plan.add_up(numbers)
        return numbers.to(self.parameter.device)

    def _row_sums(self, pieces: list[Tensor]) -> Tensor:
        sums = torch.cat([self._no_sums(), *pieces])
        return self.sums(self.block_slots, sums[:, None])[0][:, 0]

    def _no_sums(self) -> Tensor:
        return torch.zeros(0, dtype=torch.float64, device=self.plan.device)

    def tracked(self) -> Tensor:
        """The tracked rows as they are now, ``[tracked_rows, d]``, gathered by all ranks at once."""
        rows = self._no_sums().new_zeros(self.tracked_rows, self.dim)
        first = 0
        for block, columns in zip(self.blocks(), self._columns, strict=True):
            slots = self.block_slots[first : first + len(block)]
            rows[slots[:, None], columns] = block
            first += len(block)
        return self._added_up(rows).to(self.dtype)

    def norms(self) -> Tensor:
        """Norms of the tracked rows as they are now, ``[tracked_rows]``, on all ranks at once."""
        return self._row_sums([block.square().sum(1) for block in self.blocks()]).sqrt()

    def zero_rows(self) -> Tensor:
        """Which tracked rows are zero, a mask ``[tracked_rows]``; likewise."""
        return self.norms() == 0

    def products(self) -> Tensor:
        """Product of each tracked row with one vector of length one, ``[tracked_rows]``; likewise."""
        return self.sums(self.block_slots, self.block_products(self.blocks())[:, None])[0][:, 0]

    def common_direction(self, chosen: Tensor, norms: Tensor) -> Tensor:
        """How far tracked rows point one way: the length of their mean direction; likewise.

        Args:
            chosen: which of them, a mask ``[tracked_rows]``.
            norms: of the tracked rows, ``[tracked_rows]``.
        """
        is_chosen = chosen & (norms > 0) & norms.isfinite()
        inverse = norms.double().reciprocal().where(is_chosen, 0).to(self.plan.device)
        total, first = inverse.new_zeros(self.dim), 0
        for block, columns in zip(self.blocks(), self._columns, strict=True):
            weights = inverse[self.block_slots[first : first + len(block)]]
            total.index_add_(0, columns, weights @ block)
            first += len(block)
        length: Tensor = (self._added_up(total) / is_chosen.sum()).norm()
        return length

    def accumulated(self) -> Tensor | None:
        """Sum over each row of what Adagrad has accumulated for it, ``[tracked_rows]``, of all ranks at once.

        ``None`` under an optimizer that accumulates nothing.
        """
        if self.settings is None or "adagrad" not in self.settings.kind:
            return None
        pieces = []
        for shard, places in zip(self.plan.shards, self._places, strict=True):
            sums = shard.states()[0]
            sums = sums.index_select(0, places).double()
            pieces.append(sums * shard.columns if sums.dim() == 1 else sums.sum(1))
        return self._row_sums(pieces)


class _ShardTrack:
    """Hears which rows of a block are looked up, and copies them as they were before they moved.

    Args:
        shard: the block.

    Attributes:
        settings: of its optimizer when rows were looked up.
        listener: what is registered with the kernel.
    """

    def __init__(self, shard: EmbeddingShard) -> None:
        self._shard = shard
        self.settings: FusedSettings | None = None
        self.listener: Callable[..., Any] = self.hear
        self._handle: Any = None
        self._pieces: list[tuple[Tensor, RowState]] = []

    def arm(self, listens: bool) -> None:
        """Sets whether it listens; forgets what it heard."""
        self.settings, self._pieces = None, []
        if listens and self._handle is None:
            self._handle = self._shard.kernel.register_forward_pre_hook(self.listener, with_kwargs=True)
        elif not listens and self._handle is not None:
            self._handle.remove()
            self._handle = None

    def hear(self, _kernel: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Copies the rows that are looked up and were not before."""
        if not torch.is_grad_enabled():
            return
        self.settings = FusedSettings.of(self._shard.kernel.emb_module)
        ids = self._shard.ids(args[0] if args else kwargs["features"]).unique()
        for earlier, _ in self._pieces:
            ids = ids[~torch.isin(ids, earlier)]
        self._pieces.append((ids, _state_of(self._shard, ids)))

    def rows_before(self) -> tuple[Tensor, RowState]:
        """The rows that were looked up, each once, and what they were."""
        if not self._pieces:
            return torch.empty(0, dtype=torch.long), RowState(torch.empty(0, 0), [])
        ids, states = zip(*self._pieces, strict=True)
        rows = torch.cat([state.rows for state in states])
        return torch.cat(ids), RowState(
            rows, [torch.cat(part) for part in zip(*(s.states for s in states), strict=True)]
        )


def _state_of(shard: EmbeddingShard, ids: Tensor) -> RowState:
    """Rows of a block as they are now, and their optimizer's state, copies."""
    return RowState(shard.weight().index_select(0, ids), [state.index_select(0, ids) for state in shard.states()])
