"""Rules on single steps: their gradients, their length, what clips or skips them."""

from __future__ import annotations

import math

import torch

from lightning_normdyn.instruments.verdicts.evidence import Evidence
from lightning_normdyn.instruments.verdicts.verdict import Finding, Rule, amount

_ZERO_READINGS = 4
_CLEAR_READINGS = 5
_FLOAT16 = 65_504.0
"""Its largest number."""
_LITTLE = 0.1
"""The share of a direction, squared, below which it counts as drawn anew."""
_FEW_STEPS = 10


def _no_gradient(evidence: Evidence) -> Finding | None:
    if not _has_no_gradient(evidence) or _shrinks_alone(evidence):
        return None
    norm = evidence.last("norm_p50")
    overflow = f"; R² of {amount(norm)} is beyond float16: normalise in float32" if norm**2 > _FLOAT16 else ""
    return Finding(
        f"the gradient is zero in the latest {len(evidence.courses['gradient_norm'].latest)} readings, to step "
        f"{evidence.facts.step:,}: nothing is learnt",
        "look where the loss is cut off from this target (`.detach()`, `no_grad`, a constant, a saturated function); "
        "`loss.backward()` should leave a `.grad` that is not zero" + overflow,
    )


def _decay_alone(evidence: Evidence) -> Finding | None:
    if not _has_no_gradient(evidence) or not _shrinks_alone(evidence):
        return None
    facts = evidence.facts
    horizon, rate = facts.horizon or facts.step, facts.rule.lr_gain * evidence.mean_lr * facts.rule.radial_decay
    return Finding(
        f"no gradient, but weight_decay={amount(facts.weight_decay)} takes {rate:.2g} of each row in a step: after "
        f"{horizon:,} steps {math.exp(-rate * horizon):.1%} of the norms is left",
        "put the table into a parameter group with weight_decay=0, or leave it out of the optimizer, if it is to be "
        "frozen; else find what cuts it off from the loss",
    )


def _has_no_gradient(evidence: Evidence) -> bool:
    """Whether the optimizer was given zeros, from the loss or by somebody who set them between."""
    return any(
        len(latest) >= _ZERO_READINGS and not any(latest[-_ZERO_READINGS:])
        for latest in (
            evidence.courses[name].latest for name in ("gradient_norm", "clip_ratio") if name in evidence.courses
        )
    )


def _shrinks_alone(evidence: Evidence) -> bool:
    return evidence.is_table and evidence.facts.rule.radial_decay > 0 and evidence.peak_lr > 0


def _nonfinite_gradients(evidence: Evidence) -> Finding | None:
    if "nonfinite_gradients" not in evidence.courses:
        return None
    course, facts = evidence.courses["nonfinite_gradients"], evidence.facts
    windows = sum(count > 0 for count in course.latest)
    if not course.total or (facts.loss_scale != 1 and windows < 2):  # a scaler that finds its scale
        return None
    norm = evidence.recent("gradient_norm")
    clip = f", clip at {amount(3 * norm)} (three times the usual norm)" if norm > 0 else ""
    is_lost = not math.isfinite(evidence.last("norm_p50"))
    return Finding(
        f"{amount(course.total)} row gradients were NaN or infinite, in {windows} of {len(course.latest)} windows",
        f"leave out steps whose loss is not finite{clip}, and lower the learning rate from {amount(facts.lr)} to "
        f"{amount(facts.lr / 3)}",
        "critical" if is_lost or windows > 1 else None,
    )


def _gradient_spikes(evidence: Evidence) -> Finding | None:
    norm = evidence.recent("gradient_norm", readings=_CLEAR_READINGS)
    if not norm > 0 or not evidence.courses["gradient_norm"].highest > 100 * norm:
        return None
    highest = evidence.courses["gradient_norm"].highest
    return Finding(
        f"the gradient's norm reached {amount(highest)}, {amount(highest / norm)} times its usual {amount(norm)}",
        f"clip at {amount(5 * norm)}",
    )


