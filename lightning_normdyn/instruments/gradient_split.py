"""The radial and tangential parts of a table's gradient and update, and the budget of its squared norms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_normdyn.capture.fused_step import FusedStep
from lightning_normdyn.capture.table import TableStep
from lightning_normdyn.core.dynamics.budget import NormBudget, UpdateSums
from lightning_normdyn.core.dynamics.rule import EquilibriumRule
from lightning_normdyn.instruments.base import CadencedInstrument, Need, Readings

_ZERO = 1e-12


class GradientSplit(CadencedInstrument):
    """Splits the gradient of the touched rows and the update of the tracked ones.

    Args:
        every_n_steps: cadence, in optimizer steps.
        rule: gives the law of the table's parameter group at its present hyper-parameters.
    """

    def __init__(self, every_n_steps: int, rule: Callable[[], EquilibriumRule]) -> None:
        super().__init__(every_n_steps)
        self._rule = rule

    def need(self, step: int) -> Need:
        """The step in full, on the cadence."""
        return Need.TOUCHED | Need.TRACKED if self.is_due(step) else Need.NOTHING

    def observe(self, step: int, table_step: TableStep) -> None:
        """Measures one step."""
        rule = self._rule()
        rate = table_step.lr * rule.lr_gain
        decay_rate = rate * rule.radial_decay if rule.decay_is_separable else None
        self._readings = {
            **_split_gradient(table_step, rate),
            **({"gradient_error": table_step.gradient_error} if isinstance(table_step, FusedStep) else {}),
            **split_update(table_step.update_sums, decay_rate, has_law=rule.family is not None),
        }


def _split_gradient(table_step: TableStep, rate: float) -> Readings:
    """Norm of the table's gradient before clipping, what clipping left of it, its radial share and its rate of turning.

    A row that is named twice counts once, and one whose gradient is zero not at all: however the touched rows were
    found, the numbers are the same.
    """
    norm, length, products = map(table_step.once_a_row, table_step.reading)
    radial = (products / norm).where(norm > 0, 0)
    turning = norm.pow(-2)
    turns = (length > 0) & (turning < torch.inf)
    return {
        "gradient_norm": table_step.raw_gradient_norm,
        "clip_ratio": table_step.gradient_norm / table_step.raw_gradient_norm,
        "radial_fraction": (radial.square().nansum() / length.square().nansum()).sqrt(),
        "effective_lr": rate * turning.where(turns, 0).nansum() / turns.sum(),
    }


def split_update(sums: UpdateSums, decay_rate: Tensor | float | None, *, has_law: bool = True) -> Readings:
    """What a step did to vectors: the terms of the budget relative to R², and how far they turned.

    Args:
        sums: of the vectors before and after it, ``[n]`` each.
        decay_rate: share of each vector that weight decay took, ``[n]`` or one number; ``None`` where it is part of
            the drift.
        has_law: whether it is known how the optimizer decays; elsewhere decay and drift are left out.
    """
    squared, drift = sums.before, 2 * sums.product
    if decay_rate is None:
        decay = torch.zeros_like(squared)
    else:  # it took the same share of every row: -decay_rate·x
        decay = -2 * decay_rate * squared
        drift = drift - decay
    budget = NormBudget(decay, drift, sums.growth, sums.after - squared)
    turn, angle = _turn(squared, budget)
    readings = {**turn, **_means(squared, budget, angle)}
    unknown = () if has_law else ("budget_decay", "budget_drift")
    return {name: value for name, value in readings.items() if name not in unknown}


def _turn(squared: Tensor, budget: NormBudget) -> tuple[Readings, Tensor]:
    """Radial share of the applied update, and the angle in radians by which it turned each row, NaN for none."""
    norm = squared.sqrt()
    has_norm = norm > 0
    radial = ((budget.decay + budget.drift) / (2 * norm)).where(has_norm, 0)
    radial_square = radial.square()
    across = (budget.growth - radial_square).clamp_(min=0).sqrt_()
    has_directions = has_norm & (squared + budget.total > _ZERO * squared)
    angle = torch.atan2(across, norm + radial).where(has_directions, torch.nan)
    return {"update_radial_fraction": (radial_square.nansum() / budget.growth.nansum()).sqrt()}, angle


def _means(squared: Tensor, budget: NormBudget, angle: Tensor) -> Readings:
    """RMS angle of the rows, mean over them of each term of the budget relative to R², and the largest residual."""
    residual = budget.residual / squared
    terms = torch.stack((angle.square(), budget.decay / squared, budget.drift / squared, budget.growth / squared))
    square, decay, drift, growth = finite_mean(terms)
    return {
        "angular_update": square.sqrt(),
        "budget_decay": decay,
        "budget_drift": drift,
        "budget_growth": growth,
        "budget_residual": residual.abs().nan_to_num(0, 0, 0).max(),
    }


def finite_mean(values: Tensor) -> Tensor:
    """Mean along the last dimension of rows that have a value: zero vectors and diverged rows have none."""
    is_finite = values.abs() < torch.inf
    return values.where(is_finite, 0).sum(-1) / is_finite.sum(-1)
