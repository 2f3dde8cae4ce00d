"""Logarithmic axes and reference lines of the experiments' figures, and the record of an experiment's section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from lightning_normdyn.report.kit.axes import axis_note, level_grid, log_scale, positive_frame
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.figure import WIDTH, new_axes
from lightning_normdyn.report.kit.numbers import Floats
from lightning_normdyn.report.kit.theme import FAINT, INK

DASHED = (0, (4, 3))


class Story(NamedTuple):
    """What an experiment's section says.

    Attributes:
        title: its heading.
        lead: what was done, in a sentence or two of plain text.
        card: its figure.
    """

    title: str
    lead: str
    card: Card


def columns(arrays: Mapping[str, Sequence[float]]) -> dict[str, Floats]:
    """A record's arrays as numpy's."""
    return {name: np.asarray(values, np.float64) for name, values in arrays.items()}


def log_axes(
    x: Sequence[Floats], y: Sequence[Floats], *, across: str, up: str, right: float = 0.97, square: bool = False
) -> Axes:
    """New logarithmic axes around all points.

    Args:
        x: what the horizontal side has to hold.
        y: what the vertical side has to hold.
        across: label of the horizontal side.
        up: label of the vertical side.
        right: where the axes end, as a share of the figure's width.
        square: as high as square axes, to stand beside them.
    """
    axes = new_axes(top=0.9, right=right, height=WIDTH * 0.84 / 0.86) if square else new_axes(top=0.9, right=right)
    log_scale(axes, "x", *positive_frame(*x))
    log_scale(axes, "y", *positive_frame(*y, decades=8))
    level_grid(axes)
    axis_note(axes, up)
    axes.set_xlabel(across)
    return axes


def power_line(axes: Axes, exponent: float, *, through: tuple[float, float]) -> None:
    """A dashed line ``y ∝ x^exponent`` through a point, over the whole width."""
    ends = np.asarray(axes.get_xlim())
    axes.plot(ends, through[1] * (ends / through[0]) ** exponent, color=FAINT, lw=1.1, ls=DASHED, zorder=1)
    axes.set_xlim(*ends)


def write_lines(axes: Axes, lines: Sequence[str], *, low: bool = False, left: bool = True) -> None:
    """Writes short lines in a corner: the upper left one unless told otherwise."""
    step, top = 0.07, 0.96 if not low else 0.05 + 0.07 * len(lines)
    for place, line in enumerate(lines):
        axes.text(
            0.04 if left else 0.96,
            top - step * place,
            line,
            transform=axes.transAxes,
            va="top",
            ha="left" if left else "right",
            color=INK,
            fontsize=10.5,
        )


def middle(values: Floats) -> float:
    """The geometric mean of positive values."""
    return float(np.exp(np.log(values).mean()))
