"""Scalars for the loggers and columns for the history, of one closed window of an encoder's balance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.balance import BalanceFit
from lightning_normdyn.core.dynamics.fit import fit_log_log
from lightning_normdyn.core.dynamics.rule import EquilibriumRule
from lightning_normdyn.instruments.base import Columns, Readings
from lightning_normdyn.instruments.forecast import fit_readings

_LEAST_RATIO = 0.01
"""Of the radial decay of an encoder over that of its weights: it is 1 or more where their length is in the vectors."""


def balance_readings(fit: BalanceFit, rule: EquilibriumRule) -> Readings:
    """Medians over the items of each term, as a share of what decay takes, and the fits.

    Without weight decay there is no equilibrium, and under Adam's coupled decay it cannot be told from the drift: then
    only ``stationarity`` is left. Where decay hardly shortens the vectors, as ahead of a last normalisation layer, how
    little it does is all there is besides: a share of what decay takes, or the time that it takes, would say nothing.

    Args:
        fit: the window.
        rule: the law of the encoder's parameter group.
    """
    readings: Readings = {"stationarity": fit.flow.stationarity}
    if not rule.decay_is_separable or rule.radial_decay <= 0:
        return readings
    ratio = _median(fit.terms.radial_decay) / rule.radial_decay
    readings |= {
        "radial_decay": _median(fit.terms.radial_decay),
        "radial_decay_ratio": ratio,
        "radial_decay_stderr": _median(fit.radial_decay_stderr / fit.terms.radial_decay.abs()),
    }
    if float(ratio.abs()) < _LEAST_RATIO:
        return readings
    per_decay = fit.flow.decay.where(fit.flow.decay > 0, torch.nan)
    return readings | {
        "drift_share": _median(fit.flow.push / per_decay),
        "drift_share_stderr": _median(2 * fit.flow.lr * fit.drift_stderr / per_decay),
        "growth_share": _median(fit.flow.growth / per_decay),
        "growth_share_stderr": _median(fit.growth_stderr / per_decay),
        **fit_readings("equilibrium", fit_log_log(fit.equilibria.full, fit.mean_norm), fit.equilibria.full),
        **fit_readings("balance", fit_log_log(fit.equilibria.balance, fit.mean_norm), fit.equilibria.balance),
        "variance_median_error": _error(fit.equilibria.variance, fit.mean_norm),
        "drift_median_error": _error(fit.equilibria.drift, fit.mean_norm),
        "relaxation_steps": _relaxation_steps(fit),
    }


def balance_columns(fit: BalanceFit) -> Columns:
    """One value for each item."""
    return {
        "norm": fit.norm,
        "mean_norm": fit.mean_norm,
        "second_moment": fit.terms.second_moment,
        "radial_decay": fit.terms.radial_decay,
        "radial_decay_stderr": fit.radial_decay_stderr,
        "drift": fit.terms.drift,
        "drift_stderr": fit.drift_stderr,
        "growth": fit.flow.growth,
        "growth_stderr": fit.growth_stderr,
        "angular_update": fit.angular_update,
        "equilibrium_norm": fit.equilibria.full,
        "variance_norm": fit.equilibria.variance,
        "drift_norm": fit.equilibria.drift,
        "balance_norm": fit.equilibria.balance,
    }


def _relaxation_steps(fit: BalanceFit) -> Tensor | float:
    """``1/[2·lr·lambda_rad·(1 - q)]``: decay pulls with ``R²``, what balances it goes as ``R^2q``."""
    if not fit.flow.lr:
        return math.nan
    return _median(1 / (2 * fit.flow.lr * fit.terms.radial_decay * (1 - fit.terms.growth_power)))


def _median(values: Tensor) -> Tensor:
    return values.where(values.isfinite(), torch.nan).nanmedian()


def _error(predicted: Tensor, observed: Tensor) -> float:
    return fit_log_log(predicted, observed).median_relative_error
