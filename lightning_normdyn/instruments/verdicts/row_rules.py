"""Rules on the rows of a table: which are in danger, and whether they still tell items apart."""

from __future__ import annotations

import math

from lightning_normdyn.instruments.verdicts.evidence import LR, Evidence
from lightning_normdyn.instruments.verdicts.verdict import Finding, Rule, amount

_GONE = 0.5
_SPARED = 0.9
"""Share of its norm that a row may keep of weight decay for nobody to mind."""
_CONE = 0.98
"""Length of the mean direction of vectors of which only a fiftieth tells them apart."""
_NEARLY_ZERO = 1e4
"""Mean 1/R² over that of the median row: a row in ten thousand of a ten-thousandth of the norm, say."""
_EARLY = 0.3
"""Of a run, in which rare rows may still be met."""


def _untouched_rows(evidence: Evidence) -> Finding | None:
    facts, row = evidence.facts, evidence.facts.typical_row
    logged = evidence.last("untouched_rows")
    rows = logged if math.isfinite(logged) else float(row.unmet_rows) if row is not None else 0.0
    horizon = facts.horizon or facts.step
    if not evidence.is_table or not rows > 0 or facts.step < _EARLY * horizon:
        return None
    rate = facts.rule.lr_gain * evidence.mean_lr * facts.rule.radial_decay
    share = math.exp(-rate * horizon)
    unread = f"{amount(rows)} of {facts.tracked_rows:,} rows got no gradient in any step that was read"
    if facts.rule.family is not None and (facts.rule.radial_decay == 0 or share > _SPARED - 0.01):
        return Finding(
            f"{unread}: they are what they were at the start, and are looked up like all others",
            "leave their ids out of what is searched, or give them neighbours' directions with `repair_rows`",
            "note",
        )
    if not facts.rule.decay_is_separable or not share < 1:
        return None
    mildest_decay = -math.log(_SPARED) / (rate * horizon) * facts.weight_decay
    rest = f"{share:.1%}" if share > 1e-3 else f"{share:.1g}"
    return Finding(
        f"{unread}, so decay alone moves them: at the end {rest} of their norm is left",
        "leave rows that a step does not touch out of decay (`decay_by_frequency`, or a sparse optimizer), or at most "
        f"weight_decay={amount(mildest_decay)}, which leaves {_SPARED:.0%}",
        "warning" if share < _GONE else "note",
    )


def _dead_rows(evidence: Evidence) -> Finding | None:
    rows, facts = evidence.last("dead_rows"), evidence.facts
    if not evidence.is_table or not rows > 0:
        return _nearly_zero_start(evidence)
    norm = evidence.last("norm_p50")
    return Finding(
        f"{amount(rows)} of {facts.tracked_rows:,} rows are shorter than {facts.dtype} can still train",
        f"set them to the median norm {amount(norm)} with `repair_rows`, and decay only what a step touches",
    )


def _nearly_zero_start(evidence: Evidence) -> Finding | None:
    """Of rows that the first step lifted from nearly nothing, the mean of 1/R² before it tells.

    A loss that goes by directions, or a layer that normalises its input, gave them gradients of 1/R.
    """
    first, norm = evidence.courses[LR].first if LR in evidence.courses else math.nan, evidence.first("norm_p50")
    rate = evidence.facts.rule.lr_gain * first
    excess = evidence.first("effective_lr") / rate * norm**2 if rate > 0 else math.nan
    # Norms are read after the step: of one that throws all rows out, short and long alike, nothing can be told.
    is_short_step = evidence.first("norm_min") < 0.3 * norm
    if not evidence.is_table or not is_short_step or not excess > _NEARLY_ZERO:
        return None
    usual = evidence.recent("gradient_norm")
    spike = evidence.courses["gradient_norm"].highest / usual if usual > 0 else 1.0
    return Finding(
        f"rows of nearly no length were in the first step: the mean of 1/R² over its rows was {excess:.1e} times that "
        f"of the median row, of {amount(norm)}, and the gradient's norm reached {amount(spike)} times its usual",
        "lengthen such rows to the median norm with `repair_rows(table)` before training, and make the optimizer anew",
        "critical" if spike > 100 else "warning",
    )


