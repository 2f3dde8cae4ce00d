"""The run in numbers, beside the published ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from html import escape
from typing import Any, NamedTuple

from lightning_normdyn.report.numbers import fixed, percent, plain
from lightning_normdyn.report.series import Series

PAPER = "https://arxiv.org/abs/2606.30625"
_PUBLISHED = {"slope": "0.88", "pearson_r": "0.97", "median_error": "–"}
_FROM_SUMMARY = {
    "slope": "transient_slope",
    "pearson_r": "transient_pearson_r",
    "median_relative_error": "transient_median_error",
}


class Line(NamedTuple):
    """One line of the table of further numbers: its key, its name, how it is written and how to read it."""

    key: str
    name: str
    write: Callable[[float], str]
    how: str


_LINES = (
    Line("log_frequency_correlation", "r of norm and frequency", lambda value: fixed(value, 3), "both as logarithms"),
    Line("budget_residual", "Budget residual", plain, "what the budget leaves unexplained; rounding in a healthy run"),
    Line("stationarity", "Stationarity", plain, "1: the norms have settled; 0: they all still move one way"),
    Line("relaxation_steps", "Relaxation time", lambda value: f"{plain(value)} steps", "to settle at the current rate"),
    Line("seconds", "Time", lambda value: f"{plain(value)} s", "for the whole run"),
)


def from_summary(summary: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a demo's summary under the names of the logged quantities."""
    return {_FROM_SUMMARY.get(key, key): float(value) for key, value in summary.items() if _is_finite(value)}


def from_series(series: Mapping[str, Series]) -> dict[str, float]:
    """The last finite value of every logged quantity."""
    return {name: one.last for name, one in series.items() if len(one.steps)}


def headline(numbers: Mapping[str, float]) -> str:
    """A lead sentence and two tables as HTML; empty where there is nothing to say.

    Args:
        numbers: values by the name of the logged quantity.
    """
    groups = [group for group in (_laws(numbers) + _forecast(numbers), _further(numbers)) if group]
    tables = "".join(f"<div>{group}</div>" for group in groups)
    return _lead(numbers) + (f'<div class="tables">{tables}</div>' if tables else "")


def _lead(numbers: Mapping[str, float]) -> str:
    sentences = []
    if {"transient_slope", "transient_pearson_r"} <= numbers.keys():
        sentences.append(
            f"Observed against predicted norms: log-log slope <b>{fixed(numbers['transient_slope'], 2)}</b>, "
            f"r <b>{fixed(numbers['transient_pearson_r'], 3)}</b> (published: 0.88 and 0.97)."
        )
    if {"forecast_median_error", "persistence_median_error"} <= numbers.keys():
        sentences.append(
            f"The forecast missed the final norms by <b>{percent(numbers['forecast_median_error'])}</b>, against "
            f"{percent(numbers['persistence_median_error'])} for ‘stays as it is’."
        )
    return f'<p class="lead">{" ".join(sentences)}</p>' if sentences else ""


def _laws(numbers: Mapping[str, float]) -> str:
    rows = []
    for key, name, write in (
        ("slope", "Log-log slope", _three),
        ("pearson_r", "Pearson\u00a0r", _three),
        ("median_error", "Median error", percent),
    ):
        transient, equilibrium = (numbers.get(f"{law}_{key}", float("nan")) for law in ("transient", "equilibrium"))
        if f"transient_{key}" in numbers or f"equilibrium_{key}" in numbers:
            rows.append(
                f'<tr><th scope="row">{name}</th><td class="main">{write(transient)}</td><td>{write(equilibrium)}</td>'
                f"<td>{_PUBLISHED[key]}</td></tr>"
            )
    if not rows:
        return ""
    head = '<tr><th></th><th scope="col">transient-corrected</th><th scope="col">equilibrium law</th>'
    head += f'<th scope="col">published <a href="{PAPER}">[1]</a></th></tr>'
    title = "<caption>Predicted against observed norm</caption>"
    return f"<table>{title}<thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _forecast(numbers: Mapping[str, float]) -> str:
    keys = ("forecast_median_error", "persistence_median_error", "forecast_skill")
    if not numbers.keys() & set(keys):
        return ""
    forecast, persistence, skill = (numbers.get(key, float("nan")) for key in keys)
    head = (
        '<tr><th></th><th scope="col">forecast</th><th scope="col">‘stays as it is’</th><th scope="col">skill</th></tr>'
    )
    row = f'<td class="main">{percent(forecast)}</td><td>{percent(persistence)}</td><td>{fixed(skill, 2)}</td>'
    body = f'<tr><th scope="row">Median error</th>{row}</tr>'
    title = "<caption>Forecast of the norms at the end</caption>"
    note = '<p class="how">Skill is 1 − forecast / ‘stays as it is’: 1 is perfect, 0 no better than no forecast.</p>'
    return f"<table>{title}<thead>{head}</thead><tbody>{body}</tbody></table>{note}"


def _further(numbers: Mapping[str, float]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(line.name)}<span class="how">{escape(line.how)}</span></th>'
        f"<td>{escape(line.write(numbers[line.key]))}</td></tr>"
        for line in _LINES
        if line.key in numbers
    )
    return f"<table><caption>Further numbers</caption><tbody>{rows}</tbody></table>" if rows else ""


def _three(value: float) -> str:
    return fixed(value, 3)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