def _overshooting_steps(evidence: Evidence) -> Finding | None:
    first, recent = evidence.first("budget_growth"), evidence.recent("budget_growth")
    is_lasting = _kept_direction(recent, _FEW_STEPS) < _LITTLE
    # A loss that sees lengths pushes short rows no more than long ones: models start near nothing on purpose there.
    is_first = _kept_direction(first, 1) < _LITTLE and not evidence.sees_lengths
    if not evidence.is_table or not (is_lasting or is_first):
        return None
    growth, when = (recent, f"at step {evidence.facts.step:,}") if is_lasting else (first, "in the first step")
    target = evidence.last("equilibrium_norm_p50")
    lr = evidence.peak_lr * math.sqrt(0.01 / growth)
    longer = f", or start rows at {amount(target)}, where they settle" if not is_lasting and target > 0 else ""
    return Finding(
        f"{when} a step is {amount(math.sqrt(growth))} times as long as the row that it moves: directions are drawn "
        "anew instead of learnt",
        f"lower the learning rate from {amount(evidence.peak_lr)} to {amount(lr)}{longer}",
    )


def _kept_direction(growth: float, steps: int) -> float:
    """The share of a row's direction, as a squared cosine, that steps across it leave.

    A step of squared length ``growth·R²`` turns the row by ``atan(sqrt(growth))``, and ``cos² = 1/(1 + growth)``.
    """
    return (1 + growth) ** -steps


def _clipping_sets_steps(evidence: Evidence) -> Finding | None:
    ratio, facts = evidence.recent("clip_ratio", readings=_CLEAR_READINGS), evidence.facts
    if not 0 < ratio < 0.5:  # 0 is no clipping: somebody set the gradient to zero
        return None
    is_scale_free = facts.rule.ignores_gradient_scale
    lowest = min(evidence.courses["clip_ratio"].latest)
    factor = 1.1 / max(lowest, 1e-9)
    value = (
        f"from {amount(facts.clip_value)} to {amount(facts.clip_value * factor)}"
        if facts.clip_value
        else f"to {amount(factor)} times what it is"
    )
    return Finding(
        f"clipping leaves {ratio:.1%} of the gradient in a usual step, so it sets "
        + ("how much each step weighs" if is_scale_free else "the size of steps, and with it the norms"),
        f"raise the clipping value {value}"
        + ("; the size of steps is left to the optimizer" if is_scale_free else ", or lower the learning rate instead"),
        "note" if is_scale_free else None,
    )


def _unsettled_scaler(evidence: Evidence) -> Finding | None:
    facts = evidence.facts
    tried = facts.step + facts.skipped_steps
    if facts.skipped_steps < max(5.0, 0.05 * tried) or "skipped_steps" not in evidence.courses or tried < 50:
        return None
    latest = evidence.courses["skipped_steps"].latest
    if latest[-1] <= latest[max(0, len(latest) - 4)] and facts.step > 200:
        return None  # they were at the start
    return Finding(
        f"the loss scaler skipped {facts.skipped_steps:,} of {tried:,} steps and still does (scale "
        f"{amount(facts.loss_scale)})",
        f"train in bf16, which needs no scale, or GradScaler(init_scale={amount(max(1.0, facts.loss_scale / 16))}, "
        "growth_interval=100000)",
    )


def _half_precision(evidence: Evidence) -> Finding | None:
    share, chance = evidence.recent("radial_fraction", readings=3), evidence.chance_radial_fraction
    if not evidence.is_table or "gradient_norm" not in evidence.courses:
        return None
    if not _rounding(evidence) < share < 0.1 * chance:
        return None
    gradients, is_direct = evidence.courses["gradient_norm"], evidence.facts.has_tables_alone
    if gradients.recent < 0.05 * gradients.highest:
        return None  # of a gradient that has all but gone, rounding is a large share
    return Finding(
        f"a share of {share:.1e} of the gradient points along the rows, where a cosine in float32 leaves 1e-8 to 1e-6",
        'normalise in float32: `F.normalize(vectors.float(), dim=-1)`, or InfoNCE(normalization="cosine"), which does '
        "(eps is 7.8e-3 in bfloat16, 9.8e-4 in float16, 1.2e-7 in float32)",
        None if is_direct else "note",
    )


