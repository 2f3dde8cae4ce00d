"""The card on directions: how often a vector is a neighbour of others, and what popular documents take of rankings."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lightning_normdyn.report.audit.tables import interval_text, percent_interval
from lightning_normdyn.report.kit.axes import axis_note, level_grid
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.figure import new_axes, to_svg
from lightning_normdyn.report.kit.numbers import fixed, percent
from lightning_normdyn.report.kit.theme import BLUE, INK, RULE, VERMILION
from lightning_normdyn.retrieval.audit.audit import Audit
from lightning_normdyn.retrieval.audit.ranking_audit import RankingAudit
from lightning_normdyn.retrieval.uses.hubness import Hubness, random_octaves

_MOST_RANGES = 7


def direction_card(audit: Audit) -> Card | None:
    """Figures and the sentence; ``None`` where too few vectors have a direction."""
    health = audit.directions
    if health is None:
        return None
    panels = [("", _hubness_svg(health.hubness))]
    caption = f"{health.sentence} Dashed: neighbours drawn at random."
    if audit.ranking is not None and audit.ranking.has_popularity:
        panels = [("Neighbours of each other", panels[0][1]), ("Places in rankings", _popularity_svg(audit.ranking))]
        caption += f" {popularity_sentence(audit.ranking)}"
    return Card("Where the vectors point", caption, tuple(panels))


def popularity_sentence(ranking: RankingAudit) -> str:
    """What the documents that are returned most take, by cosine and at the exponent that is best on these queries."""
    zero = ranking.popularity[ranking.place_of(0.0)]
    place = ranking.place_of(ranking.calibration.alpha.value)
    best = ranking.popularity[place]
    sentence = (
        f"By cosine the 1% of documents that other queries are answered with most ({zero.documents:,}) take "
        f"{percent_interval(zero.held_out)} of a query's places; 1% would be even"
    )
    alpha = ranking.alphas[place]
    if alpha and ranking.calibration.significant:
        sentence += f"; at exponent {fixed(alpha, 2)} it is {percent_interval(best.held_out)}"
    most = max(ranking.near_dead_share)
    if most:
        worst = ranking.alphas[ranking.near_dead_share.index(most)]
        sentence += (
            f". Zero and near-dead vectors are not among them: they take {percent(most)} of all places at exponent "
            f"{fixed(worst, 2)}"
        )
    return f"{sentence}."


def _hubness_svg(hubs: Hubness) -> Markup:
    description = (
        f"Share of vectors by how often they are among the {hubs.k} nearest of another: never for "
        f"{percent(hubs.anti_hubs.value)}; skewness {interval_text(hubs.skewness)}."
    )
    return to_svg(hubness_figure(hubs), name="hubness", description=description)


def hubness_figure(hubs: Hubness) -> Axes:
    """Share of vectors by their k-occurrence, in octaves, with that of neighbours drawn at random."""
    axes = new_axes(bottom=0.15, top=0.9)
    places = np.arange(len(hubs.occurrences))
    shares = np.asarray(hubs.occurrences) / max(1, hubs.rows)
    axes.bar(places, shares, width=0.86, color=BLUE, alpha=0.75)
    expected_shares = random_octaves(hubs.rows, hubs.k, len(places))
    axes.hlines(expected_shares, places - 0.43, places + 0.43, color=INK, lw=1.2, ls=(0, (4, 3)))
    labels = [_octave(place, short=len(places) > _MOST_RANGES) for place in places.tolist()]
    axes.set_xticks(places, labels, fontsize=8)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(float(value))))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    level_grid(axes)
    axes.set_xlabel(f"times among the {hubs.k} nearest of another vector")
    axis_note(axes, "share of vectors")
    return axes


def _octave(place: int, *, short: bool) -> str:
    """A range of counts, or its beginning alone where there are too many to be written side by side."""
    low = 2 ** (place - 1)
    return str(place) if place < 2 else f"{low}+" if short else f"{low}–{2 * low - 1}"


def _popularity_svg(ranking: RankingAudit) -> Markup:
    description = popularity_sentence(ranking)
    return to_svg(popularity_figure(ranking), name="popularity", description=description)


def popularity_figure(ranking: RankingAudit) -> Axes:
    """Share of a query's places that the documents take which other queries are answered with most, by exponent."""
    axes = new_axes(bottom=0.15, top=0.9)
    alphas = np.asarray(ranking.alphas)
    value, low, high = (
        np.array([getattr(popularity.held_out, end) for popularity in ranking.popularity])
        for end in ("value", "low", "high")
    )
    axes.fill_between(alphas, low, high, color=BLUE, alpha=0.16, lw=0)
    axes.plot(alphas, value, color=BLUE, lw=2.0)
    axes.axhline(0.01, color=INK, lw=1, ls=(0, (4, 3)))
    if ranking.calibration.significant:
        axes.axvline(ranking.calibration.alpha.value, color=VERMILION, lw=1)
    axes.axvline(0, color=RULE, lw=1, zorder=0)
    axes.set_xlim(alphas[0], alphas[-1])
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(float(value))))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    level_grid(axes)
    axes.set_xlabel("exponent α in cos · norm^α")
    axis_note(axes, "of places, to the 1% returned most")
    return axes
