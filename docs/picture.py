"""Draws the README's picture, light and dark, from the record of a demo run: ``python docs/picture.py RUN_FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from lightning_normdyn.history import read_run

WORDS = ("the", "value", "socket", "decorator")


class Palette(NamedTuple):
    """Colours of one mode."""

    ink: str
    faint: str
    dots: str
    lines: tuple[str, ...]


PALETTES = {
    "light": Palette("#1f2328", "#8c959f", "#1f5fa8", ("#0b4f9e", "#1b7f5c", "#b35900", "#b0003a")),
    "dark": Palette("#e6edf3", "#7d8590", "#7ab3ef", ("#7ab3ef", "#5fd3a5", "#ffb067", "#ff8fa8")),
}


def main(run: Path) -> None:
    """Writes ``norms-light.png`` and ``norms-dark.png`` beside the documentation."""
    columns = read_columns(run)
    words = [line.split("\t")[0] for line in (run / "vocabulary.tsv").read_text(encoding="utf-8").splitlines()]
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    for mode, palette in PALETTES.items():
        colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), palette.ink)
        with plt.rc_context({**colours, "axes.edgecolor": palette.faint, "font.size": 10}):
            figure = draw(columns, words, summary, palette)
            place = Path(__file__).parent / "_static" / f"norms-{mode}.png"
            figure.savefig(place, dpi=140, transparent=True)
            plt.close(figure)


def read_columns(run: Path) -> dict[str, np.ndarray]:
    """The trajectory of the demo's table as arrays."""
    trajectory = read_run(run)["table.weight"].trajectory()
    return {name: trajectory[name].to_numpy() for name in ("step", "row", "norm", "forecast_norm")}


def draw(columns: dict[str, np.ndarray], words: list[str], summary: dict[str, Any], palette: Palette) -> plt.Figure:
    """Norms of some words over the run, and of all words at its end beside their forecast."""
    figure, (course, scatter) = plt.subplots(1, 2, figsize=(8.6, 3.5), layout="constrained", width_ratios=(3, 2))
    for axes in (course, scatter):
        axes.spines[["top", "right"]].set_visible(False)
    made = columns["step"][np.isfinite(columns["forecast_norm"])]
    forecast_step, end = made[made >= 0.4 * summary["steps"]].min(), summary["steps"]
    draw_course(course, columns, words, (forecast_step, end), palette)
    draw_forecasts(scatter, columns, summary, (forecast_step, end), palette)
    return figure


def draw_course(
    axes: plt.Axes, columns: dict[str, np.ndarray], words: list[str], steps: tuple[int, int], palette: Palette
) -> None:
    """Lines of measured norms, and dotted ones from the forecast to the end."""
    for word, colour in zip(WORDS, palette.lines, strict=True):
        row = columns["row"] == words.index(word)
        norms = columns["norm"][row]
        axes.plot(columns["step"][row], norms, color=colour, linewidth=1.6)
        axes.annotate(f" {word}", (steps[1], norms[-1]), color=colour, va="center", fontsize=9)
        forecast = columns["forecast_norm"][row & (columns["step"] == steps[0])][0]
        axes.plot([steps[0], steps[1]], [forecast] * 2, color=colour, linestyle=":", linewidth=1.2)
    axes.axvline(steps[0], color=palette.faint, linewidth=0.8)
    axes.text(steps[0], axes.get_ylim()[1], " forecast made here (dotted)", color=palette.ink, va="top", fontsize=9)
    axes.set(xlabel="step", ylabel="norm of the word's embedding", xlim=(0, steps[1] * 1.16))
    axes.set(yscale="log", yticks=(0.2, 0.5, 1, 2, 5), yticklabels=("0.2", "0.5", "1", "2", "5"))
    axes.minorticks_off()


def draw_forecasts(
    axes: plt.Axes, columns: dict[str, np.ndarray], summary: dict[str, Any], steps: tuple[int, int], palette: Palette
) -> None:
    """Every word's norm at the end beside what was forecast for it."""
    forecast = columns["forecast_norm"][columns["step"] == steps[0]]
    observed = columns["norm"][columns["step"] == steps[1]]
    axes.scatter(forecast, observed, s=4, color=palette.dots, alpha=0.5, linewidths=0)
    ends = [np.nanmin(observed), np.nanmax(observed)]
    axes.plot(ends, ends, color=palette.faint, linewidth=1)
    error, unchanged = summary["forecast_median_error"], summary["persistence_median_error"]
    text = f"median error {error:.0%}\n('stays as it is': {unchanged:.0%})"
    axes.text(0.04, 0.97, text, transform=axes.transAxes, va="top", fontsize=9)
    axes.set(xlabel="forecast at 40% of the run", ylabel="norm at the end")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
