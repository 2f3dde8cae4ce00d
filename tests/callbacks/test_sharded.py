"""FSDP2 on two processes: an encoder's numbers are those of one process that holds it whole, and nothing is changed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rank_starter import run_ranks
from sharded_worker import OPTIMIZERS, SHARDED, STEPS, Whole, WithTable, batches, dynamics, head_dynamics

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.callbacks.trainer_run import shares_batches

pytest.importorskip("torch.distributed.fsdp", reason="torch without distributed")
pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("sharded_worker.py")
ILL_POSED = (
    "skill",
    "stderr",
    "forecast",
    "persistence",
    "residual",
)  # differences of next to nothing, or of rounding alone


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("sharded")
    run_ranks(WORKER, folder)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]


def well_posed(logged):
    return {key: value for key, value in logged.items() if not any(part in key for part in ILL_POSED)}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("units", SHARDED)
def test_numbers_are_those_of_one_process_that_holds_all(fit, ranks, units, optimizer):
    module = Whole(OPTIMIZERS[optimizer])
    alone = fit(module, batches(), dynamics()).logger.of("net.encoder")
    found = ranks[0]["numbers"][f"{units}, {optimizer}"]
    for name, weight in module.named_parameters():
        torch.testing.assert_close(found["weights"][name], weight.detach(), rtol=1e-4, atol=1e-6)
    assert found["logged"].keys() == alone.keys()
    assert alone.keys() >= {1, 5, 20, STEPS}
    for step, expected in alone.items():
        assert found["logged"][step].keys() == expected.keys()
        logged = well_posed(found["logged"][step])
        assert logged == pytest.approx(well_posed(expected), rel=1e-4, abs=1e-6), step


@pytest.mark.parametrize("units", SHARDED)
def test_shards_are_bit_identical_with_and_without(ranks, units):
    """Validation in between, dropout on each rank."""
    for rank in ranks:
        alone, observed = rank["law one"][units]
        assert not [name for name in alone if not torch.equal(alone[name], observed[name])]
    first, second = (rank["law one"][units][1] for rank in ranks)
    assert first["net.encoder.4.weight"].shape != second["net.encoder.4.weight"].shape  # 33 rows on two ranks


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(ranks):
    in_one_go, resumed = ranks[0]["resumed"]
    assert len(in_one_go) >= STEPS // 5
    for step, expected in in_one_go.items():
        assert well_posed(resumed[step]) == pytest.approx(well_posed(expected), rel=1e-5, abs=1e-7), step


@pytest.mark.parametrize("units", ["a unit", "among units"])
def test_a_sharded_table_is_followed_as_one_process_does(fit, ranks, units):
    alone = fit(Whole(OPTIMIZERS["adamw"]), batches(), head_dynamics()).logger.of("net.head.weight")
    assert alone.keys() >= {1, 5, 20, STEPS}
    for rank in ranks:
        logged = rank["tables"][units]
        assert logged.keys() == alone.keys()
        for step, expected in alone.items():
            wanted = {name: value for name, value in well_posed(expected).items() if name != "clip_ratio"}
            found = {name: value for name, value in well_posed(logged[step]).items() if name != "clip_ratio"}
            assert found == pytest.approx(wanted, rel=2e-5, abs=1e-7), step


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("policy", "probe: 'net.encoder' computes in torch.bfloat16"),
    ],
)
def test_what_cannot_be_followed_gets_a_clear_sentence(ranks, case, sentence):
    for rank in ranks:
        assert sentence in rank["refusals"][case]


def test_no_advice_leaves_gradients_apart(ranks):
    """Parameters that FSDP2 does not hold are not reduced: nothing that is printed says to leave a table out."""
    first, second = (rank["whole tables"][False]["table"] for rank in ranks)
    assert not torch.allclose(first, second, atol=0.01)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_a_table_whose_gradients_are_averaged_as_advised_is_one(fit, ranks):
    first, second = (rank["whole tables"][True]["table"] for rank in ranks)
    assert torch.equal(first, second)
    module = WithTable(is_averaged=False)
    module.configure_model = lambda: None
    alone = fit(module, batches(), NormDynamics(targets=["table.weight"], every_n_steps=5, window=20))
    torch.testing.assert_close(first, module.table.weight.detach(), rtol=1e-4, atol=1e-6)
    logged = ranks[0]["whole tables"][True]["logged"][STEPS]
    expected = alone.logger.of("table.weight")[STEPS]
    for name in ("norm_mean", "norm_cv", "gradient_norm", "angular_update", "stationarity"):
        assert logged[name] == pytest.approx(expected[name], rel=1e-4), name


@pytest.mark.parametrize(("replicas", "shared"), [(4, False), (2, True)])
def test_ranks_that_share_a_batch_are_told_apart(replicas, shared):
    """Four ranks, of which two and two compute one model together under tensor parallelism."""
    strategy = SimpleNamespace(distributed_sampler_kwargs={"num_replicas": replicas, "rank": 0})
    assert shares_batches(SimpleNamespace(strategy=strategy, world_size=4)) is shared
    assert not shares_batches(SimpleNamespace(strategy=SimpleNamespace(), world_size=1))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="streams and NCCL need two GPUs; the rest runs on CPU ranks")
def test_on_gpus_too(tmp_path):
    run_ranks(WORKER, tmp_path, "gpu")
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True, map_location="cpu")
        for alone, observed in found["law one"].values():
            assert not [name for name in alone if not torch.equal(alone[name], observed[name])]
