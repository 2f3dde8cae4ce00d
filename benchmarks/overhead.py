"""What NormDynamics costs: training with and without it, turn by turn on the same machine.

    python benchmarks/overhead.py [--quick] [--only demo] [--out benchmarks/results]

Writes ``overhead.json`` and a dated table, ``overhead.md``; with ``--only``, one part of them anew. All sides of a
comparison live at the same time and take turns, so what else the machine does disturbs them alike: read the ratios, not
the milliseconds. Takes about twenty minutes on a quiet machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from operations import StepRecord
from overhead_table import load, machine, tabulate
from paired import amortised, compare
from peak import peak_bytes
from turns import hushed, take_turns
from workloads import CADENCE, THREADS, EncoderContrast, Workload

from lightning_normdyn.capture.call import Call
from lightning_normdyn.capture.probe import Probe

LATE = 9_600
NEVER = {"every_n_steps": 10**9, "fit_every_n_steps": 10**9, "window": 10**9}
MOST_BYTES = 160
LAG = 20
"""Most steps after a measured one in which an encoder's measurement is still under way."""


class Case(NamedTuple):
    """A workload with and without the callback, at default cadence.

    Attributes:
        title: what the table calls it.
        kind: of workload.
        turns: of each side.
        turn: steps of one turn.
        first: step at which the run starts.
        skip: rounds that are left out of the medians, because windows are still short.
        at_most: the largest ratio that will do.
        options: of the task.
        round: steps that make a round; each round holds as much measuring as the next.
    """

    title: str
    kind: str
    turns: int
    turn: int
    first: int
    skip: int
    at_most: float
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed
    round: int = CADENCE


class Scale(NamedTuple):
    """How much is measured.

    Attributes:
        ratios: the cases whose ratio is bounded.
        encoder: the same, of an encoder that is followed on a probe.
        tables: rows of the tables that are compared.
        touched: rows that a step touches.
        turns: of 50 steps, for sparse and for dense gradients.
        quiet_steps: steps whose operations are recorded.
    """

    ratios: dict[str, Case]
    encoder: Case
    tables: tuple[int, int]
    touched: int
    turns: dict[str, int]
    quiet_steps: int


FULL = Scale(
    ratios={
        "demo": Case("demo: 2,000 x 64, batch 256, SGD", "demo", 240, 50, 0, 20, 1.05),
        "transformer": Case(
            "transformer: 31.8 M parameters, table 50,000 x 256, AdamW", "transformer", 40, 5, LATE, 0, 1.02
        ),
    },
    encoder=Case(
        "six layers of width 384: 11.0 M parameters, 24 sentences a step, AdamW",
        "encoder",
        160,
        5,
        LATE,
        0,
        1.03,
        round=4 * CADENCE,  # radial decay is measured every fourth time
    ),
    tables=(20_000, 2_000_000),
    touched=4_096,
    turns={"sparse": 30, "dense": 4},
    quiet_steps=200,
)
QUICK = Scale(
    ratios={
        "demo": Case("demo, 4 rounds", "demo", 4, 50, LATE, 0, 1.05),
        "transformer": Case(
            "a small transformer, 2 rounds",
            "transformer",
            10,
            10,
            LATE,
            0,
            1.02,
            {"rows": 2_000, "dim": 32, "width": 64, "layers": 1},
        ),
    },
    encoder=Case("a small encoder, 2 rounds", "encoder", 10, 10, LATE, 0, 1.03, {"width": 64, "layers": 1}),
    tables=(2_000, 20_000),
    touched=256,
    turns={"sparse": 2},
    quiet_steps=5,
)


