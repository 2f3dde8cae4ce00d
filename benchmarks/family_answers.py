"""Whether keeping norms gains anything in each family: decided or not, and the smallest gain that could be seen.

    python benchmarks/family_answers.py DATA [--seeds kg_umls=10:dot ...] [--runs runs/answers]
        [--out benchmarks/results]

Takes the comparisons of ``grids.json`` and, for the sets that ``--seeds`` names, trains anew: cosine and the variants
behind the colon, or all, each at the rate that its grid chose, with so many seeds that the grid did not have. A variant
that is named because it led the grid is so judged by trainings that had no part in naming it. What is under ``--runs``
already is not trained again, and what ``family_answers.json`` has of other sets is kept. Writes it and a dated table,
``family_answers.md``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from family_cases import Case
from family_side import command_line, ours
from grids import CASES
from overhead_table import machine

from lightning_normdyn.atomic_file import write_json
from lightning_normdyn.core.statistics.variant_comparison import compare_variants

GRID_SEEDS = 3
VISIBLE = 0.02
"""A gain of this size shall be visible."""


def trained(name: str, variant: str, rate: float, seed: int, arguments: argparse.Namespace) -> list[float]:
    """The headline of every test query after one training."""
    file = arguments.runs / name / f"{variant}-seed{seed}.json"
    if not file.is_file():
        config, words = CASES[name]
        words = [word for word in words if not word.startswith("--trainer.check_val")]
        case = Case(config, name, (*words, f"--model.normalization={variant}"), (rate,), {})
        outcome = ours(command_line(case, arguments.data / name, seed, rate), measures_shapes=False)
        write_json(file, asdict(outcome) | {"rate": rate, "seed": seed})
        print(f"{name}, {variant}, seed {seed}: validation {outcome.validation:.4f}", flush=True)
    (values,) = json.loads(file.read_text(encoding="utf-8"))["values"].values()
    return [float("nan") if value is None else value for value in values]


def compared(name: str, rates: dict[str, float], seeds: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Some variants of a set over seeds that its grid did not have, seed by seed."""
    rows: dict[str, list[list[float]]] = {variant: [] for variant in rates}
    for seed in range(GRID_SEEDS, GRID_SEEDS + seeds):
        for variant, rate in rates.items():
            rows[variant].append(trained(name, variant, rate, seed, arguments))
    comparison = compare_variants({variant: torch.tensor(values) for variant, values in rows.items()})
    scores = {variant: score.numbers() for variant, score in comparison.scores.items()}
    return {"scores": scores, "seeds": seeds, "queries": comparison.queries, "trained": _today()}


def _today() -> str:
    return datetime.date.today().isoformat()


def answer(scores: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What the intervals of all variants say together.

    Args:
        scores: variant to its figures, cosine among them.

    Returns:
        ``kind``: ``gain`` where a variant is better than cosine beyond doubt, ``loss`` where all are worse, ``no gain``
        where none can be better by ``VISIBLE`` or more, else ``undecided``; with it the sentence, and ``visible``, the
        smallest measured gain that would have been beyond doubt for any variant.
    """
    gains = {name: figures for name, figures in scores.items() if name != "cosine"}
    visible = max(figures["gain_high"] - figures["gain"] for figures in gains.values())
    sure = max(gains, key=lambda name: gains[name]["gain_low"])
    best = max(gains, key=lambda name: gains[name]["gain"])
    highest = max(figures["gain_high"] for figures in gains.values())
    if gains[sure]["gain_low"] > 0:
        gain, low, high = (gains[sure][name] for name in ("gain", "gain_low", "gain_high"))
        kind, sentence = "gain", f"{sure} gains {gain:.3f} ({low:.3f} to {high:.3f})"
    elif highest < 0:
        kind, sentence = "loss", f"every variant loses, {best} least: {gains[best]['gain']:.3f}"
    elif highest <= VISIBLE:
        losers = [name for name, figures in gains.items() if figures["gain_high"] < 0]
        loss = f"; {', '.join(losers)} lose" if losers else ""
        kind, sentence = "no gain", f"no gain above {highest:.3f}{loss}"
    else:
        kind, sentence = "undecided", f"undecided: {best} gains {gains[best]['gain']:.3f}, {highest:.3f} at most"
    return {"kind": kind, "sentence": sentence, "visible": visible}


def tabulate(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    answers = {name: answer(comparison["scores"]) for name, comparison in report["sets"].items()}
    decisions = sum(verdict["kind"] != "undecided" for verdict in answers.values())
    lines = [
        f"# Answers by family, {report['date']}",
        "",
        f"`python benchmarks/family_answers.py`; Python {report['machine']['python']}, torch "
        f"{report['machine']['torch']}. Decided on {decisions} of {len(answers)} sets: a variant gains over cosine "
        f"beyond doubt, all lose, or none can gain {VISIBLE} or more (95%, all variants at once, over queries and "
        "trainings). The smallest visible gain is the measured one that would have been beyond doubt for every "
        f"variant; where it is more than {VISIBLE}, as many times more queries and seeds as the next column says would "
        "make it that, since both parts of the variance fall with their number.",
        "",
        "| set | measure | variants beside cosine | answer | smallest visible gain | "
        f"for {VISIBLE} | queries | seeds | trained |",
        "| --- | --- | --- | --- | ---: | --- | ---: | ---: | --- |",
    ]
    for name, comparison in report["sets"].items():
        variants = ", ".join(variant for variant in comparison["scores"] if variant != "cosine")
        visible = f"{answers[name]['visible']:.3f}"
        cells = (name, comparison["headline"], variants, answers[name]["sentence"], visible)
        factor = (answers[name]["visible"] / VISIBLE) ** 2
        need = "enough" if factor <= 1 else f"{factor:.1f} times"
        counts = (need, str(comparison["queries"]), str(comparison["seeds"]), comparison["trained"])
        lines.append(f"| {' | '.join((*cells, *counts))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", nargs="+", default=[], metavar="SET=SEEDS")
    parser.add_argument("--runs", type=Path, default=Path("runs/answers"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    grids = json.loads((Path(__file__).parent / "results" / "grids.json").read_text(encoding="utf-8"))
    file = arguments.out / "family_answers.json"
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"sets": {}}
    for name, grid in grids["grids"].items():
        figures = {key: grid["comparison"][key] for key in ("scores", "seeds", "queries")}
        entry = figures | {"headline": grid["headline"], "trained": grids["date"]}
        report["sets"].setdefault(name, entry)
    for name, wish in (word.split("=") for word in arguments.seeds):
        seeds, _, variants = wish.partition(":")
        lrs = grids["grids"][name]["lrs"]
        names = ["cosine", *variants.split(",")] if variants else list(lrs)
        report["sets"][name] |= compared(name, {variant: lrs[variant] for variant in names}, int(seeds), arguments)
    report |= {"date": _today(), "machine": machine()}
    arguments.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "family_answers.md").write_text(tabulate(report), encoding="utf-8")


if __name__ == "__main__":
    main()
