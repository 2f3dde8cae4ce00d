"""The fused loss, whole, in Triton's interpreter against the loop in float64, and what goes the usual way."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path

import contrast_oracle as oracle
import pytest
import torch
from fused_worker import CASES, DIRECTIONS, GRID, LEFT_ALONE, LONG, PRECISION, RANKS, SHAPES, SPLIT, ZEROS, batch
from rank_starter import run_ranks

from lightning_normdyn.core import split_radial_tangential
from lightning_normdyn.core.fused import language
from lightning_normdyn.losses import ContrastiveMixin, InfoNCE

WORKER = Path(__file__).with_name("fused_worker.py")
BESIDE_ROUNDING = {torch.bfloat16: 2e-5, torch.float16: 3e-4}
"""A gradient's error beside that of its own rounding: what weights in two terms of bfloat16, or in TF32, leave over."""
IN_ALL = {torch.bfloat16: 2e-3, torch.float16: 5e-4}
"""And both together, for a large batch."""
OF_SCALARS = {torch.bfloat16: 5e-5, torch.float16: 1e-3}
"""These are in float32, and small differences of large sums."""

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds for every case."""
    folder = tmp_path_factory.mktemp("fused")
    run_ranks(WORKER, folder, ranks=1, start_method="spawn", TRITON_INTERPRET="1")
    return torch.load(folder / "alone.pt", weights_only=True)


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory):
    """What each of two ranks finds."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(WORKER, folder, start_method="spawn", TRITON_INTERPRET="1")
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


def of_matrix(scores, direction):
    """The loss of many pairs from the whole matrix: the loop would take too long."""
    s = scores.of(scores.queries, scores.documents, 0, 1)
    own, n = s.diagonal(), len(scores.queries)
    terms = {"q": s.logsumexp(1) - own, "d": s.logsumexp(0)[:n] - own}
    return torch.stack([terms[side].mean() for side in direction]).mean()


def expected_of(name, case):
    """Loss and gradients in float64, of the embeddings as they were rounded."""
    given = batch(name, case)
    sides = [given.pop(side, None) for side in ("queries", "documents", "hard_negatives")]
    scores = oracle.Scores(*sides, normalization=case.normalization, temperature=case.temperature)
    many = case.n * case.m > 1_000
    loss = of_matrix(scores, case.direction) if many else oracle.infonce(scores, direction=case.direction, **given)
    loss.backward()
    found = {"loss": loss.detach(), "queries": scores.queries.grad, "documents": scores.documents.grad}
    found["scaling.log_scale"] = scores.log_scale.grad[None]
    if scores.hard is not None:
        found["hard_negatives"] = scores.hard.grad
    if case.normalization == "learnable":
        found["similarity.raw_gammas"] = scores.raw_gammas.grad
    return found


def relative(found, expected):
    gap, length = (found - expected).norm(), expected.norm()
    return float(gap / length) if length else float(gap)


def rounding_of(gradient, case):
    """The relative error of rounding a gradient, as the worker has scaled the loss, to half precision."""
    return relative((case.loss_scale * gradient).to(case.dtype).double() / case.loss_scale, gradient)


def assert_equal(found, expected, case):
    assert found.keys() - {"asked"} == expected.keys()
    assert found["asked"] == 1
    assert found["loss"].dtype == torch.float32
    assert float((found["loss"] - expected["loss"]).abs()) <= 1e-6 * (1 + float(expected["loss"]))
    for name, value in expected.items():
        if name != "loss":
            scalar = "." in name
            most = OF_SCALARS[case.dtype] if scalar else BESIDE_ROUNDING[case.dtype] + 1.01 * rounding_of(value, case)
            assert relative(found[name], value) <= most, name


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("name", [*GRID, *SHAPES, *LONG, *RANKS])
def test_loss_and_gradients_are_those_of_the_loop(alone, name):
    case = (CASES | RANKS)[name]
    assert_equal(alone[name], expected_of(name, case), case)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("name", PRECISION)
