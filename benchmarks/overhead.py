"""What NormDynamics costs: training with and without it, turn by turn on the same machine.

    python benchmarks/overhead.py [--quick] [--out benchmarks/results]

Writes ``overhead.json`` and a dated table, ``overhead.md``. Both sides run in one go and take turns of some hundred
steps, so what else the machine does disturbs both alike; read the ratios, not the milliseconds.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from turns import Finished, take_turns
from workloads import Workload

from lightning_normdyn.callbacks import NormDynamics

NEVER = {"every_n_steps": 10**9, "fit_every_n_steps": 10**9, "window": 10**9}


class Case(NamedTuple):
    """A workload with and without the callback.

    Attributes:
        title: what the table calls it.
        kind: of workload.
        steps: optimizer steps of each side.
        turn: steps of one turn.
        options: of the task.
        observed: options of the callback.
        most: the largest ratio that will do, if there is one.
    """

    title: str
    kind: str
    steps: int
    turn: int
    options: dict[str, Any]
    observed: dict[str, Any]
    most: float | None = None


CASES = {
    "demo": Case("demo, 2,000 x 64, SGD", "demo", 12_000, 400, {}, {}, most=1.05),
    "transformer": Case("transformer, 31.8 M parameters, 50,000 x 256", "transformer", 120, 20, {}, {}, most=1.02),
    "small table": Case("table 20,000 x 64, sparse", "table", 3_000, 300, {"rows": 20_000, "sparse": True}, {}),
    "large table": Case("table 2,000,000 x 64, sparse", "table", 3_000, 300, {"rows": 2_000_000, "sparse": True}, {}),
    "off schedule": Case("demo, nothing due", "demo", 3_000, 300, {}, NEVER),
}
QUICK = {"demo": (200, 50), "small table": (200, 50)}


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Trains both sides in turns and compares them."""
    sides = {
        name: Workload(case.kind, case.steps, str(folder / name), observed, case.options)
        for name, observed in (("without", None), ("with", case.observed))
    }
    finished = take_turns(sides, steps_per_turn=case.turn)
    return {
        "title": case.title,
        "steps": case.steps,
        "most": case.most,
        "weights_bit_identical": finished["with"].digest == finished["without"].digest,
        **compare(finished["with"], finished["without"]),
    }


def compare(observed: Finished, plain: Finished) -> dict[str, Any]:
    """Ratios and differences of step times, turn by turn; the first turn, which also starts the run, is left out."""
    pairs = [
        (statistics.fmean(a.steps), statistics.fmean(b.steps))
        for a, b in zip(observed.turns[1:], plain.turns[1:], strict=True)
        if a.steps and b.steps
    ]
    ratios = sorted(a / b for a, b in pairs)
    added = sorted(1e6 * (a - b) for a, b in pairs)
    whole = sum(sum(turn.steps) for turn in observed.turns) / sum(sum(turn.steps) for turn in plain.turns)
    return {
        "turns": len(pairs),
        "step_ms_without": round(1e3 * statistics.median(b for _, b in pairs), 4),
        "ratio": round(statistics.median(ratios), 4),
        "ratio_quartiles": [round(quantile, 4) for quantile in quartiles(ratios)],
        "ratio_whole_run": round(whole, 4),
        "ratio_cpu": round(sum(t.cpu for t in observed.turns[1:]) / sum(t.cpu for t in plain.turns[1:]), 4),
        "added_us": round(statistics.median(added), 1),
        "added_us_quartiles": [round(quantile, 1) for quantile in quartiles(added)],
    }


def quartiles(values: list[float]) -> tuple[float, float]:
    """First and third quartile; the value itself where there is but one."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4)
    return first, third


def state_bytes_per_row(folder: Path) -> float:
    """Bytes of tensor state per tracked row in the midst of a run."""
    workload = Workload("table", 300, str(folder), {}, {"rows": 20_000, "sparse": True})
    run = workload()
    run.trainer.fit(run.model, run.data)
    callback = next(c for c in run.trainer.callbacks if isinstance(c, NormDynamics))
    total = sum(tensor.nbytes for tensor in tensors_in(callback.state_dict()))
    return total / -(-20_000 // 2)  # 20,000 rows at a stride of two


def tensors_in(state: Any) -> list[torch.Tensor]:
    """All tensors of a nested state."""
    if isinstance(state, torch.Tensor):
        return [state]
    members = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return [tensor for member in members for tensor in tensors_in(member)]


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        f"# Overhead of NormDynamics, {report['date']}",
        "",
        f"{report['machine']}; `python benchmarks/overhead.py{' --quick' if report['quick'] else ''}`. "
        "Medians over turns, quartiles in brackets, both sides in one run.",
        "",
        "| case | step without (ms) | ratio | whole run | CPU time | added a step (us) | at most | weights identical |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in report["cases"].values():
        low, high = case["ratio_quartiles"]
        least, most = case["added_us_quartiles"]
        lines.append(
            f"| {case['title']} | {case['step_ms_without']:.2f} | **{case['ratio']:.3f}** ({low:.3f} to {high:.3f}) "
            f"| {case['ratio_whole_run']:.3f} | {case['ratio_cpu']:.3f} | {case['added_us']:.0f} ({least:.0f} to {most:.0f}) "
            f"| {case['most'] or '–'} | {'yes' if case['weights_bit_identical'] else 'NO'} |"
        )
    lines += ["", f"Tracked state: {report['state_bytes_per_row']:.0f} bytes a row (at most 128)."]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """The hardware and the torch that the numbers belong to."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    name = models[0].split(":", 1)[1].strip() if models else platform.processor()
    return f"{name}, {os.cpu_count()} cores (shared), Python {platform.python_version()}, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few short runs, to see that it works")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    arguments = parser.parse_args()
    cases = (
        {name: CASES[name]._replace(steps=s, turn=t) for name, (s, t) in QUICK.items()} if arguments.quick else CASES
    )
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "quick": arguments.quick,
        "cases": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, case in cases.items():
            report["cases"][name] = measure(case, Path(folder) / name.replace(" ", "-"))
            print(f"{case.title}: {report['cases'][name]['ratio']:.3f}", flush=True)
        report["state_bytes_per_row"] = round(state_bytes_per_row(Path(folder) / "state"), 1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "overhead.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (arguments.out / "overhead.md").write_text(table(report), encoding="utf-8")
    print(table(report))


if __name__ == "__main__":
    main()
