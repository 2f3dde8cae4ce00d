"""What NormObserver costs a step against the size of a table, and on a table sharded over two ranks.

    python benchmarks/large_tables.py [--quick] [--only sizes] [--out benchmarks/results]

Writes ``large_tables.json`` and a dated table, ``large_tables.md``. The largest table takes 3.2 GB. Times are what
the observer's own hooks take around the optimizer's step: of one process in processor time, which other work on the
machine does not lengthen; of two ranks, which wait for each other, in wall-clock time too, beside a bare all-reduce of
the same size in the same steps. Takes some five minutes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from overhead_table import load, machine
from shard_cost import measure_ranks
from step_clock import LATE, PLANNED, StepClock, clocked
from stopwatch import _tensors
from torch import Tensor, nn

from lightning_normdyn.instruments import NormObserver

DIM, TOUCHED, TRACKED = 8, 4_096, 16_384
ROWS = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
STEPS = 400
QUICK = {"rows": (2_000, 20_000), "steps": 60}


def zipf_ids(rows: int, generator: torch.Generator) -> Tensor:
    """Row numbers of which the r-th occurs with probability in proportion to 1/r."""
    uniform = torch.rand(TOUCHED, generator=generator, dtype=torch.float64)
    return (rows**uniform - 1).long().clamp_(0, rows - 1)


def zipf_counts(rows: int) -> Tensor:
    """In proportion to how often each occurs."""
    return torch.arange(1, rows + 1, dtype=torch.float32).reciprocal_()


def measure_size(rows: int, steps: int, sample: str) -> dict[str, Any]:
    """Own time of steps on a table of so many rows, and what is held and met of it."""
    torch.manual_seed(0)
    table = nn.Embedding(rows, DIM, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    counts = zipf_counts(rows) if sample == "octaves" else None
    observer = NormObserver(
        table, optimizer, total_steps=PLANNED, max_tracked_rows=TRACKED, row_counts=counts, log=lambda *_: None
    )
    del counts
    generator = torch.Generator().manual_seed(1)
    clock = StepClock(optimizer)
    with clocked(clock, observer, LATE):
        for _ in range(steps):
            vectors = table(zipf_ids(rows, generator))
            optimizer.zero_grad()
            (vectors - 0.1).square().sum().backward()
            optimizer.step()
            clock.end_step()
        watch = observer._observation.recorder.watches[0]
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t, _ in _tensors(watch, False)}
        met = int(watch.measurements["met"].met.sum())
    return {
        "rows": rows,
        "sample": sample,
        "table_bytes": rows * DIM * 4,
        "tracked_rows": watch.target.tracked_rows,
        "met_rows": met,
        "held_bytes": sum(held.values()),
        **clock.summary(LATE, "processor"),
    }


def apart(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Measures in a process of its own, so that memory is as it was afterwards."""
    receiver, sender = torch.multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = torch.multiprocessing.get_context("spawn").Process(target=_send, args=(sender, measure, arguments))
    process.start()
    found: dict[str, Any] = receiver.recv()
    process.join()
    return found


def _send(sender: Any, measure: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    sender.send(measure(*arguments))


def measure_shards(quick: bool) -> dict[str, Any]:
    """What two ranks measured of a sharded table and of local ones."""
    with tempfile.TemporaryDirectory() as folder:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        flags = ["--ranks", str(Path(folder) / "shards.json"), *(["--quick"] if quick else [])]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*launch, __file__, *flags], check=True, env=environment, capture_output=True)
        return dict(json.loads((Path(folder) / "shards.json").read_text(encoding="utf-8")))


def tabulate(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    hardware, shards = report["machine"], report["shards"]
    flag = " --quick" if report["quick"] else ""
    lines = [
        f"# Large tables, {report['date']}",
        "",
        f"{hardware['cpu']}, {hardware['cores']} cores, one thread; Python {hardware['python']}, torch "
        f"{hardware['torch']}. `python benchmarks/large_tables.py{flag}`. Load of the machine at the start "
        f"{report['load']['start']}, at the end {report['load']['end']}.",
        "",
        "## A step against the size of the table",
        "",
        f"{TOUCHED:,} ids a step, drawn as 1/r; dimension {DIM}, sparse gradients, SGD; late in a run: long windows. "
        "Own processor time in microseconds of an ordinary step, of one that reads gradients (every fourth), of "
        "a measured one (every 50th), medians, and the mean over all. Met: tracked rows that got a gradient.",
        "",
        "| rows | table | sample | tracked | met | held | ordinary | reading | measured | mean |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_size_row(case) for case in report["sizes"]),
        "",
        "## A sharded table beside a local one",
        "",
        f"Two gloo ranks, {shards['local_rows']:,} tracked rows of dimension {shards['dim']} on each, dense: "
        "`fully_shard` over both, or a table of that size on each. Own time in microseconds, medians of rank 0; "
        "wall-clock time has in it what a rank waits for the other, which a busy machine runs in turns. In the same "
        f"steps, bare: an all-reduce of as many numbers ({shards['message_numbers']:,}) took "
        f"{shards['all_reduce_us']:,.0f}, and to settle in the process group's store that both ranks are about to make "
        f"it {shards['meeting_us']:,.0f}.",
        "",
        "| step | local: processor | wall | sharded: processor | wall | collectives | requests to the store |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_shard_row(kind, shards) for kind in ("ordinary", "reading", "measured")),
        "",
    ]
    return "\n".join(lines)


def _size_row(case: dict[str, Any]) -> str:
    times = " | ".join(f"{case[kind]:,.0f}" for kind in ("ordinary", "reading", "measured", "mean"))
    return (
        f"| {case['rows']:,} | {case['table_bytes'] / 1e6:,.1f} MB | {case['sample']} | {case['tracked_rows']:,} | "
        f"{case['met_rows']:,} | {case['held_bytes'] / 1e6:.1f} MB | {times} |"
    )


def _shard_row(kind: str, shards: dict[str, Any]) -> str:
    sharded = shards["sharded"]
    times = " | ".join(
        f"{shards[side][clock][kind]:,.0f}" for side in ("local", "sharded") for clock in ("processor", "wall")
    )
    return f"| {kind} | {times} | {sharded['collectives'][kind]:g} | {sharded['requests'][kind]:g} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small tables and few steps, to see that it works")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    parser.add_argument("--only", choices=("sizes", "shards"), help="measure this part anew, keep the other")
    parser.add_argument("--ranks", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ranks:
        measure_ranks(arguments.ranks, steps=60 if arguments.quick else 400, rows=512 if arguments.quick else 8_192)
        return
    rows, steps = (QUICK["rows"], QUICK["steps"]) if arguments.quick else (ROWS, STEPS)
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "quick": arguments.quick,
        "load": {"start": load()},
    }
    if arguments.only:
        report |= json.loads((arguments.out / "large_tables.json").read_text(encoding="utf-8"))
    if arguments.only != "shards":
        sizes = [(count, sample) for count in rows for sample in ("even", "octaves")]
        report["sizes"] = [apart(measure_size, count, steps, sample) for count, sample in sizes]
    if arguments.only != "sizes":
        report["shards"] = measure_shards(arguments.quick)
    report["load"]["end"] = load()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "large_tables.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (arguments.out / "large_tables.md").write_text(tabulate(report), encoding="utf-8")
    print(tabulate(report))


if __name__ == "__main__":
    main()
