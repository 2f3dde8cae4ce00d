"""The files of an audit: a page and the same as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lightning_normdyn.core.statistics.correlation import Correlation
from lightning_normdyn.core.statistics.interval import Interval
from lightning_normdyn.core.statistics.risk_coverage import RiskCoverage
from lightning_normdyn.history.json_file import write_json
from lightning_normdyn.report.audit.figures import (
    SHOWN_GROUPS,
    confidence_figure,
    correlations_figure,
    groups_figure,
    norms_figure,
    sweep_figure,
)
from lightning_normdyn.report.audit.item import Item, item_list
from lightning_normdyn.report.kit.canvas import drawing_style, to_svg
from lightning_normdyn.report.kit.card import Card, arrange
from lightning_normdyn.report.kit.document import document
from lightning_normdyn.report.kit.numbers import fixed, plain
from lightning_normdyn.retrieval.audit import Audit, advice, first_line

PAGE, NUMBERS = "audit.html", "audit.json"
_PAPERS = (
    '<p>Norms in retrieval: Feng, Watanabe 2026, <a href="https://arxiv.org/abs/2602.09229">arXiv 2602.09229</a>; what '
    'trains them: Su, Ren, Veitch 2026, <a href="https://arxiv.org/abs/2606.30625">arXiv 2606.30625</a>. Intervals are '
    "95%; gains are those of queries that had no part in choosing the exponent.</p>"
)
_STYLE = """<style>
.items { margin: 0; padding: 0; list-style: none; }
.items li { display: flex; gap: 12px; padding: 9px 0; border-top: 1px solid var(--rule); }
.items p { margin: 2px 0 0; font-size: 0.93rem; line-height: 1.42; }
.items .id { color: var(--faint); font-size: 0.85rem; overflow-wrap: anywhere; }
.items .norm { float: right; padding-left: 12px; font-weight: 650; }
.items li > div { min-width: 0; flex: 1; }
.items.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 12px; }
.items.pictures li { display: block; border: 0; padding: 0; }
.items.pictures .norm { float: none; display: block; padding: 0; font-size: 0.92rem; }
.items.pictures img { display: block; width: 100%; height: 112px; object-fit: contain; background: #fff;
  border: 1px solid var(--rule); border-radius: 6px; }
