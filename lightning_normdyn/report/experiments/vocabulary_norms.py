"""The figure of predicted against observed norms over a vocabulary."""

from __future__ import annotations

import numpy as np

from lightning_normdyn.history.experiment import ExperimentRecord
from lightning_normdyn.report.experiments.plot import Story, columns, log_axes, middle, power_line, write_lines
from lightning_normdyn.report.kit.canvas import BLUE, to_svg
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.frame import positive_frame
from lightning_normdyn.report.kit.numbers import fixed
from lightning_normdyn.report.kit.scale import square_axes
from lightning_normdyn.report.run.cloud import draw_cloud
from lightning_normdyn.report.run.prediction import fit_points
from lightning_normdyn.report.run.trajectory import Floats

_LEAD = (
    "The same table at one weight decay, its words all started with norm 1, held against R⁴ = lr·V²/(2λ) with V² from "
    "the gradients and nothing fitted."
)
_CAPTION = (
    "Left: one point per vocabulary position; the dashed line is a perfect prediction. The published slope and r "
    "belong to another model and to the full balance equation, whose radial term is zero here. Right: the same norms "
    "against the word's share of the corpus, and a dashed line of slope 1/4, where V² is proportional to frequency."
)


def vocabulary_story(record: ExperimentRecord) -> Story:
    """Predicted against observed norm, and the norm against how frequent a word is."""
    drawn = columns(record.arrays)
    panels = (("Predicted against observed norm", _predicted(drawn)), ("Norm against frequency", _frequency(drawn)))
    return Story("Every word's norm, predicted", _LEAD, Card("One point per vocabulary position", _CAPTION, panels))


def _predicted(drawn: dict[str, Floats]) -> str:
    predicted, observed = drawn["predicted"], drawn["observed"]
    axes = square_axes(*positive_frame(predicted, observed, pad=0.04))
    draw_cloud(axes, predicted, observed, drawn["update_probability"])
    fit = fit_points(predicted, observed)
    write_lines(axes, [f"slope {fixed(fit.slope, 3)}", f"r {fixed(fit.pearson_r, 4)}", f"{fit.n:,} words"])
    axes.set(xlabel="predicted norm", ylabel="observed norm")
    return to_svg(axes, name="vocabulary", description="Observed against predicted norm of every word, log-log.")


def _frequency(drawn: dict[str, Floats]) -> str:
    share, observed = drawn["share"], drawn["observed"]
    axes = log_axes([share], [observed], across="word's share of the corpus", up="norm R", square=True)
    power_line(axes, 0.25, through=(middle(share), middle(observed)))
    axes.scatter(share, observed, color=BLUE, s=6, lw=0, alpha=0.5, rasterized=True)
    fit = fit_points(share, observed)
    write_lines(axes, [f"slope {fixed(fit.slope if np.isfinite(fit.slope) else np.nan, 3)}"])
    return to_svg(
        axes, name="vocabulary-frequency", description="Norm against the word's share of the corpus, log-log."
    )
