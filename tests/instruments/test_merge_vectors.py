"""A user's instrument sees the vectors of all ranks, on every rank alike."""

from __future__ import annotations

from pathlib import Path

import torch
from merge_vectors_worker import CASES, MOST_ROWS, vectors_of
from rank_starter import run_ranks

from lightning_normdyn.instruments.ranks import Ranks


def test_two_processes_see_the_vectors_of_both(tmp_path):
    run_ranks(Path(__file__).with_name("merge_vectors_worker.py"), tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, rows in CASES.items():
        held = [vectors_of(rank, count) for rank, count in enumerate(rows) if count]
        if not held:
            assert first[name] is None
            assert second[name] is None
            continue
        thinned = [vectors[:: -(-len(vectors) // MOST_ROWS)] for vectors in held]
        assert torch.equal(first[name], torch.cat(thinned).float())
        assert torch.equal(second[name], first[name])


def test_one_process_keeps_its_own():
    vectors = vectors_of(0, 4)
    assert Ranks().merge_vectors(vectors, most_rows=MOST_ROWS) is not None
    assert torch.equal(Ranks().merge_vectors(vectors, most_rows=MOST_ROWS), vectors)
    assert Ranks().merge_vectors(None, most_rows=MOST_ROWS) is None
