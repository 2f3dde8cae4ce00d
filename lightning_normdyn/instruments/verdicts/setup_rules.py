"""Rules on how a training is set up: parameter groups, learnt numbers, and instruments that see too little."""

from __future__ import annotations

import math

from lightning_normdyn.instruments.quantities import LITTLE_MOVE
from lightning_normdyn.instruments.verdicts.evidence import Evidence
from lightning_normdyn.instruments.verdicts.verdict import Finding, Rule, amount

_FEWEST_READINGS = 8
_STILL_MOVING = 0.1
_USUAL_BOUND = 0.01
"""Of a learnt temperature, since CLIP: one that ends there is common, one that is held well above is not learnt."""
_ENOUGH_GRADIENTS = 50
"""Of a row in a window: the mean of their squares is then known to some 15%, and the norm to a quarter of that."""


def _two_owners(evidence: Evidence) -> Finding | None:
    facts = evidence.facts
    if facts.owners < 2:
        return None
    return Finding(
        f"{facts.owners} parameter groups hold it, so each step is made {facts.owners} times, decay "
        f"{amount(facts.weight_decay)} included",
        f"leave it in one group; to keep the pace, with {facts.owners} times its lr: {amount(facts.owners * facts.lr)}",
    )


def _decayed_scalar(evidence: Evidence) -> Finding | None:
    facts = evidence.facts
    horizon = facts.horizon or facts.step
    pull = facts.rule.lr_gain * evidence.peak_lr * facts.rule.radial_decay * horizon
    if facts.kind != "scalar" or not pull > 0:
        return None
    return Finding(
        f"weight_decay={amount(facts.weight_decay)} pulls this learnt number towards 0, by {1 - math.exp(-pull):.1%} "
        f"over {horizon:,} steps unless the loss resists",
        "put it into a parameter group of its own with weight_decay=0.0",
        "warning" if pull > 0.05 else "note",
    )


def _temperature_at_bound(evidence: Evidence) -> Finding | None:
    temperature, bound = evidence.last("temperature"), evidence.facts.least_temperature
    if not 0 < temperature <= 1.01 * bound:
        return None
    fixed_temperature = max(0.05, 2 * bound)
    return Finding(
        f"the learnt temperature is {amount(temperature)}, at its bound: the loss wants sharper scores than are good",
        f"hold it: temperature={amount(fixed_temperature)}, learnable_temperature=False"
        + (f", or set max_scale=100, a bound of {_USUAL_BOUND}" if bound > 2 * _USUAL_BOUND else ""),
        "warning" if bound > 2 * _USUAL_BOUND else None,
    )