.side { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 22px 40px; margin-top: 18px; }
h2 + .grid { margin-top: 16px; }
.tables td { white-space: normal; }
@media (max-width: 700px) { .side { grid-template-columns: minmax(0, 1fr); } }
</style>"""


class AuditSubject(NamedTuple):
    """What was audited, as far as it can be shown.

    Attributes:
        name: of the embeddings or the model.
        facts: short statements for the line below the heading.
        notes: what a reader should know about the input: what was left out or taken off.
        items: row to what can be shown of it, for the rows that the audit names.
    """

    name: str
    facts: Sequence[str]
    notes: Sequence[str]
    items: Mapping[int, Item]


def write_audit(folder: Path, audit: Audit, subject: AuditSubject) -> Path:
    """Writes ``audit.html``, self-contained, and ``audit.json`` beside it, each whole or not at all.

    Args:
        folder: where they go; made if it is not there.
        audit: the findings.
        subject: what they are about.

    Returns:
        The page's path.

    Raises:
        OSError: if a file cannot be written.
    """
    with drawing_style():
        page = _page(audit, subject)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / NUMBERS, _numbers(audit, subject), indent=1)
    unfinished = folder / f"{PAGE}.tmp"
    unfinished.write_text(page, encoding="utf-8")
    return unfinished.replace(folder / PAGE)


def _numbers(audit: Audit, subject: AuditSubject) -> dict[str, object]:
    found = audit._asdict()
    norms = found.pop("norms")
    for name in ("longest", "shortest", "zeros"):
        found[name] = [_listed(row, float(norms[row]), subject.items) for row in found[name]]
    told = {"name": subject.name, "finding": first_line(audit), "advice": advice(audit), "notes": list(subject.notes)}
    return told | {str(name): as_plain(one) for name, one in found.items()}


def _listed(row: int, norm: float, items: Mapping[int, Item]) -> dict[str, object]:
    item = items.get(row, Item(f"row {row}"))
    return {"row": row, "id": item.id, "norm": norm} | ({"text": item.text} if item.text else {})


def _page(audit: Audit, subject: AuditSubject) -> str:
    size = f"{audit.distribution.rows:,} vectors × {audit.dim} dimensions"
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in subject.notes)
    return document(
        f"Norm audit: {subject.name}",
        header=f'<p class="facts">{escape(" · ".join([size, *subject.facts]))}</p>'
        f'<p class="lead">{escape(first_line(audit))}</p>',
        main=f"{_STYLE}<h2>What to do</h2><p>{escape(advice(audit))}</p>{notes}"
        f"<h2>What norms show</h2>{arrange(_cards(audit))}{_extremes(audit, subject)}{_tables(audit)}",
        footer=_PAPERS,
    )


def _cards(audit: Audit) -> list[Card]:
    drawn = to_svg(norms_figure(audit), name="norms", description="Histogram of norms")
    cards = [Card("How long the vectors are", audit.saturation.sentence, (("", drawn),))]
    ranking = audit.ranking
    if ranking is not None:
        drawn = to_svg(sweep_figure(ranking), name="sweep", description=ranking.sentence)
        cards.append(Card("What an exponent of the norm gains", ranking.sentence, (("", drawn),)))
        if ranking.confidence is not None:
            drawn = to_svg(confidence_figure(ranking), name="confidence", description="Risk by coverage")
            caption = (
                "Lower is better: how bad rankings are on average if only the surest queries are answered. A norm that "
                "stays below the similarity is the better confidence; of long and short, the better one is drawn."
            )
            cards.append(Card("Norm as confidence", caption, (("", drawn),)))
    along = _along(audit)
    return cards if along is None else [*cards, along]


def _along(audit: Audit) -> Card | None:
    """Forests of covariates and of groups, side by side where there are both."""
    panels, captions, held = [], [], "length" in audit.correlations
    if any(math.isfinite(one.r) for one in audit.correlations.values()):
        drawn = to_svg(correlations_figure(audit), name="correlations", description="Correlations of norms")
        panels.append(("Covariates, Spearman", drawn))
        captions.append("Points are Spearman correlations, lines their 95% intervals.")
    if any(math.isfinite(one.effect.value) for one in audit.groups):
        drawn = to_svg(groups_figure(audit.groups), name="groups", description="Norms of groups")
        of = len(audit.groups)
        panels.append(("Groups, each beside all others", drawn))
        held = held or audit.groups[0].beyond_length is not None
        captions.append(
            "Of groups, Cohen's d: from 0.2 in size a difference counts, from 0.8 it is large; intervals hold for all "
            f"{of} groups at once{f', of which {SHOWN_GROUPS} are shown' if of > SHOWN_GROUPS else ''}."
        )
    if not panels:
        return None
    captions += ["Orange: the same with length held fixed."] if held else []
    return Card("What norms go along with", " ".join(captions), tuple(panels))


def _extremes(audit: Audit, subject: AuditSubject) -> str:
    lists = "".join(
        item_list(title, rows, [float(audit.norms[row]) for row in rows], subject.items)
        for title, rows in (("Longest vectors", audit.longest), ("Shortest vectors", audit.shortest))
        if rows
    )
    told = (
        "Candidates for generic entries and outliers: what has an extreme norm is worth reading before it is ranked by "
        "one."
    )
    shown = f'<h2>Longest and shortest</h2><p class="note">{told}</p><div class="side">{lists}</div>' if lists else ""
    if audit.zeros:
        named = ", ".join(subject.items.get(row, Item(f"row {row}")).id for row in audit.zeros)
        more = " and more" if audit.distribution.zeros > len(audit.zeros) else ""
        shown += f"<h2>Zero vectors</h2><p>{audit.distribution.zeros:,} in all: {escape(named)}{more}.</p>"
    return shown


def _tables(audit: Audit) -> str:
    quantiles = [(_level(level), plain(value, 4)) for level, value in audit.distribution.quantiles.items()]
    quantiles += [("mean", plain(audit.distribution.mean, 4)), ("deviation / mean", plain(audit.distribution.cv))]
    tables = [_table("Norms", ("", "norm"), quantiles)]
    if audit.correlations:
        held = "length" in audit.correlations
        rows = [
            (name, _interval(one.interval))
            + ((fixed(one.partial_r, 2) if name != "length" else "–",) if held else ())
            + (f"{one.n:,}",)
            for name, one in audit.correlations.items()
        ]
        head = ("", "Spearman, 95%", *(("length fixed",) if held else ()), "items")
        tables.append(_table("Correlation of norms", head, rows))
    if audit.groups:
        rows = [
            (f"{one.column}: {one.group}", f"{one.items:,}", plain(one.mean), _interval(one.effect))
            for one in audit.groups[:SHOWN_GROUPS]
        ]
        tables.append(_table("Groups", ("", "items", "mean norm", "Cohen's d"), rows))
    if audit.ranking is not None:
        tables += _ranking_tables(audit)
    return f'<h2>Numbers</h2><div class="tables">{"".join(f"<div>{table}</div>" for table in tables)}</div>'


def _ranking_tables(audit: Audit) -> list[str]:
    ranking = audit.ranking
    assert ranking is not None
    gains = {"norm": ranking.calibration}
    if ranking.confounds is not None:
        gains |= {"norm without length": ranking.confounds.residual, "length alone": ranking.confounds.length}
    rows = [
        (
            name,
            f"{fixed(one.alpha, 2)} ({fixed(one.alpha_low, 2)} to {fixed(one.alpha_high, 2)})",
            f"{fixed(one.gain, 4)} ({fixed(one.gain_low, 4)} to {fixed(one.gain_high, 4)})",
            plain(one.p_value, 2),
        )
        for name, one in gains.items()
    ]
    measure = ranking.calibration.measure
    judged = (
        f"{ranking.judged:,} of {ranking.queries:,} queries judged; cosine {fixed(ranking.calibration.baseline, 4)}"
    )
    tables = [_table(f"{measure}: {judged}", ("by", "best exponent", "held-out gain", "p"), rows)]
    if ranking.confidence is not None:
        listed = [
            (name.replace("_", " "), _interval(one.aurc), _interval(one.over_baseline))
            for name, one in ranking.confidence.items()
        ]
        tables.append(_table("Confidence", ("", "AURC, less is better", "better than similarity by"), listed))
    return tables


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    names = "".join(f"<th>{escape(word)}</th>" for word in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(word)}</td>' for word in row)}</tr>" for row in rows)
    return f"<table><caption>{escape(title)}</caption><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


def _interval(one: Interval) -> str:
    return f"{fixed(one.value, 2)} ({fixed(one.low, 2)} to {fixed(one.high, 2)})"


def _level(level: float) -> str:
    return {0.0: "smallest", 0.5: "median", 1.0: "largest"}.get(level, f"{level:.0%}")


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
        return {name: as_plain(one) for name, one in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(name): as_plain(one) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
