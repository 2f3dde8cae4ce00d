"""Rules on where a table's norms go: whether they settle, when, and whether anything else holds them."""

from __future__ import annotations

import math
from dataclasses import replace

from lightning_normdyn.instruments.verdicts.evidence import Evidence
from lightning_normdyn.instruments.verdicts.verdict import Finding, Rule, Severity, amount

_FEWEST_STEPS = 100
_ENOUGH_RELAXATIONS = 3
"""Relaxation times after which 5% of the way to equilibrium is left."""
_NO_TURN = 0.1
"""Radians: what turned by less in the whole run has learnt nothing."""
_MUCH_SLOWER = 16
"""How many times more slowly than at their equilibrium rows may diffuse, which goes as ``R^-power``."""
_STILL_LONG = 0.5
"""Of the longest median so far; those of single batches scatter."""
_GREATEST_FACTOR = 30
"""By which a decay may be raised; norms that settle in so short a run would be far too short."""


def _no_decay(evidence: Evidence) -> Finding | None:
    facts, first, last = evidence.facts, evidence.first("norm_p50"), evidence.last("norm_p50")
    if not evidence.is_table or not facts.rule.settles or facts.rule.radial_decay > 0 or facts.step < _FEWEST_STEPS:
        return None
    if not first > 0 or not evidence.last("gradient_norm") > 0 or evidence.awaits_fit:
        return None
    decay = evidence.decay_for_norm(first)
    lever = f"weight_decay={amount(decay)}" if decay else "a weight_decay above 0 (`weight_decay_for` gives its value)"
    return Finding(
        f"without weight decay norms settle nowhere: they went from {amount(first)} to {amount(last)} (median) in "
        f"{facts.step:,} steps, and directions turn ever more slowly",
        f"set {lever}: rows then settle {evidence.place(first)}, the norm they started from",
        _severity(evidence, is_grave=last > 1.15 * first),
    )


def _slow_relaxation(evidence: Evidence) -> Finding | None:
    relaxations, horizon = evidence.expected_relaxations, evidence.facts.horizon
    if not evidence.is_table or not relaxations < 1 or horizon is None or not _is_seen(evidence, horizon):
        return None
    gap, target = _gap(evidence), evidence.last("equilibrium_norm_p50")
    if not gap > 0.25 or _could_relax(evidence, horizon) >= _ENOUGH_RELAXATIONS:
        return None
    first, last = evidence.first("norm_p50"), evidence.last("norm_p50")
    fate = "be those of the start" if abs(last / first - 1) < 0.25 else "not have settled"
    stands_still = evidence.turn < _NO_TURN
    turn = f", and rows turn by {amount(evidence.turn)} radians at most" if stands_still else ""
    return Finding(
        f"relaxation takes {amount(horizon / relaxations)} steps and the run has {horizon:,}: norms at the end will "
        f"{fate} (the median is {amount(last)} now and would settle at {amount(target)}){turn}",
        _cure_of_slow_relaxation(evidence, relaxations),
        _severity(evidence, is_grave=last > target and (gap > 1 or stands_still) and not evidence.was_trained_before),
    )


def _cure_of_slow_relaxation(evidence: Evidence, relaxations: float) -> str:
    facts, power = evidence.facts, evidence.facts.rule.power
    if evidence.was_trained_before:
        return "leave it, if rows come from a checkpoint and are to stay near it; else train longer"
    # A step turns a row by an angle that goes by R^(-power/2).
    excess = (evidence.last("norm_p50") / evidence.last("equilibrium_norm_p50")) ** (power / 2)
    needs_rate = evidence.turn * excess < _NO_TURN
    init = f"start rows at their equilibrium with `{_equilibrium_init(evidence)}`"
    factor = _decay_factor(evidence, relaxations)
    if factor < _GREATEST_FACTOR and not needs_rate:
        decay = facts.weight_decay * factor
        place = evidence.place(evidence.norm_at_decay(decay))
        return (
            f"{init}, or raise weight_decay from {amount(facts.weight_decay)} to {amount(decay)}: rows then settle "
            f"{place} within the run"
        )
    steps = amount(_ENOUGH_RELAXATIONS / relaxations * (facts.horizon or facts.step))
    rates = _rates_of_start(evidence, relaxations)
    return rates if needs_rate else f"{init}, or train {steps} steps, or {rates}"


