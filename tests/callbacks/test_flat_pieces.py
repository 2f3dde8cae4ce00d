"""FSDP1 in two processes: what cannot be right is refused with the reason, and the rest is what one process logs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flat_pieces_worker import ENCODER, STEPS, TABLE, WRAPS, Plain, train
from rank_starter import run_ranks
from small_models import pair_batches, seeded

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("flat_pieces_worker.py")
UNKNOWN = ("gradient_norm", "clip_ratio", "clip_share", "clip_row")
SHARDED = ("sharded", "flat", "between", "unit")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What each wrapping gave of each target, on the first rank."""
    folder = tmp_path_factory.mktemp("fsdp1")
    run_ranks(WORKER, folder)
    return torch.load(folder / "rank-0.pt", weights_only=True)


def assert_as_one_process(logged, target, **options):
    """Keys and values are those of one process that has all data, but for what needs the whole gradient."""
    expected = train(seeded(Plain), pair_batches(STEPS), [target], **options)["logged"]
    unknown = {f"normdyn/{target}/{name}" for name in UNKNOWN} if target == TABLE else set()
    assert logged.keys() >= expected.keys() - unknown
    for key in logged.keys() & expected.keys():
        if key.endswith(("skill_low", "skill_high")):
            continue  # of a few items that hardly moved
        rel = 1e-5 if target == TABLE else 1e-3
        assert logged[key] == pytest.approx(expected[key], rel=rel, abs=1e-6), key


@pytest.mark.parametrize("name", SHARDED)
def test_a_table_in_flat_pieces_is_refused(outcomes, name):
    assert "keeps tables as flat pieces, which have no rows: shard by fully_shard" in outcomes[name, TABLE]["said"][0]


def test_so_is_a_search_for_tables(outcomes):
    assert "'auto' found no embedding table" in outcomes["sharded", "auto"]["said"][0]
    assert "shard by fully_shard" in outcomes["sharded", "auto"]["said"][0]


@pytest.mark.parametrize("name", SHARDED)
def test_an_encoder_in_flat_pieces_has_its_norms_and_no_balance(outcomes, name):
    outcome = outcomes[name, ENCODER]
    (sentence,) = outcome["said"]
    assert "keeps its weights as flat pieces" in sentence
    assert f"normdyn/{ENCODER}/gradient_norm" in outcome["logged"]
    assert f"normdyn/{ENCODER}/radial_decay" not in outcome["logged"]
    assert_as_one_process(outcome["logged"], ENCODER, probe=False)


@pytest.mark.parametrize(("name", "target"), [("copies", TABLE), ("copies", ENCODER), ("averaged", TABLE)])
def test_what_each_rank_holds_whole_is_right(outcomes, name, target):
    assert outcomes[name, target]["said"] == []
    if target == TABLE:
        assert_as_one_process(outcomes[name, target]["logged"], target)
        has_share = f"normdyn/{TABLE}/clip_share" in outcomes[name, target]["logged"]
        assert has_share == (name == "copies")
    else:
        assert f"normdyn/{ENCODER}/radial_decay" in outcomes[name, target]["logged"]


def test_a_table_that_is_left_out_is_trained_apart_and_said_to_be(outcomes):
    (sentence,) = outcomes["left out", TABLE]["said"]
    assert "each rank trains a table of its own" in sentence
    with pytest.raises(AssertionError):
        assert_as_one_process(outcomes["left out", TABLE]["logged"], TABLE)


def test_every_wrapping_was_tried(outcomes):
    assert {name for name, _ in outcomes} == set(WRAPS)
