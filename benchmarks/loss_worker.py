"""One loss at one batch size in a process of its own: ``python loss_worker.py CASE BATCH``, run by ``losses.py``.

Reads a command a line and answers each with a line of JSON: ``first`` makes the first step at this size and says what
memory it took, ``time SECONDS`` repeats the step for about that long.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from loss_peers import CASES, Step, embeddings
from torch import Tensor

_WARM_UP = 64
_MOST_REPEATS = 200
_SHORT = 0.1
_STATUS, _CLEAR, _STAT = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/stat")


class Worker:
    """Answers commands about one loss."""

    def __init__(self, name: str, batch: int) -> None:
        build = CASES[name].build
        build(*embeddings(_WARM_UP)).run()  # imports and what libraries set up once
        self.batch = batch
        self.step: Step = build(*embeddings(batch))
        self.seconds = 0.0

    def first(self) -> dict[str, Any]:
        """Memory of a step above what was there before it, and its results."""
        self.step.clear()
        gc.collect()
        _give_back()
        before = _start_peak()
        started = time.perf_counter()
        value = self.step.run()
        self.seconds = time.perf_counter() - started
        peak = None if before is None else _kibibytes("VmHWM") - before
        of_q, of_d = (gradient.double() for gradient in self.step.gradients())
        return {
            "value": float(value),
            "norms": [float(of_q.norm()), float(of_d.norm())],
            "sample": [x for gradient in (of_q, of_d) for x in _sample(gradient)],
            "of_parameters": [x for p in self.step.parameters if p.grad is not None for x in p.grad.flatten().tolist()],
            "peak_mib": None if peak is None else round(peak / 1024, 2),
            "seconds": self.seconds,
            "threads": torch.get_num_threads(),
        }

    def time(self, at_least: float) -> dict[str, Any]:
        """Seconds of a step by the clock and by the processor, over all threads."""
        repeats = min(_MOST_REPEATS, max(1, round(at_least / self.seconds)))
        wall = cpu = 0.0
        if self.seconds < _SHORT:  # threads and caches wake up first, which would show in a short turn
            self.step.run()
        before, own, started = busy(), time.process_time(), time.perf_counter()
        for _ in range(repeats):
            self.step.clear()
            wall_before, cpu_before = time.perf_counter(), time.process_time()
            self.step.run()
            wall += time.perf_counter() - wall_before
            cpu += time.process_time() - cpu_before
        others = (busy() - before - (time.process_time() - own)) / (time.perf_counter() - started)
        self.step.clear()
        _give_back()
        self.seconds = wall / repeats
        return {"wall": wall / repeats, "cpu": cpu / repeats, "repeats": repeats, "others": round(others, 3)}


def _sample(gradient: Tensor) -> list[float]:
    picked: list[float] = gradient[:: max(1, len(gradient) // 64), ::64].flatten().tolist()
    return picked


def _kibibytes(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1])


def _start_peak() -> int | None:
    """Forgets the peak so far; what is resident now, in KiB, or ``None`` where the system cannot tell."""
    try:
        _CLEAR.write_text("5")
        return _kibibytes("VmRSS")
    except (OSError, StopIteration):
        return None


def busy() -> float:
    """Seconds that all processors of the machine have worked, for whomever; 0 where the system cannot tell."""
    if not _STAT.exists():
        return 0.0
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, _STAT.read_text().split()[1:9])
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def _give_back() -> None:
    """Hands free memory back to the system, so that the next peak counts all of it."""
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a peer prints goes elsewhere
    worker = None
    try:
        worker = Worker(sys.argv[1], int(sys.argv[2]))
        answer: dict[str, Any] = {"ready": True}
    except Exception as error:  # whatever a peer raises is a row of the table
        answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(answer), file=answers, flush=True)
    for line in sys.stdin if worker else ():
        command, *arguments = line.split()
        try:
            answer = worker.first() if command == "first" else worker.time(*map(float, arguments))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