def _rates_of_start(evidence: Evidence, relaxations: float) -> str:
    """Learning rate and decay for the norm of the start: ``R^power`` goes by ``lr/λ``, and relaxation by ``lr·λ``."""
    facts, power = evidence.facts, evidence.facts.rule.power
    longer = (evidence.first("norm_p50") / evidence.last("equilibrium_norm_p50")) ** power
    oftener = _ENOUGH_RELAXATIONS / relaxations
    lr, decay = evidence.mean_lr * math.sqrt(longer * oftener), facts.weight_decay * math.sqrt(oftener / longer)
    return (
        f"set a mean learning rate of {amount(lr)} (it is {amount(evidence.mean_lr)}) and weight_decay={amount(decay)} "
        f"(it is {amount(facts.weight_decay)}), under which rows relax {_ENOUGH_RELAXATIONS} times in the run and "
        "settle near the norm of their start"
    )


def _freezing_schedule(evidence: Evidence) -> Finding | None:
    relaxations, horizon = evidence.expected_relaxations, evidence.facts.horizon
    if not evidence.is_table or not relaxations < 1 or horizon is None or not _is_seen(evidence, horizon):
        return None
    possible = _could_relax(evidence, horizon)
    if possible < _ENOUGH_RELAXATIONS or not _gap(evidence) > 0.25:
        return None
    mean_rate = relaxations / possible * evidence.peak_lr
    return Finding(
        f"the schedule freezes the norms: they relax {amount(relaxations)} times in the run, and would "
        f"{amount(possible)} times at its highest rate {amount(evidence.peak_lr)}; they stay near "
        f"{amount(evidence.last('norm_p50'))}",
        f"let the learning rate fall later, to a mean of {amount(mean_rate * _ENOUGH_RELAXATIONS / relaxations)} "
        f"(it is {amount(mean_rate)}), or start rows at their equilibrium with "
        f"`equilibrium_init(table, rule.at(nominal_lr={amount(evidence.peak_lr)}))`",
        _severity(evidence, is_grave=evidence.last("norm_p50") > evidence.last("equilibrium_norm_p50")),
    )


def _fast_decay(evidence: Evidence) -> Finding | None:
    rule = evidence.facts.rule.at(nominal_lr=evidence.peak_lr)
    relaxation, horizon = rule.relaxation_steps(), evidence.facts.horizon or evidence.facts.step
    if not evidence.is_table or not relaxation < 10:
        return None
    wanted = max(100.0, horizon / 20)
    decay = evidence.facts.weight_decay * relaxation / wanted
    turn = amount(float(rule.angular_rate()))
    return Finding(
        f"lr·λ is so large that norms forget where they were within {amount(relaxation)} steps: decay takes "
        f"{rule.lr * rule.radial_decay:.0%} of each row in a step, and rows turn by {turn} radians in one",
        f"lower weight_decay from {amount(evidence.facts.weight_decay)} to {amount(decay)} (a relaxation of "
        f"{amount(wanted)} steps), or the learning rate likewise",
        "critical" if relaxation < 3 else None,
    )


