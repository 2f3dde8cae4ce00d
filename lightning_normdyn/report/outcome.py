"""How a forecast came out, beside saying that every norm stays as it is."""

from __future__ import annotations

import numpy as np

from lightning_normdyn.report.canvas import BLUE, FAINT, GREY, to_svg
from lightning_normdyn.report.frame import positive_frame
from lightning_normdyn.report.numbers import percent
from lightning_normdyn.report.record import TargetRecord
from lightning_normdyn.report.scale import square_axes
from lightning_normdyn.report.trajectory import Fit, Floats


def outcome_panel(record: TargetRecord, fit: Fit) -> str:
    """Norms at the end against the forecast that ``fit`` made, and against the norms of its own step.

    Both go over the rows that the logged errors go over: those with a gradient in the window of ``fit``.
    """
    final = record.trajectory.final_norm
    forecast = np.where(fit.updated, fit.forecast_norm, np.nan)
    stays = np.where(np.isfinite(forecast), fit.norm, np.nan)
    # Grey lies underneath, and larger: a norm that did stay as it was keeps a grey rim.
    ways = (("‘stays as it is’", stays, GREY, 17), ("forecast", forecast, BLUE, 5))
    axes = square_axes(*positive_frame(final, stays, forecast, pad=0.04))
    errors = {name: median_error(predicted, final) for name, predicted, *_ in ways}
    for index, (name, predicted, colour, size) in enumerate(ways):
        text_colour = FAINT if colour == GREY else colour
        axes.scatter(predicted, final, color=colour, s=size, linewidths=0, alpha=0.5, rasterized=True)
        line = f"{name}: median error {percent(errors[name])}"
        axes.text(
            0.04, 0.895 + 0.065 * index, line, transform=axes.transAxes, va="top", color=text_colour, fontsize=10.5
        )
    axes.set(xlabel=f"norm predicted at step {fit.step:,}", ylabel="norm at the end")
    missed = ", ".join(f"{name} {percent(error)}" for name, error in errors.items())
    return to_svg(
        axes,
        name=f"{record.anchor}-outcome",
        description=f"Norm at the end against what was predicted: median error {missed}.",
    )


def median_error(predicted: Floats, observed: Floats) -> float:
    """Median of ``|predicted - observed| / observed`` over rows that have both; NaN without any."""
    usable = np.isfinite(predicted) & np.isfinite(observed) & (observed > 0)
    return float(np.median(np.abs(predicted[usable] / observed[usable] - 1.0))) if usable.any() else float("nan")
