"""The figure of the norm's dependence on frequency."""

from __future__ import annotations

from lightning_normdyn.history.experiment import ExperimentRecord
from lightning_normdyn.report.experiments.plot import DASHED, Story, columns, log_axes, write_lines
from lightning_normdyn.report.kit.canvas import BLUE, FAINT, GREY, VERMILION, to_svg
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.numbers import fixed, plain
from lightning_normdyn.report.run.trajectory import Floats

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
    drawn = columns(record.arrays)
    panels = (("SGD", _sgd(drawn, record)), ("AdamW", _adamw(drawn, record)))
    return Story("What frequency does to a norm", _LEAD, Card("Norm against frequency", _CAPTION, panels))


def _sgd(drawn: dict[str, Floats], record: ExperimentRecord) -> str:
    settled = drawn["settled"] > 0
    frequency, norm = drawn["frequency"], drawn["sgd"]
    axes = log_axes([frequency], [norm, drawn["sgd_law"]], across="probability of a gradient, p", up="norm R")
    axes.plot(frequency, drawn["sgd_law"], color=FAINT, lw=1.1, ls=DASHED)
    axes.scatter(frequency[settled], norm[settled], color=BLUE, s=34, lw=0, zorder=3)
    axes.scatter(frequency[~settled], norm[~settled], color=GREY, s=34, lw=0, zorder=3)
    slope = record.findings[0].measured
    write_lines(axes, [f"slope {fixed(slope, 4)}" if slope is not None else "too few steps for a slope", "law: 0.25"])
    return to_svg(axes, name="frequency-sgd", description="Norm against frequency under SGD, log-log, with the law.")


def _adamw(drawn: dict[str, Floats], record: ExperimentRecord) -> str:
    frequency, norm = drawn["frequency"], drawn["adamw"]
    axes = log_axes([frequency], [norm, drawn["adamw_law"]], across="probability of a gradient, p", up="norm R")
    axes.plot(frequency, drawn["adamw_law"], color=FAINT, lw=1.1, ls=DASHED)
    axes.plot(frequency, drawn["adamw_fit"], color=BLUE, lw=1.3)
    axes.scatter(frequency, norm, color=BLUE, s=34, lw=0, zorder=3)
    crossover = record.findings[2]
    for place, colour in ((crossover.expected, FAINT), (crossover.measured, VERMILION)):
        if place is not None:
            axes.axvline(place, color=colour, lw=1.1, ls=DASHED if colour == FAINT else "-")
    found = [f"bend {plain(crossover.measured or float('nan'))}", f"1 − β₂ = {plain(crossover.expected or 0.0)}"]
    write_lines(axes, found, low=True, left=False)
    return to_svg(axes, name="frequency-adamw", description="Norm against frequency under AdamW, with law and bend.")
