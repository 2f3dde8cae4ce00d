"""Ranks that do not take the same steps cost a sentence each, not the time-out of the process group."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from apart_worker import STEPS
from rank_starter import run_ranks

WORKER = Path(__file__).with_name("apart_worker.py")
ENDED = "'encoder' is not measured any more after step "
APART = "what is measured over all ranks ends, since the ranks do not do the same "
ALONE = "measured on this rank alone, since "
SENTENCES = {
    "together": ([], []),
    "the first rank alone": ([f"'encoder': {ALONE}rank 1 did not take part within 1 s"], []),
    "tables of the first rank alone": ([], []),
    "uneven loops": (
        [f"{ENDED}9: {APART}(rank 0: before step 10; rank 1: its end after step 9)"],
        [f"{ENDED}9: {APART}(rank 0: before step 10; rank 1: its end after step 9)"],
    ),
    "other targets": (
        [f"'encoder': {ALONE}the ranks do not do the same (rank 0: measures encoder every"],
        [f"'encoder.2': {ALONE}the ranks do not do the same (rank 0: measures encoder every"],
    ),
    "an error on the second rank": (
        [f"{ENDED}4: {APART}(rank 0: "],
        [f"{ENDED}4: measuring it failed (ZeroDivisionError: nothing to divide by)"],
    ),
    "an encoder that fails on the second rank": (
        [f"{ENDED}1: rank 1 could not compute its share"],
        [f"{ENDED}1: it cannot be called with its probe any more (ZeroDivisionError: nothing to divide by)"],
    ),
}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("apart")
    run_ranks(WORKER, folder, timeout=90)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", SENTENCES)
def test_ranks_that_come_apart_get_a_sentence_each(ranks, case):
    for rank, sentences in zip(ranks, SENTENCES[case], strict=True):
        result = rank[case]
        assert len(result["said"]) == len(sentences), result["said"]
        for message, sentence in zip(result["said"], sentences, strict=True):
            assert sentence in message
        assert result["seconds"] < 10


@pytest.mark.parametrize("case", SENTENCES)
def test_weights_are_those_without_an_observer(ranks, case):
    for number, rank in enumerate(ranks):
        steps = STEPS - 3 if case == "uneven loops" and number else STEPS
        expected = rank["undisturbed"][steps]["weights"]
        assert not [name for name, value in expected.items() if not torch.equal(rank[case]["weights"][name], value)]


def test_what_needs_no_other_rank_goes_on(ranks):
    first = ranks[0]
    for case in ("together", "the first rank alone", "uneven loops", "an error on the second rank"):
        assert "normdyn/table.weight" in first[case]["keys"], case
        assert any("normdyn/table.weight/norm_mean" in metrics for metrics in first[case]["logged"][-2:]), case
    assert "normdyn/encoder" in first["the first rank alone"]["keys"]
    assert ranks[1]["together"]["logged"] == []
