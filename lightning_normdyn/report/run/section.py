"""The part of the page that is about one target."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from lightning_normdyn.report.kit.card import arrange
from lightning_normdyn.report.kit.numbers import plain
from lightning_normdyn.report.run.budget import budget_card
from lightning_normdyn.report.run.course import course_card
from lightning_normdyn.report.run.headline import from_series, headline
from lightning_normdyn.report.run.prediction import prediction_card
from lightning_normdyn.report.run.radial import radial_card
from lightning_normdyn.report.run.record import TargetRecord
from lightning_normdyn.report.run.terms import terms_card
from lightning_normdyn.report.run.words import words_card

_CARDS = (prediction_card, course_card, terms_card, budget_card, radial_card, words_card)


def section(record: TargetRecord, *, with_headline: bool) -> str:
    """One target as HTML: what it is, its numbers, its figures and every last value.

    Args:
        record: the target.
        with_headline: whether its numbers stand here (they may stand at the head of the page instead).
    """
    cards = [card for card in (make(record) for make in _CARDS) if card is not None]
    body = arrange(cards) if cards else '<p class="note">Nothing was recorded for it yet.</p>'
    numbers = headline(from_series(record.series)) if with_headline else ""
    return (
        f'<section id="{record.anchor}"><h2>{escape(record.name)}</h2><p class="facts">{facts(record)}</p>'
        f"{numbers}{_progress(record)}{body}{_last_values(record)}</section>"
    )


def facts(record: TargetRecord) -> str:
    """What the target is and how it is trained, in one line of HTML."""
    found = record.description
    parts = [_size(found), _text(found, "optimizer")]
    parts += [typographic(_text(found, "law"))] if record.is_table else []
    parts += [f"lr {_amount(found['lr'])} at the start"] if "lr" in found else []
    parts += [f"weight decay {_amount(found['weight_decay'])}"] if "weight_decay" in found else []
    parts.append(_steps(record))
    return escape(" · ".join(part for part in parts if part))


def _size(found: Mapping[str, Any]) -> str:
    rows, dim, tracked = found.get("rows"), found.get("dim"), found.get("tracked_rows")
    size = f"{rows:,} rows × {dim} dimensions" if isinstance(rows, int) and rows and dim else ""
    size = size or (f"vectors of {dim} dimensions" if dim else "")
    return f"{size} ({tracked:,} tracked)" if isinstance(tracked, int) and size and rows and tracked != rows else size


def _steps(record: TargetRecord) -> str:
    if record.last_step in (0, record.end_step):
        return f"{record.last_step:,} steps" if record.last_step else ""
    return f"{record.last_step:,} of {record.end_step:,} steps"


def _text(found: Mapping[str, Any], key: str) -> str:
    return str(found[key]) if found.get(key) else ""


def _amount(value: object) -> str:
    return plain(float(value)) if isinstance(value, (int, float)) else str(value)


def _progress(record: TargetRecord) -> str:
    if not record.is_table or record.trajectory.fits:
        return ""
    return '<p class="note">No fit window has closed yet: predictions appear here after the first one.</p>'


def _last_values(record: TargetRecord) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{plain(series.last)}</td><td>{series.steps[-1]:,}</td></tr>"
        for name, series in record.series.items()
        if len(series.steps)
    )
    if not rows:
        return ""
    head = "<tr><th>quantity</th><th>value</th><th>at step</th></tr>"
    table = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"
    return f"<details><summary>Last value of every logged quantity</summary>{table}</details>"


_SIGNS = (("lambda_rad", "λ"), ("lambda", "λ"), ("beta2", "β₂"), ("sqrt(d)", "√d"), (" - ", " − "))
_RATE = re.compile(r"(?<![A-Za-z])lr(?![A-Za-z])")


def typographic(law: str) -> str:
    """A law with its letters in Greek, and a word on which learning rate it means.

    Args:
        law: as an optimizer's rule spells it.

    Example:
        >>> typographic("R² = lr·d / (2·lambda_rad) · p / (p + 1 - beta2)")
        'R² = lr·d / (2·λ) · p / (p + 1 − β₂) with the effective lr'
        >>> typographic("Adagrad has no known law of the norm")
        'Adagrad has no known law of the norm'
    """
    for spelled, sign in _SIGNS:
        law = law.replace(spelled, sign)
    return f"{law} with the effective lr" if _RATE.search(law) else law
