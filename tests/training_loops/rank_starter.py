"""Runs a worker file on several ranks, as torchrun does, and shows what each said and where it was if one fails.

Ranks are forked from a server that has imported torch and Lightning once: a fresh interpreter for each, and another for
torchrun, costs seconds of imports. torchrun itself is run where it is the subject (``test_nodes.py``,
``test_process_group.py``).
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import runpy
import signal
import sys
import time
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.distributed import TCPStore

SEEDS = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
"""Lightning leaves its seed to child processes in the environment; that of another test is not theirs."""
PATIENCE = 5.0
"""Seconds that the other ranks have once one has failed."""
SHOWN = 6_000
"""Characters of a rank's words."""


class RankError(AssertionError):
    """A rank failed or did not end; its message has the words of every rank."""


def run_ranks(worker, *arguments, ranks=2, timeout=300, start_method="forkserver", **variables):
    """Runs a file as ``__main__`` on some ranks of one machine and returns what each printed, errors included.

    Args:
        worker: the file; modules beside it are found, as are those that the test finds.
        arguments: its ``sys.argv[1:]``.
        ranks: how many.
        timeout: seconds until ranks that have not ended are aborted, so that each shows its stack.
        start_method: "spawn" for fresh interpreters, where a variable must be there when a library is imported.
        variables: of the environment, beside those of this process and torchrun's.

    Raises:
        RankError: a rank failed, was killed, or did not end in time.
    """
    context = multiprocessing.get_context(start_method)
    context.set_forkserver_preload(["pytorch_lightning", "torch.distributed.fsdp"])
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with TemporaryDirectory(prefix="ranks-") as folder:
        logs = [Path(folder, f"rank-{rank}.log") for rank in range(ranks)]
        environments = [_environment(rank, ranks, store.port) | variables for rank in range(ranks)]
        processes = [
            context.Process(target=_work, args=(str(worker), [*map(str, arguments)], environment, str(log)))
            for environment, log in zip(environments, logs, strict=True)
        ]
        for process in processes:
            process.start()
        fates = _fates(processes, timeout)
        words = [log.read_text(errors="replace") if log.exists() else "" for log in logs]
    if any(fate != "ended" for fate in fates):
        raise RankError("\n".join(f"--- rank {rank} {fates[rank]}:\n{words[rank][-SHOWN:]}" for rank in range(ranks)))
    return words


def _environment(rank, ranks, port):
    """As torchrun would have it; the store is that of this process, so no port can be taken in between."""
    ordinary = {name: value for name, value in os.environ.items() if name not in SEEDS}
    places = {"RANK": rank, "LOCAL_RANK": rank, "ROLE_RANK": rank, "GROUP_RANK": 0}
    sizes = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "ROLE_WORLD_SIZE": ranks, "GROUP_WORLD_SIZE": 1}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    agent = {"RUN_ID": "none", "RESTART_COUNT": 0, "MAX_RESTARTS": 0, "USE_AGENT_STORE": True}
    numbers = places | sizes | meeting | {f"TORCHELASTIC_{name}": value for name, value in agent.items()}
    return ordinary | {name: str(value) for name, value in numbers.items()}


def _work(worker, arguments, environment, log):
    """The body of a rank."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.enable(file=2)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [worker, *arguments]
    sys.path.insert(0, str(Path(worker).parent))
    runpy.run_path(worker, run_name="__main__")


def _fates(processes, timeout):
    """How each process ended; those that do not are aborted, which shows their stacks."""
    deadline = time.monotonic() + timeout
    running = list(processes)
    while running and (left := deadline - time.monotonic()) > 0:
        wait([process.sentinel for process in running], left)
        running = [process for process in running if process.exitcode is None]
        if any(process.exitcode for process in processes):
            deadline = min(deadline, time.monotonic() + PATIENCE)
    aborted = [process for process in processes if process.exitcode is None]
    for process in aborted:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGABRT)
    for process in processes:
        process.join(PATIENCE)
        process.kill()
        process.join()
    return [_fate(process, process in aborted) for process in processes]


def _fate(process, was_aborted):
    if was_aborted:
        return "did not end and was aborted here"
    if process.exitcode < 0:
        return f"was ended by {signal.Signals(-process.exitcode).name}"
    return f"failed with exit code {process.exitcode}" if process.exitcode else "ended"
