"""The figures of an audit: norms, correlations, groups, the sweep over exponents, confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from lightning_normdyn.core.statistics.interval import Interval
from lightning_normdyn.report.kit.axes import axis_note, level_grid
from lightning_normdyn.report.kit.figure import new_axes
from lightning_normdyn.report.kit.line_label import LineLabel, label_line_ends
from lightning_normdyn.report.kit.numbers import Floats, percent, plain, short_count
from lightning_normdyn.report.kit.theme import BLUE, FAINT, GREEN, GREY, INK, OCHRE, RULE, VERMILION
from lightning_normdyn.retrieval.audit.audit import Audit
from lightning_normdyn.retrieval.audit.groups import GroupNorms
from lightning_normdyn.retrieval.audit.ranking_audit import LengthCurve, RankingAudit
from lightning_normdyn.retrieval.uses.clustering_comparison import ClusteringComparison
from lightning_normdyn.retrieval.uses.confidence import Confidence

_COLOURS = {"norm": BLUE, "residual norm": GREEN, "predicted norm": OCHRE}
_LABELS = {"norm": "norm", "residual norm": "without length", "predicted norm": "from length"}
_LEAST_TICK_SHARE = 0.16
_NARROW = 1e-3
_CONFIDENCES = {
    "max_similarity": ("similarity", GREY),
    "margin": ("margin", OCHRE),
    "query_norm": ("query norm", BLUE),
    "top_document_norm": ("document norm", VERMILION),
}
_LETTERS, _LEAST_COVERAGE = 22, 0.05


class ConfidenceLine(NamedTuple):
    """A line of the risk-coverage figure: what it shows, its name and its colour."""

    confidence: Confidence
    label: str
    colour: str


def norms_figure(audit: Audit) -> Axes:
    """Histogram of norms with the middle 90% marked, and what lies outside its frame said at its ends."""
    distribution = audit.distribution
    axes = new_axes(bottom=0.15, top=0.9)
    edges = np.asarray(distribution.edges)
    axes.stairs(distribution.counts, edges, fill=True, color=BLUE, alpha=0.75)
    for level in (0.05, 0.5, 0.95):
        axes.axvline(distribution.quantiles[level], color=INK if level == 0.5 else FAINT, lw=1, ls=(0, (4, 3)))
    axes.set_ylim(0, max(distribution.counts) * 1.05)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(float(value))))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    # Norms that hardly differ have long numbers at their ticks.
    axes.xaxis.set_major_locator(MaxNLocator(6 if distribution.cv > _NARROW else 2))
    axes.ticklabel_format(axis="x", useOffset=False)
    level_grid(axes)
    axes.set_xlabel("norm")
    axis_note(axes, "vectors; dashed: 5%, 50%, 95%")
    for count, level, side, height, text in (
        (distribution.below, 0.0, "left", 0.9, "← {count:,} below, from {end}"),
        (distribution.above, 1.0, "right", 1.035, "{count:,} above, to {end} →"),
    ):
        if count:
            axes.text(
                float(level), height, text.format(count=count, end=plain(distribution.quantiles[level])), va="bottom",
                ha=side, transform=axes.transAxes, color=VERMILION, fontsize=9,
            )  # fmt: skip
    return axes


def correlations_figure(audit: Audit) -> Axes:
    """Spearman correlation of norms with every covariate, with and without length held fixed."""
    correlations = {name: value for name, value in audit.correlations.items() if math.isfinite(value.r)}
    rows = [(name, value.interval) for name, value in correlations.items()]
    axes = _forest(rows, BLUE, offset=-0.13)
    if audit.controls:
        for place, (name, value) in enumerate(correlations.items()):
            if (name,) != audit.controls and math.isfinite(value.partial_r):
                _mark(axes, place + 0.13, value.partial_interval, VERMILION)
    axes.set_xlim(-1.02, 1.02)
    axes.set_xlabel("Spearman correlation with the norm")
    return axes


def groups_figure(groups: Sequence[GroupNorms]) -> Axes:
    """Cohen's d of groups with a finite one, with and without length."""
    axes = _forest([(f"{group.column}: {group.group}", group.effect) for group in groups], BLUE, offset=-0.13)
    for place, group in enumerate(groups):
        if group.beyond_length is not None and math.isfinite(group.beyond_length.value):
            _mark(axes, place + 0.13, group.beyond_length, VERMILION)
    axes.set_xlabel("Cohen's d: shorter ← 0 → longer")
    return axes


def clustering_figure(comparison: ClusteringComparison) -> Axes:
    """Gains of ways to cluster over spherical k-means: of V-measure, of the silhouette where there are no labels."""
    gains = [
        (score.name, score.gain if comparison.has_labels else score.silhouette_gain)
        for score in comparison.scores
        if score.exponent != 0
    ]
    axes = _forest(gains, BLUE, offset=0.0)
    axes.set_xlabel(f"{'V-measure' if comparison.has_labels else 'silhouette'} over spherical k-means")
    return axes