def _outlying_rows(evidence: Evidence) -> Finding | None:
    if not evidence.is_table or "norm_cv" not in evidence.courses or not evidence.courses["norm_cv"].lowest > 1:
        return None
    spread, norm = evidence.courses["norm_cv"].lowest, evidence.last("norm_p50")
    return Finding(
        "some rows have been far longer than the rest from the start: the norms' spread was never below "
        f"{spread:.2f} of their mean (at the 95% quantile they are {amount(evidence.last('norm_p95'))}, at the median "
        f"{amount(norm)})",
        f"start added rows at the norm of the others, {amount(evidence.first('norm_p50'))}, with `repair_rows(table, "
        "rows)`",
    )


def _dying_rows(evidence: Evidence) -> Finding | None:
    facts, step = evidence.facts, evidence.last("dead_at_step")
    if not evidence.is_table or facts.horizon is None or not facts.step < step < facts.horizon:
        return None  # once the step is past they are dead_rows
    # Rare rows are met in time, and the step is logged no more once all were.
    if facts.step < _EARLY * facts.horizon or not evidence.last("untouched_rows") > 0:
        return None
    other_format = "" if "float32" in str(facts.dtype) else ", or keep the table in float32"
    decay = facts.weight_decay * step / (2 * facts.horizon)
    return Finding(
        f"the shortest row that was never met will be beyond {facts.dtype} at step {amount(step)} of {facts.horizon:,}",
        f"lower weight_decay from {amount(facts.weight_decay)} to {amount(decay)}{other_format}",
    )


def _clip_share(evidence: Evidence) -> Finding | None:
    share, ratio = evidence.recent("clip_share"), evidence.recent("clip_ratio")
    if not share > 0.9 or not ratio < 1:
        return None
    return Finding(
        f"a hundredth of the rows makes {share:.0%} of the squared norm by which all gradients are clipped",
        "scale their gradient by the norm (`scale_gradient`), or lengthen them to the others' "
        f"{amount(evidence.last('norm_p50'))} (`repair_rows`)",
    )


def _collapsed_directions(evidence: Evidence) -> Finding | None:
    name = "common_direction"
    common, bound = (evidence.last(name), 0.9) if evidence.is_table else (evidence.recent(name, readings=3), _CONE)
    grave = 1 - (1 - bound) / 10
    if not common > bound or (not evidence.is_table and _holds_its_cone(common, evidence.first(name), grave)):
        return None
    temperature = evidence.last("temperature")
    present = f" (it is {amount(temperature)})" if temperature > 0 else ""
    return Finding(
        f"all {'rows' if evidence.is_table else 'vectors'} point one way: the mean of their directions has length "
        f"{common:.3f}, where 0 is spread out and 1 is one direction for all",
        f"give the loss negatives that push rows apart, InfoNCE(temperature=0.05){present}, and start anew: collapsed "
        "rows get the same gradient for ever",
        "critical" if common > grave else None,
    )


def _holds_its_cone(common: float, at_start: float, grave: float) -> bool:
    """Whether vectors lie in a cone by nature, as behind ReLU and pooling: they were never much further apart.

    In a cone so narrow that it would be grave they have to be spreading out.
    """
    spread, spread_at_start = 1 - common, 1 - at_start
    return spread > 2 * spread_at_start if common > grave else spread > 0.5 * spread_at_start


