"""What the losses cost beside those of other packages and plain PyTorch: forward and backward of the loss alone.

    python benchmarks/losses.py [--quick] [--batches 4096 16384] [--patience 300] [--out benchmarks/results]

Writes ``losses.json`` and a dated table, ``losses.md``. All losses take turns, a process each, in alternating order;
ratios are of the same round, so what else the machine does disturbs both sides alike: read the ratios, not the
milliseconds. The packages go into an environment of their own, ``.venv-peers``, which is made on the first run; the
project does not depend on them. Takes about ten minutes on a quiet machine and up to 12 GiB of memory.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from loss_peers import CASES, REFERENCES, peers_python
from loss_table import judge, tabulate
from loss_worker import busy
from overhead_table import load, machine

ROOT = Path(__file__).parents[1]
FULL = {1024: 5, 4096: 5, 8192: 3, 16384: 2}
QUICK = {256: 2, 512: 2}
TURN = 0.5
MOST_MIB = 12 * 1024
MOST_SECONDS = 30.0
DISTURBED = 0.2
AGAIN = 2
AGREES = 1e-4


class Process:
    """A loss at one batch size, waiting for its turn."""

    def __init__(self, python: Path, name: str, batch: int) -> None:
        self.name = name
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close
        self._process = subprocess.Popen(
            [python, Path(__file__).with_name("loss_worker.py"), name, str(batch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
        )

    def answer(self) -> dict[str, Any]:
        """The next line, or that there is none."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"ended with {self._process.wait()}"}
        return answer

    def ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return {"error": f"ended with {self._process.wait()}"}
        return self.answer()

    def close(self) -> None:
        self._process.communicate()
        self.log.close()


class Patience:
    """Waits until other processes leave the machine alone, up to so many seconds all told."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def wait(self) -> None:
        while self.left > 0:
            started, before = time.perf_counter(), busy()
            time.sleep(0.25)
            passed = time.perf_counter() - started
            if (busy() - before) / passed <= DISTURBED:
                return
            self.left -= passed


def measure_batch(python: Path, batch: int, rounds: int, before: dict[str, Any], patience: Patience) -> dict[str, Any]:
    """All losses at one batch size.

    Args:
        python: the interpreter that knows the peers.
        batch: number of pairs.
        rounds: turns of each loss, after a first step whose memory is measured.
        before: the same of a smaller batch, from which it is told what would not fit.
        patience: with other processes.
    """
    rows: dict[str, dict[str, Any]] = {}
    processes: list[Process] = []
    for name in CASES:
        reason = _why_not(name, batch, before)
        rows[name] = {"left_out": reason} if reason else {"turns": []}
        if not reason:
            processes.append(Process(python, name, batch))
    for process in list(processes):
        answer = process.answer()
        if "error" not in answer:
            answer = process.ask("first")
            rows[process.name]["first"] = answer
        if "error" in answer:
            rows[process.name] = {"left_out": answer["error"]}
            processes.remove(process)
            process.close()
        _say(batch, process.name, answer)
    for number in range(rounds):
        for process in processes if number % 2 == 0 else reversed(processes):
            row = rows[process.name]
            row["turns"].append(_turn(process, batch, patience))
    for process in processes:
        process.close()
    return {name: _summary(name, rows) for name in CASES}


def _turn(process: Process, batch: int, patience: Patience) -> dict[str, Any]:
    """A turn; one in which other processes were busy is taken again, and the one they disturbed least is kept.

    Two threads that wait for each other on one and a half cores take ten times as long, whatever they compute.
    """
    taken: list[dict[str, Any]] = []
    while not taken or (min(turn["others"] for turn in taken) > DISTURBED and len(taken) <= AGAIN):
        patience.wait()
        answer = process.ask(f"time {TURN}")
        if "error" in answer:
            raise RuntimeError(f"{CASES[process.name].title} at {batch}: {answer['error']}")
        taken.append(answer)
        _say(batch, process.name, answer)
        if answer["wall"] * answer["repeats"] > 3 * TURN:
            break  # long enough to even out, and too long to take again
    return min(taken, key=lambda turn: turn["others"]) | {"taken": len(taken)}


def _why_not(name: str, batch: int, before: dict[str, Any]) -> str | None:
    case = CASES[name]
    if case.most and batch > case.most:
        return f"run up to {case.most:,} only"
    known = before.get("losses", {}).get(name, {})
    grows = (batch / before["batch"]) ** 2 if before else 1
    if (known.get("peak_mib") or 0) * grows > MOST_MIB:
        return f"would need about {known['peak_mib'] * grows / 1024:.0f} GiB"
    if known.get("wall_ms", 0) * grows / 1e3 > MOST_SECONDS:
        return f"would take about {known['wall_ms'] * grows / 1e3:.0f} s a step"
    return None


def _say(batch: int, name: str, answer: dict[str, Any]) -> None:
    if "error" in answer:
        text = answer["error"]
    elif "wall" in answer:
        text = f"{1e3 * answer['wall']:.1f} ms, others {answer['others']:.2f}"
    else:
        text = f"first step {1e3 * answer['seconds']:.1f} ms, {answer['peak_mib']} MiB"
    print(f"B = {batch:,}: {name}: {text}", flush=True)


def _summary(name: str, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Medians of one loss, its ratios to others and its deviations from the plain one of the same terms."""
    row, case = rows[name], CASES[name]
    if "left_out" in row:
        return row
    first, turns = row["first"], row["turns"]
    summary: dict[str, Any] = {
        "rounds": len(turns),
        "steps": sum(turn["repeats"] for turn in turns),
        "wall_ms": round(1e3 * statistics.median(turn["wall"] for turn in turns), 3),
        "cpu_ms": round(1e3 * statistics.median(turn["cpu"] for turn in turns), 3),
        "peak_mib": first["peak_mib"],
        "disturbed": sum(turn["others"] > DISTURBED for turn in turns),
        "turns": turns,
    }
    reference = REFERENCES.get(case.terms)
    for what, other in {
        "plain": reference,
        "clip": "clip",
        "symmetric": "symmetric",
        "one": "one",
        "floor_4": "floor_4",
    }.items():
        if other is not None and "turns" in rows[other]:
            summary[f"to_{what}"] = _ratios(row, rows[other])
    if reference is not None and "first" in rows[reference]:
        summary["deviation"] = _deviation(first, rows[reference]["first"])
    if case.kind != "floor":
        summary["value"] = first["value"]
    return summary