def _radial_leak(evidence: Evidence) -> Finding | None:
    share, facts = evidence.recent("radial_fraction", readings=3), evidence.facts
    if not evidence.is_table or not evidence.sees_lengths or share < _rounding(evidence):
        return None
    is_cosine = bool(facts.loss_normalizations) and set(facts.loss_normalizations) == {"cosine"}
    error, drift = evidence.last("equilibrium_median_error"), evidence.recent("budget_drift")
    if not is_cosine:
        return None
    effect = f", and norms are {error:.0%} off the law" if error > 0 else ""
    turn = "outwards" if drift > 0 else "inwards"
    return Finding(
        f"{share:.1%} of the gradient points along the rows although the losses are cosines: something else pushes "
        f"norms {turn}, by {amount(abs(drift))} of R² a step{effect}",
        "take the term of the loss that sees lengths out, or weigh it "
        f"{amount(2 * share / _rounding(evidence))} times less",
        None if facts.has_tables_alone else "note",
    )


def _rounding(evidence: Evidence) -> float:
    """The radial share below which rounding explains it."""
    return max(1e-4, 2 * torch.finfo(evidence.facts.dtype).eps)


STEP_RULES = (
    Rule(
        "no_gradient",
        "critical",
        ("gradient_norm",),
        f"the gradient is exactly zero in {_ZERO_READINGS} readings in a row, and nothing decays",
        "a dead loss: detached, constant or saturated",
        "where to look",
        _no_gradient,
    ),
    Rule(
        "decay_alone",
        "critical",
        ("gradient_norm", "update_radial_fraction", "budget_decay"),
        f"the gradient is exactly zero in {_ZERO_READINGS} readings in a row, and weight decay goes on",
        "a table that is frozen by a zero gradient, or a dead loss, is still in a decayed parameter group",
        "weight_decay=0 for it",
        _decay_alone,
    ),
    Rule(
        "nonfinite_gradients",
        "warning",
        ("nonfinite_gradients",),
        "row gradients were NaN or infinite; under a loss scaler in two windows at least (several windows: critical)",
        "an overflow, a division by zero or a learning rate that is too large",
        "the learning rate, and the norm to clip at",
        _nonfinite_gradients,
    ),
    Rule(
        "gradient_spikes",
        "note",
        ("gradient_norm",),
        "one gradient was more than 100 times as long as is usual",
        "a rare batch, or a loss near a singularity",
        "the norm to clip at",
        _gradient_spikes,
    ),
    Rule(
        "overshooting_steps",
        "critical",
        ("budget_growth", "angular_update"),
        f"{_FEW_STEPS} steps leave less than a tenth of a row's direction, each being half as long as the row, or the "
        "first step alone does, being three times as long, under a loss that does not see lengths",
        "a learning rate that is too large for rows of this norm, or rows that start too short",
        "the learning rate at which a step is a tenth of a row",
        _overshooting_steps,
    ),
    Rule(
        "clipping_sets_steps",
        "warning",
        ("clip_ratio",),
        f"clipping leaves less than half of the gradient in the median of {_CLEAR_READINGS} readings or more (a note "
        "where the optimizer divides by the gradient's size)",
        "a clipping value below the usual gradient",
        "the clipping value that touches rare steps alone",
        _clipping_sets_steps,
    ),
    Rule(
        "unsettled_scaler",
        "warning",
        ("skipped_steps",),
        "the loss scaler skipped 5% of the steps and goes on skipping",
        "gradients overflow float16 whatever the scale",
        "bf16, or the scale to begin with",
        _unsettled_scaler,
    ),
    Rule(
        "half_precision",
        "warning",
        ("radial_fraction",),
        "the radial share of the gradient is above 1e-4 (or the weights' rounding) and below a tenth of 1/√d",
        "a cosine that normalises in half precision, or a weak term that sees lengths",
        "the line that normalises in float32",
        _half_precision,
    ),
    Rule(
        "radial_leak",
        "warning",
        ("radial_fraction", "budget_drift", "equilibrium_median_error"),
        "the radial share is above a tenth of 1/√d although every loss of the model is a cosine",
        "a term of the loss sees lengths (a penalty, an unnormalised score)",
        "by how much to weigh that term less",
        _radial_leak,
    ),
)
"""Rules on single steps."""
