"""Which normalization to take on eight small real sets: the grid of ``normdyn grid``, three seeds each.

    python benchmarks/grids.py DATA [--only NAME ...] [--seeds 3] [--jobs 2] [--runs runs/grids]

DATA holds the sets, a folder each, in public formats: scifact, sts_benchmark, kg_umls, kg_wn18rr, omniglot_background,
ml_latest_small, emoji_noto, banking77. Every variant chooses among the same learning rates and temperatures on
validation with the first seed. A set whose grid is under ``--runs`` already is gone on with. Writes ``grids.json`` and
a dated table, ``grids.md``, under ``--out`` (benchmarks/results).
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from overhead_table import machine

CONFIGS = Path(__file__).parents[1] / "configs"
DECISIVE = 0.02
"""Where no variant can gain more, a set is decided."""
VARIANTS = ("cosine", "dot", "qnorm", "dnorm", "learnable", "euclidean")
CASES: dict[str, tuple[str, list[str]]] = {
    "scifact": (
        "retrieval",
        [
            "--data.source=BeirFolder",
            "--data.source.folder={folder}",
            "--model.encoder=SmallTextEncoder",
            "--model.encoder.dim=256",
            "--model.encoder.ngram_letters=0",
            "--model.encoder.sublinear_tf=false",
            "--model.encoder.max_words=256",
            "--model.lr=2e-3",
            "--trainer.max_epochs=10",
            "--trainer.check_val_every_n_epoch=2",
        ],
    ),
    "sts_benchmark": (
        "sts",
        [
            "--data.source=StsBenchmark",
            "--data.source.folder={folder}",
            "--model.encoder.dim=256",
            "--model.encoder.ngram_letters=0",
            "--model.temperature=0.05",
            "--model.lr=2e-3",
            "--trainer.max_epochs=10",
        ],
    ),
    "kg_umls": (
        "kg",
        [
            "--data.source=TripleFolder",
            "--data.source.folder={folder}",
            "--model.weight_decay=0.3",
            "--trainer.max_epochs=40",
            "--trainer.check_val_every_n_epoch=5",
        ],
    ),
    "kg_wn18rr": (
        "kg",
        [
            "--data.source=TripleFolder",
            "--data.source.folder={folder}",
            "--model.negatives=batch",
            "--trainer.max_epochs=4",
            "--trainer.check_val_every_n_epoch=4",
        ],
    ),
    "omniglot_background": ("fewshot", ["--data.source=Omniglot", "--data.source.path={folder}"]),
    "ml_latest_small": (
        "recsys",
        [
            "--data.source=MovieLensFolder",
            "--data.source.folder={folder}",
            "--model.encoder=history",
            "--model.negatives=sampled",
            "--model.temperature=0.05",
            "--trainer.max_epochs=6",
            "--trainer.check_val_every_n_epoch=6",
        ],
    ),
    "emoji_noto": (
        "clip",
        [
            "--data.source=ImageTextTable",
            "--data.source.path={folder}/emoji.parquet",
            "--data.source.image_column=png32",
            "--data.source.caption_column=caption",
            "--data.source.group_column=base",
        ],
    ),
    "banking77": (
        "fewshot",
        [
            "--data.source=LabelledTextFiles",
            "--data.source.folder={folder}",
            "--model.encoder=SmallTextEncoder",
            "--trainer.max_epochs=150",  # an epoch of so few classes is a step
            "--trainer.check_val_every_n_epoch=30",
        ],
    ),
}


def grid(name: str, arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Runs the grid of one set; its findings, or None where it did not come to an end."""
    family, words = CASES[name]
    folder = arguments.runs / name
    command = [sys.executable, "-m", "lightning_normdyn", "grid", "--config", str(CONFIGS / f"{family}.yaml")]
    command += ["--seeds", str(arguments.seeds), "--jobs", str(arguments.jobs), "--out", str(folder)]
    command += ["--lr-factors", *map(str, arguments.lr_factors), "--temperatures", *map(str, arguments.temperatures)]
    command += [word.format(folder=(arguments.data / name).resolve()) for word in words]
    print(f"{name}: {family}", flush=True)
    subprocess.run(command, check=False)
    file = folder / "findings.json"
    return {"family": family, **json.loads(file.read_text(encoding="utf-8"))} if file.is_file() else None


def answer(scores: dict[str, dict[str, float]]) -> tuple[str, str]:
    """What the intervals of all variants say together.

    Args:
        scores: variant to its figures, cosine among them.

    Returns:
        ``gain`` where a variant is better than cosine beyond doubt, ``loss`` where all are worse, ``no gain`` where
        none can be better by ``DECISIVE`` or more, else ``undecided``; and a sentence.
    """
    gains = {name: figures for name, figures in scores.items() if name != "cosine"}
    surest = max(gains, key=lambda name: gains[name]["gain_low"])
    best = max(gains, key=lambda name: gains[name]["gain"])
    highest = max(figures["gain_high"] for figures in gains.values())
    if gains[surest]["gain_low"] > 0:
        gain, low, high = (gains[surest][name] for name in ("gain", "gain_low", "gain_high"))
        return "gain", f"{surest} gains {gain:.3f} ({low:.3f} to {high:.3f})"
    if highest < 0:
        return "loss", f"every variant loses, {best} least: {gains[best]['gain']:.3f}"
    if highest > DECISIVE:
        return "undecided", f"undecided: {best} gains {gains[best]['gain']:.3f}, {highest:.3f} at most"
    losers = [name for name, figures in gains.items() if figures["gain_high"] < 0]
    loss = f"; {', '.join(losers)} lose" if losers else ""
    return "no gain", f"no gain above {highest:.3f}{loss}"