def _far_start(evidence: Evidence) -> Finding | None:
    horizon, first = evidence.facts.horizon, evidence.first("norm_p50")
    if not evidence.is_table or horizon is None or "equilibrium_norm_p50" not in evidence.courses:
        return None
    if not evidence.expected_relaxations >= 1 or not _is_seen(evidence, horizon):
        return None
    course, power = evidence.courses["equilibrium_norm_p50"], evidence.facts.rule.power
    # Where rows would settle moves with the gradients' size; a start between two such places is far from none.
    target = min(max(first, course.lowest), course.highest)
    ratio = first / target if target > 0 else math.nan
    relaxation = evidence.courses["relaxation_steps"].lowest
    steps, slow_steps = (
        relaxation * relaxations(ratio, power) for relaxations in (_relaxations_from, _much_slower_for)
    )
    is_long = slow_steps > 0 and slow_steps >= 0.2 * horizon
    if not is_long and not (ratio < 0.25 and steps >= 0.2 * horizon):
        return None
    harm = f"for {amount(slow_steps)} steps they turn at less than a quarter of the rate there, " if is_long else ""
    return Finding(
        f"rows started at {amount(first)} (median), {amount(ratio)} times the norm at which they settle, "
        f"{amount(target)}: {harm}to come within 10% of it takes {amount(steps)} steps, and the run has {horizon:,}",
        f"start rows at their equilibrium with `{_equilibrium_init(evidence)}`, or multiply the initial table by "
        f"{amount(1 / ratio)}",
        _severity(evidence, is_grave=ratio > 1),
    )


