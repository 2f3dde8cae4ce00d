"""Trains a table that lies on four ranks, in many ways, and leaves what was logged for the test that started it.

Run as ``python -m torch.distributed.run --nproc-per-node 4 spread_table_worker.py FOLDER``, where FOLDER holds the
state of a run of one process that is to be resumed.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from small_models import seeded
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from lightning_normdyn.capture.spread_step import SpreadStep
from lightning_normdyn.capture.table import TableTarget
from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.instruments import Instrument, NormObserver, fit

ROWS, DIM, BATCH, STEPS = 31, 8, 16, 60
OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.3),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.5, weight_decay=0.05),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
}


COUNTS = [ROWS - row for row in range(ROWS - 3)] + [0] * 3


class Anisotropy(Instrument):
    """One of the user's own, which is shown whole rows."""

    quantities = ("anisotropy",)

    def measure(self, look):
        return {"anisotropy": nn.functional.normalize(look.vectors.double(), dim=1).mean(0).norm()}


class Pairs(nn.Module):
    """Its loss is a mean over pairs of rows, so that the mean over ranks is the loss of all pairs together.

    A scale has a gradient too, by which all are clipped, and stays as it is.
    """

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(ROWS, DIM)
        self.scale = nn.Parameter(torch.tensor([0.5, -0.5]))

    def forward(self, pairs):
        left, right = self.table(pairs[:, 0]), self.table(pairs[:, 1])
        return ((1 + self.scale.sum() / 10) * (left * right).sum(1) - (pairs.sum(1) % 3 - 1.0)).square().mean()


def groups(net):
    return [{"params": [net.table.weight]}, {"params": [net.scale], "lr": 0.0}]


def by_columns(net, mesh):
    fully_shard(net, mesh=mesh["data"], shard_placement_fn=lambda parameter: Shard(parameter.ndim - 1))


def by_tensor(style):
    def shard(net, mesh):
        parallelize_module(net, mesh["tensor"], {"table": style(input_layouts=Replicate(), output_layouts=Replicate())})
        if "data" in mesh.mesh_dim_names:
            fully_shard(net, mesh=mesh["data"])

    return shard


ALL, SQUARE = ((4,), ("data",)), ((2, 2), ("data", "tensor"))
LAYOUTS = {
    "rows": (ALL, lambda net, mesh: fully_shard(net, mesh=mesh["data"])),
    "columns": (ALL, by_columns),
    "HSDP": (((2, 2), ("copies", "data")), lambda net, mesh: fully_shard(net, mesh=mesh)),
    "tensor-parallel rows": (((4,), ("tensor",)), by_tensor(RowwiseParallel)),
    "tensor-parallel columns": (((4,), ("tensor",)), by_tensor(ColwiseParallel)),
    "tensor-parallel rows, sharded": (SQUARE, by_tensor(RowwiseParallel)),
    "tensor-parallel columns, sharded": (SQUARE, by_tensor(ColwiseParallel)),
}
CASES = {
    **{f"{layout}, adamw": (layout, "adamw", {}) for layout in LAYOUTS},
    "rows, sgd": ("rows", "sgd", {}),
    "rows, adagrad": ("rows", "adagrad", {}),
    "columns, adagrad": ("columns", "adagrad", {}),
    "rows, sampled": ("rows", "adamw", {"max_tracked_rows": 11}),
    "columns, sampled": ("columns", "adamw", {"max_tracked_rows": 11}),
    "rows, sampled by counts": ("rows", "adamw", {"max_tracked_rows": 11, "row_counts": COUNTS}),
    "tensor-parallel columns, sampled by counts": (
        "tensor-parallel columns, sharded",
        "adagrad",
        {"max_tracked_rows": 11, "row_counts": COUNTS},
    ),
    "rows, seldom touched": ("rows", "adamw", {"window": 50, "every_n_steps": 25, "steps": 104}),
}


def batches(steps):
    """Pairs of rows, low numbers far more often, and the last three never."""
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(steps, BATCH, 2, generator=generator, dtype=torch.float64)
    return ((ROWS - 3) * uniform**3).long()


def share(batch, mesh=None):
    """What this rank is given of a batch: the ranks of a tensor-parallel dimension are given the same."""
    if mesh is None:
        return batch
    parts = [name for name in mesh.mesh_dim_names if name != "tensor"]
    rank, count = 0, 1
    for name in parts:
        rank, count = rank * mesh[name].size() + mesh[name].get_local_rank(), count * mesh[name].size()
    return batch[rank::count]


def watched(net, optimizer, logged, log_dir=None, *, steps=STEPS, **settings):
    options = {"targets": ["table.weight"], "every_n_steps": 5, "window": 20, "forecast_at": 0.4} | settings
    options["instruments"] = [Anisotropy()]
    return NormObserver(
        net,
        optimizer,
        total_steps=steps,
        log=lambda metrics, step: logged.append((step, metrics)),
        log_dir=log_dir,
        **options,
    )


