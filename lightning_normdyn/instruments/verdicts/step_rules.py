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
_ONE_NORM = 1e-3
"""Scatter of a norm below which something sets it."""
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
        "call `requires_grad_(False)` on the table if it is to be frozen, so that no optimizer moves it; else find "
        "what cuts it off from the loss",
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
    is_lost = not math.isfinite(evidence.last("norm_p50"))
    return Finding(
        f"{amount(course.total)} row gradients were NaN or infinite, in {windows} of {len(course.latest)} windows",
        _cure_of_nonfinite(evidence),
        "critical" if is_lost or windows > 1 else None,
    )


def _cure_of_nonfinite(evidence: Evidence) -> str:
    facts, norm = evidence.facts, evidence.recent("gradient_norm")
    if facts.eps is not None and float(torch.tensor(facts.eps, dtype=facts.dtype)) == 0:
        least = torch.finfo(facts.dtype).tiny
        return (
            f"give the optimizer eps={amount(4 * least)} (its eps={amount(facts.eps)} is 0 in {facts.dtype}, so that "
            "it divides by 0), or keep the weights in float32 and let autocast use half precision"
        )
    if "gradient_norm" not in evidence.courses:
        return (
            "the learning rate has no part in it, since no gradient was finite from the first step on: look for what "
            "divides by 0 or takes its root or logarithm, such as the norm of a row of zeros "
            "(`F.normalize(vectors, dim=-1)` does not) or the distance of a vector to itself (`F.pairwise_distance`)"
        )
    clip = f", clip at {amount(3 * norm)} (three times the usual norm)" if norm > 0 else ""
    return (
        f"leave out steps whose loss is not finite{clip}, and lower the learning rate from {amount(facts.lr)} to "
        f"{amount(facts.lr / 3)}"
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
        return _clipped_before(evidence)
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
        f"raise the clipping value {value}{_remark_on_steps(evidence, ratio)}",
        "note" if is_scale_free else None,
    )


def _remark_on_steps(evidence: Evidence, ratio: float) -> str:
    """What becomes of steps that are clipped no more."""
    facts, growth = evidence.facts, evidence.recent("budget_growth") / ratio**2
    if facts.rule.ignores_gradient_scale:
        return "; the size of steps is left to the optimizer"
    if _kept_direction(growth, _FEW_STEPS) < _LITTLE:
        return (
            f", and lower the learning rate from {amount(facts.lr)} to {amount(facts.lr * ratio)}, since steps would "
            f"be {amount(math.sqrt(growth))} times as long as rows otherwise: is a loss scale still in the gradient?"
        )
    return ", or lower the learning rate instead"


def _clipped_before(evidence: Evidence) -> Finding | None:
    """Of a gradient that is clipped before anybody can see it, all that shows is that its norm is always the same."""
    if "gradient_norm" not in evidence.courses or evidence.courses["gradient_norm"].count < _CLEAR_READINGS:
        return None
    latest, facts = evidence.courses["gradient_norm"].latest, evidence.facts
    norm = evidence.recent("gradient_norm")
    if not norm > 0 or max(latest) > (1 + _ONE_NORM) * min(latest):
        return None
    scaled = facts.loss_scale * norm
    return Finding(
        f"the gradient's norm is {amount(norm)} in each reading: something clips it, or brings it to one length, "
        "before it is seen"
        + (
            f", at {amount(scaled)} while the loss is still scaled by {amount(facts.loss_scale)}"
            if scaled > norm
            else ""
        ),
        "call `scaler.unscale_(optimizer)` before the gradient is clipped"
        if scaled > norm
        else "leave it as long as it is, and clip at several times its usual norm",
        "note" if facts.rule.ignores_gradient_scale else None,
    )


def _radial_leak(evidence: Evidence) -> Finding | None:
    share = evidence.recent("radial_fraction", readings=3)
    if share < evidence.rounding or not share >= 0.1 * evidence.chance_radial_fraction:
        return None
    claim = _cosine_claim(evidence, share)
    if not claim:
        return None
    if _accumulates(evidence, share):
        return Finding(
            f"{share:.1%} of the gradient points along the rows, and its norm has grown "
            f"{amount(evidence.recent('gradient_norm') / evidence.first('gradient_norm'))}-fold: it holds those of all "
            "steps before",
            "call `optimizer.zero_grad()` before each backward pass",
        )
    factor = 4 * share / evidence.rounding
    drift, error = evidence.recent("budget_drift"), evidence.last("equilibrium_median_error")
    turn = "outwards" if drift > 0 else "inwards"
    effect = f", and norms are {error:.0%} off the law" if error > 0 else ""
    return Finding(
        f"{share:.1%} of the gradient points along {'the rows' if evidence.is_table else 'the vectors'} although "
        f"{claim}: something else pushes norms {turn}, by {amount(abs(drift))} of R² a step{effect}",
        f"take the term of the loss that sees lengths out, or weigh it {amount(factor)} times less",
        None if evidence.meets_loss else "note",
    )


def _cosine_claim(evidence: Evidence, share: float) -> str:
    """Why the loss should not see lengths; empty where it may.

    A loss of products of lengths gives the radial part its share by chance and more, so that one well below has a weak
    term of its own.
    """
    normalizations, chance = evidence.facts.loss_normalizations, evidence.chance_radial_fraction
    if normalizations:
        return "the losses are cosines" if set(normalizations) == {"cosine"} else ""
    if evidence.meets_loss and share < 0.5 * chance:
        return f"a loss of products of lengths would give them {chance:.1%} by chance"
    return ""


def _accumulates(evidence: Evidence, share: float) -> bool:
    """Whether the gradient is a sum over steps: it grows as they do, and rows lie along it, having been made by it."""
    return share > 0.5 and evidence.recent("gradient_norm") > 3 * evidence.first("gradient_norm")


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
        "how to freeze it, or where to look",
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
        f"clipping leaves less than half of the gradient in the median of {_CLEAR_READINGS} readings or more, or the "
        "gradient has one norm in all of them (a note where the optimizer divides by the gradient's size)",
        "a clipping value below the usual gradient, or a gradient that is scaled up when it is clipped",
        "the clipping value that touches rare steps alone",
        _clipping_sets_steps,
    ),
    Rule(
        "radial_leak",
        "warning",
        ("radial_fraction", "budget_drift", "equilibrium_median_error"),
        "the radial share is above a tenth of 1/√d although every loss of the model is a cosine, or, where nobody says "
        "what the loss is, below half of it",
        "a term of the loss that sees lengths (a penalty, an unnormalised score), or gradients that nobody zeroes",
        "by how much to weigh that term less",
        _radial_leak,
    ),
)
"""Rules on single steps."""
