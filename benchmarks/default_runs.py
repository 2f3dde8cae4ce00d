"""What every task's default run takes and reaches, beside what is reached without training.

    python benchmarks/default_runs.py [--only NAME ...] [--out benchmarks/results]

Runs ``normdyn validate`` and then ``normdyn fit`` with each config of a task that has a measure, on data made of the
Python installation, one after the other. Writes ``default_runs.json`` and a dated table, ``default_runs.md``.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from overhead_table import machine

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = ("retrieval", "rag", "sts", "clip", "fewshot", "kg", "recsys")


def default_run(name: str) -> dict[str, Any]:
    """One config: its measure before and after training, floors, and the seconds that training took, start included."""
    config = CONFIGS / f"{name}.yaml"
    module, _, cls = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["class_path"].rpartition(".")
    headline = f"val/{getattr(import_module(module), cls).headline}"
    with tempfile.TemporaryDirectory() as folder:
        untrained = _last(_normdyn("validate", config, Path(folder) / "untrained"), headline)
        started = time.perf_counter()
        log = _normdyn("fit", config, Path(folder) / "trained")
        seconds = time.perf_counter() - started
        trained = _last(log, headline)
    floors = {key.removeprefix("val/floor/"): float(trained[key]) for key in trained if key.startswith("val/floor/")}
    return {
        "measure": headline.removeprefix("val/"),
        "trained": float(trained[headline]),
        "floors": {"untrained": float(untrained[headline]), **floors},
        "seconds": round(seconds, 1),
        "date": datetime.date.today().isoformat(),
        "torch": machine()["torch"],
    }


def _normdyn(command: str, config: Path, folder: Path) -> Path:
    """Runs it in a folder; the log it leaves there."""
    folder.mkdir()
    words = [command, "--config", str(config), "--trainer.enable_progress_bar=false"]
    subprocess.run([sys.executable, "-m", "lightning_normdyn", *words], cwd=folder, check=True, stdout=sys.stderr)
    (log,) = folder.glob("runs/*/version_0/metrics.csv")
    return log


def _last(log: Path, column: str) -> dict[str, str]:
    """What the last row that has the column says."""
    with log.open(encoding="utf-8", newline="") as rows:
        last = [row for row in csv.DictReader(rows) if row.get(column)][-1]
    return {name: value for name, value in last.items() if value}


def tabulate(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    hardware = report["machine"]
    lines = [
        f"# Default runs of the tasks, {report['date']}",
        "",
        f"`python benchmarks/default_runs.py`; {hardware['cpu']}, {hardware['cores']} cores; Python "
        f"{hardware['python']}. Validation split, the config's own normalization; seconds of `normdyn fit` from its "
        "start to its end, evaluations and floors included, on a machine that others may use too.",
        "",
        "| config | measure | trained | without training | seconds | date | torch |",
        "| --- | --- | ---: | --- | ---: | --- | --- |",
    ]
    for name, run in report["runs"].items():
        floors = ", ".join(f"{floor} {value:.3f}" for floor, value in run["floors"].items())
        cells = (name, run["measure"], f"{run['trained']:.3f}", floors, f"{run['seconds']:.0f}", run["date"])
        lines.append(f"| {' | '.join(cells)} | {run['torch']} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    file = arguments.out / "default_runs.json"
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"runs": {}}
    report |= {"date": datetime.date.today().isoformat(), "machine": machine()}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        report["runs"][name] = default_run(name)
        file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (arguments.out / "default_runs.md").write_text(tabulate(report), encoding="utf-8")
        print(name, json.dumps(report["runs"][name]), flush=True)


if __name__ == "__main__":
    main()
