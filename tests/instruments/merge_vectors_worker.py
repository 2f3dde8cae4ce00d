"""Two processes put their vectors together: unequal numbers, more than are wanted, none on one rank, none at all."""

from __future__ import annotations

import torch
import torch.distributed as dist

from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.instruments.ranks import present_ranks


def vectors_of(rank, rows, width=3):
    """What a rank holds, different on each."""
    return torch.arange(rows * width, dtype=torch.float64).reshape(rows, width) + 100 * rank


CASES = {"unequal": (4, 2), "none on the second": (3, 0), "too many": (9, 4), "none at all": (0, 0)}
MOST_ROWS = 5


def merge(rank, folder):
    """Merges every case as one of two processes and keeps the outcome."""
    with ended_process_group():
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
        ranks = present_ranks(torch.device("cpu"))
        merged = {}
        for name, rows in CASES.items():
            vectors = vectors_of(rank, rows[rank]) if rows[rank] else None
            merged[name] = ranks.merge_vectors(vectors, most_rows=MOST_ROWS)
        torch.save(merged, f"{folder}/{rank}.pt")
