"""On meshes of four ranks, with copies or in shards: the losses and gradients of one process with all batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rank_starter import run_ranks

pytest.importorskip("torch.distributed.fsdp", reason="torch without distributed")
from mesh_worker import Retriever, full_softmax, train, variation, watched, weights
from ranks_worker import CASES, Towers, run

from lightning_normdyn.losses import InfoNCE, SigmoidContrastive

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning"),  # pytorch_lightning 2.6 under torch 2.10 or later
]
WORKER = Path(__file__).with_name("mesh_worker.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of four processes found."""
    folder = tmp_path_factory.mktemp("mesh")
    run_ranks(WORKER, folder, ranks=4)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(4)]


def gap(gradient, expected):
    return float((gradient - expected).norm() / expected.norm())


@pytest.mark.parametrize("case", [*CASES, "cached"])
def test_copies_on_a_mesh_dimension_do_not_count_twice(ranks, case):
    make, settings, wanted = CASES.get(case, (InfoNCE, {"symmetric": True}, {"document_ids": True}))
    alone = run(Towers(make, settings), wanted, 1, 0)
    for rank in ranks:
        torch.testing.assert_close(rank["mesh"][case]["losses"], alone["losses"], rtol=1e-5, atol=0)
        for name, expected in alone["gradients"].items():
            gradient = rank["mesh"][case]["gradients"][name]
            if expected is None:
                assert gradient is None or not gradient.any(), name
            else:
                assert gap(gradient, expected) < 1e-5, name


def test_a_full_softmax_and_a_metric_go_by_the_same_group(ranks):
    alone = full_softmax(1, 0)
    for rank in ranks:
        torch.testing.assert_close(rank["full softmax"]["loss"], alone["loss"], rtol=1e-5, atol=0)
        assert gap(rank["full softmax"]["gradient"], alone["gradient"]) < 1e-5
        torch.testing.assert_close(rank["metric"], variation(1, 0), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("copies", "ranks 0 and 1 have the same batch bit for bit, so every pair would count twice"),
        ("copies of queries", "pass the mesh dimension whose ranks are given batches of their own"),
        ("two dimensions", "expected a device mesh of one dimension, got 2: ('data', 'tensor')"),
        ("no group", "expected a process group of torch or a device mesh, got str"),
        ("not gathered", "nothing is gathered over it where gather=False"),
        ("pickled", "it was lost when the loss was pickled"),
        *[(case, "nothing") for case in ("taken as they are", "evaluation", "own batches", "copied")],
    ],
)
def test_what_cannot_be_found_out_is_refused_and_nothing_else(ranks, case, sentence):
    for rank in ranks:
        assert sentence in rank["refusals"][case]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Weights after training on whole batches in one process."""
    module = Retriever()
    train(module, tmp_path_factory.mktemp("alone"), devices=1)
    return weights(module)


@pytest.mark.parametrize("kind", ["plain", "cached"])
@pytest.mark.parametrize("layout", ["encoders", "whole", "whole, registered", "copies"])
def test_sharded_modules_train_as_one_process_does(ranks, alone, layout, kind):
    """Temperature and exponents too, whether FSDP2 holds them or not, and the bound of the temperature."""
    if (layout, kind) == ("copies", "cached"):
        pytest.skip("of one kind are enough copies")
    start = weights(Retriever())
    for rank in ranks:
        trained = rank["lightning"][layout, kind]
        assert trained.keys() == alone.keys()
        for name, expected in alone.items():
            change = expected - start[name]
            assert change.any(), name
            assert gap(trained[name] - start[name], change) < 1e-4, name


def test_the_bound_of_the_temperature_was_among_what_was_compared(alone, tmp_path):
    module = Retriever(max_scale=100.0)
    train(module, tmp_path, devices=1)
    name = "contrast.scaling.log_scale"
    assert abs(float(weights(module)[name] - alone[name])) > 1e-3


@pytest.mark.filterwarnings("default")  # as in the worker: a verdict on so short a run is no error
def test_a_module_that_is_sharded_whole_is_watched_as_one_process_is(ranks, tmp_path):
    expected = watched(tmp_path, devices=1)
    of_one_process = {name for name in expected if name.endswith(("common_direction", "clip_share", "clip_row"))}
    assert len(expected) > 60
    assert ranks[0]["watched"].keys() - of_one_process == expected.keys() - of_one_process
    for name, value in ranks[0]["watched"].items():
        if name not in of_one_process and not any(part in name for part in ("skill", "residual", "stderr")):
            assert value == pytest.approx(expected[name], rel=1e-4, abs=1e-7), name


@pytest.mark.parametrize("is_distributed", [True, False])
def test_a_module_that_is_sharded_whole_resumes_bit_for_bit(ranks, is_distributed):
    for rank in ranks:
        in_one_go, resumed = rank["interrupted"][is_distributed]
        assert not [name for name in in_one_go if not torch.equal(in_one_go[name], resumed[name])]


@pytest.mark.parametrize("make", [InfoNCE, SigmoidContrastive])
def test_a_checkpoint_with_scalars_gives_its_shape_to_what_is_learnt(make):
    """An optimizer's state has the shape that the parameter had when it was saved."""
    saved = {
        name: value.reshape(()) if value.numel() == 1 else value
        for name, value in make(learnable_temperature=True).state_dict().items()
    }
    loss = make(learnable_temperature=True, temperature=0.3)
    loss.load_state_dict(saved)
    assert loss.scaling.log_scale.shape == ()
    assert {name: value.shape for name, value in loss.state_dict().items()} == {n: v.shape for n, v in saved.items()}
