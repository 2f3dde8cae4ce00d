"""Trains a plain loop in each of two processes and leaves what was logged for the test that started it.

Run as ``python -m torch.distributed.run --nproc-per-node 2 plain_ranks_worker.py FOLDER``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from small_models import DIM, pair_batches, seeded
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from two_process_worker import Separable

from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.instruments import NormObserver

STEPS = 30
TARGETS = ["table.weight", "encoder"]


def train(net, batches, *, announce, wrap=lambda net: net, log_dir=None):
    """Trains on the batches, clipped; returns what was logged on this rank."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, weight_decay=0.05)
    logged, model = [], wrap(net)
    items = torch.randn(6, DIM, generator=torch.Generator().manual_seed(3))
    settings = {"targets": TARGETS, "every_n_steps": 5, "window": 10, "probe": items, "total_steps": STEPS}
    with NormObserver(
        net, optimizer, log=lambda metrics, _: logged.append(metrics), log_dir=log_dir, **settings
    ) as observer:
        for batch in batches:
            optimizer.zero_grad()
            model(batch).backward()
            if announce:
                observer.before_step()
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            optimizer.step()
    return logged


def main(folder):
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    batches = [batch.chunk(2)[rank] for batch in pair_batches(STEPS)]
    found = {}
    for announce in (True, False):
        net = seeded(Dense)
        logged = train(net, batches, announce=announce, wrap=DistributedDataParallel, log_dir=folder / str(announce))
        found[announce] = {"logged": logged, "weights": net.state_dict()}
    torch.save(found, folder / f"rank-{rank}.pt")


class Dense(Separable):
    """Without sparse gradients, which cannot be clipped."""

    def __init__(self):
        super().__init__()
        self.rare = nn.Embedding(self.table.num_embeddings, DIM)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    with ended_process_group():
        main(Path(sys.argv[1]))
