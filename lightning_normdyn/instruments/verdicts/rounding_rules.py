"""Rules on what number formats, and what is added to guard a division, lose of gradients and steps."""

from __future__ import annotations

import math

import torch

from lightning_normdyn.instruments.verdicts.evidence import Evidence
from lightning_normdyn.instruments.verdicts.verdict import Finding, Rule, amount

_LOST = 0.1
"""Of the format's eps: an RMS turn below it means that a few numbers in a hundred moved at all."""


def _half_precision(evidence: Evidence) -> Finding | None:
    share, chance = evidence.recent("radial_fraction", readings=3), evidence.chance_radial_fraction
    if not evidence.is_table or "gradient_norm" not in evidence.courses:
        return None
    if not evidence.rounding < share < 0.1 * chance:
        return None
    gradients = evidence.courses["gradient_norm"]
    if gradients.recent < 0.05 * gradients.highest:
        return None  # of a gradient that has all but gone, rounding is a large share
    return Finding(
        f"a share of {share:.1e} of the gradient points along the rows, where a cosine in float32 leaves 1e-8 to 1e-6",
        'normalise in float32: `F.normalize(vectors.float(), dim=-1)`, or InfoNCE(normalization="cosine"), which does '
        "(eps is 7.8e-3 in bfloat16, 9.8e-4 in float16, 1.2e-7 in float32)",
        None if evidence.meets_loss else "note",
    )


def _lost_steps(evidence: Evidence) -> Finding | None:
    facts, eps = evidence.facts, torch.finfo(evidence.facts.dtype).eps
    if not evidence.is_table or "angular_update" not in evidence.courses or not evidence.last("gradient_norm") > 0:
        return None
    turn, norm = evidence.courses["angular_update"].mean, evidence.last("norm_p50")
    if not turn < _LOST * eps or not evidence.peak_lr > 0:
        return None
    numbers = norm / math.sqrt(facts.dim or 1)
    rate = (
        f", or raise the learning rate from {amount(evidence.peak_lr)} to {amount(2 * eps * numbers)}, twice the gap "
        f"between two numbers of {amount(numbers)}"
        if facts.rule.ignores_gradient_scale
        else ""
    )
    return Finding(
        f"rows turn by {turn:.1g} radians in a step, where {facts.dtype} has gaps of {eps:.1g} of a number: nearly all "
        "that steps and decay do is rounded away",
        f"keep the weights in float32 and let autocast use half precision{rate}",
    )


def _swamped_gradients(evidence: Evidence) -> Finding | None:
    facts = evidence.facts
    if not evidence.is_table or facts.eps is None or not facts.gradient_scale:
        return None
    ratio = facts.eps / facts.gradient_scale
    if not ratio > 1:
        return None
    return Finding(
        f"the optimizer divides by the gradient's size, {amount(facts.gradient_scale)}, and its eps of "
        f"{amount(facts.eps)}: steps are {amount(1 + ratio)} times shorter than the learning rate says, and go by the "
        "gradient's size",
        f"set eps={amount(facts.gradient_scale / 100)}",
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


ROUNDING_RULES = (
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
        "lost_steps",
        "warning",
        ("angular_update", "gradient_norm"),
        "rows have a gradient and turn by less than a tenth of what the weights' format can tell apart",
        "a learning rate below the gaps of a format of few digits",
        "float32 weights, or the learning rate that is twice those gaps",
        _lost_steps,
    ),
    Rule(
        "swamped_gradients",
        "warning",
        (),
        "the optimizer's eps is larger than the median root of its average squared gradient",
        "an eps from another model, or a loss that is averaged until gradients are tiny",
        "an eps of a hundredth of the gradient's size",
        _swamped_gradients,
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
)
"""Rules on number formats and their guards."""
