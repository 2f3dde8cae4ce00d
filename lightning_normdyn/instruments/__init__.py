"""Plain objects that measure embeddings step by step, with no training framework: :class:`NormObserver` drives them."""

from lightning_normdyn.instruments.fit import EquilibriumFit
from lightning_normdyn.instruments.gradient_split import GradientSplit
from lightning_normdyn.instruments.instrument import Instrument, Look
from lightning_normdyn.instruments.observer import NormObserver
from lightning_normdyn.instruments.options import NormOptions
from lightning_normdyn.instruments.output_watch import OutputWatch
from lightning_normdyn.instruments.quantities import QUANTITIES, Quantity
from lightning_normdyn.instruments.recorder import Recorder
from lightning_normdyn.instruments.table_watch import TableWatch
from lightning_normdyn.instruments.trajectory import NormTrajectory
from lightning_normdyn.instruments.verdicts.rules import RULES
from lightning_normdyn.instruments.verdicts.verdict import Rule, Verdict
from lightning_normdyn.instruments.windowed_fit import TrainingPlan

__all__ = [
    "QUANTITIES",
    "RULES",
    "EquilibriumFit",
    "GradientSplit",
    "Instrument",
    "Look",
    "NormObserver",
    "NormOptions",
    "NormTrajectory",
    "OutputWatch",
    "Quantity",
    "Recorder",
    "Rule",
    "TableWatch",
    "TrainingPlan",
    "Verdict",
]
