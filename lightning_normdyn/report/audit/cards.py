"""The cards of an audit's page: each figure with its caption and what a reader who does not see it should know."""

from __future__ import annotations

import math

from lightning_normdyn.report.audit.direction_card import direction_card
from lightning_normdyn.report.audit.figures import (
    best_confidences,
    confidence_figure,
    correlations_figure,
    groups_figure,
    length_figure,
    norms_figure,
    sweep_figure,
)
from lightning_normdyn.report.audit.tables import SHOWN_GROUPS, correlated_items, interval_text
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.figure import to_svg
from lightning_normdyn.report.kit.numbers import fixed, plain
from lightning_normdyn.retrieval.audit.advice import first_line
from lightning_normdyn.retrieval.audit.audit import Audit
from lightning_normdyn.retrieval.audit.ranking_audit import RankingAudit


def audit_cards(audit: Audit) -> list[Card]:
    """All cards, in the order of reading; to be drawn inside :func:`drawing_style`."""
    cards = [_norms(audit)]
    if audit.ranking is not None:
        cards.append(_sweep(audit.ranking))
        if audit.ranking.confidence is not None:
            cards.append(_confidence(audit.ranking))
    return [*cards, *(card for card in (_associations(audit), direction_card(audit)) if card is not None)]


def _norms(audit: Audit) -> Card:
    distribution = audit.distribution
    quantiles = distribution.quantiles
    levels = ", ".join(f"{level:.0%} at {plain(quantiles[level], 4)}" for level in (0.05, 0.5, 0.95))
    outside = "".join(
        f" {count:,} lie {side} the frame, the {name} at {plain(quantiles[level], 4)}."
        for count, side, name, level in (
            (distribution.below, "below", "smallest", 0.0),
            (distribution.above, "above", "largest", 1.0),
        )
        if count
    )
    description = f"Histogram of {sum(distribution.counts):,} norms: {levels}.{outside}"
    svg = to_svg(norms_figure(audit), name="norms", description=description)
    # Where it is what the page opens with, it need not be read twice.
    caption = "" if audit.saturation.sentence in first_line(audit) else audit.saturation.sentence
    return Card("How long the vectors are", f"{caption}{outside}".strip(), (("", svg),))


def _sweep(ranking: RankingAudit) -> Card:
    peaks = []
    for name, curve in ranking.curves.items():
        values = [interval.value for interval in curve]
        peaks.append(
            f"{name} best at {fixed(ranking.alphas[values.index(max(values))], 2)} with {fixed(max(values), 4)}"
        )
    description = f"Mean {ranking.calibration.measure} by exponent: {', '.join(peaks)}."
    panels = [("", to_svg(sweep_figure(ranking), name="sweep", description=description))]
    caption = f"Mean {ranking.calibration.measure} over judged queries with its 95% band; 0 is the cosine."
    if ranking.length_curve is not None:
        values = [interval.value for interval in ranking.length_curve.values]
        best = ranking.length_curve.exponents[values.index(max(values))]
        description = (
            f"Mean {ranking.calibration.measure} by exponent of length: best at {fixed(best, 3)} with "
            f"{fixed(max(values), 4)}."
        )
        length_svg = to_svg(length_figure(ranking, ranking.length_curve), name="length", description=description)
        panels = [("By the norm", panels[0][1]), ("By length alone, on a scale of its own", length_svg)]
        caption += " Dashed: norms with length taken out, and the norms that length predicts."
    marked = ranking.calibration.significant or (ranking.confounds is not None and ranking.confounds.length_helps)
    caption += " Orange: the best exponent with its interval." * marked
    return Card("What an exponent gains", caption, tuple(panels))


def _confidence(ranking: RankingAudit) -> Card:
    areas = ", ".join(
        f"{line.label} {plain(line.confidence.aurc.value)}" for line in best_confidences(ranking.confidence or {})
    )
    description = f"Mean risk against the share of queries that are answered; area under each curve: {areas}."
    svg = to_svg(confidence_figure(ranking), name="confidence", description=description)
    caption = (
        "Lower is better: how bad rankings are on average if only the surest queries are answered. A norm that "
        "stays below the similarity is the better confidence; of long and short, the better one is drawn."
    )
    return Card("Norm as confidence", caption, (("", svg),))


def _associations(audit: Audit) -> Card | None:
    """Covariates and groups, side by side where there are both."""
    panels, captions, has_partial = [], [], bool(audit.controls)
    correlations = {name: value for name, value in audit.correlations.items() if math.isfinite(value.r)}
    if correlations:
        texts = (f"{name} {interval_text(correlation.interval)}" for name, correlation in correlations.items())
        description = f"Spearman correlation with the norm and its 95% interval: {', '.join(texts)}."
        svg = to_svg(correlations_figure(audit), name="correlations", description=description)
        panels.append(("Covariates, Spearman", svg))
        captions.append(
            f"Points are Spearman correlations{correlated_items(audit)}, lines their 95% intervals of each alone."
        )
    groups = [group for group in audit.groups if math.isfinite(group.effect.value)][:SHOWN_GROUPS]
    if groups:
        texts = (f"{group.column}: {group.group} {interval_text(group.effect)}" for group in groups)
        description = f"Cohen's d between a group's norms and all others: {', '.join(texts)}."
        svg = to_svg(groups_figure(groups), name="groups", description=description)
        count = len(audit.groups)
        panels.append(("Groups, each beside all others", svg))
        has_partial = has_partial or audit.groups[0].beyond_length is not None
        captions.append(
            "Of groups, Cohen's d: from 0.2 in size a difference counts, from 0.8 it is large; intervals hold for all "
            f"{count} groups at once{f', of which {SHOWN_GROUPS} are shown' if count > SHOWN_GROUPS else ''}."
        )
    if not panels:
        return None
    held_fixed = " and ".join(audit.controls) or "length"
    captions += [f"Orange: the same with {held_fixed} held fixed."] if has_partial else []
    return Card("What norms go along with", " ".join(captions), tuple(panels))
