"""Two processes under DDP: nothing is changed, and what is logged is what one process finds on all the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rank_starter import run_ranks
from small_models import BATCH, Lit, pair_batches, seeded
from two_process_worker import (
    CONTRAST_TARGETS,
    LAW_ONE_STEPS,
    NUMBERS_TARGETS,
    STEPS,
    Contrast,
    Separable,
    probe,
    sgd,
    share,
    strangers,
)

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.history import read_run

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("two_process_worker.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the two processes left their findings."""
    folder = tmp_path_factory.mktemp("ddp")
    run_ranks(WORKER, folder)
    return folder


@pytest.fixture(scope="module")
def ranks(folder):
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("setting", ["32", "16-mixed, accumulated"])
def test_weights_are_bit_identical_with_and_without(ranks, setting):
    for rank in ranks:
        alone, observed = rank["law one"][setting]
        assert not [name for name in alone if not torch.equal(alone[name], observed[name])]
    first, second = (rank["law one"][setting][1] for rank in ranks)
    assert torch.equal(first["net.table.weight"], second["net.table.weight"])
    assert not torch.equal(first["random state"], second["random state"])  # the ranks did draw for themselves


@pytest.mark.parametrize(
    ("case", "make", "targets", "accumulate"),
    [
        ("numbers", Separable, NUMBERS_TARGETS, 1),
        ("accumulated", Separable, NUMBERS_TARGETS, 2),
        ("contrast", Contrast, CONTRAST_TARGETS, 1),
    ],
)
def test_logged_numbers_are_those_of_one_process_on_all_data(fit, ranks, case, make, targets, accumulate):
    """Tables dense and sparse, an encoder's output, a matrix taken as a table, and what a contrastive loss is given."""
    callback = NormDynamics(targets=targets, every_n_steps=1, window=STEPS // 2, probe={"net.encoder": probe()})
    net, batches = seeded(make), pair_batches(STEPS * accumulate)
    first, second = share(batches, 0), share(batches, 1)
    assert any(set(a.flatten().tolist()) != set(b.flatten().tolist()) for a, b in zip(first, second, strict=True))
    trainer = fit(Lit(net, sgd), batches, callback, accumulate_grad_batches=accumulate)
    for name, weight in ranks[0][case]["weights"].items():
        torch.testing.assert_close(weight, trainer.lightning_module.state_dict()[name], rtol=1e-4, atol=1e-6)
    for target in targets:
        alone, logged = trainer.logger.of(target), ranks[0][case]["logged"][target]
        assert logged.keys() == alone.keys()
        assert len(alone) >= STEPS
        for step, quantities in alone.items():
            expected = {key: value for key, value in quantities.items() if key != "balance_median_error"}  # ill-posed
            found = {key: logged[step].get(key) for key in expected}
            assert found == pytest.approx(expected, rel=5e-3, abs=2e-6), (target, step)


def test_rows_that_only_the_other_rank_looked_up_are_not_missed(fit, folder, tmp_path):
    """No look at the whole table gives them away: in those steps both ranks look up the same rows."""
    callback = NormDynamics(targets=["net.table.weight"], every_n_steps=10, window=LAW_ONE_STEPS)
    fit(Lit(seeded(Separable), sgd), strangers(), callback)
    alone, together = (read_run(path)["net.table.weight"].trajectory() for path in (tmp_path, folder / "strangers"))
    for name in ("second_moment", "update_probability"):
        expected, found = (
            rows.filter(np.equal(rows["step"].to_numpy(), LAW_ONE_STEPS))[name].to_numpy() for rows in (alone, together)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)


def test_both_ranks_know_the_same(ranks):
    """So that a callback on any rank may watch a quantity; what is kept on disk is written by the first alone."""
    first, second = (rank["numbers"] for rank in ranks)
    assert first["metrics"] == second["metrics"]
    assert len(first["metrics"]) > 60
    for target in NUMBERS_TARGETS:
        assert first["state"]["targets"][target].keys() == second["state"]["targets"][target].keys()
    table = [rank["numbers"]["state"]["targets"]["net.table.weight"]["instruments"]["fit"] for rank in ranks]
    torch.testing.assert_close(table[0]["previous"], table[1]["previous"], rtol=0, atol=0, equal_nan=True)


def test_only_the_first_rank_writes(folder):
    run = read_run(folder / "numbers")
    assert set(run) == set(NUMBERS_TARGETS)
    rows = run["net.table.weight"].trajectory()
    assert rows.num_rows == len(set(zip(rows["step"].to_pylist(), rows["row"].to_pylist(), strict=True)))
    assert len(list((folder / "numbers" / "normdyn" / "trajectory").glob("part-*"))) == 1


def test_an_output_that_one_rank_alone_has(ranks):
    """The other takes part with nothing, and nobody waits for ever."""
    for rank in ranks:
        logged = rank["on one rank"]["logged"]["net.bystander"]
        assert len(logged) == STEPS
    table = seeded(Separable).table.weight
    vectors = table.detach().double()[share(pair_batches(1), 0)[0][:, 0]]
    norms = vectors.norm(dim=1)
    assert len(norms) == BATCH // 2
    first = ranks[1]["on one rank"]["logged"]["net.bystander"][1]
    assert first["norm_mean"] == pytest.approx(norms.mean().item())
    assert first["common_direction"] == pytest.approx((vectors / norms[:, None]).mean(0).norm().item(), rel=1e-6)


def test_hard_negatives_are_those_of_all_documents_on_both_ranks(ranks):
    first, second = (rank["mining"] for rank in ranks)
    for run in ("whole", "resumed"):
        for step, table in first[run]["tables"].items():
            expected = first[run]["expected"][step]
            assert torch.equal(table, second[run]["tables"][step])
            assert ((table == expected) | (expected < 0)).all()
            assert (expected >= 0).float().mean() > 0.9
        assert first[run]["metrics"] == second[run]["metrics"]
        assert first[run]["files"] == ["step-000000.jsonl", "step-000003.jsonl", "step-000006.jsonl"]
    assert sorted(first["whole"]["tables"]) == [0, 3, 6]
    assert sorted(first["resumed"]["tables"]) == [6]


def test_both_ranks_train_as_if_nothing_had_been_mined_where_negatives_are_ignored(ranks):
    for rank in ranks:
        plain, mined = rank["mining"]["plain"], rank["mining"]["mined"]
        assert torch.equal(plain["weight"], mined["weight"])
        assert torch.equal(plain["random state"], mined["random state"])