def sweep_figure(ranking: RankingAudit) -> Axes:
    """Mean measure by exponent of the norm with a band, and of norms without length and predicted by it."""
    axes = new_axes(right=0.74, top=0.9)
    alphas = np.asarray(ranking.alphas)
    ends = []
    for name, curve in ranking.curves.items():
        value, low, high = _columns(curve)
        colour = _COLOURS[name]
        if name == "norm":
            axes.fill_between(alphas, low, high, color=colour, alpha=0.16, lw=0)
        axes.plot(alphas, value, color=colour, lw=2.0 if name == "norm" else 1.4, ls="-" if name == "norm" else "--")
        ends.append(LineLabel(float(value[-1]), _LABELS[name], colour))
    if ranking.calibration.significant:
        _mark_best(axes, ranking.calibration.alpha)
    axes.set_xlim(alphas[0], alphas[-1])
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.set_xlabel("exponent α in cos · norm^α")
    _finish_sweep(axes, ranking)
    label_line_ends(axes, ends)
    return axes


def length_figure(ranking: RankingAudit, curve: LengthCurve) -> Axes:
    """Mean measure by exponent of length, close to 0 in small steps and far from it in large ones."""
    axes = new_axes(top=0.9)
    exponents = np.asarray(curve.exponents)
    value, low, high = _columns(curve.values)
    axes.fill_between(exponents, low, high, color=GREY, alpha=0.16, lw=0)
    axes.plot(exponents, value, color=GREY, lw=2.0)
    if ranking.confounds is not None and ranking.confounds.length_helps:
        _mark_best(axes, ranking.confounds.length.alpha)
    width = 3 * float(exponents[exponents > 0].min())
    axes.set_xscale("asinh", linear_width=width)
    axes.set_xlim(exponents[0], exponents[-1])
    ticks = _length_ticks(exponents, width)
    axes.set_xticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("exponent e in cos · (1 + length)^e, stretched about 0")
    _finish_sweep(axes, ranking)
    return axes


def _length_ticks(exponents: Floats, width: float) -> list[float]:
    """Round exponents that are far enough apart on the scale, out to either end."""
    low, high = (math.asinh(float(end) / width) for end in (exponents[0], exponents[-1]))
    least = _LEAST_TICK_SHARE * (high - low)
    sizes = [size * 10.0**power for power in range(-4, 3) for size in (1, 2, 5)]
    ticks = [0.0]
    for sign, reach in ((1, high), (-1, -low)):
        place = 0.0
        for tick in sizes:
            if place + least <= math.asinh(tick / width) <= reach:
                ticks.append(sign * tick)
                place = math.asinh(tick / width)
    return sorted(ticks)


def _columns(curve: Sequence[Interval]) -> list[Floats]:
    return [np.array([getattr(interval, field) for interval in curve]) for field in ("value", "low", "high")]


def _mark_best(axes: Axes, exponent: Interval) -> None:
    axes.axvspan(exponent.low, exponent.high, color=VERMILION, alpha=0.10, lw=0)
    axes.axvline(exponent.value, color=VERMILION, lw=1)


def _finish_sweep(axes: Axes, ranking: RankingAudit) -> None:
    # Another norm, or length, may ruin a ranking; the curve that is asked about is to fill the frame.
    floor = min(interval.low for interval in ranking.curves["norm"])
    axes.set_ylim(bottom=max(0.0, floor - 0.15 * (axes.get_ylim()[1] - floor)))
    axes.axvline(0, color=RULE, lw=1, zorder=0)
    level_grid(axes)
    axis_note(axes, ranking.calibration.measure)


def best_confidences(confidences: Mapping[str, Confidence]) -> list[ConfidenceLine]:
    """The lines of :func:`confidence_figure`: of a norm and its negative the one with less risk.

    Args:
        confidences: as :attr:`RankingAudit.confidence` has them.
    """
    lines = []
    for name, (label, colour) in _CONFIDENCES.items():
        confidence, negative = confidences.get(name), confidences.get(f"short_{name}")
        if confidence is None:
            continue
        if negative is not None and negative.aurc.value < confidence.aurc.value:
            confidence, label = negative, f"short {label}"
        lines.append(ConfidenceLine(confidence, label, colour))
    return lines


def confidence_figure(ranking: RankingAudit) -> Axes:
    """Risk-coverage curves; of a norm and its negative the better one."""
    axes = new_axes(right=0.64, top=0.9)
    ends = []
    for confidence, label, colour in best_confidences(ranking.confidence or {}):
        coverage, risk = confidence.curve.coverage.numpy(), confidence.curve.risk.numpy()
        is_steady = coverage >= _LEAST_COVERAGE
        axes.plot(coverage[is_steady], risk[is_steady], color=colour, lw=1.7)
        ends.append(LineLabel(float(risk[is_steady][0]), label, colour))
    axes.set_xlim(1, _LEAST_COVERAGE)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(float(value))))
    label_line_ends(axes, ends)
    level_grid(axes)
    axes.set_xlabel("queries that are answered, the surest first")
    axis_note(axes, f"mean of 1 − {ranking.calibration.measure}")
    return axes


def _forest(rows: Sequence[tuple[str, Interval]], colour: str, *, offset: float) -> Axes:
    axes = new_axes(left=0.34, bottom=0.55 / (0.95 + 0.34 * len(rows)), top=0.99, height=0.95 + 0.34 * len(rows))
    for place, (_, interval) in enumerate(rows):
        _mark(axes, place + offset, interval, colour)
    axes.axvline(0, color=RULE, lw=1, zorder=0)
    axes.set_yticks(range(len(rows)), [_cut(name) for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    return axes


def _mark(axes: Axes, place: float, interval: Interval, colour: str) -> None:
    axes.plot([interval.low, interval.high], [place, place], color=colour, lw=2)
    axes.scatter([interval.value], [place], color=colour, s=26, zorder=3)


def _cut(name: str) -> str:
    return name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"
