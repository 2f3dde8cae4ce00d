"""The mathematics: pure functions and small records on torch tensors, with no framework and no I/O."""

from lightning_normdyn.core.budget import NormBudget, norm_budget
from lightning_normdyn.core.equilibrium import equilibrium_norm, forecast_norm, relaxation_steps
from lightning_normdyn.core.fit import LogLogFit, fit_log_log
from lightning_normdyn.core.geometry import RadialTangential, safe_norm, split_radial_tangential
from lightning_normdyn.core.gradient_scale import scale_gradient
from lightning_normdyn.core.moments import RowMoments
from lightning_normdyn.core.optimizers import equilibrium_rule
from lightning_normdyn.core.rates import RateTrace
from lightning_normdyn.core.rule import EquilibriumRule
from lightning_normdyn.core.similarity import NORMALIZATIONS, similarity_scores
from lightning_normdyn.core.weight_decay import weight_decay_for

__all__ = [
    "NORMALIZATIONS",
    "EquilibriumRule",
    "LogLogFit",
    "NormBudget",
    "RadialTangential",
    "RateTrace",
    "RowMoments",
    "equilibrium_norm",
    "equilibrium_rule",
    "fit_log_log",
    "forecast_norm",
    "norm_budget",
    "relaxation_steps",
    "safe_norm",
    "scale_gradient",
    "similarity_scores",
    "split_radial_tangential",
    "weight_decay_for",
]
