"""Trains sharded tables in many ways and leaves what was logged for the test that started it.

Run as ``python -m torch.distributed.run --nproc-per-node N torchrec_worker.py FOLDER``: on one process first, which
leaves a checkpoint for two to resume from.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from sharded_recommender import (
    KINDS,
    STEPS,
    Recommender,
    features,
    jagged_features,
    loss_of,
    set_whole,
    sharded,
    start_process_group,
    whole_tables,
)

from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.integrations.torchrec import TorchRecObserver

HALF = STEPS // 2
ROWWISE = "EXACT_ROWWISE_ADAGRAD"


def share(ids):
    """This rank's items."""
    return ids.chunk(dist.get_world_size(), dim=1)[dist.get_rank()]


def train(parallel, steps, observer=None, *, says=False):
    """Trains the tables on the steps given; the layer above them has a learning rate of zero."""
    optimizer = torch.optim.SGD(parallel.module.top.parameters(), lr=0.0)
    for ids in steps:
        optimizer.zero_grad()
        loss_of(parallel(jagged_features(share(ids))), share(ids)).backward()
        optimizer.step()
        if says:
            observer.after_step()


def observed(kind, log_dir=None, steps=None, *, says=False, saved=None, sharding=None, **options):
    """Scalars of each step, final tables and the state."""
    parallel, logged = sharded(kind, sharding=sharding), []
    settings = {"every_n_steps": 1, "window": 20, "targets": ["bags.*"], "total_steps": STEPS} | options
    observer = TorchRecObserver(
        parallel, log=lambda metrics, step: logged.append((step, metrics)), log_dir=log_dir, **settings
    )
    if saved is not None:
        set_whole(parallel, saved["whole"])
        observer.load_state_dict(saved["state"])
    observer.begin()
    train(parallel, features() if steps is None else steps, observer, says=says)
    state = observer.state_dict()
    observer.finish()
    return {"logged": logged, "whole": whole_tables(parallel), "state": state}


def sentences(act):
    """What is said meanwhile, and the error at the end, if there is one."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            act()
        except ValueError as error:
            return [*(str(warning.message) for warning in said), str(error)]
    return [text for text in (str(warning.message) for warning in said) if "Observer" in text]


def replicated():
    """A table that every rank holds whole beside two that are sharded, and one whose kernel is dense."""
    from torchrec.distributed import sharding_plan as plans

    sharding = {"whole": plans.table_wise(rank=0), "rows": plans.row_wise(), "columns": plans.data_parallel()}
    parallel, logged = sharded(ROWWISE, sharding=sharding, kernels={"whole": "dense"}), []
    table = parallel.module.bags.embedding_bags["columns"].weight
    optimizer = torch.optim.SGD([table], lr=0.1)
    observer = TorchRecObserver(parallel, optimizer, every_n_steps=1, log=lambda m, step: logged.append((step, m)))
    with observer:
        for ids in features(5):
            optimizer.zero_grad()
            loss_of(parallel(jagged_features(share(ids))), share(ids)).backward()
            optimizer.step()
    return logged


def main(folder):
    size, results = dist.get_world_size(), {}
    for name, kind in KINDS.items():
        results[name] = observed(kind, folder / f"{name}-{size}")
    results["half way"] = observed(ROWWISE, steps=features()[:HALF])
    results["sampled"] = observed(ROWWISE, max_tracked_rows=40)
    if size == 1:
        torch.save(results["half way"], folder / "half.pt")
    else:
        saved = torch.load(folder / "half.pt", weights_only=True)
        results["resumed from one"] = observed(ROWWISE, steps=features()[HALF:], saved=saved)
        results["resumed"] = observed(ROWWISE, steps=features()[HALF:], saved=results["half way"])
        results["says"] = observed(ROWWISE, says=True)
        plain = sharded(ROWWISE)
        train(plain, features())
        results["unobserved"] = whole_tables(plain)
        results["replicated said"] = sentences(lambda: results.update(replicated=replicated()))
        results["unsharded said"] = sentences(lambda: TorchRecObserver(Recommender()))
    torch.save(results, folder / f"rank-{dist.get_rank()}-of-{size}.pt")


if __name__ == "__main__":
    warnings.filterwarnings("error", message=".*(it failed|failed \\().*")
    torch.set_num_threads(1)
    start_process_group()
    with ended_process_group():
        main(Path(sys.argv[1]))
