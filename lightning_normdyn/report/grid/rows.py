"""The tables of a grid, as rows of text that Markdown and HTML share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lightning_normdyn.history.grid_findings import GridFindings
from lightning_normdyn.history.number import show_number

_DYNAMICS = ("norm_mean", "norm_cv", "radial_fraction", "balance_slope", "transient_slope", "forecast_skill")


class TextTable(NamedTuple):
    """A table of finished text.

    Attributes:
        title: what it shows.
        head: of the columns.
        rows: as many words as there are columns; the first names the row.
        note: what its words mean, in sentences.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def grid_tables(findings: GridFindings) -> list[TextTable]:
    """All tables of a grid, in the order of reading; those without rows are left out."""
    tables = [_scores(findings), _floors(findings), _cross(findings), _diagnosis(findings), _dynamics(findings)]
    return [table for table in tables if table.rows]


def _scores(findings: GridFindings) -> TextTable:
    comparison = findings.comparison
    rows = []
    for name, score in comparison.scores.items():
        reference = name == comparison.reference
        gain = (
            "–"
            if reference
            else f"{score.gain:+.4f} ({score.gain_interval.low:+.4f} to {score.gain_interval.high:+.4f})"
        )
        interval = f"{score.mean:.4f} ({score.mean_interval.low:.4f} to {score.mean_interval.high:.4f})"
        rows.append((name, interval, gain, f"{score.share_best:.0%}", f"{findings.lrs[name]:.3g}"))
    head = (
        "variant",
        f"{findings.headline}, 95%",
        "gain on cosine, 95% for all at once",
        "best in draws",
        "learning rate",
    )
    title = f"Trainings: {comparison.seeds} each, test items: {comparison.queries}"
    note = "Best in draws: the share of draws, over items and trainings, in which a variant leads."
    return TextTable(title, head, rows, note)


def _floors(findings: GridFindings) -> TextTable:
    rows = [(name, f"{value:.4f}") for name, value in findings.floors.items()]
    return TextTable("Without training", ("method", findings.headline), rows)


def _cross(findings: GridFindings) -> TextTable:
    similarities = list(next(iter(findings.cross.values())))
    rows = [(name, *(show_number(by[one], ".4f") for one in similarities)) for name, by in findings.cross.items()]
    return TextTable("Trained with one similarity, scored with another", ("trained", *similarities), rows)


def _diagnosis(findings: GridFindings) -> TextTable:
    rows = []
    for name, found in findings.diagnosis.items():
        learnt = findings.learnt.get(name, {})
        numbers = [show_number(found["cohens_d"], "+.2f")]
        numbers += [show_number(found[one], ".3f") for one in ("query_cv", "document_cv")]
        numbers += [show_number(found[one], ".2f") for one in ("kappa_qnorm", "kappa_dnorm")]
        numbers += [show_number(learnt.get(one), ".3f") for one in ("gamma_query", "gamma_document")]
        rows.append((name, *numbers))
    head = ("variant", "Cohen's d", "CV of queries", "CV of documents", "log κ qnorm", "log κ dnorm", "γ q", "γ d")
    note = (
        "log κ: log10 of the Fisher condition number, of which the smaller should train better. There is no Cohen's d "
        "where every document is relevant to some query."
    )
    return TextTable("Norms on the validation split, means over trainings", head, rows, note)


def _dynamics(findings: GridFindings) -> TextTable:
    """Last values of the first training of each variant, of the quantities that most targets have."""
    first = {variant: next(run.dynamics for run in findings.runs if run.variant == variant) for variant in findings.lrs}
    keys = list(dict.fromkeys(key for by in first.values() for key in by if key.rpartition("/")[2] in _DYNAMICS))
    rows = [(key.removeprefix("normdyn/"), *(show_number(by.get(key), ".3g") for by in first.values())) for key in keys]
    return TextTable("Norm dynamics as last logged in the first training", ("quantity", *first), rows)


def grid_markdown(findings: GridFindings) -> str:
    """The advice first, then all tables, then what theory had said."""
    prediction, outcome, evidence = findings.symmetry
    parts = [f"# {findings.task}: which normalization", findings.advice]
    for table in grid_tables(findings):
        parts += [f"**{table.title}**\n\n{markdown_table(table)}", *([table.note] if table.note else [])]
    parts.append(
        f"- Symmetry, {prediction}: {outcome} ({evidence}).\n- Fisher condition numbers: {findings.kappa_verdict}."
    )
    return "\n\n".join([*parts, *findings.notes]) + "\n"


def markdown_table(table: TextTable) -> str:
    r"""One table; numbers to the right.

    Example:
        >>> print(markdown_table(TextTable("", ("a", "b"), [("x|y", "1")])))
        | a | b |
        | --- | ---: |
        | x\|y | 1 |
    """
    rule = ["---", *["---:"] * (len(table.head) - 1)]
    return "\n".join(f"| {' | '.join(_escaped(row))} |" for row in (table.head, rule, *table.rows))


def _escaped(row: Sequence[str]) -> list[str]:
    return [word.replace("|", "\\|") for word in row]
