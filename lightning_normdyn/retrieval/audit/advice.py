"""The findings of an audit in words: a first line, and a paragraph on what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

from lightning_normdyn.core.statistics.correlation import LENGTH, Correlation
from lightning_normdyn.retrieval.audit.audit import Audit

_STRONG = 0.3
_LEAST_ITEMS = 10
_LEVEL = 0.95
_NAMED = 3


def first_line(audit: Audit) -> str:
    """What matters most: unit length, then whether norms gain and whether length explains it, then the rest."""
    if audit.says_nothing:
        finding = (
            "The vectors are already of length one: there is nothing to find in their norms. Audit the model itself, "
            "or embeddings from before its normalisation."
        )
        return f"{finding} {_near_dead(audit)}".rstrip()
    if audit.ranking is not None:
        return f"{audit.ranking.verdict.opening} {_near_dead(audit)}".rstrip()
    return f"{_near_dead(audit)} {_of_norms(audit)}".lstrip()


def _of_norms(audit: Audit) -> str:
    """What norms follow, where no search says what they are worth."""
    if audit.distribution.rows - audit.distribution.zeros == 1:
        return "A single norm says nothing: give more vectors."
    if audit.saturation.kind not in ("free", "unclear"):
        return audit.saturation.sentence
    varying = {name: correlation for name, correlation in audit.correlations.items() if math.isfinite(correlation.r)}
    if not varying:
        return f"{audit.saturation.sentence} Without covariates or judgements nobody can say what they mean."
    most = max(correlation.n for correlation in varying.values())
    if most < _LEAST_ITEMS:
        return f"{most} items are too few to say what norms follow: {_LEAST_ITEMS} are the least."
    strongest = followed_covariate(audit.correlations)
    if strongest is None:
        name, correlation = max(varying.items(), key=lambda item: abs(item[1].r) if item[1].n >= _LEAST_ITEMS else 0.0)
        return (
            f"Norms follow none of the covariates as far as {correlation.n:,} items can tell; closest is {name} "
            f"(Spearman {_with_ends(correlation)})."
        )
    correlation = varying[strongest]
    if strongest == LENGTH:
        return f"Norms follow length (Spearman {_with_ends(correlation)}): read everything else with length held fixed."
    return f"Norms follow {strongest} (Spearman {_with_ends(correlation)}; {_fixed(audit, correlation)})."


def followed_covariate(correlations: Mapping[str, Correlation]) -> str | None:
    """The covariate that norms follow beyond chance, length before any other; ``None`` where there is none.

    Followed is one whose Spearman correlation is 0.3 or more in size, while both its bootstrap interval and that of
    Fisher's z with the standard error of Bonett and Wright (2000) exclude 0, the latter at a level that holds for all
    covariates together (Bonferroni). Fewer than ten items tell of nothing.

    Args:
        correlations: by covariate.

    Example:
        >>> import torch
        >>> from lightning_normdyn.core.statistics.correlation import correlate
        >>> items = torch.arange(30.0)
        >>> [followed_covariate({"age": correlate(items[:n], items[:n])}) for n in (2, 30)]
        [None, 'age']
    """
    known = {name: correlation for name, correlation in correlations.items() if math.isfinite(correlation.r)}
    followed = {
        name: correlation
        for name, correlation in known.items()
        if correlation.n >= _LEAST_ITEMS
        and abs(correlation.r) >= _STRONG
        and correlation.interval.excludes_zero
        and _excludes_zero(correlation, 1 - (1 - _LEVEL) / len(known))
    }
    if LENGTH in followed:
        return LENGTH
    return max(followed, key=lambda name: abs(followed[name].r), default=None)


def _excludes_zero(correlation: Correlation, level: float) -> bool:
    """Whether the interval of Fisher's z does: ``|atanh r| > z · sqrt((1 + r²/2) / (n - 3))``."""
    r = correlation.r
    error = math.sqrt((1 + r * r / 2) / (correlation.n - 3))
    return abs(r) >= 1 or abs(math.atanh(r)) > NormalDist().inv_cdf(0.5 + level / 2) * error


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
        safe = "; leave the near-dead vectors out" if audit.distribution.near_dead else ", which is safe"
        return f"To learn whether norms help a search, add queries and judgements; until then score by cosine{safe}."
    verdict = audit.ranking.verdict
    by_norm = (
        f"the exponent {verdict.alpha:.2f} into the stored vectors (normdyn export --alpha {verdict.alpha:.2f}, or "
        f"export_vectors(vectors, alpha={verdict.alpha:.2f}))"
    )
    by_length = (
        f"rescaled(vectors, length_norms(length) ** {verdict.length_exponent:.3f}) of lightning_normdyn.retrieval in "
        "the index, and search by inner product"
    )
    if verdict.kind == "no gain":
        return "Score by cosine."
    if verdict.kind == "length" and verdict.length_exponent:
        return (
            f"Correct scores by length openly: store {by_length}; the exponent is that of 1 + length as this audit "
            "measured it, so check it again when lengths change."
        )
    if verdict.kind == "length":
        return f"Score by cosine, or fold {by_norm} if lengths will stay as they are here."
    ending = {
        "partly length": "and check it again when lengths change",
        "unclear": "and check it on more queries first",
        "norm": "and check it on queries of your own",
    }[verdict.kind]
    other = f" Or correct by length: store {by_length}." if verdict.length_exponent else ""
    return f"Fold {by_norm}, {ending}.{other}"


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


def _near_dead(audit: Audit) -> str:
    distribution = audit.distribution
    count = distribution.near_dead
    if not count:
        return ""
    are = "vector is" if count == 1 else "vectors are"
    return (
        f"{count:,} of {distribution.rows:,} {are} near dead (norm below {distribution.limit:.2g}, where the others "
        f"lie about {distribution.quantiles[0.5]:.3g}): cosine would rank them by directions that say nothing, so "
        "encode them again or leave them out; everything else here is of the others, rankings apart."
    )


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


def _fixed(audit: Audit, correlation: Correlation) -> str:
    if not audit.controls:
        return "length unknown"
    return f"{_signed(correlation.partial_r)} with {' and '.join(audit.controls)} held fixed"


def _with_ends(correlation: Correlation) -> str:
    return f"{_signed(correlation.r)}, {_signed(correlation.interval.low)} to {_signed(correlation.interval.high)}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
