"""For `normdyn reproduce` alone: the experiments of published figures, minutes each on two cores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from lightning_normdyn.history.experiment import ExperimentRecord
from lightning_normdyn.tasks.experiments.class_imbalance import class_imbalance
from lightning_normdyn.tasks.experiments.encoder_terms import encoder_terms
from lightning_normdyn.tasks.experiments.frequency_law import frequency_law
from lightning_normdyn.tasks.experiments.vocabulary_norms import vocabulary_norms
from lightning_normdyn.tasks.experiments.weight_decay_sweep import weight_decay_sweep


class Experiment(NamedTuple):
    """An experiment and how much of it is run.

    Attributes:
        run: takes ``seed`` and numbers of steps.
        quick: numbers of steps that show that it works; the defaults of ``run`` show what it finds.
    """

    run: Callable[..., ExperimentRecord]
    quick: Mapping[str, int]


EXPERIMENTS: dict[str, Experiment] = {
    "weight_decay_sweep": Experiment(weight_decay_sweep, {"steps": 150}),
    "vocabulary_norms": Experiment(vocabulary_norms, {"steps": 400}),
    "frequency_law": Experiment(frequency_law, {"steps": 1200}),
    "encoder_terms": Experiment(encoder_terms, {"steps": 300}),
    "class_imbalance": Experiment(class_imbalance, {"steps": 500, "encoder_steps": 100}),
}
"""By name, in the order of the page."""

__all__ = ["EXPERIMENTS", "Experiment"]
