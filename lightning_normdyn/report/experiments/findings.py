"""Findings as a table: what was expected, what was measured."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from lightning_normdyn.history.experiment import Finding
from lightning_normdyn.report.numbers import plain

_NONE = "–"


def findings_table(findings: Iterable[Finding]) -> str:
    """One row per finding, as HTML.

    Args:
        findings: what an experiment measured.
    """
    rows = "".join(
        f'<tr><th scope="row">{escape(found.quantity)}<span class="how">{escape(found.source)}</span></th>'
        f'<td>{_number(found.expected)}</td><td class="main">{_number(found.measured)}</td></tr>'
        for found in findings
    )
    head = '<tr><td></td><th scope="col">published or expected</th><th scope="col">measured</th></tr>'
    return f'<table class="findings"><thead>{head}</thead><tbody>{rows}</tbody></table>'


def _number(value: float | None) -> str:
    return _NONE if value is None else plain(value, 4)
