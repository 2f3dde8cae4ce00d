"""Lightning callbacks: add one to a trainer and read the logged fit."""

from lightning_normdyn.callbacks.dynamics import NormDynamics
from lightning_normdyn.callbacks.fit import EquilibriumFitMonitor
from lightning_normdyn.callbacks.split import GradientSplitMonitor
from lightning_normdyn.callbacks.trajectory import NormTrajectoryMonitor

__all__ = ["EquilibriumFitMonitor", "GradientSplitMonitor", "NormDynamics", "NormTrajectoryMonitor"]
