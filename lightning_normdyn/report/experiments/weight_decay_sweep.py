"""The figure of the weight-decay sweep."""

from __future__ import annotations

import numpy as np

from lightning_normdyn.history.experiment import ExperimentRecord
from lightning_normdyn.report.experiments.plot import Story, columns, log_axes, middle, power_line, write_lines
from lightning_normdyn.report.kit.canvas import BLUE, INK, to_svg
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.numbers import fixed, plain
from lightning_normdyn.report.run.cloud import FREQUENCY_COLOURS
from lightning_normdyn.report.run.trajectory import Floats

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
    drawn = columns(record.arrays)
    panels = (("Norm against weight decay", _against_decay(drawn)), ("R⁴ against V²/λ", _against_heat(drawn, record)))
    return Story("Weight decay sets the norm", _LEAD, Card("R against λ, and the law that folds it", _CAPTION, panels))


def _against_decay(drawn: dict[str, Floats]) -> str:
    decay, norm = drawn["weight_decay"], drawn["norm"]
    axes = log_axes([decay], [norm], across="weight decay λ", up="norm R")
    power_line(axes, -0.25, through=(middle(decay), middle(norm)))
    axes.plot(decay, norm, color=BLUE, lw=1.6, marker="o", ms=6)
    return to_svg(axes, name="sweep-decay", description="Geometric mean norm against weight decay, log-log.")


def _against_heat(drawn: dict[str, Floats], record: ExperimentRecord) -> str:
    heat, fourth = drawn["word_predictor"], drawn["word_norm"] ** 4
    axes = log_axes([heat], [fourth], across="V²/λ", up="R⁴")
    power_line(axes, 1.0, through=(1.0, float(record.settings["lr"]) / 2))
    shade = np.log(drawn["word_weight_decay"])
    axes.scatter(heat, fourth, c=-shade, cmap=FREQUENCY_COLOURS.reversed(), s=9, lw=0, alpha=0.6, rasterized=True)
    axes.scatter(drawn["predictor"], drawn["norm"] ** 4, color="white", edgecolors=INK, s=42, lw=1.2, zorder=3)
    slope, r = record.findings[1].measured, record.findings[2].measured
    write_lines(axes, [f"slope {fixed(slope or np.nan, 3)}", f"r {plain(r or np.nan, 4)}"])
    return to_svg(
        axes, name="sweep-heat", description="R⁴ against V²/λ of every word under every weight decay, log-log."
    )
