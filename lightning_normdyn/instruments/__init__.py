"""Plain objects that measure embeddings step by step, with no training framework: :class:`NormObserver` drives them."""

from lightning_normdyn.instruments.fit import EquilibriumFit, TrainingPlan
from lightning_normdyn.instruments.observer import NormObserver
from lightning_normdyn.instruments.output_watch import OutputWatch
from lightning_normdyn.instruments.recorder import Recorder
from lightning_normdyn.instruments.split import GradientSplit
from lightning_normdyn.instruments.table_watch import TableWatch
from lightning_normdyn.instruments.trajectory import NormTrajectory

__all__ = [
    "EquilibriumFit",
    "GradientSplit",
    "NormObserver",
    "NormTrajectory",
    "OutputWatch",
    "Recorder",
    "TableWatch",
    "TrainingPlan",
]
