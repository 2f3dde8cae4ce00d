"""Scored and graded documents for the tests of ranking metrics."""

from __future__ import annotations

import torch


def drawn(seed, tied, n=9, m=30):
    """Scores, grades and queries of some documents each; query 8 has nothing relevant."""
    draw = torch.Generator().manual_seed(seed)
    count = torch.randint(1, m, (n,), generator=draw)
    queries = torch.arange(n).repeat_interleave(count)
    scores = torch.randn(len(queries), generator=draw) - 2
    if tied:
        scores = -torch.randint(0, 4, (len(queries),), generator=draw).float()
    grades = torch.randint(-2, 3, (len(queries),), generator=draw)
    grades[queries == 8] = 0
    order = torch.randperm(len(queries), generator=draw)
    return scores[order], grades[order], queries[order]
