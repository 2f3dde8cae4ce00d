"""The drawing of norms over time, one line per frequency band."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from lightning_normdyn.report.bands import Band, members_quantiles
from lightning_normdyn.report.canvas import BLUE, FAINT, INK, new_axes, to_svg
from lightning_normdyn.report.cloud import frequency_colour
from lightning_normdyn.report.line_label import LineLabel, label_line_ends
from lightning_normdyn.report.numbers import plain
from lightning_normdyn.report.record import TargetRecord
from lightning_normdyn.report.scale import norm_scale, step_axis
from lightning_normdyn.report.trajectory import Fit, Floats

_SNAPSHOTS = 300


class BandCourse(NamedTuple):
    """What is drawn of one band.

    Attributes:
        label: its name.
        colour: its colour.
        steps: snapshots, ``[steps]``.
        quartiles: quartiles of the norm over its rows, ``[steps, 3]``.
        forecast: medians of the norm at the fit and of its forecast for the end, ``[2]``; NaN without a forecast.
    """

    label: str
    colour: str
    steps: Floats
    quartiles: Floats
    forecast: Floats


def band_panel(record: TargetRecord, bands: list[Band], fit: Fit | None, *, height: float) -> str:
    """Median and middle half of each band over training, with the forecast that ``fit`` made.

    Args:
        record: the target.
        bands: groups of its rows.
        fit: the fit whose forecast is shown, if there is one.
        height: of the figure, in inches.
    """
    axes = new_axes(left=0.085, right=0.75, bottom=0.5 / height, top=1 - 0.36 / height, height=height)
    courses = _courses(record, bands, fit)
    step_axis(axes, record.end_step)
    norm_scale(axes, *(course.quartiles for course in courses), *(course.forecast for course in courses))
    if fit is not None:
        _mark_fit(axes, fit.step)
    for course in courses:
        _draw_course(axes, course)
        if fit is not None:
            _draw_forecast(axes, [fit.step, record.end_step], course)
    label_line_ends(axes, [LineLabel(_end(record, course), course.label, course.colour) for course in courses])
    return to_svg(axes, name=f"{record.anchor}-course", description=_describe(courses))


def _courses(record: TargetRecord, bands: list[Band], fit: Fit | None) -> list[BandCourse]:
    trajectory = record.trajectory
    thinned = np.unique(np.linspace(0, len(trajectory.steps) - 1, _SNAPSHOTS).astype(np.int64))
    steps, norms = trajectory.steps[thinned].astype(np.float64), trajectory.norms[thinned]
    known = [band.frequency for band in bands if band.frequency > 0]
    colours = [frequency_colour(band.frequency, min(known), max(known)) if known else BLUE for band in bands]
    return [
        BandCourse(band.label, colour, steps, members_quantiles(norms, band, (0.25, 0.5, 0.75)), _forecast(fit, band))
        for band, colour in zip(bands, colours, strict=True)
    ]


def _forecast(fit: Fit | None, band: Band) -> Floats:
    """Both medians go over the same rows: those that have a norm at the fit and a forecast."""
    if fit is None:
        return np.full(2, np.nan)
    both = band.members & np.isfinite(fit.norm) & np.isfinite(fit.forecast_norm)
    return np.array([np.median(fit.norm[both]), np.median(fit.forecast_norm[both])] if both.any() else [np.nan] * 2)


def _draw_course(axes: Axes, course: BandCourse) -> None:
    low, middle, high = course.quartiles.T
    axes.fill_between(course.steps, low, high, color=course.colour, alpha=0.12, linewidth=0)
    axes.plot(course.steps, middle, color=course.colour, lw=1.8, marker="o" if len(course.steps) == 1 else None)


def _draw_forecast(axes: Axes, span: list[int], course: BandCourse) -> None:
    start = float(course.forecast[0])
    axes.plot(span, [start, start], color=course.colour, lw=1.1, ls=(0, (0.8, 2.2)))
    axes.plot(span, course.forecast, color=INK, lw=1.0, ls=(0, (4, 2.5)))
    axes.plot(span[:1], [start], color=INK, marker="o", ms=3.2)


def _mark_fit(axes: Axes, step: int) -> None:
    axes.axvline(step, color=FAINT, lw=0.6, alpha=0.6)
    place = axes.get_xaxis_transform()
    axes.text(step, 0.985, " forecast made here", transform=place, va="top", color=FAINT, fontsize=8.5)


def _end(record: TargetRecord, course: BandCourse) -> float:
    """Where the label belongs: a finished line's own end, else the end of its forecast."""
    ahead = float(course.forecast[1])
    return float(course.quartiles[-1, 1]) if record.finished or not np.isfinite(ahead) else ahead


def _describe(courses: list[BandCourse]) -> str:
    ends = (
        f"{course.label}: {plain(course.quartiles[0, 1])} to {plain(course.quartiles[-1, 1])}" for course in courses
    )
    return f"Median norm over training by how often a row gets a gradient, first to last. {'; '.join(ends)}."
