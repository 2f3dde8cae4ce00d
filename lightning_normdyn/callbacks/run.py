"""What a Lightning trainer tells about its run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.callbacks.lightning import LightningModule, Trainer, rank_zero_info, rank_zero_warn
from lightning_normdyn.callbacks.schedule import future_lrs
from lightning_normdyn.instruments.ranks import Ranks
from lightning_normdyn.instruments.run import Run


def run_of(trainer: Trainer, pl_module: LightningModule) -> Run:
    """The run of a trainer, in words that hold for any training loop."""
    return Run(
        optimizers=lambda: trainer.optimizers,
        total_steps=lambda: _total_steps(trainer, pl_module),
        future_lrs=lambda optimizer, group, steps: future_lrs(trainer, pl_module, optimizer, group, steps),
        loss_scale=lambda: _loss_scale(trainer),
        ranks=_ranks(trainer),
        hears_backward=False,  # Lightning announces a step before it clips
        warn=rank_zero_warn,
        inform=rank_zero_info,
    )


def has_scaler(trainer: Trainer) -> bool:
    """Whether a loss scaler decides which steps are made."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def shares_batches(trainer: Trainer) -> bool:
    """Whether some ranks are given the same batch, as under tensor parallelism."""
    sampling = getattr(trainer.strategy, "distributed_sampler_kwargs", None) or {}
    return bool(sampling.get("num_replicas", trainer.world_size) != trainer.world_size)


def _total_steps(trainer: Trainer, pl_module: LightningModule) -> int | None:
    """Steps that each optimizer will make in this run; ``None`` if it has no set end."""
    total = trainer.estimated_stepping_batches
    if not 0 < total < float("inf"):  # -1 for a stream of no known length
        return None
    if not pl_module.automatic_optimization and trainer.max_steps > 0:
        total = min(total, trainer.max_steps // len(trainer.optimizers))  # which counts the steps of all of them
    return max(1, int(total))


def _loss_scale(trainer: Trainer) -> float:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return float(scaler.get_scale()) if scaler is not None else 1.0


def _ranks(trainer: Trainer) -> Ranks:
    def all_gather(tensor: Tensor) -> Tensor:
        gathered = trainer.strategy.all_gather(tensor)
        assert isinstance(gathered, Tensor)
        return gathered

    def broadcast(held: Any, rank: int) -> Any:
        return trainer.strategy.broadcast(held, src=rank)

    device: torch.device = trainer.strategy.root_device
    shared = shares_batches(trainer)
    return Ranks(trainer.global_rank, trainer.world_size, device, all_gather, broadcast, shared)
