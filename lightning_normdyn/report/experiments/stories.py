"""Which section of the page an experiment's record becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lightning_normdyn.history.experiment import ExperimentRecord
from lightning_normdyn.report.experiments.class_imbalance import class_story
from lightning_normdyn.report.experiments.encoder_terms import encoder_story
from lightning_normdyn.report.experiments.frequency_law import frequency_story
from lightning_normdyn.report.experiments.log_plot import Story
from lightning_normdyn.report.experiments.vocabulary_norms import vocabulary_story
from lightning_normdyn.report.experiments.weight_decay_sweep import weight_decay_story

_STORIES: Mapping[str, Callable[[ExperimentRecord], Story]] = {
    "weight_decay_sweep": weight_decay_story,
    "vocabulary_norms": vocabulary_story,
    "frequency_law": frequency_story,
    "encoder_terms": encoder_story,
    "class_imbalance": class_story,
}


def tell(record: ExperimentRecord) -> Story:
    """Draws an experiment's figures and puts its story around them."""
    return _STORIES[record.name](record)
