"""The fan of logged norm quantiles, for a target without rows of its own."""

from __future__ import annotations

from lightning_normdyn.report.canvas import BLUE, INK, VERMILION, new_axes, to_svg
from lightning_normdyn.report.card import Card
from lightning_normdyn.report.line_label import LineLabel, label_line_ends
from lightning_normdyn.report.numbers import plain
from lightning_normdyn.report.record import TargetRecord
from lightning_normdyn.report.scale import norm_scale, step_axis

_LOOKS = {
    "norm_p95": ("95%", BLUE, 1.0),
    "norm_mean": ("mean", VERMILION, 1.3),
    "norm_p50": ("median", INK, 1.9),
    "norm_p05": ("5%", BLUE, 1.0),
}
_CAPTION = "Norms of the vectors that came by: a healthy run levels off, with the outer lines staying at a fixed ratio."
_POINTS = 360


def fan_card(record: TargetRecord) -> Card | None:
    """Median, mean and outer quantiles of the norm over training, as far as they were logged."""
    fan = {name: record.values(name).thinned(_POINTS) for name in _LOOKS if len(record.values(name).steps)}
    if not fan:
        return None
    axes = new_axes(left=0.085, right=0.83, top=0.90)
    step_axis(axes, record.end_step)
    norm_scale(axes, *(series.values for series in fan.values()))
    labels = []
    for name, series in fan.items():
        text, colour, width = _LOOKS[name]
        axes.plot(series.steps, series.values, color=colour, lw=width, marker="o" if len(series.steps) == 1 else None)
        labels.append(LineLabel(series.last, text, colour))
    label_line_ends(axes, labels)
    ends = ", ".join(f"{label.text} {plain(label.y)}" for label in labels)
    svg = to_svg(axes, name=f"{record.anchor}-course", description=f"Norm over training; at the end: {ends}.")
    return Card("The course of the norms", _CAPTION, (("", svg),))
