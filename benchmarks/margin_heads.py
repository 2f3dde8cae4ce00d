"""What margin heads cost beside plain PyTorch: forward and backward of the head alone, in time and memory.

    python benchmarks/margin_heads.py [--quick] [--rounds 3] [--threads 1] [--out benchmarks/results]

Both sides take turns in one process, in alternating order, so that what else the machine does disturbs both alike: read
the ratios, not the milliseconds; times are the processor's. The plain side normalises both sides, makes all cosines,
puts the margin in and calls ``cross_entropy``. Writes ``margin_heads.json`` and a dated table, ``margin_heads.md``.
Takes some minutes and 3 GiB.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from loss_worker import _give_back, _kibibytes, _start_peak
from overhead_table import load, machine
from torch import Tensor

from lightning_normdyn.losses import AdaFace, ArcFace, CosFace, MagFace, NormFace

HEADS = {head.__name__: head for head in (NormFace, CosFace, ArcFace, MagFace, AdaFace)}
SIZES = ((256, 128, 10_000), (512, 512, 10_000), (256, 512, 100_000), (512, 128, 100_000))
QUICK = ((64, 32, 1_000),)
OF_LARGE = ("CosFace", "AdaFace")
LARGE, SCALE, AIM = 100_000, 64.0, 1.1
OPTIONS: dict[str, dict[str, float]] = {"MagFace": {"lower_norm": 1.0, "upper_norm": 110.0}}


class Side(NamedTuple):
    """One of the two: what computes the loss, and whose gradients are cleared."""

    loss: Callable[[], Tensor]
    leaves: tuple[Tensor, Tensor]

    def step(self) -> float:
        """Seconds of the processor for a forward and a backward pass, over all threads."""
        for leaf in self.leaves:
            leaf.grad = None
        started = time.process_time()
        self.loss().backward()
        return time.process_time() - started

    def peak(self) -> float | None:
        """MiB that a step takes above what was there, gradients included."""
        for leaf in self.leaves:
            leaf.grad = None
        gc.collect()
        _give_back()
        before = _start_peak()
        self.step()
        return None if before is None else round((_kibibytes("VmHWM") - before) / 1024, 1)


def plain(name: str, x: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The head as it is written down everywhere."""
    cosines = F.linear(F.normalize(x), F.normalize(weight))
    own, norms, penalty = cosines.gather(1, labels[:, None]), x.norm(dim=1, keepdim=True), 0.0
    if name == "CosFace":
        own = own - 0.35
    if name in ("ArcFace", "MagFace"):
        margins: Any = 0.5 if name == "ArcFace" else 0.45 + 0.35 * (norms.clamp(1, 110) - 1) / 109
        own = (own.clamp(-1 + 1e-6, 1 - 1e-6).acos() + margins).cos()
    if name == "MagFace":
        norms = norms.clamp(1, 110)
        penalty = 35 * (1 / norms + norms / 110**2).mean()
    if name == "AdaFace":
        z = (0.333 * (norms - norms.mean()) / (norms.std() + 1e-3)).clamp(-1, 1).detach()
        own = (own.clamp(-1 + 1e-6, 1 - 1e-6).acos() - 0.4 * z).clamp(0, math.pi).cos() - 0.4 * (1 + z)
    return F.cross_entropy(SCALE * cosines.scatter(1, labels[:, None], own), labels) + penalty


def measure(name: str, batch: int, dim: int, classes: int, rounds: int) -> dict[str, Any]:
    """Ratios of one head at one size."""
    torch.manual_seed(0)
    x, labels = torch.randn(batch, dim).requires_grad_(), torch.randint(classes, (batch,))
    head = HEADS[name](classes, dim, **OPTIONS.get(name, {}))
    weight = head.weight.detach().clone().requires_grad_()
    mine = x.detach().clone().requires_grad_()
    sides = (
        Side(lambda: head(mine, labels), (mine, head.weight)),
        Side(lambda: plain(name, x, weight, labels), (x, weight)),
    )
    for side in sides:
        side.step()
    gaps = [
        float((a.grad - b.grad).norm() / b.grad.norm()) for a, b in zip(*(side.leaves for side in sides), strict=True)
    ]
    peaks = [side.peak() for side in sides]
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for place in (0, 1) if number % 2 == 0 else (1, 0):
            seconds[place].append(sides[place].step())
    ratios = sorted(a / b for a, b in zip(*seconds, strict=True))
    return {
        "head": name,
        "batch": batch,
        "dim": dim,
        "classes": classes,
        "ms": [round(1e3 * statistics.median(of_side), 1) for of_side in seconds],
        "ratio": round(statistics.median(ratios), 3),
        "range": [round(ratios[0], 3), round(ratios[-1], 3)],
        "peak_mib": peaks,
        "deviation": max(gaps),
    }


def tabulate(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    hardware = report["machine"]
    lines = [
        f"# Margin heads beside plain PyTorch, {report['date']}",
        "",
        f"`python benchmarks/margin_heads.py{' --quick' if report['quick'] else ''} --threads {report['threads']}`; "
        f"{hardware['cpu']}, {hardware['cores']} cores, load {report['load']['start']} at the start and "
        f"{report['load']['end']} at the end; Python {hardware['python']}, torch {hardware['torch']}. Forward and "
        "backward of the head alone over all classes, float32, scale 64; both sides take turns in one process, "
        f"{report['rounds']} rounds. Processor time; ratios are medians of rounds, in brackets the range. Peak: "
        "resident memory above that before the step, gradients included. Deviation: of the gradients from those of the "
        "plain side, whose cosine is float32. Aim: at most 1.1 of the time.",
        "",
        "| head | B | d | classes | plain (ms) | time, ours / plain | | peak, ours / plain (MiB) | deviation |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        verdict = "met" if row["ratio"] <= AIM else "**missed**"
        least, largest = row["range"]
        peaks = " / ".join("" if peak is None else f"{peak:,.0f}" for peak in row["peak_mib"])
        lines.append(
            f"| {row['head']} | {row['batch']} | {row['dim']} | {row['classes']:,} | {row['ms'][1]:,.1f} | "
            f"{row['ratio']:.2f} ({least:.2f} to {largest:.2f}) | {verdict} | {peaks} | {row['deviation']:.0e} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small size, to see that it works")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "quick": arguments.quick,
        "rounds": arguments.rounds,
        "threads": arguments.threads,
        "load": {"start": load()},
        "rows": [],
    }
    for size in QUICK if arguments.quick else SIZES:
        for name in OF_LARGE if size[2] >= LARGE else HEADS:
            report["rows"].append(measure(name, *size, arguments.rounds))
            print(report["rows"][-1], flush=True)
    report["load"]["end"] = load()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "margin_heads.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "margin_heads.md").write_text(tabulate(report), encoding="utf-8")
    print(tabulate(report))


if __name__ == "__main__":
    main()
