"""Tables under TorchRec's DistributedModelParallel: the numbers of one process in float64, however they are sharded."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from rank_starter import run_ranks

pytest.importorskip("torchrec", exc_type=ImportError)
from sharded_recommender import KINDS, LR, ROWS, STEPS, TABLES, ByHand, features

from lightning_normdyn.history import read_run

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("torchrec_worker.py")
WINDOW, FEW = 20, 12
NORMS = {"norm_mean", "norm_p50", "norm_cv"}
DIFFERENCES = ("residual", "skill", "stderr")  # of next to nothing


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where one process, and then two, left what they found."""
    folder = tmp_path_factory.mktemp("torchrec")
    for ranks in (1, 2):
        run_ranks(WORKER, folder, ranks=ranks)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return {
        (rank, size): torch.load(folder / f"rank-{rank}-of-{size}.pt", weights_only=True)
        for size in (1, 2)
        for rank in range(size)
    }


@pytest.fixture(scope="module")
def by_hand():
    """The training in float64, of each optimizer, and sums over its last window."""
    trainings = {}
    for name, kind in KINDS.items():
        training = trainings[name] = ByHand(kind, column_blocks=2)
        for number, ids in enumerate(features(), start=1):
            training.step(ids)
            if number == STEPS - WINDOW:
                training.forget_sums()
    return trainings


def name_of(table, kind="embedding_bags"):
    return f"bags.{kind}.{table}.weight"


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [1, 2])
def test_scalars_are_those_of_a_tally_in_float64(results, by_hand, name, size):
    logged = results[0, size][name]["logged"]
    assert [step for step, _ in logged][:STEPS] == list(range(1, STEPS + 1))
    assert not any(results[rank, 2][name]["logged"] for rank in range(1, 2))
    for table in TABLES:
        torch.testing.assert_close(
            results[0, size][name]["whole"][table].double(), by_hand[name].weights[table], rtol=1e-5, atol=1e-6
        )
        for (step, metrics), expected in zip(logged, by_hand[name].steps, strict=False):
            for quantity, value in expected[table].items():
                found_value = metrics[f"normdyn/{name_of(table)}/{quantity}"]
                tolerance = 1e-6 if quantity in NORMS else 1e-5
                assert found_value == pytest.approx(float(value), rel=tolerance), (step, table, quantity)
            assert metrics[f"normdyn/{name_of(table)}/gradient_error"] < 1e-5


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [1, 2])
def test_moments_are_those_of_a_tally_in_float64(folder, by_hand, name, size):
    """V² and the share of steps with a gradient, of the last window, as the history has them."""
    for table in TABLES:
        columns = read_run(folder / f"{name}-{size}")[name_of(table)].trajectory().to_pydict()
        training = by_hand[name]
        tallies = {"second_moment": training.second_moment[table], "update_probability": training.touches[table]}
        for column, total in tallies.items():
            values = [value for value in columns[column] if value is not None][-ROWS:]
            np.testing.assert_allclose(values, total.numpy() / WINDOW, rtol=1e-5, atol=1e-12, err_msg=column)


@pytest.mark.parametrize("name", KINDS)
def test_fit_and_history_on_two_ranks_are_those_on_one(results, folder, name):
    compare(results[0, 2][name]["logged"], results[0, 1][name]["logged"])
    for table in TABLES:
        recorded, expected = (read_run(folder / f"{name}-{size}")[name_of(table)].trajectory() for size in (2, 1))
        assert recorded.column_names == expected.column_names
        for column in expected.column_names:
            arrays = (history[column].to_numpy() for history in (recorded, expected))
            np.testing.assert_allclose(*arrays, rtol=1e-5, atol=1e-7, err_msg=column)


def compare(logged, expected, rel=1e-5):
    assert [step for step, _ in logged] == [step for step, _ in expected]
    for (step, metrics), (_, wanted) in zip(logged, expected, strict=True):
        assert metrics.keys() == wanted.keys()
        for key, value in metrics.items():
            if not key.endswith("gradient_error") and not any(part in key for part in DIFFERENCES):
                tolerance = 1e-6 if "/norm_" in key else rel
                assert value == pytest.approx(wanted[key], rel=tolerance, abs=1e-8), (step, key)


def test_weights_and_sums_are_bit_identical_with_and_without(results):
    for rank in range(2):
        observed, plain = results[rank, 2]["rowwise"]["whole"], results[rank, 2]["unobserved"]
        assert observed.keys() == plain.keys()
        assert all(torch.equal(observed[name], plain[name]) for name in plain)
        assert set(TABLES) < plain.keys()


