"""Every quantity that is logged: what it means, its unit, what is healthy, and what to do if it is not.

The docs table, the report and the check of a user's own names read it. To add a quantity, log it in one file and enter
it here; a test compares this table with what real runs log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from lightning_normdyn.core.dynamics.published_fit import PUBLISHED_FIT

LITTLE_MOVE = 0.1
"""A relative move of norms since a window's start below which predicting them mostly repeats that start."""


class Quantity(NamedTuple):
    """One quantity of a target, logged as ``normdyn/<target>/<name>``.

    Attributes:
        name: the last part of its key.
        meaning: what it is, in Markdown.
        unit: ``1`` for a ratio.
        healthy: what to expect of a run that goes well.
        remedy: what else it means, and what to do.
        label: what pages call it, among the quantities that they show it with.
        reading: how pages say in a phrase what it is.
    """

    name: str
    meaning: str
    unit: str
    healthy: str
    remedy: str
    label: str
    reading: str


_TABLE: tuple[tuple[Mapping[str, str | tuple[str, str]], str, str, str, str], ...] = (
    (
        {"norm_mean": "mean", "norm_p05": "5%", "norm_p50": "median", "norm_p95": "95%"},
        "mean and quantiles of the norms; of a table, of the rows that were met",
        "as the weights",
        "levels off",
        "rising without end: no weight decay, or too little; to zero: too much",
    ),
    (
        {"norm_min": "shortest"},
        "smallest norm of a table's rows that were met",
        "as the weights",
        "above a hundredth of `norm_p50`",
        "far below: rare rows die under weight decay; raise β₂, lower λ, or repair them (`repair_rows`)",
    ),
    (
        {"untouched_rows": "rows never met"},
        "tracked rows of a table without a gradient since the run began, `padding_idx` left out; they follow decay "
        "alone, R(t)/R(0) = Π(1 − lr·λ)",
        "rows",
        "0, or rows that nothing will ever look up",
        "they shrink towards zero and spoil the first step that meets them: no decay for them, or `repair_rows`",
    ),
    (
        {"dead_rows": "dead rows"},
        "tracked rows so short that one typical update u erases them (R < eps·u, under SGD R² < eps·u·R of the "
        "others), or that their numbers leave the range of the table's dtype",
        "rows",
        "0",
        "their gradient, 1/R as large, fills the clipped norm: `repair_rows`, and less decay",
    ),
    (
        {"dead_at_step": "first death at step"},
        "the step at which the shortest row that was never met will be dead, at the present lr·λ; left out where decay "
        "is too small for the dtype to act, or nothing is left to die",
        "steps",
        "far beyond the end of the run",
        "within the run: lower λ, keep the table in float32, or leave such rows out of the table",
    ),
    (
        {"norm_cv": "spread of the norms"},
        "standard deviation / mean of the norms",
        "1",
        "0.1 to 1, steady",
        "near 0: lengths carry nothing (a final LayerNorm, AdamW on frequent rows); growing: rare rows not settled",
    ),
    (
        {"gradient_norm": "gradient norm"},
        "Frobenius norm of the target's gradient, before clipping; of an output, over all vectors of the step",
        "1/norm",
        "steady",
        "spikes: lower lr, clip",
    ),
    (
        {"gradient_error": "error of gradients"},
        "relative rounding error of a table's gradient where it is read off a fused optimizer's steps (TorchRec), "
        "because none is ever there",
        "1",
        "below 0.001",
        "above 0.01: rows hardly move beside their length; keep them in float32, or take EXACT_ROWWISE_ADAGRAD, whose "
        "sums tell lengths",
    ),
    (
        {"clip_ratio": "share left by clipping"},
        "gradient norm after clipping / before",
        "1",
        "1, or rarely less",
        "always far below 1: clipping sets the step size, and with it the norms",
    ),
    (
        {
            "clip_share": (
                "share of the largest rows",
                "share of the model's squared gradient norm that a table's largest rows own",
            )
        },
        "share of the squared gradient norm of all that the optimizer trains that the table's largest rows own: a "
        "hundredth of those with a gradient, one at least",
        "0 to 1",
        "below a half",
        "near 1: under clipping by norm a few rows set the step of the whole model; read `clip_row` and `dead_rows`",
    ),
    (
        {"clip_row": "row with the largest gradient"},
        "number of the row that owns most of it",
        "row",
        "changes from look to look",
        "one row again and again: repair it (`repair_rows`), or look at what it stands for",
    ),
    (
        {"radial_fraction": "gradient"},
        "length of the radial part of the gradient / its whole length",
        "0 to 1",
        "1e-8 to 1e-6 for a cosine loss in float32",
        "larger: the loss sees lengths (meant for Dot), or normalises in half precision",
    ),
    (
        {"update_radial_fraction": ("update", "length of the radial part of the applied update / its whole length")},
        "the same of the applied update, decay included",
        "0 to 1",
        "small in a table; up to a half in an encoder, whose items move together",
        "near 1: decay alone moves the table",
    ),
    (
        {"angular_update": "turn per step"},
        "RMS angle by which a row turned",
        "radians a step",
        "tables, settled: sqrt(2·lr·λ/(1 + μ)) under SGD, sqrt(2·lr·λ·(1 − β₁)/(1 + β₁)) under AdamW; "
        "encoders: steady, they turn faster",
        "above: not settled, or lr too high; below: norms too long for this decay",
    ),
    (
        {"effective_lr": "rate of directions"},
        "e · mean of 1/R² over the touched rows: the rate at which directions learn",
        "1/norm²",
        "steady, or falling with lr",
        "exploding: norms collapse",
    ),
    (
        {"budget_decay": "decay", "budget_drift": "drift", "budget_growth": "growth"},
        "mean change of R² in a step from decay, from the radial push, from the size of the step, each over R²",
        "1/step",
        "settled: they add up to 0",
        "drift is 0 for a cosine loss under plain SGD; momentum and Adam carry earlier steps on, which shows "
        "as drift, and Adam's coupled decay is in drift too; of an optimizer without a known law, growth alone",
    ),
    (
        {"budget_residual": ("Budget residual", "what the budget leaves unexplained; rounding in a healthy run")},
        "largest gap between their sum and the change of R², over R²",
        "1",
        "below 1e-5",
        "an identity, in float64: if not, report it",
    ),
    (
        {
            "stationarity": (
                "Stationarity",
                "1: the norms have settled; 0: they still move one way; over all rows together, so the longest decide",
            )
        },
        "1 − net change of R² / gross flow, over the window and all rows together, so that the longest rows decide",
        "0 to 1",
        "above 0.9: settled, as far as long rows tell: `equilibrium_median_error` is about the typical row; "
        "of an encoder read `equilibrium_median_error` and `growth_share + drift_share` "
        "besides, since large flows that nearly cancel hide a slow change",
        "below 0.5: norms mostly repeat where they started; raise lr·λ, train longer, or start nearer; an "
        "annealed lr freezes norms before they settle",
    ),
    (
        {
            "radial_decay": "Radial decay",
            "radial_decay_ratio": (
                "Radial decay over weight decay",
                "the number of layers for a bias-free ReLU network, 1 for a table",
            ),
        },
        "of encoders: λ_rad, median over the items, and over λ",
        "1; ratio 1",
        "steady; the ratio is the degree of the network in its decayed weights",
        "near 0: the output is normalised, or what scales it is not decayed",
    ),
    (
        {
            "growth_share": ("Growth over decay", "what the size of steps adds, as a share of what decay takes"),
            "drift_share": ("Drift over decay", "what the task pushes outwards; with growth, 1 in a settled run"),
        },
        "of encoders: what growth and drift add, as a share of what decay takes, medians over the items",
        "1",
        "settled: they add up to 1",
        "sum above 1: norms still rise; below: they fall; drift far from 0: the loss sees lengths, or steps "
        "run along curved directions",
    ),
    (
        {
            "radial_decay_stderr": "Radial decay",
            "growth_share_stderr": "Growth over decay",
            "drift_share_stderr": "Drift over decay",
        },
        "standard errors over the window's samples, the first relative",
        "1",
        "below a third of what they are of",
        "measure more often (`every_n_steps`) or in longer windows",
    ),
    (
        {"relaxation_steps": ("Relaxation time", "to settle at the current rate")},
        "steps in which the distance to equilibrium falls by e, at the window's mean lr",
        "steps",
        "well below the run's length",
        "longer than the run: norms at the end are those of the start",
    ),
    (
        {"equilibrium_norm_p50": "Where norms would settle"},
        "median over the rows of the norm at which the equilibrium law has them settle, at the window's mean lr",
        "as the weights",
        "near `norm_p50`, or reached within the run",
        "far from it: see `relaxation_steps`; `equilibrium_init` starts rows there",
    ),
    (
        {"common_direction": "Common direction"},
        "length of the mean of directions: of a table's rows at a window's end, of an output's vectors in a step",
        "0 to 1",
        "below 0.5",
        "near 1: all rows point one way; add negatives, lower the temperature",
    ),
    (
        {"equilibrium_median_error": "median error"},
        "median of |predicted − observed| / observed for the equilibrium law at the window's learning rates, "
        "observed as the mean over the window",
        "1",
        "below 0.05 once settled, 0.15 under AdamW",
        "read `stationarity` first; under AdamW gradients that are far from white noise shift it",
    ),
    (
        {"equilibrium_slope": "slope", "equilibrium_pearson_r": "r", "equilibrium_r2": "R²"},
        "log observed on log predicted, each judged row weighted by what chance does to it; where that is not known "
        "(encoders), by least squares",
        "1",
        "1, above 0.97, above 0.94",
        "not settled; under AdamW the law gives all frequent rows one norm, so there read the median error",
    ),
    (
        {"equilibrium_slope_stderr": "±"},
        "standard error of that slope",
        "1",
        "below 0.05",
        "longer windows (`window`), more rows",
    ),
    (
        {"equilibrium_judged_rows": "rows judged"},
        "rows that enter the weighted fit: met often enough, by what steps before the window said, for the law and its "
        "errors to hold",
        "count",
        "most of the table",
        "few: rows are too rare for the window (lengthen `window`) or for this decay (a row should be met often within "
        "`relaxation_steps`)",
    ),
    (
        {
            "equilibrium_coverage": "inside their 90% interval",
            "equilibrium_excess": "scatter over what chance explains",
        },
        "share of judged rows inside their own 90% interval; RMS of log observed − log predicted over what chance "
        "explains",
        "1",
        "0.85 to 0.97; 0.8 to 1.2",
        "coverage far below, excess above: the law misses something that chance does not explain: not settled, "
        "gradients that are no white noise, a loss that sees lengths",
    ),
    (
        {"equilibrium_least_squares_slope": "slope", "equilibrium_least_squares_pearson_r": "r"},
        "the same by plain least squares over all rows that were met, as the published fit was made",
        "1",
        f"published: {PUBLISHED_FIT.slope}, {PUBLISHED_FIT.pearson_r}",
        "lower than the weighted ones: rare rows, whose predictions are noisy, flatten the line",
    ),
    (
        {
            "transient_slope": "slope",
            "transient_pearson_r": "r",
            "transient_r2": "R²",
            "transient_median_error": "median error",
        },
        "norms at the window's end against the recursion from those at its start, through its own learning rates; "
        "weighted as for equilibrium under SGD, else by least squares",
        "1",
        "1, 0.99, 0.98, below 0.03",
        "rows too rare for the window: lengthen `window`",
    ),
    (
        {
            "transient_slope_stderr": "±",
            "transient_judged_rows": "rows judged",
            "transient_coverage": "inside their 90% interval",
            "transient_excess": "scatter over what chance explains",
        },
        "of the weighted fit, as for equilibrium",
        "1; rows: count",
        "as for equilibrium",
        "as for equilibrium",
    ),
    (
        {"transient_least_squares_slope": "slope", "transient_least_squares_pearson_r": "r"},
        "the same by plain least squares over all rows that were met",
        "1",
        "as for transient",
        "as for equilibrium",
    ),
    (
        {
            "transient_persistence_error": ("‘stays as it is’", "the error of the norms at the window's start"),
            "transient_skill": ("skill", "1 − transient error / error of ‘stays as it is’"),
            "transient_skill_low": "skill, at least",
            "transient_skill_high": "skill, at most",
        },
        "the error of 'stays as it was at the start', and 1 − transient error / that, with the ends of its 90% "
        "interval over rows drawn anew",
        "1",
        "skill above 0.5",
        "near 0: nothing moved, and slope and r say nothing",
    ),
    (
        {
            "variance_median_error": ("median error", "of the balance without drift"),
            "drift_median_error": ("median error", "of the balance without growth"),
        },
        "of encoders: the same for the balance without drift, and without growth",
        "1",
        "one of them near `equilibrium_median_error`",
        "which of the two carries the norms",
    ),
    (
        {"balance_median_error": "median error"},
        "the balance equation fed with the window's own growth and drift; of encoders, with its own change taken out",
        "1",
        "as small as 1 − `stationarity`; of encoders below 0.03",
        "an identity, no prediction: if large in a settled run, report it",
    ),
    (
        {"balance_slope": "slope", "balance_pearson_r": "r", "balance_r2": "R²"},
        "of encoders: log observed on log norm from that identity (the transient-corrected fit)",
        "1",
        "0.98 to 1.02, above 0.998",
        "terms are measured too rarely for this window",
    ),
    (
        {
            "window_forecast_median_error": (
                "Forecasts one window ahead missed by",
                "in the median, the latest of them",
            ),
            "window_forecast_skill": "skill",
            "window_forecast_skill_low": "skill, at least",
            "window_forecast_skill_high": "skill, at most",
            "window_forecast_coverage": "inside their 90% interval",
        },
        "norms at the window's end, forecast a window ahead from the moments of the window before; skill with its "
        "interval; under SGD the share of judged rows inside their own 90% interval",
        "1",
        "skill above 0.5 while norms move",
        "the gradients' size changes from window to window",
    ),
    (
        {
            "forecast_slope": "slope",
            "forecast_pearson_r": "r",
            "forecast_r2": "R²",
            "forecast_median_error": "median error",
        },
        "norms at the end of the run against the forecast made for it at `forecast_at`; logged at the end",
        "1",
        "as for transient",
        "the gradients' size changed since",
    ),
    (
        {
            "forecast_slope_stderr": "±",
            "forecast_judged_rows": "rows judged",
            "forecast_coverage": "inside their 90% interval",
            "forecast_excess": "scatter over what chance explains",
        },
        "of that forecast's weighted fit, as for equilibrium",
        "1; rows: count",
        "as for equilibrium",
        "the gradients' size changed since",
    ),
    (
        {"forecast_least_squares_slope": "slope", "forecast_least_squares_pearson_r": "r"},
        "the same by plain least squares",
        "1",
        "as for transient",
        "as for equilibrium",
    ),
    (
        {
            "persistence_median_error": ("‘stays as it is’", "the error of the norms when the forecast was made"),
            "forecast_skill": ("skill", "1 − forecast error / error of ‘stays as it is’"),
            "forecast_skill_low": "skill, at least",
            "forecast_skill_high": "skill, at most",
        },
        "the error of 'stays as it is' over that stretch, and 1 − forecast error / that, with the ends of its interval",
        "1",
        "skill above 0.5",
        "below 0: norms stood still, or noise outgrew the forecast",
    ),
    (
        {
            "temperature": "temperature",
            "gamma_query": "γ of queries",
            "gamma_document": "γ of documents",
            "bias": "bias",
        },
        "of target `contrast`: what a loss learns itself, at the trainer's `log_every_n_steps`",
        "1",
        "level off inside their bounds",
        "temperature at its bound 1/`max_scale` (0.01): the loss wants sharper scores than are good for it; a gamma at "
        "0 or 1: choose that cell",
    ),
    (
        {
            "accuracy": "accuracy in the batch",
            "mean_rank": "mean rank of the positive",
            "alignment": "alignment",
            "uniformity": "uniformity",
            "effective_temperature": "effective temperature",
        },
        "of target `contrast`, with `with_metrics=True`: share of the positives that lead all their negatives, their "
        "mean place, mean squared distance of unit vectors of a pair, `log mean exp(-2 · distance²)` of queries and "
        "negatives, and what a cosine would be divided by for scores of this size",
        "1",
        "accuracy up, rank down to 1, alignment down, uniformity down; the effective temperature levels off",
        "accuracy at 1 from early on: negatives are too easy, or few; uniformity near 0: embeddings collapse; an "
        "effective temperature that keeps falling: norms that the similarity keeps grow, and sharpen the loss",
    ),
    (
        {"nonfinite_gradients": "gradients left out"},
        "row gradients that were NaN or infinite in the window, left out of the fit",
        "count",
        "0",
        "lower lr, check the loss; under a loss scaler a few at the start are normal",
    ),
    (
        {"skipped_steps": "steps skipped"},
        "steps that the loss scaler skipped, not counted anywhere",
        "count",
        "few, early",
        "the scale never settles: use bf16",
    ),
)
"""Names that share a line, each with its label and, where the meaning is no quick read, its reading; then the meaning,
unit, healthy range and remedy of them all."""


def _entries() -> Iterator[tuple[str, Quantity]]:
    for names, meaning, unit, healthy, remedy in _TABLE:
        for name, words in names.items():
            label, reading = (words, meaning.replace("`", "")) if isinstance(words, str) else words
            yield name, Quantity(name, meaning, unit, healthy, remedy, label, reading)


QUANTITIES: Mapping[str, Quantity] = MappingProxyType(dict(_entries()))
"""Quantity name to its record, in the order in which the docs show them."""
