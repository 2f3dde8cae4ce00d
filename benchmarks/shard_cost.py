"""What an observer's step costs on a table that two ranks share, beside one that each has for itself."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from step_clock import LATE, PLANNED, StepClock, clocked, kind_of
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lightning_normdyn.capture.layout import TableLayout
from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.instruments import NormObserver
from lightning_normdyn.instruments.ranks import present_ranks

DIM, BATCH = 64, 256


class Counts:
    """How many collectives and requests to the store the observer made on steps of each kind."""

    def __init__(self) -> None:
        self.kind, self.steps = "", Counter[str]()
        self.collectives, self.requests = Counter[str](), Counter[str]()
        self.messages: list[int] = []

    def begin_step(self, kind: str) -> None:
        """What is counted from now on belongs to a step of this kind."""
        self.kind = kind
        self.steps[kind] += 1

    def counting(self, add_up: Callable[..., None]) -> Callable[..., None]:
        """A layout's exchange of sums that is counted."""

        def add_and_count(layout: TableLayout, numbers: torch.Tensor) -> None:
            self.collectives[self.kind] += len(layout.ranks)
            self.messages.append(numbers.numel())
            add_up(layout, numbers)

        return add_and_count

    def per_step(self, counter: Counter[str]) -> dict[str, float]:
        """Means over the steps of each kind."""
        return {kind: round(counter[kind] / steps, 2) for kind, steps in self.steps.items()}


class CountedStore:
    """A store whose requests are counted.

    Args:
        store: the store.
        counts: where they are.
    """

    def __init__(self, store: Any, counts: Counts) -> None:
        self._store, self._counts = store, counts

    def __getattr__(self, name: str) -> Any:
        self._counts.requests[self._counts.kind] += 1
        return getattr(self._store, name)


def measure_ranks(path: Path, *, steps: int, rows: int) -> None:
    """Trains both kinds of tables on two ranks; rank 0 writes what it measured.

    Args:
        path: of the JSON file.
        steps: of each kind.
        rows: that a rank holds.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    with ended_process_group():
        local = train(nn.Embedding(rows, DIM), rows, steps)
        table = nn.Embedding(rows * dist.get_world_size(), DIM)
        fully_shard(table, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
        sharded = train(table, rows * dist.get_world_size(), steps)
        report = {
            "local_rows": rows,
            "dim": DIM,
            "local": local,
            "sharded": sharded,
            "message_numbers": sharded["message_numbers"],
            "all_reduce_us": sharded["all_reduce_us"],
            "meeting_us": sharded["meeting_us"],
        }
        if dist.get_rank() == 0:
            path.write_text(json.dumps(report), encoding="utf-8")
        dist.barrier()


def train(table: nn.Module, rows: int, steps: int) -> dict[str, Any]:
    """Own time of each kind of step, with a bare all-reduce of the observer's last message timed in every one."""
    torch.manual_seed(dist.get_rank())
    optimizer = torch.optim.AdamW(table.parameters(), lr=1e-3, weight_decay=0.1)
    observer = NormObserver(table, optimizer, total_steps=PLANNED, max_tracked_rows=rows, log=lambda *_: None)
    clock, counts, bare, meetings = StepClock(optimizer), Counts(), [], []
    meeting = present_ranks(torch.device("cpu")).meeting(f"bare {type(table.weight).__name__}")
    with patch.object(TableLayout, "add_up", counts.counting(TableLayout.add_up)), clocked(clock, observer, LATE):
        watch = observer._observation.recorder.watches[0]
        if watch.meeting is not None:
            watch.meeting._store = CountedStore(watch.meeting._store, counts)
        for step in range(LATE + 1, LATE + 1 + steps):
            counts.begin_step(kind_of(step))
            optimizer.zero_grad()
            (table(torch.randint(rows, (BATCH,))) - 0.1).square().sum().backward()
            dist.barrier()  # what a rank waits for is not the training of the other
            optimizer.step()
            clock.end_step()
            bare.append(_all_reduce_seconds(counts.messages[-1] if counts.messages else 1))
            meetings.append(_seconds(lambda: meeting.settle(f"step {step}")))  # noqa: B023 - called at once
    return {
        "wall": clock.summary(LATE, "wall"),
        "processor": clock.summary(LATE, "processor"),
        "collectives": counts.per_step(counts.collectives),
        "requests": counts.per_step(counts.requests),
        "message_numbers": max(counts.messages, default=0),
        "all_reduce_us": median(bare) * 1e6,
        "meeting_us": median(meetings) * 1e6,
    }


def _all_reduce_seconds(numbers: int) -> float:
    message = torch.zeros(numbers, dtype=torch.float64)
    return _seconds(lambda: dist.all_reduce(message))


def _seconds(action: Callable[[], object]) -> float:
    dist.barrier()
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
