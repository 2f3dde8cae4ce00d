"""Compares the outcome of a grid with the prediction of the task's symmetry."""

from __future__ import annotations

from typing import NamedTuple

from lightning_normdyn.core.statistics.variant_comparison import VariantComparison
from lightning_normdyn.tasks.contrast.symmetry import FunctionalSymmetry


class SymmetryCheck(NamedTuple):
    """A prediction and what came of it.

    Attributes:
        prediction: in words.
        outcome: ``agreed``, ``contradicted`` or ``undecided``, the last where intervals leave both open.
        evidence: the numbers that decided, in words.
    """

    prediction: str
    outcome: str
    evidence: str


def check_symmetry(symmetry: FunctionalSymmetry, comparison: VariantComparison) -> SymmetryCheck:
    """Compares the better of QNorm and DNorm with cosine, as the rule does.

    For a symmetric task the rule says that keeping one side's norm loses, for an asymmetric one that it does not: the
    run agrees if the gain's interval lies on that side of zero, contradicts if it lies on the other. Nothing is decided
    where neither of the two trained.

    Args:
        symmetry: what the task says of itself.
        comparison: of the variants, cosine being the reference.

    Raises:
        ValueError: if the reference is not cosine.
    """
    if comparison.reference != "cosine":
        raise ValueError(f"comparison: expected cosine as the reference of the rule, got {comparison.reference}")
    unilateral = [name for name in ("qnorm", "dnorm") if name in comparison.scores]
    if not unilateral:
        return SymmetryCheck(symmetry.prediction, "undecided", "neither qnorm nor dnorm trained")
    name = max(unilateral, key=lambda variant: comparison.scores[variant].mean)
    score = comparison.scores[name]
    evidence = (
        f"{name} − cosine = {score.gain:+.4f} ({score.gain_interval.low:+.4f} to {score.gain_interval.high:+.4f})"
    )
    if not comparison.decidable:
        outcome = "undecided"
    elif symmetry.symmetric:
        outcome = _outcome(is_agreement=score.gain_interval.high < 0, is_contradiction=score.gain_interval.low > 0)
    else:
        outcome = _outcome(is_agreement=score.gain_interval.low > 0, is_contradiction=score.gain_interval.high < 0)
    return SymmetryCheck(symmetry.prediction, outcome, evidence)


def _outcome(*, is_agreement: bool, is_contradiction: bool) -> str:
    return "agreed" if is_agreement else "contradicted" if is_contradiction else "undecided"
