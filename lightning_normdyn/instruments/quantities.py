"""Every quantity that is logged: what it means, its unit, what is healthy, and what to do if it is not.

The docs table, the report and the check of a user's own names read it. To add a quantity, log it in one file and enter
it here; a test compares this table with what real runs log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from lightning_normdyn.core.dynamics.published_fit import PUBLISHED_FIT


class Quantity(NamedTuple):
    """One quantity of a target, logged as ``normdyn/<target>/<name>``.

    Attributes:
        name: the last part of its key.
        meaning: what it is, in Markdown.
        unit: ``1`` for a ratio.
        healthy: what to expect of a run that goes well.
        remedy: what else it means, and what to do.
    """

    name: str
    meaning: str
    unit: str
    healthy: str
    remedy: str


_TABLE: tuple[tuple[tuple[str, ...], str, str, str, str], ...] = (
    (
        ("norm_mean", "norm_p05", "norm_p50", "norm_p95"),
        "mean and quantiles of the norms",
        "as the weights",
        "levels off",
        "rising without end: no weight decay, or too little; to zero: too much",
    ),
    (
        ("norm_cv",),
        "standard deviation / mean of the norms",
        "1",
        "0.1 to 1, steady",
        "near 0: lengths carry nothing (a final LayerNorm, AdamW on frequent rows); growing: rare rows not settled",
    ),
    (
        ("gradient_norm",),
        "Frobenius norm of the target's gradient, before clipping; of an output, over all vectors of the step",
        "1/norm",
        "steady",
        "spikes: lower lr, clip",
    ),
    (
        ("clip_ratio",),
        "gradient norm after clipping / before",
        "1",
        "1, or rarely less",
        "always far below 1: clipping sets the step size, and with it the norms",
    ),
    (
        ("radial_fraction",),
        "length of the radial part of the gradient / its whole length",
        "0 to 1",
        "1e-8 to 1e-6 for a cosine loss in float32",
        "larger: the loss sees lengths (meant for Dot), or normalises in half precision",
    ),
    (
        ("update_radial_fraction",),
        "the same of the applied update, decay included",
        "0 to 1",
        "small in a table; up to a half in an encoder, whose items move together",
        "near 1: decay alone moves the table",
    ),
    (
        ("angular_update",),
        "RMS angle by which a row turned",
        "radians a step",
        "tables, settled: sqrt(2·lr·λ/(1 + μ)) under SGD, sqrt(2·lr·λ·(1 − β₁)/(1 + β₁)) under AdamW; "
        "encoders: steady, they turn faster",
        "above: not settled, or lr too high; below: norms too long for this decay",
    ),
    (
        ("effective_lr",),
        "e · mean of 1/R² over the touched rows: the rate at which directions learn",
        "1/norm²",
        "steady, or falling with lr",
        "exploding: norms collapse",
    ),
    (
        ("budget_decay", "budget_drift", "budget_growth"),
        "mean change of R² in a step from decay, from the radial push, from the size of the step, each over R²",
        "1/step",
        "settled: they add up to 0",
        "drift is 0 for a cosine loss under plain SGD; momentum and Adam carry earlier steps on, which shows "
        "as drift, and Adam's coupled decay is in drift too",
    ),
    (
        ("budget_residual",),
        "largest gap between their sum and the change of R², over R²",
        "1",
        "below 1e-5",
        "an identity, in float64: if not, report it",
    ),
    (
        ("stationarity",),
        "1 − net change of R² / gross flow, over the window and all rows",
        "0 to 1",
        "above 0.9: settled; of an encoder read `equilibrium_median_error` and `growth_share + drift_share` "
        "besides, since large flows that nearly cancel hide a slow change",
        "below 0.5: norms mostly repeat where they started; raise lr·λ, train longer, or start nearer; an "
        "annealed lr freezes norms before they settle",
    ),
    (
        ("radial_decay", "radial_decay_ratio"),
        "of encoders: λ_rad, median over the items, and over λ",
        "1; ratio 1",
        "steady; the ratio is the degree of the network in its decayed weights",
        "near 0: the output is normalised, or what scales it is not decayed",
    ),
    (
        ("growth_share", "drift_share"),
        "of encoders: what growth and drift add, as a share of what decay takes, medians over the items",
        "1",
        "settled: they add up to 1",
        "sum above 1: norms still rise; below: they fall; drift far from 0: the loss sees lengths, or steps "
        "run along curved directions",
    ),
    (
        ("radial_decay_stderr", "growth_share_stderr", "drift_share_stderr"),
        "standard errors over the window's samples, the first relative",
        "1",
        "below a third of what they are of",
        "measure more often (`every_n_steps`) or in longer windows",
    ),
    (
        ("relaxation_steps",),
        "steps in which the distance to equilibrium falls by e, at the window's mean lr",
        "steps",
        "well below the run's length",
        "longer than the run: norms at the end are those of the start",
    ),
    (
        ("equilibrium_median_error",),
        "median of |predicted − observed| / observed for the equilibrium law at the window's learning rates, "
        "observed as the mean over the window",
        "1",
        "below 0.05 once settled, 0.15 under AdamW",
        "read `stationarity` first; under AdamW gradients that are far from white noise shift it",
    ),
    (
        ("equilibrium_slope", "equilibrium_pearson_r", "equilibrium_r2"),
        "log observed on log predicted, each judged row weighted by what chance does to it; where that is not known "
        "(encoders), by least squares",
        "1",
        "1, above 0.97, above 0.94",
        "not settled; under AdamW the law gives all frequent rows one norm, so there read the median error",
    ),
    (
        ("equilibrium_slope_stderr",),
        "standard error of that slope",
        "1",
        "below 0.05",
        "longer windows (`window`), more rows",
    ),
    (
        ("equilibrium_judged_rows",),
        "rows that enter the weighted fit: met often enough, by what steps before the window said, for the law and its "
        "errors to hold",
        "count",
        "most of the table",
        "few: rows are too rare for the window (lengthen `window`) or for this decay (a row should be met often within "
        "`relaxation_steps`)",
    ),
    (
        ("equilibrium_coverage", "equilibrium_excess"),
        "share of judged rows inside their own 90% interval; RMS of log observed − log predicted over what chance "
        "explains",
        "1",
        "0.85 to 0.97; 0.8 to 1.2",
        "coverage far below, excess above: the law misses something that chance does not explain: not settled, "
        "gradients that are no white noise, a loss that sees lengths",
    ),
    (
        ("equilibrium_least_squares_slope", "equilibrium_least_squares_pearson_r"),
        "the same by plain least squares over all rows that were met, as the published fit was made",
        "1",
        f"published: {PUBLISHED_FIT.slope}, {PUBLISHED_FIT.pearson_r}",
        "lower than the weighted ones: rare rows, whose predictions are noisy, flatten the line",
    ),
    (
        ("transient_slope", "transient_pearson_r", "transient_r2", "transient_median_error"),
        "norms at the window's end against the recursion from those at its start, through its own learning rates; "
        "weighted as for equilibrium under SGD, else by least squares",
        "1",
        "1, 0.99, 0.98, below 0.03",
        "rows too rare for the window: lengthen `window`",
    ),
    (
        ("transient_slope_stderr", "transient_judged_rows", "transient_coverage", "transient_excess"),
        "of the weighted fit, as for equilibrium",
        "1; rows: count",
        "as for equilibrium",
        "as for equilibrium",
    ),
    (
        ("transient_least_squares_slope", "transient_least_squares_pearson_r"),
        "the same by plain least squares over all rows that were met",
        "1",
        "as for transient",
        "as for equilibrium",
    ),
    (
        ("transient_persistence_error", "transient_skill", "transient_skill_low", "transient_skill_high"),
        "the error of 'stays as it was at the start', and 1 − transient error / that, with the ends of its 90% "
        "interval over rows drawn anew",
        "1",
        "skill above 0.5",
        "near 0: nothing moved, and slope and r say nothing",
    ),
    (
        ("variance_median_error", "drift_median_error"),
        "of encoders: the same for the balance without drift, and without growth",
        "1",
        "one of them near `equilibrium_median_error`",
        "which of the two carries the norms",
    ),
    (
        ("balance_median_error",),
        "the balance equation fed with the window's own growth and drift; of encoders, with its own change taken out",
        "1",
        "as small as 1 − `stationarity`; of encoders below 0.03",
        "an identity, no prediction: if large in a settled run, report it",
    ),
    (
        ("balance_slope", "balance_pearson_r", "balance_r2"),
        "of encoders: log observed on log norm from that identity (the transient-corrected fit)",
        "1",
        "0.98 to 1.02, above 0.998",
        "terms are measured too rarely for this window",
    ),
    (
        (
            "window_forecast_median_error",
            "window_forecast_skill",
            "window_forecast_skill_low",
            "window_forecast_skill_high",
            "window_forecast_coverage",
        ),
        "norms at the window's end, forecast a window ahead from the moments of the window before; skill with its "
        "interval; under SGD the share of judged rows inside their own 90% interval",
        "1",
        "skill above 0.5 while norms move",
        "the gradients' size changes from window to window",
    ),
    (
        ("forecast_slope", "forecast_pearson_r", "forecast_r2", "forecast_median_error"),
        "norms at the end of the run against the forecast made for it at `forecast_at`; logged at the end",
        "1",
        "as for transient",
        "the gradients' size changed since",
    ),
    (
        ("forecast_slope_stderr", "forecast_judged_rows", "forecast_coverage", "forecast_excess"),
        "of that forecast's weighted fit, as for equilibrium",
        "1; rows: count",
        "as for equilibrium",
        "the gradients' size changed since",
    ),
    (
        ("forecast_least_squares_slope", "forecast_least_squares_pearson_r"),
        "the same by plain least squares",
        "1",
        "as for transient",
        "as for equilibrium",
    ),
    (
        ("persistence_median_error", "forecast_skill", "forecast_skill_low", "forecast_skill_high"),
        "the error of 'stays as it is' over that stretch, and 1 − forecast error / that, with the ends of its interval",
        "1",
        "skill above 0.5",
        "below 0: norms stood still, or noise outgrew the forecast",
    ),
    (
        ("temperature", "gamma_query", "gamma_document", "bias"),
        "of target `contrast`: what a loss learns itself, at the trainer's `log_every_n_steps`",
        "1",
        "level off inside their bounds",
        "temperature at 0.01 (`max_scale`): the loss wants sharper scores than are good for it; a gamma at 0 "
        "or 1: choose that cell",
    ),
    (
        ("nonfinite_gradients",),
        "row gradients that were NaN or infinite in the window, left out of the fit",
        "count",
        "0",
        "lower lr, check the loss; under a loss scaler a few at the start are normal",
    ),
    (
        ("skipped_steps",),
        "steps that the loss scaler skipped, not counted anywhere",
        "count",
        "few, early",
        "the scale never settles: use bf16",
    ),
)
"""Names that share a line, then meaning, unit, healthy range and remedy."""


def _entries() -> Iterator[tuple[str, Quantity]]:
    for names, *words in _TABLE:
        for name in names:
            yield name, Quantity(name, *words)


QUANTITIES: Mapping[str, Quantity] = MappingProxyType(dict(_entries()))
"""Quantity name to its record, in the order in which the docs show them."""