def measure_ratio(case: Case, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains both sides in turns; returns the comparison and what the callback held."""
    sides = {
        name: Workload(case.kind, case.first, str(folder / name), observed, case.options)
        for name, observed in (("without", None), ("with", {}))
    }
    load_before = load()
    finished = take_turns(sides, steps_per_turn=case.turn, turns=case.turns)
    compared = compare(finished["with"], finished["without"], cadence=CADENCE, skip=case.skip, steps=case.round)
    facts = finished["with"].facts
    report = {
        "title": case.title,
        "date": datetime.date.today().isoformat(),
        "load": {"start": load_before, "end": load()},
        "steps": case.turns * case.turn,
        "at_most": case.at_most,
        "met": compared["ratio"]["median"] <= case.at_most,
        **compared,
    }
    return report, {
        "title": case.title,
        "at_most": MOST_BYTES,
        **{k: v for k, v in facts.items() if k != "own_seconds"},
    }


def measure_tables(scale: Scale, gradient: str, folder: Path) -> list[dict[str, Any]]:
    """A small and a large table of which each step touches as many rows, both with and without the callback."""
    sides = {
        (rows, observed is not None): Workload(
            "table",
            LATE,
            str(folder / f"{rows}-{observed}"),
            observed,
            {"rows": rows, "touched": scale.touched, "sparse": gradient == "sparse"},
            timed=True,
        )
        for rows in scale.tables
        for observed in (None, {})
    }
    finished = take_turns(
        {str(side): build for side, build in sides.items()}, steps_per_turn=CADENCE, turns=scale.turns[gradient]
    )
    return [
        {
            "title": f"{rows:,} x 64, {gradient}",
            "rows": rows,
            "sparse": gradient == "sparse",
            "own_us": amortised(finished[str((rows, True))].facts.pop("own_seconds"), CADENCE),
            **finished[str((rows, True))].facts,
            **compare(finished[str((rows, True))], finished[str((rows, False))], cadence=CADENCE, skip=1),
        }
        for rows in scale.tables
    ]


def measure_encoder(scale: Scale, folder: Path) -> dict[str, Any]:
    """An encoder that is followed on a probe: its ratio, its memory at the height of a measurement, its quiet steps."""
    case = scale.encoder
    ratio, _ = measure_ratio(case, folder / "ratio")
    steps = min(scale.quiet_steps, 20)
    quiet = measure_off_schedule(steps, folder / "quiet", kind="encoder", options=case.options, first=LAG)
    return {"ratio": ratio, "memory": measure_peak(case), "off_schedule": quiet}


def measure_peak(case: Case) -> dict[str, Any]:
    """Bytes that encoding a probe of 64 sentences takes at its height, and measuring its radial decay."""
    encoder = EncoderContrast(**case.options).encoder
    probe = Probe("encoder", encoder, [Call.of(torch.randint(1_000, (64, 16)))])
    decays = [(parameter, 0.1) for parameter in encoder.parameters()]
    vectors = probe.encode()
    return {
        "decayed_bytes": sum(parameter.numel() * parameter.element_size() for parameter, _ in decays),
        "encode_bytes": peak_bytes(probe.encode),
        "radial_decay_bytes": peak_bytes(lambda: probe.radial_decay(decays, vectors)),
    }


def measure_off_schedule(
    steps: int, folder: Path, *, kind: str, options: dict[str, Any] | None = None, first: int = 0
) -> dict[str, Any]:
    """The operations of steps on which nothing is due, with and without the callback.

    Args:
        steps: how many.
        folder: where logs go.
        kind: of workload.
        options: of the task.
        first: steps that are left out at the start of a run, whose first step is always measured.
    """
    recorded, own = {}, []
    for name, observed in (("without", None), ("with", NEVER)):
        with hushed():
            run = Workload(kind, LATE, str(folder / name), observed, options or {}, timed=True)()
            run.trainer.callbacks.append(StepRecord())
            run.trainer.fit_loop.epoch_loop.max_steps = LATE + 1 + first + steps
            run.trainer.fit(run.model, run.data)
        recorded[name] = run.trainer.callbacks[-1].steps[1 + first :]
        own = run.facts().get("own_seconds", [])
    return {
        "steps": len(recorded["with"]),
        "operations": len(recorded["without"][0]),
        "operations_added": _added(recorded, ""),
        "clones_added": _added(recorded, "clone"),
        "syncs_added": _added(recorded, "_local_scalar_dense"),
        "own_us": amortised(own[1 + first :], CADENCE),
    }


def _added(recorded: dict[str, list[list[str]]], part: str) -> int:
    count = {side: sum(part in name for step in steps for name in step) for side, steps in recorded.items()}
    return count["with"] - count["without"]


def measure(scale: Scale, folder: Path) -> dict[str, Any]:
    """Everything, one after the other."""
    ratios, memory, tables = {}, [], []
    for name, case in scale.ratios.items():
        ratios[name], held = measure_ratio(case, folder / name)
        memory.append(held)
        print(f"{case.title}: {ratios[name]['ratio']['median']:.3f}", flush=True)
    for gradient in scale.turns:
        tables += measure_tables(scale, gradient, folder / gradient)
        print(f"tables, {gradient}: {[table['own_us']['average'] for table in tables[-2:]]} us", flush=True)
    kept = ("title", "tracked_rows", "live_bytes_per_row", "checkpoint_bytes_per_row", "scratch_bytes")
    memory += [{"at_most": MOST_BYTES, **{name: table[name] for name in kept}} for table in tables]
    return {
        "ratios": ratios,
        "tables": {"touched": scale.touched, "cases": tables},
        "memory": memory,
        "off_schedule": measure_off_schedule(scale.quiet_steps, folder / "quiet", kind="demo"),
        **measure_dated(scale, folder / "encoder"),
    }


def measure_dated(scale: Scale, folder: Path) -> dict[str, Any]:
    """The part on encoders, which can be measured anew alone and so has a date and a load of its own."""
    before = load()
    found = measure_encoder(scale, folder)
    print(f"{scale.encoder.title}: {found['ratio']['ratio']['median']:.3f}", flush=True)
    return {"encoder": {"date": datetime.date.today().isoformat(), "load": {"start": before, "end": load()}, **found}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few short runs, to see that it works")
    parts = [*FULL.ratios, "encoder"]
    parser.add_argument("--only", choices=parts, help="measure this part anew and keep the rest of the results")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    arguments = parser.parse_args()
    scale = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only:
            kept = json.loads((arguments.out / "overhead.json").read_text(encoding="utf-8"))
            report = kept | _measure_anew(arguments.only, kept, scale, Path(folder))
        else:
            report = _measure_all(scale, Path(folder), quick=arguments.quick)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "overhead.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (arguments.out / "overhead.md").write_text(tabulate(report), encoding="utf-8")
    print(tabulate(report))


def _measure_anew(part: str, kept: dict[str, Any], scale: Scale, folder: Path) -> dict[str, Any]:
    if part == "encoder":
        return measure_dated(scale, folder)
    ratio, held = measure_ratio(scale.ratios[part], folder)
    others = [case for case in kept["memory"] if case["title"] != held["title"]]
    place = list(scale.ratios).index(part)
    return {"ratios": kept["ratios"] | {part: ratio}, "memory": [*others[:place], held, *others[place:]]}


def _measure_all(scale: Scale, folder: Path, *, quick: bool) -> dict[str, Any]:
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": {**machine(), "torch_threads": THREADS},
        "quick": quick,
        "load": {"start": load()},
    }
    report |= measure(scale, folder)
    report["load"]["end"] = load()
    return report


if __name__ == "__main__":
    main()
