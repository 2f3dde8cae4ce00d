"""Where ranks settle that all of them are about to compute something together, lest one wait for those that are not."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

PATIENCE = 60.0
"""Seconds that a rank waits for the others to come to the same point."""
_SLICE = 0.5
"""Seconds of one wait: Python hears signals between two of them, and never within."""
_ROUNDS_KEPT = 64
_ALL, _OUTCOME = "all", "outcome"


class Meeting:
    """Settles, ahead of collective calls, whether all ranks are about to make them.

    Each rank leaves a word in the store of the process group on what it is about to do, and waits for the words of the
    others. They go on together if all say the same in time. Whether all did is settled by the rank that says so first,
    so that all are of one mind; once they are not together, they never are again. However many ranks there are, one
    that comes last asks the store three times, but for every 64th step.

    Args:
        store: that of the process group; ``None`` where a rank is alone, or nothing can be settled: all is well then.
        topic: what it is about, the same on all ranks and another for each thing.
        rank: number of this one.
        size: how many there are.

    Example:
        >>> meeting = Meeting(None, "the encoder", rank=0, size=1)
        >>> meeting.settle("step 50")
        ''
    """

    def __init__(self, store: Any, topic: str, rank: int, size: int) -> None:
        self._store, self._topic, self._rank, self._size = store, topic, rank, size
        self._round = 0
        self._problem = ""
        self._keys: list[str] = []

    def settle(self, act: str) -> str:
        """Waits until all ranks are about to do the same.

        Args:
            act: what this one is about to do.

        Returns:
            Why they are not; empty if they are.
        """
        if self._store is not None and not self._problem:
            self._problem = self._settle(act)
        return self._problem

    def leave(self) -> None:
        """Says that this rank takes part no longer, if it ever did."""
        if self._store is not None and not self._problem and self._round:
            self._problem = "this rank has left"
            self._store.set(self._key(self._round + 1, self._rank), "gone")

    def is_over(self) -> bool:
        """Whether the others have settled a first round without this rank."""
        return self._store is not None and bool(self._store.check([self._key(1, _OUTCOME)]))

    def _settle(self, act: str) -> str:
        self._round += 1
        self._forget()
        # What a rank is about to do is part of the key: once all keys are there, none of them need be read.
        keys = [self._key(self._round, rank, act) for rank in range(self._size)]
        self._keys.append(keys[self._rank])
        self._store.set(keys[self._rank], "")
        problem = self._obstacle(keys, act)
        # The first to say whether all came, and came for the same, is right for everybody.
        outcome = self._store.compare_set(self._key(self._round, _OUTCOME), "", problem or _ALL).decode()
        return "" if outcome == _ALL else str(outcome)

    def _obstacle(self, keys: list[str], act: str) -> str:
        """Who did not come in time, or before this process was asked to end, or for the same; empty if all did."""
        if self._have_come(keys, min(_SLICE, PATIENCE)):
            return ""
        deadline = time.monotonic() + PATIENCE - _SLICE
        self._keys.append(self._key(self._round, self._rank))
        self._store.set(self._keys[-1], act)  # for others that wait in vain
        with _request_to_end() as request:
            while not request.is_set() and (rest := deadline - time.monotonic()) > 0:
                if self._have_come(keys, min(_SLICE, rest)):
                    return ""
                if difference := self._difference(act):
                    return difference
        absent = ", ".join(str(rank) for rank, key in enumerate(keys) if not self._store.check([key]))
        limit = f"before rank {self._rank} was asked to end" if request.is_set() else f"within {PATIENCE:g} s"
        return f"rank {absent} did not take part {limit}" if absent else ""

    def _difference(self, act: str) -> str:
        """Which rank is about to do something else, in words; empty if none says so."""
        for rank in range(self._size):
            key = self._key(self._round, rank)
            other_act = self._store.get(key).decode() if self._store.check([key]) else act
            if other_act != act:
                acts = "; ".join(f"rank {r}: {a}" for r, a in sorted({self._rank: act, rank: other_act}.items()))
                return f"the ranks do not do the same ({acts})"
        return ""

    def _have_come(self, keys: list[str], seconds: float) -> bool:
        try:
            self._store.wait(keys, timedelta(seconds=seconds))
        except RuntimeError:  # torch's DistStoreError, at the end of the time
            return bool(self._store.check(keys))  # raises where the store is gone
        return True

    def _forget(self) -> None:
        """Clears the rounds that all ranks have left behind, lest the store grow with the run; many at a time.

        To ask a store that has fallen asleep takes longest.
        """
        if self._round % _ROUNDS_KEPT:
            return
        last = self._key(self._round - 1, self._rank)  # which another rank may not have seen yet
        for key in self._keys:
            if not key.startswith(last):
                self._store.delete_key(key)
        self._keys = [key for key in self._keys if key.startswith(last)]
        if self._rank == 0:
            for number in range(self._round - 1 - _ROUNDS_KEPT, self._round - 1):
                self._store.delete_key(self._key(number, _OUTCOME))

    def _key(self, number: int, rank: int | str, act: str = "") -> str:
        return f"normdyn/{self._topic}/{number}/{rank}/{act}"


@contextmanager
def _request_to_end() -> Iterator[threading.Event]:
    """Set as soon as SIGTERM was heard, by a handler that goes on, as a Trainer's does; the handler runs all the same.

    A rank that is killed never comes. Its launcher, torchrun, then asks the others to end and waits for them.
    """
    request = threading.Event()
    handler = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield request
        return

    def hear(number: int, frame: FrameType | None) -> None:
        request.set()
        handler(number, frame)

    signal.signal(signal.SIGTERM, hear)
    try:
        yield request
    finally:
        if signal.getsignal(signal.SIGTERM) is hear:
            signal.signal(signal.SIGTERM, handler)


_BEGINNINGS = itertools.count()


def settle_beginning(store: Any, act: str, rank: int, size: int) -> tuple[str, str]:
    """Settles whether all ranks are about to begin the same.

    Beginnings are counted. One that others settled without this rank, as that of an observer which they alone have, is
    passed over, so that ranks come together again.

    Args:
        store: see :class:`Meeting`.
        act: what this rank is about to begin.
        rank: number of this one.
        size: how many there are.

    Returns:
        A topic for what they do together then, the same on all ranks; and why they are not together, or nothing.
    """
    while True:
        topic = str(next(_BEGINNINGS))
        meeting = Meeting(store, topic, rank, size)
        if not meeting.is_over():
            return topic, meeting.settle(act)
