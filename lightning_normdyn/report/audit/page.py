"""The files of an audit: a page and the same numbers as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup
from torch import Tensor

from lightning_normdyn.atomic_file import write_json
from lightning_normdyn.core.statistics.correlation import Correlation
from lightning_normdyn.core.statistics.risk_coverage import RiskCoverage
from lightning_normdyn.history.origin import Origin
from lightning_normdyn.report.audit.hub_table import hub_entries, hub_sentences, hub_table
from lightning_normdyn.report.audit.item import Item, item_list, shortened
from lightning_normdyn.report.audit.tables import audit_tables, comparison_table
from lightning_normdyn.report.kit.page import NORM_LAW_PAPER, RETRIEVAL_NORM_PAPER, Page, render, write_page
from lightning_normdyn.retrieval.audit import Audit, advice, first_line, json_fields
from lightning_normdyn.retrieval.exponent.model_comparison import ModelComparison

PAGE, NUMBERS = "audit.html", "audit.json"
_PAPERS = Markup(
    f'<p>Norms in retrieval: Feng, Watanabe 2026, <a href="{RETRIEVAL_NORM_PAPER}">arXiv 2602.09229</a>; what trains '
    f'them: Su, Ren, Veitch 2026, <a href="{NORM_LAW_PAPER}">arXiv 2606.30625</a>. Intervals are 95%; gains are those '
    "of queries that had no part in choosing the exponent.</p>"
)


class AuditSubject(NamedTuple):
    """What was audited, as far as it can be shown.

    Attributes:
        name: of the embeddings or the model.
        facts: short statements for the line below the heading.
        notes: what a reader should know about the input: what was left out or taken off.
        items: row to what can be shown of it, for the rows that the audit names.
        command: that made the audit.
        comparison: with an earlier model, if there is one.
        documents: document to what can be shown of it, where documents have several vectors; elsewhere they are items.
    """

    name: str
    facts: Sequence[str]
    notes: Sequence[str]
    items: Mapping[int, Item]
    command: str = ""
    comparison: ModelComparison | None = None
    documents: Mapping[int, Item] | None = None

    @property
    def ranked_items(self) -> Mapping[int, Item]:
        """What can be shown of the documents of rankings."""
        return self.items if self.documents is None else self.documents


def write_audit(folder: Path, audit: Audit, subject: AuditSubject) -> Path:
    """Writes ``audit.html``, self-contained, and ``audit.json`` beside it, each whole or not at all.

    Args:
        folder: where they go; made if it is not there.
        audit: the findings.
        subject: what they are about.

    Returns:
        The page's path.

    Raises:
        DrawingError: if a figure cannot be drawn; ``audit.json`` is written by then.
        OSError: if a file cannot be written.
    """
    write_json(folder / NUMBERS, _numbers(audit, subject), indent=1)
    return write_page(folder / PAGE, _page(audit, subject))


def _numbers(audit: Audit, subject: AuditSubject) -> dict[str, object]:
    findings = audit._asdict()
    norms = findings.pop("norms")
    for name in ("longest", "shortest", "zeros", "near_dead"):
        findings[name] = [_entry(row, float(norms[row]), subject.items) for row in findings[name]]
    if audit.directions is not None:
        findings["directions"] = as_plain(audit.directions) | {"sentence": audit.directions.sentence}
    sentences = {"name": subject.name, "finding": first_line(audit), "advice": advice(audit)}
    if audit.ranking is not None:
        sentences["verdict"] = as_plain(audit.ranking.verdict)
    if subject.comparison is not None:
        sentences["comparison"] = as_plain(subject.comparison) | {"sentence": subject.comparison.sentence}
    numbers = {str(name): as_plain(value) for name, value in findings.items()}
    if audit.ranking is not None:
        hubs = audit.ranking.hubs
        listed = as_plain(hub_entries(hubs, subject.ranked_items))
        sentence = " ".join(hub_sentences(hubs, subject.ranked_items))
        numbers["ranking"]["hubs"] |= {"listed": listed, "sentence": sentence}
    return sentences | {"notes": list(subject.notes)} | numbers


def _entry(row: int, norm: float, items: Mapping[int, Item]) -> dict[str, object]:
    item = items.get(row, Item(f"row {row}"))
    return {"row": row, "id": item.id, "norm": norm} | ({"text": item.text} if item.text else {})


def _page(audit: Audit, subject: AuditSubject) -> Page:
    # Imported where it is drawn: whoever reads records alone needs no matplotlib.
    from lightning_normdyn.report.audit.cards import audit_cards
    from lightning_normdyn.report.kit.card import arrange
    from lightning_normdyn.report.kit.figure import drawing_style

    with drawing_style():
        cards = audit_cards(audit)
    main = render(
        "audit.html.j2",
        advice=advice(audit),
        evidence=[] if audit.ranking is None else audit.ranking.verdict.evidence,
        notes=subject.notes,
        cards=arrange(cards),
        extremes=[
            item_list(title, rows, [float(audit.norms[row]) for row in rows], subject.items)
            for title, rows in (("Longest vectors", audit.longest), ("Shortest vectors", audit.shortest))
            if rows
        ],
        zeros=_listed(audit.zeros, audit.distribution.zeros, subject.items),
        near_dead=_listed(audit.near_dead, audit.distribution.near_dead, subject.items),
        has_texts=any(item.text.strip() for item in subject.items.values()),
        hub_sentences=[] if audit.ranking is None else hub_sentences(audit.ranking.hubs, subject.ranked_items),
        hubs=None if audit.ranking is None else hub_table(audit.ranking.hubs, subject.ranked_items),
        comparison="" if subject.comparison is None else subject.comparison.sentence,
        tables=[*audit_tables(audit), *([] if subject.comparison is None else [comparison_table(subject.comparison)])],
        shortened=shortened,
    )
    return Page(
        title=f"Norm audit: {subject.name}",
        main=main,
        facts=[f"{audit.distribution.rows:,} vectors × {audit.dim} dimensions", *subject.facts],
        lead=first_line(audit),
        sources=_PAPERS,
        origin=Origin(data=subject.name, command=subject.command),
    )


def _listed(rows: Sequence[int], count: int, items: Mapping[int, Item]) -> str:
    """How many there are and the ids of the first."""
    if not rows:
        return ""
    ids = ", ".join(items.get(row, Item(f"row {row}")).id for row in rows)
    return f"{count:,} in all: {ids}{' and more' if count > len(rows) else ''}."


_MOST_POINTS = 200


def as_plain(value: object) -> Any:
    """Turns records into dictionaries, tensors into lists, and what is not finite into ``None``.

    A curve keeps 200 points at most.

    Example:
        >>> from lightning_normdyn.core.statistics.interval import Interval
        >>> as_plain({"gain": Interval(0.1, float("nan"), float("inf"))})
        {'gain': {'value': 0.1, 'low': None, 'high': None}}
    """
    if isinstance(value, RiskCoverage):
        step = -(-len(value.coverage) // _MOST_POINTS)
        # From the whole set backwards, so that the risk at full coverage is among the points.
        value = RiskCoverage(*(column.flip(0)[::step].flip(0) for column in value))
    if isinstance(value, Tensor):
        return as_plain(value.tolist())
    if isinstance(value, Correlation):
        return as_plain(value.numbers())
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: as_plain(entry) for name, entry in json_fields(value).items()}
    if isinstance(value, Mapping):
        return {str(name): as_plain(entry) for name, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
