"""Two processes put their vectors together: unequal numbers, more than are wanted, none on one rank, none at all."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist

from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.instruments.ranks import present_ranks


def vectors_of(rank, rows, width=3):
    """What a rank holds, different on each."""
    return torch.arange(rows * width, dtype=torch.float64).reshape(rows, width) + 100 * rank


CASES = {"unequal": (4, 2), "none on the second": (3, 0), "too many": (9, 4), "none at all": (0, 0)}
MOST_ROWS = 5


def main(folder):
    """Merges every case as one of two processes and keeps the outcome."""
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), present_ranks(torch.device("cpu"))
    merged = {}
    for name, rows in CASES.items():
        vectors = vectors_of(rank, rows[rank]) if rows[rank] else None
        merged[name] = ranks.merge_vectors(vectors, most_rows=MOST_ROWS)
    torch.save(merged, f"{folder}/{rank}.pt")


if __name__ == "__main__":
    with ended_process_group():
        main(sys.argv[1])
