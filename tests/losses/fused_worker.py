"""Computes fused losses in Triton's interpreter, which has to be told so before it is imported: a process of its own.

``TRITON_INTERPRET=1 python fused_worker.py FOLDER``; under torchrun every rank takes its share of each case of RANKS.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.losses import InfoNCE

DIRECTIONS = {"q": {}, "d": {"direction": "document_to_query"}, "qd": {"symmetric": True}}
NORMALIZATIONS = ("cosine", "dot", "qnorm", "dnorm", "learnable")


class Case(NamedTuple):
    """A batch and a loss; ``length`` multiplies the embeddings, ``near`` is how like its document a query is.

    ``loss_scale`` is that of a loss scaler: gradients of a mean over a batch leave float16.
    """

    n: int = 9
    m: int = 13
    d: int = 6
    dtype: torch.dtype = torch.bfloat16
    normalization: str = "learnable"
    direction: str = "qd"
    temperature: float = 0.3
    hard: int = 0
    ids: bool = False
    near: float = 0.0
    length: float = 1.0
    zeros: bool = False
    fused: bool = True
    loss_scale: float = 1024.0


GRID = {
    f"{normalization}, {direction}, {number}": Case(
        normalization=normalization, direction=direction, hard=hard, ids=ids, temperature=(0.05, 1.0)[number % 2]
    )
    for normalization in NORMALIZATIONS
    for direction in DIRECTIONS
    for number, (hard, ids) in enumerate([(0, False), (0, True), (2, True)])
    if not (hard and direction == "d")
}
SHAPES = {
    f"{n} x {m} x {d} in {str(dtype)[6:]}": Case(n=n, m=m, d=d, dtype=dtype)
    for n, m, d in [(1, 1, 1), (1, 5, 3), (2, 2, 1), (130, 130, 17), (129, 257, 65), (3, 140, 100)]
    for dtype in (torch.bfloat16, torch.float16)
}
PRECISION = {
    f"{str(dtype)[6:]} at {scale}": Case(
        n=256, m=256, d=512, dtype=dtype, normalization="cosine", temperature=1 / scale, near=1 / 8
    )
    for dtype in (torch.bfloat16, torch.float16)
    for scale in (14.3, 50.0, 100.0)
}
LONG = {
    f"long, {normalization}": Case(
        n=20, m=20, d=64, dtype=torch.float16, normalization=normalization, length=1e4, loss_scale=1.0
    )
    for normalization in NORMALIZATIONS
}
LONG |= {
    f"length {length} in bfloat16": Case(
        n=20, m=20, d=64, normalization="cosine", length=length, near=0.3, temperature=0.03, loss_scale=1.0
    )
    for length in (1e-10, 1e10)
}
ZEROS = {
    f"zeros, {normalization}, {str(dtype)[6:]}": Case(dtype=dtype, normalization=normalization, zeros=True)
    for normalization in NORMALIZATIONS
    for dtype in (torch.bfloat16, torch.float16)
}
CASES = GRID | SHAPES | PRECISION | LONG | ZEROS

RANKS = {
    f"ranks, {direction}": Case(n=20, m=40, direction=direction, hard=2 * (direction != "d"), ids=True)
    for direction in DIRECTIONS
} | {"ranks, plain": Case(n=20, m=20), "ranks, float16": Case(n=20, m=20, dtype=torch.float16)}
SPLIT = (7, 13)
"""Pairs of each rank of two."""

LEFT_ALONE = {
    "labels": ({}, {"labels": torch.arange(13) % 4}),
    "positives": ({}, {"positives": torch.arange(9)[:, None].flip(0)}),
    "same side": ({"same_side": "both"}, {}),
    "joint": ({"joint": True}, {}),
    "queue": ({"queue_size": 20}, {}),
    "float32": ({}, {"dtype": torch.float32}),
    "float64": ({}, {"dtype": torch.float64}),
    "two precisions": ({}, {"documents": torch.float16}),
}
"""What a fused loss computes the usual way: keywords of the loss and of a step."""


def batch(name: str, case: Case) -> dict[str, torch.Tensor]:
    """Embeddings of uneven lengths, rounded once, and ids; the same whenever it is asked."""
    generator = torch.Generator().manual_seed(sum(name.encode()))

    def normal(*shape: int) -> torch.Tensor:
        lengths = (0.3 * torch.randn(*shape[:-1], 1, generator=generator)).exp()
        return torch.randn(*shape, generator=generator) * lengths

    queries, documents = normal(case.n, case.d), normal(case.m, case.d)
    if case.near:
        documents[: case.n] += case.near * queries
    made = {"queries": queries, "documents": documents}
    if case.hard:
        made["hard_negatives"] = normal(case.n, case.hard, case.d)
    if case.length != 1:
        made = {side: case.length * torch.nn.functional.normalize(x, dim=-1) for side, x in made.items()}
    made = {side: x.to(case.dtype) for side, x in made.items()}
    if case.zeros:
        made["queries"][3], made["documents"][5] = 0, 0
    if case.ids:
        sizes = {"query_ids": (case.n - 2, case.n), "document_ids": (case.m - 3, case.m)}
        made |= {kind: torch.randint(0, high, (n,), generator=generator) for kind, (high, n) in sizes.items()}
        if case.hard:
            made["hard_negative_ids"] = torch.randint(0, case.m - 3, (case.n, case.hard), generator=generator)
    return made


def make(case: Case, **settings: object) -> InfoNCE:
    return InfoNCE(
        normalization=case.normalization,
        temperature=case.temperature,
        learnable_temperature=True,
        max_scale=1e4,
        fused=case.fused,
        **(DIRECTIONS[case.direction] | settings),
    )


def step(loss: InfoNCE, given: dict[str, torch.Tensor], scale: float = 1.0) -> dict[str, torch.Tensor]:
    """The loss, all gradients, and how often the kernels were asked."""
    asked = []
    if loss.kernels is not None:
        usual = loss.kernels.log_sum_exp
        loss.kernels.log_sum_exp = lambda *sides, **options: asked.append(1) or usual(*sides, **options)
    given = {name: x.clone().requires_grad_() if x.is_floating_point() else x for name, x in given.items()}
    value = loss(**given)
    leaves = {name: x for name, x in given.items() if x.requires_grad} | dict(loss.named_parameters())
    gradients, again = (
        torch.autograd.grad(scale * value, list(leaves.values()), retain_graph=retain) for retain in (True, False)
    )
    assert all(torch.equal(x, y) for x, y in zip(gradients, again, strict=True))
    found = {name: x.double() / scale for name, x in zip(leaves, gradients, strict=True)}
    return found | {"loss": value.detach(), "asked": torch.tensor(len(asked))}


def share(given: dict[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """One rank's part of the pairs, and of the documents and ids that go with them."""
    n, first = len(given["queries"]), sum(SPLIT[:rank])
    pairs = torch.arange(first, first + SPLIT[rank])
    others = pairs + n if len(given["documents"]) == 2 * n else pairs[:0]
    rows = {"documents": torch.cat((pairs, others)), "document_ids": torch.cat((pairs, others))}
    return {name: x[rows.get(name, pairs)] for name, x in given.items()}


