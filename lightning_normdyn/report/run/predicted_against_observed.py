"""The figure of predicted against observed norms: one panel for each law, with its slope, r and median error."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lightning_normdyn.core import LogLogFit, fit_log_log
from lightning_normdyn.report.kit.axes import bulk_frame, outside, outside_sentence, square_axes
from lightning_normdyn.report.kit.card import Card
from lightning_normdyn.report.kit.figure import to_svg
from lightning_normdyn.report.kit.numbers import Floats, fixed, percent
from lightning_normdyn.report.kit.scatter import scatter_rows
from lightning_normdyn.report.kit.theme import FAINT, INK
from lightning_normdyn.report.run.target_record import TargetRecord

_CAPTION = (
    "Each point is one row that got a gradient in the window and the dashed line is a perfect prediction: in a healthy "
    "run the transient-corrected cloud hugs the line (slope and r near 1), while rows that have not yet settled may "
    "stand off the equilibrium law."
)
_CAPTION_OF_ITEMS = (
    "Each point is one item of the probe and the dashed line is a perfect prediction. Left, where the norms would "
    "settle if growth, drift and decay of the last window stayed: points off the line are on their way. Right, the "
    "same with the window’s own change taken out: an identity, so points off the line mean that something was not "
    "measured well."
)
_LAWS = (
    ("equilibrium_norm", "Equilibrium law", "mean_norm"),
    ("transient_norm", "Transient-corrected", "norm"),
    ("balance_norm", "Corrected for the window’s own change", "mean_norm"),
)
_LEAST_SPREAD = 0.02
_LEAST_SHARE = 1 / 3
_NO_SLOPE = "predictions nearly equal: no slope"


class Cloud(NamedTuple):
    """What one panel draws: the rows that the logged fit goes over.

    Attributes:
        law: what predicts.
        step: the step of the fit.
        predicted: norms by the law, ``[points]``.
        observed: norms of the same rows, ``[points]``.
        frequency: share of steps in which they got a gradient, ``[points]``.
        rows: rows with an observed norm, drawn or not.
    """

    law: str
    step: int
    predicted: Floats
    observed: Floats
    frequency: Floats
    rows: int


def predictions_card(record: TargetRecord) -> Card | None:
    """Norms of the last fit: the equilibrium law, and the law followed from where the window began."""
    clouds = [cloud for law in _LAWS if (cloud := _cloud(record, *law)) is not None]
    if not clouds:
        return None
    limits_of_panels = frames(clouds)
    panels = [
        (
            f"{cloud.law}, fit at step {cloud.step:,}",
            _panel(
                cloud,
                limits=limits,
                name=f"{record.anchor}-{cloud.law.split()[0].split('-')[0].lower()}",
                members=record.members,
            ),
        )
        for cloud, limits in zip(clouds, limits_of_panels, strict=True)
    ]
    caption = _CAPTION if record.is_table else _CAPTION_OF_ITEMS
    counts = {
        cloud.law[:1].lower() + cloud.law[1:]: int(outside(cloud.predicted, cloud.observed, limits, limits).sum())
        for cloud, limits in zip(clouds, limits_of_panels, strict=True)
    }
    return Card("Predicted against observed norm", caption + outside_sentence(counts, record.members), tuple(panels))


def fit_points(predicted: Floats, observed: Floats) -> LogLogFit:
    """The log-log fit of exactly the points that a panel draws."""
    return fit_log_log(torch.from_numpy(predicted), torch.from_numpy(observed))


def has_slope(predicted: Floats) -> bool:
    """Whether predictions differ enough for a line through them to mean anything, as for the logged fit.

    Args:
        predicted: norms, ``[n]``; those without a logarithm are left out.

    Example:
        >>> has_slope(np.array([1.0, 2.0])), has_slope(np.array([1.0, 1.01, np.nan, 0.0]))
        (True, False)
    """
    logs = np.log(predicted[np.isfinite(predicted) & (predicted > 0)])
    return len(logs) > 1 and float(logs.std(ddof=1)) > _LEAST_SPREAD


def frames(clouds: list[Cloud]) -> list[tuple[float, float]]:
    """Limits of each panel around the bulk of its rows: one frame for both, so that clouds can be compared by eye.

    Where that would squeeze a cloud into less than a third of it, each cloud gets a frame of its own.
    """
    limits = [bulk_frame(cloud.predicted, cloud.observed, pad=0.04) for cloud in clouds]
    common = bulk_frame(*(side for cloud in clouds for side in (cloud.predicted, cloud.observed)), pad=0.04)
    is_too_wide = any(_decades(frame) < _LEAST_SHARE * _decades(common) for frame in limits)
    return limits if is_too_wide else [common] * len(clouds)


def _cloud(record: TargetRecord, law: str, title: str, observed_column: str) -> Cloud | None:
    fit = record.trajectory.latest_fit(law)
    if fit is None:
        return None
    observed: Floats = getattr(fit, observed_column)
    rows: NDArray[np.bool_] = fit.updated
    predicted: Floats = getattr(fit, law)
    frequency = record.trajectory.frequency
    return Cloud(title, fit.step, predicted[rows], observed[rows], frequency[rows], int(np.isfinite(observed).sum()))


def _decades(limits: tuple[float, float]) -> float:
    return float(np.log10(limits[1] / limits[0]))


def _panel(cloud: Cloud, *, limits: tuple[float, float], name: str, members: str) -> Markup:
    axes = square_axes(*limits)
    scatter_rows(axes, cloud.predicted, cloud.observed, cloud.frequency)
    fit = fit_points(cloud.predicted, cloud.observed)
    statements = _statements(fit, with_slope=has_slope(cloud.predicted))
    corner = (0.96, 0.46) if _upper_left_is_taken(cloud.predicted, cloud.observed, limits) else (0.04, 0.96)
    of_all = "" if fit.n == cloud.rows else f" of {cloud.rows:,}"
    _write_fit(axes, statements, corner, f"{fit.n:,}{of_all} {members}")
    axes.set(xlabel="predicted norm", ylabel="observed norm")
    description = (
        f"{cloud.law}: observed against predicted norm of {fit.n:,} {members}, log-log; {', '.join(statements)}."
    )
    return to_svg(axes, name=name, description=description)


def _statements(fit: LogLogFit, *, with_slope: bool) -> list[str]:
    line = (
        [f"least squares: slope {fixed(fit.slope, 3)}", f"r {fixed(fit.pearson_r, 3)}"] if with_slope else [_NO_SLOPE]
    )
    return [*line, f"median error {percent(fit.median_relative_error)}"]


def _upper_left_is_taken(predicted: Floats, observed: Floats, limits: tuple[float, float]) -> bool:
    """Whether points lie where the numbers would stand: predictions far below what was observed."""
    low, high = np.log(limits)
    across, up = (
        (np.log(side[(predicted > 0) & (observed > 0)]) - low) / (high - low) for side in (predicted, observed)
    )
    return bool(np.mean((across < 0.5) & (up > 0.68)) > 0.01) if len(up) else False


def _write_fit(axes: Axes, statements: list[str], corner: tuple[float, float], rows: str) -> None:
    look: dict[str, Any] = {"transform": axes.transAxes, "va": "top", "ha": "right" if corner[0] > 0.5 else "left"}
    for index, line in enumerate(statements):
        axes.text(corner[0], corner[1] - 0.065 * index, line, color=INK, fontsize=10.5, **look)
    axes.text(corner[0], corner[1] - 0.065 * len(statements), rows, color=FAINT, fontsize=9, **look)
