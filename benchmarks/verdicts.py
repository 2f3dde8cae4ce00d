"""Whether the rules find planted faults, and leave healthy runs alone.

    python benchmarks/verdicts.py [--only WORD ...] [--seed N] [--out benchmarks/results]

Trains every run of ``planted_runs.py`` and prints a table: what was planted, what was said of it, and whether that was
right. A fault counts as found if one of its rules speaks with a severity of warning or critical; a healthy run is left
alone if nothing is said above a note. With ``--out``, writes ``verdicts.json`` and ``verdicts.md``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from planted_runs import FAULTS, HEALTHY, PlantedRun

from lightning_normdyn.instruments import Verdict


def outcome(run: PlantedRun, seed: int) -> dict[str, Any]:
    """Trains one run, and what was said of it."""
    started = time.perf_counter()
    verdicts = run.training.run(seed).alerts
    alarms = [verdict for verdict in verdicts if verdict.severity != "note"]
    right = [verdict for verdict in alarms if verdict.rule in run.rules]
    return {
        "name": run.name,
        "expected": list(run.rules),
        "is_right": not alarms if run.is_healthy else bool(right),
        "alarms": _names(alarms),
        "notes": _names(verdict for verdict in verdicts if verdict.severity == "note"),
        "texts": [verdict.text for verdict in alarms],
        "seconds": round(time.perf_counter() - started, 1),
    }


def table(outcomes: list[dict[str, Any]]) -> str:
    """One line a run, and a count of faults found and of healthy runs left alone."""
    lines = ["| run | said of it | notes | right | seconds |", "| --- | --- | --- | --- | --- |"]
    for result in outcomes:
        right = "yes" if result["is_right"] else "NO"
        alarms, notes = (", ".join(result[kind]) for kind in ("alarms", "notes"))
        lines.append(f"| {result['name']} | {alarms} | {notes} | {right} | {result['seconds']} |")
    faults = [result["is_right"] for result in outcomes if result["expected"]]
    healthy = [result["is_right"] for result in outcomes if not result["expected"]]
    lines += [
        "",
        f"Faults found: {sum(faults)} of {len(faults)}. Healthy runs left alone: {sum(healthy)} of {len(healthy)}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Trains, prints and saves; 0 if at most one fault in twenty was missed and no healthy run was alarmed about."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="runs whose name holds one of these words")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", action="store_true", help="print every alarm in full")
    parser.add_argument("--out", type=Path, help="folder for verdicts.json and verdicts.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    chosen = [run for run in (*FAULTS, *HEALTHY) if any(word in run.name for word in arguments.only)]
    outcomes = []
    for run in chosen:
        outcomes.append(outcome(run, arguments.seed))
        print(f"{run.name}: {', '.join(outcomes[-1]['alarms']) or '-'}", file=sys.stderr, flush=True)
        if arguments.texts:
            print(*outcomes[-1]["texts"], sep="\n", file=sys.stderr, flush=True)
    print(table(outcomes))
    if arguments.out is not None:
        _save(arguments.out, outcomes, arguments.seed)
    missed = sum(not result["is_right"] for result in outcomes if result["expected"])
    false_alarms = sum(not result["is_right"] for result in outcomes if not result["expected"])
    return int(false_alarms > 0 or missed > len(outcomes) / 20)


def _names(verdicts: Iterable[Verdict]) -> list[str]:
    return sorted({verdict.rule for verdict in verdicts})


def _save(folder: Path, outcomes: list[dict[str, Any]], seed: int) -> None:
    day = datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    content = {"date": day, "seed": seed, "runs": outcomes}
    (folder / "verdicts.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "verdicts.md").write_text(
        f"# Verdicts on planted faults and on healthy runs, {day}\n\n"
        f"Seed {seed}, on one CPU thread.\n\n{table(outcomes)}",
        encoding="utf-8",
    )


if __name__ == "__main__":
    sys.exit(main())
