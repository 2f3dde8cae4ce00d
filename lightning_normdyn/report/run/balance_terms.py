"""The figure of an encoder's balance: heat and drift of every probe item against its norm."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from lightning_normdyn.report.kit.axes import axis_note, level_grid, log_scale
from lightning_normdyn.report.kit.bulk import bulk_frame, bulk_linear_frame, outside, outside_sentence
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.figure import new_axes, to_svg
from lightning_normdyn.report.kit.numbers import Floats, fixed, plain
from lightning_normdyn.report.kit.theme import BLUE, FAINT, GREEN, VERMILION
from lightning_normdyn.report.run.target_record import TargetRecord
from lightning_normdyn.report.run.trajectory import Fit

_CAPTION = (
    "The terms of the last window for every item of the probe, against its norm. Heat V² is the size of its steps as "
    "the unit sphere sees them, drift D the mean push outwards, and λ_rad the rate at which weight decay shortens it: "
    "where long items have more heat or more drift, they owe their length to it."
)


def balance_terms_card(record: TargetRecord) -> Card | None:
    """Heat and drift against the norm; none for a table, whose drift is not measured row by row."""
    fit = record.trajectory.latest_fit("drift")
    if fit is None:
        return None
    decay = f"radial decay λ_rad {fixed(float(np.nanmedian(fit.radial_decay)), 4)} in the median"
    panels = (
        (f"Heat, window that closed at step {fit.step:,}", _heat(record, fit)),
        (f"Drift; {decay}", _drift(record, fit)),
    )
    across = bulk_frame(fit.mean_norm)
    counts = {
        "heat": int(outside(fit.mean_norm, fit.second_moment, across, bulk_frame(fit.second_moment)).sum()),
        "drift": int(outside(fit.mean_norm, fit.drift, across, bulk_linear_frame(fit.drift)).sum()),
    }
    return Card("The terms of the balance", _CAPTION + outside_sentence(counts, record.members), panels)


def _heat(record: TargetRecord, fit: Fit) -> Markup:
    axes = _axes(fit)
    log_scale(axes, "y", *bulk_frame(fit.second_moment))
    axis_note(axes, "heat V²")
    axes.scatter(fit.mean_norm, fit.second_moment, s=12, color=VERMILION, alpha=0.6, linewidths=0, rasterized=True)
    return to_svg(axes, name=f"{record.anchor}-heat", description=_describe("Heat V²", fit, fit.second_moment))


def _drift(record: TargetRecord, fit: Fit) -> Markup:
    axes = _axes(fit)
    axes.set_ylim(*bulk_linear_frame(fit.drift))
    axis_note(axes, "drift D")
    axes.axhline(0.0, color=FAINT, lw=0.8)
    colours = [GREEN if drift > 0 else BLUE for drift in fit.drift]
    axes.scatter(fit.mean_norm, fit.drift, s=12, color=colours, alpha=0.6, linewidths=0, rasterized=True)
    return to_svg(axes, name=f"{record.anchor}-drift", description=_describe("Drift D", fit, fit.drift))


def _axes(fit: Fit) -> Axes:
    axes = new_axes(left=0.16, top=0.90)
    log_scale(axes, "x", *bulk_frame(fit.mean_norm))
    level_grid(axes)
    axes.set_xlabel("norm")
    return axes


def _describe(term: str, fit: Fit, values: Floats) -> str:
    """The term's and the norms' ranges: what the figure spans."""
    items = np.isfinite(fit.mean_norm) & np.isfinite(values)
    if not items.any():
        return f"{term} against norm: no item has both."
    low, middle, high = np.quantile(values[items], (0, 0.5, 1))
    norms = f"norms from {plain(fit.mean_norm[items].min())} to {plain(fit.mean_norm[items].max())}"
    return (
        f"{term} against norm of {items.sum()} items, {norms}: median {plain(middle)}, from {plain(low)} to "
        f"{plain(high)}."
    )
