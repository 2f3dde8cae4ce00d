"""Names written at the ends of lines, so that no legend has to be looked up."""

from __future__ import annotations

import math
from typing import NamedTuple

from matplotlib.axes import Axes

from lightning_normdyn.report.kit.theme import legible


class LineLabel(NamedTuple):
    """A name for the line that ends at height ``y``."""

    y: float
    text: str
    colour: str


def label_line_ends(axes: Axes, labels: list[LineLabel], *, gap: float = 0.075) -> None:
    """Writes each label to the right of the axes, at its line's height or as near as the others let it.

    Args:
        axes: axes with their final limits.
        labels: what to write, and at which height of the data; those at NaN are left out.
        gap: least distance between two labels, as a share of the axes' height.
    """
    labels = [label for label in labels if math.isfinite(label.y)]
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [float(to_axes.transform((axes.get_xlim()[1], label.y))[1]) for label in labels]
    order = sorted(range(len(labels)), key=heights.__getitem__)
    places = spread_apart([min(max(heights[index], 0.0), 1.0) for index in order], gap)
    for index, place in zip(order, places, strict=True):
        start = min(max(heights[index], 0.0), 1.0)
        axes.plot(
            [1.005, 1.03], [start, place], transform=axes.transAxes, clip_on=False, lw=0.7, color=labels[index].colour
        )
        axes.text(
            1.04,
            place,
            labels[index].text,
            transform=axes.transAxes,
            va="center",
            color=legible(labels[index].colour),
            fontsize=9,
        )


def spread_apart(heights: list[float], gap: float, *, low: float = 0.02, high: float = 1.0) -> list[float]:
    """Moves rising heights until neighbours are at least ``gap`` apart, each group about its own mean.

    Args:
        heights: where the labels would be, rising.
        gap: least distance between two of them.
        low: no label goes below it.
        high: no label goes above it, as long as there is room.

    Example:
        >>> spread_apart([0.0, 0.5, 0.5], 0.25, low=0.0)
        [0.0, 0.375, 0.625]
    """

    def bottom(group: list[float]) -> float:
        length = gap * (len(group) - 1)
        return max(low, min(sum(group) / len(group) - length / 2, high - length))

    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and bottom(groups[-1]) - bottom(groups[-2]) < gap * len(groups[-2]) - 1e-12:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [bottom(group) + index * gap for group in groups for index in range(len(group))]
