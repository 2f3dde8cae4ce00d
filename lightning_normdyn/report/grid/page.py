"""The files of a grid's report: a page, a table to paste and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from lightning_normdyn.atomic_file import write_atomically
from lightning_normdyn.history.grid_findings import GridFindings
from lightning_normdyn.report.grid.rows import GridTable, TextTable, grid_tables
from lightning_normdyn.report.kit.page import RETRIEVAL_NORM_PAPER, Page, render, write_page
from lightning_normdyn.report.kit.table import Column, Table

_NARROW = ("floors", "cross")
"""Tables that leave room for another one to the side."""

PAGE, TABLE, FIGURE = "grid.html", "grid.md", "grid.svg"
_SOURCE = Markup(
    f'<p>After Feng, Watanabe 2026, <a href="{RETRIEVAL_NORM_PAPER}">arXiv 2602.09229</a>. Every variant chose its '
    "learning rate and its temperature on the validation split from the same lists, with the first seed; all numbers "
    "but these choices and the norms are of the test split.</p>"
)


def write_grid(folder: Path, findings: GridFindings) -> Path:
    """Writes ``grid.md``, ``grid.svg`` and ``grid.html``, self-contained, each whole or not at all.

    Args:
        folder: where they go.
        findings: what they show.

    Returns:
        The page's path.

    Raises:
        DrawingError: if a figure cannot be drawn; ``grid.md`` is written by then.
        OSError: if a file cannot be written.
    """
    write_atomically(folder / TABLE, grid_markdown(findings).encode("utf-8"))
    # Imported where it is drawn: whoever reads records alone needs no matplotlib.
    from lightning_normdyn.report.grid.cards import describe_scores, grid_cards
    from lightning_normdyn.report.grid.figures import scores_figure
    from lightning_normdyn.report.kit.card import arrange
    from lightning_normdyn.report.kit.figure import drawing_style, sheet, write_figure

    with drawing_style():
        cards = arrange(grid_cards(findings))
        description = f"{describe_scores(findings)} {findings.origin.sentence}"
        figure = scores_figure(findings, note=findings.origin.day_and_data)
        write_figure(folder / FIGURE, sheet(figure), description=description)
    return write_page(folder / PAGE, _page(findings, cards))


def _page(findings: GridFindings, cards: Markup) -> Page:
    prediction, outcome, evidence = findings.symmetry
    main = render(
        "grid.html.j2",
        cards=cards,
        prediction=prediction,
        outcome=outcome,
        evidence=evidence,
        kappa_verdict=findings.kappa_verdict,
        tables=[_table(numbers) for numbers in grid_tables(findings)],
    )
    return Page(
        title=f"{findings.task}: which normalization",
        main=main,
        facts=[f"data: {findings.origin.data}"] if findings.origin.data else [],
        lead=findings.advice,
        notes=findings.notes,
        sources=_SOURCE,
        origin=findings.origin,
    )


def _table(numbers: GridTable) -> Table:
    head, rows = numbers.text()
    columns = [Column(heading) for heading in head]
    style = "" if numbers.name in _NARROW else "wide"
    return Table(f"table-{numbers.name}", numbers.title, columns, rows, note=numbers.note, style=style)


def grid_markdown(findings: GridFindings) -> str:
    """The advice first, then all tables, then what theory had said, and what all of it was made of."""
    prediction, outcome, evidence = findings.symmetry
    paragraphs = [f"# {findings.task}: which normalization", findings.advice]
    for numbers in grid_tables(findings):
        paragraphs.append(f"**{numbers.title}**\n\n{markdown_table(numbers.text())}")
        paragraphs += [numbers.note] if numbers.note else []
    paragraphs.append(
        f"- Symmetry, {prediction}: {outcome} ({evidence}).\n- Fisher condition numbers: {findings.kappa_verdict}."
    )
    return "\n\n".join([*paragraphs, *findings.notes, findings.origin.sentence]) + "\n"


def markdown_table(text: TextTable) -> str:
    r"""One table; numbers to the right.

    Example:
        >>> print(markdown_table(TextTable(("a", "b"), [("x|y", "1")])))
        | a | b |
        | --- | ---: |
        | x\|y | 1 |
    """
    rule = ["---", *["---:"] * (len(text.head) - 1)]
    return "\n".join(f"| {' | '.join(_escaped(row))} |" for row in (text.head, rule, *text.rows))


def _escaped(row: Sequence[str]) -> list[str]:
    return [word.replace("|", "\\|") for word in row]
