"""Predicted against observed norms."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from lightning_normdyn.core import LogLogFit, fit_log_log
from lightning_normdyn.report.canvas import FAINT, INK, to_svg
from lightning_normdyn.report.card import Card
from lightning_normdyn.report.cloud import draw_cloud
from lightning_normdyn.report.frame import positive_frame
from lightning_normdyn.report.numbers import fixed, percent
from lightning_normdyn.report.record import TargetRecord
from lightning_normdyn.report.scale import square_axes
from lightning_normdyn.report.trajectory import Floats

_CAPTION = (
    "Each point is one row of the table and the dashed line is a perfect prediction: in a healthy run the "
    "transient-corrected cloud hugs the line (slope and r near 1), while rows that have not yet settled may stand off "
    "the equilibrium law."
)


def prediction_card(record: TargetRecord) -> Card | None:
    """Norms of the last fit: the equilibrium law, and the law followed from where the window began."""
    panels: list[tuple[str, str]] = []
    limits = _shared_limits(record)
    for law, title, observed in (
        ("equilibrium_norm", "Equilibrium law", "mean_norm"),
        ("transient_norm", "Transient-corrected", "norm"),
    ):
        fit = record.trajectory.latest_fit(law)
        if fit is not None:
            name = f"{record.anchor}-{law.partition('_')[0]}"
            points = (getattr(fit, law), getattr(fit, observed), record.trajectory.frequency)
            svg = _panel(*points, limits=limits, name=name, title=title)
            panels.append((f"{title}, fit at step {fit.step:,}", svg))
    return Card("Predicted against observed norm", _CAPTION, tuple(panels)) if panels else None


def fit_points(predicted: Floats, observed: Floats) -> LogLogFit:
    """The log-log fit of exactly the points that a panel draws."""
    return fit_log_log(torch.from_numpy(predicted), torch.from_numpy(observed))


def _shared_limits(record: TargetRecord) -> tuple[float, float]:
    """One frame for both laws, so that their clouds can be compared by eye."""
    laws = (("equilibrium_norm", "mean_norm"), ("transient_norm", "norm"))
    fits = [(record.trajectory.latest_fit(law), law, observed) for law, observed in laws]
    return positive_frame(*(getattr(fit, name) for fit, *names in fits if fit is not None for name in names), pad=0.04)


def _panel(
    predicted: Floats, observed: Floats, frequency: Floats, *, limits: tuple[float, float], name: str, title: str
) -> str:
    axes = square_axes(*limits)
    draw_cloud(axes, predicted, observed, frequency)
    fit = fit_points(predicted, observed)
    corner = (0.96, 0.46) if _upper_left_is_taken(predicted, observed, limits) else (0.04, 0.96)
    _write_fit(axes, fit, corner, rows=int(np.isfinite(observed).sum()))
    axes.set(xlabel="predicted norm", ylabel="observed norm")
    description = (
        f"{title}: observed against predicted norm of {fit.n:,} rows, log-log; slope {fixed(fit.slope, 3)}, "
        f"r {fixed(fit.pearson_r, 3)}, median error {percent(fit.median_relative_error)}."
    )
    return to_svg(axes, name=name, description=description)


def _upper_left_is_taken(predicted: Floats, observed: Floats, limits: tuple[float, float]) -> bool:
    """Whether points lie where the numbers would stand: predictions far below what was observed."""
    low, high = np.log(limits)
    across, up = (
        (np.log(side[(predicted > 0) & (observed > 0)]) - low) / (high - low) for side in (predicted, observed)
    )
    return bool(np.mean((across < 0.5) & (up > 0.68)) > 0.01) if len(up) else False


def _write_fit(axes: Axes, fit: LogLogFit, corner: tuple[float, float], *, rows: int) -> None:
    lines = (
        (f"slope {fixed(fit.slope, 3)}", INK, 10.5),
        (f"r {fixed(fit.pearson_r, 3)}", INK, 10.5),
        (f"median error {percent(fit.median_relative_error)}", INK, 10.5),
        (f"{fit.n:,} rows" if fit.n == rows else f"{fit.n:,} of {rows:,} rows", FAINT, 9),
    )
    look: dict[str, Any] = {"transform": axes.transAxes, "va": "top", "ha": "right" if corner[0] > 0.5 else "left"}
    for index, (line, colour, size) in enumerate(lines):
        axes.text(corner[0], corner[1] - 0.065 * index, line, color=colour, fontsize=size, **look)
