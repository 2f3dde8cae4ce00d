"""The section of a run's report about one target: what it is, its numbers, its figures, every last value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from lightning_normdyn.instruments import QUANTITIES
from lightning_normdyn.report.kit.card import arrange
from lightning_normdyn.report.kit.numbers import plain
from lightning_normdyn.report.kit.page import render
from lightning_normdyn.report.kit.table import Cell, Table, table
from lightning_normdyn.report.run.balance_terms import balance_terms_card
from lightning_normdyn.report.run.headline import from_series, headline
from lightning_normdyn.report.run.norm_against_frequency import frequency_card
from lightning_normdyn.report.run.norm_budget import budget_card
from lightning_normdyn.report.run.norms_over_time import norms_card
from lightning_normdyn.report.run.predicted_against_observed import predictions_card
from lightning_normdyn.report.run.radial_share import radial_card
from lightning_normdyn.report.run.target_record import TargetRecord

_CARDS = (predictions_card, norms_card, balance_terms_card, budget_card, radial_card, frequency_card)


def section(record: TargetRecord, *, with_headline: bool) -> Markup:
    """One target as HTML.

    Args:
        record: the target.
        with_headline: whether its numbers stand here (they may stand at the head of the page instead).
    """
    cards = [card for card in (make(record) for make in _CARDS) if card is not None]
    return render(
        "target.html.j2",
        record=record,
        facts=facts(record),
        headline=headline(from_series(record.series), name=record.anchor) if with_headline else "",
        awaits_fit=record.is_table and not record.trajectory.fits,
        cards=arrange(cards) if cards else "",
        last_values=_last_values(record),
    )


def facts(record: TargetRecord) -> str:
    """What the target is and how it is trained, in one line."""
    description = record.description
    statements = [_size(description), _text(description, "optimizer")]
    statements += [typographic(_text(description, "law"))] if record.is_table else []
    statements.append(_learning_rate(description))
    statements += [f"weight decay {_amount(description['weight_decay'])}"] if "weight_decay" in description else []
    statements.append(_steps(record))
    return " · ".join(statement for statement in statements if statement)


def _learning_rate(description: Mapping[str, Any]) -> str:
    """The rate at the start, and where a schedule begins below it, as in a warm-up, the optimizer's own."""
    if "lr" not in description:
        return ""
    start = f"{_amount(description['lr'])} at the start"
    return f"lr {_amount(description['base_lr'])}, {start}" if "base_lr" in description else f"lr {start}"


def _size(description: Mapping[str, Any]) -> str:
    rows, dim, tracked_rows = (description.get(key) for key in ("rows", "dim", "tracked_rows"))
    size = f"{rows:,} rows × {dim} dimensions" if isinstance(rows, int) and rows and dim else ""
    size = size or (f"vectors of {dim} dimensions" if dim else "")
    return (
        f"{size} ({tracked_rows:,} tracked)"
        if isinstance(tracked_rows, int) and size and rows and tracked_rows != rows
        else size
    )


def _steps(record: TargetRecord) -> str:
    if record.last_step in (0, record.end_step):
        return f"{record.last_step:,} steps" if record.last_step else ""
    return f"{record.last_step:,} of {record.end_step:,} steps"


def _text(description: Mapping[str, Any], key: str) -> str:
    return str(description[key]) if description.get(key) else ""


def _amount(value: object) -> str:
    return plain(float(value)) if isinstance(value, (int, float)) else str(value)


def _last_values(record: TargetRecord) -> Table | None:
    rows = [
        (Cell(name, _reading(name)), plain(series.last), f"{series.steps[-1]:,}")
        for name, series in record.series.items()
        if len(series.steps)
    ]
    return table(f"{record.anchor}-last", "Last values", ("quantity", "value", "at step"), rows) if rows else None


def _reading(name: str) -> str:
    """What a logged quantity is; silent of a user's own."""
    return QUANTITIES[name].reading if name in QUANTITIES else ""


_SIGNS = (("lambda_rad", "λ"), ("lambda", "λ"), ("beta2", "β₂"), ("sqrt(d)", "√d"), (" - ", " − "))
_RATE = re.compile(r"(?<![A-Za-z])lr(?![A-Za-z])")


def typographic(law: str) -> str:
    """A law with its letters as the docs have them: Greek, and ``e`` for the learning rate after momentum.

    Args:
        law: as an optimizer's rule spells it.

    Example:
        >>> typographic("R² = lr·d / (2·lambda_rad) · p / (p + 1 - beta2)")
        'R² = e·d / (2·λ) · p / (p + 1 − β₂), e the lr after momentum'
        >>> typographic("Adagrad has no known law of the norm")
        'Adagrad has no known law of the norm'
    """
    for spelling, sign in _SIGNS:
        law = law.replace(spelling, sign)
    return f"{_RATE.sub('e', law)}, e the lr after momentum" if _RATE.search(law) else law
