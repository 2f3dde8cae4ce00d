"""A plain loop in two processes logs what one process finds on all the data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from plain_ranks_worker import STEPS, Dense, train
from rank_starter import run_ranks
from small_models import pair_batches, seeded

from lightning_normdyn.history import read_run

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("plain_ranks_worker.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the two processes left their findings."""
    folder = tmp_path_factory.mktemp("plain_ranks")
    run_ranks(WORKER, folder)
    return folder


@pytest.mark.parametrize("announce", [True, False])
def test_two_processes_log_what_one_does(folder, announce):
    """Each has half of a batch; without before_step nobody can tell how long a gradient was before it was clipped."""
    first, second = (torch.load(folder / f"rank-{rank}.pt", weights_only=True)[announce] for rank in (0, 1))
    assert second["logged"] == []
    assert not [name for name, value in first["weights"].items() if not torch.equal(value, second["weights"][name])]
    expected = train(seeded(Dense), pair_batches(STEPS), announce=True)
    unknown = set() if announce else {"normdyn/table.weight/gradient_norm", "normdyn/table.weight/clip_ratio"}
    assert [set(metrics) for metrics in first["logged"]] == [set(metrics) - unknown for metrics in expected]
    for found, wanted in zip(first["logged"], expected, strict=True):
        for key, value in found.items():
            if "table" not in key and key.endswith(("skill_low", "skill_high")):
                continue  # of a few items that hardly moved, whose errors are float32's
            rel = 1e-5 if "table" in key else 1e-3  # a central difference in float32 decides an encoder's decay
            noise = 1e-6 if key.endswith("residual") else 1e-9
            rel = 1e-6 if key.endswith("common_direction") else rel
            assert value == pytest.approx(wanted[key], rel=rel, abs=noise), key


def test_one_process_writes_the_history(folder):
    assert set(read_run(folder / "True")) == {"table.weight", "encoder"}
