"""The files of a grid's report."""

from __future__ import annotations

from html import escape
from pathlib import Path

from lightning_normdyn.history.grid_findings import GridFindings
from lightning_normdyn.report.grid.figures import cross_figure, norms_figure, scores_figure
from lightning_normdyn.report.grid.rows import TextTable, grid_markdown, grid_tables
from lightning_normdyn.report.kit.canvas import drawing_style, to_svg
from lightning_normdyn.report.kit.card import Card, arrange
from lightning_normdyn.report.kit.document import document

PAGE, TABLE, FIGURE = "grid.html", "grid.md", "grid.svg"
_PAPER = "https://arxiv.org/abs/2602.09229"
_SCORES = (
    "Points are means over queries and trainings, lines their 95% intervals, small points single trainings; a tick is "
    "what needs no training. The line upright is cosine."
)
_CROSS = (
    "A row is one training, scored four ways. A query's own norm never changes its ranking, so cosine scores like "
    "dnorm and dot like qnorm wherever each query is ranked for itself."
)
_NORMS = (
    "Above 1, documents that some query wants are longer than the rest; a line that leaves 1 where norms are kept and "
    "stays where they are thrown away says that the loss writes relevance into length."
)


def write_grid(folder: Path, findings: GridFindings) -> Path:
    """Writes ``grid.html``, self-contained, and beside it ``grid.md`` and ``grid.svg``.

    Args:
        folder: where they go.
        findings: what they show.

    Returns:
        The page's path.

    Raises:
        OSError: if a file cannot be written.
    """
    with drawing_style():
        figure = scores_figure(findings)
        sheet = figure.get_figure(root=True)
        assert sheet is not None
        sheet.savefig(folder / FIGURE, format="svg", facecolor="white", metadata={"Date": None})
        cards = _cards(findings)
    (folder / TABLE).write_text(grid_markdown(findings), encoding="utf-8")
    page = folder / PAGE
    page.write_text(_page(findings, cards), encoding="utf-8")
    return page


def _cards(findings: GridFindings) -> list[Card]:
    headline = findings.headline
    scores = to_svg(scores_figure(findings), name="scores", description=f"{headline} of every variant with intervals")
    cross = to_svg(cross_figure(findings), name="cross", description=f"{headline} by training and scoring similarity")
    cards = [
        Card("How good each variant is", _SCORES, (("", scores),)),
        Card("Trained with one, scored with another", _CROSS, (("", cross),)),
    ]
    norms = norms_figure(findings)
    if norms is not None:
        drawn = to_svg(norms, name="norms", description="Norms of relevant over irrelevant documents while training")
        cards.append(Card("Does relevance get into the length?", _NORMS, (("", drawn),)))
    return cards


def _page(findings: GridFindings, cards: list[Card]) -> str:
    prediction, outcome, evidence = findings.symmetry
    theory = (
        f"<h2>What theory had said</h2><p>Symmetry, {escape(prediction)}: <strong>{escape(outcome)}</strong> "
        f"({escape(evidence)}).</p><p>Fisher condition numbers: {escape(findings.kappa_verdict)}.</p>"
    )
    first, *others = (f"<div>{_table(table)}</div>" for table in grid_tables(findings))
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in findings.notes)
    return document(
        f"{findings.task}: which normalization",
        header=f'<p class="lead">{escape(findings.advice)}</p>{notes}',
        main=f"{arrange(cards)}{theory}<h2>Numbers</h2>{_columns([first])}{_columns(others)}",
        footer=f'<p>After Feng, Watanabe 2026, <a href="{_PAPER}">arXiv 2602.09229</a>. Every variant chose its '
        "learning rate on the validation split from the same list, with the first seed; all numbers but the norms are "
        "of the test split.</p>",
    )


def _columns(tables: list[str]) -> str:
    return f'<div class="tables">{"".join(tables)}</div>'


def _table(table: TextTable) -> str:
    head = "".join(f"<th>{escape(word)}</th>" for word in table.head)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(word)}</td>' for word in row)}</tr>" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    caption = f"<caption>{escape(table.title)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{note}"
