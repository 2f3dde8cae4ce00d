"""Example tasks: data modules and Lightning modules whose norms are worth watching."""

from lightning_normdyn.tasks.clip import ImageText, ImageTextData
from lightning_normdyn.tasks.fewshot import FewShot, FewShotData
from lightning_normdyn.tasks.kg import KnowledgeGraphCompletion, KnowledgeGraphData
from lightning_normdyn.tasks.retrieval import Retrieval, RetrievalData
from lightning_normdyn.tasks.token_contrast import TokenContrast
from lightning_normdyn.tasks.token_pairs import TokenPairs

__all__ = [
    "FewShot",
    "FewShotData",
    "ImageText",
    "ImageTextData",
    "KnowledgeGraphCompletion",
    "KnowledgeGraphData",
    "Retrieval",
    "RetrievalData",
    "TokenContrast",
    "TokenPairs",
]
