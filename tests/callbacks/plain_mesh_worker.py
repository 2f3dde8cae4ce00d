"""Plain loops on two ranks under FSDP2 and tensor parallelism; leaves what came out for the test that started it.

Run as ``python -m torch.distributed.run --nproc-per-node 2 plain_mesh_worker.py FOLDER``.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.instruments import NormObserver
from lightning_normdyn.losses import InfoNCE

D, CLASSES, BATCH, STEPS, MAX_SCALE = 6, 10, 8, 12, 2.5


class Retriever(nn.Module):
    """An encoder and a loss whose temperature falls below its bound within a few steps."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(D, 16), nn.Tanh(), nn.Linear(16, D))
        self.loss = InfoNCE(temperature=0.5, learnable_temperature=True, max_scale=MAX_SCALE)

    def forward(self, batch):
        return self.loss(self.encoder(batch), batch)


class Proxies(nn.Module):
    """Proxies of classes as columns ``[d, classes]``."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.W = nn.Parameter(torch.randn(D, CLASSES))

    def forward(self, batch):
        return nn.functional.cross_entropy(batch @ self.W, batch.abs().argmax(1))


def batches():
    return torch.randn(STEPS, BATCH, D, generator=torch.Generator().manual_seed(2))


def scales(module, rank=0, ranks=1):
    """The learnt scale after each step of a plain loop that never mentions it."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
    found = []
    for batch in batches():
        optimizer.zero_grad()
        module(batch[rank::ranks]).backward()
        optimizer.step()
        log_scale = module.loss.scaling.log_scale.detach()
        found.append((log_scale.full_tensor() if hasattr(log_scale, "full_tensor") else log_scale).exp().item())
    return found


def columns(module, rank=0, ranks=1):
    """What is logged of proxies that are named by their columns."""
    logged = []
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.05, weight_decay=0.2)
    options = {"targets": ["W:columns"], "every_n_steps": 2, "window": STEPS // 2}
    observer = NormObserver(module, optimizer, total_steps=STEPS, log=lambda *news: logged.append(news), **options)
    with observer:
        for batch in batches():
            optimizer.zero_grad()
            module(batch[rank::ranks]).backward()
            observer.before_step()
            optimizer.step()
    return logged


def followed(module):
    """What is said and logged of an encoder in a plain loop that gives all ranks the same batch."""
    logged = []
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    options = {"targets": ["encoder"], "every_n_steps": 2, "window": STEPS // 2}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with NormObserver(module, optimizer, total_steps=STEPS, log=lambda *news: logged.append(news), **options):
            for batch in batches():
                optimizer.zero_grad()
                module.encoder(batch).square().mean().backward()
                optimizer.step()
    return {"said": [str(warning.message) for warning in said], "logged": logged}


def tensor_parallel(mesh):
    module = Retriever()
    parallelize_module(module.encoder, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    return module


def sharded(module, mesh):
    fully_shard(module, mesh=mesh)
    return module


def sharded_encoder(mesh):
    module = Retriever()
    fully_shard(module.encoder, mesh=mesh)
    return module


def main(folder):
    dist.init_process_group("gloo")
    mesh, rank = init_device_mesh("cpu", (2,)), dist.get_rank()
    results = {
        "scales": scales(sharded(Retriever(), mesh), rank, 2),
        "columns": columns(sharded(Proxies(), mesh), rank, 2),
        "tensor parallel": followed(tensor_parallel(mesh)),
        "sharded": followed(sharded_encoder(mesh)),
    }
    torch.save(results, folder / f"rank-{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with ended_process_group():
        main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # torch's caches of DTensor keep threads of gloo alive, which an ending interpreter would run into
