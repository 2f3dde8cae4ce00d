"""Axes whose ticks a reader can read aloud."""

from __future__ import annotations

import math
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from lightning_normdyn.report.kit.canvas import FAINT, RULE, WIDTH, new_axes
from lightning_normdyn.report.kit.frame import positive_frame
from lightning_normdyn.report.kit.numbers import percent, plain_small, power_of_ten, short_count
from lightning_normdyn.report.run.trajectory import Floats

Unit = Literal["number", "share", "power"]


def log_scale(axes: Axes, side: Literal["x", "y"], low: float, high: float, *, unit: Unit = "number") -> None:
    """Makes one side logarithmic from ``low`` to ``high``, with few and round ticks.

    Args:
        axes: axes to set up.
        side: which side.
        low: smallest value of the frame, above zero.
        high: largest value of the frame.
        unit: how ticks are written: as numbers, as percentages, or as powers of ten.
    """
    axis: Axis = axes.xaxis if side == "x" else axes.yaxis
    axes.set(**{f"{side}scale": "log", f"{side}lim": (low, high)})
    decades = math.log10(high / low)
    if decades < 0.7:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    elif decades < 2.2 and unit != "power":
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=50))
    else:
        axis.set_major_locator(LogLocator(numticks=7))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(float(value), unit)))


def square_axes(low: float, high: float) -> Axes:
    """New square axes with the same logarithmic limits on both sides and a dashed line where both are equal."""
    axes = new_axes(left=0.125, right=0.965, bottom=0.125, top=0.985, height=WIDTH * 0.84 / 0.86)
    log_scale(axes, "x", low, high)
    log_scale(axes, "y", low, high)
    axes.plot([low, high], [low, high], color=FAINT, lw=1.1, ls=(0, (4, 3)), zorder=1)
    return axes


def norm_scale(axes: Axes, *values: Floats) -> None:
    """Sets the vertical side up for norms, logarithmic and wide enough for all ``values``."""
    low, high = positive_frame(*values)
    log_scale(axes, "y", low, high)
    level_grid(axes)
    axis_note(axes, "norm")


def step_axis(axes: Axes, end: int) -> None:
    """Lets the horizontal side run over training, from step 0 to ``end``."""
    axes.set_xlim(0, max(end, 1))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(float(value))))
    axes.set_xlabel("training step")


def level_grid(axes: Axes) -> None:
    """Faint lines across, from the ticks of the vertical side."""
    axes.grid(axis="y", color=RULE, linewidth=0.5, alpha=0.7)
    axes.set_axisbelow(True)


def axis_note(axes: Axes, text: str) -> None:
    """Writes what the vertical side shows above it, where it can be read without turning one's head."""
    figure_left = -axes.get_position().x0 / axes.get_position().width
    axes.text(
        figure_left + 0.01, 1.035, text, transform=axes.transAxes, va="bottom", ha="left", color=FAINT, fontsize=9
    )


def _tick(value: float, unit: Unit) -> str:
    if unit == "share":
        return percent(value)
    if unit == "power":
        return power_of_ten(round(math.log10(value)))
    return plain_small(value, 3)
