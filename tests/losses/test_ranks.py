"""One, two, three and four ranks with unequal batches: the same loss and gradients as one process with all pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rank_starter import run_ranks
from ranks_worker import CASES, DISAGREEMENTS, FINITE, HEADS, LARGEST, PAIRS, SUMS

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("ranks_worker.py")
WORLDS = range(2, LARGEST + 1)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each rank of each world found."""
    folder = tmp_path_factory.mktemp("ranks")
    for world in range(1, LARGEST + 1):
        run_ranks(WORKER, folder, ranks=world)
    return {
        world: [torch.load(folder / f"world-{world}-rank-{rank}.pt", weights_only=True) for rank in range(world)]
        for world in range(1, LARGEST + 1)
    }


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    "case", [*CASES, *SUMS, *HEADS, "accumulated", "cached", "cached sum", "cached, accumulated", "cached, distilled"]
)
def test_loss_and_gradients_are_those_of_one_process(found, world, case):
    (alone,) = found[1]
    for rank in found[world]:
        torch.testing.assert_close(rank[case]["losses"], alone[case]["losses"], rtol=1e-5, atol=0)
        for name, expected in alone[case]["gradients"].items():
            gradient = rank[case]["gradients"][name]
            if expected is None:
                assert gradient is None or not gradient.any(), name
                continue
            gap = (gradient - expected).norm() / expected.norm()
            assert gap < 1e-5, (name, float(gradient.norm() / expected.norm()))


def test_temperature_and_exponents_are_among_what_was_compared(found):
    learnt = {"loss.scaling.log_scale", "loss.similarity.raw_gammas"}
    for case in CASES:
        gradients = found[1][0][case]["gradients"]
        assert all(gradients[name].abs().sum() > 0 for name in learnt), case
    assert found[1][0]["sigmoid"]["gradients"]["loss.bias"].abs() > 0


@pytest.mark.parametrize("world", WORLDS)
def test_evaluation_sees_all_ranks_and_a_loss_that_does_not_gather_its_own(found, world):
    expected = found[1][0]["evaluation"]
    for rank in found[world]:
        torch.testing.assert_close(rank["evaluation"], expected)
    own = {round(float(rank["not gathered"]), 4) for rank in found[world]}
    assert len(own) == world == len(PAIRS[world])


@pytest.mark.parametrize("world", WORLDS)
def test_ranks_that_disagree_are_told_so_and_do_not_wait(found, world):
    assert found[1][0]["disagreeing"] == ["nothing"] * len(DISAGREEMENTS)
    for rank in found[world]:
        for name, sentence in zip(DISAGREEMENTS, rank["disagreeing"], strict=True):
            assert name in sentence.split(":")[0]
            assert "expected the same on all ranks, got [" in sentence


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", range(len(FINITE)), ids=[make.__name__ for make, _ in FINITE])
def test_embeddings_of_another_rank_that_are_not_finite_are_not_blamed_on_this_one(found, world, case):
    first, *others = (rank["not finite"][case] for rank in found[world])
    assert "embeddings are NaN or infinite" in first
    assert others
    assert all(sentence.endswith("or at another rank's error, if one names NaN") for sentence in others)
    assert "another rank" not in found[1][0]["not finite"][case]


def test_cached_gradients_are_those_of_the_plain_loss(found):
    """On one process too: the worker ran both over the same pairs."""
    plain, cached = (found[1][0][case] for case in ("accumulated", "cached, accumulated"))
    torch.testing.assert_close(plain["losses"], cached["losses"])
    for name, expected in plain["gradients"].items():
        torch.testing.assert_close(cached["gradients"][name], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("world", WORLDS)
def test_metrics_are_those_of_all_pairs(found, world):
    for rank in found[world]:
        for got, expected in zip(rank["metrics"], found[1][0]["metrics"], strict=True):
            assert got.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(got[name], value, rtol=1e-5, atol=0)
