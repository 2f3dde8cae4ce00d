"""Example tasks: data modules and Lightning modules whose norms are worth watching."""

from lightning_normdyn.tasks.clip.clip import ImageText, ImageTextData
from lightning_normdyn.tasks.contrast.contrast_data import ContrastData, TrainingPair
from lightning_normdyn.tasks.contrast.contrastive_task import ContrastiveTask
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.contrast.evaluation_split import EvaluationSplit
from lightning_normdyn.tasks.contrast.symmetry import FunctionalSymmetry
from lightning_normdyn.tasks.contrast.text_contrast import TextContrast
from lightning_normdyn.tasks.fewshot.fewshot import FewShot, FewShotData
from lightning_normdyn.tasks.grid.starting_point import StartingPoint
from lightning_normdyn.tasks.kg.kg import KnowledgeGraphCompletion, KnowledgeGraphData
from lightning_normdyn.tasks.recsys.recsys import Recommendation, RecommendationData
from lightning_normdyn.tasks.retrieval.rag import Rag, RagData
from lightning_normdyn.tasks.retrieval.retrieval import Retrieval, RetrievalData
from lightning_normdyn.tasks.sts import Sts, StsData
from lightning_normdyn.tasks.tokens.token_contrast import TokenContrast
from lightning_normdyn.tasks.tokens.token_pairs import TokenPairs

__all__ = [
    "ContrastData",
    "ContrastiveTask",
    "Encoded",
    "EvaluationSplit",
    "FewShot",
    "FewShotData",
    "FunctionalSymmetry",
    "ImageText",
    "ImageTextData",
    "KnowledgeGraphCompletion",
    "KnowledgeGraphData",
    "Rag",
    "RagData",
    "Recommendation",
    "RecommendationData",
    "Retrieval",
    "RetrievalData",
    "StartingPoint",
    "Sts",
    "StsData",
    "TextContrast",
    "TokenContrast",
    "TokenPairs",
    "TrainingPair",
]
