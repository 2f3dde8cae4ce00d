"""The figures of a grid: scores, scores by training and scoring similarity, norms of relevant documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lightning_normdyn.history.grid_findings import GridFindings, GridRun
from lightning_normdyn.report.kit.axes import axis_note, foot_note
from lightning_normdyn.report.kit.figure import new_axes
from lightning_normdyn.report.kit.line_label import LineLabel, label_line_ends
from lightning_normdyn.report.kit.numbers import Floats
from lightning_normdyn.report.kit.theme import BLUE, FAINT, GREEN, GREY, INK, OCHRE, PURPLE, RULE, VERMILION

COLOURS: Mapping[str, str] = {
    "cosine": GREY,
    "dot": PURPLE,
    "qnorm": BLUE,
    "dnorm": VERMILION,
    "learnable": GREEN,
    "euclidean": OCHRE,
}


def scores_figure(findings: GridFindings, *, note: str = "") -> Axes:
    """The headline of every variant with its interval, and of every training.

    Args:
        findings: of the grid.
        note: below the figure: what a file that is copied should say of itself.
    """
    scores = findings.comparison.scores
    names = [*scores, *findings.floors]
    labels = [name.replace(" + ", "\n+ ") for name in names]
    left = max(0.27, 0.04 + 0.0155 * max(len(line) for label in labels for line in label.split("\n")))
    height = 0.9 + 0.48 * (len(scores) + len(findings.floors))
    axes = new_axes(left=left, height=height, bottom=max(0.14, 0.62 / height) if note else 0.14)
    foot_note(axes, note)
    for place, name in enumerate(names):
        if name in scores:
            score, colour = scores[name], COLOURS.get(name, INK)
            axes.plot(score.mean_interval[1:], [place, place], color=colour, lw=2.4)
            axes.scatter([score.mean], [place], color=colour, s=46, zorder=3)
            single = [_mean(run) for run in findings.runs if run.variant == name]
            axes.scatter(single, np.full(len(single), place + 0.2), color=colour, s=9, alpha=0.7, lw=0)
        else:
            axes.scatter([findings.floors[name]], [place], color=FAINT, s=40, marker="|")
    axes.axvline(scores[findings.comparison.reference].mean, color=RULE, lw=1, zorder=0)
    axes.set_yticks(range(len(names)), labels)
    axes.invert_yaxis()
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_xlabel(findings.headline)
    return axes


def cross_figure(findings: GridFindings) -> Axes:
    """The headline by the similarity that trained and the one that scored."""
    variants = list(findings.cross)
    similarities = list(next(iter(findings.cross.values())))
    table = np.array(
        [
            [np.nan if (value := findings.cross[row][column]) is None else value for column in similarities]
            for row in variants
        ]
    )
    axes = new_axes(left=0.2, bottom=0.2, height=0.9 + 0.42 * len(variants))
    finite = table[np.isfinite(table)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    # Begins below the lowest value, so that it too has a colour.
    axes.imshow(table, cmap="Blues", aspect="auto", vmin=low - 0.3 * (high - low) - 1e-6, vmax=high + 1e-6)
    middle = (low + high) / 2
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            colour = "white" if value > middle else INK
            axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(similarities)), similarities)
    axes.set_yticks(range(len(variants)), variants)
    axes.tick_params(length=0, labelcolor=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel("scored with")
    axis_note(axes, "trained with")
    return axes


class NormRatio(NamedTuple):
    """Mean norm of relevant documents over that of all others, ``values [n]`` at ``steps [n]``."""

    steps: Floats
    values: Floats


def norms_figure(ratios: Mapping[str, NormRatio], *, note: str = "") -> Axes:
    """Mean norms of relevant and of irrelevant documents over training, as ratios.

    After arXiv 2602.09229, Fig. 13.

    Args:
        ratios: by variant, at least one.
        note: below the figure.
    """
    axes = new_axes(right=0.8, bottom=0.2 if note else 0.14)
    foot_note(axes, note)
    labels = []
    for variant, ratio in ratios.items():
        colour = COLOURS.get(variant, INK)
        # A line through a single validation would not show.
        axes.plot(*ratio, color=colour, lw=1.6, marker="o" if len(ratio.steps) == 1 else None)
        labels.append(LineLabel(float(ratio.values[-1]), variant, colour))
    axes.axhline(1, color=RULE, lw=1, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("step")
    axis_note(axes, "norm of relevant documents / of all others")
    label_line_ends(axes, labels)
    return axes


def norm_ratios(findings: GridFindings) -> dict[str, NormRatio]:
    """The ratio of norms over training, by variant; without those whose norms were not measured."""
    ratios = {variant: _norm_ratio(findings.runs, variant) for variant in findings.cross}
    return {variant: ratio for variant, ratio in ratios.items() if ratio is not None}


def _norm_ratio(runs: Sequence[GridRun], variant: str) -> NormRatio | None:
    """Steps and the ratio of norms, mean over the seeds that have as many points as the first."""
    courses = [
        np.array([run.course[name] for name in ("step", "relevant_norm", "irrelevant_norm")], dtype=np.float64)
        for run in runs
        if run.variant == variant
    ]
    courses = [course for course in courses if course.shape == courses[0].shape and course.size]
    if not courses:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.mean([relevant / irrelevant for _, relevant, irrelevant in courses], axis=0)
    is_finite = np.isfinite(ratio)
    return NormRatio(courses[0][0][is_finite], ratio[is_finite]) if is_finite.any() else None


def _mean(run: GridRun) -> float:
    values = [value for value in run.values["trained"] if value is not None]
    return float(np.mean(values)) if values else float("nan")
