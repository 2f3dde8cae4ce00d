"""The losses' figures as a dated table, and what was aimed at beside what was measured."""

from __future__ import annotations

from typing import Any

from loss_peers import CASES, REFERENCES

_OURS = [name for name, case in CASES.items() if case.kind == "ours"]
_AIMED = [
    ("symmetric / open_clip ClipLoss, time", "symmetric", "to_clip", "wall", {4096: 0.60, 16384: 0.55}),
    ("symmetric / open_clip ClipLoss, memory", "symmetric", "to_clip", "memory", {4096: 0.30, 16384: 0.07}),
    ("four prefixes / one direction, time", "prefixes", "to_one", "wall", {4096: 1.30}),
    ("sum of two losses / one by one, time", "summed", "to_plain", "wall", {4096: 0.75, 16384: 0.75}),
    ("one direction / plain, time", "one", "to_plain", "wall", {4096: 0.90, 16384: 0.60}),
]


def judge(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every target with what was measured; ``None`` and not met where nothing was."""
    measured = {entry["batch"]: entry["losses"] for entry in batches}
    targets = [
        _target(title, batch, most, measured.get(batch, {}).get(name, {}).get(to, {}), what)
        for title, name, to, what, limits in _AIMED
        for batch, most in limits.items()
    ]
    for batch, losses in measured.items():
        for name in _OURS:
            if "left_out" not in losses[name]:
                title = f"{_bare(name)} / plain of the same terms, time"
                targets.append(_target(title, batch, 1.05, losses[name].get("to_plain", {}), "wall"))
    for batch, losses in measured.items():
        ratios = losses["gamma"].get("to_symmetric", {})
        targets.append(_target("learnable gamma / cosine, time", batch, 1.10, ratios, "wall"))
    return targets


def _target(title: str, batch: int, most: float, ratios: dict[str, Any], what: str) -> dict[str, Any]:
    value = ratios.get(what)
    target = {"title": title, "batch": batch, "at_most": most, "measured": value}
    if what == "wall":
        target["calm"] = ratios.get("calm")
        target["rounds"] = ratios.get("rounds")
        target["cpu"] = ratios.get("cpu")
        target["range"] = [ratios.get("wall_least"), ratios.get("wall_most")]
    return target | {"met": value is not None and value <= most}


def tabulate(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    hardware = report["machine"]
    flag = " --quick" if report["quick"] else ""
    if report.get("only"):
        flag += " --batches " + " ".join(map(str, report["only"]))
    peers = ", ".join(f"{name} {version or 'not installed'}" for name, version in report["peers"].items())
    lines = [
        f"# Losses beside those of other packages, {report['date']}",
        "",
        f"{hardware['cpu']}, {hardware['cores']} cores; Python {hardware['python']}, torch {hardware['torch']} on "
        f"{hardware['torch_threads']} threads; {peers}. Load of the machine at the start {report['load']['start']}, at "
        f"the end {report['load']['end']} (the benchmark itself makes {hardware['torch_threads']}).",
        "",
        f"`python benchmarks/losses.py{flag}`: forward and backward of the loss alone, float32, d = 512, scale 20 (10 "
        "for the sigmoid), embeddings not normalised (ClipLoss expects normalised ones, so F.normalize is timed with "
        "it), lengths log-normal around 1. Each loss is a process of its own; they take turns in alternating order. "
        "Times are medians over rounds, ratios medians of the ratios of single rounds. Peak: resident memory above "
        "that before the first step, gradients of the embeddings included. Plain PyTorch sums the same terms and "
        "reuses logits and logits.T for both directions; its formula is the obvious one; a sum of losses stands beside "
        "the same losses one by one in its place. The floors are the matrix "
        "products alone, at 512 x 1024 tiles: three make the scores once and both gradients, four make the scores "
        "twice, as a symmetric loss does that does not keep them (ours keeps up to 2^23 scores, so it makes three "
        "products up to B = 2,896). A turn in which other processes used more than 0.2 cores is taken again up to "
        "twice if it is short, and rounds disturbed all the same are left out of the ratios unless there is no other.",
    ]
    for entry in report["batches"]:
        lines += _batch_lines(entry)
    lines += [
        "",
        "## Targets",
        "",
        "Memory is one measurement; times are medians, in brackets the least and the largest of the rounds that other "
        "processes left alone, or of all where they left none (disturbed).",
        "",
        "| target | B | at most | measured | CPU time | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_target_row(target) for target in report["targets"]]
    return "\n".join(lines) + "\n"


def _batch_lines(entry: dict[str, Any]) -> list[str]:
    losses = entry["losses"]
    lines = [
        "",
        f"## B = {entry['batch']:,} ({entry['rounds']} rounds)",
        "",
        "| loss | terms | time (ms) | to plain of the same terms | to ClipLoss | CPU: to plain | to ClipLoss "
        "| peak (MiB) | deviation: value | gradients |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_row(name, losses[name]) for name in CASES if "left_out" not in losses[name]]
    kept = [row for row in losses.values() if "left_out" not in row]
    disturbed = sum(row["disturbed"] for row in kept)
    lines += ["", f"Turns kept: {sum(row['rounds'] for row in kept)}, of which disturbed: {disturbed}."]
    missing = [f"{_bare(name)} ({row['left_out']})" for name, row in losses.items() if "left_out" in row]
    if missing:
        lines += ["", f"Left out: {'; '.join(missing)}."]
    disagree = [_bare(name) for name, row in losses.items() if not row.get("deviation", {}).get("agrees", True)]
    if disagree:
        lines += ["", f"**Deviates by more than 1e-4: {', '.join(disagree)}.**"]
    return lines


def _row(name: str, row: dict[str, Any]) -> str:
    plain, clip = row.get("to_plain", {}), row.get("to_clip", {})
    deviation = row.get("deviation")
    if deviation is None or name in REFERENCES.values():
        differs = "| | "
    else:
        of_gradients = max(v for k, v in deviation.items() if k not in ("value", "agrees"))
        differs = f"| {deviation['value']:.0e} | {of_gradients:.0e} "
    peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:,.0f}"
    return (
        f"| {CASES[name].title} | {CASES[name].terms} | {row['wall_ms']:,.1f} | {_number(plain.get('wall'))} "
        f"| {_number(clip.get('wall'))} | {_number(plain.get('cpu'))} | {_number(clip.get('cpu'))} | {peak} {differs}|"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _bare(name: str) -> str:
    case = CASES[name]
    title = case.title.replace("**", "").removeprefix("ours ")
    return f"{title}, {case.terms}" if case.kind == "plain" else title


def _target_row(target: dict[str, Any]) -> str:
    if target["measured"] is None:
        found, verdict = "", "not measured"
    else:
        found, verdict = f"{target['measured']:.3f}", "met" if target["met"] else "**missed**"
        if "range" in target:
            found += " ({:.3f} to {:.3f}{})".format(*target["range"], "" if target["calm"] else "; disturbed")
    return (
        f"| {target['title']} | {target['batch']:,} | {target['at_most']:.2f} | {found} "
        f"| {_number(target.get('cpu'))} | {verdict} |"
    )
