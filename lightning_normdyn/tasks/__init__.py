"""Example tasks: data modules and Lightning modules whose norms are worth watching."""

from lightning_normdyn.tasks.kg import KnowledgeGraphCompletion, KnowledgeGraphData
from lightning_normdyn.tasks.recsys import Recommendation, RecommendationData
from lightning_normdyn.tasks.retrieval import Retrieval, RetrievalData
from lightning_normdyn.tasks.token_contrast import TokenContrast
from lightning_normdyn.tasks.token_pairs import TokenPairs

__all__ = [
    "KnowledgeGraphCompletion",
    "KnowledgeGraphData",
    "Recommendation",
    "RecommendationData",
    "Retrieval",
    "RetrievalData",
    "TokenContrast",
    "TokenPairs",
]
