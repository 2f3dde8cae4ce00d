"""The course of the norms over training, and where the fit said that they would end."""

from __future__ import annotations

from lightning_normdyn.report.band_panel import band_panel
from lightning_normdyn.report.bands import frequency_bands
from lightning_normdyn.report.card import Card
from lightning_normdyn.report.fan import fan_card
from lightning_normdyn.report.numbers import percent
from lightning_normdyn.report.outcome import outcome_panel
from lightning_normdyn.report.record import TargetRecord
from lightning_normdyn.report.trajectory import Fit

_FORECAST_AT = 0.4


def course_card(record: TargetRecord) -> Card | None:
    """Norms over time with the forecast made at about two fifths of the run, and how that forecast came out."""
    if not len(record.trajectory.steps):
        return fan_card(record)
    fit = _forecasting_fit(record)
    bands = frequency_bands(record.trajectory.frequency)
    title = "Median norm of rows that get a gradient in …" if len(bands) > 1 else f"Median norm of the {record.members}"
    if fit is None or not record.finished:
        panels = [(title, band_panel(record, bands, fit, height=3.55))]
    else:
        said = f"Forecast of step {fit.step:,} against the norm at the end"
        panels = [(title, band_panel(record, bands, fit, height=4.5)), (said, outcome_panel(record, fit))]
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
    return f"{lines}, {dashes}; in a healthy run dashes meet lines at the end and the blue points lie on the diagonal."