def _unexplained_scatter(evidence: Evidence) -> Finding | None:
    excess, coverage = evidence.last("equilibrium_excess"), evidence.last("equilibrium_coverage")
    if not evidence.last("stationarity") > 0.9 or not (excess > 3 or coverage < 0.5):
        return None
    rows = evidence.last("equilibrium_judged_rows")
    number = f" of {amount(rows)} judged rows" if rows > 0 else ""
    return Finding(
        f"the norms{number} scatter {amount(excess)} times beyond what noise explains; {coverage:.0%} are inside their "
        "own 90% interval",
        "read budget_drift and radial_fraction: lengths in the loss and noise that is not white are not in the law",
    )


def _uncertain_slope(evidence: Evidence) -> Finding | None:
    error = evidence.last("equilibrium_slope_stderr")
    if not error > 0.1:
        return None
    course, horizon = evidence.courses["equilibrium_slope_stderr"], evidence.facts.horizon or evidence.facts.step
    factor = (error / 0.05) ** 2
    fits = factor * course.last_step / course.count <= horizon
    return Finding(
        f"the slope {amount(evidence.last('equilibrium_slope'))} is known to ± {amount(error)} only and says little",
        f"read more steps: fit_every_n_steps=1, or a window {amount(factor)} times as long"
        if fits
        else "go by equilibrium_median_error and equilibrium_coverage: no window of this run can tell the slope of so "
        "few rows, or of rows of nearly one norm",
    )


ROW_RULES = (
    Rule(
        "untouched_rows",
        "warning",
        ("untouched_rows",),
        "rows got no gradient so far and lose half of their norm to decay by the end (less, or without decay: a note)",
        "ids that the data never uses, or so seldom that decay wins",
        "the weight decay that leaves 90% of them",
        _untouched_rows,
    ),
    Rule(
        "dead_rows",
        "critical",
        ("dead_rows", "norm_min", "effective_lr"),
        "rows are below what the weights' number format can train, or the first step met rows of nearly no length",
        "decay without gradient, in this run or in the one that made the checkpoint",
        "the norm to set them to",
        _dead_rows,
    ),
    Rule(
        "outlying_rows",
        "warning",
        ("norm_cv", "norm_p95"),
        "the spread of the norms was above their mean from the first reading on",
        "rows that were added to a trained table at another scale",
        "the norm to start them at",
        _outlying_rows,
    ),
    Rule(
        "dying_rows",
        "warning",
        ("dead_at_step", "untouched_rows"),
        "rows that were never met will be dead before the run ends",
        "decay without gradient, in a format of few digits",
        "the weight decay at which they outlive the run",
        _dying_rows,
    ),
    Rule(
        "clip_share",
        "note",
        ("clip_share", "clip_ratio"),
        "a hundredth of the rows makes 90% of the squared norm by which all gradients are clipped",
        "short rows, whose gradients go as 1/R",
        "what to scale",
        _clip_share,
    ),
    Rule(
        "collapsed_directions",
        "warning",
        ("common_direction",),
        "the mean of the rows' directions is longer than 0.9 (0.99: critical); of an encoder's, which may lie in a "
        "cone by nature, longer than 0.98 with vectors at less than half of their first spread (one minus that "
        "length), or longer than 0.998 (critical) unless the spread has doubled",
        "a loss without negatives, or a temperature so high that it has none in effect",
        "the temperature",
        _collapsed_directions,
    ),
    Rule(
        "unexplained_scatter",
        "note",
        ("equilibrium_excess", "equilibrium_coverage", "equilibrium_judged_rows"),
        "settled norms scatter more than 3 times beyond noise, or fewer than half are inside their 90% interval",
        "something outside the law: lengths in the loss, correlated gradients",
        "what to read",
        _unexplained_scatter,
    ),
    Rule(
        "uncertain_slope",
        "note",
        ("equilibrium_slope_stderr", "equilibrium_slope"),
        "the standard error of the slope is above 0.1",
        "few rows, rows of nearly one norm, or few readings",
        "the window",
        _uncertain_slope,
    ),
)
"""Rules on rows."""
