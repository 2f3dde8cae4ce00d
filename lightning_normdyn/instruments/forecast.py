"""A forecast of norms, and how well it did beside 'stays as it is'."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.fit import LogLogFit, fit_log_log
from lightning_normdyn.core.geometry import most_precise

_ARRIVED = 0.02


def check_forecast_at(share: float) -> float:
    """Refuses what is no share of a run."""
    if not isinstance(share, float) or not 0 < share < 1:
        raise ValueError(f"forecast_at: expected a share of the run between 0 and 1, got {share!r}")
    return share


class Judgement(NamedTuple):
    """How a forecast came out.

    Attributes:
        fit: observed on forecast norms.
        persistence_error: median relative error of 'stays as it is'.
        skill: ``1 - error / persistence_error``; NaN where nothing moved.
    """

    fit: LogLogFit
    persistence_error: float
    skill: float


class Forecast(NamedTuple):
    """Norms that were predicted for a step to come.

    Attributes:
        due: the step they were predicted for, skipped ones counted.
        norms: the prediction, ``[rows]``; NaN for rows of which nothing was known.
        stays: the norms when it was made, which is what 'stays as it is' predicts, ``[rows]``.
    """

    due: int
    norms: Tensor
    stays: Tensor

    def has_come_due(self, step: int) -> bool:
        """Whether a run that ended at this step ended where it was forecast to, give or take 2%."""
        return abs(step - self.due) <= _ARRIVED * self.due

    def judge(self, observed: Tensor) -> Judgement:
        """Fit, errors and skill against the norms that came, ``[rows]``, over the rows that were forecast."""
        fit = fit_log_log(self.norms, most_precise(observed))
        stays = self.stays.where(self.norms.isfinite(), torch.nan)
        persistence = fit_log_log(stays, most_precise(observed)).median_relative_error
        skill = 1 - fit.median_relative_error / persistence if persistence > 0 else math.nan
        return Judgement(fit, persistence, skill)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers, for a checkpoint."""
        return self._asdict()

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], device: torch.device) -> Forecast:
        """Takes back what :meth:`state_dict` gave."""
        return cls(state["due"], state["norms"].to(device), state["stays"].to(device))