def train(net, optimizer, observer, pairs, mesh=None, *, max_norm=1.0):
    """Trains, clipped, on this rank's part of each batch."""
    with observer:
        for batch in pairs:
            optimizer.zero_grad()
            net(share(batch, mesh)).backward()
            observer.before_step()
            nn.utils.clip_grad_norm_(net.parameters(), max_norm)
            optimizer.step()
        return observer.state_dict()


def run(case, mesh=None, log_dir=None):
    """What is logged in a case; whole on one process, or sharded.

    Where rows are touched too seldom for a window that reads every other step, they are read in each.
    """
    layout, optimizer, settings = CASES[case]
    net, logged = seeded(Pairs), []
    net.scale.requires_grad_("parallel" not in layout)  # torch clips no gradients of several meshes together
    if mesh is not None:
        LAYOUTS[layout][1](net, mesh)
    trained = OPTIMIZERS[optimizer](groups(net))
    pairs = batches(settings.get("steps", STEPS))
    enough = {"_ENOUGH_STEPS": 25, "_ENOUGH_READINGS": 5} if case == "rows, seldom touched" else {}
    with patch.multiple(fit, **enough) if enough else nullcontext():
        state = train(net, trained, watched(net, trained, logged, log_dir, **settings), pairs, mesh)
    return {"logged": logged, "weight": whole(net.table.weight), "state": state}


def whole(weight):
    return weight.detach().full_tensor() if hasattr(weight, "full_tensor") else weight.detach().clone()


def half_way(folder=None, mesh=None):
    """State and weight after half of the steps."""
    net, logged = seeded(Pairs), []
    if mesh is not None:
        LAYOUTS["rows"][1](net, mesh)
    optimizer = OPTIMIZERS["sgd"](groups(net))
    observer = watched(net, optimizer, logged)
    state = train(net, optimizer, observer, batches(STEPS)[: STEPS // 2], mesh)
    return {"state": state, "weight": whole(net.table.weight)}


def resume(saved, mesh=None):
    """What is logged in the second half."""
    net, logged = Pairs(), []
    with torch.no_grad():
        net.table.weight.copy_(saved["weight"])
    if mesh is not None:
        LAYOUTS["rows"][1](net, mesh)
    optimizer = OPTIMIZERS["sgd"](groups(net))
    observer = watched(net, optimizer, logged)
    observer.load_state_dict(saved["state"])
    train(net, optimizer, observer, batches(STEPS)[STEPS // 2 :], mesh)
    return logged


def bit_identical(mesh):
    """Whether this rank's part of the weight is the same with and without an observer."""
    weights = []
    for is_observed in (False, True):
        net = seeded(Pairs)
        LAYOUTS["rows"][1](net, mesh)
        optimizer = OPTIMIZERS["adamw"](groups(net))
        observer = watched(net, optimizer, [])
        if is_observed:
            train(net, optimizer, observer, batches(STEPS), mesh)
        else:
            for batch in batches(STEPS):
                optimizer.zero_grad()
                net(share(batch, mesh)).backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
        weights.append(net.table.weight.to_local().clone())
    return torch.equal(*weights)


def square_of_what_all_have(mesh):
    """The squared norm of gradients of which one is sharded and another is whole on each rank."""
    net = seeded(Pairs)
    LAYOUTS["tensor-parallel rows"][1](net, mesh)
    layout = TableTarget("table.weight", net).layout
    total = layout.share_of_square([torch.tensor([3.0, 4.0]), net.table.weight])
    layout.add_up(total)
    return {"square": total, "of the rest": net.table.weight.detach().full_tensor().double().square().sum()}


def one_rank_fails(mesh):
    """What each rank logs and says where one of them cannot read its share of the fifth measured step."""
    net, logged, calls, read_share = seeded(Pairs), [], [], SpreadStep.read_share
    LAYOUTS["rows"][1](net, mesh)
    optimizer = OPTIMIZERS["sgd"](groups(net))

    def fail(step, *further):
        calls.append(step)
        if dist.get_rank() == 1 and len(calls) == 5:
            raise MemoryError("planted")
        read_share(step, *further)

    with patch.object(SpreadStep, "read_share", fail), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        train(net, optimizer, watched(net, optimizer, logged), batches(STEPS), mesh)
    return {"steps": [step for step, _ in logged], "said": [str(warning.message) for warning in said]}


def main(folder):
    dist.init_process_group("gloo")
    rank, results = dist.get_rank(), {}
    keys = dict.fromkeys(key for key, _ in LAYOUTS.values())  # in one order on all ranks
    meshes = {key: init_device_mesh("cpu", key[0], mesh_dim_names=key[1]) for key in keys}
    for case, (layout, _, _) in CASES.items():
        results[case] = run(case, meshes[LAYOUTS[layout][0]], folder / case if rank == 0 else None)
    data = meshes[ALL]
    results["resumed"] = resume(torch.load(folder / "half.pt", weights_only=True), data)
    results["half way"] = half_way(mesh=data)
    results["bit-identical"] = bit_identical(data)
    results["square"] = square_of_what_all_have(meshes[LAYOUTS["tensor-parallel rows"][0]])
    results["one fails"] = one_rank_fails(data)
    torch.save(results, folder / f"rank-{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with ended_process_group():
        main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # torch's caches of DTensor keep threads of gloo alive, which an ending interpreter would run into
