"""The findings of a grid on a terminal of 80 columns."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from lightning_normdyn.history.grid_findings import GridFindings
from lightning_normdyn.report.grid.rows import GridTable, grid_tables

_OUT_OF_DOMAIN = "also-"
_PRINTED = ("scores", "choices", "parts", "cross", "diagnosis")


def print_findings(console: Console, findings: GridFindings) -> None:
    """Prints the tables, what theory had said, and the advice."""
    for table in grid_tables(findings):
        if table.name in _PRINTED or table.name.startswith(_OUT_OF_DOMAIN):
            console.print(_draw(table), soft_wrap=False)
    for name, value in findings.floors.items():
        console.print(f"{findings.headline} of {name}: {value:.4f}")
    prediction, outcome, evidence = findings.symmetry
    console.print(f"Symmetry, {prediction}: {outcome} ({evidence}).")
    console.print(f"Fisher condition numbers: {findings.kappa_verdict}.")
    for note in findings.notes:
        console.print(note)
    console.print(findings.advice)


def _draw(numbers: GridTable) -> Table:
    table = Table(title=numbers.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    (name, *headings), rows = numbers.short_text()
    table.add_column(name, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
