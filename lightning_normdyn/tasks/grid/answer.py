"""The answer of a grid in words: which variant to take, how sure that is, and what could have been seen."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_normdyn.core.statistics.variant_comparison import VariantComparison, VariantScore

_SURE_SHARE = 0.975
_ALIKE = 1.1
"""Ratio of two visible gains up to which one number stands for both."""
SEEN, NEW = "documents training wants", "other documents"
"""Kinds of test queries, by whether training wants a document that they want."""


def advise(comparison: VariantComparison, headline: str) -> str:
    """What to take, how sure that is, and the smallest gain that would have been seen.

    'No gain that matters' and 'too small to see' are two answers.

    Args:
        comparison: of the variants.
        headline: the measure.
    """
    best = comparison.scores[comparison.best]
    if len(comparison.scores) == 1:
        return f"Nothing to compare: {comparison.best} alone ended with a finite measure ({headline} {best.mean:.4f})."
    if comparison.seeds == 1:
        gain_clause = (
            "" if comparison.best == comparison.reference else f" ({best.gain:+.4f} over {comparison.reference})"
        )
        return (
            f"One seed cannot decide: with it {comparison.best} leads with {headline} {best.mean:.4f}{gain_clause}, "
            "which another seed may turn round; train more seeds."
        )
    answers = {"gain": _gain, "loss": _loss, "no gain": _no_gain, "undecided": _undecided}
    return f"{answers[comparison.answer](comparison, headline)} {_power(comparison)}"


def _gain(comparison: VariantComparison, headline: str) -> str:
    best = comparison.scores[comparison.best]
    return (
        f"Take {comparison.best}: {headline} {best.mean:.4f}, {best.gain:+.4f} over {comparison.reference} "
        f"({_ends(best)}; {_certainty(comparison)}){_alike(comparison)}."
    )


def _loss(comparison: VariantComparison, headline: str) -> str:
    mean = comparison.scores[comparison.reference].mean
    return (
        f"Take {comparison.reference}: every other variant is worse ({headline} {mean:.4f}; {_certainty(comparison)})."
    )


def _no_gain(comparison: VariantComparison, headline: str) -> str:
    mean = comparison.scores[comparison.reference].mean
    return (
        f"No gain that matters: no variant gains {comparison.margin:g} or more over {comparison.reference}, at most "
        f"{comparison.largest_gain:+.4f} ({headline} {mean:.4f}; {comparison.level_in_words}): stay with "
        f"{comparison.reference}, which needs nothing of the index."
    )


def _undecided(comparison: VariantComparison, headline: str) -> str:
    best, reference = comparison.scores[comparison.best], comparison.scores[comparison.reference]
    leads = comparison.best == comparison.reference
    best_clause = "" if leads else f", best {comparison.best} {best.mean:.4f} ({best.gain:+.4f}, {_ends(best)})"
    return (
        f"Too small to see with {counted(comparison.seeds, 'seed')} and {counted(comparison.queries, 'test item')} "
        f"({headline}: {comparison.reference} {reference.mean:.4f}{best_clause}): gains up to "
        f"{comparison.largest_gain:+.4f} are as possible as none. Until more of either says more, stay with "
        f"{comparison.reference}, which needs nothing of the index."
    )


def _power(comparison: VariantComparison) -> str:
    if not comparison.decidable:
        return f"{counted(comparison.queries, 'test item')} would have shown no gain for certain."
    gains = comparison.visible_gains
    least, most = min(gains, key=gains.__getitem__), max(gains, key=gains.__getitem__)
    sizes = f"{gains[most]:.3g}"
    if gains[most] > _ALIKE * gains[least]:
        sizes = f"{gains[least]:.3g} of {least}, {gains[most]:.3g} of {most}"
    return f"The smallest gain that would have been seen four times in five is {sizes}."


def kinds_sentence(comparison: VariantComparison, query_kinds: Mapping[str, VariantComparison]) -> str:
    """How much of the leading gain, or of the reference's lead, comes from queries whose documents training wants.

    Args:
        comparison: of all queries, of two variants or more.
        query_kinds: of either kind of query.
    """
    rivals = {name: score for name, score in comparison.scores.items() if name != comparison.reference}
    name = max(rivals, key=lambda name: rivals[name].gain)
    words = {SEEN: "items whose documents training wants", NEW: "others"}
    clauses = []
    for kind, of_kind in query_kinds.items():
        gain, share = of_kind.scores[name].gain_interval, of_kind.queries / comparison.queries
        ends = f"{gain.value:+.4f} each, {gain.low:+.4f} to {gain.high:+.4f}"
        clauses.append(f"{share * gain.value:+.4f} from the {of_kind.queries} {words[kind]} ({ends})")
    return (
        f"Of {name}'s gain of {rivals[name].gain:+.4f} over {comparison.reference} come {' and '.join(clauses)}: on "
        "the former, memory of the training judgements counts too."
    )


def _certainty(comparison: VariantComparison) -> str:
    """Of a decision: a level where one looked again and again, for which a p value of one look is too small."""
    return comparison.level_in_words if comparison.is_sequential else comparison.confidence_in_words


def _ends(score: VariantScore) -> str:
    return f"{score.gain_interval.low:+.4f} to {score.gain_interval.high:+.4f}"


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    Example:
        >>> counted(1, "seed"), counted(2, "seed")
        ('1 seed', '2 seeds')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def _alike(comparison: VariantComparison) -> str:
    """Variants that may be as good as the best one."""
    alike = [
        name
        for name, score in comparison.scores.items()
        if name != comparison.best and score.share_best > 1 - _SURE_SHARE
    ]
    return f"; {' and '.join(alike)} may be as good" if alike else ""
