"""A table on four ranks, however it is sharded: what is logged, recorded and resumed is that of one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rank_starter import run_ranks

pytest.importorskip("torch.distributed.fsdp", reason="torch without distributed")
from spread_table_worker import CASES, STEPS, half_way, resume, run

from lightning_normdyn.history import read_run

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("spread_table_worker.py")
OF_IDS = {
    "effective_lr",
    "radial_fraction",
    "dead_at_step",
    "clip_share",
    "clip_row",
}  # one rank knows of untracked rows that were looked up
NORMS = ("norm_mean", "norm_cv", "norm_p05", "norm_p50", "norm_p95", "norm_min")
DIFFERENCES = ("residual", "skill", "stderr")  # of next to nothing


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where four processes left what they found, given the state of one."""
    folder = tmp_path_factory.mktemp("spread_tables")
    torch.save(half_way(), folder / "half.pt")
    run_ranks(WORKER, folder, ranks=4, timeout=400)
    return folder


@pytest.fixture(scope="module")
def ranks(folder):
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(4)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds in each case, run once."""
    known = {}

    def one_process(case):
        if case not in known:
            log_dir = tmp_path_factory.mktemp("alone")
            known[case] = run(case, log_dir=log_dir) | {"log_dir": log_dir}
        return known[case]

    return one_process


def compare(logged, expected, *, leave_out=(), norm_error=1e-6):
    assert [step for step, _ in logged] == [step for step, _ in expected]
    for (step, metrics), (_, wanted) in zip(logged, expected, strict=True):
        metrics, wanted = ({k.rpartition("/")[2]: v for k, v in m.items()} for m in (metrics, wanted))
        assert metrics.keys() == wanted.keys(), step
        for name, value in metrics.items():
            if name not in leave_out and not any(part in name for part in DIFFERENCES):
                rel = norm_error if name in NORMS else 1e-5
                assert value == pytest.approx(wanted[name], rel=rel, abs=1e-8), (step, name)


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_of_one_process(ranks, alone, case):
    expected = alone(case)
    for rank in ranks:
        torch.testing.assert_close(rank[case]["weight"], expected["weight"], rtol=1e-5, atol=2e-6)
    assert not any(rank[case]["logged"] for rank in ranks[1:])
    # Over a thousand steps the weights themselves part by more than that, since ranks add up in another order.
    norm_error = 1e-5 if case == "rows, seldom touched" else 1e-6
    leave_out = OF_IDS if "sampled" in case else ()
    compare(ranks[0][case]["logged"], expected["logged"], leave_out=leave_out, norm_error=norm_error)
    assert any("normdyn/table.weight/anisotropy" in metrics for _, metrics in expected["logged"])


@pytest.mark.parametrize("case", CASES)
def test_the_history_is_that_of_one_process(folder, alone, case):
    expected, recorded = (
        read_run(log_dir)["table.weight"].trajectory() for log_dir in (alone(case)["log_dir"], folder / case)
    )
    assert recorded.column_names == expected.column_names
    for name in expected.column_names:
        columns = (table[name].to_numpy() for table in (recorded, expected))
        np.testing.assert_allclose(*columns, rtol=1e-5, atol=1e-7, err_msg=name)


def test_every_rank_saves_the_same_state_which_any_number_of_ranks_resumes(ranks):
    half = half_way()
    expected = resume(half)
    compare(ranks[0]["resumed"], expected)  # of one process, on four
    compare(resume(ranks[0]["half way"]), expected)  # of four, in one process
    states = [torch.cat([t.double().flatten() for t in tensors_of(rank["half way"]["state"])]) for rank in ranks]
    assert all(torch.equal(states[0], state) for state in states[1:])
    assert [step for step, _ in expected][-1] == STEPS


def tensors_of(state):
    if isinstance(state, torch.Tensor):
        return [state.nan_to_num(-1)]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [tensor for value in values for tensor in tensors_of(value)]


def test_a_gradient_that_all_ranks_have_counts_once(ranks):
    for rank in ranks:
        assert float(rank["square"]["square"]) == pytest.approx(25 + float(rank["square"]["of the rest"]), rel=1e-9)


def test_a_rank_that_fails_leaves_no_other_waiting(ranks):
    for number, rank in enumerate(ranks):
        reason = "planted" if number == 1 else "rank 1: gone"
        sentences = [said for said in rank["one fails"]["said"] if "is not measured any more after step" in said]
        assert len(sentences) == 1
        assert reason in sentences[0]
        assert not any(step > 5 for step in rank["one fails"]["steps"])


def test_shards_are_bit_identical_with_and_without(ranks):
    assert all(rank["bit-identical"] for rank in ranks)
