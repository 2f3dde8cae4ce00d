"""A grid's findings as Markdown, to be pasted."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_normdyn.history.grid_findings import GridFindings
from lightning_normdyn.report.grid.rows import TextTable, grid_tables


def grid_markdown(findings: GridFindings) -> str:
    """The advice first, then all tables, then what theory had said."""
    prediction, outcome, evidence = findings.symmetry
    paragraphs = [f"# {findings.task}: which normalization", findings.advice]
    for table in grid_tables(findings):
        paragraphs.append(f"**{table.title}**\n\n{markdown_table(table.text())}")
        paragraphs += [table.note] if table.note else []
    paragraphs.append(
        f"- Symmetry, {prediction}: {outcome} ({evidence}).\n- Fisher condition numbers: {findings.kappa_verdict}."
    )
    return "\n\n".join([*paragraphs, *findings.notes]) + "\n"


def markdown_table(table: TextTable) -> str:
    r"""One table; numbers to the right.

    Example:
        >>> print(markdown_table(TextTable(("a", "b"), [("x|y", "1")])))
        | a | b |
        | --- | ---: |
        | x\|y | 1 |
    """
    rule = ["---", *["---:"] * (len(table.head) - 1)]
    return "\n".join(f"| {' | '.join(_escaped(row))} |" for row in (table.head, rule, *table.rows))


def _escaped(row: Sequence[str]) -> list[str]:
    return [word.replace("|", "\\|") for word in row]