def _ratios(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    pairs = list(zip(row["turns"], other["turns"], strict=True))
    pairs = [(a, b) for a, b in pairs if max(a["others"], b["others"]) <= DISTURBED] or pairs
    mine, theirs = row["first"]["peak_mib"], other["first"]["peak_mib"]
    return {
        "wall": _median(a["wall"] / b["wall"] for a, b in pairs),
        "wall_least": round(min(a["wall"] / b["wall"] for a, b in pairs), 4),
        "wall_most": round(max(a["wall"] / b["wall"] for a, b in pairs), 4),
        "cpu": _median(a["cpu"] / b["cpu"] for a, b in pairs),
        "rounds": len(pairs),
        "calm": all(max(a["others"], b["others"]) <= DISTURBED for a, b in pairs),
        "memory": round(mine / theirs, 4) if mine and theirs else None,
    }


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 4)


def _deviation(mine: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """Relative deviations of the value, of both gradients' norms, of sampled entries, of the loss's own parameters."""
    found: dict[str, Any] = {
        "value": _relative([mine["value"]], [plain["value"]]),
        "gradient_norms": max(_relative([a], [b]) for a, b in zip(mine["norms"], plain["norms"], strict=True)),
        "gradient_entries": _relative(mine["sample"], plain["sample"]),
    }
    if mine["of_parameters"] and len(mine["of_parameters"]) == len(plain["of_parameters"]):
        found["parameters"] = _relative(mine["of_parameters"], plain["of_parameters"])
    found["agrees"] = max(found.values()) <= AGREES
    return found


def _relative(mine: list[float], plain: list[float]) -> float:
    length: Callable[[Iterable[float]], float] = lambda values: sum(x * x for x in values) ** 0.5  # noqa: E731
    return float(f"{length(a - b for a, b in zip(mine, plain, strict=True)) / length(plain):.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small batches, to see that it works")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    parser.add_argument("--batches", type=int, nargs="+", choices=sorted(FULL), help="only these of the full run's")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds to wait for others, all told")
    arguments = parser.parse_args()
    scale = QUICK if arguments.quick else {b: n for b, n in FULL.items() if b in (arguments.batches or FULL)}
    patience = Patience(0.0 if arguments.quick else arguments.patience)
    python = peers_python(ROOT)
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "peers": _versions(python),
        "quick": arguments.quick,
        "only": arguments.batches,
        "load": {"start": load()},
        "batches": [],
    }
    report["machine"]["torch_threads"] = _threads(python)
    print(f"{report['machine']['torch_threads']} threads", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    before: dict[str, Any] = {}
    for batch, rounds in scale.items():
        losses = measure_batch(python, batch, rounds, before, patience)
        before = {"batch": batch, "rounds": rounds, "losses": losses}
        report["batches"].append(before)
        report["load"]["end"] = load()
        report["targets"] = judge(report["batches"])
        (arguments.out / "losses.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (arguments.out / "losses.md").write_text(tabulate(report), encoding="utf-8")
    print(tabulate(report))


def _versions(python: Path) -> dict[str, str | None]:
    ask = (
        "import importlib.metadata as m, json, sys\n"
        "def version(name):\n"
        "    try: return m.version(name)\n"
        "    except m.PackageNotFoundError: return None\n"
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    names = ("open_clip_torch", "sentence-transformers", "lightly", "pytorch-metric-learning")
    asked = subprocess.run([python, "-c", ask, *names], check=True, capture_output=True, text=True)
    versions: dict[str, str | None] = json.loads(asked.stdout)
    return versions


def _threads(python: Path) -> int:
    ask = "import torch; print(torch.get_num_threads())"
    return int(subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
