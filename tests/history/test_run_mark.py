"""Who writes a history, and when it is complete: what is left on disk by runs that end, break off or go on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_models import Lit, PairTable, pair_batches, seeded

from lightning_normdyn import NormObserver
from lightning_normdyn.callbacks import NormDynamics, NormTrajectoryMonitor
from lightning_normdyn.history.run_mark import RunMark, has_ended, mark_end
from lightning_normdyn.history.target_history import fresh_root


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1)


def test_a_mark_is_read_as_it_was_written(tmp_path: Path) -> None:
    mark = RunMark.here(7)
    mark.write(tmp_path)
    assert RunMark.read(tmp_path) == mark
    assert (mark.process, mark.is_alive, mark.is_gone) == (os.getpid(), True, False)
    (tmp_path / "run").write_text("12-34")  # of a version that did not name the machine
    assert RunMark.read(tmp_path) == RunMark(12, 34)
    (tmp_path / "run").write_text("something else")
    assert RunMark.read(tmp_path) is None
    assert RunMark.read(tmp_path / "absent") is None


@pytest.mark.skipif(os.name == "nt", reason="there no process is asked whether it lives")
def test_a_process_is_gone_only_where_this_machine_would_know_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    ended = RunMark.here(1)._replace(process=process.pid)
    assert ended.is_gone
    assert ended._replace(host="").is_gone
    assert not ended._replace(host="elsewhere").is_gone


def test_a_fit_marks_its_history_as_complete(fit, tmp_path: Path) -> None:
    fit(Lit(seeded(PairTable), sgd), pair_batches(4), NormDynamics(), NormTrajectoryMonitor())
    assert has_ended(tmp_path / "normdyn")


def test_a_fit_that_breaks_off_does_so_too_and_one_that_goes_on_takes_the_mark_back(fit, tmp_path: Path) -> None:
    class Breaks(Lit):
        def on_train_batch_end(self, *_):
            assert not has_ended(tmp_path / "normdyn")
            raise ValueError("broken")

    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            fit(Breaks(seeded(PairTable), sgd), pair_batches(4), NormDynamics())
        assert has_ended(tmp_path / "normdyn")


def test_an_observer_marks_its_history_as_complete(tmp_path: Path) -> None:
    table = torch.nn.Embedding(3, 2)
    optimizer = sgd(table)
    with NormObserver(table, optimizer, log_dir=tmp_path) as observer:
        table(torch.tensor([1])).square().sum().backward()
        optimizer.step()
        assert not has_ended(tmp_path / "normdyn")
    assert has_ended(tmp_path / "normdyn")
    RunMark.here(0).write(tmp_path / "normdyn")  # another run of this process takes the folder
    observer.close()
    assert not has_ended(tmp_path / "normdyn")


def test_a_resumed_run_goes_on_in_the_history_that_was_complete(tmp_path: Path) -> None:
    root = fresh_root(tmp_path, 1, resumes=False)
    mark_end(root)
    assert has_ended(root)
    assert fresh_root(tmp_path, 2, resumes=True) == root
    assert not has_ended(root)


def test_the_end_of_what_is_no_history_is_not_marked(tmp_path: Path) -> None:
    mark_end(tmp_path)
    mark_end(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []
