"""The figure of kernel votes: what each item of a batch does to the norm of each probe, as a map with totals."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray

from lightning_normdyn.core import KernelVotes
from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.object_checks import check_instance, check_path, check_texts
from lightning_normdyn.report.kit.figure import drawing_style, write_figure
from lightning_normdyn.report.kit.numbers import Floats, plain
from lightning_normdyn.report.kit.theme import BLUE, FAINT, GREY, INK, LIGHT_PAPER, VERMILION
from lightning_normdyn.report.run.norm_against_frequency import readable

PUSH_COLOURS = LinearSegmentedColormap.from_list("push", [BLUE, "#8fc1de", LIGHT_PAPER, "#f0b48a", VERMILION])
"""Inward, nothing, outward."""

_CELL, _LETTER, _SMALL_LETTER, _MARGIN = 0.21, 0.084, 0.066, 0.16
_BARS, _NUMBERS, _HEAD, _FOOT = 1.1, 0.72, 0.62, 0.66
"""Inches: a cell, a letter of a name and of a note, the margin; the bars and their numbers, above and below cells."""

_GRID = "#e4e8ec"
_NOTE = "rows: whose norm moves; columns: what moves it"
_FRAMED = "; framed: itself"
_FULL_COLOUR = 0.98


class _Selection(NamedTuple):
    """What is drawn, in drawing order: votes ``[p, b]``, their names, the total of all items ``[p]``, a note."""

    votes: Floats
    probes: list[str]
    items: list[str]
    totals: Floats
    share_note: str


def write_votes(
    path: str | os.PathLike[str],
    votes: KernelVotes,
    *,
    probes: Sequence[str],
    items: Sequence[str],
    limit: int = 40,
) -> Path:
    """Draws votes as :func:`draw_votes` does and writes the figure.

    Args:
        path: ends in ``.png``, ``.svg`` or ``.pdf``.
        votes: of :func:`~lightning_normdyn.core.kernel_votes`.
        probes: a name for each probe.
        items: a name for each item of the batch.
        limit: so many probes and items are drawn, those with the largest votes.

    Returns:
        The path.

    Raises:
        ValueError: if the names do not fit, or the ending is another.
        OSError: if the figure cannot be written.
    """
    check_path(path=path)
    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"path: expected a name that ends in .png, .svg or .pdf, got {path.name!r}")
    selection = _select(votes, probes, items, limit)
    with drawing_style():
        write_figure(path, _draw(selection), description=_describe(selection))
    return path


def draw_votes(votes: KernelVotes, *, probes: Sequence[str], items: Sequence[str], limit: int = 40) -> Figure:
    """A row for each probe, a column for each item of the batch, and beside each row what all items add up to.

    Orange cells push a probe's norm outward, blue ones inward. Probes stand from the most lengthened to the most
    shortened, items from those that push outward to those that push inward. A frame marks an item's vote on itself,
    where a probe and an item have the same name.

    Args:
        votes: of :func:`~lightning_normdyn.core.kernel_votes`.
        probes: a name for each probe.
        items: a name for each item of the batch.
        limit: so many probes and items are drawn, those with the largest votes.

    Returns:
        The figure, of a size that fits its cells.

    Raises:
        ValueError: if the names do not fit.
    """
    selection = _select(votes, probes, items, limit)
    with drawing_style():
        return _draw(selection)


def _select(votes: KernelVotes, probes: Sequence[str], items: Sequence[str], limit: int) -> _Selection:
    """The largest votes, in drawing order.

    Raises:
        ValueError: if the names do not fit.
    """
    check_instance(KernelVotes, votes=votes, hint="kernel_votes makes them")
    check_texts(probes=probes, items=items)
    check_count(limit=limit)
    values = votes.votes.detach().cpu().double().numpy()
    for argument, names, count in (("probes", probes, values.shape[0]), ("items", items, values.shape[1])):
        if len(names) != count:
            raise ValueError(f"{argument}: expected {count} names, got {len(names)}; pass one for each in their order")
    totals = values.sum(1)
    rows = _largest(np.abs(values).sum(1), limit)
    columns = _largest(np.abs(values[rows]).sum(0), limit)
    rows = rows[np.argsort(-totals[rows], kind="stable")]
    columns = columns[np.argsort(-values[np.ix_(rows, columns)].sum(0), kind="stable")]
    shares = [
        f"{len(places)} of {len(names)} {kind}"
        for kind, places, names in (("probes", rows, probes), ("items", columns, items))
        if len(places) < len(names)
    ]
    return _Selection(
        values[np.ix_(rows, columns)],
        [readable(probes[row]) for row in rows],
        [readable(items[column]) for column in columns],
        totals[rows],
        f"{' and '.join(shares)}, by the size of their votes" if shares else "",
    )


def _describe(selection: _Selection) -> str:
    """What a reader who does not see the figure should know."""
    ends = ((selection.probes[place], selection.totals[place]) for place in (0, -1)) if selection.probes else ()
    totals = " to ".join(f"{plain(float(total))} ({name})" for name, total in ends)
    return (
        f"Who pushes whom: votes of {len(selection.items)} items on the norms of {len(selection.probes)} probes; "
        f"sums over all items from {totals}."
    )


def _largest(sizes: Floats, limit: int) -> NDArray[np.intp]:
    return np.sort(np.argsort(-sizes, kind="stable")[:limit])


def _draw(selection: _Selection) -> Figure:
    height, width = (_CELL * count for count in selection.votes.shape)
    left = _MARGIN + _LETTER * max(len(name) for name in selection.probes) + 0.1
    bottom = _FOOT + _LETTER * max(3, *(len(name) for name in selection.items)) + 0.1
    note = _NOTE + (_FRAMED if set(selection.probes) & set(selection.items) else "")
    notes = [note, selection.share_note] if selection.share_note else [note]
    total_width = max(
        left + width + _MARGIN + _BARS + _NUMBERS,
        *(2 * _MARGIN + _SMALL_LETTER * len(note) for note in notes),
    )
    figure = Figure(figsize=(total_width, bottom + height + _HEAD + 0.18 * len(notes)), dpi=72)
    limit = _colour_limit(selection.votes)
    _cells(_axes_at(figure, left, bottom, width, height), selection, limit)
    _totals(_axes_at(figure, left + width + _MARGIN, bottom, _BARS, height), selection)
    _colour_bar(_axes_at(figure, _MARGIN, 0.36, 2.4, 0.09), limit)
    _note(figure, 0, "Who pushes whom", fontsize=11, weight="bold")
    for line, note in enumerate(notes, start=1):
        _note(figure, line, note, fontsize=8.5, color=FAINT)
    return figure


def _axes_at(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the lower left corner."""
    whole_width, whole_height = figure.get_size_inches()
    return figure.add_axes((x / whole_width, y / whole_height, width / whole_width, height / whole_height))


