"""The page around the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lightning_normdyn.report.document import document
from lightning_normdyn.report.headline import PAPER, from_summary, headline
from lightning_normdyn.report.record import TargetRecord
from lightning_normdyn.report.section import section

_SOURCE = f"""<p>[1] Su, Ren, Veitch 2026, <a href="{PAPER}">arXiv 2606.30625</a>, Fig. 3a: log-log slope 0.88,
r 0.97 over a vocabulary, from the full balance equation. Every fit here is of log observed on log predicted norm,
over the points drawn; errors are |predicted − observed| / observed.</p>"""


def page(run: str, records: Sequence[TargetRecord], summary: Mapping[str, Any] | None) -> str:
    """The whole report as one HTML document.

    Args:
        run: the run's name.
        records: its targets.
        summary: headline numbers of a demo, or None to show each target's own.
    """
    head = headline(from_summary(summary)) if summary else ""
    sections = "".join(section(record, with_headline=not summary) for record in records)
    return document(
        f"Norm report: {run}",
        header=f"{_run_facts(summary or {})}{head}{_contents(records)}",
        main=sections,
        footer=f"{_SOURCE}{_maker(records)}",
    )


def _run_facts(summary: Mapping[str, Any]) -> str:
    parts = [str(summary["optimizer"])] if summary.get("optimizer") else []
    if isinstance(summary.get("steps"), int):
        parts.append(f"{summary['steps']:,} steps")
    versions = summary.get("versions")
    if isinstance(versions, Mapping):
        parts += [f"{name} {version}" for name, version in versions.items()]
    elif versions:
        parts.append(str(versions))
    return f'<p class="facts">{escape(" · ".join(parts))}</p>' if parts else ""


def _contents(records: Sequence[TargetRecord]) -> str:
    if len(records) < 2:
        return ""
    items = "".join(f'<li><a href="#{record.anchor}">{escape(record.name)}</a></li>' for record in records)
    return f'<nav aria-label="Targets"><ul>{items}</ul></nav>'


def _maker(records: Sequence[TargetRecord]) -> str:
    versions = sorted({str(record.description["version"]) for record in records if "version" in record.description})
    return f"<p>Recorded by lightning_normdyn {escape(', '.join(versions))}.</p>" if versions else ""
