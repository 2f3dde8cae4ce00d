"""The figure of predicted against observed norms over a vocabulary."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from lightning_normdyn.history.experiment import ExperimentRecord
from lightning_normdyn.report.experiments.log_plot import Story, columns, log_axes, middle, power_line, write_lines
from lightning_normdyn.report.kit.axes import positive_frame, square_axes
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.figure import to_svg
from lightning_normdyn.report.kit.numbers import Floats, fixed
from lightning_normdyn.report.kit.scatter import scatter_rows
from lightning_normdyn.report.kit.theme import BLUE
from lightning_normdyn.report.run.predicted_against_observed import fit_points

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
    arrays = columns(record.arrays)
    panels = (("Predicted against observed norm", _predicted(arrays)), ("Norm against frequency", _frequency(arrays)))
    return Story("Every word's norm, predicted", _LEAD, Card("One point per vocabulary position", _CAPTION, panels))


def _predicted(arrays: dict[str, Floats]) -> Markup:
    predicted, observed = arrays["predicted"], arrays["observed"]
    axes = square_axes(*positive_frame(predicted, observed, pad=0.04))
    scatter_rows(axes, predicted, observed, arrays["update_probability"])
    fit = fit_points(predicted, observed)
    lines = [f"least squares: slope {fixed(fit.slope, 3)}", f"r {fixed(fit.pearson_r, 4)}", f"{fit.n:,} words"]
    write_lines(axes, lines)
    axes.set(xlabel="predicted norm", ylabel="observed norm")
    return to_svg(
        axes,
        name="vocabulary",
        description=f"Observed against predicted norm of every word, log-log; {', '.join(lines)}.",
    )


def _frequency(arrays: dict[str, Floats]) -> Markup:
    share, observed = arrays["share"], arrays["observed"]
    axes = log_axes([share], [observed], across="word's share of the corpus", up="norm R", square=True)
    power_line(axes, 0.25, through=(middle(share), middle(observed)))
    axes.scatter(share, observed, color=BLUE, s=6, lw=0, alpha=0.5, rasterized=True)
    fit = fit_points(share, observed)
    slope = f"least squares: slope {fixed(fit.slope if np.isfinite(fit.slope) else np.nan, 3)}"
    write_lines(axes, [slope])
    return to_svg(
        axes, name="vocabulary-frequency", description=f"Norm against the word's share of the corpus, log-log; {slope}."
    )
