"""The figures of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from lightning_normdyn.history.grid_findings import GridFindings, GridRun
from lightning_normdyn.report.kit.canvas import BLUE, FAINT, GREEN, GREY, INK, RULE, VERMILION, new_axes
from lightning_normdyn.report.kit.line_label import LineLabel, label_line_ends
from lightning_normdyn.report.kit.scale import axis_note
from lightning_normdyn.report.run.trajectory import Floats

COLOURS: Mapping[str, str] = {
    "cosine": GREY,
    "dot": "#cc79a7",
    "qnorm": BLUE,
    "dnorm": VERMILION,
    "learnable": GREEN,
    "euclidean": "#b58900",
}


def scores_figure(findings: GridFindings) -> Axes:
    """The headline of every variant with its interval, and of every training."""
    scores = findings.comparison.scores
    axes = new_axes(left=0.27, height=0.9 + 0.48 * (len(scores) + len(findings.floors)))
    names = [*scores, *findings.floors]
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
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_xlabel(findings.headline)
    return axes


def cross_figure(findings: GridFindings) -> Axes:
    """The headline by the similarity that trained and the one that scored."""
    trained = list(findings.cross)
    scored = list(next(iter(findings.cross.values())))
    table = np.array(
        [[np.nan if (value := findings.cross[row][column]) is None else value for column in scored] for row in trained]
    )
    axes = new_axes(left=0.2, bottom=0.2, height=0.9 + 0.42 * len(trained))
    known = table[np.isfinite(table)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    # Begins below the lowest value, so that it too has a colour.
    axes.imshow(table, cmap="Blues", aspect="auto", vmin=low - 0.3 * (high - low) - 1e-6, vmax=high + 1e-6)
    middle = (low + high) / 2
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            colour = "white" if value > middle else INK
            axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(scored)), scored)
    axes.set_yticks(range(len(trained)), trained)
    axes.tick_params(length=0, labelcolor=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel("scored with")
    axis_note(axes, "trained with")
    return axes


def norms_figure(findings: GridFindings) -> Axes | None:
    """Mean norms of relevant and of irrelevant documents over training, as ratios; None where none were measured.

    After arXiv 2602.09229, Fig. 13.
    """
    axes = new_axes(right=0.8)
    labels = []
    for variant in findings.cross:
        course = _course(findings.runs, variant)
        if course is None:
            continue
        steps, ratio = course
        colour = COLOURS.get(variant, INK)
        axes.plot(steps, ratio, color=colour, lw=1.6)
        labels.append(LineLabel(float(ratio[-1]), variant, colour))
    if not labels:
        return None
    axes.axhline(1, color=RULE, lw=1, zorder=0)
    axes.set_xlabel("step")
    axis_note(axes, "norm of relevant documents / of all others")
    label_line_ends(axes, labels)
    return axes


def _course(runs: Sequence[GridRun], variant: str) -> tuple[Floats, Floats] | None:
    """Steps and the ratio of norms, mean over the seeds that have as many points as the first."""
    columns = [
        np.array([run.course[name] for name in ("step", "relevant_norm", "irrelevant_norm")], dtype=np.float64)
        for run in runs
        if run.variant == variant
    ]
    columns = [one for one in columns if one.shape == columns[0].shape and one.size]
    if not columns:
        return None
    steps = columns[0][0]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.mean([one[1] / one[2] for one in columns], axis=0)
    kept = np.isfinite(ratio)
    return (steps[kept], ratio[kept]) if kept.any() else None


def _mean(run: GridRun) -> float:
    values = [value for value in run.values["trained"] if value is not None]
    return float(np.mean(values)) if values else float("nan")
