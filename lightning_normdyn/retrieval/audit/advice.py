"""The findings of an audit in words: a first line, and a paragraph on what to do."""

from __future__ import annotations

import math

from lightning_normdyn.core.statistics.correlation import LENGTH, Correlation
from lightning_normdyn.retrieval.audit.audit import Audit

_STRONG = 0.3
_NAMED = 3


def first_line(audit: Audit) -> str:
    """What matters most: unit length, then whether norms gain and whether length explains it, then the rest."""
    if audit.says_nothing:
        return (
            "The vectors are already of length one: there is nothing to find. Audit the model itself, or embeddings "
            "from before its normalisation."
        )
    if audit.ranking is not None:
        return audit.ranking.sentence
    if audit.saturation.kind != "free":
        return audit.saturation.sentence
    strongest = _strongest(audit)
    if strongest is None:
        return f"{audit.saturation.sentence} Without covariates or judgements nobody can say what they mean."
    name, correlation = strongest
    if name == LENGTH and abs(correlation.r) >= _STRONG:
        return f"Norms follow length (Spearman {_signed(correlation.r)}): read everything else with length held fixed."
    if abs(correlation.r) >= _STRONG:
        return f"Norms follow {name} (Spearman {_signed(correlation.r)}, {_fixed(audit, correlation)})."
    return f"Norms follow none of the covariates closely; closest is {name} (Spearman {_signed(correlation.r)})."


def advice(audit: Audit) -> str:
    """One paragraph: what to do with these norms."""
    if audit.says_nothing:
        return (
            "Keep scoring by cosine: with vectors of length one it is the inner product, and no exponent changes any "
            "ranking. A length can come back only from the model before its last step."
        )
    sentences = [_score(audit), _saturation(audit), _zeros(audit), _groups(audit), _trust(audit), _extremes(audit)]
    return " ".join(sentence for sentence in sentences if sentence)


def _score(audit: Audit) -> str:
    if audit.ranking is None:
        return (
            "To learn whether norms help a search, add queries and judgements; until then score by cosine, which is "
            "safe."
        )
    calibration = audit.ranking.calibration
    if not calibration.significant:
        return "Score by cosine: no exponent of the norm gains beyond chance on these judgements."
    verdict = None if audit.ranking.confounds is None else audit.ranking.confounds.verdict
    alpha = f"{calibration.advice:.2f}"
    use = f"the exponent {alpha} folded into the stored vectors (export_vectors, alpha={alpha})"
    if verdict == "length":
        return (
            f"Length, not the norm, carries the gain: correct scores by length openly, and take {use} only if lengths "
            "will stay as they are here."
        )
    if verdict == "partly length":
        return f"Take {use}, knowing that part of the gain is length, and check it again when lengths change."
    without = "; lengths were unknown, so give them before trusting it" if verdict is None else ""
    return f"Take {use}{without}; check it on queries of your own."


def _saturation(audit: Audit) -> str:
    kind = audit.saturation.kind
    if kind == "constant":
        return "The model's end leaves norms no room: take embeddings from before its last normalisation to find more."
    if kind == "ellipsoid":
        return "A norm here only repeats what the direction says: take embeddings from before the last normalisation."
    return "Find what clips the norms before reading the longest ones." if kind == "clipped" else ""


def _zeros(audit: Audit) -> str:
    zeros = audit.distribution.zeros
    if not zeros:
        return ""
    are = "1 vector is zero and scores" if zeros == 1 else f"{zeros:,} vectors are zero and score"
    return f"{are} 0 with every query: look there first (empty texts?)."


def _groups(audit: Audit) -> str:
    differing = [group for group in audit.groups if group.differs]
    if not differing:
        return ""
    names = ", ".join(f"{group.column} {group.group} ({_signed(group.effect.value)})" for group in differing[:_NAMED])
    remainder = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
    return (
        f"Norms differ between groups ({names}{remainder}; Cohen's d): any score that uses them favours some groups, "
        "so compare results by group before shipping one."
    )


def _trust(audit: Audit) -> str:
    """Whether a norm is a better confidence than the similarity."""
    table = None if audit.ranking is None else audit.ranking.confidence
    better_names = [
        name for name, confidence in (table or {}).items() if "norm" in name and confidence.over_baseline.low > 0
    ]
    if not better_names:
        return ""
    best = min(better_names, key=lambda name: table[name].aurc.value if table else math.inf)
    return f"To refuse doubtful queries, {best.replace('_', ' ')} beats the largest similarity."


def _extremes(audit: Audit) -> str:
    if audit.saturation.kind == "constant":
        return ""
    return "Read the longest and the shortest items below: generic entries, boilerplate and broken inputs gather there."


def _strongest(audit: Audit) -> tuple[str, Correlation] | None:
    finite = {name: correlation for name, correlation in audit.correlations.items() if math.isfinite(correlation.r)}
    if not finite:
        return None
    if LENGTH in finite and abs(finite[LENGTH].r) >= _STRONG:
        return LENGTH, finite[LENGTH]
    return max(finite.items(), key=lambda item: abs(item[1].r))


def _fixed(audit: Audit, correlation: Correlation) -> str:
    return (
        f"{_signed(correlation.partial_r)} with length held fixed" if LENGTH in audit.correlations else "length unknown"
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
