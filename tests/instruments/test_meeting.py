"""Ranks that wait for each other hear signals, give up on those that are gone, and heed no earlier attempt."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch.distributed as dist

from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.instruments import meeting
from lightning_normdyn.instruments.meeting import Meeting, settle_beginning
from lightning_normdyn.instruments.ranks import process_group_store


@pytest.fixture
def stores():
    """What two ranks hold of the store by which they found each other; one that waits lets the other through."""
    first = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return [first, dist.TCPStore("127.0.0.1", first.port, is_master=False, wait_for_workers=False)]


def ranks(stores, topic="a topic"):
    return [Meeting(store, topic, rank, len(stores)) for rank, store in enumerate(stores)]


def later(seconds, action):
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


@pytest.fixture
def heard():
    """What a handler of SIGTERM that goes on heard, as a Trainer's does."""
    signals = []

    def handler(number, _):
        signals.append(number)

    previous = signal.signal(signal.SIGTERM, handler)
    yield signals
    assert signal.getsignal(signal.SIGTERM) is handler  # it is in its place again
    signal.signal(signal.SIGTERM, previous)


@pytest.mark.parametrize("seconds", [0.1, 1.3])
def test_a_rank_that_is_late_is_waited_for(stores, seconds):
    first, second = ranks(stores)
    timer = later(seconds, lambda: second.settle("step 5"))
    assert first.settle("step 5") == ""
    timer.join()


def test_a_rank_that_does_not_come_is_named(stores, monkeypatch):
    monkeypatch.setattr(meeting, "PATIENCE", 1.2)
    start = time.monotonic()
    first, second = ranks(stores)
    assert first.settle("step 5") == "rank 1 did not take part within 1.2 s"
    assert 1.1 < time.monotonic() - start < 10
    assert second.settle("step 5") == "rank 1 did not take part within 1.2 s"


def test_a_rank_that_is_asked_to_end_waits_no_longer(stores, heard):
    start = time.monotonic()
    first, second = ranks(stores)
    timer = later(0.8, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert first.settle("step 5") == "rank 1 did not take part before rank 0 was asked to end"
    timer.join()
    assert heard == [signal.SIGTERM]
    assert time.monotonic() - start < 10  # and not 60
    assert "asked to end" in second.settle("step 5")


def test_ctrl_c_ends_the_wait(stores):
    start = time.monotonic()
    timer = later(0.8, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        ranks(stores)[0].settle("step 5")
    timer.join()
    assert time.monotonic() - start < 10


def test_a_wait_off_the_main_thread_touches_no_handler(stores, monkeypatch, heard):
    monkeypatch.setattr(meeting, "PATIENCE", 0.8)
    problems = []
    thread = threading.Thread(target=lambda: problems.append(ranks(stores)[0].settle("step 5")))
    thread.start()
    thread.join()
    assert problems == ["rank 1 did not take part within 0.8 s"]
    assert heard == []


def test_the_store_does_not_grow_with_the_run(stores, monkeypatch):
    """Nor does any rank miss a word: those of the last round stay."""
    monkeypatch.setattr(meeting, "_ROUNDS_KEPT", 4)
    first, second = ranks(stores)
    before, most = stores[0].num_keys(), 0
    for step in range(40):
        timer = threading.Thread(target=second.settle, args=(f"step {step}",))
        timer.start()
        assert first.settle(f"step {step}") == ""
        timer.join()
        most = max(most, stores[0].num_keys())
    assert most - before <= 3 * 5 + 3
    first.leave()
    assert second.settle("step 40") == "the ranks do not do the same (rank 0: gone; rank 1: step 40)"


def test_ranks_ask_the_store_three_times_a_step_however_many_they_are(stores):
    class Counted:
        def __init__(self, store):
            self.store, self.requests = store, []

        def __getattr__(self, name):
            self.requests.append(name)
            return getattr(self.store, name)

    counted = [Counted(dist.TCPStore("127.0.0.1", stores[0].port, is_master=False)) for _ in range(8)]
    members = ranks(counted)
    for step in range(3):
        threads = [threading.Thread(target=member.settle, args=(f"step {step}",)) for member in members]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(store.requests == ["set", "wait", "compare_set"] * 3 for store in counted)


class GoneStore:
    """Its server has ended, with the rank or the launcher that had it."""

    def set(self, key, word): ...

    def wait(self, keys, timeout):
        self.check(keys)

    def check(self, keys):
        raise RuntimeError(f"failed to recv {keys}, got 0 bytes")


def test_a_store_that_is_gone_is_not_asked_for_a_minute():
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="failed to recv"):
        ranks([GoneStore(), GoneStore()])[0].settle("step 5")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(("attempts", "sizes"), [(("0", "1"), (2, 2)), (("0", "0"), (3, 2))])
def test_words_of_an_attempt_before_a_restart_are_not_heard(stores, monkeypatch, attempts, sizes):
    """torchrun's store outlives the ranks: the first attempt broke off where a rank waited for one that was killed.

    Where a rank left for good, torchrun starts the others anew and does not count that.
    """
    monkeypatch.setattr(meeting, "PATIENCE", 0.2)
    dist.init_process_group("gloo", store=stores[0], rank=0, world_size=1)
    with ended_process_group():
        for attempt, size in zip(attempts, sizes, strict=True):
            monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
            monkeypatch.setattr(dist, "get_world_size", lambda size=size: size)
            monkeypatch.setattr(meeting, "_BEGINNINGS", iter(range(5)))
            views = []
            for store in stores:
                monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda store=store: store)
                views.append(process_group_store())
            topic, _ = settle_beginning(views[0], "", 0, 1)
            assert topic == "0"  # it is the first thing that this attempt begins
            first, second = ranks(views, "what they do")
            for step in range(2):
                timer = later(0.05, lambda step=step, second=second: second.settle(f"step {step}"))
                assert first.settle(f"step {step}") == ""
                timer.join()
            assert first.settle("step 2") == "rank 1 did not take part within 0.2 s"
