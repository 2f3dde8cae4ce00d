"""A scatter plot of a table's rows, each point coloured by how often its row gets a gradient."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_hex

from lightning_normdyn.report.kit.numbers import Floats, percent
from lightning_normdyn.report.kit.theme import FAINT, GREY

# The light end of viridis is lost on white paper, and what it is inverted to on dark paper.
FREQUENCY_COLOURS = LinearSegmentedColormap.from_list("frequency", colormaps["viridis"](np.linspace(0.0, 0.7, 64)))


def scatter_rows(axes: Axes, x: Floats, y: Floats, frequency: Floats) -> None:
    """Draws the points as one picture, and a colour bar in the lower right corner where frequencies differ.

    Args:
        axes: axes with their final limits.
        x: horizontal places, ``[n]``; those that are not finite are left out.
        y: vertical places, ``[n]``.
        frequency: share of steps in which a row gets a gradient, ``[n]``; rows without one are grey.
    """
    has_place = np.isfinite(x) & np.isfinite(y)
    has_colour = has_place & np.isfinite(frequency) & (frequency > 0)
    size = 60.0 / max(1.0, np.log2(max(int(has_place.sum()), 2))) ** 1.05
    look = {"s": size, "linewidths": 0, "alpha": 0.65, "rasterized": True}
    colourless = has_place & ~has_colour
    axes.scatter(x[colourless], y[colourless], color=GREY, **look)
    if not has_colour.any():
        return
    order = np.flatnonzero(has_colour)[np.argsort(frequency[has_colour], kind="stable")]
    low, high = float(frequency[order[0]]), float(frequency[order[-1]])
    norm = LogNorm(low, high if high > low else low * 1.001)
    axes.scatter(x[order], y[order], c=frequency[order], cmap=FREQUENCY_COLOURS, norm=norm, **look)
    if high > 1.01 * low:
        _colour_bar(axes, low, high)


def frequency_colour(frequency: float, low: float, high: float) -> str:
    """The colour that a frequency has in a cloud whose frequencies run from ``low`` to ``high``."""
    if not (np.isfinite(frequency) and frequency > 0 and low > 0):
        return GREY
    place = 0.5 if high <= low else np.log(frequency / low) / np.log(high / low)
    return to_hex(FREQUENCY_COLOURS(float(place)))


def _colour_bar(axes: Axes, low: float, high: float) -> None:
    inset = axes.inset_axes((0.60, 0.10, 0.36, 0.024))
    inset.imshow(np.linspace(0, 1, 128)[None], cmap=FREQUENCY_COLOURS, aspect="auto", extent=(0, 1, 0, 1))
    inset.set_axis_off()
    for place, side, value in ((0.0, "left", low), (1.0, "right", high)):
        inset.text(place, -0.7, percent(value), transform=inset.transAxes, ha=side, va="top", fontsize=8.5, color=FAINT)
    inset.text(0.5, 1.6, "steps with a gradient", transform=inset.transAxes, ha="center", fontsize=8.5, color=FAINT)
