"""Runs the Triton kernels in Triton's interpreter, which has to be told so before it is imported: a process of its own.

``python triton_worker.py FILE`` writes what they give for every case to FILE. ``python triton_worker.py --compile
TARGET...`` compiles them for GPUs that need not be there: the interpreter takes much that the compiler refuses.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

import torch
from torch import Tensor
from triton_bfloat16 import teach_bfloat16

from lightning_normdyn.core.contrast.exclusion import NO_ID, Exclusion
from lightning_normdyn.core.contrast.factored import Factored, empty_place

PRECISIONS = {"bfloat16": (torch.bfloat16, True), "float16": (torch.float16, False), "float32": (torch.float32, False)}
"""Type of the embeddings, and whether kernels are compiled with factors and every way to exclude."""
TARGETS = {
    f"{precision} on {capability}": (capability, precision) for capability in (80, 90) for precision in PRECISIONS
}
"""What kernels are compiled for: the compute capability of a GPU, and a precision."""
SHARED = 99 * 2**10
"""Bytes that programs share on the smallest processors of capability 8 or more."""


class Case(NamedTuple):
    """What the kernels are given; ``excludes`` names a way of leaving pairs out, ``strips`` cuts them up small."""

    n: int = 65
    m: int = 130
    d: int = 40
    columns: int = 0
    spread: float = 1.0
    dtype: torch.dtype = torch.float32
    factors: bool = False
    positives: bool = True
    excludes: str = ""
    contiguous: bool = True
    strips: bool = False
    through_autograd: bool = False


CASES = {
    "a single row": Case(n=1, m=5, d=3, columns=5),
    "odd shapes": Case(columns=130),
    "fewer columns than there are": Case(columns=65),
    "rows alone": Case(positives=False),
    "a single dimension": Case(n=3, m=2, d=1, columns=1),
    "strips": Case(n=130, m=70, columns=70, factors=True, strips=True, excludes="ids"),
    "strips in half precision": Case(n=300, m=140, columns=140, factors=True, strips=True, dtype=torch.bfloat16),
    "not contiguous": Case(n=20, m=33, d=17, columns=20, contiguous=False),
    "factors": Case(n=20, m=33, d=17, columns=20, factors=True),
    "ids": Case(columns=65, excludes="ids"),
    "ids and labels": Case(columns=65, excludes="labels"),
    "its own": Case(n=30, m=30, d=8, positives=False, excludes="own"),
    "ids and its own": Case(n=30, m=40, d=8, columns=30, positives=False, excludes="ids and own"),
    "everything": Case(n=10, m=20, d=8, columns=10, excludes="everything"),
    "large scores": Case(columns=65, spread=6.0),
    "large scores and ids": Case(columns=65, spread=6.0, excludes="ids"),
    "bfloat16": Case(n=65, m=140, d=100, columns=65, spread=100.0, dtype=torch.bfloat16, factors=True, excludes="ids"),
    "bfloat16 without factors": Case(n=20, m=40, columns=20, dtype=torch.bfloat16),
    "float16": Case(n=65, m=140, d=100, columns=65, spread=100.0, dtype=torch.float16, factors=True),
    "through autograd": Case(columns=65, factors=True, excludes="ids", through_autograd=True),
}


class Given(NamedTuple):
    """The arguments of a case."""

    a: Tensor
    b: Tensor
    columns: int
    positives: Tensor | None
    exclusion: Exclusion | None
    row_factors: Tensor | None
    column_factors: Tensor | None
    of_rows: Tensor
    of_columns: Tensor
    of_positives: Tensor | None


def given(name: str) -> Given:
    """The arguments of a case, the same whenever it is asked."""
    case, generator = CASES[name], torch.Generator().manual_seed(sum(name.encode()))

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    a, b = ((random(case.d, k).T if not case.contiguous else random(k, case.d)) for k in (case.n, case.m))
    several = torch.arange(case.n) % max(1, case.m // 2)  # rows that share a positive
    positives = torch.randperm(case.m, generator=generator)[: case.n] if case.m >= case.n else several
    u = v = None
    if case.factors:  # cosines, times a scale; those of positives are near one
        if case.m >= case.n:
            b[positives] += 4 * a
        a, b = (3 * a).to(case.dtype), (3 * b).to(case.dtype)
        u, v = case.spread / a.float().norm(dim=1), 1 / b.float().norm(dim=1)
    else:
        a, b = (case.spread * a).to(case.dtype), b.to(case.dtype)
    ids, others = (torch.randint(0, 6, (case.n + case.m,), generator=generator) for _ in range(2))
    ids[case.n :: 3] = NO_ID
    of_positives = random(case.n) if case.positives else None
    return Given(
        *(a, b, case.columns, positives if case.positives else None),
        _exclusion(case, ids, others, positives),
        *(u, v, random(case.n), random(case.columns), of_positives),
    )


def _exclusion(case: Case, ids: Tensor, others: Tensor, positives: Tensor) -> Exclusion | None:
    row_keys, column_keys = (ids[: case.n], others[: case.n]), (ids[case.n :], others[case.n :])
    positive_columns = torch.stack((positives, torch.full_like(positives, -1), (positives + 1) % case.m), 1)
    self_columns = torch.arange(case.n)
    if case.excludes == "everything":
        nothing_left = torch.zeros(case.n, dtype=torch.int64), torch.zeros(case.m, dtype=torch.int64)
        nothing_left[0][3:] = NO_ID
        return Exclusion(
            nothing_left[:1], nothing_left[1:], positive_columns=torch.tensor([[0], *[[-1]] * (case.n - 1)])
        )
    return {
        "": None,
        "ids": Exclusion(row_keys, column_keys, positive_columns=positive_columns),
        "labels": Exclusion(
            row_keys[:1],
            column_keys[:1],
            positive_columns=positive_columns[:, :1],
            positive_keys=(row_keys[1], column_keys[1]),
        ),
        "own": Exclusion(self_columns=self_columns),
        "ids and own": Exclusion(
            row_keys, column_keys, positive_columns=positive_columns[:, :1], self_columns=self_columns
        ),
    }[case.excludes]


def compute(name: str) -> dict[str, Tensor]:
    """What the kernels give."""
    from lightning_normdyn.core.fused import backward, forward, language

    case, x = CASES[name], given(name)
    assert language.supports(x.a, x.b)
    if case.through_autograd:
        return _through_autograd(x)
    sizes = (forward._PARTS, backward._STRIP_BYTES)
    if case.strips:
        forward._PARTS, backward._STRIP_BYTES = 1, 1
    try:
        same = {"exclusion": x.exclusion, "row_factors": x.row_factors, "column_factors": x.column_factors}
        rows, columns, scores = forward.log_sum_exps(x.a, x.b, columns=x.columns, positives=x.positives, **same)
        positives = {"positives": x.positives, "of_positives": x.of_positives}
        back = (x.a, x.b, rows, columns, x.of_rows, x.of_columns)
        of_a, of_b = backward.gradients(*back, **positives, **same)
        nothing, alone = backward.gradients(*back, **positives, **same, wants_a=False)
        assert nothing is None
        assert torch.equal(alone, of_b)
    finally:
        forward._PARTS, backward._STRIP_BYTES = sizes
    return {"rows": rows, "columns": columns, "positives": scores, "a": of_a, "b": of_b}


def _through_autograd(x: Given) -> dict[str, Tensor]:
    """The way that losses go."""
    from lightning_normdyn.core.fused.log_sum_exp import fused_log_sum_exp

    a, b = (
        Factored(rows, factors, empty_place(len(rows), rows).requires_grad_())
        for rows, factors in ((x.a, x.row_factors), (x.b, x.column_factors))
    )
    found = fused_log_sum_exp(a, b, columns=x.columns, positives=x.positives, exclusion=x.exclusion)
    gradients = torch.autograd.grad(found, (a.place, b.place), (x.of_rows, x.of_columns, x.of_positives))
    rows, columns, positives = (y.detach() for y in found)
    return {"rows": rows, "columns": columns, "positives": positives, "a": gradients[0], "b": gradients[1]}


def compile_kernels(capability: int, precision: str) -> None:
    """Everything down to machine code."""
    from lightning_normdyn.core.fused.backward import _weights_kernel
    from lightning_normdyn.core.fused.block import Block
    from lightning_normdyn.core.fused.forward import _log_sum_exp_kernel
    from lightning_normdyn.core.fused.product import _product_kernel

    dtype, full = PRECISIONS[precision]
    floats, ids = ("*fp32", "*i64") if full else (None, None)
    vectors = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}[dtype]
    weights = torch.float32 if dtype == torch.float16 else dtype
    terms = 2 if dtype == torch.bfloat16 else 1
    sizes = dict.fromkeys(("columns", "first", "last", "n", "m", "d", "plane", "stride"), "i32")
    shared = sizes | dict.fromkeys(("a", "b"), vectors) | dict.fromkeys(("row_factors", "column_factors"), floats)
    shared |= dict.fromkeys(
        ("row_keys", "column_keys", "positive_columns", "kept_row_key", "kept_column_key", "self_columns"), ids
    )
    shared |= {"has_columns": True, "no_id": NO_ID, "keys": 2 * full, "kept_count": 2 * full, "positives": "*i64"}
    shared |= {"terms": terms, "narrow": dtype == torch.float16} | Block.of(dtype).arguments()
    left = dict.fromkeys(("row_tops", "row_sums", "column_tops", "column_sums", "of_positives"), "*fp32")
    _compile(_log_sum_exp_kernel, shared | left, capability)
    known = dict.fromkeys(("rows", "columns_", "of_rows", "of_columns"), "*fp32") | {"of_positives": floats}
    made = "*fp32" if weights == torch.float32 else vectors
    _compile(_weights_kernel, shared | known | {"weights": made}, capability)
    product = sizes | {"x": made, "y": vectors, "out": "*fp32", "widen": made != vectors, "terms": terms}
    product |= {"precision": "ieee" if dtype == torch.float32 else "tf32"} | Block.of(weights, terms=terms).arguments()
    for strides, add in (({"stride_n": "i32", "stride_d": 1}, False), ({"stride_n": 1, "stride_d": "i32"}, True)):
        _compile(_product_kernel, product | strides | {"add": add}, capability)


def _compile(kernel: object, arguments: dict[str, object], capability: int) -> None:
    import triton
    from triton.backends.compiler import GPUTarget

    given = {name: arguments[name] for name in kernel.arg_names}
    types = {name: x if x in ("*fp32", "*bf16", "*fp16", "*i64", "i32") else "constexpr" for name, x in given.items()}
    constants = {(kernel.arg_names.index(name),): given[name] for name, x in types.items() if x == "constexpr"}
    options = {name: arguments[name] for name in ("num_warps", "num_stages", "enable_fp_fusion")}
    source = triton.compiler.ASTSource(kernel, types, constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= SHARED, (kernel, compiled.metadata.shared)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "--compile":
        for target in sys.argv[2:]:
            compile_kernels(*TARGETS[target])
    else:
        assert os.environ["TRITON_INTERPRET"] == "1"
        teach_bfloat16()
        torch.save({name: compute(name) for name in CASES}, sys.argv[1])
