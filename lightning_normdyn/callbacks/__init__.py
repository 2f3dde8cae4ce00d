"""Lightning callbacks: add one to a trainer and read the logged fit."""

from lightning_normdyn.callbacks.dynamics import (
    EquilibriumFitMonitor,
    GradientSplitMonitor,
    NormDynamics,
    NormTrajectoryMonitor,
)
from lightning_normdyn.callbacks.hard_negative_mining import HardNegativeMining
from lightning_normdyn.callbacks.step_time import StepTime

__all__ = [
    "EquilibriumFitMonitor",
    "GradientSplitMonitor",
    "HardNegativeMining",
    "NormDynamics",
    "NormTrajectoryMonitor",
    "StepTime",
]
