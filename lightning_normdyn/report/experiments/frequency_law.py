"""The figure of norm against frequency under SGD and under AdamW, with the laws."""

from __future__ import annotations

from markupsafe import Markup

from lightning_normdyn.history.experiment import ExperimentRecord
from lightning_normdyn.report.experiments.log_plot import DASHED, Story, columns, log_axes, write_lines
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.figure import to_svg
from lightning_normdyn.report.kit.numbers import Floats, fixed, plain
from lightning_normdyn.report.kit.theme import BLUE, FAINT, GREY, VERMILION

_LEAD = (
    "Rows that get tangential noise with probability p a step and nothing else, under torch's own SGD and AdamW: "
    "frequency is imprinted as p^(1/4) by the first, and by the second only on rows rarer than 1 − β₂."
)
_CAPTION = (
    "Points are measured, lines are the laws from hyper-parameters alone. Grey points have fewer than five gradients "
    "in a relaxation time and are left out of SGD's slope. Under AdamW the place of the bend is fitted to the points "
    "and held against 1 − β₂; for rare rows the law is an approximation, good to some per cent of R, and R says little "
    "about where exactly it bends."
)


def frequency_story(record: ExperimentRecord) -> Story:
    """Norm against frequency under SGD and under AdamW."""
    arrays = columns(record.arrays)
    panels = (("SGD", _sgd(arrays, record)), ("AdamW", _adamw(arrays, record)))
    return Story("What frequency does to a norm", _LEAD, Card("Norm against frequency", _CAPTION, panels))


def _sgd(arrays: dict[str, Floats], record: ExperimentRecord) -> Markup:
    has_settled = arrays["settled"] > 0
    frequency, norm = arrays["frequency"], arrays["sgd"]
    axes = log_axes([frequency], [norm, arrays["sgd_law"]], across="probability of a gradient, p", up="norm R")
    axes.plot(frequency, arrays["sgd_law"], color=FAINT, lw=1.1, ls=DASHED)
    axes.scatter(frequency[has_settled], norm[has_settled], color=BLUE, s=34, lw=0, zorder=3)
    axes.scatter(frequency[~has_settled], norm[~has_settled], color=GREY, s=34, lw=0, zorder=3)
    slope = record.findings[0].measured
    lines = [
        f"least squares: slope {fixed(slope, 4)}" if slope is not None else "too few steps for a slope",
        "law: 0.25",
    ]
    write_lines(axes, lines)
    description = f"Norm against frequency under SGD, log-log, with the law; {', '.join(lines)}."
    return to_svg(axes, name="frequency-sgd", description=description)


def _adamw(arrays: dict[str, Floats], record: ExperimentRecord) -> Markup:
    frequency, norm = arrays["frequency"], arrays["adamw"]
    axes = log_axes([frequency], [norm, arrays["adamw_law"]], across="probability of a gradient, p", up="norm R")
    axes.plot(frequency, arrays["adamw_law"], color=FAINT, lw=1.1, ls=DASHED)
    axes.plot(frequency, arrays["adamw_fit"], color=BLUE, lw=1.3)
    axes.scatter(frequency, norm, color=BLUE, s=34, lw=0, zorder=3)
    crossover = record.findings[2]
    for place, colour in ((crossover.expected, FAINT), (crossover.measured, VERMILION)):
        if place is not None:
            axes.axvline(place, color=colour, lw=1.1, ls=DASHED if colour == FAINT else "-")
    lines = [f"bend {plain(crossover.measured or float('nan'))}", f"1 − β₂ = {plain(crossover.expected or 0.0)}"]
    write_lines(axes, lines, low=True, left=False)
    description = f"Norm against frequency under AdamW, log-log, with law and bend; {', '.join(lines)}."
    return to_svg(axes, name="frequency-adamw", description=description)
