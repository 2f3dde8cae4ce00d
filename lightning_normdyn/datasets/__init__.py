"""What tasks train on: small records, the readers of public formats, and sets made of the Python installation."""

from lightning_normdyn.datasets.captioned_images import CaptionedImages
from lightning_normdyn.datasets.graded_pairs import GradedPairs
from lightning_normdyn.datasets.interactions import Interactions
from lightning_normdyn.datasets.judged_texts import JudgedTexts, Texts
from lightning_normdyn.datasets.judgements import Judgements
from lightning_normdyn.datasets.knowledge_graph import KnowledgeGraph
from lightning_normdyn.datasets.labelled_images import LabelledImages
from lightning_normdyn.datasets.labelled_texts import LabelledTexts
from lightning_normdyn.datasets.problems import MalformedFileError, Problems

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
    "Problems",
    "Texts",
]
