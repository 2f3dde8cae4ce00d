"""The figure of norm against frequency, beside it the longest and shortest rows by name."""

from __future__ import annotations

import math
import re

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lightning_normdyn.report.kit.axes import axis_note, log_scale, positive_frame
from lightning_normdyn.report.kit.bulk import bulk_frame, outside_sentence
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.figure import new_axes, to_svg
from lightning_normdyn.report.kit.line_label import spread_apart
from lightning_normdyn.report.kit.numbers import Floats, fixed, percent, plain
from lightning_normdyn.report.kit.page import render
from lightning_normdyn.report.kit.table import Column, Table
from lightning_normdyn.report.kit.theme import BLUE, FAINT
from lightning_normdyn.report.run.target_record import TargetRecord

_MARKED, _LISTED, _LETTERS = 4, 8, 24
_DECADES_OF_FREQUENCY = 9.0
_BACKING = {"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
_CAPTION = "Norm at the last snapshot against how often a row got a gradient"
_HEALTHY = {
    "SGD": "under SGD norms rise with the fourth root of that once settled (dotted slope)",
    "AdamW": "under AdamW norms level off for rows that get one in a larger share of steps than 1 − β₂",
}
_OFTEN = "how often a row got a gradient"


def frequency_card(record: TargetRecord) -> Card | None:
    """The cloud of norm against frequency, and the longest and shortest rows in lists."""
    norm, frequency = record.trajectory.final_norm, record.trajectory.frequency
    usable = np.isfinite(norm) & (norm > 0) & np.isfinite(frequency) & (frequency > 0)
    if usable.sum() < 2 or np.ptp(np.log(frequency[usable])) < 0.01:
        return None
    order = np.flatnonzero(usable)[np.argsort(norm[usable], kind="stable")]
    shortest, longest = order[:_LISTED], order[::-1][:_LISTED]
    tables = (_list(record, "Longest", longest), _list(record, "Shortest", shortest))
    panels = (("", _draw(record, order)), ("", render("frequency_lists.html.j2", tables=tables)))
    healthy = _HEALTHY.get(_optimizer(record))
    far = outside_sentence({"": len(order) - len(_drawn(record, order))}, record.members)
    return Card("Norm against frequency", (f"{_CAPTION}: {healthy}." if healthy else f"{_CAPTION}.") + far, panels)


def readable(label: str) -> str:
    r"""A label that can be seen: outer blanks and control characters shown, long ones cut.

    Example:
        >>> readable("New York"), readable(" the\n"), readable("antidisestablishmentarianism")
        ('New York', '␣the␣', 'antidisestablishmentaria…')
    """
    visible = re.sub(r"^ +| +$|[^\S ]", lambda blank: "␣" * len(blank[0]), str(label))
    visible = "".join(letter if letter.isprintable() else "�" for letter in visible)
    return (visible if len(visible) <= _LETTERS else visible[:_LETTERS] + "…") or "(empty)"


def _optimizer(record: TargetRecord) -> str:
    return str(record.description.get("optimizer"))


def _draw(record: TargetRecord, order: NDArray[np.intp]) -> Markup:
    norm, frequency = record.trajectory.final_norm, record.trajectory.frequency
    axes = new_axes(left=0.085, top=0.90)
    log_scale(axes, "x", *positive_frame(frequency[order], decades=_DECADES_OF_FREQUENCY), unit="share")
    log_scale(axes, "y", *_norm_frame(record, order))
    axes.set_xlabel("steps with a gradient")
    axes.scatter(frequency[order], norm[order], s=5, color=BLUE, alpha=0.45, linewidths=0, rasterized=True)
    correlation = float(np.corrcoef(np.log(frequency[order]), np.log(norm[order]))[0, 1])
    axis_note(axes, f"norm; r {fixed(correlation, 3)} with {_OFTEN} (logarithms)")
    if _optimizer(record) == "SGD":
        _fourth_root(axes, frequency[order], norm[order])
    if record.labels is not None:
        drawn = _drawn(record, order)
        names = _names(record, drawn)
        _mark(axes, frequency[drawn[-_MARKED:]], norm[drawn[-_MARKED:]], names[-_MARKED:], side=-1)
        _mark(axes, frequency[drawn[:_MARKED]], norm[drawn[:_MARKED]], names[:_MARKED], side=1)
    shortest, longest = (f"{plain(float(norm[place]))} ({name})" for place, name in _ends(record, order))
    description = (
        f"Norm against {_OFTEN}, of {len(order):,} rows, log-log, r {fixed(correlation, 3)}. "
        f"The shortest: {shortest}; the longest: {longest}."
    )
    return to_svg(axes, name=f"{record.anchor}-words", description=description)


def _norm_frame(record: TargetRecord, order: NDArray[np.intp]) -> tuple[float, float]:
    """Limits around the bulk of the norms, with room for names."""
    low, high = bulk_frame(record.trajectory.final_norm[order])
    room = (high / low) ** (0.25 if record.labels is not None else 0.0)
    return low / room, high * room


def _drawn(record: TargetRecord, order: NDArray[np.intp]) -> NDArray[np.intp]:
    """The rows within the axes, in the same order."""
    norm = record.trajectory.final_norm[order]
    low, high = _norm_frame(record, order)
    return order[(norm >= low) & (norm <= high)]


def _ends(record: TargetRecord, order: NDArray[np.intp]) -> list[tuple[int, str]]:
    ends = order[[0, -1]]
    return list(zip(ends.tolist(), _names(record, ends), strict=True))


def _names(record: TargetRecord, places: NDArray[np.intp]) -> list[str]:
    rows = record.trajectory.rows[places].tolist()
    names = [(row, record.row_name(row)) for row in rows]
    return [f"row {row}" if name is None else readable(name) for row, name in names]


def _fourth_root(axes: Axes, frequency: Floats, norm: Floats) -> None:
    """A line of slope 1/4 through the middle of the cloud."""
    ends = np.array([frequency.min(), frequency.max()])
    axes.plot(ends, np.median(norm) * (ends / np.median(frequency)) ** 0.25, color=FAINT, lw=1.1, ls=(0, (1, 2)))


def _mark(axes: Axes, x: Floats, y: Floats, names: list[str], *, side: int) -> None:
    """Writes names apart from each other: left of and above their points (side -1), or right of and below (1)."""
    to_axes = axes.transData + axes.transAxes.inverted()
    places = to_axes.transform(np.column_stack([x, y]))
    ideal_heights = places[:, 1] - 0.05 * side
    heights = np.array(spread_apart(ideal_heights.tolist(), 0.062))
    heights -= side * np.max(side * (heights - ideal_heights))
    heights += max(0.0, 0.03 - heights[0]) - max(0.0, heights[-1] - 1.0)
    for place, height, name in zip(places, heights, names, strict=True):
        start = float(place[0]) + 0.035 * side
        axes.plot([place[0], start], [place[1], height], transform=axes.transAxes, color=FAINT, lw=0.6)
        align = "left" if side > 0 else "right"
        axes.text(
            start + 0.008 * side,
            height,
            name,
            transform=axes.transAxes,
            ha=align,
            va="center",
            fontsize=9,
            bbox=_BACKING,
        )


def _list(record: TargetRecord, title: str, places: NDArray[np.intp]) -> Table:
    trajectory = record.trajectory
    names = _names(record, places)
    decimals = max(0, 2 - math.floor(math.log10(float(np.median(trajectory.final_norm[places])))))
    columns = zip(names, trajectory.final_norm[places].tolist(), trajectory.frequency[places].tolist(), strict=True)
    rows = [(name, fixed(norm, decimals), percent(share)) for name, norm, share in columns]
    head = (Column("row", kind="word"), Column("norm"), Column("share"))
    return Table(f"{record.anchor}-{title.lower()}", title, head, rows)
