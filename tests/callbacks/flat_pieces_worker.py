"""Trains under FullyShardedDataParallel (FSDP1) in two processes and leaves what was logged and said.

Run as ``python -m torch.distributed.run --nproc-per-node 2 flat_pieces_worker.py FOLDER``.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from small_models import DIM, pair_batches, seeded
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from two_process_worker import Separable

from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.instruments import NormObserver

STEPS = 24
TABLE, ENCODER = "table.weight", "encoder"
UNIT = ModuleWrapPolicy({torch.nn.Sequential})
WRAPS = {
    "sharded": {"use_orig_params": True},
    "flat": {"use_orig_params": False},
    "between": {"use_orig_params": True, "sharding_strategy": ShardingStrategy.SHARD_GRAD_OP},
    "unit": {"use_orig_params": True, "auto_wrap_policy": UNIT},
    "copies": {"use_orig_params": True, "sharding_strategy": ShardingStrategy.NO_SHARD},
    "left out": {"use_orig_params": True},
    "averaged": {"use_orig_params": True},
}


class Plain(Separable):
    """Without a sparse table, which FSDP1 does not take."""

    def __init__(self):
        super().__init__()
        self.rare = torch.nn.Embedding(self.table.num_embeddings, DIM)


def wrapped(net, name):
    """The model under one of ``WRAPS``; the last two leave the table out, one averages its gradient by hand."""
    options = dict(WRAPS[name])
    if name in ("left out", "averaged"):
        options["ignored_modules"] = [net.table]
    if name == "averaged":
        net.table.weight.register_post_accumulate_grad_hook(average)
    return FullyShardedDataParallel(net, device_id=torch.device("cpu"), **options)


def average(weight):
    """As the page on FSDP has it."""
    dist.all_reduce(weight.grad)
    weight.grad /= dist.get_world_size()


def train(model, batches, targets, **options):
    """What was logged last of each quantity, and what was said."""
    optimizer, logged = torch.optim.SGD(model.parameters(), lr=0.2, weight_decay=0.05), {}
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        observer = NormObserver(
            model,
            optimizer,
            targets=targets,
            total_steps=STEPS,
            every_n_steps=4,
            window=STEPS // 2,
            log=lambda metrics, _: logged.update(metrics),
            **options,
        )
        with observer:
            for batch in batches:
                optimizer.zero_grad()
                model(batch).backward()
                optimizer.step()
    said = [str(warning.message) for warning in record if str(warning.message).startswith("NormObserver: '")]
    return {"logged": logged, "said": said}


def outcome(name, targets):
    rank = dist.get_rank()
    batches = [batch.chunk(2)[rank] for batch in pair_batches(STEPS)]
    probe = {ENCODER: torch.randn(6, DIM, generator=torch.Generator().manual_seed(3))} if ENCODER in targets else None
    try:
        return train(wrapped(seeded(Plain), name), batches, targets, probe=probe)
    except ValueError as error:
        return {"logged": {}, "said": [str(error)]}


def main(folder):
    dist.init_process_group("gloo")
    outcomes = {(name, target): outcome(name, [target]) for name in WRAPS for target in (TABLE, ENCODER)}
    outcomes["sharded", "auto"] = outcome("sharded", "auto")
    torch.save(outcomes, folder / f"rank-{dist.get_rank()}.pt")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    with ended_process_group():
        main(Path(sys.argv[1]))
