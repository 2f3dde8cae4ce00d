"""Limits, scales and labels of a figure's axes, around all values or the bulk of them, and what lies outside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from lightning_normdyn.report.kit.figure import WIDTH, new_axes
from lightning_normdyn.report.kit.numbers import Floats, percent, plain_small, power_of_ten, short_count
from lightning_normdyn.report.kit.theme import FAINT, RULE

Unit = Literal["number", "share", "power"]
_FEW_ROWS = 0.025
_FOOT_LETTERS = 50
_FEW_READINGS = 0.1
_LEAST_WIDTH = np.log(1.5)


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


def foot_note(axes: Axes, text: str) -> None:
    """Writes where the numbers come from at the lower edge of the figure; the middle of a long line is left out.

    Args:
        axes: of the figure.
        text: a line.
    """
    half = _FOOT_LETTERS // 2  # the name of a set is often at the end
    line = text if len(text) <= _FOOT_LETTERS else f"{text[: half - 1]}…{text[-half:]}"
    axes.figure.text(0.01, 0.012, line, va="bottom", ha="left", color=FAINT, fontsize=8.5)


def _tick(value: float, unit: Unit) -> str:
    if unit == "share":
        return percent(value)
    if unit == "power":
        return power_of_ten(round(math.log10(value)))
    return plain_small(value, 3)


def positive_frame(*values: Floats, pad: float = 0.06, decades: float = 4.0) -> tuple[float, float]:
    """Limits of a logarithmic axis around all positive finite values.

    Args:
        values: what the axis has to hold.
        pad: room at both ends, as a share of the axis.
        decades: how far below the largest value the axis may reach.
    """
    numbers = np.concatenate([np.empty(0), *(np.ravel(array) for array in values)])
    positive = numbers[np.isfinite(numbers) & (numbers > 0)]
    if not len(positive):
        return 0.1, 10.0
    high = float(positive.max())
    low = max(float(positive.min()), high / 10.0**decades)
    room = max((high / low) ** pad, 1.02)
    return low / room, high * room


def linear_frame(*values: Floats, pad: float = 0.08) -> tuple[float, float]:
    """Limits around zero and the middle 98% of the values: a few wild first steps do not flatten the rest.

    Args:
        values: what the axis has to hold.
        pad: room at both ends, as a share of the axis.
    """
    edges = [np.quantile(array, (0.01, 0.99)) for array in values if len(array)]
    low, high = (
        min((float(edge[0]) for edge in edges), default=0.0),
        max((float(edge[1]) for edge in edges), default=1.0),
    )
    low, high = min(low, 0.0), max(high, 0.0)
    room = pad * (high - low) or 1.0
    return low - room, high + room


def bulk_frame(*values: Floats, pad: float = 0.06, decades: float = 4.0) -> tuple[float, float]:
    """Limits of a logarithmic axis around the bulk of the positive finite values.

    The middle 95% of each array, and whatever lies no farther from them than they are wide: without rows far out it is
    :func:`positive_frame`, and with some the bulk still has a third of the axis.

    Args:
        values: what the axis has to hold, each array with a bulk of its own.
        pad: room at both ends, as a share of the axis.
        decades: how far below its largest value an array may reach.

    Example:
        >>> rows = np.geomspace(1.0, 10.0, 98)
        >>> low, high = bulk_frame(np.append(rows, [1e6, 1e-9]), pad=0.0)
        >>> round(low), round(high)
        (1, 10)
    """
    positive = [array[np.isfinite(array) & (array > 0)] for array in map(np.ravel, values)]
    near = [array[_near(np.log(array), _FEW_ROWS, _LEAST_WIDTH)] for array in positive if len(array)]
    depth = max((np.log10(max(array.max() for array in near) / array.max()) for array in near), default=0.0)
    return positive_frame(*near, pad=pad, decades=decades + float(depth))


def bulk_linear_frame(*series: Floats, pad: float = 0.08) -> tuple[float, float]:
    """Limits of a linear axis around zero and the bulk of several series: a spike does not flatten the rest.

    The middle 80% of all values, and whatever lies no farther from them than they are wide.

    Example:
        >>> low, high = bulk_linear_frame(np.append(np.linspace(0.0, 1.0, 40), 1000.0))
        >>> bool(0.9 < high < 2.0)
        True
    """
    values = np.concatenate([np.empty(0), *(np.ravel(array) for array in series)])
    values = values[np.isfinite(values)]
    return linear_frame(values[_near(values, _FEW_READINGS, 0.0)], pad=pad) if len(values) else linear_frame(pad=pad)


def outside(x: Floats, y: Floats, across: tuple[float, float], up: tuple[float, float]) -> NDArray[np.bool_]:
    """Which of the points with two finite places lie outside of the axes.

    Args:
        x: horizontal places, ``[n]``.
        y: vertical places, ``[n]``.
        across: limits of the horizontal side.
        up: limits of the vertical side.
    """
    has_place = np.isfinite(x) & np.isfinite(y)
    return has_place & ~((x >= across[0]) & (x <= across[1]) & (y >= up[0]) & (y <= up[1]))


def outside_sentence(counts: Mapping[str, int], members: str) -> str:
    """Says how many points the axes leave out, with a blank before it; empty where they hold all.

    Args:
        counts: how many each panel leaves out, by the panel's name; a single panel needs none.
        members: what the points are, in the plural.

    Example:
        >>> outside_sentence({"left": 3, "right": 0}, "rows")
        ' The axes show the bulk: outside of them lie, counted in the numbers all the same, 3 rows (left).'
        >>> outside_sentence({"": 0}, "rows")
        ''
    """
    clauses = [
        f"{count:,} {members.removesuffix('s') if count == 1 else members}{f' ({name})' if name else ''}"
        for name, count in counts.items()
        if count
    ]
    if not clauses:
        return ""
    return (
        f" The axes show the bulk: outside of them lie, counted in the numbers all the same, {' and '.join(clauses)}."
    )


def _near(values: Floats, few: float, least_width: float) -> NDArray[np.bool_]:
    """Which values lie within the bulk or no farther from it than it is wide; all but ``few`` at either end are it."""
    low, high = np.quantile(values, (few, 1 - few), method="nearest")
    width = max(high - low, least_width)
    near: NDArray[np.bool_] = (values >= low - width) & (values <= high + width)
    return near
