"""A rank ends cleanly: no thread of its process group is alive when the interpreter ends."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from lightning_normdyn.cli.process_group import ended_process_group

TESTS = Path(__file__).parents[1]
WORKER = Path(__file__).with_name("starved_rank_worker.py")
STARTS_RANKS = re.compile(
    r'^    dist\.init_process_group|strategy="ddp"|strategy=ddp|strategy=ModelParallelStrategy', re.M
)


def run_ranks(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(WORKER), str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def threads_left(folder: Path) -> list[int]:
    return [int((folder / f"threads-{rank}").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_no_thread_of_the_group_is_left(tmp_path: Path) -> None:
    run = run_ranks(tmp_path)
    assert "terminate called" not in run.stderr
    assert run.returncode == 0, run.stderr[-4000:]
    assert threads_left(tmp_path) == [0, 0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_the_count_of_threads_can_fail(tmp_path: Path) -> None:
    run_ranks(tmp_path, "left alone")  # which may abort at its end
    assert min(threads_left(tmp_path)) > 0


def test_every_worker_that_starts_ranks_ends_them() -> None:
    workers = [file for file in TESTS.rglob("*.py") if STARTS_RANKS.search(file.read_text())]
    assert len(workers) >= 7
    assert [file.name for file in workers if "with ended_process_group()" not in file.read_text()] == []


def test_a_group_is_destroyed_after_an_exception_too(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", world_size=1, rank=0)
    with pytest.raises(ValueError, match="of the body"), ended_process_group():
        raise ValueError("of the body")
    assert not dist.is_initialized()


def test_without_a_group_nothing_happens() -> None:
    with ended_process_group():
        pass
    assert not dist.is_initialized()
