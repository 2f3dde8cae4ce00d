"""The Triton kernels against plain autograd in float64, in Triton's interpreter, and compiled: no GPU is needed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from triton_worker import CASES, TARGETS, given

from lightning_normdyn.core.contrast.exclusion import NO_ID
from lightning_normdyn.core.fused import language

WORKER = Path(__file__).with_name("triton_worker.py")
ROUNDING = {torch.bfloat16: 2e-5, torch.float16: 3e-4}
"""Of weights in two terms of bfloat16, and in TF32, on a gradient as a whole."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the kernels give for every case."""
    file = tmp_path_factory.mktemp("triton") / "found.pt"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(
        [sys.executable, str(WORKER), str(file)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return torch.load(file, weights_only=True)


def is_out(exclusion, i, j):
    """The rule of Exclusion, pair by pair."""
    if exclusion is None:
        return False
    keys = zip(exclusion.row_keys, exclusion.column_keys, strict=True)
    out = any(rows[i] == columns[j] != NO_ID for rows, columns in keys)
    if exclusion.positive_columns is not None and j in exclusion.positive_columns[i]:
        out = False
    if exclusion.positive_keys is not None and exclusion.positive_keys[0][i] == exclusion.positive_keys[1][j]:
        out = False
    return out or (exclusion.self_columns is not None and exclusion.self_columns[i] == j)


def oracle(name):
    """The whole matrix of scores in float64, and autograd."""
    x = given(name)
    leaves = {key: leaf.double().requires_grad_() for key, leaf in (("a", x.a), ("b", x.b))}
    scores = leaves["a"] @ leaves["b"].T
    if x.row_factors is not None:
        scores = scores * x.row_factors.double()[:, None] * x.column_factors.double()
    out = torch.tensor([[is_out(x.exclusion, i, j) for j in range(len(x.b))] for i in range(len(x.a))])
    rows, columns = (scores.masked_fill(out, -torch.inf).logsumexp(side) for side in (1, 0))
    columns = columns[: x.columns]
    known = {"rows": rows, "columns": columns, "positives": scores.new_zeros(0)}
    total = rows[rows > -torch.inf] @ x.of_rows[rows > -torch.inf].double()
    total = total + columns[columns > -torch.inf] @ x.of_columns[columns > -torch.inf].double()
    if x.positives is not None:
        picked = scores[torch.arange(len(x.a)), x.positives]
        known["positives"] = picked.masked_fill(out[torch.arange(len(x.a)), x.positives], -torch.inf)
        total = total + picked @ x.of_positives.double()
    total.backward()
    return {key: value.detach() for key, value in known.items()} | {key: leaf.grad for key, leaf in leaves.items()}


def error(value, expected, order=torch.inf):
    """Norm of the difference, the largest unless said otherwise, measured by that of what is expected."""
    assert value.shape == expected.shape
    finite = expected.isfinite()
    assert torch.equal(value[~finite].double(), expected[~finite])
    norms = [torch.linalg.vector_norm(x[finite], order).item() for x in (value - expected, expected)]
    return norms[0] / norms[1] if finite.any() else 0.0


@pytest.mark.parametrize("name", CASES)
def test_kernels_equal_autograd_in_float64(found, name):
    case, expected = CASES[name], oracle(name)
    assert found[name].keys() == expected.keys()
    assert {found[name][key].dtype for key in ("rows", "columns")} == {torch.float64}
    assert {found[name][key].dtype for key in expected if key not in ("rows", "columns")} == {torch.float32}
    for key, value in expected.items():
        if value.numel():
            rounding = ROUNDING.get(case.dtype) if key in ("a", "b") else None
            off = error(found[name][key], value, 2 if rounding else torch.inf)
            assert off < (rounding or 1e-5), (key, off)


@pytest.mark.parametrize("name", ["large scores", "large scores and ids", "bfloat16", "float16"])
def test_large_scores_are_large(name):
    assert oracle(name)["rows"].max() > 90


def test_a_row_without_pairs_has_nothing_and_gets_nothing(found):
    rows, of_a = found["everything"]["rows"], oracle("everything")["a"]
    assert (rows == -torch.inf).tolist() == [False, True, True, *[False] * 7]
    assert of_a.isfinite().all()


COMPILED = ("bfloat16 on 80", "float16 on 90")
"""In ``make test``: each type and each processor once, as compiling takes ten seconds for a pair of them."""


@pytest.mark.parametrize(
    "targets", [COMPILED, pytest.param(sorted(TARGETS.keys() - COMPILED), marks=pytest.mark.exhaustive)]
)
def test_kernels_compile_for_a_gpu_that_is_not_there(targets, tmp_path):
    triton = pytest.importorskip("triton")
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 3):
        pytest.skip("how to compile without a GPU changed in Triton 3.3")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, str(WORKER), "--compile", *targets]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-4000:]


def test_what_is_not_supported_is_left_to_torch():
    wide = torch.ones(2, 2, dtype=torch.float64)
    assert not language.supports(wide, wide)
    assert not language.supports(torch.ones(0, 2), torch.ones(3, 2))
