"""The cards of an audit's page: each figure with its caption and what a reader who does not see it should know."""

from __future__ import annotations

import math

from lightning_normdyn.report.audit.figures import (
    best_confidences,
    confidence_figure,
    correlations_figure,
    groups_figure,
    norms_figure,
    sweep_figure,
)
from lightning_normdyn.report.audit.tables import SHOWN_GROUPS, interval_text
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.figure import to_svg
from lightning_normdyn.report.kit.numbers import fixed, plain
from lightning_normdyn.retrieval.audit.audit import Audit
from lightning_normdyn.retrieval.audit.ranking_audit import RankingAudit


def audit_cards(audit: Audit) -> list[Card]:
    """All cards, in the order of reading; to be drawn inside :func:`drawing_style`."""
    cards = [_norms(audit)]
    if audit.ranking is not None:
        cards.append(_sweep(audit.ranking))
        if audit.ranking.confidence is not None:
            cards.append(_confidence(audit.ranking))
    associations = _associations(audit)
    return cards if associations is None else [*cards, associations]


def _norms(audit: Audit) -> Card:
    quantiles = audit.distribution.quantiles
    levels = ", ".join(f"{level:.0%} at {plain(quantiles[level], 4)}" for level in (0.05, 0.5, 0.95))
    description = f"Histogram of {audit.distribution.rows - audit.distribution.zeros:,} norms: {levels}."
    svg = to_svg(norms_figure(audit), name="norms", description=description)
    return Card("How long the vectors are", audit.saturation.sentence, (("", svg),))


def _sweep(ranking: RankingAudit) -> Card:
    peaks = []
    for name, curve in ranking.curves.items():
        values = [interval.value for interval in curve]
        peaks.append(
            f"{name} best at {fixed(ranking.alphas[values.index(max(values))], 2)} with {fixed(max(values), 4)}"
        )
    description = f"Mean {ranking.calibration.measure} by exponent: {', '.join(peaks)}. {ranking.sentence}"
    svg = to_svg(sweep_figure(ranking), name="sweep", description=description)
    return Card("What an exponent of the norm gains", ranking.sentence, (("", svg),))


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
    panels, captions, has_partial = [], [], "length" in audit.correlations
    correlations = {name: value for name, value in audit.correlations.items() if math.isfinite(value.r)}
    if correlations:
        texts = (f"{name} {interval_text(correlation.interval)}" for name, correlation in correlations.items())
        description = f"Spearman correlation with the norm and its 95% interval: {', '.join(texts)}."
        svg = to_svg(correlations_figure(audit), name="correlations", description=description)
        panels.append(("Covariates, Spearman", svg))
        captions.append("Points are Spearman correlations, lines their 95% intervals.")
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
    captions += ["Orange: the same with length held fixed."] if has_partial else []
    return Card("What norms go along with", " ".join(captions), tuple(panels))
