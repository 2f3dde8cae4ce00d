"""The first card of a run's report: what the rules say of it, and what to set to what."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from lightning_normdyn.report.kit.page import render

_RANK = {"critical": 0, "warning": 1}
_CODE = re.compile(r"`([^`]+)`")


def verdict_card(verdicts: Sequence[Mapping[str, Any]] | None) -> Markup:
    """The card as HTML; empty for a run that was not judged.

    Args:
        verdicts: what stands, as :func:`lightning_normdyn.history.alert_log.read_verdicts` gives it.
    """
    if verdicts is None:
        return Markup()
    lines = [{**verdict, "lever": _with_code(str(verdict["lever"]))} for verdict in verdicts]
    grave = sorted((line for line in lines if line["severity"] in _RANK), key=lambda line: _RANK[line["severity"]])
    notes = [line for line in lines if line["severity"] not in _RANK]
    return render("verdicts.html.j2", heading=_heading(grave), verdicts=grave, notes=notes)


def _heading(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """How the run stands, in a phrase."""
    counts = {severity: sum(v["severity"] == severity for v in verdicts) for severity in _RANK}
    words = {"critical": ("critical finding", "critical findings"), "warning": ("warning", "warnings")}
    phrases = [f"{count} {words[severity][count > 1]}" for severity, count in counts.items() if count]
    return f"Verdict: {' and '.join(phrases)}" if phrases else "Verdict: no rule objects"


def _with_code(text: str) -> Markup:
    """The text with what stands between backticks set as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))
