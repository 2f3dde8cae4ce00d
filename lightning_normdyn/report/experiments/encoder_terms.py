"""The figure of an encoder's balance terms: V² and D of every probe document, sorted by norm."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from lightning_normdyn.history.experiment import ExperimentRecord
from lightning_normdyn.report.experiments.log_plot import Story, columns
from lightning_normdyn.report.kit.axes import axis_note, level_grid, linear_frame, log_scale, positive_frame
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.figure import new_axes, to_svg
from lightning_normdyn.report.kit.numbers import Floats, plain
from lightning_normdyn.report.kit.theme import BLUE, FAINT, INK, VERMILION

_LEAD = (
    "A ReLU network of two layers learns which halves of a docstring belong together; the terms of its balance "
    "λ_rad·R⁴ = D·R² + lr·V²/2 are measured for documents of a fixed probe, from the shortest to the longest."
)
_CAPTION = (
    "Each point is one document, the line a running median. V² is the size of its steps, D the radial push that is "
    "left when weight decay and V² are taken off the change of R² over the window: below zero it shortens. No numbers "
    "are published for these two curves. What D holds depends on the noise of SGD in a small network, so its size here "
    "says nothing about large ones. Where norms have nearly settled, terms of the window before can do little better "
    "than ‘stays as it is’, so slope and r are weak evidence here."
)


def encoder_story(record: ExperimentRecord) -> Story:
    """V² and D of every probe item, sorted by norm."""
    arrays = columns(record.arrays)
    panels = (("V², sorted by norm", _heat(arrays["second_moment"])), ("D, sorted by norm", _drift(arrays["drift"])))
    return Story("Which term carries an encoder's norms", _LEAD, Card("The terms, sorted by norm", _CAPTION, panels))


def _heat(values: Floats) -> Markup:
    axes = new_axes(top=0.9)
    log_scale(axes, "y", *positive_frame(values))
    _draw(axes, values, BLUE, "V²")
    return to_svg(axes, name="encoder-heat", description=_describe("V²", values))


def _drift(values: Floats) -> Markup:
    axes = new_axes(top=0.9, left=0.14)
    axes.set_ylim(*linear_frame(values))
    axes.axhline(0, color=INK, lw=0.8)
    _draw(axes, values, VERMILION, "D")
    return to_svg(axes, name="encoder-drift", description=_describe("D", values))


def _describe(name: str, values: Floats) -> str:
    ends = _running_median(values)[[0, -1]]
    return (
        f"{name} of probe documents, from the shortest to the longest: running median from {plain(float(ends[0]))} to "
        f"{plain(float(ends[1]))}, over {len(values)} documents."
    )


def _draw(axes: Axes, values: Floats, colour: str, name: str) -> None:
    places = np.arange(1, len(values) + 1)
    level_grid(axes)
    axis_note(axes, name)
    axes.scatter(places, values, color=colour, s=9, lw=0, alpha=0.45)
    axes.plot(places, _running_median(values), color=FAINT, lw=1.8)
    axes.set(xlabel="documents, from the shortest vector to the longest", xlim=(0, len(values) + 1))


def _running_median(values: Floats) -> Floats:
    """Median of each point and its neighbours on both sides, fewer at the ends."""
    reach = max(1, len(values) // 16)
    around = [values[max(0, place - reach) : place + reach + 1] for place in range(len(values))]
    return np.array([float(np.median(neighbours)) for neighbours in around])
