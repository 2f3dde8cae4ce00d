import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
BATCH = 96


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import loss_peers
    import loss_table
    import losses

    yield loss_peers, loss_table, losses
    for name in ("loss_peers", "loss_table", "loss_worker", "losses", "overhead_table"):
        sys.modules.pop(name, None)


def stepped(peers, name):
    step = peers.CASES[name].build(*peers.embeddings(BATCH))
    value = float(step.run())
    return value, step.gradients(), [parameter.grad for parameter in step.parameters]


@pytest.mark.parametrize("name", ["one", "prefixes", "symmetric", "gamma", "sigmoid", "summed", "simclr", "clip"])
def test_every_loss_is_compared_with_a_plain_one_of_its_value_and_gradients(modules, name):
    peers = modules[0]
    if name == "clip":
        pytest.importorskip("open_clip")
    value, gradients, of_parameters = stepped(peers, name)
    expected, wanted, of_plain = stepped(peers, peers.REFERENCES[peers.CASES[name].terms])
    assert value == pytest.approx(expected, rel=1e-5)
    for found, right in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-6)
    if name != "clip":
        for found, right in zip(of_parameters, of_plain, strict=True):
            torch.testing.assert_close(found.flatten().sum(), right.flatten().sum(), rtol=1e-4, atol=1e-6)


def test_targets_and_rows_say_what_was_not_measured(modules):
    peers, table, _ = modules
    left_out = {name: {"left_out": "ImportError: no such package"} for name in peers.CASES}
    batches = [{"batch": 4096, "rounds": 5, "losses": left_out}]
    targets = table.judge(batches)
    assert not any(target["met"] for target in targets)
    report = {
        "date": "2026-11-21",
        "machine": {"cpu": "a", "cores": 2, "python": "3", "torch": "2", "torch_threads": 2},
        "peers": {"lightly": None},
        "quick": False,
        "load": {"start": 0.1, "end": 0.2},
        "batches": batches,
        "targets": targets,
    }
    text = table.tabulate(report)
    assert "lightly not installed" in text
    assert "not measured" in text
    assert "ImportError" in text
    assert "| met |" not in text


def test_ratios_are_of_single_rounds_and_leave_out_the_disturbed(modules):
    losses = modules[2]
    sides = [
        {
            "first": {"peak_mib": peak},
            "turns": [
                {"wall": wall * number, "cpu": wall, "others": 0.9 if number == 3 else 0.0} for number in (1, 2, 3)
            ],
        }
        for wall, peak in ((1.0, 5.0), (2.0, 10.0))
    ]
    sides[0]["turns"][2]["wall"] = 100.0
    ratios = losses._ratios(*sides)
    assert (ratios["wall"], ratios["wall_most"], ratios["rounds"], ratios["memory"]) == (0.5, 0.5, 2, 0.5)
    assert ratios["calm"] is True


def test_what_would_not_fit_is_named(modules):
    losses = modules[2]
    before = {"batch": 8192, "losses": {"clip": {"peak_mib": 4000.0, "wall_ms": 2.0}}}
    assert "would need about 16 GiB" in losses._why_not("clip", 16384, before)
    assert losses._why_not("clip", 8192, {}) is None
    assert "4,096 only" in losses._why_not("lightly", 8192, before)


def test_losses_on_cuda_are_held_against_float64_before_they_are_timed(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import losses_cuda

    sides = losses_cuda.embeddings(BATCH, 32, torch.device("cpu"))
    titles = [case.title for case in losses_cuda.cases()]
    assert titles[:2] == ["InfoNCE, fused=True, bfloat16", "InfoNCE, float32"]
    for case in losses_cuda.cases()[:2]:
        assert max(losses_cuda.deviations(case.step, *sides).values()) < losses_cuda.MOST_OFF
    half = losses_cuda.by_autograd(lambda q, d: losses_cuda.infonce(q, d, fused=True) * 1.003)
    assert max(losses_cuda.deviations(half, *sides).values()) > losses_cuda.MOST_OFF
    row = {
        "title": "a",
        "ms": 1.0,
        "products": 6,
        "share_of_rate": 0.5,
        "share_of_rate_for_least": 0.3,
        "peak_mib": 2.0,
    }
    machine = {"gpu": "one", "torch": "2", "triton": "3"}
    text = losses_cuda.tabulate(
        {"date": "2026-11-21", "machine": machine, "batch": 8, "dim": 4, "repeats": 1, "rate": 1e12}
        | {"deviations": {"loss": 1e-7}, "cases": [row, {"title": "b", "left_out": "does not fit"}]}
    )
    assert "| a | 1.00 | 6 | 50.0% | 30.0% | 2 |" in text
    for name in ("losses_cuda", "overhead_table"):
        sys.modules.pop(name, None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure on")
def test_losses_on_cuda_are_refused_without_it():
    command = [sys.executable, str(FOLDER / "losses_cuda.py"), "--batch", "64", "--dim", "8"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 1
    assert finished.stderr == "losses_cuda.py measures on a CUDA device, and torch finds none on this machine.\n"
