"""The figure of the radial share: how much of gradient and update points along the vector."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from lightning_normdyn.instruments import QUANTITIES
from lightning_normdyn.report.kit.axes import axis_note, level_grid, log_scale, positive_frame, step_axis
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.figure import new_axes, to_svg
from lightning_normdyn.report.kit.line_label import LineLabel, label_line_ends
from lightning_normdyn.report.kit.numbers import Floats, percent, plain
from lightning_normdyn.report.kit.theme import BLUE, FAINT, VERMILION
from lightning_normdyn.report.run.target_record import Series, TargetRecord

_COLOURS = {"radial_fraction": BLUE, "update_radial_fraction": VERMILION}
_ROUNDING = 1e-6
_TINY = 0.02
_POINTS = 360
_CAPTION = (
    "How much of each points along the vector instead of across it: a loss that sees directions alone, such as a "
    "cosine, keeps the gradient's share at rounding, below about 10⁻⁶, and a larger one means that the loss feels "
    "the norm."
)


def radial_card(record: TargetRecord) -> Card | None:
    """Radial shares over training, on a logarithmic scale where they are tiny."""
    shares = {
        QUANTITIES[key].label: (record.values(key), colour)
        for key, colour in _COLOURS.items()
        if len(record.values(key).steps)
    }
    if not shares:
        return None
    return Card("Radial share of gradient and update", _CAPTION, (("", _draw(record, shares)),))


def _draw(record: TargetRecord, shares: dict[str, tuple[Series, str]]) -> Markup:
    axes = new_axes(left=0.105, right=0.83, top=0.90)
    step_axis(axes, record.end_step)
    logarithmic = min(_typical(series) for series, _ in shares.values()) < _TINY
    if logarithmic:
        _tiny_scale(axes, *(series.values for series, _ in shares.values()))
    else:
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(lambda value, _: percent(value))
    level_grid(axes)
    axis_note(axes, "share that is radial")
    labels = [_draw_share(axes, name, series, colour, logarithmic) for name, (series, colour) in shares.items()]
    label_line_ends(axes, labels)
    last = ", ".join(f"{label.text} {plain(label.y)}" for label in labels)
    return to_svg(axes, name=f"{record.anchor}-radial", description=f"Radial share over training; at the end: {last}.")


def _typical(series: Series) -> float:
    positive = series.values[series.values > 0]
    return float(np.median(positive)) if len(positive) else 1.0


def _tiny_scale(axes: Axes, *values: Floats) -> None:
    low, high = positive_frame(*values, decades=9.0)
    if low < _ROUNDING:
        low, high = positive_frame(*values, np.array([3 * _ROUNDING]), decades=9.0)
        axes.axhspan(low, _ROUNDING, color=FAINT, alpha=0.09, linewidth=0)
        axes.text(0.985, _ROUNDING, "rounding", transform=axes.get_yaxis_transform(), ha="right", va="top", color=FAINT)
    log_scale(axes, "y", low, high, unit="power" if low < 1e-5 else "share")


def _draw_share(axes: Axes, name: str, series: Series, colour: str, logarithmic: bool) -> LineLabel:
    if logarithmic:
        series = Series(series.steps[series.values > 0], np.log(series.values[series.values > 0]))
    back = np.exp if logarithmic else np.asarray
    raw = series.thinned(_POINTS)
    smooth = raw.smoothed()
    axes.plot(raw.steps, back(raw.values), color=colour, lw=0.6, alpha=0.35)
    axes.plot(smooth.steps, back(smooth.values), color=colour, lw=1.8, marker="o" if len(raw.steps) == 1 else None)
    return LineLabel(float(back(smooth.last)), name, colour)
