"""Embedding tables that TorchRec has sharded over ranks: which blocks of each this rank holds, and where they are.

Goes by what the sharded modules have, so that nothing of TorchRec is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Entry = TypeVar("Entry")
_SHARDED = ("_lookups", "module_sharding_plan", "_env")
_FOLDERS = ("embedding_bags", "embeddings")
_DATA_PARALLEL = "data_parallel"
_FUSED = ("fused", "fused_uvm")
_ELSEWHERE = {
    "dense": "its kernel is dense, so that its optimizer is one of the loop's own over local blocks; plan it with "
    "compute_kernel='fused'",
    "fused_uvm_caching": "rows in use lie in a cache on the device, and what the table itself holds is old; plan it "
    "with compute_kernel='fused', or 'fused_uvm' if it does not fit on the device",
}


class EmbeddingShard(NamedTuple):
    """One block of a table on this rank.

    Attributes:
        kernel: the module that looks rows up in it; it is called with a KeyedJaggedTensor of this rank's ids.
        number: which of the kernel's tables it is.
        row: the row of the table that the block's first one is.
        column: likewise.
        rows: of the block.
        columns: of the block.
    """

    kernel: Any
    number: int
    row: int
    column: int
    rows: int
    columns: int

    def weight(self) -> Tensor:
        """The block as it is now, ``[rows, columns]``, a view."""
        weight: Tensor = self.kernel.emb_module.split_embedding_weights()[self.number]
        return weight.detach()

    def states(self) -> list[Tensor]:
        """What its optimizer has in store, ``[rows, columns]`` each, or ``[rows]``: views."""
        module = self.kernel.emb_module
        if module.optimizer.value == "exact_sgd":
            return []
        return [state.detach() for state in module.split_optimizer_states()[self.number]]

    def ids(self, features: Any) -> Tensor:
        """The rows of the block that a call looks up, ``[k]``, possibly repeated.

        Args:
            features: the KeyedJaggedTensor that the kernel is called with.
        """
        offsets, values = features.offset_per_key(), features.values()
        tables = self.kernel._feature_table_map
        pieces = [values[offsets[key] : offsets[key + 1]] for key, table in enumerate(tables) if table == self.number]
        ids = torch.cat(pieces or [values[:0]])
        return ids[(ids >= 0) & (ids < self.rows)].long()


class EmbeddingTable(NamedTuple):
    """A table under TorchRec.

    Attributes:
        name: qualified name of its parameter, that of the model before it was sharded.
        rows: of the whole table.
        dim: length of a row.
        shards: its blocks on this rank.
        group: the ranks among which it is sharded; ``None`` for one process.
        is_replicated: whether every rank holds all of it and the loop's own optimizer trains it.
        reason: why it cannot be measured, and the way out; empty if it can.
        device: where the blocks of this rank would lie, on one without any too.
    """

    name: str
    rows: int
    dim: int
    shards: tuple[EmbeddingShard, ...]
    group: Any
    is_replicated: bool
    reason: str
    device: torch.device

    def kernels(self) -> list[Any]:
        """The modules that look rows up in its blocks on this rank."""
        return [shard.kernel for shard in self.shards]

    def add_up(self, numbers: Tensor) -> None:
        """Makes numbers the sums over the ranks among which it is sharded, in place."""
        if self.group is not None and dist.is_initialized():
            dist.all_reduce(numbers, group=self.group)


def entries_of_all_ranks(tables: Sequence[EmbeddingTable], entries: dict[str, Entry]) -> dict[str, Entry]:
    """What any rank says of each table, the same on all of them.

    Args:
        tables: sharded among the same ranks.
        entries: what this rank says, by name of the table.
    """
    if not tables or tables[0].group is None or not dist.is_initialized():
        return entries
    entries_by_rank: list[Any] = [None] * dist.get_world_size(tables[0].group)
    dist.all_gather_object(entries_by_rank, entries, group=tables[0].group)
    return {name: entry for entries in entries_by_rank for name, entry in entries.items()}


def embedding_tables(module: nn.Module) -> dict[str, EmbeddingTable]:
    """The tables of a model that TorchRec has sharded, by name; none of any other model.

    Args:
        module: the model, not wrapped in DistributedModelParallel.

    Example:
        >>> embedding_tables(nn.Sequential(nn.Embedding(10, 4)))
        {}
    """
    return {
        table.name: table
        for path, child in module.named_modules()
        if all(hasattr(child, name) for name in _SHARDED)
        for table in _tables(path, child)
    }


def _tables(path: str, module: Any) -> Iterator[EmbeddingTable]:
    folder = next(name for name in _FOLDERS if hasattr(module, name))
    shards = list(_shards(module))
    for name, sharding in module.module_sharding_plan.items():
        blocks = tuple(shard for table, shard in shards if table == name)
        is_replicated = sharding.sharding_type == _DATA_PARALLEL
        rows, dim = _extent(module, folder, name, sharding)
        full_name = ".".join(part for part in (path, folder, name, "weight") if part)
        reason = "" if is_replicated else _reason(module._env, sharding)
        group = getattr(module._env, "process_group", None)
        device = torch.device(getattr(module, "_device", None) or "cpu")
        yield EmbeddingTable(full_name, rows, dim, blocks, group, is_replicated, reason, device)


def _shards(module: Any) -> Iterator[tuple[str, EmbeddingShard]]:
    """The blocks of all fused tables of a sharded module, with the names of their tables."""
    for lookup in module._lookups:
        for kernel in getattr(lookup, "_emb_modules", ()):  # one that is wrapped in DDP is data parallel
            for number, config in enumerate(kernel.config.embedding_tables):
                row, column = config.local_metadata.shard_offsets if config.local_metadata else (0, 0)
                yield config.name, EmbeddingShard(kernel, number, row, column, config.local_rows, config.local_cols)


def _extent(module: Any, folder: str, name: str, sharding: Any) -> tuple[int, int]:
    """Rows of a table, and their length."""
    if sharding.sharding_spec is None:
        rows, dim = getattr(module, folder)[name].weight.shape
        return rows, dim
    ends = [
        (shard.shard_offsets[0] + shard.shard_sizes[0], shard.shard_offsets[1] + shard.shard_sizes[1])
        for shard in sharding.sharding_spec.shards
    ]
    return max(rows for rows, _ in ends), max(columns for _, columns in ends)


def _reason(env: Any, sharding: Any) -> str:
    """Why a sharded table cannot be measured, by the plan, which is the same on all ranks."""
    if hasattr(env, "sharding_pg"):
        return (
            "groups of ranks hold copies of it that differ between synchronisations (two-dimensional parallelism); "
            "train with DistributedModelParallel"
        )
    kernel = sharding.compute_kernel
    if kernel in _FUSED:
        return ""
    return _ELSEWHERE.get(
        kernel, f"its kernel '{kernel}' does not hold its rows in memory; plan it with compute_kernel='fused'"
    )
