"""What a grid found, on a terminal of 80 columns."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from lightning_normdyn.history.grid_findings import GridFindings
from lightning_normdyn.history.number import show_number


def print_findings(console: Console, findings: GridFindings) -> None:
    """Prints the tables, what theory had said, and the advice."""
    for table in (_scores(findings), _cross(findings), _diagnosis(findings)):
        console.print(table, soft_wrap=False)
    for name, value in findings.floors.items():
        console.print(f"{findings.headline} of {name}: {value:.4f}")
    prediction, outcome, evidence = findings.symmetry
    console.print(f"Symmetry, {prediction}: {outcome} ({evidence}).")
    console.print(f"Fisher condition numbers: {findings.kappa_verdict}.")
    for note in findings.notes:
        console.print(note)
    console.print(findings.advice)


def _scores(findings: GridFindings) -> Table:
    comparison = findings.comparison
    table = _table(
        f"{findings.task}: {findings.headline}, trainings: {comparison.seeds} each, test items: {comparison.queries}"
    )
    table.add_column("variant", no_wrap=True)
    for heading in (findings.headline, "95%\ninterval", "gain on\ncosine", "95%,\nall at once", "best", "lr"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, score in comparison.scores.items():
        reference = name == comparison.reference
        table.add_row(
            name,
            f"{score.mean:.4f}",
            f"{score.mean_interval.low:.4f}–{score.mean_interval.high:.4f}",
            "–" if reference else f"{score.gain:+.4f}",
            "–" if reference else f"{score.gain_interval.low:+.4f} {score.gain_interval.high:+.4f}",
            f"{score.share_best:.0%}",
            f"{findings.lrs[name]:.3g}",
        )
    return table


def _cross(findings: GridFindings) -> Table:
    table = _table("Trained with one similarity, scored with another")
    table.add_column("trained \\ scored", no_wrap=True)
    similarities = list(next(iter(findings.cross.values())))
    for name in similarities:
        table.add_column(name, justify="right", no_wrap=True)
    for variant, by_similarity in findings.cross.items():
        table.add_row(variant, *(show_number(by_similarity[name], ".4f") for name in similarities))
    return table


def _diagnosis(findings: GridFindings) -> Table:
    table = _table("Norms on the validation split, means over trainings")
    table.add_column("variant", no_wrap=True)
    for heading in ("Cohen's d", "CV\nqueries", "CV\ndocs", "log κ\nqnorm", "log κ\ndnorm", "γ\nquery", "γ\ndoc"):
        table.add_column(heading, justify="right", no_wrap=True)
    for variant, found in findings.diagnosis.items():
        learnt = findings.learnt.get(variant, {})
        table.add_row(
            variant,
            show_number(found["cohens_d"], "+.2f"),
            *(show_number(found[name], ".3f") for name in ("query_cv", "document_cv")),
            *(show_number(found[name], ".2f") for name in ("kappa_qnorm", "kappa_dnorm")),
            *(show_number(learnt.get(name), ".3f") for name in ("gamma_query", "gamma_document")),
        )
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
