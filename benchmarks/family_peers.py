"""The tasks beside the libraries that people would otherwise use: the same data, splits, budget and measure.

    python benchmarks/family_peers.py DATA [--only CASE ...] [--seeds 3] [--python LIBRARY=PYTHON ...]
        [--runs runs/peers] [--out benchmarks/results] [--collect]

DATA holds the sets, a folder each, as for ``grids.py``. ``--python`` names the interpreter of a library's own
environment, in which this package's dependencies are too; a library without one is looked for in this one. Each side is
a process of one thread, with the rate that its validation split likes best with the first seed. What is under
``--runs`` already is not run again; with ``--collect`` nothing is run, and sides without all their seeds are left out.
Writes ``family_peers.json`` and a dated table, ``family_peers.md``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from family_cases import CASES, Case
from overhead_table import machine

from lightning_normdyn.core.statistics.variant_comparison import compare_variants

HERE = Path(__file__).parent


class Work(NamedTuple):
    """Where things are.

    Attributes:
        data: the sets.
        runs: results of trainings, a file each.
        pythons: interpreters by library.
        seeds: of each side.
        collects: whether nothing is run.
    """

    data: Path
    runs: Path
    pythons: dict[str, str]
    seeds: int
    collects: bool = False


def trainings(work: Work, name: str, side: str) -> list[dict[str, Any]]:
    """Those of a side at its best rate, by seed; nothing where a run failed, which is said."""
    folder = work.runs / name / side
    if not work.collects:
        _run(work, name, side, folder)
    results = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    first = [result for result in results if result["seed"] == 0]
    if not first:
        return []
    rate = max(first, key=lambda result: float(result["validation"]))["rate"]
    by_seed = {result["seed"]: result for result in results if result["rate"] == rate}
    has_seeds = side == "ours" or CASES[name].peers[side].seeds
    return [by_seed[seed if has_seeds else 0] for seed in range(work.seeds) if (seed if has_seeds else 0) in by_seed]


def _run(work: Work, name: str, side: str, folder: Path) -> None:
    """All trainings of a side, in its own environment."""
    packages = CASES[name].peers[side].packages if side != "ours" else ()
    python = next((work.pythons[package] for package in packages if package in work.pythons), sys.executable)
    command = [python, str(HERE / "family_side.py"), name, side, str(work.data.resolve()), str(work.runs.resolve())]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        words = [*command, "--seeds", str(work.seeds)]
        process = subprocess.run(words, check=False, env=environment, stdout=log, stderr=log)
    if process.returncode:
        print(f"{name}, {side}: failed, see {folder / 'log.txt'}", flush=True)


def compare(name: str, work: Work) -> dict[str, Any]:
    """All sides of a case: their means, and ours less each with its interval over queries and seeds."""
    results = {side: trainings(work, name, side) for side in ("ours", *CASES[name].peers)}
    complete = {side: runs for side, runs in results.items() if len(runs) == work.seeds}
    if "ours" not in complete:
        raise SystemExit(f"{name}: expected {work.seeds} trainings of ours, got {len(results['ours'])}")
    return {"seeds": work.seeds, "measures": _measures(complete), "sides": _facts(complete)}


def _measures(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Measure to the figures of each side."""
    measures: dict[str, Any] = {}
    for measure in results["ours"][0]["values"]:
        tables = {
            side: torch.tensor([[_number(value) for value in run["values"][measure]] for run in runs])
            for side, runs in results.items()
        }
        measures[measure] = {}
        for side, table in tables.items():
            pair = {side: table} if side == "ours" else {side: table, "ours": tables["ours"]}
            scores = compare_variants(pair, reference=side).scores
            figures = {"mean": scores[side].mean, "low": scores[side].mean_interval.low}
            figures["high"] = scores[side].mean_interval.high
            if side != "ours":
                gain = scores["ours"].gain_interval
                figures |= {"ours_less": gain.value, "ours_less_low": gain.low, "ours_less_high": gain.high}
            measures[measure][side] = figures
    return measures


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _facts(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {
        side: {
            "rate": runs[0]["rate"],
            "seconds": sorted(run["seconds"] for run in runs)[len(runs) // 2],
            "versions": runs[0]["versions"],
            "notes": runs[0]["notes"],
            "queries": len(next(iter(runs[0]["values"].values()))),
        }
        for side, runs in results.items()
    }


def tabulate(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    hardware = report["machine"]
    lines = [
        f"# Tasks beside other libraries, {report['date']}",
        "",
        f"`python benchmarks/family_peers.py`; {hardware['cpu']}, {hardware['cores']} cores; Python "
        f"{hardware['python']}, torch {hardware['torch']}. The same data, splits and queries for all sides, one thread "
        "each; a side's rate is the one, among as many as the last column has, that validation likes best. Test split, "
        "mean with its 95% interval over queries and seeds (of one seed: over queries); the difference is paired by "
        "query. Processor seconds are of a machine that others use too, and only say who took how much longer.",
        "",
        "| set | measure | side | mean | ours less it | | seeds | seconds | rates tried |",
        "| --- | --- | --- | --- | --- | --- | ---: | ---: | --- |",
    ]
    for name, comparison in report["cases"].items():
        for measure, sides in comparison["measures"].items():
            lines += [_row(name, measure, side, figures, comparison) for side, figures in sides.items()]
    notes = [line for name, comparison in report["cases"].items() for line in _notes(name, comparison)]
    versions = sorted(
        {
            f"{package} {version}"
            for comparison in report["cases"].values()
            for facts in comparison["sides"].values()
            for package, version in facts["versions"].items()
        }
    )
    return "\n".join([*lines, "", *notes, f"- Versions: {', '.join(versions)}.", ""])


def _notes(name: str, comparison: dict[str, Any]) -> list[str]:
    """The command of a case, what the libraries say themselves, and which of them are missing."""
    case = CASES[name]
    words = " ".join(word.format(folder=case.data) for word in case.words)
    lines = [f"- {name}: `normdyn fit --config {case.config}.yaml {words}`"]
    lines += [
        f"- {name}, {_title(case, side)}: {note} {value:.4f}"
        for side, facts in comparison["sides"].items()
        for note, value in facts["notes"].items()
    ]
    missing = [_title(case, side) for side in case.peers if side not in comparison["sides"]]
    return [*lines, *([f"- {name}: not measured yet: {'; '.join(missing)}"] if missing else [])]


def _row(name: str, measure: str, side: str, figures: dict[str, float], comparison: dict[str, Any]) -> str:
    case = CASES[name]
    mean = f"{figures['mean']:.3f} ({figures['low']:.3f} to {figures['high']:.3f})"
    difference, verdict = "", ""
    if "ours_less" in figures:
        low, high = figures["ours_less_low"], figures["ours_less_high"]
        difference = f"{figures['ours_less']:+.3f} ({low:+.3f} to {high:+.3f})"
        verdict = "ours is better" if low > 0 else "ours is worse" if high < 0 else "no difference seen"
        verdict += ", of another budget" if case.peers[side].is_floor else ""
    rates = case.rates if side == "ours" else case.peers[side].rates
    choices = ", ".join(f"{rate:g}" for rate in rates if rate is not None)
    seconds = f"{comparison['sides'][side]['seconds']:.0f}"
    cells = (name, measure, _title(case, side), mean, difference, verdict, str(comparison["seeds"]), seconds, choices)
    return f"| {' | '.join(cells)} |"


def _title(case: Case, side: str) -> str:
    return f"`{case.config}.yaml`" if side == "ours" else case.peers[side].title


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--python", nargs="+", default=[], metavar="LIBRARY=PYTHON")
    parser.add_argument("--runs", type=Path, default=Path("runs/peers"))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--collect", action="store_true")
    arguments = parser.parse_args()
    pythons = dict(word.split("=", 1) for word in arguments.python)
    work = Work(arguments.data, arguments.runs, pythons, arguments.seeds, arguments.collect)
    file = arguments.out / "family_peers.json"
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"cases": {}}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        report |= {"date": datetime.date.today().isoformat(), "machine": machine()}
        report["cases"][name] = compare(name, work)
        file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (arguments.out / "family_peers.md").write_text(tabulate(report), encoding="utf-8")


if __name__ == "__main__":
    main()
