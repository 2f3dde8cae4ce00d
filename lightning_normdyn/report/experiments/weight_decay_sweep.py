"""The figure of the weight-decay sweep: norm against weight decay, and R⁴ against V²/λ."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from lightning_normdyn.history.experiment import ExperimentRecord
from lightning_normdyn.report.experiments.log_plot import Story, columns, log_axes, middle, power_line, write_lines
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.figure import to_svg
from lightning_normdyn.report.kit.numbers import Floats, fixed, plain
from lightning_normdyn.report.kit.scatter import FREQUENCY_COLOURS
from lightning_normdyn.report.kit.theme import BLUE, INK

_LEAD = (
    "A token table on real text under plain SGD, once per weight decay λ: where noise alone lengthens a row, the law "
    "says that R⁴ is proportional to V²/λ."
)
_CAPTION = (
    "Left: geometric mean over the words, and a dashed line of slope −1/4 through the middle; V² changes with λ too, "
    "so the points need not lie on it. Right: one point per word and weight decay, each decay in its colour; the "
    "dashed line, of slope 1, is the law itself, R⁴ = lr·V²/(2λ), and not a fit. V² and R are of the same steps. "
    "White circles are geometric means."
)


def weight_decay_story(record: ExperimentRecord) -> Story:
    """R against lambda, and R⁴ against V²/lambda."""
    arrays = columns(record.arrays)
    panels = (("Norm against weight decay", _against_decay(arrays)), ("R⁴ against V²/λ", _against_heat(arrays, record)))
    return Story("Weight decay sets the norm", _LEAD, Card("R against λ, and the law that folds it", _CAPTION, panels))


def _against_decay(arrays: dict[str, Floats]) -> Markup:
    decay, norm = arrays["weight_decay"], arrays["norm"]
    axes = log_axes([decay], [norm], across="weight decay λ", up="norm R")
    power_line(axes, -0.25, through=(middle(decay), middle(norm)))
    axes.plot(decay, norm, color=BLUE, lw=1.6, marker="o", ms=6)
    return to_svg(axes, name="sweep-decay", description=_describe_decay(decay, norm))


def _describe_decay(decay: Floats, norm: Floats) -> str:
    ends = (f"{plain(float(norm[place]))} at {plain(float(decay[place]))}" for place in (0, -1))
    return f"Geometric mean norm against weight decay, log-log: {' to '.join(ends)}."


def _against_heat(arrays: dict[str, Floats], record: ExperimentRecord) -> Markup:
    heat, fourth = arrays["word_predictor"], arrays["word_norm"] ** 4
    axes = log_axes([heat], [fourth], across="V²/λ", up="R⁴")
    power_line(axes, 1.0, through=(1.0, float(record.settings["lr"]) / 2))
    shade = np.log(arrays["word_weight_decay"])
    axes.scatter(heat, fourth, c=-shade, cmap=FREQUENCY_COLOURS.reversed(), s=9, lw=0, alpha=0.6, rasterized=True)
    axes.scatter(arrays["predictor"], arrays["norm"] ** 4, color="white", edgecolors=INK, s=42, lw=1.2, zorder=3)
    slope, r = record.findings[1].measured, record.findings[2].measured
    lines = [f"least squares: slope {fixed(slope or np.nan, 3)}", f"r {plain(r or np.nan, 4)}"]
    write_lines(axes, lines)
    return to_svg(
        axes,
        name="sweep-heat",
        description=f"R⁴ against V²/λ of every word under every weight decay, log-log; {', '.join(lines)}.",
    )
