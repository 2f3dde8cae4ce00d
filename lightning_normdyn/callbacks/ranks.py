"""What the ranks of a trainer tell each other about outputs and probes."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_normdyn.callbacks.lightning import Trainer
from lightning_normdyn.capture.call import Call
from lightning_normdyn.capture.output import OutputStep
from lightning_normdyn.instruments.output import merge_ranks, quantile_grid


def merge_steps(trainer: Trainer, seen: OutputStep | None) -> OutputStep | None:
    """Puts the steps of all ranks together; a rank that heard nothing takes part with nothing."""
    if trainer.world_size == 1:
        return seen
    device = trainer.strategy.root_device
    grid = torch.full((512,), torch.nan, device=device) if seen is None else quantile_grid(seen.norms)
    sums = torch.zeros(3, device=device) if seen is None else torch.stack(seen[1:]).to(device).nan_to_num(0)
    return merge_ranks(_gather(trainer, grid), _gather(trainer, sums))


def shares_batches(trainer: Trainer) -> bool:
    """Whether some ranks are given the same batch, as under tensor parallelism."""
    sampling = getattr(trainer.strategy, "distributed_sampler_kwargs", None) or {}
    return bool(sampling.get("num_replicas", trainer.world_size) != trainer.world_size)


def all_calls(trainer: Trainer, calls: list[Call]) -> list[Call]:
    """The calls of all ranks, one rank after the other."""
    if trainer.world_size == 1:
        return calls
    own = [call.to(torch.device("cpu")) for call in calls]
    return [call for rank in range(trainer.world_size) for call in trainer.strategy.broadcast(own, src=rank)]


def all_rows(trainer: Trainer, rows: Tensor) -> Tensor:
    """The rows ``[n, d]`` of all ranks, which may have unequal numbers of them, one rank below the other."""
    if trainer.world_size == 1:
        return rows
    counts = _gather(trainer, torch.tensor(len(rows), device=rows.device)).flatten().tolist()
    padded = torch.nn.functional.pad(rows, (0, 0, 0, max(counts) - len(rows)))
    gathered = _gather(trainer, padded)
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])


def _gather(trainer: Trainer, tensor: Tensor) -> Tensor:
    gathered = trainer.strategy.all_gather(tensor)
    assert isinstance(gathered, Tensor)
    return gathered