def _exploding_norms(evidence: Evidence) -> Finding | None:
    if evidence.facts.kind == "scalar" or "norm_p50" not in evidence.courses:
        return None
    course, facts = evidence.courses["norm_p50"], evidence.facts
    ratio = course.last / course.first if course.first > 0 and course.count >= 3 else math.nan
    target = evidence.courses["equilibrium_norm_p50"].highest if "equilibrium_norm_p50" in evidence.courses else 0.0
    if not ratio > 10 or course.last < 2 * target or course.last < _STILL_LONG * course.highest:
        return None
    # What an encoder returns may start as short as its last layer was made: it explodes if it goes on and on.
    if not evidence.is_table and not (ratio > 100 or course.last > 2 * course.latest[len(course.latest) // 2]):
        return None
    lever = _holding_decay(evidence) or f"lower the learning rate from {amount(facts.lr)} to {amount(facts.lr / 10)}"
    if evidence.is_table and evidence.sees_lengths and set(facts.loss_normalizations) == {"cosine"}:
        lever = "take away what pushes norms although the losses are cosines: radial_leak says what"
    return Finding(
        f"norms grew {amount(ratio)}-fold, from {amount(course.first)} to {amount(course.last)} (median) in "
        f"{facts.step:,} steps",
        lever,
    )


def _holding_decay(evidence: Evidence) -> str:
    """The lever on a table that the loss pushes outwards; empty where decay could not hold it.

    Steps of a set length add a share of ``R²`` that falls as rows grow, so that what holds long rows lets short ones
    grow until they are as long: the greatest share counts that was seen.
    """
    facts, rate = evidence.facts, evidence.facts.rule.lr_gain * evidence.mean_lr
    drift = evidence.courses["budget_drift"].highest if "budget_drift" in evidence.courses else math.nan
    if not (
        evidence.is_table and evidence.recent("budget_drift") > 0 and drift > 0 and rate > 0 and facts.rule.settles
    ):
        return ""
    decay = (facts.weight_decay + drift / (2 * rate)) / facts.rule.decay_gain
    return (
        f'normalise what is scored (normalization="cosine"), or give it a weight_decay of {amount(decay)}, which takes '
        f"{drift:.2g} of R² in a step, the most that the loss added in one"
    )


def _collapsing_norms(evidence: Evidence) -> Finding | None:
    if not evidence.is_table or "norm_p50" not in evidence.courses or evidence.courses["norm_p50"].count < 3:
        return None
    course, facts = evidence.courses["norm_p50"], evidence.facts
    targets = evidence.courses["equilibrium_norm_p50"].lowest if "equilibrium_norm_p50" in evidence.courses else 0.0
    is_expected = targets > 0 and course.last > 0.5 * targets
    share = course.last / course.first if course.first > 0 else math.nan
    if not share < (0.02 if facts.weight_decay > 0 else 0.1) or is_expected:
        return None
    sentence = (
        f"norms fell to {share:.1g} of their start, from {amount(course.first)} to {amount(course.last)} (median) in "
        f"{facts.step:,} steps"
    )
    if not facts.weight_decay > 0:
        return Finding(
            f"{sentence}, without weight decay: the loss itself takes them away",
            f"weigh the term of the loss that shortens rows, a regulariser, {amount(share**-2)} times less",
        )
    decay = evidence.decay_for_norm(course.first)
    return Finding(
        sentence,
        f"lower weight_decay from {amount(facts.weight_decay)} to {amount(decay or 0.0)}"
        + (f", at which rows settle at {amount(course.first)}" if decay else ""),
    )


def _reset_norms(evidence: Evidence) -> Finding | None:
    names = ("budget_decay", "budget_drift", "budget_growth", "norm_mean")
    if not evidence.is_table or not all(name in evidence.courses for name in names):
        return None
    norms = evidence.courses["norm_mean"]
    if norms.count < 6 or not norms.first > 0 or not norms.last > 0:
        return None
    reason = _standstill(evidence)
    if evidence.facts.resets_norms:
        reason = f"nearly every norm was back where a step had met it, near {amount(norms.last)}, when the next came"
    if not reason:
        return None
    weight_decay = None if evidence.sees_lengths else evidence.decay_for_norm(norms.last)
    lever = (
        f"drop the reset and set weight_decay={amount(weight_decay)}, under which rows settle at that norm anyway"
        if weight_decay
        else "keep the reset if norms are to stay there, and leave weight decay out, which has no effect under it"
    )
    return Finding(f"{reason}: something sets them back after each step", lever)


def _standstill(evidence: Evidence) -> str:
    """Says so if norms stand still although the budget of the steps says otherwise."""
    decay, drift, growth = (evidence.courses[f"budget_{name}"].later_mean for name in ("decay", "drift", "growth"))
    norms = evidence.courses["norm_mean"]
    net, steps = decay + drift + growth, norms.last_step - norms.first_step
    change, promise = 2 * math.log(norms.last / norms.first), net * steps
    if abs(promise) < 0.7 or abs(net) < 0.5 * (abs(decay) + growth) or abs(change) > 0.1 * min(abs(promise), 3.0):
        return ""
    return (
        f"{steps:,} steps should have changed R² by {promise:+.2g} of it, and yet norms stand still at "
        f"{amount(norms.last)}"
    )


def _coupled_decay(evidence: Evidence) -> Finding | None:
    facts = evidence.facts
    if not evidence.is_table or facts.rule.family != "adam" or not facts.weight_decay > 0 or evidence.awaits_fit:
        return None
    norm = evidence.first("norm_p50")
    # The law of AdamW, whose numbers are those of this optimizer.
    apart = replace(facts.rule, family="adamw", family_with_decay="adamw")
    decay = evidence.decay_for_norm(norm, apart) if norm > 0 else None
    apart_evidence = evidence._replace(facts=replace(facts, rule=apart))
    target = evidence.last("equilibrium_norm_p50")
    settles = f": rows settle at {amount(target)} (median)" if target > 0 else ""
    return Finding(
        f"{facts.rule.optimizer} divides its weight_decay={amount(facts.weight_decay)} by the gradient's size, so that "
        f"rows of small gradients shrink most{settles}",
        "take torch.optim.AdamW"
        + (
            f" with weight_decay={amount(decay)}, under which rows settle {apart_evidence.place(norm)}" if decay else ""
        ),
        "warning" if facts.weight_decay >= 0.003 else "note",
    )


def _equal_norms(evidence: Evidence) -> Finding | None:
    spread, row = evidence.recent("norm_cv", readings=3), evidence.facts.typical_row
    if not evidence.is_table or not spread < 0.01 or row is None or not evidence.courses.relaxations > 1:
        return None
    return Finding(
        f"all norms are alike: their spread is {spread:.1%} of their mean, so lengths carry nothing",
        "to let frequency and certainty show in lengths, train the table under SGD (R⁴ follows V²); else leave it: "
        "nothing is lost for a cosine",
    )


def _off_the_law(evidence: Evidence) -> Finding | None:
    error, settled = evidence.last("equilibrium_median_error"), evidence.last("stationarity")
    if not evidence.is_table or not (error > 0.3 and settled > 0.9) or evidence.courses.relaxations < 3:
        return None
    return Finding(
        f"norms have settled at {amount(evidence.last('norm_p50'))} (median), {error:.0%} from where the law has them",
        "read budget_drift: if it is not small beside budget_growth, the loss sees lengths, or gradients are far from "
        "white noise",
    )


def _relaxations_from(ratio: float, power: int) -> float:
    """Relaxation times in which ``R^power`` comes so near its equilibrium that R is within 10% of it.

    Args:
        ratio: R over its equilibrium at the start.
        power: of R that relaxes linearly.
    """
    nearness = 1.1**power - 1 if ratio > 1 else 1 - 0.9**power
    return math.log(max(1.0, abs(ratio**power - 1) / nearness))


def _much_slower_for(ratio: float, power: int) -> float:
    """Relaxation times that pass while rows diffuse much more slowly than they will at their equilibrium.

    They turn by angles that go as ``R^(-power/2)``, while ``R^power`` relaxes: a 16th in squared angle, a quarter in
    angle, is where it is 16 times its equilibrium.

    Args:
        ratio: R over its equilibrium at the start.
        power: of R that relaxes linearly.

    Example:
        >>> round(_much_slower_for(3.0, 4), 3), _much_slower_for(2.0, 4)  # from 81 times the equilibrium down to 16
        (1.674, 0.0)
    """
    return math.log(max(1.0, (ratio**power - 1) / (_MUCH_SLOWER - 1)))


def _decay_factor(evidence: Evidence, relaxations: float) -> float:
    """By how much to raise weight decay for norms to settle within the run from where they start.

    A stronger decay lets them relax more often, and has them settle lower, which is further from the start.
    """
    start, power = evidence.first("norm_p50"), evidence.facts.rule.power
    factor = _ENOUGH_RELAXATIONS / relaxations
    while factor < _GREATEST_FACTOR:
        ratio = start / evidence.norm_at_decay(factor * evidence.facts.weight_decay)
        if not factor * relaxations < _relaxations_from(ratio, power):
            break
        factor *= 1.1
    return factor


def _severity(evidence: Evidence, *, is_grave: bool) -> Severity:
    """A warning, or a note where the loss holds norms besides: they need not go where decay alone would have them.

    Rows that are too long turn too slowly, which is grave. Those that are too short turn fast and grow; what their
    first steps spoil is the matter of overshooting_steps.
    """
    return "warning" if is_grave and not evidence.sees_lengths else "note"


def _is_seen(evidence: Evidence, horizon: int) -> bool:
    """Whether enough of the run has passed to judge how it will end: a warm-up is over by then."""
    return evidence.facts.step >= max(_FEWEST_STEPS, 0.3 * horizon)


def _gap(evidence: Evidence) -> float:
    """By which factor norms are from where they would settle, less 1; NaN if unknown."""
    norm, target = evidence.last("norm_p50"), evidence.last("equilibrium_norm_p50")
    return max(norm / target, target / norm) - 1 if norm > 0 and target > 0 else math.nan


def _could_relax(evidence: Evidence, horizon: int) -> float:
    """Relaxation times that the run would have at its highest rate."""
    relaxation = evidence.facts.rule.at(nominal_lr=evidence.peak_lr).relaxation_steps()
    return horizon / relaxation if relaxation > 0 else 0.0


def _equilibrium_init(evidence: Evidence) -> str:
    """The call that starts rows where they settle."""
    row, needs_moment = evidence.facts.typical_row, evidence.facts.rule.family in ("sgd", "adam")
    moment = f", second_moment={amount(row.second_moment)}" if row is not None and needs_moment else ""
    return f"equilibrium_init(table, rule{moment})"


NORM_RULES = (
    Rule(
        "no_decay",
        "warning",
        ("norm_mean", "norm_p05", "norm_p50", "norm_p95"),
        "weight decay is 0 and norms have grown by more than 15% (else, or if the loss sees lengths, a note)",
        "the table's parameter group has no weight decay",
        "the weight decay at which rows keep the norm of their start",
        _no_decay,
    ),
    Rule(
        "slow_relaxation",
        "warning",
        ("relaxation_steps", "stationarity", "equilibrium_norm_p50"),
        "less than one relaxation time in the whole run, and norms at least twice too long, or rows too long that turn "
        "by less than a tenth of a radian (else, if the loss sees lengths, or if rows were trained before, a note)",
        "lr·λ is too small for so few steps",
        "`equilibrium_init`, or the weight decay, or both rates, that make three relaxation times of the run",
        _slow_relaxation,
    ),
    Rule(
        "freezing_schedule",
        "warning",
        ("relaxation_steps", "stationarity", "equilibrium_norm_p50"),
        "less than one relaxation time in the run, where its highest learning rate would give three (a note if rows "
        "are too short, or the loss sees lengths)",
        "the learning rate falls before the norms have settled",
        "the mean learning rate that gives three relaxation times, or `equilibrium_init`",
        _freezing_schedule,
    ),
    Rule(
        "fast_decay",
        "warning",
        ("angular_update", "relaxation_steps"),
        "a relaxation time below 10 steps (below 3: critical)",
        "weight decay, or the learning rate, is too large",
        "the weight decay that gives a relaxation of a twentieth of the run",
        _fast_decay,
    ),
    Rule(
        "far_start",
        "warning",
        ("norm_p50", "equilibrium_norm_p50", "relaxation_steps"),
        "for a fifth of the run rows are so long that they turn 16 times more slowly, in squared angle, than at their "
        "equilibrium (4 times too long under AdamW, twice under SGD) (a note if they start 4 times too short and need "
        "a fifth of the run to come near it, or if the loss sees lengths)",
        "the initial scale was not made for this learning rate and decay",
        "`equilibrium_init`, or the factor for the initial table",
        _far_start,
    ),
    Rule(
        "exploding_norms",
        "critical",
        ("norm_mean", "norm_p50", "budget_drift", "effective_lr"),
        "norms grew more than 10-fold, beyond twice where they would settle (of an encoder: 100-fold, or at a run)",
        "the loss rewards length (an unnormalised score), or steps are far too long",
        "normalise, or the weight decay that takes the most that the loss added in a step",
        _exploding_norms,
    ),
    Rule(
        "collapsing_norms",
        "critical",
        ("norm_mean", "norm_p50", "effective_lr"),
        "norms fell below 2% of their start (without weight decay, 10%), and below half of where they would settle",
        "decay meets little or no gradient, or a regulariser outweighs the loss",
        "the weight decay at which rows settle where they started, or by how much to weigh the regulariser less",
        _collapsing_norms,
    ),
    Rule(
        "reset_norms",
        "warning",
        ("budget_decay", "budget_drift", "budget_growth", "norm_mean"),
        "norms are back where they were whenever a step has moved them, or what steps do to R² should have moved the "
        "norms, which stand still",
        "the training code normalises rows after each step, as TransE does",
        "the weight decay that holds rows at that norm by itself, where the loss does not see lengths",
        _reset_norms,
    ),
    Rule(
        "coupled_decay",
        "warning",
        ("equilibrium_norm_p50", "budget_drift"),
        "Adam, NAdam, RAdam or RMSprop with a weight decay of 0.003 or more added to the gradient (less: a note)",
        "`weight_decay` of Adam is no decoupled one: AdamW was meant",
        "AdamW with the weight decay at which rows keep the norm of their start",
        _coupled_decay,
    ),
    Rule(
        "equal_norms",
        "note",
        ("norm_cv",),
        "after a relaxation time norms differ by less than 1%",
        "an optimizer that gives all rows steps of one size, or a reset",
        "SGD, if lengths are to carry something",
        _equal_norms,
    ),
    Rule(
        "off_the_law",
        "note",
        ("equilibrium_median_error", "equilibrium_slope", "equilibrium_pearson_r", "equilibrium_r2", "stationarity"),
        "norms have settled more than 30% from the law",
        "the loss sees lengths, or the noise is not white",
        "what to read",
        _off_the_law,
    ),
)
"""Rules on where norms go."""
