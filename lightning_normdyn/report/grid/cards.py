"""The cards of a grid's page: each figure with its caption and what a reader who does not see it should know."""

from __future__ import annotations

from lightning_normdyn.history.grid_findings import GridFindings
from lightning_normdyn.history.number import show_number
from lightning_normdyn.report.grid.figures import cross_figure, norm_ratios, norms_figure, scores_figure
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.figure import to_svg

_SCORES = (
    "Points are means over queries and trainings, lines their 95% intervals, small points single trainings; a tick is "
    "what needs no training. The line upright is cosine."
)
_CROSS = (
    "A row is one training, scored four ways. A query's own norm never changes its ranking, so cosine scores like "
    "dnorm and dot like qnorm wherever each query is ranked for itself."
)
_NORMS = (
    "Above 1, documents that some query wants are longer than the rest; a line that leaves 1 where norms are kept and "
    "stays where they are thrown away says that the loss writes relevance into length."
)


def grid_cards(findings: GridFindings) -> list[Card]:
    """All cards, in the order of reading; to be drawn inside :func:`drawing_style`."""
    scores = to_svg(scores_figure(findings), name="scores", description=describe_scores(findings))
    cross = to_svg(cross_figure(findings), name="cross", description=_describe_cross(findings))
    cards = [
        Card("How good each variant is", _SCORES, (("", scores),)),
        Card("Trained with one, scored with another", _CROSS, (("", cross),)),
    ]
    ratios = norm_ratios(findings)
    if ratios:
        ends = ", ".join(
            f"{variant} {ratio.values[0]:.3f} at step {ratio.steps[0]:,.0f}"
            + (f" to {ratio.values[-1]:.3f} at step {ratio.steps[-1]:,.0f}" if len(ratio.steps) > 1 else "")
            for variant, ratio in ratios.items()
        )
        description = f"Norm of relevant documents over that of all others while training: {ends}."
        svg = to_svg(norms_figure(ratios, note=findings.origin.day_and_data), name="norms", description=description)
        cards.append(Card("Does relevance get into the length?", _NORMS, (("", svg),)))
    return cards


def describe_scores(findings: GridFindings) -> str:
    """The scores figure in words."""
    scores = [
        f"{name} {score.mean:.4f} ({score.mean_interval.low:.4f} to {score.mean_interval.high:.4f})"
        for name, score in findings.comparison.scores.items()
    ]
    floors = [f"{name} {value:.4f}" for name, value in findings.floors.items()]
    floor_text = f"; without training: {', '.join(floors)}" if floors else ""
    return f"{findings.headline} of every variant with its 95% interval: {', '.join(scores)}{floor_text}."


def _describe_cross(findings: GridFindings) -> str:
    rows = []
    for variant, scores in findings.cross.items():
        cells = ", ".join(f"{name} {show_number(score, '.3f')}" for name, score in scores.items())
        rows.append(f"trained with {variant}: {cells}")
    return f"{findings.headline} by training and scoring similarity; {'; '.join(rows)}."
