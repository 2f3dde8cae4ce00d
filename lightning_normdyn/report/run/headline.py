"""The head of a run's report: what the rules say of it, its numbers in sentences and tables, published ones beside."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from lightning_normdyn.core.dynamics.published_fit import PUBLISHED_FIT
from lightning_normdyn.instruments import QUANTITIES
from lightning_normdyn.instruments.quantities import LITTLE_MOVE
from lightning_normdyn.instruments.verdicts.rules import FEWEST_STEPS
from lightning_normdyn.report.kit.numbers import fixed, percent, plain
from lightning_normdyn.report.kit.page import NORM_LAW_PAPER, render
from lightning_normdyn.report.kit.table import Cell, Column, Table
from lightning_normdyn.report.run.target_record import Series

_PUBLISHED = {"slope": str(PUBLISHED_FIT.slope), "pearson_r": str(PUBLISHED_FIT.pearson_r)}
_SETTLED = 0.5
_FAIR_COVERAGE = 0.8
_RANK = {"critical": 0, "warning": 1}
_CODE = re.compile(r"`([^`]+)`")
_FROM_SUMMARY = {
    "slope": "transient_slope",
    "pearson_r": "transient_pearson_r",
    "median_relative_error": "transient_median_error",
}


class Line(NamedTuple):
    """One line of the table of further numbers: its key, its label, how to read it and how it is written."""

    key: str
    label: str
    reading: str
    write: Callable[[float], str]

    @classmethod
    def of(cls, key: str, write: Callable[[float], str] = plain) -> Line:
        """The line of a logged quantity, in the words of the registry."""
        quantity = QUANTITIES[key]
        return cls(key, quantity.label, quantity.reading, write)


_LINES = (
    Line(
        "log_frequency_correlation",
        "r of norm and word frequency",
        "both as logarithms; words counted over the whole corpus",
        lambda value: fixed(value, 3),
    ),
    Line.of("budget_residual"),
    Line.of("stationarity"),
    Line.of("radial_decay_ratio"),
    Line.of("growth_share"),
    Line.of("drift_share"),
    Line.of("relaxation_steps", lambda value: f"{plain(value)} steps"),
    Line("seconds", "Time", "for the whole run", lambda value: f"{plain(value)} s"),
)


def from_summary(summary: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a demo's summary under the names of the logged quantities."""
    return {_FROM_SUMMARY.get(key, key): float(value) for key, value in summary.items() if _is_finite(value)}


def from_series(series: Mapping[str, Series]) -> dict[str, float]:
    """The last finite value of every logged quantity."""
    return {name: entries.last for name, entries in series.items() if len(entries.steps)}


def headline(numbers: Mapping[str, float], *, name: str = "run") -> Markup:
    """A lead sentence and two tables as HTML; empty where there is nothing to say.

    Args:
        numbers: values by the name of the logged quantity.
        name: put before the ids of the tables, so that it must be unique in the page.
    """
    statements = (_verdict(numbers), _equilibrium(numbers), _transient(numbers), _forecast(numbers))
    tables = [table for table in (_predictions(numbers, name), _further(numbers, name)) if table.rows]
    return render("headline.html.j2", sentences=[sentence for sentence in statements if sentence], tables=tables)


def _verdict(numbers: Mapping[str, float]) -> str:
    """What the rest is worth where the norms are on their way still; silent where no law says where to."""
    error = numbers.get("equilibrium_median_error")
    if error is None or not (numbers["stationarity"] < _SETTLED if "stationarity" in numbers else error > _SETTLED):
        return ""
    far = "The norms are still far from where they would settle"
    if "transient_slope" not in numbers or numbers.get("transient_persistence_error", 0.0) >= LITTLE_MOVE:
        return f"{far}."
    return f"{far}: slope and r of the transient then mostly repeat where they started."


