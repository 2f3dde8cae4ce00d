"""Norm-aware search: exact top-k, exponents of the norm, export to vector indexes, and other uses of norms."""

from lightning_normdyn.retrieval.exponent.calibration import Calibration, calibrate
from lightning_normdyn.retrieval.exponent.confounds import ConfoundReport, confound_report, explain_gain
from lightning_normdyn.retrieval.exponent.likelihood_exponent import LikelihoodExponent, likelihood_exponent
from lightning_normdyn.retrieval.exponent.model_comparison import ModelComparison, PairedChange, compare_models
from lightning_normdyn.retrieval.exponent.residual_norms import (
    length_norms,
    predicted_norms,
    rescaled,
    residual_norms,
)
from lightning_normdyn.retrieval.exponent.scoring import NormAwareScore, norm_aware_top_k
from lightning_normdyn.retrieval.exponent.sweep import AlphaSweep, sweep_alpha
from lightning_normdyn.retrieval.exponent.verdict import ScoringVerdict, scoring_verdict
from lightning_normdyn.retrieval.export.folding import export_vectors
from lightning_normdyn.retrieval.mining.hard_negatives import HardNegatives
from lightning_normdyn.retrieval.mining.miner import mine_hard_negatives
from lightning_normdyn.retrieval.mining.source import MiningSource, NegativeTable
from lightning_normdyn.retrieval.search.top_k import TopK, exact_top_k
from lightning_normdyn.retrieval.uses.abstention import (
    Abstention,
    abstention_table,
    conformal_threshold,
    recall_auroc,
)
from lightning_normdyn.retrieval.uses.clustering import Clusters, NormWeights, cluster_by_norm, norm_weights
from lightning_normdyn.retrieval.uses.clustering_comparison import (
    ClusteringComparison,
    ClusteringScore,
    compare_clusterings,
)
from lightning_normdyn.retrieval.uses.confidence import (
    Detection,
    classification_confidences,
    confidence_table,
    detection_table,
    retrieval_confidences,
)
from lightning_normdyn.retrieval.uses.expected_calibration import TemperatureComparison, compare_temperatures
from lightning_normdyn.retrieval.uses.hubness import Hubness, Popularity, hubness, k_occurrences, popularity_share
from lightning_normdyn.retrieval.uses.label_uncertainty import label_entropy, uncertainty_agreement
from lightning_normdyn.retrieval.uses.norm_filter import FilterOutcome, filter_table
from lightning_normdyn.retrieval.uses.query_bank import CrossDomainLocalScaling, QueryBankNormalization, baseline_scores
from lightning_normdyn.retrieval.uses.specificity import quantile_bands, specificity_table

__all__ = [
    "Abstention",
    "AlphaSweep",
    "Calibration",
    "ClusteringComparison",
    "ClusteringScore",
    "Clusters",
    "ConfoundReport",
    "CrossDomainLocalScaling",
    "Detection",
    "FilterOutcome",
    "HardNegatives",
    "Hubness",
    "LikelihoodExponent",
    "MiningSource",
    "ModelComparison",
    "NegativeTable",
    "NormAwareScore",
    "NormWeights",
    "PairedChange",
    "Popularity",
    "QueryBankNormalization",
    "ScoringVerdict",
    "TemperatureComparison",
    "TopK",
    "abstention_table",
    "baseline_scores",
    "calibrate",
    "classification_confidences",
    "cluster_by_norm",
    "compare_clusterings",
    "compare_models",
    "compare_temperatures",
    "confidence_table",
    "conformal_threshold",
    "confound_report",
    "detection_table",
    "exact_top_k",
    "explain_gain",
    "export_vectors",
    "filter_table",
    "hubness",
    "k_occurrences",
    "label_entropy",
    "length_norms",
    "likelihood_exponent",
    "mine_hard_negatives",
    "norm_aware_top_k",
    "norm_weights",
    "popularity_share",
    "predicted_norms",
    "quantile_bands",
    "recall_auroc",
    "rescaled",
    "residual_norms",
    "retrieval_confidences",
    "scoring_verdict",
    "specificity_table",
    "sweep_alpha",
    "uncertainty_agreement",
]
