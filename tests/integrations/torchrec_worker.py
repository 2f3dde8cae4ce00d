"""Trains sharded tables in many ways and leaves what was logged for the test that started it.

Run as ``python -m torch.distributed.run --nproc-per-node N torchrec_worker.py FOLDER``: on one process first, which
leaves a checkpoint for two to resume from.
"""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from sharded_recommender import (
    KINDS,
    LR,
    STEPS,
    Recommender,
    Scored,
    features,
    jagged_features,
    loss_of,
    process_group,
    set_whole,
    sharded,
    whole_tables,
)
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.streamable import Pipelineable

from lightning_normdyn.capture.fused_step import FusedStep
from lightning_normdyn.integrations.torchrec import TorchRecObserver

HALF, FEW = STEPS // 2, 12
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


def observed(kind, log_dir=None, steps=None, *, says=False, saved=None, model=None, **options):
    """Scalars of each step, final tables and the state."""
    parallel, logged = sharded(kind, model=model), []
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


@dataclass
class Batch(Pipelineable):
    """What a pipeline hands on."""

    jagged: object
    ids: torch.Tensor

    def to(self, device, non_blocking=False):
        return self

    def record_stream(self, stream):
        pass


def pipelined():
    """What is logged where TorchRec's pipeline distributes the ids of the next batch during a step."""
    parallel, logged = sharded(ROWWISE, model=Scored()), []
    parameters = dict(in_backward_optimizer_filter(parallel.named_parameters()))
    dense = KeyedOptimizerWrapper(parameters, lambda members: torch.optim.SGD(members, lr=0.0))
    optimizer = CombinedOptimizer([parallel.fused_optimizer, dense])
    pipeline = TrainPipelineSparseDist(parallel, optimizer, torch.device("cpu"))
    batches = iter([Batch(jagged_features(share(ids)), share(ids)) for ids in features(FEW)])
    targets = ["bags.*", "top.weight"]
    observer = TorchRecObserver(
        parallel, optimizer, every_n_steps=1, targets=targets, log=lambda m, step: logged.append((step, m))
    )
    with observer, suppress(StopIteration):
        while True:
            pipeline.progress(batches)
    return logged


def moving_rate():
    """The rate of step n is that of the first over n, set as schedulers set it."""
    parallel, logged = sharded("EXACT_SGD"), []
    optimizer = parallel.fused_optimizer
    with TorchRecObserver(parallel, every_n_steps=1, targets=["bags.*"], log=lambda m, step: logged.append((step, m))):
        for number, ids in enumerate(features(FEW), start=1):
            for group in optimizer.param_groups:
                group["lr"] = LR / number
            optimizer.zero_grad()  # hands the rate on to the kernels
            loss_of(parallel(jagged_features(share(ids))), share(ids)).backward()
    return logged


def one_rank_fails():
    """What is logged and said where the second rank cannot read its share of the third step of the first table."""
    calls, read_share = [], FusedStep.read_share
    parallel, logged = sharded(ROWWISE), []

    def fail(step):
        calls.append(step)
        if dist.get_rank() == 1 and len(calls) == 7:
            raise MemoryError("planted")
        read_share(step)

    def act():
        with TorchRecObserver(
            parallel, every_n_steps=1, targets=["bags.*"], log=lambda m, step: logged.append((step, m))
        ):
            train(parallel, features(FEW))

    with patch.object(FusedStep, "read_share", fail):
        return {"said": sentences(act), "logged": logged}


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
        results["sequence"] = observed(ROWWISE, steps=features(FEW), model=Recommender(is_sequence=True))["logged"]
        results["pipelined"], results["moving rate"] = pipelined(), moving_rate()
        results["one fails"] = one_rank_fails()
        results["unsharded said"] = sentences(lambda: TorchRecObserver(Recommender()))
    torch.save(results, folder / f"rank-{dist.get_rank()}-of-{size}.pt")


if __name__ == "__main__":
    warnings.filterwarnings("error", message=".*(it failed|failed \\().*")
    torch.set_num_threads(1)
    with process_group():
        main(Path(sys.argv[1]))
