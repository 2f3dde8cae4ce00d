"""The figure of norms over training, with the forecast for the end and how it came out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from lightning_normdyn.instruments import QUANTITIES
from lightning_normdyn.report.kit.axes import norm_scale, square_axes, step_axis
from lightning_normdyn.report.kit.bulk import bulk_frame, outside, outside_sentence
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.figure import new_axes, to_svg
from lightning_normdyn.report.kit.line_label import LineLabel, label_line_ends
from lightning_normdyn.report.kit.numbers import Floats, percent, plain
from lightning_normdyn.report.kit.scatter import frequency_colour
from lightning_normdyn.report.kit.theme import BLUE, FAINT, GREY, INK, VERMILION
from lightning_normdyn.report.run.frequency_bands import Band, frequency_bands, members_quantiles
from lightning_normdyn.report.run.target_record import TargetRecord
from lightning_normdyn.report.run.trajectory import Fit

_FORECAST_AT = 0.4


def norms_card(record: TargetRecord) -> Card | None:
    """Norms over time with the forecast made at about two fifths of the run, and how that forecast came out."""
    if not len(record.trajectory.steps):
        return fan_card(record)
    fit = _forecasting_fit(record)
    bands = frequency_bands(record.trajectory.frequency)
    title = "Median norm of rows that get a gradient in …" if len(bands) > 1 else f"Median norm of the {record.members}"
    if fit is None or not record.finished:
        panels = [(title, band_panel(record, bands, fit, height=3.55))]
    else:
        comparison = f"Forecast of step {fit.step:,} against the norm at the end"
        panels = [(title, band_panel(record, bands, fit, height=4.5)), (comparison, outcome_panel(record, fit))]
    return Card("The course of the norms", _caption(record, fit), tuple(panels))


def _forecasting_fit(record: TargetRecord) -> Fit | None:
    fit = record.trajectory.fit_nearest(_FORECAST_AT * record.end_step, "forecast_norm")
    return fit if fit is not None and fit.step < record.end_step else None


def _caption(record: TargetRecord, fit: Fit | None) -> str:
    lines = "Lines are the median norm of rows that get a gradient about equally often, shades their middle half"
    if not record.is_table:
        lines = "The line is the median norm of the probe’s items, encoded again each time, the shade their middle half"
    if fit is None:
        later = "" if record.trajectory.fits else ", and forecasts join them once a fit window has closed"
        return f"{lines}{later}; in a healthy run the lines level off."
    dashes = (
        f"dashes the forecast made at step {fit.step:,} ({percent(fit.step / record.end_step)} of the run) for the "
        "end, and dots ‘stays as it is’"
    )
    if not record.finished:
        return f"{lines}, {dashes}; in a healthy run the lines keep to the dashes."
    far = outside_sentence({"": _members_outside(record, fit)}, record.members)
    healthy = "in a healthy run dashes meet lines at the end and the blue points lie on the diagonal"
    return f"{lines}, {dashes}; {healthy}.{far}"


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


def band_panel(record: TargetRecord, bands: list[Band], fit: Fit | None, *, height: float) -> Markup:
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
    places = np.unique(np.linspace(0, len(trajectory.steps) - 1, _SNAPSHOTS).astype(np.int64))
    steps, norms = trajectory.steps[places].astype(np.float64), trajectory.norms[places]
    frequencies = [band.frequency for band in bands if band.frequency > 0]
    colours = [
        frequency_colour(band.frequency, min(frequencies), max(frequencies)) if frequencies else BLUE for band in bands
    ]
    return [
        BandCourse(band.label, colour, steps, members_quantiles(norms, band, (0.25, 0.5, 0.75)), _forecast(fit, band))
        for band, colour in zip(bands, colours, strict=True)
    ]


def _forecast(fit: Fit | None, band: Band) -> Floats:
    """Both medians go over the same rows: those that have a norm at the fit and a forecast."""
    if fit is None:
        return np.full(2, np.nan)
    rows = band.members & np.isfinite(fit.norm) & np.isfinite(fit.forecast_norm)
    return np.array([np.median(fit.norm[rows]), np.median(fit.forecast_norm[rows])] if rows.any() else [np.nan] * 2)


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


_LOOKS = {
    "norm_p95": (BLUE, 1.0),
    "norm_mean": (VERMILION, 1.3),
    "norm_p50": (INK, 1.9),
    "norm_p05": (BLUE, 1.0),
}
_CAPTION = "Norms of the vectors that came by: a healthy run levels off, with the outer lines staying at a fixed ratio."
_POINTS = 360


def fan_card(record: TargetRecord) -> Card | None:
    """Median, mean and outer quantiles of the norm over training, as far as they were logged."""
    fan = {name: record.values(name).thinned(_POINTS) for name in _LOOKS if len(record.values(name).steps)}
    if not fan:
        return None
    axes = new_axes(left=0.085, right=0.83, top=0.90)
    step_axis(axes, record.end_step)
    norm_scale(axes, *(series.values for series in fan.values()))
    labels = []
    for name, series in fan.items():
        colour, width = _LOOKS[name]
        axes.plot(series.steps, series.values, color=colour, lw=width, marker="o" if len(series.steps) == 1 else None)
        labels.append(LineLabel(series.last, QUANTITIES[name].label, colour))
    label_line_ends(axes, labels)
    ends = ", ".join(f"{label.text} {plain(label.y)}" for label in labels)
    svg = to_svg(axes, name=f"{record.anchor}-course", description=f"Norm over training; at the end: {ends}.")
    return Card("The course of the norms", _CAPTION, (("", svg),))


def outcome_panel(record: TargetRecord, fit: Fit) -> Markup:
    """Norms at the end against the forecast that ``fit`` made, and against the norms of its own step.

    Both go over the rows that the logged errors go over: those with a gradient in the window of ``fit``.
    """
    final, stays, forecast = _outcome(record, fit)
    # Grey lies underneath, and larger: a norm that did stay as it was keeps a grey rim.
    ways = (("‘stays as it is’", stays, GREY, 17), ("forecast", forecast, BLUE, 5))
    axes = square_axes(*_outcome_frame(record, fit))
    errors = {name: median_error(predicted, final) for name, predicted, *_ in ways}
    for index, (name, predicted, colour, size) in enumerate(ways):
        text_colour = FAINT if colour == GREY else colour
        axes.scatter(predicted, final, color=colour, s=size, linewidths=0, alpha=0.5, rasterized=True)
        line = f"{name}: median error {percent(errors[name])}"
        axes.text(
            0.04, 0.895 + 0.065 * index, line, transform=axes.transAxes, va="top", color=text_colour, fontsize=10.5
        )
    axes.set(xlabel=f"norm predicted at step {fit.step:,}", ylabel="norm at the end")
    differences = ", ".join(f"{name} {percent(error)}" for name, error in errors.items())
    return to_svg(
        axes,
        name=f"{record.anchor}-outcome",
        description=f"Norm at the end against what was predicted: median error {differences}.",
    )


def _outcome(record: TargetRecord, fit: Fit) -> tuple[Floats, Floats, Floats]:
    """Norms at the end, at the fit and as forecast there, each ``[rows]``; NaN in the latter two without a forecast."""
    forecast = np.where(fit.updated, fit.forecast_norm, np.nan)
    return record.trajectory.final_norm, np.where(np.isfinite(forecast), fit.norm, np.nan), forecast


def _outcome_frame(record: TargetRecord, fit: Fit) -> tuple[float, float]:
    return bulk_frame(*_outcome(record, fit), pad=0.04)


def _members_outside(record: TargetRecord, fit: Fit) -> int:
    final, stays, forecast = _outcome(record, fit)
    limits = _outcome_frame(record, fit)
    return int((outside(stays, final, limits, limits) | outside(forecast, final, limits, limits)).sum())


def median_error(predicted: Floats, observed: Floats) -> float:
    """Median of ``|predicted - observed| / observed`` over rows that have both; NaN without any."""
    usable = np.isfinite(predicted) & np.isfinite(observed) & (observed > 0)
    return float(np.median(np.abs(predicted[usable] / observed[usable] - 1.0))) if usable.any() else float("nan")
