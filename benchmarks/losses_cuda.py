"""What the symmetric InfoNCE loss costs on a CUDA device, in bfloat16: forward and backward of the loss alone.

    python benchmarks/losses_cuda.py [--batch 32768] [--dim 1024] [--out benchmarks/results]

Writes ``losses_cuda.json`` and a dated table, ``losses_cuda.md``. The rate of the device is that of a large bfloat16
matrix product, measured on the spot. Before anything is timed, the fused loss is held against float64.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from overhead_table import machine
from torch import Tensor

from lightning_normdyn.core.fused import language
from lightning_normdyn.losses import InfoNCE

SCALE = 50.0
LEAST = 4  # products: scores, scores again, and a gradient each
CHECKED = 2048
MOST_OFF = 2e-3  # of which rounding a gradient to bfloat16 takes 1.7e-3
SIDE = 8192  # of the matrices whose product gives the rate
WARM_UPS = 3

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class Case(NamedTuple):
    """A way to the loss and both gradients.

    Attributes:
        title: what the table calls it.
        products: how many products of the size of the scores it makes.
        step: gives the loss and the gradients of queries and documents.
    """

    title: str
    products: int
    step: Step


def by_autograd(value: Callable[[Tensor, Tensor], Tensor]) -> Step:
    """A step from a loss that autograd knows."""

    def step(q: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, d = q.detach().requires_grad_(), d.detach().requires_grad_()
        loss = value(q, d)
        return loss.detach(), *torch.autograd.grad(loss, (q, d))

    return step


def dense(q: Tensor, d: Tensor) -> Tensor:
    """The whole matrix of scores."""
    scores = SCALE * F.normalize(q) @ F.normalize(d).T
    own = torch.arange(len(q), device=q.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def infonce(q: Tensor, d: Tensor, *, fused: bool) -> Tensor:
    """The loss of this package."""
    return InfoNCE(temperature=1 / SCALE, symmetric=True, check_finite=False, fused=fused)(q, d)


def streamed(*, fused: bool) -> Step:
    return by_autograd(lambda q, d: infonce(q, d, fused=fused))


def cases() -> list[Case]:
    """What is compared; open_clip only where it is installed."""
    listed = [
        Case("InfoNCE, fused=True, bfloat16", 6, streamed(fused=True)),  # weights are two terms
        Case("InfoNCE, float32", 4, streamed(fused=False)),
        Case("dense, bfloat16", 3, by_autograd(dense)),
    ]
    try:
        clip = importlib.import_module("open_clip.loss").ClipLoss()
    except ImportError:
        return listed
    peer = by_autograd(lambda q, d: clip(F.normalize(q), F.normalize(d), SCALE))
    return [*listed, Case("open_clip ClipLoss, bfloat16", 6, peer)]


def embeddings(batch: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pairs at a cosine of about 0.45, with lengths that differ."""
    generator = torch.Generator(device).manual_seed(0)
    q, other = (torch.randn(batch, dim, generator=generator, device=device) for _ in range(2))
    lengths = torch.randn(2, batch, 1, generator=generator, device=device).mul(0.3).exp()
    return (q * lengths[0]).bfloat16(), ((0.5 * q + other) * lengths[1]).bfloat16()


def deviations(step: Step, q: Tensor, d: Tensor) -> dict[str, float]:
    """Relative deviation of the loss and of the gradients, in norm, from the dense path in float64."""
    found, exact = step(q, d), by_autograd(dense)(q.double(), d.double())
    names = ("loss", "of_queries", "of_documents")
    return {
        name: ((x - y).norm() / y.norm()).item()
        for name, x, y in zip(names, (x.double() for x in found), exact, strict=True)
    }


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The median by the device's own clock."""
    for _ in range(WARM_UPS):
        run()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def matrix_rate(device: torch.device, repeats: int) -> float:
    """Operations a second of a large product in bfloat16; of random numbers, for zeros are faster."""
    x, y = (torch.randn(SIDE, SIDE, device=device).bfloat16() for _ in range(2))
    return 2 * SIDE**3 / seconds(lambda: x @ y, repeats)


def measure(case: Case, q: Tensor, d: Tensor, rate: float, repeats: int) -> dict[str, Any]:
    """Time, share of the rate and memory of one case; the first step, which compiles, is left out of all."""
    try:
        case.step(q, d)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        case.step(q, d)
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        time = seconds(lambda: case.step(q, d), repeats)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return {"title": case.title, "left_out": "does not fit into the memory of the device"}
    of_one = 2 * len(q) * len(d) * q.shape[1] / time / rate
    shares = {"share_of_rate": of_one * case.products, "share_of_rate_for_least": of_one * LEAST}
    return {"title": case.title, "ms": 1e3 * time, "products": case.products, "peak_mib": peak / 2**20} | shares


def tabulate(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    hardware, checked = report["machine"], report["deviations"]
    lines = [
        f"# Losses on CUDA, {report['date']}",
        "",
        f"{hardware['gpu']}, torch {hardware['torch']}, Triton {hardware['triton']}. Symmetric InfoNCE, forward and "
        f"backward, B = {report['batch']:,}, d = {report['dim']:,}; median of {report['repeats']}. Rate of a bfloat16 "
        f"product of {SIDE:,}³, measured: {report['rate'] / 1e12:.0f} TFLOP/s. Shares of it count 2·B²·d for each "
        f"product that is made, and for the {LEAST} that streaming cannot do without. Memory is beyond the embeddings.",
        "",
        "| loss | ms | products | share of rate | for the least | peak (MiB) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["cases"]:
        if "left_out" in row:
            lines.append(f"| {row['title']} | {row['left_out']} | | | | |")
            continue
        shares = f"{row['share_of_rate']:.1%} | {row['share_of_rate_for_least']:.1%}"
        lines.append(f"| {row['title']} | {row['ms']:.2f} | {row['products']} | {shares} | {row['peak_mib']:,.0f} |")
    off = ", ".join(f"{name.replace('_', ' ')} {value:.1e}" for name, value in checked.items())
    return "\n".join([*lines, "", f"fused=True against float64 at B = {CHECKED:,}, relative, in norm: {off}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32_768)
    parser.add_argument("--dim", type=int, default=1_024)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "losses_cuda.py measures on a CUDA device, and torch finds none on this machine.\n")
    device = torch.device("cuda")
    q, d = embeddings(options.batch, options.dim, device)
    if not language.supports(q, d):
        parser.exit(1, "losses_cuda.py needs Triton, a C compiler and an NVIDIA device of capability 8.0 or more.\n")
    checked = deviations(streamed(fused=True), *embeddings(CHECKED, options.dim, device))
    print("fused=True against float64:", checked, flush=True)
    if not max(checked.values()) < MOST_OFF:
        parser.exit(1, "losses_cuda.py: the fused loss is wrong here; nothing was timed.\n")
    rate = matrix_rate(device, options.repeats)
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine()
        | {"gpu": torch.cuda.get_device_name(device), "triton": importlib.import_module("triton").__version__},
        "batch": options.batch,
        "dim": options.dim,
        "repeats": options.repeats,
        "rate": rate,
        "deviations": checked,
        "cases": [],
    }
    for case in cases():
        report["cases"].append(measure(case, q, d, rate, options.repeats))
        print(report["cases"][-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "losses_cuda.json").write_text(json.dumps(report, indent=2) + "\n")
    (options.out / "losses_cuda.md").write_text(tabulate(report))
    print(tabulate(report))


if __name__ == "__main__":
    main()
