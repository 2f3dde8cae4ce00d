"""What a run leaves on disk, however it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_worker import ROWS as MANY_ROWS
from plain_training import train_plainly
from pytorch_lightning import Callback
from small_models import ROWS, Lit, PairTable, TwoTables, pair_batches, seeded

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.history import read_run

TARGET = "net.table.weight"


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.3, weight_decay=0.05)


def norms_of(trajectory, step):
    return trajectory.filter(np.equal(trajectory["step"].to_numpy(), step))["norm"].to_numpy()


def test_trajectories_are_the_norms_after_each_step(fit, tmp_path):
    net, batches = seeded(PairTable), pair_batches(20)
    _, steps = train_plainly(net, batches, sgd, TARGET.removeprefix("net."))
    fit(Lit(net, sgd), batches, NormDynamics(every_n_steps=3, window=10))
    history = read_run(tmp_path)[TARGET]
    trajectory = history.trajectory()
    assert sorted(set(trajectory["step"].to_pylist())) == [1, 3, 6, 9, 10, 12, 15, 18, 20]
    for step in (1, 3, 10, 18, 20):
        expected = np.linalg.norm(steps[step - 1].after.numpy(), axis=1)
        np.testing.assert_allclose(norms_of(trajectory, step), expected, rtol=1e-6)
    description = history.description()
    expected = {"target": TARGET, "kind": "table", "rows": ROWS, "dim": 8, "optimizer": "SGD", "total_steps": 20}
    assert expected.items() <= description.items()
    assert (description["lr"], description["weight_decay"]) == (0.3, 0.05)


def test_quantities_are_what_went_to_the_logger(fit, tmp_path):
    trainer = fit(Lit(seeded(PairTable), sgd), pair_batches(20), NormDynamics(every_n_steps=5, window=10))
    kept = {}
    for line in read_run(tmp_path)[TARGET].quantities().to_pylist():
        kept.setdefault(line["step"], {})[line["quantity"]] = line["value"]
    logged = trainer.logger.of(TARGET)
    assert 21 not in logged
    assert kept == logged


class Failing(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 7:
            raise RuntimeError("out of luck")


def test_an_exception_loses_nothing(fit, tmp_path):
    """Rows of the last step before it are on disk, of every target."""
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(Lit(seeded(TwoTables), sgd), pair_batches(20), NormDynamics(every_n_steps=1), Failing())
    run = read_run(tmp_path)
    assert set(run) == {"net.queries.weight", "net.documents.weight"}
    for history in run.values():
        assert max(history.trajectory()["step"].to_pylist()) == 8
        assert max(history.quantities()["step"].to_pylist()) == 8


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_a_readable_history(tmp_path):
    """SIGKILL in the middle, several parts in."""
    worker = Path(__file__).with_name("killed_worker.py")
    process = subprocess.Popen(
        [sys.executable, str(worker), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with process:
        reached = next(line for line in process.stdout if line.startswith("40"))
        process.kill()
    trajectory = read_run(tmp_path)[TARGET].trajectory()
    steps = sorted(set(trajectory["step"].to_pylist()))
    assert steps == list(range(1, len(steps) + 1))
    assert int(reached) - 12 < len(steps)
    torch_norms = seeded(lambda: PairTable(rows=MANY_ROWS)).table.weight.norm(dim=1).detach().numpy()
    never_used = slice(MANY_ROWS - 2, MANY_ROWS)
    for step in (1, steps[-1]):
        assert len(norms_of(trajectory, step)) == MANY_ROWS
        np.testing.assert_allclose(norms_of(trajectory, step)[never_used], torch_norms[never_used], rtol=1e-6)
