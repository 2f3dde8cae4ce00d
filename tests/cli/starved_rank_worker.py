"""A rank whose gloo threads come last on its core: ``torchrun starved_rank_worker.py FOLDER [left alone]``."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist

from lightning_normdyn.cli.process_group import ended_process_group


def gloo_threads() -> list[int]:
    tasks = Path("/proc/self/task").iterdir()
    return [int(task.name) for task in tasks if "gloo" in (task / "comm").read_text()]


def reduce_starved() -> None:
    """What a loaded machine does to a thread: it still holds the last tensors when the interpreter ends."""
    dist.init_process_group("gloo")
    dist.all_reduce(torch.ones(3))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for thread in gloo_threads():
        os.sched_setaffinity(thread, os.sched_getaffinity(0))
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    for _ in range(5):
        dist.all_reduce(torch.ones(3))


def main(folder: Path, *, ends: bool) -> None:
    with ended_process_group() if ends else nullcontext():
        reduce_starved()
    (folder / f"threads-{os.environ['RANK']}").write_text(str(len(gloo_threads())))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), ends=sys.argv[2:] != ["left alone"])
