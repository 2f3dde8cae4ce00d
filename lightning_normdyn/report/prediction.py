"""Predicted against observed norms."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes

from lightning_normdyn.core.fit import LogLogFit, fit_log_log
from lightning_normdyn.report.canvas import FAINT, INK, new_axes, to_svg
from lightning_normdyn.report.card import Card
from lightning_normdyn.report.cloud import draw_cloud
from lightning_normdyn.report.frame import positive_frame
from lightning_normdyn.report.numbers import fixed, percent
from lightning_normdyn.report.record import TargetRecord
from lightning_normdyn.report.scale import log_scale
from lightning_normdyn.report.trajectory import Floats

_CAPTION = (
    "Each point is one row of the table and the dashed line is a perfect prediction: in a healthy run the right-hand "
    "cloud hugs the line (slope and r near 1), while on the left, rows that have not yet settled stand off it."
)


def prediction_card(record: TargetRecord) -> Card | None:
    """Norms of the last fit: the equilibrium law, and the law followed from where the window began."""
    panels = []
    for law, title, observed in (
        ("equilibrium_norm", "Equilibrium law", "mean_norm"),
        ("transient_norm", "Transient-corrected", "norm"),
    ):
        fit = record.trajectory.latest_fit(law)
        if fit is not None:
            name = f"{record.anchor}-{law.partition('_')[0]}"
            svg = _panel(getattr(fit, law), getattr(fit, observed), fit.update_probability, name=name, title=title)
            panels.append((f"{title}, fit at step {fit.step:,}", svg))
    return Card("Predicted against observed norm", _CAPTION, tuple(panels)) if panels else None


def fit_points(predicted: Floats, observed: Floats) -> LogLogFit:
    """The log-log fit of exactly the points that a panel draws."""
    return fit_log_log(torch.from_numpy(predicted), torch.from_numpy(observed))


def _panel(predicted: Floats, observed: Floats, frequency: Floats, *, name: str, title: str) -> str:
    axes = new_axes(left=0.115)
    both = np.isfinite(predicted) & np.isfinite(observed)
    low, high = positive_frame(predicted[both], observed[both])
    log_scale(axes, "x", low, high)
    log_scale(axes, "y", low, high)
    axes.plot([low, high], [low, high], color=FAINT, lw=1.1, ls=(0, (4, 3)), zorder=1)
    draw_cloud(axes, predicted, observed, frequency)
    fit = fit_points(predicted, observed)
    _write_fit(axes, fit)
    axes.set(xlabel="predicted norm", ylabel="observed norm")
    description = (
        f"{title}: observed against predicted norm of {fit.n:,} rows, log-log; slope {fixed(fit.slope, 3)}, "
        f"r {fixed(fit.pearson_r, 3)}, median error {percent(fit.median_relative_error)}."
    )
    return to_svg(axes, name=name, description=description)


def _write_fit(axes: Axes, fit: LogLogFit) -> None:
    lines = (
        f"slope {fixed(fit.slope, 3)}",
        f"r {fixed(fit.pearson_r, 3)}",
        f"median error {percent(fit.median_relative_error)}",
    )
    for index, line in enumerate(lines):
        axes.text(0.04, 0.96 - 0.075 * index, line, transform=axes.transAxes, va="top", color=INK, fontsize=10.5)
    rows = f"{fit.n:,} rows"
    axes.text(0.04, 0.96 - 0.075 * len(lines), rows, transform=axes.transAxes, va="top", color=FAINT, fontsize=9)
