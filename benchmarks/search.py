"""What a search and a sweep over exponents cost beside FAISS's flat index, on the same cores in one run.

    python benchmarks/search.py [--quick] [--rounds 3] [--threads N] [--out benchmarks/results]

Writes ``search.json`` and a dated table, ``search.md``. All take turns in alternating order; ratios are of the same
round: read the ratios, and on a busy machine those of processor time. Needs faiss-cpu and 5 GiB of memory; takes about
two minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import faiss
import torch
from loss_worker import _give_back, _kibibytes, _start_peak, busy
from overhead_table import load, machine
from torch import Tensor

from lightning_normdyn.core import measure_named
from lightning_normdyn.core.statistics.ranking import grade_ranking
from lightning_normdyn.datasets import Judgements
from lightning_normdyn.retrieval import exact_top_k, sweep_alpha


class Size(NamedTuple):
    """How much is searched: documents, queries, dimension."""

    documents: int
    queries: int
    d: int


FULL, QUICK = Size(1_000_000, 1_000, 384), Size(20_000, 50, 32)
SPREAD, DISTURBED = 0.3, 0.2
RATIOS = {
    "search, k = 10": ("ours, k = 10", "faiss, k = 10", 1.2),
    "search, k = 100": ("ours, k = 100", "faiss, k = 100", 1.2),
    "sweep of 21 exponents": ("sweep", "ours, k = 10", 1.5),
}


def embeddings(size: Size) -> tuple[Tensor, Tensor, Judgements]:
    """Random directions with log-normal norms, and ten relevant documents a query: its best at exponent -0.4, some."""
    draw = torch.Generator().manual_seed(0)
    documents = torch.randn(size.documents, size.d, generator=draw)
    documents *= (SPREAD * torch.randn(size.documents, 1, generator=draw)).exp()
    # A query lies near some documents, as it would in a trained space.
    near = torch.randint(0, size.documents, (size.queries, 10), generator=draw)
    queries = documents[near].mean(1) + 0.3 * torch.randn(size.queries, size.d, generator=draw)
    pairs = Judgements(torch.arange(size.queries).repeat_interleave(10), near.flatten(), torch.ones(near.numel()))
    distinct = (pairs.queries * size.documents + pairs.documents).unique()
    pairs = Judgements(distinct // size.documents, distinct % size.documents, torch.ones(len(distinct)))
    return queries, documents, pairs


def works(size: Size) -> dict[str, Callable[[], Any]]:
    """What takes turns, by name."""
    queries, documents, judgements = embeddings(size)
    index = faiss.IndexFlatIP(size.d)
    index.add(documents.numpy())
    return {
        "faiss, k = 10": lambda: index.search(queries.numpy(), 10),
        "ours, k = 10": lambda: exact_top_k(queries, documents, 10),
        "sweep": lambda: (sweep_alpha(queries, documents, judgements, normalization="dot"), judgements),
        "faiss, k = 100": lambda: index.search(queries.numpy(), 100),
        "ours, k = 100": lambda: exact_top_k(queries, documents, 100),
    }


def turn(work: Callable[[], Any]) -> tuple[dict[str, float | None], Any]:
    """Does it once: seconds by the clock and by the processor, memory above what was there before, cores of others."""
    gc.collect()
    _give_back()
    before = _start_peak()
    all_before, cpu_before, started = busy(), time.process_time(), time.perf_counter()
    result = work()
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu_before
    others = (busy() - all_before - cpu) / wall
    peak = None if before is None else round((_kibibytes("VmHWM") - before) / 1024, 1)
    return {"wall": round(wall, 4), "cpu": round(cpu, 4), "others": round(others, 3), "peak_mib": peak}, result


def measure(size: Size, rounds: int) -> Iterator[dict[str, Any]]:
    """After every round: turns so far, their medians and ratios, and whether the results agree."""
    todo = works(size)
    turns: dict[str, list[dict[str, float | None]]] = {name: [] for name in todo}
    results: dict[str, Any] = {}
    for number in range(rounds):
        for name in todo if number % 2 == 0 else reversed(todo):
            taken, results[name] = turn(todo[name])
            turns[name].append(taken)
            print(f"round {number + 1}: {name}: {taken}", flush=True)
        yield {
            "rounds": number + 1,
            "turns": turns,
            "medians": {
                name: {key: _median(row[key] for row in rows) for key in rows[0]} for name, rows in turns.items()
            },
            "ratios": {title: ratio(turns, *pair) for title, pair in RATIOS.items()},
            "agreement": agreement(results),
        }


def ratio(turns: dict[str, list[dict[str, Any]]], mine: str, theirs: str, at_most: float) -> dict[str, Any]:
    """Medians of the ratios of single rounds."""
    pairs = list(zip(turns[mine], turns[theirs], strict=True))
    wall, cpu = (sorted(a[key] / b[key] for a, b in pairs) for key in ("wall", "cpu"))
    found = {"wall": round(statistics.median(wall), 3), "cpu": round(statistics.median(cpu), 3)}
    disturbed = any(max(a["others"], b["others"]) > DISTURBED for a, b in pairs)
    return found | {"wall_range": [round(wall[0], 3), round(wall[-1], 3)], "at_most": at_most, "disturbed": disturbed}


def agreement(results: dict[str, Any]) -> dict[str, float]:
    """Share of ranks with another document than FAISS has, and how far the sweep is from the search at exponent 0."""
    found: dict[str, float] = {}
    for k in (10, 100):
        other = torch.from_numpy(results[f"faiss, k = {k}"][1])
        found[f"ranks that differ, k = {k}"] = float((results[f"ours, k = {k}"].indices != other).double().mean())
    sweep, judgements = results["sweep"]
    alone = measure_named("ndcg@10").of(grade_ranking(results["ours, k = 10"].indices, judgements))
    at_zero = sweep.values[int((sweep.alphas == 0).nonzero())]
    found["ndcg@10 of the sweep at 0 less that of the search, most"] = float((at_zero - alone).abs().max())
    return found


def _median(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 4) if known else None


def tabulate(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    hardware, size = report["machine"], Size(*report["size"])
    lines = [
        f"# Search and sweep beside FAISS, {report['date']}",
        "",
        f"{hardware['cpu']}, {hardware['cores']} cores; Python {hardware['python']}, torch {hardware['torch']}, faiss "
        f"{report['faiss']}, both on {report['threads']} thread(s). Load of the machine at the start "
        f"{report['load']['start']}, at the end {report['load']['end']} (the benchmark itself makes "
        f"{report['threads']}).",
        "",
        f"`python benchmarks/search.py{' --quick' if report['quick'] else ''}`: {size.documents:,} documents x "
        f"{size.d}, {size.queries:,} queries, float32 in memory, norms log-normal (spread {SPREAD}). Times are medians "
        f"over {report['rounds']} round(s), ratios medians of the ratios of single rounds. Memory: most that was "
        "resident during a turn above what was before it, documents and FAISS's copy of them not counted. Others: "
        f"cores that other processes kept busy; above {DISTURBED}, a target is judged by processor time.",
        "",
        "| | wall (s) | processor (s) | memory (MiB) | others (cores) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in report["medians"].items():
        peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
        lines.append(f"| {name} | {row['wall']:.2f} | {row['cpu']:.2f} | {peak} | {row['others']:.2f} |")
    lines += ["", "| | to | at most | wall (least to most) | processor | |", "| --- | --- | --- | --- | --- | --- |"]
    for title, row in report["ratios"].items():
        measured = row["cpu" if row["disturbed"] else "wall"]
        verdict = "met" if measured <= row["at_most"] else "**missed**"
        verdict += ", by processor time" if row["disturbed"] else ""
        least, most = row["wall_range"]
        lines.append(
            f"| {title} | {RATIOS[title][1]} | {row['at_most']:.1f} | {row['wall']:.2f} ({least:.2f} to {most:.2f}) "
            f"| {row['cpu']:.2f} | {verdict} |"
        )
    lines += ["", *(f"- {what}: {value:.1g}" for what, value in report["agreement"].items()), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small set, to see that it works")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument("--threads", type=int, help="of both sides; as many as torch takes if left out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(torch.get_num_threads())
    size = QUICK if arguments.quick else FULL
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "faiss": faiss.__version__,
        "threads": torch.get_num_threads(),
        "quick": arguments.quick,
        "size": list(size),
        "load": {"start": load()},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    for found in measure(size, arguments.rounds):
        report |= found
        report["load"]["end"] = load()
        (arguments.out / "search.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (arguments.out / "search.md").write_text(tabulate(report), encoding="utf-8")
    print(tabulate(report))


if __name__ == "__main__":
    main()
