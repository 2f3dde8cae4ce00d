"""Computes the ranking metrics on two ranks: ``torchrun --nproc-per-node 2 ranking_worker.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from ranking_items import drawn

from lightning_normdyn import metrics
from lightning_normdyn.cli.process_group import ended_process_group


def main(folder):
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    items = drawn(4, True)
    found = {}
    for name in ("RankingNDCG", "RankingMRR", "RankingRecall", "RankingMAP", "RankingHitRate"):
        first = len(items[0]) if name == "RankingHitRate" else 40
        metric = getattr(metrics, name)(top_k=5)
        share = slice(0, first) if rank == 0 else slice(first, None)
        if rank == 0 or first < len(items[0]):
            metric.update(*(column[share] for column in items))
        found[name] = float(metric.compute())
    torch.save(found, Path(folder) / f"rank-{rank}.pt")


if __name__ == "__main__":
    with ended_process_group():
        main(sys.argv[1])
