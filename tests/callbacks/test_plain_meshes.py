"""Plain loops on two ranks, under FSDP2 and tensor parallelism, without a line for any of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rank_starter import run_ranks

pytest.importorskip("torch.distributed.fsdp", reason="torch without distributed")
from plain_mesh_worker import MAX_SCALE, Proxies, Retriever, batches, columns, scales

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("plain_mesh_worker.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain_meshes")
    run_ranks(WORKER, folder)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


def test_a_learnt_temperature_is_held_under_fsdp2_as_in_one_process(ranks):
    """The loop does not call hold(). One process sets the scale back ahead of the next step, FSDP2 behind each."""
    alone = [min(scale, MAX_SCALE) for scale in scales(Retriever())]
    assert alone[-1] == pytest.approx(MAX_SCALE)
    assert alone[0] < MAX_SCALE
    for rank in ranks:
        assert rank["scales"] == pytest.approx(alone, rel=1e-5)


def test_columns_that_ranks_share_are_measured_as_those_of_one_process(ranks):
    expected = columns(Proxies())
    assert [step for _, step in ranks[0]["columns"]] == [step for _, step in expected]
    for (metrics, step), (wanted, _) in zip(ranks[0]["columns"], expected, strict=True):
        assert metrics.keys() == wanted.keys()
        for name, value in metrics.items():
            if not any(part in name for part in ("residual", "skill", "stderr")):
                assert value == pytest.approx(wanted[name], rel=2e-5, abs=1e-7), (step, name)


def test_the_balance_of_an_encoder_whose_ranks_compute_together_is_left_out_and_said(ranks):
    sentence = "some ranks share a batch (tensor parallelism), which a probe cannot follow yet"
    logged = {step: metrics for metrics, step in ranks[0]["tensor parallel"]["logged"]}
    assert sum(sentence in said for said in ranks[0]["tensor parallel"]["said"]) == 1
    assert not [key for metrics in logged.values() for key in metrics if "balance" in key or "growth_share" in key]
    norms = Retriever().encoder(batches()[0]).detach().norm(dim=1)
    assert logged[1]["normdyn/encoder/norm_mean"] == pytest.approx(float(norms.mean()), rel=1e-5)


def test_the_balance_of_an_encoder_that_fsdp2_gathers_is_there(ranks):
    assert not [said for said in ranks[0]["sharded"]["said"] if "share a batch" in said]
    assert [key for metrics, _ in ranks[0]["sharded"]["logged"] for key in metrics if "balance" in key]