def _equilibrium(numbers: Mapping[str, float]) -> Markup:
    line, error = "", ""
    if {"equilibrium_slope", "equilibrium_pearson_r"} <= numbers.keys():
        slope, r = fixed(numbers["equilibrium_slope"], 2), fixed(numbers["equilibrium_pearson_r"], 3)
        published = f"published for a language model [1]: {PUBLISHED_FIT.slope} and {PUBLISHED_FIT.pearson_r}"
        line = f"with {_fit_name(numbers)}slope <b>{slope}</b>, r <b>{r}</b> ({published})"
    if "equilibrium_median_error" in numbers:
        error = f"<b>{percent(numbers['equilibrium_median_error'])}</b> off in the median"
    statement = ", ".join(phrase for phrase in (line, error) if phrase)
    if not statement:
        return Markup()
    return Markup(f"The equilibrium law predicts the norms {statement}.{_weighting(numbers)}")


def _weighting(numbers: Mapping[str, float]) -> str:
    """What least squares says besides, why that differs, and how many rows keep to their own errors."""
    plain = [numbers.get(f"equilibrium_least_squares_{name}") for name in ("slope", "pearson_r")]
    sentence = ""
    if plain[0] is not None and plain[1] is not None and "equilibrium_slope" in numbers:
        sentence = (
            f" Plain least squares, as published, finds slope {fixed(plain[0], 2)}, r {fixed(plain[1], 3)}: it counts "
            "rare rows, whose norms and predictions chance moves most, like all others, where the fit above weighs "
            "each row by that."
        )
    if "equilibrium_coverage" in numbers and "equilibrium_judged_rows" in numbers:
        inside, rows = percent(numbers["equilibrium_coverage"]), f"{numbers['equilibrium_judged_rows']:,.0f}"
        sentence += f" Of the {rows} rows met often enough to judge, {inside} lie inside their own 90% interval"
        sentence += f"{_expected_coverage(numbers)}."
    return sentence


def _expected_coverage(numbers: Mapping[str, float]) -> str:
    """What coverage is to be expected: norms that trail a falling rate are where it was, not where it is."""
    if numbers["equilibrium_coverage"] >= _FAIR_COVERAGE:
        return " (90% are expected)"
    transient = numbers.get("transient_coverage")
    followed = f"; followed through them, {percent(transient)} do" if transient is not None else ""
    return (
        " (90% are expected of norms that have settled at a constant rate; under rates that fall, or on their way, "
        f"norms trail where the law has them and far fewer are inside, with nothing wrong{followed})"
    )


def _fit_name(numbers: Mapping[str, float], kind: str = "equilibrium") -> str:
    """Which fit a slope is of: weighted where plain least squares stands beside it."""
    return "weighted " if f"{kind}_least_squares_slope" in numbers else "least-squares "


def _transient(numbers: Mapping[str, float]) -> Markup:
    if "transient_median_error" not in numbers:
        return Markup()
    norms = "they" if _equilibrium(numbers) else "the norms"
    error = f"<b>{percent(numbers['transient_median_error'])}</b>"
    against = ""
    if "transient_persistence_error" in numbers:
        against = f", against {percent(numbers['transient_persistence_error'])} for ‘stays as it is’"
    return Markup(
        f"Followed from the norms at the last window’s start, {norms} are predicted to within {error}{against}."
    )


def _forecast(numbers: Mapping[str, float]) -> Markup:
    if not _has_forecast(numbers):
        return Markup()
    return Markup(
        f"The forecast for the end missed the final norms by <b>{percent(numbers['forecast_median_error'])}</b>, "
        f"against {percent(numbers['persistence_median_error'])} for ‘stays as it is’."
    )


def _has_forecast(numbers: Mapping[str, float]) -> bool:
    """Whether the forecast for the end of the run has come due."""
    return {"forecast_median_error", "persistence_median_error"} <= numbers.keys()


def _predictions(numbers: Mapping[str, float], name: str) -> Table:
    rows = [
        _row(numbers, "equilibrium", "Equilibrium law", _PUBLISHED),
        _row(numbers, "transient", "Transient-corrected", _PUBLISHED),
        _row(numbers, "balance", "Corrected for its own change (identity)", {}) if "balance_slope" in numbers else [],
        _row(numbers, "forecast", "Forecast for the end", {}) if _has_forecast(numbers) else [],
    ]
    link = Markup('<a href="{}">[1]</a>').format(NORM_LAW_PAPER)
    return Table(
        f"{name}-predictions",
        Markup("Predicted against observed norm, beside the published {}").format(link),
        (
            Column(""),
            Column(QUANTITIES["transient_slope"].label, "published"),
            Column(QUANTITIES["transient_pearson_r"].label, "published"),
            Column(QUANTITIES["transient_median_error"].label, kind="main"),
            Column(QUANTITIES["transient_persistence_error"].label),
            Column(QUANTITIES["transient_skill"].label),
        ),
        [row for row in rows if row],
        note="Skill: 1 − median error / error of ‘stays as it is’; 1 is perfect, 0 no better.",
        style="laws",
    )


