"""Trains sharded tables on two ranks in many ways and leaves what was logged for the test that started it.

Run as ``python -m torch.distributed.run --nproc-per-node 2 torchrec_worker.py FOLDER``.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from sharded_recommender import KINDS, STEPS, features, jagged_features, loss_of, sharded, start_process_group, whole_tables

from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.integrations.torchrec import TorchRecObserver

OPTIONS = {"every_n_steps": 1, "window": 20, "targets": ["bags.*"]}


def share(ids):
    """This rank's items."""
    return ids.chunk(dist.get_world_size(), dim=1)[dist.get_rank()]


def train(parallel, steps, observer=None, *, says=False):
    """Trains on the steps given."""
    optimizer = torch.optim.SGD(parallel.module.top.parameters(), lr=0.0)
    for ids in steps:
        optimizer.zero_grad()
        loss_of(parallel(jagged_features(share(ids))), share(ids)).backward()
        optimizer.step()
        if says and observer is not None:
            observer.after_step()


def observed(kind, folder=None, *, says=False, **options):
    """Scalars of each step, final tables, and the columns of the fits."""
    parallel, logged = sharded(kind), []
    observer = TorchRecObserver(
        parallel, log=lambda metrics, step: logged.append((step, metrics)), log_dir=folder, total_steps=STEPS, **OPTIONS | options
    )
    with observer:
        train(parallel, features(), observer, says=says)
    return {"logged": logged, "tables": whole_tables(parallel)}


def main(folder):
    results = {}
    for name, kind in KINDS.items():
        results[name] = observed(kind, folder / name)
    plain = sharded("EXACT_ROWWISE_ADAGRAD")
    train(plain, features())
    results["unobserved"] = whole_tables(plain)
    results["says"] = observed("EXACT_ROWWISE_ADAGRAD", says=True)
    torch.save(results, folder / f"rank-{dist.get_rank()}.pt")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    start_process_group()
    with ended_process_group():
        main(Path(sys.argv[1]))