def _note(figure: Figure, line: int, text: str, **look: Any) -> None:
    """A line of text at the head."""
    whole_width, whole_height = figure.get_size_inches()
    figure.text(_MARGIN / whole_width, 1 - (0.2 + 0.2 * line) / whole_height, text, va="center", **look)


def _colour_limit(votes: Floats) -> float:
    """Where colour is full: a few large votes do not bleach the rest."""
    sizes = np.abs(votes)[votes != 0]
    return float(np.quantile(sizes, _FULL_COLOUR)) if len(sizes) else 1.0


def _cells(axes: Axes, selection: _Selection, limit: float) -> None:
    rows, columns = selection.votes.shape
    axes.pcolormesh(selection.votes, cmap=PUSH_COLOURS, vmin=-limit, vmax=limit, edgecolors=_GRID, linewidth=0.4)
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.set_xticks(np.arange(columns) + 0.5, selection.items, rotation=90)
    axes.set_yticks(np.arange(rows) + 0.5, selection.probes)
    axes.tick_params(length=0, pad=4)
    axes.spines[:].set_visible(False)
    for row, probe in enumerate(selection.probes):
        for column in (place for place, item in enumerate(selection.items) if item == probe):
            axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=INK, linewidth=1.1, clip_on=False))


def _totals(axes: Axes, selection: _Selection) -> None:
    """The sum over all items as a bar and a number."""
    rows = np.arange(len(selection.totals)) + 0.5
    axes.barh(
        rows, selection.totals, height=0.62, color=[VERMILION if total > 0 else BLUE for total in selection.totals]
    )
    low, high = min(0.0, float(selection.totals.min())), max(0.0, float(selection.totals.max()))
    axes.set(ylim=(len(rows), 0), xlim=(low, high) if high > low else (-1, 1), xticks=[], yticks=[])
    axes.axvline(0, color=GREY, linewidth=0.8, clip_on=False)
    axes.spines[:].set_visible(False)
    sideways, above = axes.get_yaxis_transform(), Affine2D().translate(0, 4)
    for row, total in zip(rows, selection.totals.tolist(), strict=True):
        axes.text(1.06, row, plain(total, 2), transform=sideways, va="center_baseline", fontsize=8.5, color=FAINT)
    axes.text(0, 1, "sum of all items", transform=axes.transAxes + above, va="bottom", fontsize=8.5, color=FAINT)


def _colour_bar(axes: Axes, limit: float) -> None:
    axes.imshow(np.linspace(-1, 1, 129)[None], cmap=PUSH_COLOURS, aspect="auto", extent=(0, 1, 0, 1))
    axes.set_axis_off()
    size = plain(limit, 2)
    for place, side, text in ((0, "left", f"inward, ≤ −{size}"), (1, "right", f"outward, ≥ {size}")):
        axes.text(place, 1.5, text, transform=axes.transAxes, ha=side, va="bottom", fontsize=8.5, color=INK)
    note = "first-order change of the norm, per unit of lr"
    axes.text(0, -0.6, note, transform=axes.transAxes, va="top", fontsize=8.5, color=FAINT)