def test_both_clocks_give_the_same_numbers(results):
    """The next call of the model, and the loop's own word."""
    assert results[0, 2]["says"]["logged"] == results[0, 2]["rowwise"]["logged"]


def test_a_checkpoint_is_resumed_on_as_many_ranks_and_on_others(results):
    half = STEPS // 2
    whole = [(step, metrics) for step, metrics in results[0, 2]["rowwise"]["logged"] if step > half]
    assert results[0, 2]["resumed"]["logged"] == whole
    compare(results[0, 2]["resumed from one"]["logged"], whole)
    states = [tensors_of(results[rank, 2]["half way"]["state"]) for rank in range(2)]
    assert len(states[0]) > 20
    assert all(map(torch.equal, *states))


def tensors_of(state):
    if isinstance(state, torch.Tensor):
        return [state.nan_to_num(-1)]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [tensor for value in values for tensor in tensors_of(value)]


def test_sampled_rows_of_blocks_that_begin_anywhere_are_those_of_one_process(results, by_hand):
    """Every third row: the second rank's block begins at row 51, and the gradient's norm is that of all rows."""
    compare(results[0, 2]["sampled"]["logged"], results[0, 1]["sampled"]["logged"])
    for (_, metrics), expected in zip(results[0, 2]["sampled"]["logged"], by_hand["rowwise"].steps, strict=False):
        for table in TABLES:
            norm = metrics[f"normdyn/{name_of(table)}/gradient_norm"]
            assert norm == pytest.approx(float(expected[table]["gradient_norm"]), rel=1e-5)


@pytest.mark.parametrize("case", ["sequence", "pipelined", "moving rate"])
def test_other_loops_give_the_numbers_of_the_tally(results, case):
    """Rows one by one; TorchRec's pipeline and its optimizers in one; a rate that a rank without the table follows."""
    training = ByHand("EXACT_SGD" if case == "moving rate" else KINDS["rowwise"], column_blocks=2)
    logged, kind = results[0, 2][case], "embeddings" if case == "sequence" else "embedding_bags"
    by_step = {}
    for step, metrics in logged:  # the layer above the tables has a step of its own, told of ahead of theirs
        by_step.setdefault(step, {}).update(metrics)
    for number, ids in enumerate(features(FEW), start=1):
        metrics = by_step[number]
        if case == "moving rate":
            training.set_lr(LR / number)
        training.step(ids)
        for table in TABLES:
            for quantity, value in training.steps[-1][table].items():
                logged_value = metrics[f"normdyn/{name_of(table, kind)}/{quantity}"]
                assert logged_value == pytest.approx(float(value), rel=1e-6 if quantity in NORMS else 1e-5), quantity
    assert ("normdyn/top.weight/norm_mean" in by_step[1]) == (case == "pipelined")


def test_a_rank_that_fails_leaves_no_other_waiting(results):
    for rank in range(2):
        entry = results[rank, 2]["one fails"]
        ended = [text for text in entry["said"] if "is not measured any more after step 3" in text]
        assert len(ended) == 1
        assert f"'{name_of(TABLES[0])}'" in ended[0]
        assert ("planted" if rank else "rank 1: gone") in ended[0]
    keys = {(step, key.split("/")[1]) for step, metrics in results[0, 2]["one fails"]["logged"] for key in metrics}
    assert (2, name_of(TABLES[0])) in keys
    assert (3, name_of(TABLES[0])) not in keys
    assert (FEW, name_of(TABLES[1])) in keys


def test_tables_of_other_kinds_are_measured_or_named(results):
    """One that every rank holds has gradients like any other; of one with a dense kernel it is said what to do."""
    said, logged = results[0, 2]["replicated said"], results[0, 2]["replicated"]
    assert [text for text in said if "not measured" in text] == [
        text for text in said if re.search(r"bags\.whole\.weight': not measured, since its kernel is dense", text)
    ]
    assert len(said) == 1
    measured = {key.split("/")[1] for _, metrics in logged for key in metrics}
    assert measured == {name_of("rows"), name_of("columns")}
    assert f"normdyn/{name_of('columns')}/norm_mean" in logged[0][1]
    assert "without any; wrap it in DistributedModelParallel" in results[0, 2]["unsharded said"][0]
