"""Lightning callbacks: add one to a trainer and read the logged fit."""

from lightning_normdyn.callbacks.dynamics import (
    EquilibriumFitMonitor,
    GradientSplitMonitor,
    NormDynamics,
    NormTrajectoryMonitor,
)

__all__ = ["EquilibriumFitMonitor", "GradientSplitMonitor", "NormDynamics", "NormTrajectoryMonitor"]
