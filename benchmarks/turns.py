"""Several live training runs that take turns on one machine, so that what disturbs one disturbs all alike."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer

_PRELOADED = ["lightning_normdyn.callbacks", "lightning_normdyn.tasks", "pytorch_lightning.loggers"]


class Run(NamedTuple):
    """One training run, ready to start.

    Attributes:
        trainer: its trainer, without the callback that takes turns.
        model: what it trains.
        data: on what.
        facts: reads what is wanted of the finished run, in plain numbers.
    """

    trainer: Trainer
    model: LightningModule
    data: LightningDataModule
    facts: Callable[[], dict[str, Any]] = dict


class Turn(NamedTuple):
    """What a run did while the others waited.

    Attributes:
        steps: wall-clock seconds of each training step, data loading and logging included.
        wall: wall-clock seconds of the whole turn: the first also holds the start of the run, the last its end.
        cpu: processor seconds of the whole turn, over all threads.
    """

    steps: list[float]
    wall: float
    cpu: float


class Finished(NamedTuple):
    """All turns of a run, a fingerprint of its final weights, and its facts."""

    turns: list[Turn]
    fingerprint: str
    facts: dict[str, Any]


def take_turns(builders: Mapping[str, Callable[[], Run]], *, steps_per_turn: int) -> dict[str, Finished]:
    """Trains every run in a process of its own, one turn at a time, in alternating order (A B, B A, ...).

    Args:
        builders: name to what builds the run; must be picklable. All runs must make the same number of steps.
        steps_per_turn: steps from one handing-over to the next.
    """
    context = _context()
    channels: dict[str, Connection] = {}
    for name, build in builders.items():
        channels[name], theirs = context.Pipe()
        context.Process(target=_work, args=(build, steps_per_turn, theirs), daemon=True).start()
        channels[name].recv()  # built: one at a time, so that building disturbs no other
    turns: dict[str, list[Turn]] = {name: [] for name in builders}
    finished: dict[str, Finished] = {}
    order = list(builders)
    while len(finished) < len(builders):
        for name in order:
            channels[name].send("go")
            turn, fingerprint, facts = channels[name].recv()
            turns[name].append(turn)
            if fingerprint:
                finished[name] = Finished(turns[name], fingerprint, facts)
        order.reverse()
    return {name: finished[name] for name in builders}


class _Baton(Callback):
    """Stops the run between two steps until it is its turn again, and times what happens in a turn."""

    def __init__(self, channel: Connection, steps_per_turn: int) -> None:
        self._channel = channel
        self._steps_per_turn = steps_per_turn
        self._marks: list[float] = []

    def start(self) -> None:
        self._channel.recv()
        self._marks = []
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self) -> Turn:
        wall, cpu = time.perf_counter(), time.process_time()
        marks = [*self._marks, wall]
        return Turn([b - a for a, b in zip(marks, marks[1:], strict=False)], wall - self._wall, cpu - self._cpu)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if len(self._marks) == self._steps_per_turn:
            self._channel.send((self.stop(), "", {}))
            self.start()
        self._marks.append(time.perf_counter())


def _context() -> Any:
    """Processes that start from one that has imported everything, where the system can fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _work(build: Callable[[], Run], steps_per_turn: int, channel: Connection) -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout = sys.stderr = nowhere  # progress bars are drawn, and not shown
        run = build()
        baton = _Baton(channel, steps_per_turn)
        run.trainer.callbacks.append(baton)
        channel.send("built")
        baton.start()
        run.trainer.fit(run.model, run.data)
        channel.send((baton.stop(), _fingerprint(run.model), run.facts()))


def _fingerprint(model: LightningModule) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