def left_alone(name: str) -> torch.Tensor:
    """Whether a fused loss gives to the last bit what the usual one gives, without asking the kernels."""
    settings, options = LEFT_ALONE[name]
    case = Case(normalization="cosine")
    given = batch(name, case)
    if "dtype" in options:
        given = {side: x.to(options["dtype"]) for side, x in given.items()}
    elif "documents" in options:
        given["documents"] = given["documents"].to(options["documents"])
    else:
        given |= options
    found = []
    for fused in (True, False):
        loss = make(case._replace(fused=fused), **settings)
        step(loss, given)  # fills a queue
        found.append(step(loss, given))
    return torch.tensor(all(torch.equal(x, found[1][key]) for key, x in found[0].items()))


class Largest(TorchDispatchMode):
    """The most bytes that any operation asked for at a time."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for x in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(x, torch.Tensor):
                self.bytes = max(self.bytes, x.untyped_storage().nbytes())
        return made


def largest(*, fused: bool) -> torch.Tensor:
    """Bytes of the largest tensor on the way to a loss of long embeddings, themselves included."""
    case = Case(n=40, m=40, d=2_000, fused=fused)
    given = batch("largest", case)
    with Largest() as mode:
        make(case)(**{name: x.requires_grad_() for name, x in given.items()})
    return torch.tensor(mode.bytes)


def disagree(rank: int, what: str) -> str:
    """What a rank is told when one of them is given something that the kernels take and the other not."""
    given = {name: x[:3] for name, x in batch(what, Case(m=9)).items()}
    if rank == 0:
        other = torch.float16 if what == "float16" else torch.float32
        given = {name: x.to(other) for name, x in given.items()}
    try:
        make(Case())(**given)
    except ValueError as error:
        return str(error)
    return "nothing"


def main(folder: str) -> None:
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        found = {name: step(make(case), batch(name, case), case.loss_scale) for name, case in (CASES | RANKS).items()}
        found["left alone"] = {name: left_alone(name) for name in LEFT_ALONE}
        found["largest"] = {name: largest(fused=name == "fused") for name in ("fused", "usual")}
        torch.save(found, Path(folder) / "alone.pt")
        return
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = {name: step(make(case), share(batch(name, case), rank), case.loss_scale) for name, case in RANKS.items()}
    found["disagreeing"] = [disagree(rank, what) for what in ("float16", "float32")]
    torch.save(found, Path(folder) / f"rank-{rank}.pt")


if __name__ == "__main__":
    assert os.environ["TRITON_INTERPRET"] == "1"
    torch.set_num_threads(1)
    sys.path.append(str(Path(__file__).parents[1] / "core/fused"))
    from triton_bfloat16 import teach_bfloat16

    teach_bfloat16()
    with ended_process_group():
        main(sys.argv[1])
