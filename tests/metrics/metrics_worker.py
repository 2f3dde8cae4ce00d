"""Computes the metrics on several ranks and leaves what came out for the test that started it.

Run as ``python -m torch.distributed.run --nproc-per-node W metrics_worker.py FOLDER``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from metric_inputs import batches

from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.metrics import norm_diagnostics


def main(folder):
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    world, rank = dist.get_world_size(), dist.get_rank()
    diagnostics = norm_diagnostics("frequency", temperature=1.0)
    for batch in batches(world, rank):
        diagnostics.update(**batch)
    found = diagnostics.compute()
    seen = sum(part.numel() for part in diagnostics["norm"].rows)
    torch.save({"found": found, "own numbers afterwards": seen}, Path(folder) / f"world-{world}-rank-{rank}.pt")


if __name__ == "__main__":
    with ended_process_group():
        main(sys.argv[1])
