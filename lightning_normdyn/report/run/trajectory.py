"""Norms of a table's rows, or an encoder's items, over time, and what was predicted for them, as arrays over rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lightning_normdyn.report.kit.numbers import Floats

_FIT_COLUMNS = (
    "update_probability",
    "mean_norm",
    "equilibrium_norm",
    "transient_norm",
    "forecast_norm",
    "balance_norm",
    "second_moment",
    "radial_decay",
    "drift",
)


@dataclass(frozen=True)
class Fit:
    """What one fit window said about every row; NaN where it said nothing.

    Attributes:
        step: the step at which the window closed.
        norm: observed norm at that step, ``[rows]``.
        update_probability: share of the window's steps in which the row got a gradient, ``[rows]``.
        mean_norm: observed norm averaged over the window, ``[rows]``.
        equilibrium_norm: norm that the law predicts for a run that has settled, ``[rows]``.
        transient_norm: norm predicted for ``step``, ``[rows]``.
        forecast_norm: norm forecast for the end of training, ``[rows]``.
        balance_norm: norm from the balance with its own change taken out, of an encoder's items, ``[rows]``.
        second_moment: ``V²``, ``[rows]``.
        radial_decay: ``lambda_rad`` of an encoder's items, ``[rows]``.
        drift: ``D`` of an encoder's items, ``[rows]``.
    """

    step: int
    norm: Floats
    update_probability: Floats
    mean_norm: Floats
    equilibrium_norm: Floats
    transient_norm: Floats
    forecast_norm: Floats
    balance_norm: Floats
    second_moment: Floats
    radial_decay: Floats
    drift: Floats

    @property
    def updated(self) -> NDArray[np.bool_]:
        """Which rows the logged fits go over: those that got a gradient, and all items of an encoder, ``[rows]``."""
        return ~(self.update_probability <= 0)


@dataclass(frozen=True)
class Trajectory:
    """Norms on a grid of snapshots and rows.

    Attributes:
        steps: steps of the snapshots, ``[steps]``, rising.
        rows: tracked rows of the table, ``[rows]``, rising.
        norms: NaN where a row was not recorded, ``[steps, rows]``.
        fits: fit windows, oldest first.
    """

    steps: NDArray[np.int64]
    rows: NDArray[np.int64]
    norms: NDArray[np.float32]
    fits: tuple[Fit, ...]

    @property
    def final_norm(self) -> Floats:
        """Norm at the last snapshot, ``[rows]``."""
        last = self.norms[-1] if len(self.steps) else np.empty(0, np.float32)
        return np.asarray(last, np.float64)

    @property
    def frequency(self) -> Floats:
        """Share of steps in which a row got a gradient, averaged over the fit windows that know it, ``[rows]``."""
        shares = np.stack([np.full(len(self.rows), np.nan), *(fit.update_probability for fit in self.fits)])
        has_share = np.isfinite(shares)
        total, windows = np.where(has_share, shares, 0.0).sum(axis=0), has_share.sum(axis=0)
        mean: Floats = np.divide(total, windows, out=np.full(len(self.rows), np.nan), where=windows > 0)
        return mean

    def latest_fit(self, column: str) -> Fit | None:
        """The last fit in which ``column`` has a finite entry."""
        with_column = [fit for fit in self.fits if np.isfinite(getattr(fit, column)).any()]
        return with_column[-1] if with_column else None

    def fit_nearest(self, step: float, column: str) -> Fit | None:
        """The fit closest to ``step`` among those in which ``column`` has a finite entry."""
        with_column = [fit for fit in self.fits if np.isfinite(getattr(fit, column)).any()]
        return min(with_column, key=lambda fit: abs(fit.step - step), default=None)


def read_trajectory(table: pa.Table) -> Trajectory:
    """Lays a history's trajectory out on a grid; of an entry that was written twice the later one counts.

    Args:
        table: the columns of :data:`lightning_normdyn.history.TRAJECTORY`.
    """
    columns = {name: table.column(name).to_numpy() for name in ("norm", *_FIT_COLUMNS)}
    steps, step_at = np.unique(table.column("step").to_numpy().astype(np.int64), return_inverse=True)
    rows, row_at = np.unique(table.column("row").to_numpy().astype(np.int64), return_inverse=True)
    norms = np.full((len(steps), len(rows)), np.nan, np.float32)
    norms[step_at, row_at] = columns["norm"]
    in_fit = np.isfinite(np.stack([columns[name] for name in _FIT_COLUMNS])).any(axis=0)
    fits = []
    for index in np.unique(step_at[in_fit]).tolist():
        entries = in_fit & (step_at == index)
        predictions = {name: _spread(columns[name][entries], row_at[entries], len(rows)) for name in _FIT_COLUMNS}
        fits.append(Fit(step=int(steps[index]), norm=norms[index].astype(np.float64), **predictions))
    return Trajectory(steps, rows, norms, tuple(fits))


def _spread(values: NDArray[np.float32], places: NDArray[np.intp], size: int) -> Floats:
    by_row = np.full(size, np.nan)
    by_row[places] = values
    return by_row
