"""The figures as a dated table that names the hardware."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch


def machine() -> dict[str, Any]:
    """The hardware and the software that the figures belong to."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return {
        "cpu": models[0].split(":", 1)[1].strip() if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pytorch_lightning": pytorch_lightning.__version__,
    }


def load() -> float | None:
    """How many processes wanted a core over the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def tabulate(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    hardware = report["machine"]
    flag = " --quick" if report["quick"] else ""
    lines = [
        f"# Overhead of NormDynamics, {report['date']}",
        "",
        f"{hardware['cpu']}, {hardware['cores']} cores; Python {hardware['python']}, torch {hardware['torch']} on "
        f"{hardware['torch_threads']} thread, as in `normdyn demo`; pytorch-lightning {hardware['pytorch_lightning']}. "
        f"`python benchmarks/overhead.py{flag}`: both sides train at the same time, a process each, and take turns; "
        "ratios are of the same stretch of training, median over rounds with quartiles. Load of the machine at the "
        f"start {report['load']['start']}, at the end {report['load']['end']} (the benchmark itself makes 1).",
        "",
        "## A step with and without NormDynamics, default cadence",
        "",
        *_RATIO_HEAD,
    ]
    lines += [
        _ratio_row({"date": report["date"], "load": report["load"], **case}) for case in report["ratios"].values()
    ]
    lines += [
        "",
        "Added to an ordinary step, to one of the measured ones (every 50th), and on average, in microseconds:",
        "",
        "| case | ordinary | measured | average |",
        "| --- | --- | --- | --- |",
    ]
    lines += [_step_row(case["title"], case["added_us_by_step"]) for case in report["ratios"].values()]
    lines += [
        "",
        "## Rows that are not touched cost nothing",
        "",
        f"{report['tables']['touched']:,} distinct rows of dimension 64 touched a step. Own time: spent in the "
        "callback's own hooks. Added: difference of two runs side by side, which includes what it does to the caches.",
        "",
        "| table | gradient | own time (us): ordinary | measured | average | added (us), quartiles |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_table_row(case) for case in report["tables"]["cases"]]
    lines += [
        "",
        "## Memory",
        "",
        "| case | tracked rows | live state, bytes a row | in a checkpoint, bytes a row | scratch (kB) | at most |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_memory_row(case) for case in report["memory"]]
    quiet = report["off_schedule"]
    lines += [
        "",
        "## Off schedule",
        "",
        f"With every cadence at 10^9, {quiet['steps']} steps of the demo: {quiet['operations_added']} torch operations "
        f"more than without the callback (of {quiet['operations']} a step), {quiet['syncs_added']} more syncs, "
        f"{quiet['clones_added']} more clones. Its own time: {quiet['own_us']['ordinary']:.0f} us a step.",
        *_encoder_lines(report["encoder"]),
    ]
    return "\n".join(lines) + "\n"


_RATIO_HEAD = (
    "| case | date, load | step without (ms) | wall ratio | CPU ratio | whole run, wall / CPU | at most "
    "| weights identical |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
)


def _encoder_lines(encoder: dict[str, Any]) -> list[str]:
    """The part on encoders, with its own date."""
    ratio, memory, quiet = encoder["ratio"], encoder["memory"], encoder["off_schedule"]
    copies = (memory["radial_decay_bytes"] - memory["encode_bytes"]) / memory["decayed_bytes"]
    return [
        "",
        f"## An encoder that is followed on a probe, {encoder['date']}",
        "",
        f'`targets=["encoder"]`, default cadence, its first batch as the probe; in turns as above, rounds of '
        f"{ratio['steps_per_round']} steps. Load of the machine at the start {encoder['load']['start']}, at the end "
        f"{encoder['load']['end']}: other work ran beside it if that is above 1.",
        "",
        *_RATIO_HEAD,
        _ratio_row({"date": encoder["date"], "load": encoder["load"], **ratio}),
        "",
        f"At the height of a measurement, 64 sentences: {memory['encode_bytes'] / 1e6:.1f} MB to encode, "
        f"{memory['radial_decay_bytes'] / 1e6:.1f} MB while radial decay is measured, which is the first and "
        f"{copies:.3f} copies of the decayed parameters ({memory['decayed_bytes'] / 1e6:.1f} MB). Between "
        f"measurements, {quiet['steps']} steps: {quiet['operations_added']} torch operations more than without the "
        f"callback (of {quiet['operations']} a step).",
    ]


def _between(values: dict[str, float], digits: int) -> str:
    return f"{values['median']:.{digits}f} ({values['q1']:.{digits}f} to {values['q3']:.{digits}f})"


def _ratio_row(case: dict[str, Any]) -> str:
    most = "" if case["at_most"] is None else f"{case['at_most']:.2f}"
    return (
        f"| {case['title']} | {case['date']}, {case['load']['start']} to {case['load']['end']} "
        f"| {_between(case['step_ms_without'], 2)} | **{_between(case['ratio'], 3)}** "
        f"| {_between(case['ratio_cpu'], 3)} | {case['ratio_whole_run']:.3f} / {case['ratio_cpu_whole_run']:.3f} "
        f"| {most} | {'yes' if case['weights_bit_identical'] else 'NO'} |"
    )


def _step_row(title: str, added: dict[str, float]) -> str:
    return f"| {title} | {added['ordinary']:.0f} | {added['measured']:.0f} | {added['average']:.0f} |"


def _table_row(case: dict[str, Any]) -> str:
    own = case["own_us"]
    return (
        f"| {case['rows']:,} x 64 | {'sparse' if case['sparse'] else 'dense'} | {own['ordinary']:.0f} "
        f"| {own['measured']:.0f} | {own['average']:.0f} | {_between(case['added_us'], 0)} |"
    )


def _memory_row(case: dict[str, Any]) -> str:
    return (
        f"| {case['title']} | {case['tracked_rows']:,} | {case['live_bytes_per_row']:.0f} "
        f"| {case['checkpoint_bytes_per_row']:.0f} | {case['scratch_bytes'] / 1000:,.0f} | {case['at_most']} |"
    )
