"""Two and three gloo ranks with unequal shares, one of them empty: the values of one process with all items."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from metric_inputs import SHARES, batches
from rank_starter import run_ranks

from lightning_normdyn.metrics import norm_diagnostics

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("metrics_worker.py")
DRAWN = ("_low", "_high", "qnorm_share")
"""Ends of intervals and shares of resamples: which items a resample draws depends on their order."""


@pytest.fixture(scope="module")
def alone():
    diagnostics = norm_diagnostics("frequency", temperature=1.0)
    for batch in batches(1, 0):
        diagnostics.update(**batch)
    return diagnostics.compute()


@pytest.mark.parametrize("world", [world for world in SHARES if world > 1])
def test_ranks_agree_with_one_process(alone, world, tmp_path):
    run_ranks(WORKER, tmp_path, ranks=world)
    for rank, share in enumerate(SHARES[world]):
        left = torch.load(tmp_path / f"world-{world}-rank-{rank}.pt", weights_only=True)
        assert left["own numbers afterwards"] == 3 * share  # norm, length, frequency: the ranks' own again
        assert left["found"].keys() == alone.keys()
        for name, value in left["found"].items():
            tolerance = 1e-2 if name.endswith(DRAWN) else 1e-6
            assert float(value) == pytest.approx(float(alone[name]), rel=tolerance, abs=tolerance), name
