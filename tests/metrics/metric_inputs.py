"""What the metrics are given in their tests: a validation set, and how it is dealt out to ranks."""

from __future__ import annotations

import torch

ITEMS, D = 90, 6
SHARES = {1: (90,), 2: (31, 59), 3: (40, 0, 50)}
"""Items of each rank; one of three sees nothing."""


def validation_set():
    """Queries, documents, irrelevant documents, length and a covariate that follows the norm."""
    draw = torch.Generator().manual_seed(7)
    queries, documents, irrelevant = torch.randn(3, ITEMS, D, generator=draw)
    documents = documents * (1.5 + torch.rand(ITEMS, 1, generator=draw))
    length = torch.randint(3, 40, (ITEMS,), generator=draw)
    frequency = documents.norm(dim=1) + 0.05 * length + torch.randn(ITEMS, generator=draw)
    return {
        "queries": queries,
        "documents": documents,
        "irrelevant": irrelevant,
        "length": length,
        "frequency": frequency,
    }


def batches(world, rank, size=16):
    """The batches of one rank."""
    first = sum(SHARES[world][:rank])
    mine = {name: x[first : first + SHARES[world][rank]] for name, x in validation_set().items()}
    for start in range(0, SHARES[world][rank], size):
        yield {name: x[start : start + size] for name, x in mine.items()}