def _row(numbers: Mapping[str, float], kind: str, name: str, references: Mapping[str, str]) -> list[str | Cell]:
    """One way to predict: its fit (published values beneath), its error, and that of ‘stays as it is’."""
    stays = "persistence_median_error" if kind == "forecast" else f"{kind}_persistence_error"
    keys = (f"{kind}_slope", f"{kind}_pearson_r", f"{kind}_median_error", stays, f"{kind}_skill")
    if not numbers.keys() & set(keys):
        return []
    slope, r, error, persistence, skill = (numbers.get(key, float("nan")) for key in keys)
    line_fit = [Cell(_three(value), references.get(key, "")) for key, value in (("slope", slope), ("pearson_r", r))]
    label = Cell(name, f"{_fit_name(numbers, kind)}fit") if f"{kind}_slope" in numbers else name
    return [label, *line_fit, percent(error), percent(persistence), _three(skill)]


def _further(numbers: Mapping[str, float], name: str) -> Table:
    rows = [
        (Cell(line.label, line.reading), line.write(numbers[line.key]))
        for line in (*_LINES, *_window_forecast(numbers))
        if line.key in numbers
    ]
    return Table(f"{name}-numbers", "Further numbers", (Column(""), Column("")), rows)


def _window_forecast(numbers: Mapping[str, float]) -> list[Line]:
    """How forecasts do while the one for the end has not come due; silent once it has."""
    if "forecast_median_error" in numbers:
        return []
    skill = f"; skill {_three(numbers['window_forecast_skill'])}" if "window_forecast_skill" in numbers else ""
    line = Line.of("window_forecast_median_error", percent)
    return [line._replace(reading=line.reading + skill)]


def _three(value: float) -> str:
    return fixed(value, 3)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def verdict_card(verdicts: Sequence[Mapping[str, Any]] | None, *, last_step: int) -> Markup:
    """The card as HTML; empty for a run that was not judged.

    Args:
        verdicts: what stands, as :func:`lightning_normdyn.history.alert_log.read_verdicts` gives it.
        last_step: the latest that was measured: rules say nothing of a shorter run than :data:`FEWEST_STEPS`.
    """
    if verdicts is None:
        return Markup()
    lines = [{**verdict, "lever": _with_code(str(verdict["lever"]))} for verdict in verdicts]
    grave = sorted((line for line in lines if line["severity"] in _RANK), key=lambda line: _RANK[line["severity"]])
    notes = [line for line in lines if line["severity"] not in _RANK]
    return render("verdicts.html.j2", heading=_heading(grave, last_step), verdicts=grave, notes=notes)


def _heading(verdicts: Sequence[Mapping[str, Any]], last_step: int) -> str:
    """How the run stands, in a phrase."""
    counts = {severity: sum(v["severity"] == severity for v in verdicts) for severity in _RANK}
    words = {"critical": ("critical finding", "critical findings"), "warning": ("warning", "warnings")}
    phrases = [f"{count} {words[severity][count > 1]}" for severity, count in counts.items() if count]
    return f"Verdict: {' and '.join(phrases) or no_warnings(last_step)}"


def no_warnings(last_step: int) -> str:
    """What is said of a run that no rule warns of.

    Args:
        last_step: the latest that was measured.

    Example:
        >>> no_warnings(12), no_warnings(1_000)
        ('none, since a run of fewer than 100 steps says too little', 'no warnings')
    """
    is_short = last_step < FEWEST_STEPS
    return f"none, since a run of fewer than {FEWEST_STEPS} steps says too little" if is_short else "no warnings"


def _with_code(text: str) -> Markup:
    """The text with what stands between backticks set as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))
