"""The figure of class imbalance: norm against class weight, for four classes of unequal frequency."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import FixedLocator

from lightning_normdyn.history.experiment import ExperimentRecord
from lightning_normdyn.report.experiments.log_plot import Story, columns, log_axes, power_line
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.figure import to_svg
from lightning_normdyn.report.kit.line_label import LineLabel, label_line_ends
from lightning_normdyn.report.kit.numbers import fixed, plain
from lightning_normdyn.report.kit.theme import BLUE, GREEN, VERMILION

_LEAD = (
    "Four classes as far from each other as can be, arrays with weights 1 : 2 : 4 : 8, under plain SGD: nothing but "
    "frequency tells them apart."
)
_CAPTION = (
    "Norms over that of the rarest class; the dashed line is (1, 2, 4, 8)^(1/4). Prototypes that are queries get a "
    "gradient only when their class is arrays, which is where that law holds. In a softmax head a prototype is also "
    "everybody's negative, so V² is not proportional to frequency and the norms lie flatter (crosses: the law with the "
    "V² that was measured). An encoder shares its weights between classes: only the order is expected of it, it is the "
    "mean of three seeds, and single seeds do break that order."
)
_LOOKS = (("queries", "queries", BLUE), ("softmax", "softmax head", VERMILION), ("encoder", "encoder", GREEN))


def class_story(record: ExperimentRecord) -> Story:
    """Norm against class weight, relative to the rarest class."""
    arrays = columns(record.arrays)
    ratios = {name: arrays[name] / arrays[name][0] for name, *_ in _LOOKS}
    weight = arrays["weight"]
    axes = log_axes(
        [weight], [*ratios.values(), np.array([1.0, 8**0.25])], across="class weight", up="norm / norm at 1", right=0.8
    )
    axes.xaxis.set_major_locator(FixedLocator(weight.tolist()))
    power_line(axes, 0.25, through=(1.0, 1.0))
    for name, _, colour in _LOOKS:
        axes.plot(weight, ratios[name], color=colour, lw=1.5, marker="o", ms=6)
    for name in ("queries", "softmax"):
        law = arrays[f"{name}_law"] / arrays[f"{name}_law"][0]
        axes.scatter(weight, law, color="white", marker="x", s=16, lw=1.1, zorder=4)
    label_line_ends(axes, [LineLabel(float(ratios[name][-1]), label, colour) for name, label, colour in _LOOKS])
    ends = ", ".join(f"{label} {fixed(float(ratios[name][-1]), 3)}" for name, label, _ in _LOOKS)
    heaviest = f"at weight {plain(float(weight[-1]))}: {ends}"
    description = f"Norm against class weight, relative to the rarest class, log-log; {heaviest}."
    svg = to_svg(axes, name="classes", description=description)
    return Story("Four classes, 1 : 2 : 4 : 8", _LEAD, Card("Norm against class weight", _CAPTION, (("", svg),)))