def test_gradient_error_is_that_of_rounding_the_result(alone, name):
    case, expected = PRECISION[name], expected_of(name, PRECISION[name])
    assert_equal(alone[name], expected, case)
    for side in ("queries", "documents"):
        assert relative(alone[name][side], expected[side]) < IN_ALL[case.dtype]
        radial = split_radial_tangential(alone[name][side], batch(name, case)[side].double()).radial
        assert float(radial.norm() / alone[name][side].norm()) < 1e-4


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("name", ZEROS)
def test_zero_vectors_have_finite_gradients(alone, name):
    found = alone[name]
    assert found["asked"] == 1
    assert all(x.isfinite().all() for x in found.values())
    assert found["queries"][3].any()


@needs_triton
@pytest.mark.slow
def test_no_wide_copy_of_the_embeddings_is_made(alone):
    embeddings = 40 * 2_000 * 2
    assert alone["largest"]["fused"] == embeddings
    assert alone["largest"]["usual"] == 2 * embeddings


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_the_kernels_do_not_cover_goes_the_usual_way(alone, name):
    assert alone["left alone"][name]


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("name", RANKS)
def test_two_ranks_are_one_process_with_all_pairs(alone, of_ranks, name):
    case, n = RANKS[name], RANKS[name].n
    joined = {}
    for side in ("queries", "documents", "hard_negatives"):
        parts = [found[name][side] / len(SPLIT) for found in of_ranks if side in found[name]]
        if side == "documents" and case.m > n:  # those of no query lie behind those of all queries
            pairs = list(zip(parts, SPLIT, strict=True))
            parts = [*(part[:size] for part, size in pairs), *(part[size:] for part, size in pairs)]
        if parts:
            joined[side] = torch.cat(parts)
    for scalar in ("scaling.log_scale", "similarity.raw_gammas"):
        joined[scalar] = torch.stack([found[name][scalar] for found in of_ranks]).mean(0)
    for found in of_ranks:
        assert_equal(joined | {key: found[name][key] for key in ("loss", "asked")}, expected_of(name, case), case)
        torch.testing.assert_close(found[name]["loss"], alone[name]["loss"], rtol=1e-6, atol=0)


@needs_triton
@pytest.mark.slow
def test_ranks_that_disagree_are_told_so_and_do_not_wait(of_ranks):
    for found in of_ranks:
        sentences = found["disagreeing"]
        assert sentences[0].startswith("queries (1 if fused in float16): expected the same on all ranks, got [1, 0]")
        assert sentences[1].startswith("queries (1 if fused): expected the same on all ranks, got [0, 1]")


def pairs():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6, 5, generator=generator).bfloat16().requires_grad_() for _ in range(2)]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_without_cuda_a_fused_loss_is_the_usual_one_and_says_nothing(direction, monkeypatch):
    monkeypatch.setattr(language, "triton", object())  # installed, as it may not be here
    found = []
    for fused in (True, False):
        sides = pairs()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value = InfoNCE(fused=fused, **DIRECTIONS[direction])(*sides)
        found.append([value.detach(), *torch.autograd.grad(value, sides)])
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


def test_a_module_says_once_that_triton_is_missing(monkeypatch):
    monkeypatch.setattr(language, "triton", None)
    language.is_available.cache_clear()
    loss, sides = InfoNCE(fused=True), pairs()
    try:
        with pytest.warns(UserWarning, match="fused=True: Triton is not installed, .* install triton") as caught:
            values = [loss(*sides) for _ in range(3)]
        assert len(caught) == 1
        assert torch.equal(values[0], InfoNCE()(*sides))
        with pytest.warns(UserWarning, match="Triton is not installed"):
            InfoNCE(fused=True)(*sides)
    finally:
        language.is_available.cache_clear()


def test_the_mixin_hands_it_on_and_copies_keep_it():
    class Module(ContrastiveMixin, torch.nn.Module):
        pass

    assert Module().contrast.kernels is None
    assert copy.deepcopy(Module(fused=True)).contrast.kernels is not None


def test_triton_is_imported_by_those_alone_who_ask_for_it():
    script = (
        "import sys, torch; from lightning_normdyn.losses import InfoNCE; x = torch.eye(2)\n"
        "asked = lambda: 'lightning_normdyn.core.fused.language' in sys.modules\n"
        "InfoNCE()(x, x); assert not asked(); InfoNCE(fused=True)(x, x); assert asked()\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr[-2_000:]