def _moving_temperature(evidence: Evidence) -> Finding | None:
    if not evidence.facts.has_ended or "temperature" not in evidence.courses:
        return None
    course = evidence.courses["temperature"]
    earlier = course.latest[len(course.latest) // 2]
    if course.count < _FEWEST_READINGS or not abs(math.log(course.last / earlier)) > _STILL_MOVING:
        return None
    return Finding(
        f"the learnt temperature went from {amount(earlier)} to {amount(course.last)} in the latest readings and has "
        "not levelled off",
        f"start it at temperature={amount(course.last)}, or train it at a higher rate than "
        f"lr={amount(evidence.peak_lr)}",
    )


def _undecided_exponent(evidence: Evidence) -> Finding | None:
    gammas = {name: evidence.last(name) for name in ("gamma_query", "gamma_document")}
    settled = {name: gamma for name, gamma in gammas.items() if gamma < 0.02 or gamma > 0.98}
    if len(settled) < 2:
        return None
    names = {(1, 1): "cosine", (0, 0): "dot", (1, 0): "qnorm", (0, 1): "dnorm"}
    query, document = (round(gamma) for gamma in gammas.values())
    return Finding(
        f"the learnt exponents went to their bounds: {amount(gammas['gamma_query'])} for queries, "
        f"{amount(gammas['gamma_document'])} for documents",
        f'choose that cell: normalization="{names[query, document]}"',
    )


def _undecayed_output(evidence: Evidence) -> Finding | None:
    ratio = evidence.last("radial_decay_ratio")
    if not ratio < 0.1:
        return None
    return Finding(
        f"decay reaches {ratio:.0%} of what it would in a table: it does not set the length of these vectors",
        "if lengths are to settle, leave the last normalisation out or give what scales the output weight_decay="
        f"{amount(evidence.facts.weight_decay)}",
    )


def _moving_output(evidence: Evidence) -> Finding | None:
    total = evidence.last("growth_share") + evidence.last("drift_share")
    if not abs(total - 1) > 0.5 or not evidence.last("relaxation_steps") > 0:
        return None
    way = "rise" if total > 1 else "fall"
    relaxation = evidence.last("relaxation_steps")
    return Finding(
        f"norms still {way}: growth and drift add up to {amount(total)} of what decay takes, and relaxation takes "
        f"{amount(relaxation)} steps",
        f"train {amount(3 * relaxation)} steps if they are to settle",
    )


def _few_samples(evidence: Evidence) -> Finding | None:
    errors = {
        name: evidence.last(f"{name}_stderr") / (abs(evidence.last(name)) if name != "radial_decay" else 1.0)
        for name in ("radial_decay", "growth_share", "drift_share")
        if abs(evidence.last(name)) > 0.05
    }
    name = max(errors, key=lambda key: errors[key], default="")
    if not name or not errors[name] > 1 / 3:
        return None
    return Finding(
        f"{name} is known to {errors[name]:.0%} only",
        f"measure {amount(math.ceil((errors[name] * 3) ** 2))} times as often (every_n_steps), or in longer windows",
    )


def _missed_transient(evidence: Evidence) -> Finding | None:
    error, skill = evidence.recent("transient_median_error", readings=3), evidence.last("transient_skill")
    if not (error > 0.1 and skill < 0.5 and evidence.last("transient_persistence_error") > LITTLE_MOVE):
        return None
    return Finding(
        f"norms moved by {evidence.last('transient_persistence_error'):.0%} in the last window and were predicted "
        f"{error:.0%} off",
        _cure_of_missed_transient(evidence),
    )


def _cure_of_missed_transient(evidence: Evidence) -> str:
    """Rows that are short of gradients are read whenever they get one, so that a longer window alone reads more."""
    course, row = evidence.courses["transient_median_error"], evidence.facts.typical_row
    horizon = evidence.facts.horizon or evidence.facts.step
    if evidence.sees_lengths:
        return "read budget_drift: the loss moves lengths itself, which no law of noise foresees"
    steps = math.inf if row is None else _ENOUGH_GRADIENTS / row.update_probability
    if steps <= course.last_step / course.count:
        return "take shorter windows, window=0.05: the gradients' size changes within them"
    if steps <= horizon / 2:
        return f"take windows of {amount(steps)} steps, window={math.ceil(steps)}, in which the middle row gets " + (
            f"{_ENOUGH_GRADIENTS} gradients"
        )
    return "train longer, or go by frequent rows: in this run the middle one gets too few gradients to be predicted"


def _missed_forecast(evidence: Evidence) -> Finding | None:
    moved = evidence.last("persistence_median_error")
    if not (evidence.last("forecast_skill") < 0 and moved > LITTLE_MOVE):
        return None
    return Finding(
        f"the forecast for the end missed by {evidence.last('forecast_median_error'):.0%}, more than 'stays as it is' "
        f"({moved:.0%})",
        "forecast later (forecast_at=0.7): the gradients' size changed since",
    )


def _missed_window(evidence: Evidence) -> Finding | None:
    skill, moved = evidence.last("window_forecast_skill"), evidence.last("transient_persistence_error")
    if not (skill < 0 and moved > LITTLE_MOVE):
        return None
    return Finding(
        f"a forecast one window ahead missed by {evidence.last('window_forecast_median_error'):.0%}",
        "the gradients' size changes from window to window: take shorter ones, window=0.05",
    )


def _open_budget(evidence: Evidence) -> Finding | None:
    residual = evidence.recent("budget_residual")
    if not residual > 1e-3:
        return None
    return Finding(
        f"the budget leaves {residual:.1e} of R² unexplained, where rounding is below 1e-5",
        "report it, with the optimizer and the precision: the budget is an identity",
    )


def _open_balance(evidence: Evidence) -> Finding | None:
    error, settled = evidence.last("balance_median_error"), evidence.last("stationarity")
    slope = evidence.last("balance_slope")
    if not (error > 0.2 and settled > 0.95) and not abs(slope - 1) > 0.2:
        return None
    return Finding(
        f"the balance of what was measured is {error:.0%} off the norms of a settled run",
        "measure more often (every_n_steps=10): its terms are sampled too rarely for these windows",
    )


SETUP_RULES = (
    Rule(
        "two_owners",
        "critical",
        (),
        "more than one parameter group, of one or several optimizers, holds the table",
        "the same parameter was passed to two optimizers or groups",
        "the lr of the one group that should hold it",
        _two_owners,
    ),
    Rule(
        "decayed_scalar",
        "warning",
        ("temperature", "bias", "gamma_query", "gamma_document"),
        "a learnt number (temperature, scale, bias, exponent) loses more than 5% to weight decay in the run "
        "(less: a note)",
        "one parameter group for everything",
        "weight_decay=0 for it",
        _decayed_scalar,
    ),
    Rule(
        "temperature_at_bound",
        "note",
        ("temperature",),
        "the learnt temperature is at its bound, 1/max_scale (a warning if that is above twice the usual 0.01)",
        "noisy positives, or too few negatives",
        "the temperature to hold",
        _temperature_at_bound,
    ),
    Rule(
        "moving_temperature",
        "note",
        ("temperature",),
        "at the end the learnt temperature has moved by more than a tenth within its latest eight readings",
        "it was started far from where it goes, or its learning rate is that of weights",
        "the temperature to start at",
        _moving_temperature,
    ),
    Rule(
        "undecided_exponent",
        "note",
        ("gamma_query", "gamma_document"),
        "both learnt exponents are at a bound",
        "the data prefer one of the four normalizations",
        "which one",
        _undecided_exponent,
    ),
    Rule(
        "undecayed_output",
        "note",
        ("radial_decay_ratio", "radial_decay"),
        "the output's radial decay is below a tenth of its weights'",
        "a last normalisation, or weights that do not decay",
        "what to decay",
        _undecayed_output,
    ),
    Rule(
        "moving_output",
        "note",
        ("growth_share", "drift_share", "relaxation_steps"),
        "growth and drift are more than half off what decay takes",
        "the output has not settled, or the loss sees lengths",
        "how long to train",
        _moving_output,
    ),
    Rule(
        "few_samples",
        "note",
        ("radial_decay_stderr", "growth_share_stderr", "drift_share_stderr"),
        "a standard error is above a third",
        "few measured steps in a window",
        "how often to measure",
        _few_samples,
    ),
    Rule(
        "missed_transient",
        "note",
        (
            "transient_median_error",
            "transient_slope",
            "transient_pearson_r",
            "transient_r2",
            "transient_skill",
            "transient_persistence_error",
        ),
        "norms that moved by a tenth were predicted more than 10% off, with a skill below 0.5",
        "rows too rare for the window, gradients whose size changes in it, or a loss that sees lengths",
        "the window, or what to read",
        _missed_transient,
    ),
    Rule(
        "missed_forecast",
        "note",
        (
            "forecast_slope",
            "forecast_pearson_r",
            "forecast_r2",
            "forecast_median_error",
            "forecast_skill",
            "persistence_median_error",
        ),
        "norms moved by a tenth and the forecast was worse than 'stays as it is'",
        "the gradients' size changed after the forecast",
        "when to forecast",
        _missed_forecast,
    ),
    Rule(
        "missed_window",
        "note",
        ("window_forecast_median_error", "window_forecast_skill"),
        "the same from window to window",
        "the gradients' size changes",
        "the window",
        _missed_window,
    ),
    Rule(
        "open_budget",
        "note",
        ("budget_residual",),
        "the budget's residual is above 1e-3",
        "a fault of ours, or weights that changed within a step",
        "whom to tell",
        _open_budget,
    ),
    Rule(
        "open_balance",
        "note",
        (
            "balance_median_error",
            "balance_slope",
            "balance_pearson_r",
            "balance_r2",
            "variance_median_error",
            "drift_median_error",
        ),
        "the measured balance of a settled run is more than 20% off, or its slope 0.2",
        "terms measured too rarely",
        "how often to measure",
        _open_balance,
    ),
)
"""Rules on how a training is set up and on what its instruments see."""