def tabulate(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    hardware = report["machine"]
    answers = {name: answer(grid["comparison"]["scores"]) for name, grid in report["grids"].items()}
    decisions = sum(kind != "undecided" for kind, _ in answers.values())
    lines = [
        f"# Normalizations on small real sets, {report['date']}",
        "",
        f"`python benchmarks/grids.py`; Python {hardware['python']}, torch {hardware['torch']}, {hardware['cores']} "
        "cores. Test split, mean with its 95% interval over queries and trainings; each variant at the learning rate "
        "and the temperature that validation likes best among as many as any other variant has, with the first seed. "
        "Bold: better than cosine beyond doubt (95%, all variants at once); italic: worse.",
        "",
        f"| set | measure | {' | '.join(VARIANTS)} | without training |",
        f"| --- | --- |{' ---: |' * len(VARIANTS)} --- |",
    ]
    for name, grid in report["grids"].items():
        scores = grid["comparison"]["scores"]
        cells = [_score(scores.get(variant)) for variant in VARIANTS]
        floors = ", ".join(f"{floor} {value:.3f}" for floor, value in grid["floors"].items())
        lines.append(f"| {name} | {grid['headline']} | {' | '.join(cells)} | {floors} |")
    lines += [
        "",
        f"Decided on {decisions} of {len(answers)} sets: a variant gains over cosine beyond doubt, all lose, or none "
        f"can gain more than {DECISIVE} (95%, all variants at once). Visible: the smallest gain that would have been "
        "seen four times in five, of the variant of which the least would and of the one of which the most would: "
        "scores far from cosine's differ from them by noise too.",
        "",
        "| set | answer | visible | queries | seeds | trained |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for name, grid in report["grids"].items():
        comparison = grid["comparison"]
        counts = f"{comparison['queries']} | {comparison['seeds']} | {grid['date']}"
        lines.append(f"| {name} | {answers[name][1]} | {_visible(comparison['scores'])} | {counts} |")
    lines += ["", "What `normdyn grid` advises:", ""]
    lines += [f"- {name}: {grid['advice']}" for name, grid in report["grids"].items()]
    lines += ["", "Temperature and learning rate that were chosen:", ""]
    lines += [f"| set | {' | '.join(VARIANTS)} |", f"| --- |{' --- |' * len(VARIANTS)}"]
    for name, grid in report["grids"].items():
        cells = [_chosen(variant, grid) for variant in VARIANTS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| set | symmetry | Fisher condition numbers |", "| --- | --- | --- |"]
    for name, grid in report["grids"].items():
        prediction, outcome, evidence = grid["symmetry"]
        kind = prediction.partition(" ")[0]
        lines.append(f"| {name} | {kind}: {outcome} ({evidence}) | {grid['kappa_verdict']} |")
    lines += ["", "| set | Cohen's d | CV of queries, documents | γ query, document | seconds a training |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for name, grid in report["grids"].items():
        of_cosine, learnt = grid["diagnosis"]["cosine"], grid["learnt"].get("learnable", {})
        gammas = ", ".join(f"{value:.3f}" for key, value in learnt.items() if "gamma" in key)
        spread = f"{of_cosine['query_cv']:.3f}, {of_cosine['document_cv']:.3f}"
        d = "–" if of_cosine["cohens_d"] is None else f"{of_cosine['cohens_d']:+.2f}"
        lines.append(f"| {name} | {d} | {spread} | {gammas} | {grid['seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def _visible(scores: dict[str, dict[str, float]]) -> str:
    """The smallest visible gains of the variants, from the least to the most."""
    gains = sorted((figures["visible_gain"], name) for name, figures in scores.items() if "visible_gain" in figures)
    if not gains:
        return "–"
    (least, first), (most, last) = gains[0], gains[-1]
    return f"{least:.3f}" if f"{least:.3f}" == f"{most:.3f}" else f"{least:.3f} ({first}) to {most:.3f} ({last})"


def _chosen(variant: str, grid: dict[str, Any]) -> str:
    """The settings of a variant: its temperature at the end of training, since some learn it."""
    choice = grid["choices"].get(variant)
    return "–" if choice is None else f"{choice['temperature']:.3g}, {choice['lr']:g}"


def _score(score: dict[str, float] | None) -> str:
    if score is None:
        return "–"
    text = f"{score['mean']:.3f} ({score['low']:.3f} to {score['high']:.3f})"
    if score["gain_low"] > 0:
        return f"**{text}**"
    return f"*{text}*" if score["gain_high"] < 0 else text


def _seconds(folder: Path) -> float:
    """Median of a training."""
    results = sorted(
        json.loads(file.read_text(encoding="utf-8")).get("seconds", 0.0)
        for file in folder.glob("runs/*-seed*/result.json")
    )
    return float(results[len(results) // 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--lr-factors", type=float, nargs="+", default=[0.3, 1.0, 3.0])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    parser.add_argument("--runs", type=Path, default=Path("runs/grids"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    file = arguments.out / "grids.json"
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"grids": {}}
    report |= {"date": datetime.date.today().isoformat(), "machine": machine()}
    for name in arguments.only:
        findings = grid(name, arguments)
        if findings is not None:
            origin = findings.pop("origin")  # its command has folders of this machine
            findings.pop("runs", None)
            report["grids"][name] = findings | {
                "date": origin["date"],
                "seconds": _seconds(arguments.runs / name),
                "lr_factors": arguments.lr_factors,
                "temperature_factors": arguments.temperatures,
            }
            arguments.out.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            (arguments.out / "grids.md").write_text(tabulate(report), encoding="utf-8")


if __name__ == "__main__":
    main()
