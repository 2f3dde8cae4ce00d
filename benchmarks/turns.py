"""Several live training runs that take turns on one machine, so that what disturbs one disturbs all alike."""

from __future__ import annotations

import hashlib
import itertools
import logging
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
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
    """All turns of a run, a fingerprint of its final weights (``digest``), and its facts."""

    turns: list[Turn]
    digest: str
    facts: dict[str, Any]


def take_turns(builders: Mapping[str, Callable[[], Run]], *, steps_per_turn: int, turns: int) -> dict[str, Finished]:
    """Trains every run in a process of its own, one turn at a time, in alternating order (A B, B A, ...).

    Args:
        builders: name to what builds the run; must be picklable.
        steps_per_turn: steps from one handing-over to the next.
        turns: of every run; then it is stopped, wherever it was going.
    """
    context = _context()
    channels: dict[str, Connection] = {}
    for name, build in builders.items():
        channels[name], theirs = context.Pipe()
        context.Process(target=_work, args=(build, _Baton(theirs, steps_per_turn, turns)), daemon=True).start()
        channels[name].recv()  # built: one at a time, so that building disturbs no other
    taken: dict[str, list[Turn]] = {name: [] for name in builders}
    finished: dict[str, Finished] = {}
    order = list(builders)
    while len(finished) < len(builders):
        for name in order:
            channels[name].send("go")
            turn, digest, facts = channels[name].recv()
            taken[name].append(turn)
            if digest is not None:
                finished[name] = Finished(taken[name], digest, facts)
        order.reverse()
    return {name: finished[name] for name in builders}


class _Baton(Callback):
    """Stops the run between two steps until it is its turn again, and times what happens in a turn."""

    def __init__(self, channel: Connection, steps_per_turn: int, turns: int) -> None:
        self.channel = channel
        self._steps_per_turn = steps_per_turn
        self._turns_left = turns
        self._marks: list[float] = []

    def start(self) -> None:
        """Waits for the turn."""
        self.channel.recv()
        self._marks = []
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self) -> Turn:
        """What was done in it."""
        wall, cpu = time.perf_counter(), time.process_time()
        steps = [after - before for before, after in itertools.pairwise([*self._marks, wall])]
        return Turn(steps, wall - self._wall, cpu - self._cpu)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Hands over at the end of a turn."""
        if len(self._marks) == self._steps_per_turn:
            self.channel.send((self.stop(), None, {}))
            self._turns_left -= 1
            self.start()
        self._marks.append(time.perf_counter())

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Ends the run with its last turn."""
        if self._turns_left == 1 and len(self._marks) == self._steps_per_turn:
            trainer.should_stop = True


def _context() -> Any:
    """Processes that start from one that has imported everything, where the system can fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


@contextmanager
def hushed() -> Iterator[None]:
    """Progress bars are drawn and not shown; Lightning keeps its tips to itself."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with Path(os.devnull).open("w") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield


def _work(build: Callable[[], Run], baton: _Baton) -> None:
    with hushed():
        run = build()
        run.trainer.callbacks.append(baton)
        baton.channel.send("built")
        baton.start()
        run.trainer.fit(run.model, run.data)
        baton.channel.send((baton.stop(), _digest(run.model), run.facts()))


def _digest(model: LightningModule) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
