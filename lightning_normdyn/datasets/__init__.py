"""Data sets: records that tasks take, readers of public formats, and sets made of the Python installation (lazy)."""

from lightning_normdyn.datasets.judgements import Judgements
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.records import (
    CaptionedImages,
    GradedPairs,
    Interactions,
    JudgedTexts,
    KnowledgeGraph,
    LabelledImages,
    LabelledTexts,
    MinedRow,
    Texts,
)

__all__ = [
    "CaptionedImages",
    "GradedPairs",
    "Interactions",
    "JudgedTexts",
    "Judgements",
    "KnowledgeGraph",
    "LabelledImages",
    "LabelledTexts",
    "MalformedFileError",
    "MinedRow",
    "Problems",
    "Texts",
]
