"""The course of the norms over training, and where the fit said that they would end."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from lightning_normdyn.report.bands import Band, frequency_bands, members_quantiles
from lightning_normdyn.report.canvas import BLUE, FAINT, GREY, INK, VERMILION, new_axes, to_svg
from lightning_normdyn.report.card import Card
from lightning_normdyn.report.cloud import frequency_colour
from lightning_normdyn.report.frame import positive_frame
from lightning_normdyn.report.line_label import LineLabel, label_line_ends
from lightning_normdyn.report.numbers import percent, plain
from lightning_normdyn.report.record import TargetRecord
from lightning_normdyn.report.scale import axis_note, level_grid, log_scale, step_axis
from lightning_normdyn.report.trajectory import Fit, Floats, Trajectory

_FORECAST_AT = 0.4
_SNAPSHOTS = 300


def course_card(record: TargetRecord) -> Card | None:
    """Norms over time with the forecast made at about two fifths of the run, and how that forecast came out."""
    if not len(record.trajectory.steps):
        return _quantile_card(record)
    fit = record.trajectory.fit_nearest(_FORECAST_AT * record.end_step, "forecast_norm")
    fit = fit if fit is not None and fit.step < record.end_step else None
    panels = [("Median norm by frequency band", _bands_panel(record, fit))]
    if fit is not None and record.finished:
        panels.append((f"Forecast of step {fit.step:,} against the norm at the end", _outcome_panel(record, fit)))
    return Card("The course of the norms", _caption(record, fit), tuple(panels))


def _caption(record: TargetRecord, fit: Fit | None) -> str:
    lines = "Lines are the median norm of rows that get a gradient about equally often, shades their middle half"
    if fit is None:
        return f"{lines}; a healthy run levels off, and a forecast is drawn as soon as the first fit window closes."
    dashes = (
        f"dashes the forecast that the fit at step {fit.step:,} ({percent(fit.step / record.end_step)} of the run) made "
        "for the end, and dots 'stays as it is'"
    )
    if not record.finished:
        return f"{lines}, {dashes}; in a healthy run the lines are on their way to the end of the dashes."
    return f"{lines}, {dashes}; in a healthy run dashes meet lines at the end and the blue points lie on the diagonal."


def _bands_panel(record: TargetRecord, fit: Fit | None) -> str:
    axes, trajectory = new_axes(left=0.085, right=0.74, top=0.90), record.trajectory
    bands = frequency_bands(trajectory.frequency)
    thinned = np.unique(np.linspace(0, len(trajectory.steps) - 1, _SNAPSHOTS).astype(int))
    curves = [members_quantiles(trajectory.norms[thinned], band, (0.25, 0.5, 0.75)) for band in bands]
    goals = [_forecast_line(fit, band) if fit is not None else np.empty(0) for band in bands]
    step_axis(axes, record.end_step)
    _norm_axis(axes, *curves, *goals)
    ends = []
    for band, curve, goal, colour in zip(bands, curves, goals, _colours(bands), strict=True):
        _draw_band(axes, trajectory.steps[thinned].astype(float), curve, colour)
        if fit is not None:
            _draw_forecast(axes, fit.step, record.end_step, goal, colour)
        ends.append(LineLabel(float(goal[1]) if fit is not None and not record.finished else curve[-1, 1], band.label, colour))
    label_line_ends(axes, ends)
    return to_svg(axes, name=f"{record.anchor}-course", description=_describe_bands(bands, curves))


def _colours(bands: list[Band]) -> list[str]:
    known = [band.frequency for band in bands if band.frequency > 0]
    if not known:
        return [BLUE] * len(bands)
    return [frequency_colour(band.frequency, min(known), max(known)) for band in bands]


def _norm_axis(axes: Axes, *values: Floats) -> None:
    low, high = positive_frame(*values)
    log_scale(axes, "y", low, high)
    level_grid(axes)
    axis_note(axes, "norm")


def _draw_band(axes: Axes, steps: Floats, curve: Floats, colour: str) -> None:
    axes.fill_between(steps, curve[:, 0], curve[:, 2], color=colour, alpha=0.13, linewidth=0)
    axes.plot(steps, curve[:, 1], color=colour, lw=1.8, marker="o" if len(steps) == 1 else None)


def _forecast_line(fit: Fit, band: Band) -> Floats:
    """Medians of a band's norm at the fit and of its forecast, over the rows that have both."""
    both = band.members & np.isfinite(fit.norm) & np.isfinite(fit.forecast_norm)
    if not both.any():
        return np.full(2, np.nan)
    return np.array([np.median(fit.norm[both]), np.median(fit.forecast_norm[both])])


