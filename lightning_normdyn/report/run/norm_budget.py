"""The figure of the norm budget: growth, drift and decay of the squared norm over training."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from markupsafe import Markup

from lightning_normdyn.instruments import QUANTITIES
from lightning_normdyn.report.kit.axes import axis_note, level_grid, step_axis
from lightning_normdyn.report.kit.bulk import bulk_linear_frame
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.figure import new_axes, to_svg
from lightning_normdyn.report.kit.line_label import LineLabel, label_line_ends
from lightning_normdyn.report.kit.numbers import plain, power_of_ten
from lightning_normdyn.report.kit.theme import BLUE, FAINT, GREEN, INK, VERMILION
from lightning_normdyn.report.run.target_record import Series, TargetRecord

_COLOURS = {"budget_growth": VERMILION, "budget_drift": GREEN, "budget_decay": BLUE}
_CAPTION = (
    "What one step adds to the squared norm, as a share of it: decay pulls in, growth (the step's own squared length) "
    "pushes out, and drift is the step's part along the vector: the loss's own pull and, under momentum or Adam, "
    "earlier steps carried on. In a settled run decay, drift and growth sum to zero."
)
_POINTS = 360


def budget_card(record: TargetRecord) -> Card | None:
    """Decay, drift, growth and their total, as far as they were logged."""
    terms = {key: record.values(key) for key in _COLOURS if len(record.values(key).steps)}
    if not terms:
        return None
    # The total is drawn first and widest, so that a term that makes up all of it still shows on top.
    curves = {"total": (total(list(terms.values())), INK, 3.0)} if len(terms) > 1 else {}
    curves |= {QUANTITIES[key].label: (series, _COLOURS[key], 1.5) for key, series in terms.items()}
    smooth = {name: series.thinned(_POINTS).smoothed() for name, (series, _, _) in curves.items()}
    limits = bulk_linear_frame(*(series.values for series in smooth.values()))
    caption = _CAPTION + spikes({name: series for name, (series, *_) in curves.items()}, limits)
    return Card("The budget of the squared norm", caption, (("", _draw(record, curves, smooth, limits)),))


def total(terms: list[Series]) -> Series:
    """Sum of the terms at the steps at which every one of them was logged."""
    steps = terms[0].steps
    for term in terms[1:]:
        steps = np.intersect1d(steps, term.steps)
    return Series(steps, sum((term.values[np.isin(term.steps, steps)] for term in terms), np.zeros(len(steps))))


def spikes(curves: Mapping[str, Series], limits: tuple[float, float]) -> str:
    """Says which readings lie far outside of the axis, with a blank before it; empty where none does.

    Args:
        curves: all readings, by name; those beyond the bulk of all of them are far.
        limits: of the vertical side.

    Example:
        >>> growth = Series(np.arange(40), np.append(np.full(39, 0.1), 250.0))
        >>> spikes({"growth": growth}, (0.0, 1.0))
        ' The axis shows the bulk: outside of it lies growth in 1 of 40 readings, as far as 250 at step 39.'
    """
    bulk = bulk_linear_frame(*(series.values for series in curves.values()))
    low, high = min(limits[0], bulk[0]), max(limits[1], bulk[1])
    clauses = []
    for name, (steps, values) in curves.items():
        is_outside = (values < low) | (values > high)
        if is_outside.any():
            farthest = int(np.argmax(np.abs(values) * is_outside))
            share = f"{is_outside.sum():,} of {len(values):,} readings"
            clauses.append(f"{name} in {share}, as far as {plain(values[farthest])} at step {steps[farthest]:,}")
    verb = "lies" if len(clauses) == 1 else "lie"
    return f" The axis shows the bulk: outside of it {verb} {'; '.join(clauses)}." if clauses else ""


def _draw(
    record: TargetRecord,
    curves: dict[str, tuple[Series, str, float]],
    smooth: dict[str, Series],
    limits: tuple[float, float],
) -> Markup:
    axes = new_axes(left=0.085, right=0.83, top=0.90)
    low, high = limits
    exponent = math.floor(math.log10(max(abs(low), abs(high))))
    axes.yaxis.set_major_formatter(lambda value, _: plain(value / 10.0**exponent, 2))
    step_axis(axes, record.end_step)
    axes.set_ylim(low, high)
    level_grid(axes)
    axis_note(axes, f"change of the squared norm per step, in {power_of_ten(exponent)} of it")
    axes.axhline(0.0, color=FAINT, lw=0.8)
    for name, (series, colour, width) in curves.items():
        raw = series.thinned(_POINTS)
        axes.plot(raw.steps, raw.values, color=colour, lw=0.6, alpha=0.3)
        marker = "o" if len(raw.steps) == 1 else None
        axes.plot(smooth[name].steps, smooth[name].values, color=colour, lw=width, marker=marker)
    label_line_ends(axes, [LineLabel(smooth[name].last, name, colour) for name, (_, colour, _) in curves.items()])
    last = ", ".join(f"{name} {plain(series.last)}" for name, series in smooth.items())
    return to_svg(
        axes,
        name=f"{record.anchor}-budget",
        description=f"Budget of the squared norm per step, to step {record.last_step:,}; at the end: {last}.",
    )
