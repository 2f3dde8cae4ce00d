"""Diagnostics of norms as torchmetrics metrics, right over any number of ranks; alone in importing torchmetrics."""

from lightning_normdyn.metrics.diagnostics import norm_diagnostics
from lightning_normdyn.metrics.fisher import FisherConditionNumber
from lightning_normdyn.metrics.moments import CoefficientOfVariation, CohensD
from lightning_normdyn.metrics.norm_correlations import NormCorrelations
from lightning_normdyn.metrics.ranking import RankingHitRate, RankingMAP, RankingMRR, RankingNDCG, RankingRecall

__all__ = [
    "CoefficientOfVariation",
    "CohensD",
    "FisherConditionNumber",
    "NormCorrelations",
    "RankingHitRate",
    "RankingMAP",
    "RankingMRR",
    "RankingNDCG",
    "RankingRecall",
    "norm_diagnostics",
]