def _draw_forecast(axes: Axes, start: int, end: int, line: Floats, colour: str) -> None:
    axes.plot([start, end], line, color=colour, lw=1.3, ls=(0, (4, 2.5)))
    axes.plot([start, end], [line[0], line[0]], color=colour, lw=1.0, ls=(0, (0.8, 2.2)), alpha=0.8)
    axes.plot([start], line[:1], color=colour, marker="o", ms=3.6, mec="white", mew=0.6)


def _describe_bands(bands: list[Band], curves: list[Floats]) -> str:
    ends = (f"{band.label}: {plain(curve[0, 1])} to {plain(curve[-1, 1])}" for band, curve in zip(bands, curves, strict=True))
    return f"Median norm over training by how often a row gets a gradient, first to last. {'; '.join(ends)}."


def _outcome_panel(record: TargetRecord, fit: Fit) -> str:
    axes, final = new_axes(left=0.115), record.trajectory.final_norm
    ways = (("stays as it is", fit.norm, GREY), ("forecast", fit.forecast_norm, BLUE))
    low, high = positive_frame(final, fit.norm, fit.forecast_norm)
    log_scale(axes, "x", low, high)
    log_scale(axes, "y", low, high)
    axes.plot([low, high], [low, high], color=FAINT, lw=1.1, ls=(0, (4, 3)), zorder=1)
    errors = {name: median_error(predicted, final) for name, predicted, _ in ways}
    for index, (name, predicted, colour) in enumerate(ways):
        axes.scatter(predicted, final, color=colour, s=5, linewidths=0, alpha=0.5, rasterized=True)
        line = f"{name}: median error {percent(errors[name])}"
        axes.text(0.04, 0.885 + 0.075 * index, line, transform=axes.transAxes, va="top", color=colour, fontsize=10.5)
    axes.set(xlabel=f"norm said at step {fit.step:,}", ylabel="norm at the end")
    said = ", ".join(f"{name} {percent(error)}" for name, error in errors.items())
    return to_svg(axes, name=f"{record.anchor}-outcome", description=f"Norm at the end against what was said: median error {said}.")


def median_error(predicted: Floats, observed: Floats) -> float:
    """Median of ``|predicted - observed| / observed`` over rows that have both; NaN without any."""
    usable = np.isfinite(predicted) & np.isfinite(observed) & (observed > 0)
    return float(np.median(np.abs(predicted[usable] / observed[usable] - 1.0))) if usable.any() else float("nan")


def _quantile_card(record: TargetRecord) -> Card | None:
    """The fan of logged quantiles, for a target without rows of its own."""
    names = [name for name in ("norm_p05", "norm_p50", "norm_p95", "norm_mean") if len(record.values(name).steps)]
    if not names:
        return None
    axes = new_axes(left=0.085, right=0.80, top=0.90)
    step_axis(axes, record.end_step)
    series = {name: record.values(name).thinned(_SNAPSHOTS) for name in names}
    _norm_axis(axes, *(one.values for one in series.values()))
    looks = {"norm_p05": ("5%", BLUE, 1.0), "norm_p50": ("median", INK, 1.8), "norm_p95": ("95%", BLUE, 1.0)}
    for name, one in series.items():
        text, colour, width = looks.get(name, ("mean", VERMILION, 1.2))
        axes.plot(one.steps, one.values, color=colour, lw=width, marker="o" if len(one.steps) == 1 else None)
    label_line_ends(axes, [LineLabel(one.last, *looks.get(name, ("mean", VERMILION))[:2]) for name, one in series.items()])
    description = "Norm over training: " + ", ".join(f"{name} ends at {plain(one.last)}" for name, one in series.items()) + "."
    caption = "Norms of the vectors that came by: a healthy run levels off, with the outer lines staying at a fixed ratio."
    return Card("The course of the norms", caption, (("", to_svg(axes, name=f"{record.anchor}-course", description=description)),))
