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
    name, found = strongest
    if name == LENGTH and abs(found.r) >= _STRONG:
        return f"Norms follow length (Spearman {_signed(found.r)}): read everything else with length held fixed."
    if abs(found.r) >= _STRONG:
        return f"Norms follow {name} (Spearman {_signed(found.r)}, {_fixed(audit, found)})."
    return f"Norms follow none of the covariates closely; closest is {name} (Spearman {_signed(found.r)})."


def advice(audit: Audit) -> str:
    """One paragraph: what to do with these norms."""
    if audit.says_nothing:
        return (
            "Keep scoring by cosine: with vectors of length one it is the inner product, and no exponent changes any "
            "ranking. A length can come back only from the model before its last step."
        )
    parts = [_score(audit), _held(audit), _zeros(audit), _groups(audit), _trust(audit), _extremes(audit)]
    return " ".join(part for part in parts if part)


def _score(audit: Audit) -> str:
    if audit.ranking is None:
        return (
            "To learn whether norms help a search, add queries and judgements; until then score by cosine, which is "
            "safe."
        )
    found = audit.ranking.calibration
    if not found.significant:
        return "Score by cosine: no exponent of the norm gains beyond chance on these judgements."
    verdict = None if audit.ranking.confounds is None else audit.ranking.confounds.verdict
    use = f"the exponent {found.advice:.2f} folded into the stored vectors (export_vectors, alpha={found.advice:.2f})"
    if verdict == "length":
        return (
            f"Length, not the norm, carries the gain: correct scores by length openly, and take {use} only if lengths "
            "will stay as they are here."
        )
    if verdict == "partly length":
        return f"Take {use}, knowing that part of the gain is length, and check it again when lengths change."
    without = "; lengths were unknown, so give them before trusting it" if verdict is None else ""
    return f"Take {use}{without}; check it on queries of your own."


def _held(audit: Audit) -> str:
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
    differing = [one for one in audit.groups if one.differs]
    if not differing:
        return ""
    named = ", ".join(f"{one.column} {one.group} ({_signed(one.effect.value)})" for one in differing[:_NAMED])
    more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
    return (
        f"Norms differ between groups ({named}{more}; Cohen's d): any score that uses them favours some groups, so "
        "compare results by group before shipping one."
    )


def _trust(audit: Audit) -> str:
    """Whether a norm is a better confidence than the similarity."""
    table = None if audit.ranking is None else audit.ranking.confidence
    better = [name for name, one in (table or {}).items() if "norm" in name and one.over_baseline.low > 0]
    if not better:
        return ""
    best = min(better, key=lambda name: table[name].aurc.value if table else math.inf)
    return f"To refuse doubtful queries, {best.replace('_', ' ')} beats the largest similarity."


def _extremes(audit: Audit) -> str:
    if audit.saturation.kind == "constant":
        return ""
    return "Read the longest and the shortest items below: generic entries, boilerplate and broken inputs gather there."


def _strongest(audit: Audit) -> tuple[str, Correlation] | None:
    known = {name: one for name, one in audit.correlations.items() if math.isfinite(one.r)}
    if not known:
        return None
    if LENGTH in known and abs(known[LENGTH].r) >= _STRONG:
        return LENGTH, known[LENGTH]
    return max(known.items(), key=lambda one: abs(one[1].r))


def _fixed(audit: Audit, found: Correlation) -> str:
    return f"{_signed(found.partial_r)} with length held fixed" if LENGTH in audit.correlations else "length unknown"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
