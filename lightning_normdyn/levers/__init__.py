"""Levers on the norm: what to do about it once it has been seen."""

from lightning_normdyn.core.dynamics.gradient_scale import scale_gradient
from lightning_normdyn.core.dynamics.weight_decay import weight_decay_for
from lightning_normdyn.levers.cut import cut_init
from lightning_normdyn.levers.decay import CorrectedDecay, decay_by_frequency
from lightning_normdyn.levers.equilibrium import equilibrium_init
from lightning_normdyn.levers.norm_variance import NormVariance
from lightning_normdyn.levers.repair import repair_rows

__all__ = [
    "CorrectedDecay",
    "NormVariance",
    "cut_init",
    "decay_by_frequency",
    "equilibrium_init",
    "repair_rows",
    "scale_gradient",
    "weight_decay_for",
]
