"""Names written at the ends of lines, so that no legend has to be looked up."""

from __future__ import annotations

from typing import NamedTuple

from matplotlib.axes import Axes


class LineLabel(NamedTuple):
    """A name for the line that ends at height ``y``."""

    y: float
    text: str
    colour: str


def label_line_ends(axes: Axes, labels: list[LineLabel], *, gap: float = 0.075) -> None:
    """Writes each label to the right of the axes, at its line's height or as near as the others let it.

    Args:
        axes: axes with their final limits.
        labels: what to write, and at which height of the data.
        gap: least distance between two labels, as a share of the axes' height.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [float(to_axes.transform((axes.get_xlim()[1], label.y))[1]) for label in labels]
    order = sorted(range(len(labels)), key=heights.__getitem__)
    places = spread_apart([min(max(heights[index], 0.0), 1.0) for index in order], gap)
    for index, place in zip(order, places, strict=True):
        start = min(max(heights[index], 0.0), 1.0)
        axes.plot([1.005, 1.03], [start, place], transform=axes.transAxes, clip_on=False, lw=0.7, color=labels[index].colour)
        axes.text(
            1.04, place, labels[index].text, transform=axes.transAxes, va="center", color=labels[index].colour, fontsize=9
        )


def spread_apart(heights: list[float], gap: float) -> list[float]:
    """Moves rising heights until neighbours are at least ``gap`` apart, each group about its own mean.

    Example:
        >>> spread_apart([0.0, 0.5, 0.5], 0.2)
        [0.0, 0.4, 0.6]
    """
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _bottom(groups[-1], gap) - _top(groups[-2], gap) < gap - 1e-12:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_bottom(group, gap) + index * gap for group in groups for index in range(len(group))]


def _bottom(group: list[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: list[float], gap: float) -> float:
    return sum(group) / len(group) + gap * (len(group) - 1) / 2
