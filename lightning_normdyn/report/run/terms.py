"""The terms of an encoder's balance, item by item."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from lightning_normdyn.report.kit.canvas import BLUE, FAINT, GREEN, VERMILION, new_axes, to_svg
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.frame import linear_frame, positive_frame
from lightning_normdyn.report.kit.numbers import fixed
from lightning_normdyn.report.kit.scale import axis_note, level_grid, log_scale
from lightning_normdyn.report.run.record import TargetRecord
from lightning_normdyn.report.run.trajectory import Fit, Floats

_CAPTION = (
    "The terms of the last window for every item of the probe, against its norm. Heat V² is the size of its steps as "
    "the unit sphere sees them, drift D the mean push outwards, and λ_rad the rate at which weight decay shortens it: "
    "where long items have more heat or more drift, they owe their length to it."
)


def terms_card(record: TargetRecord) -> Card | None:
    """Heat and drift against the norm; none for a table, whose drift is not measured row by row."""
    fit = record.trajectory.latest_fit("drift")
    if fit is None:
        return None
    said = f"radial decay λ_rad {fixed(float(np.nanmedian(fit.radial_decay)), 4)} in the median"
    panels = (
        (f"Heat, window that closed at step {fit.step:,}", _heat(record, fit)),
        (f"Drift; {said}", _drift(record, fit)),
    )
    return Card("The terms of the balance", _CAPTION, panels)


def _heat(record: TargetRecord, fit: Fit) -> str:
    axes = _axes(fit)
    log_scale(axes, "y", *positive_frame(fit.second_moment))
    axis_note(axes, "heat V²")
    axes.scatter(fit.mean_norm, fit.second_moment, s=12, color=VERMILION, alpha=0.6, linewidths=0, rasterized=True)
    return to_svg(axes, name=f"{record.anchor}-heat", description=f"Heat against norm of {_count(fit)} items.")


def _drift(record: TargetRecord, fit: Fit) -> str:
    axes = _axes(fit)
    axes.set_ylim(*linear_frame(_finite(fit.drift)))
    axis_note(axes, "drift D")
    axes.axhline(0.0, color=FAINT, lw=0.8)
    colours = [GREEN if drift > 0 else BLUE for drift in fit.drift]
    axes.scatter(fit.mean_norm, fit.drift, s=12, color=colours, alpha=0.6, linewidths=0, rasterized=True)
    return to_svg(axes, name=f"{record.anchor}-drift", description=f"Drift against norm of {_count(fit)} items.")


def _axes(fit: Fit) -> Axes:
    axes = new_axes(left=0.16, top=0.90)
    log_scale(axes, "x", *positive_frame(fit.mean_norm))
    level_grid(axes)
    axes.set_xlabel("norm")
    return axes


def _finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]


def _count(fit: Fit) -> int:
    return int(np.isfinite(fit.mean_norm).sum())
